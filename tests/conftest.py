"""Properties are tried on the same examples everywhere, and torch's slow first call is no failure."""

from hypothesis import settings

settings.register_profile("apo_edu", deadline=None, derandomize=True, database=None)
settings.load_profile("apo_edu")
