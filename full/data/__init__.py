"""What is asked: problems from the hub, a file or a generated task; what is held out; in which order."""

from full.data.order import ProblemOrder
from full.data.sources import INSTRUCTION, load_problems, load_splits
from full.data.splits import is_held_out, problem_hash, require_held_out

__all__ = [
    "INSTRUCTION",
    "ProblemOrder",
    "is_held_out",
    "load_problems",
    "load_splits",
    "problem_hash",
    "require_held_out",
]
