"""What a difference between evaluations or runs supports."""

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from apo_edu import LIMITS
from apo_edu.statistics import t_quantile
from full.evaluation import standard_error


def moved(before: Mapping[str, Any], after: Mapping[str, Any], key: str) -> tuple[float, float, int]:
    """(gain, its standard error, direction) of an accuracy; the direction is 0 within LIMITS.gain standard errors."""
    gain, error = after[key] - before[key], math.hypot(before[f"{key}_se"], after[f"{key}_se"])
    return gain, error, 0 if abs(gain) <= LIMITS.gain * error else int(math.copysign(1, gain))


def verdict(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What the difference between two evaluations supports, in sentences: noise, sharpening or more."""
    tries = max([int(key[5:]) for key in before if re.fullmatch(r"pass@\d+", key) and key in after], default=1)
    labels = {"pass@1": "sampled pass@1", "greedy": "greedy accuracy"}
    labels |= {f"pass@{tries}": f"accuracy within {tries} tries"} if tries > 1 else {}
    moves = {key: moved(before, after, key) for key in labels}
    sentences = []
    for key, (gain, error, direction) in moves.items():
        word = {0: "moved", 1: "rose", -1: "fell"}[direction]
        means = "more than noise" if direction else "within noise, so neither a gain nor a loss is shown"
        sentences.append(
            f"{labels[key].capitalize()} {word} by {gain:+.3f} ± {error:.3f}: {means} ({LIMITS.gain:g} standard errors)."
        )
    (sampled, sampled_error, direction), (greedy, greedy_error, _) = moves["pass@1"], moves["greedy"]
    others = [label for key, label in labels.items() if key != "pass@1" and moves[key][2] > 0]
    if direction > 0 and not others:
        sentences.append(
            "This is sharpening: sampling came closer to what the policy could do already, and no new ability is shown."
        )
    elif direction > 0:
        sentences.append(f"{' and '.join(others).capitalize()} rose too, which sharpening alone would hardly explain.")
    if direction > 0 and others and sampled - greedy > LIMITS.gain * math.hypot(sampled_error, greedy_error):
        sentences.append(
            f"Still, {sampled - greedy:.3f} of the sampled gain is above the greedy one: that part sharpens."
        )
    return sentences


def t_interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    """95 % interval of the mean of a few independent values (Student's t); none for a single one.

    A bootstrap of three seeds would be far too narrow.
    """
    if len(values) < 2:
        return None, None
    half = t_quantile(len(values) - 1) * standard_error(values)
    middle = statistics.fmean(values)
    return middle - half, middle + half
