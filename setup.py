"""Only what pyproject.toml cannot say: the commands of the trainer exist in a checkout, and not in a wheel of the core."""

import sys

from setuptools import setup

COMMANDS = [
    "apo-train = full.train:run_and_report",
    "apo-eval = full.eval:run_and_report",
    "apo-compare = full.compare:run_and_report",
    "apo-page = full.page:main",
    "apo-sweep = full.sweep:run_and_report",
    "apo-toys = toys.__main__:main",
]

# `pip install -e .` asks for "editable_wheel", everything else for a wheel that others install.
setup(entry_points={"console_scripts": COMMANDS if "editable_wheel" in sys.argv else []})
