"""Properties are tried on the same examples each time, and a busy machine is no failure."""

from hypothesis import settings

settings.register_profile("solblom", derandomize=True, deadline=None)
settings.load_profile("solblom")
