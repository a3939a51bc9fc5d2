"""The paper's claims and open questions, run, explained and judged: `python -m toys.experiments`.

One file is one experiment; `experiment` says what it has. Results go to notebooks/results/.
"""

import importlib
import pkgutil

from .experiment import Experiment

MACHINERY = ("__main__", "claims", "experiment", "rules", "show", "sweeps", "table")


def load() -> dict[str, Experiment]:
    """All experiments by name, in the order of their numbers."""
    names = [module.name for module in pkgutil.iter_modules(__path__) if module.name not in MACHINERY]
    found = [importlib.import_module(f"{__name__}.{name}").EXPERIMENT for name in names]
    return {experiment.name: experiment for experiment in sorted(found, key=lambda experiment: experiment.number)}
