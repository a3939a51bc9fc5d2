"""One test an item, for CI, Classroom 50 and self-learners: `test_item = items("a1.ipynb")` in a file that pytest collects."""

import functools
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

from .catalogue import load
from .grading import Result, Submission, grade
from .model import Written


def items(notebook: str | Path) -> Callable[[str], None]:
    """A test function with one case an item of the notebook's assignment; the notebook is run once, isolated."""
    path = Path(notebook)
    facts = nbformat.read(path, as_version=4).metadata["apo_edu"]
    assignment = load(facts["assignment"])
    names = [f"{part.name}.{check.name}" for part in assignment.exercises for check in part.checks]
    names += [part.name for part in assignment.items if isinstance(part, Written)]

    @functools.cache
    def result() -> Result:
        return grade(assignment, Submission("", path), variant=facts["variant"])

    @pytest.mark.parametrize("item", names)
    def test_item(item: str) -> None:
        mark = next(mark for mark in result().items if mark.name == item)
        if mark.score is None:
            pytest.skip("marked by hand")
        if mark.score < mark.max_score:
            pytest.fail(f"{mark.score:g} of {mark.max_score:g} points. {mark.output}", pytrace=False)

    return test_item
