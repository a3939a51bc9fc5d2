"""A "write it" exercise of a lesson: an assignment's exercise with a hint, in reach of its solution, and without marks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..model import Check, Exercise


@dataclass(frozen=True, kw_only=True)
class WriteIt(Exercise):
    """A function of three to ten lines, written in a lesson. Its solution lies folded beside it.

    Args:
        hint: the idea without the line (Markdown), folded.
        after: one sentence that the right answer has earned: what it shows.
        also_right: at least two right answers in other styles (looped, numpy, another formula); the tests use them.
    """

    hint: str
    after: str
    also_right: tuple[Callable[..., Any], ...]
    closed: tuple[str, ...] = ("apo_edu", "toys")


def check(name: str, title: str, cases: Any, **rest: Any) -> Check:
    """A check of a lesson: as an assignment's, and nothing is counted."""
    return Check(name=name, title=title, cases=cases, points=1, **rest)
