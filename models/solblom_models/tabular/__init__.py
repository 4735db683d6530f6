"""Tables: one row per patient, a target that is yes or no."""
