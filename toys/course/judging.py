"""Judge an answer: run the checks, compare with the referee, and say which mistake was made."""

import functools
import inspect
import math
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

import numpy as np
import torch

import apo_edu

from .model import Check, Exercise, Mistake, NotYet, Student

LIBRARY = str(Path(apo_edu.__file__).parent)
_HERE = str(Path(__file__).parent)
FOLDERS = {"apo_edu": LIBRARY, "toys": str(Path(__file__).parents[1])}
_NOT_STUDENTS = (LIBRARY, str(Path(__file__).parents[1]), "site-packages", str(Path(inspect.__file__).parent))


@dataclass(frozen=True)
class Verdict:
    """One check's outcome. `says` is the diagnosis, `mistake` the name under which a class summary counts it."""

    check: Check
    passed: bool
    says: str = ""
    mistake: str = ""


@dataclass(frozen=True)
class Failure:
    """What a probe gave instead of a value: the name that is counted, and the words."""

    kind: str
    says: str


def judge(exercise: Exercise, answer: Any, student: Student, *, fresh: str = "", guarded: bool = True) -> list[Verdict]:
    """All checks of an exercise on one answer.

    Args:
        answer: what the student defined.
        student: whose numbers are used.
        fresh: other random cases than the student saw, for grading; the student's own numbers stay.
        guarded: whether calls of the library count as a mistake.
    """
    bench = _Bench(exercise, student, fresh)
    watch = _Watch(exercise.library, exercise.closed)
    given = bench.results(watch(answer) if guarded else answer, exercise.seconds)
    if watch.called:
        says = f"this calls {watch.called[0]}: writing it yourself is the point here. The library's function is the referee."
        return [Verdict(check, False, says, "calls the library") for check in exercise.checks]
    right = bench.right(given)
    undone = all(isinstance(one, Failure) and one.kind == "not done" for results in given.values() for one in results)
    single = not all(right.values()) and bench.only_float32(given)
    named = {} if all(right.values()) or undone or single else bench.mistakes(given, right)
    verdicts = []
    errors: dict[tuple[str, str], Failure] = {}
    above = not all(right[check.name] for check in exercise.checks if not check.noisy)
    for check in exercise.checks:
        if right[check.name]:
            verdicts.append(Verdict(check, True))
        elif single:
            verdicts.append(Verdict(check, False, _FLOAT32, "float32"))
        elif check.name in named:
            verdicts.append(Verdict(check, False, named[check.name].says, named[check.name].name))
        else:
            general = _general(exercise, check, given[check.name], bench.expected[check.name], bench.cases[check.name])
            if (
                check.noisy
                and above
                and general.kind in ("unnamed", "not finite", "a factor")
                and not _said(given[check.name])
            ):
                general = Failure("unnamed", "what is said of another check shows here too. Mend that first.")
            if error := next((one.says for one in given[check.name] if isinstance(one, Failure)), ""):
                general = errors.setdefault((general.kind, error), general)  # shown with the first case that raised it
            verdicts.append(Verdict(check, False, general.says, general.kind))
    return verdicts


Results = dict[str, list[Any]]  # by the check's name, one a case


