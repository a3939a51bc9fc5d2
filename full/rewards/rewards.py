"""Rewards: verified answers, format and repetition, and your own functions by module:function.

Pure strings in, floats out; nothing here imports torch. Answers are compared by math-verify in worker processes with a
hard limit of time and memory, because a model's text can make any symbolic comparison run for ever.
"""

import atexit
import functools
import importlib
import inspect
import math
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

from full.errors import RewardError
from full.rewards.answers import final_answer, last_boxed, quick_verdict
from full.rewards.graded import closeness, digits
from full.rewards.pool import Verifier

RewardFunction = Callable[[list[Any], list[str], list[Mapping[str, Any]]], Sequence[float]]


def accuracy(completion: str, answer: str | Sequence[str]) -> float:
    r"""1.0 if the last \boxed{} of the completion equals the answer, else 0.0.

    Never raises and never hangs: what cannot be decided within the limit (5 CPU seconds) counts as wrong. A box in
    thinking (<think>...</think>) does not count. Where no verifying worker can start, it warns and returns 0.0; `accuracies`
    raises.

    Args:
        completion: the model's text; without a complete \boxed{} it is wrong.
        answer: the gold answer, or a gold solution whose last box holds it, or a list of those, of which any is right.
    """
    try:
        return accuracies([completion], [answer])[0]
    except Exception as error:
        if isinstance(error, RewardError) and isinstance(completion, str):
            warnings.warn(f"accuracy is 0.0 because it could not be decided: {error}", RuntimeWarning, stacklevel=2)
        return 0.0


def accuracies(
    completions: Sequence[str], answers: Sequence[str | Sequence[str]], verifier: Verifier | None = None
) -> list[float]:
    """`accuracy` of many completions at once, over all workers of the verifier.

    Raises:
        RewardError: an answer is no text and no list of texts, or no verifying worker can start.
    """
    golds = [_accepted(answer, index) for index, answer in enumerate(answers)]
    results = [0.0] * len(golds)
    open_pairs: dict[tuple[str, str], list[int]] = {}
    for index, (completion, accepted) in enumerate(zip(completions, golds, strict=True)):
        given = final_answer(completion) if isinstance(completion, str) else None
        verdicts = [quick_verdict(given, gold) for gold in accepted]
        if True in verdicts:
            results[index] = 1.0
            continue
        for gold, verdict in zip(accepted, verdicts, strict=True):
            if verdict is None and given is not None:
                open_pairs.setdefault((gold, given), []).append(index)
    if open_pairs:
        pool = verifier or _shared_verifier()
        for indices, equal in zip(open_pairs.values(), pool.verify(list(open_pairs)), strict=True):
            for index in indices:
                results[index] = max(results[index], float(equal))
    return results


def right_answers(
    completions: Sequence[str], rows: Sequence[Mapping[str, Any]], verifier: Verifier, gym: Verifier | None
) -> list[float]:
    """1.0 where a completion is right, else 0.0: `accuracies`, or the full score where a problem has a scorer of its own.

    To math-verify letters are a product and a list is a set: "nsu" would be right where "nus" is.

    Args:
        rows: of the problems; those of reasoning-gym's graded tasks have an entry (full/data/gym.py).
        gym: scores those; None: there are none.
    """
    return [float(score >= 1.0) for score in task_scores(completions, rows, verifier, gym)]


def task_scores(
    completions: Sequence[str], rows: Sequence[Mapping[str, Any]], verifier: Verifier, gym: Verifier | None
) -> list[float]:
    """The score of each completion: its problem's own where there is one (`gym_scores`), else 1.0 or 0.0 (`accuracies`).

    Args:
        rows, gym: see `right_answers`.
    """
    own = [i for i, row in enumerate(rows) if row.get("entry")]
    others = [i for i, row in enumerate(rows) if not row.get("entry")]
    scored = gym_scores([completions[i] for i in own], [rows[i]["entry"] for i in own], gym) if own else []
    judged = accuracies([completions[i] for i in others], [rows[i]["answer"] for i in others], verifier)
    found = dict(zip([*own, *others], [*scored, *judged], strict=True))
    return [found[i] for i in range(len(rows))]


