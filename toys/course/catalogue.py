"""Which assignments there are, by name."""

import importlib

from .model import Assignment

ASSIGNMENTS = ("a1", "a2", "a3")


def load(name: str) -> Assignment:
    """The assignment of this name."""
    if name not in ASSIGNMENTS:
        raise ValueError(f"assignment is {name!r}; expected one of {', '.join(ASSIGNMENTS)}.")
    return importlib.import_module(f"{__package__}.{name}").assignment
