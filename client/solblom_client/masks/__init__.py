"""This node in a secure sum: its masks, its share of the noise, and what it must remember and forget."""