class _Bench:
    """An exercise with its cases drawn and what the referee says on them."""

    _known: ClassVar[dict[tuple[int, Student, str, str], tuple[Exercise, Results]]] = {}  # what mistakes gave before

    def __init__(self, exercise: Exercise, student: Student, fresh: str):
        self.exercise, self.numbers = exercise, student.numbers(exercise)
        self.cases_of = (id(exercise), student, fresh)
        self.cases = {
            check.name: list(check.cases(student.generator(f"{exercise.name}.{check.name}", fresh), self.numbers))
            for check in exercise.checks
        }
        self.expected = self.results(exercise.answer(exercise.referee or exercise.solution, self.numbers))
        failures = [one.says for results in self.expected.values() for one in results if isinstance(one, Failure)]
        if failures:
            raise RuntimeError(
                f"the referee of {exercise.name} fails: {failures[0]} Mend the exercise, not the answer."
            )

    def results(self, answer: Any, seconds: float | None = None) -> Results:
        """What an answer gives on all cases; after a check that took too long the others are not run."""
        results: Results = {}
        for check in self.exercise.checks:
            results[check.name] = _run(self.exercise, check, answer, self.cases[check.name], seconds)
            if any(isinstance(one, Failure) and one.kind == "too slow" for one in results[check.name]):
                rest = {name: [results[check.name][-1]] * len(cases) for name, cases in self.cases.items()}
                return rest | results
        return results

    def of_mistake(self, mistake: Mistake) -> Results:
        """What a mistake gives on all cases. It is kept: a student checks again, and has the same cases then."""
        key = (*self.cases_of, mistake.name)
        if key not in self._known:
            if len(self._known) >= 2000:
                self._known.clear()
            # With the exercise, so that its id is not given to another one.
            self._known[key] = self.exercise, self.results(self.exercise.answer(mistake.answer, self.numbers))
        return self._known[key][1]

    def right(self, given: Results) -> dict[str, bool]:
        """Which checks are passed."""
        return {
            check.name: all(map(functools.partial(_agree, check), given[check.name], self.expected[check.name]))
            for check in self.exercise.checks
        }

    def only_float32(self, given: Results) -> bool:
        """Whether an answer is right but for the digits that float32 does not have."""
        exact = [check for check in self.exercise.checks if not check.noisy]
        return any(_is_float32(given[check.name], self.expected[check.name]) for check in exact) and all(
            all(map(functools.partial(_agree, _loosely(check)), given[check.name], self.expected[check.name]))
            for check in exact
        )

    def mistakes(self, given: Results, right: dict[str, bool]) -> dict[str, Mistake]:
        """For each wrong check the mistake that explains it, where there is one.

        A mistake that gives the student's values on all checks explains them all; noisy checks count by being right or
        wrong, and by what their probe says. Failing that, one that does so but for the noisy ones, and last one that agrees
        in the cases in which a check fails: rather one that does not fail other checks, where the student is right.
        """
        exact = [check for check in self.exercise.checks if not check.noisy]
        wrong = [check.name for check in self.exercise.checks if not right[check.name]]
        any_exact = any(check.name in wrong for check in exact)
        failing = {
            check.name: [
                not _agree(check, *pair) for pair in zip(given[check.name], self.expected[check.name], strict=True)
            ]
            for check in exact
        }
        like = {
            check.name: _loosely(check) if _is_float32(given[check.name], self.expected[check.name]) else check
            for check in exact
        }
        said = {check.name: _said(given[check.name]) for check in self.exercise.checks if check.noisy}
        but_for_noise: dict[str, Mistake] = {}
        alone: dict[str, Mistake] = {}
        contradicted: dict[str, Mistake] = {}
        for mistake in self.exercise.mistakes:
            theirs = self.of_mistake(mistake)
            their_right = self.right(theirs)
            agrees = {
                check.name: list(
                    map(functools.partial(_agree, like[check.name], alike=True), given[check.name], theirs[check.name])
                )
                for check in exact
            }
            if all(map(all, agrees.values())):
                if right == their_right and all(words == _said(theirs[name]) for name, words in said.items()):
                    return dict.fromkeys(wrong, mistake)
                if any_exact and not but_for_noise:
                    but_for_noise = {name: mistake for name in wrong if not their_right[name]}
            fails_elsewhere = any(right[name] and not passed for name, passed in their_right.items())
            for check in exact:
                name = check.name
                if name not in wrong or not check.telling or their_right[name] or _is_general(given[name]):
                    continue
                if all(same for same, fails in zip(agrees[name], failing[name], strict=True) if fails):
                    (contradicted if fails_elsewhere else alone).setdefault(name, mistake)
        return but_for_noise or contradicted | alone


def missing(exercise: Exercise) -> list[Verdict]:
    """The verdicts where nothing was defined."""
    says = f"`{exercise.name}` is not defined. Run the cell that defines it, under exactly this name."
    return [Verdict(check, False, says, "not defined") for check in exercise.checks]


