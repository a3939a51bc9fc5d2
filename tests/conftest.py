"""Settings of all tests: the same examples everywhere, no network, no GPU, one thread a process."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may reach for the network
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two spinning processes on two cores are far slower than one thread each

import pytest
from hypothesis import settings

# torch's slow first call is no failure.
settings.register_profile("apo_edu", deadline=None, derandomize=True, database=None)
settings.load_profile("apo_edu")


def pytest_configure(config):
    """Hide GPUs, so that a test computes the same on every machine; `-m gpu` shows them. Before anything loads torch."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(config, items):
    """Tests marked gpu run where `-m gpu` asks for them and there is one."""
    reason = "hidden: run `pytest -m gpu`" if config.option.markexpr != "gpu" else "no GPU that torch can use"
    import torch

    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason=reason))
