"""Readers of the hospital's own data, one file per kind of source. Read-only."""