def _run(
    exercise: Exercise, check: Check, answer: Any, cases: list[tuple[Any, ...]], seconds: float | None
) -> list[Any]:
    """The probe's results, case by case; what goes wrong becomes a `Failure`, and after a timeout nothing is run."""
    results: list[Any] = []
    probe = check.probe or ((lambda answer: answer) if exercise.value else (lambda answer, *case: answer(*case)))
    try:
        with time_limit(seconds) if seconds else nullcontext():
            for case in cases:
                results.append(_once(exercise, probe, answer, case))
    except TimeLimit:
        slow = Failure(
            "too slow", f"took longer than {seconds:g} s. Is there a loop that never ends, or one per element?"
        )
        results += [slow] * (len(cases) - len(results))
    return results


def _once(exercise: Exercise, probe: Callable[..., Any], answer: Any, case: tuple[Any, ...]) -> Any:
    if answer is None or answer is Ellipsis:
        return Failure("not done", "nothing was written here.")
    arguments = _copies(case)
    try:
        with _seeded():
            result = _plain(probe(answer, *arguments))
        return _changed(exercise, case, arguments) or result
    except NotYet as reason:
        return Failure("says", str(reason))
    except NotImplementedError:
        return Failure("not done", "nothing was written here.")
    except MemoryError:
        return Failure("out of memory", "ran out of memory: a tensor here is far too large.")
    except (Exception, SystemExit) as error:
        text = str(error).splitlines()[0] if str(error) else ""
        return Failure("error", f"raises {type(error).__name__}: {text[:200]}{_where(error)}")


# What helps with an error that a student is likely to meet: a part of its text, and the words.
_REMEDIES = {
    "must match the size of tensor": " Does a mean or a sum lack keepdim=True?",
    "division by zero": " Which divisor can be 0 here? It needs a case of its own.",
    "math range error": " The exponential of a large number overflows: stay with logarithms.",
    "cannot be converted to Scalar": " No .item() or float() on the way: the result has one number for each group.",
    "only one element tensors": " No .item() or float() on the way: the result has one number for each group.",
    "Boolean value of Tensor with more than one value": " Entry by entry it is `&` for `and`, `|` for `or`, with brackets "
    "around each comparison.",
    "in-place operation": " Make a new tensor: `x = x - y`, not `x -= y`.",
    "Can't call numpy() on Tensor that requires grad": " Stay in torch, so that the gradient can flow.",
}


@contextmanager
def _seeded() -> Iterator[None]:
    """The same random numbers for every answer that draws without a generator, and the caller's own afterwards."""
    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(0)
    try:
        yield
    finally:
        torch.default_generator.set_state(state)


def _copies(case: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments that an answer may change in place without harm to the next one."""
    return tuple(x.clone() if isinstance(x, torch.Tensor) else x for x in case)


def _changed(exercise: Exercise, case: tuple[Any, ...], arguments: tuple[Any, ...]) -> Failure | None:
    """A failure if an argument has other numbers than before the call."""
    names = _names(exercise, case)
    for name, before, after in zip(names, case, arguments, strict=True):
        if isinstance(before, torch.Tensor) and not torch.equal(before, after.detach()):
            what = f"its argument `{name}`" if name != "?" else "an argument"
            return Failure(
                "changes its input",
                f"changes {what} in place, so whoever uses it afterwards finds other numbers. Make a new tensor: "
                "`x = x - y`, not `x -= y`, `x[i] = ...` or a method that ends in `_`.",
            )
    return None


def _names(exercise: Exercise, case: tuple[Any, ...]) -> list[str]:
    """The parameters that a case's entries are passed for, "?" where that cannot be told."""
    names: list[str] = [] if exercise.value else list(inspect.signature(exercise.solution).parameters)
    return names if len(names) == len(case) else ["?"] * len(case)


def _where(error: BaseException) -> str:
    """The student's own line, if it can be told: the last frame that is neither the library's nor a package's."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not any(part in frame.filename for part in _NOT_STUDENTS)
    ]
    return f" (in line {frames[-1].lineno}: `{frames[-1].line}`)" if frames and frames[-1].line else ""


def _plain(value: Any) -> Any:
    """A result in a form that can be compared: arrays of float64, strings, tuples of them."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        return (value.double() if value.dtype != torch.bool else value).numpy()
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, dict):
        return tuple((str(key), _plain(value[key])) for key in sorted(value, key=str))
    if isinstance(value, int | float | np.number | np.ndarray):
        return np.asarray(value, dtype=np.float64)
    if isinstance(value, list | tuple):
        if all(isinstance(entry, int | float | np.number) or _is_scalar(entry) for entry in value):
            return np.asarray([float(entry) for entry in value], dtype=np.float64)
        return tuple(_plain(entry) for entry in value)
    return Failure("wrong type", f"gives a {type(value).__name__}; expected numbers or tensors.")