def gym_scores(completions: Sequence[str], entries: Sequence[str], gym: Verifier | None) -> list[float]:
    """The score of each completion's last box by reasoning-gym's scorer; 0.0 without one."""
    if gym is None:
        raise RewardError(
            "a problem of reasoning-gym has a scorer of its own; expected a `Rewarder` with its workers, gym."
        )
    given = [final_answer(text) for text in completions]
    boxed = [i for i, answer in enumerate(given) if answer is not None]
    scores = gym.scores([(entries[i], str(given[i])) for i in boxed])
    found = dict(zip(boxed, scores, strict=True))
    return [float(found.get(i, 0.0)) for i in range(len(given))]


def _accepted(answer: Any, index: int) -> list[str]:
    """The texts that are right; a gold solution stands for its last box."""
    texts = [answer] if isinstance(answer, str) else answer
    if (
        not isinstance(texts, list | tuple | Set)
        or not texts
        or not all(isinstance(t, str) and t.strip() for t in texts)
    ):
        raise RewardError(
            f"answer {index} is {answer!r:.80} ({type(answer).__name__}); expected a text, or a list of texts of which any is "
            "right. Write numbers as text in the data, as load_problems does."
        )
    return [last_boxed(text) or text for text in texts]


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

    A function with TRL's signature, `f(prompts, completions, **columns)`, is called as TRL calls it (`_call_as_trl`).

    Args:
        names: built-in names or module:function, each once.
        weights: one each; None is 1.
        verify_seconds: hard limit per verified answer, CPU seconds.
        num_workers: verifying processes; None is one for each core.
    """

    def __init__(
        self,
        names: Sequence[str],
        weights: Sequence[float] | None = None,
        *,
        verify_seconds: float = 5.0,
        num_workers: int | None = None,
    ) -> None:
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise RewardError(
                f"reward {twice[0]!r} is given {Counter(names)[twice[0]]} times; give it once, with a larger weight."
            )
        if weights is not None and len(weights) != len(names):
            raise RewardError(
                f"{len(weights)} reward weights for {len(names)} rewards ({', '.join(names)}); expected one each."
            )
        self.verifier = Verifier(num_workers=num_workers, seconds=verify_seconds)
        self.gym = Verifier(num_workers=num_workers, seconds=verify_seconds, judge="full.rewards.gym:score")
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
            except RewardError:
                raise  # the verifier's, or a function's own message
            except Exception as error:
                raise RewardError(
                    f"reward {name} raised {type(error).__name__}: {error}{_where(error)}. The update was not made; fix the "
                    "function and --resume."
                ) from error
            parts[name] = _checked(name, values, len(completions))
        total = [
            sum(weight * value for weight, value in zip(self.weights, values, strict=True))
            for values in zip(*parts.values(), strict=True)
        ]
        return total, parts

    def self_test(self) -> None:
        """Score answers whose verdict is known; a broken verifier would otherwise teach that everything is wrong."""
        cases = [
            ("\\boxed{\\frac{2}{\\sqrt{2}}}", "\\sqrt{2}", 1.0),
            ("\\boxed{x+1}", "1+x", 1.0),
            ("\\boxed{2x}", "3x", 0.0),
        ]
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
        self.gym.close()

    def take_counts(self) -> tuple[int, int]:
        """(timeouts, deaths) of all workers since the last call, for the log."""
        (timeouts, deaths), (more_timeouts, more_deaths) = self.verifier.take_counts(), self.gym.take_counts()
        return timeouts + more_timeouts, deaths + more_deaths

    def _resolve(self, name: str) -> RewardFunction:
        built_in: dict[str, RewardFunction] = {
            "accuracy": self._accuracy,
            "accuracy_or_repetition": self._accuracy_or_repetition,
            "repetition": lambda prompts, completions, rows: [repetition(text) for text in completions],
            "format": lambda prompts, completions, rows: [
                float(final_answer(text) is not None) for text in completions
            ],
            "digits": functools.partial(_each, digits),
            "closeness": functools.partial(_each, closeness),
            "reasoning_gym": self._gym,
        }
        if name in built_in:
            return built_in[name]
        module, _, function = name.partition(":")
        found = getattr(_import_module(name, module), function, None) if function else None
        if not callable(found):
            missing = f"{module} has no function {function!r}; " if function else ""
            raise RewardError(
                f"reward {name!r} is no known reward: {missing}expected {', '.join(built_in)} or module:function naming a "
                "function."
            )
        return functools.partial(_call_as_trl, found) if _has_trl_signature(found) else found

    def _accuracy(self, prompts: list[Any], completions: list[str], rows: list[Mapping[str, Any]]) -> list[float]:
        return right_answers(completions, rows, self.verifier, self.gym)

    def _accuracy_or_repetition(
        self, prompts: list[Any], completions: list[str], rows: list[Mapping[str, Any]]
    ) -> list[float]:
        correct = self._accuracy(prompts, completions, rows)
        return [1.0 if right else repetition(text) for right, text in zip(correct, completions, strict=True)]

    def _gym(self, prompts: list[Any], completions: list[str], rows: list[Mapping[str, Any]]) -> list[float]:
        """The task's own graded score where it may run here (full/rewards/gym.py), else `accuracy`."""
        if rows and "entry" not in rows[0]:
            raise RewardError(
                "reward reasoning_gym is for problems of reasoning-gym; expected --data reasoning_gym:NAME, or another reward."
            )
        return task_scores(completions, rows, self.verifier, self.gym)


