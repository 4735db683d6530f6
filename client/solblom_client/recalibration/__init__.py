"""A model fitted to this hospital's own patients; nothing of it leaves."""
