"""Settings of all tests."""

from hypothesis import settings

# No example has a time limit: on a busy machine it would fail for being slow. A test that hangs is
# ended by pytest's own timeout.
settings.register_profile("rafter", deadline=None)
settings.load_profile("rafter")