def _is_scalar(value: Any) -> bool:
    """Whether a value is one number in a tensor or an array without dimensions."""
    if isinstance(value, torch.Tensor):
        return value.dim() == 0 and value.dtype != torch.bool and not value.is_complex()
    return isinstance(value, np.ndarray) and value.ndim == 0 and value.dtype.kind in "iuf"


_FLOAT32 = (
    "right, but only to the 7 digits of float32. Expected is float64, as the input is: torch.tensor(..., dtype=torch.float64), "
    "or dtype=x.dtype of an input x."
)


def _is_float32(given: list[Any], expected: list[Any]) -> bool:
    """Whether all numbers given are float32 numbers, and not all numbers expected are."""

    def single(values: list[Any]) -> bool:
        arrays = [array for value in values for array in _arrays(value)]
        with np.errstate(over="ignore"):
            return bool(arrays) and all(np.array_equal(a.astype(np.float32), a, equal_nan=True) for a in arrays)

    return single(given) and not single(expected)


def _arrays(value: Any) -> Iterator[Any]:
    if isinstance(value, np.ndarray) and value.dtype != bool:
        yield value
    elif isinstance(value, tuple):
        for entry in value:
            yield from _arrays(entry)


def _loosely(check: Check) -> Check:
    """The check as it would be for numbers in float32."""
    return replace(check, rtol=max(check.rtol, 1e-5), floor=max(check.floor, 1e-30))


def _said(results: list[Any]) -> set[str]:
    """What the probe itself said about an answer."""
    return {one.says for one in results if isinstance(one, Failure) and one.kind == "says"}


def _is_general(results: list[Any]) -> bool:
    """Whether the results say by themselves what is wrong: an exception, nothing at all, no number that is finite."""
    arrays = [array for one in results for array in _arrays(one)]
    return any(one is None or (isinstance(one, Failure) and one.kind != "says") for one in results) or (
        bool(arrays) and not any(np.isfinite(array).any() for array in arrays)
    )


def _agree(check: Check, one: Any, other: Any, alike: bool = False) -> bool:
    """Whether two results are the same within the check's tolerance; failures are compared by their words.

    With `alike`, NaN and the infinities are the same: what 0/0 and 1e-17/0 give is a matter of rounding.
    """
    if isinstance(one, Failure) or isinstance(other, Failure):
        return (
            isinstance(one, Failure)
            and isinstance(other, Failure)
            and one.kind == other.kind
            and one.says == other.says
        )
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(_agree(check, a, b, alike) for a, b in zip(one, other, strict=True))
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray) and one.dtype != bool:
        if one.shape != other.shape:
            return False
        finite = np.isfinite(one) & np.isfinite(other)
        same = (
            np.isfinite(one) == np.isfinite(other)
            if alike
            else finite | (one == other) | (np.isnan(one) & np.isnan(other))
        )
        if not same.all():
            return False
        one, other = one[finite], other[finite]
        return bool((np.abs(one - other) <= check.rtol * np.abs(other).max(initial=0.0) + check.floor).all())
    return type(one) is type(other) and bool(np.array_equal(one, other))


