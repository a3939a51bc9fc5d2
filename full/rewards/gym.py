"""Scores of reasoning-gym's tasks: which of them may be scored here, and how (its worker process runs `score`).

A scorer gets the model's text, and nine of reasoning-gym's execute it (eval, or sympy's parse_expr, which evals). So there
is a list of what may run. A task without a scorer of its own is judged by `accuracy`: its base scorer gives "10" half a
point where the answer is "1". The scorers on the list are reasoning-gym's own, with their holes closed: "nan" is a right
answer of its complex_arithmetic, and a right answer with anything behind it is nearly one of four others.
"""

import functools
import json
import re
from typing import Any

# Read one by one (reasoning-gym 0.1.25): graded, and only compare strings, parse numbers or JSON.
SCORED = (
    "complex_arithmetic", "game_of_life", "letter_jumble", "mini_sudoku", "rectangle_count", "sentence_reordering",
    "spell_backward", "word_sorting",
)  # fmt: skip


EXECUTES = (
    "binary_matrix", "countdown", "intermediate_integration", "n_queens", "polynomial_multiplication", "puzzle24",
    "simple_integration", "spiral_matrix", "string_insertion",
)  # fmt: skip


# What a wrong answer can get at most; what the scorers give an answer that only begins or ends rightly.
NEARLY = 0.9


MAX_CHARACTERS = 4000


# The worker asks this once before its first question, so that imports are no part of an answer's time.
EXAMPLE = (json.dumps({"name": "spell_backward", "answer": "nus", "metadata": {}}), "nus")


def score(entry: str, given: str) -> float:
    """The score, in [0, 1], of what a completion's last box holds; 1.0 for a right answer alone.

    Args:
        entry: name, answer and metadata of the problem, as JSON (full/data/gym.py).
        given: the content of the box.
    """
    problem = json.loads(entry)
    if not isinstance(problem, dict) or problem.get("name") not in SCORED or len(given) > MAX_CHARACTERS:
        return 0.0
    name, right = problem["name"], problem["answer"]
    wrapped = re.fullmatch(r"\\(?:text|mathrm|texttt)\s*\{(.*)\}", given.strip(), re.DOTALL)
    given = wrapped[1] if wrapped else given.strip()
    if name == "complex_arithmetic" and re.search(r"nan|inf", given, re.IGNORECASE):
        return 0.0
    try:
        value = float(_scorer(name)(given, problem))
    except (
        KeyError,
        IndexError,
        TypeError,
        ValueError,
        RecursionError,
    ):  # theirs, on text that is not what they expect
        return 0.0
    by_number = name in ("complex_arithmetic", "rectangle_count")  # where other texts can be the same answer
    best = 1.0 if by_number or _folded(given) == _folded(right) else NEARLY
    return min(max(value, 0.0), best) if value == value else 0.0


@functools.cache
def _scorer(name: str) -> Any:
    from reasoning_gym.factory import get_score_answer_fn

    return get_score_answer_fn(name)


def _folded(text: str) -> str:
    """A text without white space and case, which the scorers do not mind."""
    return "".join(text.split()).casefold()