def _each(
    score: Callable[[str, str], float], prompts: list[Any], completions: list[str], rows: list[Mapping[str, Any]]
) -> list[float]:
    return [score(text, row["answer"]) for text, row in zip(completions, rows, strict=True)]


def _import_module(name: str, module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or (module != error.name and not module.startswith(error.name + ".")):
            raise RewardError(f"reward {name!r} cannot be imported: {error}{_where(error)}.") from None
        raise RewardError(f"reward {name!r} cannot be imported: {error}. Is its folder on PYTHONPATH?") from None
    except Exception as error:
        raise RewardError(
            f"reward {name!r} cannot be imported: {type(error).__name__}: {error}{_where(error)}. Fix the module."
        ) from None


def _where(error: BaseException) -> str:
    """(file, line) of the user's code where an error was raised; "" if none is known."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({error.filename}, line {error.lineno})"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename != __file__ and "importlib" not in frame.filename
    ]
    return f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""


def _has_trl_signature(function: Callable[..., Any]) -> bool:
    """Whether a reward takes its columns by name, as TRL gives them: it has `**kwargs`, and no third argument of our kind."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # some built-in functions have no signature
        return False
    return "rows" not in parameters and any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _call_as_trl(
    function: Callable[..., Any], prompts: list[Any], completions: list[str], rows: list[Mapping[str, Any]]
) -> Any:
    """Call a reward as TRL's GRPOTrainer does: everything by name, each column of the data as a list.

    Prompts are chat messages, so completions are too: each a list of one message of the assistant. None, which TRL leaves out
    of its sum, is 0 here. What TRL knows beside the columns (completion_ids, trainer_state) is not given.
    """
    replies = [[{"role": "assistant", "content": text}] for text in completions]
    columns = {
        name: [row[name] for row in rows] for name in (rows[0] if rows else {}) if name not in ("prompt", "completion")
    }
    values = function(prompts=prompts, completions=replies, **columns)
    if inspect.iscoroutine(values):
        values.close()
        raise TypeError("asynchronous rewards are not supported; expected a list of numbers")
    return [0.0 if value is None else value for value in values] if isinstance(values, list | tuple) else values


def _checked(name: str, values: Any, count: int) -> list[float]:
    stop = "The update was not made; fix the function and --resume."
    # A dictionary or a set has a length too, and its keys or its order are no rewards.
    if isinstance(values, str | bytes | Mapping | Set) or not hasattr(values, "__len__"):
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
        except (TypeError, ValueError, RuntimeError):  # RuntimeError: a row of a tensor
            number = float("nan")
        if not math.isfinite(number):
            raise RewardError(f"reward {name} returned {value!r} at index {index}; expected a finite number. {stop}")
        checked.append(number)
    return checked
