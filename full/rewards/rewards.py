"""Rewards: verified answers, format and repetition, and your own functions by module:function.

Pure strings in, floats out; nothing here imports torch. Answers are compared by math-verify in worker processes with a
hard limit of time and memory, because a model's text can make any symbolic comparison run for ever.
"""

import atexit
import importlib
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from full.errors import RewardError
from full.rewards.answers import _quick_verdict, last_boxed
from full.rewards.graded import closeness, digits
from full.rewards.pool import Verifier

RewardFunction = Callable[[list[Any], list[str], list[Mapping[str, Any]]], Sequence[float]]


def accuracy(completion: str, answer: str) -> float:
    r"""1.0 if the last \boxed{} of the completion equals the answer, else 0.0.

    Never raises and never hangs: what cannot be decided within the hard limit (5 seconds) counts as wrong.

    Args:
        completion: the model's text; without a complete \boxed{} it is wrong.
        answer: the gold answer, or a gold solution whose last box holds it.
    """
    return accuracies([completion], [answer])[0]


def accuracies(completions: Sequence[str], answers: Sequence[str], verifier: Verifier | None = None) -> list[float]:
    """`accuracy` of many completions at once, over all workers of the verifier."""
    results: list[float] = []
    open_pairs: dict[tuple[str, str], list[int]] = {}
    for index, (completion, answer) in enumerate(zip(completions, answers, strict=True)):
        given = last_boxed(completion) if isinstance(completion, str) else None
        gold = (last_boxed(answer) or answer) if isinstance(answer, str) else None
        verdict = _quick_verdict(given, gold)
        results.append(float(bool(verdict)))
        if verdict is None and given is not None and gold is not None:
            open_pairs.setdefault((gold, given), []).append(index)
    if open_pairs:
        pool = verifier or _shared_verifier()
        for indices, equal in zip(open_pairs.values(), pool.verify(list(open_pairs)), strict=True):
            for index in indices:
                results[index] = float(equal)
    return results


_verifier: Verifier | None = None


def _shared_verifier() -> Verifier:
    """The verifier of this process, started when first needed and stopped at exit."""
    global _verifier
    if _verifier is None:
        _verifier = Verifier()
        atexit.register(_verifier.close)
    return _verifier


def repetition(text: str, ngram: int = 8) -> float:
    """Repetition penalty in [-1, 0]: minus the fraction of the words' n-grams that occurred before in the text."""
    words = text.split()
    grams = Counter(tuple(words[i : i + ngram]) for i in range(len(words) - ngram + 1))
    total = sum(grams.values())
    return (len(grams) - total) / total if total else 0.0


class Rewarder:
    """The weighted sum of the configured rewards, each checked for what it returns.

    A reward function is called once per batch of samples, on each process for its own rows, with three lists of equal
    length: prompts (chat messages), completions (text) and rows (problem, answer, level), and returns one finite
    number each. Anything else (another length, NaN, infinity, a string, None, an exception) stops the run before the
    update, with the name of the function, the index and the value: that is the one policy, since a repaired reward
    would teach something nobody asked for.

    Args:
        names: built-in names or module:function.
        weights: one each; None is 1.
        verify_seconds: hard limit per verified answer.
        num_workers: verifying processes.
    """

    def __init__(
        self,
        names: Sequence[str],
        weights: Sequence[float] | None = None,
        *,
        verify_seconds: float = 5.0,
        num_workers: int = 1,
    ) -> None:
        self.verifier = Verifier(num_workers=num_workers, seconds=verify_seconds)
        self.functions = {name: self._resolve(name) for name in names}
        self.weights = [1.0] * len(names) if weights is None else list(weights)

    def __call__(
        self, prompts: list[Any], completions: list[str], rows: list[Mapping[str, Any]]
    ) -> tuple[list[float], dict[str, list[float]]]:
        """Return (the weighted sums, the values of each function), one per completion."""
        parts = {}
        for name, function in self.functions.items():
            try:
                values = function(prompts, completions, rows)
            except Exception as error:
                raise RewardError(
                    f"reward {name} raised {type(error).__name__}: {error}. The update was not made; mend the function "
                    "and --resume."
                ) from error
            parts[name] = _checked(name, values, len(completions))
        total = [
            sum(weight * value for weight, value in zip(self.weights, values, strict=True))
            for values in zip(*parts.values(), strict=True)
        ]
        return total, parts

    def self_test(self) -> None:
        """Score answers whose verdict is known; a broken verifier would otherwise teach that everything is wrong."""
        cases = [("\\boxed{\\frac{1}{2}}", "0.5", 1.0), ("\\boxed{x+1}", "1+x", 1.0), ("\\boxed{3}", "4", 0.0)]
        got = accuracies([case[0] for case in cases], [case[1] for case in cases], self.verifier)
        wanted = [case[2] for case in cases]
        if got != wanted:
            raise RewardError(
                f"the verifier's self-test gave {got}; expected {wanted}. Check that math-verify is installed: "
                "pip install 'apo_edu[full]'."
            )

    def close(self) -> None:
        """Stop the workers."""
        self.verifier.close()

    def _resolve(self, name: str) -> RewardFunction:
        built_in: dict[str, RewardFunction] = {
            "accuracy": self._accuracy,
            "accuracy_or_repetition": self._accuracy_or_repetition,
            "repetition": lambda prompts, completions, rows: [repetition(text) for text in completions],
            "format": lambda prompts, completions, rows: [float(last_boxed(text) is not None) for text in completions],
            "digits": partial(_each, digits),
            "closeness": partial(_each, closeness),
        }
        if name in built_in:
            return built_in[name]
        module, _, function = name.partition(":")
        try:
            found = getattr(importlib.import_module(module), function) if function else None
        except (ImportError, AttributeError) as error:
            raise RewardError(f"reward {name!r} cannot be imported: {error}. Is its folder on PYTHONPATH?") from None
        if not callable(found):
            raise RewardError(
                f"reward {name!r} is no known reward; expected {', '.join(built_in)} or module:function naming a function."
            )
        return found

    def _accuracy(self, prompts: list[Any], completions: list[str], rows: list[Mapping[str, Any]]) -> list[float]:
        return accuracies(completions, [row["answer"] for row in rows], self.verifier)

    def _accuracy_or_repetition(
        self, prompts: list[Any], completions: list[str], rows: list[Mapping[str, Any]]
    ) -> list[float]:
        correct = self._accuracy(prompts, completions, rows)
        return [1.0 if right else repetition(text) for right, text in zip(correct, completions, strict=True)]


def _each(
    score: Callable[[str, str], float], prompts: list[Any], completions: list[str], rows: list[Mapping[str, Any]]
) -> list[float]:
    return [score(text, row["answer"]) for text, row in zip(completions, rows, strict=True)]


def _checked(name: str, values: Any, count: int) -> list[float]:
    stop = "The update was not made; mend the function and --resume."
    if isinstance(values, (str, bytes)) or not hasattr(values, "__len__"):
        raise RewardError(
            f"reward {name} returned a {type(values).__name__}; expected a list of {count} numbers. {stop}"
        )
    if len(values) != count:
        raise RewardError(
            f"reward {name} returned {len(values)} values for {count} completions; expected one each. {stop}"
        )
    checked = []
    for index, value in enumerate(values):
        try:
            number = float("nan") if isinstance(value, (str, bytes)) else float(value)
        except (TypeError, ValueError):
            number = float("nan")
        if not math.isfinite(number):
            raise RewardError(f"reward {name} returned {value!r} at index {index}; expected a finite number. {stop}")
        checked.append(number)
    return checked
