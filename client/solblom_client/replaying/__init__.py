"""A round worked on again inside the hospital, and a verdict on the noise in it."""