def _general(
    exercise: Exercise, check: Check, given: list[Any], expected: list[Any], cases: list[tuple[Any, ...]]
) -> Failure:
    """What can be said without knowing the mistake; kind "unnamed" where that is only where it differs."""
    wrong = [i for i, (a, b) in enumerate(zip(given, expected, strict=True)) if not _agree(check, a, b)]
    first = wrong[0]
    at = f" for {shown}" if (shown := _show_case(exercise, cases[first])) else ""
    if given[first] is None:
        return Failure("not done", "gives None: nothing was written here, or a `return` is missing.")
    if isinstance(given[first], Failure):
        failure = given[first]
        if failure.kind == "says":
            return Failure("unnamed", failure.says)
        if failure.kind != "error":
            return failure
        remedy = next((words for part, words in _REMEDIES.items() if part in failure.says), "")
        return Failure(failure.kind, f"{failure.says}{at}.{remedy}")
    if _is_float32(given, expected) and all(map(functools.partial(_agree, _loosely(check)), given, expected)):
        return Failure("float32", _FLOAT32)
    pairs = [(given[i], expected[i]) for i in range(len(given))]
    arrays = [(a, b) for a, b in pairs if isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and b.dtype != bool]
    kinds = _form(given[first]), _form(expected[first])
    if isinstance(given[first], np.ndarray) != isinstance(expected[first], np.ndarray):
        rows: tuple[Any, ...] = given[first] if isinstance(given[first], tuple) else ()
        listed = len({_form(row) for row in rows if isinstance(row, np.ndarray)}) == 1
        remedy = (
            " torch.tensor(..., dtype=torch.float64) makes a tensor of lists." if listed and not exercise.value else ""
        )
        return Failure("wrong type", f"gives {kinds[0]}; expected {kinds[1]}{at}.{remedy}")
    shape = next(((a.shape, b.shape) for a, b in arrays if a.shape != b.shape), None)
    if shape:
        remedy = ""
        if any(isinstance(x, torch.Tensor) and x.shape == shape[1] for x in cases[first]):
            remedy = " One number for each entry is asked for."
        elif len(shape[0]) < len(shape[1]):
            remedy = " Sum over the last dimension only: leading dimensions stay."
        if len(shape[0]) > len(shape[1]) and math.prod(shape[0]) == math.prod(shape[1]):
            remedy = " Without keepdim=True?"
        if exercise.value:
            return Failure("wrong shape", f"gives {kinds[0]}; expected {kinds[1]}.")
        return Failure("wrong shape", f"gives shape {shape[0]}; expected {shape[1]}{at}.{remedy}")
    if arrays and len(arrays) == len(pairs):
        mine = np.concatenate([a.ravel() for a, _ in arrays])
        right = np.concatenate([b.ravel() for _, b in arrays])
        if not np.isfinite(mine[np.isfinite(right)]).all():
            word = "NaN" if np.isnan(mine).any() else "an infinite number"
            return Failure("not finite", f"gives {word}{at}. {check.hint or 'Look for 0/0, log 0 or an overflow.'}")
        if np.ptp(right) > 0 and len(mine) > 1 and np.ptp(mine) == 0:
            says = f"every number is {mine[0]:g}." if exercise.value else f"gives {mine[0]:g} whatever it is given."
            return Failure("constant", says)
        large = np.abs(right) > 1e-9 * np.abs(right).max(initial=0.0)
        ratio = mine[large] / right[large]
        if (
            len(ratio) > 1
            and np.ptp(right) > 0
            and np.ptp(ratio) < 1e-6 * np.abs(ratio).max()
            and abs(ratio[0] - 1) > 1e-6
        ):
            if exercise.value:
                return Failure("a factor", "every number is off by the same factor.")
            return Failure("a factor", f"is {_factor(float(ratio.mean()))} the right value everywhere.")
    if exercise.value:  # one's own numbers: the right ones are not told
        if arrays and np.abs(mine - right).max() < 0.01 * np.abs(right).max() and _is_rounded(mine, right):
            return Failure("too few digits", f"nearly right, but more digits are asked for: {_show(given[first])}.")
        return Failure("unnamed", f"not right: {_show(given[first])}. {check.hint}".strip())
    words = f"{at.strip().capitalize()}: {_difference(check, given[first], expected[first])}. {check.hint}"
    return Failure("unnamed", words.strip().removeprefix(": "))


def _is_rounded(given: np.ndarray, right: np.ndarray) -> bool:
    """Whether a number is the right one with at most three decimals, rounded or cut; computed ones have more."""
    return any(
        bool((np.abs(given - right) < 1.001 * 10.0**-decimals).all())
        and np.allclose(given, np.round(given, decimals), rtol=0, atol=1e-9)
        for decimals in range(4)
    )


