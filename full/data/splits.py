"""Which problems are held out: by a hash of the problem's text, whatever the order, the seed or the other rows."""

import hashlib
from collections.abc import Sequence

from full.errors import UserError

HELD_OUT = 10  # one problem in ten of an unsplit source is held out


def require_held_out(train: Sequence[str], held_out: Sequence[str], *, source: str) -> None:
    """Raise unless no held-out problem is among the training problems; by the hash of their texts.

    Raises:
        UserError: says how many there are, with an example.
    """
    known = {problem_hash(problem) for problem in held_out}
    shared = [problem for problem in train if problem_hash(problem) in known]
    if shared:
        raise UserError(
            f"{source}: {len(shared)} problems are in both splits, e.g. {shared[0][:60]!r}; a held-out score would be "
            "worthless. Remove them from one."
        )


def problem_hash(problem: str) -> str:
    """Identity of a problem: the hash of its text with white space folded."""
    return hashlib.sha256(" ".join(problem.split()).encode()).hexdigest()


def is_held_out(problem: str) -> bool:
    """Whether an unsplit source's problem belongs to the test split."""
    return int(problem_hash(problem)[:8], 16) % HELD_OUT == 0
