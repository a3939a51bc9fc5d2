"""Rewards with partial credit for answers that are numbers: graded, where `accuracy` is right or wrong.

With two-valued rewards and one update alpha cannot turn a prompt's gradient, only change its length; with these it can
(the group's advantages take more than two values). Both are ours, not the paper's.
"""

import math
import re
from collections.abc import Callable, Sequence
from fractions import Fraction

from full.rewards.answers import final_answer

# Capped, since a model's text is evaluated: Fraction("1e999999999") would not end.
NUMBER = re.compile(r"[+-]?\d{1,40}(\.\d{1,40}|/\d{1,40})?")


def digits(completion: str, answer: str | Sequence[str]) -> float:
    r"""Share of right digits of a whole number, in [0, 1]; 1.0 for the right number alone.

    Digits are compared from the units on, over the length of the longer number: for 85 the answers 85, 75, 5, 185 and 58
    get 1, 1/2, 1/2, 2/3 and 0. Another sign, or no whole number in the last box, is 0.

    Args:
        completion: the model's text.
        answer: the right number, or several that are accepted; the best counts.

    Raises:
        ValueError: an answer that is no whole number.
    """
    return _best(_share_of_digits, completion, answer, whole=True)


def closeness(completion: str, answer: str | Sequence[str]) -> float:
    r"""`exp(-|error|)` of a number, in [0, 1]; 1.0 for the right number, 0.37 beside it, 0.0 without a number in the last box.

    Args:
        completion: the model's text.
        answer: the right number (12, 0.5 or 1/2), or several that are accepted; the best counts.

    Raises:
        ValueError: an answer that is no number.
    """
    return _best(lambda given, gold: math.exp(-min(float(abs(given - gold)), 1e3)), completion, answer, whole=False)


def _best(
    score: Callable[[Fraction, Fraction], float], completion: str, answer: str | Sequence[str], *, whole: bool
) -> float:
    accepted = [_number(text, whole=whole) for text in ([answer] if isinstance(answer, str) else answer)]
    if None in accepted or not accepted:
        kind = "a whole number" if whole else "a number (12, 0.5 or 1/2)"
        raise ValueError(f"the right answer is {answer!r}; expected {kind}. Use --reward accuracy for other answers.")
    given = _number(final_answer(completion) or "", whole=whole)
    return 0.0 if given is None else max(score(given, gold) for gold in accepted if gold is not None)


def _number(text: str, *, whole: bool) -> Fraction | None:
    bare = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text.replace("$", "").strip())
    try:
        number = Fraction(bare) if NUMBER.fullmatch(bare) else None
    except ZeroDivisionError:
        return None
    return None if number is not None and whole and number.denominator != 1 else number


def _share_of_digits(given: Fraction, gold: Fraction) -> float:
    if given * gold < 0:
        return 0.0
    one, other = (str(abs(number.numerator))[::-1] for number in (given, gold))
    return sum(a == b for a, b in zip(one, other, strict=False)) / max(len(one), len(other))