def _form(value: Any) -> str:
    """What kind of thing a result is, without its numbers."""
    if isinstance(value, np.ndarray):
        what = "numbers" if value.dtype != bool else "truth values"
        return (
            "one number"
            if value.ndim == 0
            else f"{len(value)} {what}"
            if value.ndim == 1
            else f"{what} of shape {value.shape}"
        )
    if isinstance(value, tuple):
        return f"{len(value)} things ({', '.join(_form(entry) for entry in value)})"
    return "nothing" if value is None else f"a {type(value).__name__}"


def _difference(check: Check, given: Any, expected: Any) -> str:
    """What was given and what was expected: the beginning, or the first place where they differ if that is later."""
    if isinstance(given, np.ndarray) and isinstance(expected, np.ndarray) and given.shape == expected.shape:
        given, expected = np.asarray(given, float), np.asarray(expected, float)  # truth values cannot be subtracted
        close = np.abs(given - expected) <= check.rtol * np.abs(expected).max(initial=0.0) + check.floor
        first = int((~close).ravel().argmax())
        if first > 3:
            place = ", ".join(str(int(index)) for index in np.unravel_index(first, given.shape))
            mine, right = _told_apart(given.flat[first : first + 1], expected.flat[first : first + 1])
            return f"gives {mine} at [{place}], expected {right}"
    mine, right = _told_apart(given, expected)
    return f"gives {mine}, expected {right}{_precision(given, expected)}"


def _precision(given: Any, expected: Any) -> str:
    """How many digits are right, where that is worth a word."""
    pairs = list(zip(_arrays(given), _arrays(expected), strict=False))
    if any(a.shape != b.shape or not np.isfinite(a).all() for a, b in pairs):
        return ""
    off = max((float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-300)) for a, b in pairs if b.size), default=1.0)
    return f" (right to about {-math.log10(off):.0f} digits)" if 0 < off < 3e-5 else ""


def _told_apart(given: Any, expected: Any) -> tuple[str, str]:
    """Both in words, with as many digits as it takes to see where they differ."""
    for digits in (6, 8, 10, 12, 15, 17):
        mine, right = _show(given, digits), _show(expected, digits)
        if mine != right:
            break
    return mine, right


def exactly(x: float) -> str:
    """A number shortly, but never as a round one that it is not: "1 - 1e-12", not "1"."""
    short = f"{x:.6g}"
    if (
        not math.isfinite(x)
        or math.isclose(float(short), x, rel_tol=1e-15, abs_tol=0.0)
        or len(short.lstrip("-0.").replace(".", "").split("e")[0]) > 5
    ):
        return short
    gap = x - float(short)
    return f"{short} {'-' if gap < 0 else '+'} {abs(gap):.1g}".replace("e-0", "e-")


_FACTORS = {"log 2": math.log(2), "1/log 2 (logarithms to base 2?)": 1 / math.log(2)}
_FACTORS |= {"1/log 10 (logarithms to base 10?)": 1 / math.log(10)}


def _factor(ratio: float) -> str:
    if abs(ratio + 1) < 1e-6:
        return "minus"
    name = next((name for name, value in _FACTORS.items() if math.isclose(ratio, value, rel_tol=1e-6)), f"{ratio:.6g}")
    return f"{name} times"


def _show(value: Any, digits: int = 6) -> str:
    if isinstance(value, np.ndarray):
        if value.dtype == bool:
            few = value.ravel()[:4].tolist() if value.size > 4 else value.tolist()
            return str(few).replace("]", ", ...]") if value.size > 4 else str(few)
        if value.size == 1:
            return f"{value.item():.{digits}g}"
        flat = (
            np.where(np.abs(value) < 1e-14 * np.abs(value[np.isfinite(value)]).max(initial=0.0), 0.0, value).ravel()
            + 0.0
        )
        return "[" + ", ".join(f"{x:.{digits}g}" for x in flat[:4]) + (", ...]" if value.size > 4 else "]")
    if isinstance(value, tuple):
        return "(" + ", ".join(_show(entry, digits) for entry in value) + ")"
    return repr(value)


