"""What a generated task is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task whose problems are made, not loaded; `--data` takes the name of its file.

    rows: makes all problems in the MATH schema, the same ones each time.
    instruction: added to every problem; "" where the problem says all.
    examples: worked problems, as chat messages, before each problem.
    help: one line.
    """

    rows: Callable[[], list[dict[str, str]]]
    instruction: str = ""
    examples: Sequence[dict[str, str]] = ()
    help: str = ""
