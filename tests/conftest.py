"""Settings of all tests."""

from hypothesis import settings

# Time limits on single examples fail on a busy machine, and examples must be the same on every one.
settings.register_profile("sensorium", deadline=None, derandomize=True, database=None)
settings.load_profile("sensorium")