def _show_case(exercise: Exercise, case: tuple[Any, ...]) -> str:
    """The arguments of a case, shortly: numbers and small tensors in full, of one or two others the shape."""
    words = []
    large = sum(isinstance(x, torch.Tensor) and x.numel() > 4 for x in case)
    for name, x in zip(_names(exercise, case), case, strict=True):
        if isinstance(x, torch.Tensor):
            if x.numel() > 4 and large > 2:
                continue
            shown = f"= {_show(x.double().numpy())}" if x.numel() <= 4 else f"of shape {tuple(x.shape)}"
        elif isinstance(x, bool | int | float | str):
            shown = f"= {exactly(x)}" if isinstance(x, float) else f"= {x!r}"
            shown = shown if len(shown) < 80 else f"of {len(str(x))} characters"
        else:
            continue
        words.append(shown.removeprefix("= ") if name == "?" else f"{name} {shown}")
    return ", ".join(words)


class TimeLimit(BaseException):
    """Raised inside code that took too long; not an Exception, so that `except Exception` does not hold it up."""


PATIENCE = 10.0  # wall-clock time allowed for each second of processor time: other programs may be busy


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `TimeLimit` in the block after `seconds` of processor time, or `PATIENCE` times that on the clock.

    Without effect off the main thread and on Windows. Limits may be nested: the outer ones go on where they were.
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return
    with ExitStack() as stack:
        stack.enter_context(_timer(signal.ITIMER_REAL, signal.SIGALRM, PATIENCE * seconds))
        stack.enter_context(_timer(signal.ITIMER_PROF, signal.SIGPROF, seconds))
        yield


@contextmanager
def _timer(which: int, number: int, seconds: float) -> Iterator[None]:
    def stop(signum: int, frame: FrameType | None) -> None:
        raise TimeLimit

    handler = signal.signal(number, stop)
    outer, _ = signal.setitimer(which, seconds)
    try:
        yield
    finally:
        left, _ = signal.setitimer(which, 0)
        signal.signal(number, handler)
        if outer:
            signal.setitimer(which, max(outer - (seconds - left), 1e-3))


class _Watch:
    """Wraps answers so that calls into closed packages from inside them are noted in `called`, however they are spelled."""

    def __init__(self, allowed: tuple[str, ...] | str, closed: tuple[str, ...] = ("apo_edu",)):
        self.allowed = allowed
        self.folders = {name: FOLDERS[name] for name in closed}
        self.called: list[str] = []

    def __call__(self, answer: Any) -> Any:
        if self.allowed == "all" or not callable(answer):
            return answer
        if inspect.isclass(answer):

            @functools.wraps(answer, updated=())
            def made(*args: Any, **kwargs: Any) -> _Instance:
                return _Instance(self._wrap(answer)(*args, **kwargs), self._wrap)

            return made
        return self._wrap(answer)

    def _wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function, updated=())
        def watched(*args: Any, **kwargs: Any) -> Any:
            before = sys.getprofile()
            sys.setprofile(self._look)
            try:
                return function(*args, **kwargs)
            finally:
                sys.setprofile(before)

        return watched

    def _look(self, frame: FrameType, event: str, argument: Any) -> None:
        package = self._package(frame) if event == "call" else ""
        if not package:
            return
        caller: FrameType | None = frame.f_back
        while caller is not None and caller.f_code.co_name != "watched":
            if caller.f_code.co_name in self.allowed and self._package(caller):
                return  # inside a function that may be called
            caller = caller.f_back
        if frame.f_code.co_name not in self.allowed:
            owner = f"{package}'" if package.endswith("s") else f"{package}'s"
            self.called.append(f"{owner} {frame.f_code.co_name}")

    def _package(self, frame: FrameType) -> str:
        """The closed package that a frame's code belongs to, or ""; this folder is open: the references live here."""
        file = frame.f_code.co_filename
        if file.startswith(_HERE):
            return ""
        return next((name for name, folder in self.folders.items() if file.startswith(folder)), "")


class _Instance:
    """An instance of a student's class whose methods are watched."""

    def __init__(self, inner: Any, wrap: Callable[..., Any]):
        object.__setattr__(self, "_inner", inner)
        object.__setattr__(self, "_wrap", wrap)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        return self._wrap(value) if inspect.ismethod(value) else value

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._inner, name, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._wrap(self._inner.__call__)(*args, **kwargs)
