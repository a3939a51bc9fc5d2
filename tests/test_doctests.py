"""Every public function and class of the core has a runnable example, and the examples are right."""

import doctest
import importlib
import inspect
import pkgutil

import pytest

import apo_edu

MODULES = [importlib.import_module(f"apo_edu.{module.name}") for module in pkgutil.iter_modules(apo_edu.__path__)]
# What checks the core's input, and what its registries share, is called by the core alone.
INTERNAL = {"validation", "records"}


def public(module):
    """Functions and classes that a module defines under a name of its own."""
    for name, value in vars(module).items():
        defined_here = getattr(value, "__module__", None) == module.__name__
        if not name.startswith("_") and defined_here and (inspect.isfunction(value) or inspect.isclass(value)):
            yield name, value


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_the_examples_are_right(module):
    assert doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE).failed == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param(name, value, id=f"{module.__name__}.{name}")
        for module in MODULES
        if module.__name__.split(".")[-1] not in INTERNAL
        for name, value in public(module)
    ],
)
def test_everything_public_has_an_example(name, value):
    assert doctest.DocTestFinder(recurse=False).find(value, name)[0].examples, f"{name} has no >>> example"
