"""Settings of all tests: the same examples everywhere, no network, one thread a process."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may reach for the network
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two spinning processes on two cores are far slower than one thread each

from hypothesis import settings

# torch's slow first call is no failure.
settings.register_profile("apo_edu", deadline=None, derandomize=True, database=None)
settings.load_profile("apo_edu")
