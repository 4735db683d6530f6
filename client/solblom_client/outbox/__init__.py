"""Answers that wait for a person, and the statement of what has left this hospital."""
