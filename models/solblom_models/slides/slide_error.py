"""What is said of a slide that cannot be used."""


class SlideError(Exception):
    """A slide cannot be used; the text says why, and names nothing of it."""
