"""Models that came out: released, numbered, promoted, withdrawn."""
