"""Assignment 3, A guard that survives noise, and a language model: the guard, seeds and intervals, a run and its faults.

The mistakes are written with the library's functions where it has them: they are right but for one thing each.

The runs under `specimens/` were made by the trainer, each by

    python full/train.py --config full/configs/tiny.yaml --steps 80 --eval_every 0 --eval_problems 400

with the one change that `FAULTS` names (the embedded model learns to add; a minute each on one core). Their metrics are
rounded to four digits; of the faulty ones only what the exercise needs is kept.
"""

import copy
import functools
import inspect
import json
import math
import os
import re
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import bandits, plotting
from .a2 import normal, numbers_named, uniform
from .model import Assignment, Check, Code, Exercise, Mistake, NotYet, Numbers, Text, Written, prediction
from .session import grading

SPECIMENS = Path(__file__).parent / "specimens"
FLOAT32 = 1e-6  # answers in float32, torch's default, are right ones; the mistakes are a thousand times further away

# 1. The guard.


class _Guard:
    """The paper's guard.

    __init__(self, alpha_max, alpha_min, rho, gain_scale): all floats.
    update(self, reward, confidence): one step's mean reward and confidence, floats; returns alpha, a float.
    The first update has nothing to compare with: its reward becomes the average, and p is 0.
    """

    def __init__(self, alpha_max: float, alpha_min: float, rho: float, gain_scale: float):
        self.alpha_max, self.alpha_min, self.rho, self.gain_scale = alpha_max, alpha_min, rho, gain_scale
        self.average: float | None = None

    def update(self, reward: float, confidence: float) -> float:
        """One step's mean reward and confidence, both floats; returns alpha, a float."""
        average = reward if self.average is None else self.average
        improvement = math.tanh(max(0.0, reward - average) / self.gain_scale)
        self.average = self.rho * average + (1 - self.rho) * reward
        return self.alpha_max - (self.alpha_max - self.alpha_min) * confidence * improvement


def settings(generator: torch.Generator) -> tuple[float, float, float, float]:
    """alpha_max, alpha_min, rho, gain_scale."""
    return (
        uniform(generator, 0.8, 0.98),
        uniform(generator, 0.2, 0.4),
        uniform(generator, 0.6, 0.9),
        uniform(generator, 0.1, 0.3),
    )


def rewards_of(kind: str) -> Any:
    """Cases (settings, steps) of a guard, a step being (reward, reward_se, confidence)."""

    def cases(generator: torch.Generator, numbers: Numbers) -> list[tuple[Any, ...]]:
        given = []
        for _ in range(2):
            noise = normal(generator, 8).tolist()
            if kind == "rising":
                rewards = [0.3 + 0.05 * t + 0.005 * abs(e) for t, e in enumerate(noise)]
                confidences = [0.7] * 8
            else:
                rewards = [0.5 + 0.08 * e for e in noise]
                confidences = (0.2 + 0.7 * torch.rand(8, generator=generator)).tolist()
                rewards[3] = rewards[2] - 0.1  # at least one fall, and one rise
                rewards[4] = max(rewards) + 0.5  # more than gain_scale
            errors = (0.01 + 0.03 * torch.rand(8, generator=generator)).tolist()
            given.append((settings(generator), list(zip(rewards, errors, confidences, strict=True))))
        return given

    return cases


NO_SELF = "`self` is missing in {}: the first parameter of a method is the object itself, and the others come after it."
NOT_KEPT = "`{0}` is not known in `update`: keep it in `__init__`, self.{0} = {0}, and read self.{0}."
NEVER_SET = "`self.{0}` is read but was never set: `__init__` has to set it."
LOST = "`{}` is lost when `update` returns: what the guard remembers belongs to the object, self.{} = ..."
NOT_ANEW = (
    "a new guard with the same settings and rewards gives other numbers than the one before it: it remembers what that one "
    "saw. The average belongs to the object, self.average, not to a global variable or a default argument."
)


def _made(answer: Any, *arguments: Any) -> Any:
    """A guard of the student's class."""
    if not callable(answer):
        raise NotYet("expected a class.")
    try:
        guard = _called(answer, "__init__", *arguments)
    except TypeError as error:
        if "takes no arguments" in str(error):
            raise NotImplementedError from None
        raise
    if not hasattr(guard, "update"):
        kind = inspect.unwrap(answer)
        others = [name for name, value in vars(kind).items() if callable(value) and not name.startswith("__")]
        if inspect.isclass(kind) and others:
            raise NotYet(f"the class has no method `update`; it has {', '.join(others)}.")
        raise NotImplementedError
    return guard


def _called(function: Any, method: str, *arguments: Any) -> Any:
    """The result of a method; what a class without `self` raises is said in words."""
    try:
        return function(*arguments)
    except (TypeError, NameError, AttributeError) as error:
        text = str(error)
        takes = re.search(rf"{method}\(\) takes (\d+) positional arguments? but", text)
        lacks = (
            takes and int(takes[1]) == len(arguments) and _first_parameter(function, method) in ("alpha_max", "reward")
        )
        if lacks or "name 'self' is not defined" in text:
            raise NotYet(NO_SELF.format(f"`{method}`")) from None
        if isinstance(error, UnboundLocalError) and (local := re.search(r"local variable '(\w+)'", text)):
            raise NotYet(LOST.format(local[1], local[1])) from None
        unknown = re.search(r"name '(alpha_max|alpha_min|rho|gain_scale|margin)' is not defined", text)
        if unknown:
            raise NotYet(NOT_KEPT.format(unknown[1])) from None
        unset = re.search(r"object has no attribute '(\w+)'", text)
        if method == "update" and unset and unset[1] not in ("update", "__init__"):
            raise NotYet(NEVER_SET.format(unset[1])) from None
        raise


def _first_parameter(function: Any, method: str) -> str:
    """The name of a method's first parameter as it was typed."""
    inner = inspect.unwrap(function)
    inner = getattr(inner, method) if inspect.isclass(inner) else inner
    code = getattr(getattr(inner, "__func__", inner), "__code__", None)
    return code.co_varnames[0] if code and code.co_argcount else ""


@contextmanager
def _class_as_written(answer: Any) -> Iterator[None]:
    """Attributes that belong to a student's class are afterwards what they were, so that no case disturbs the next."""
    kind = inspect.unwrap(answer) if callable(answer) else None

    def own() -> dict[str, Any]:
        if not inspect.isclass(kind):
            return {}
        mine = {name: value for name, value in vars(kind).items() if not name.startswith("__")}
        plain = int | float | str | list | dict | Tensor | None
        return {name: value for name, value in mine.items() if isinstance(value, plain)}

    before = copy.deepcopy(own())
    try:
        yield
    finally:
        for name in own().keys() - before.keys():
            delattr(kind, name)
        for name, value in before.items():
            setattr(kind, name, value)


def alphas_of(with_error: bool, twins: bool = False) -> Any:
    """The probe: alpha at each step. With `twins`, a second guard sees other rewards in between."""

    def once(answer: Any, setting: tuple[float, ...], steps: list[tuple[float, float, float]]) -> list[float]:
        with _class_as_written(answer):
            guard = _made(answer, *setting)
            twin = _made(answer, *setting) if twins else None
            seen = []
            for reward, error, confidence in steps:
                arguments = (reward, error, confidence) if with_error else (reward, confidence)
                seen.append(_called(guard.update, "update", *arguments))
                if twin is not None:
                    twin.update(reward + 1.0, *arguments[1:])
        if None in seen:
            when = "" if seen.count(None) == len(seen) else f" in step {seen.index(None) + 1}"
            raise NotYet(f"update returns nothing{when}: alpha is missing after `return`.")
        return [float(alpha) for alpha in seen]

    def probe(answer: Any, setting: tuple[float, ...], steps: list[tuple[float, float, float]]) -> list[float]:
        first, second = (once(answer, setting, steps) for _ in range(2))
        if repr(first) != repr(second):  # repr: NaN is like NaN
            raise NotYet(NOT_ANEW)
        return first

    return probe


def _guard_but(
    *,
    squash: Callable[[float, float], float] = lambda gain, scale: math.tanh(max(0.0, gain) / scale),
    gates: Callable[[float, float], float] = lambda confidence, improvement: confidence * improvement,
    moved: Callable[[float, float, float], float] = lambda average, reward, rho: rho * average + (1 - rho) * reward,
    first: Callable[[float], float] = lambda reward: reward,
    mix: Callable[[float, float, float], float] = lambda top, bottom, gate: top - (top - bottom) * gate,
    margin: Callable[[float, float], float] = lambda error, margin: margin * error,
    early: bool = False,
    hidden_zero: bool = False,
    swapped: bool = False,
    mean_of_all: bool = False,
    with_error: bool = False,
    seen_by_average: Callable[[float, float], float] = lambda reward, width: reward,
    after: Callable[[float, float, float], float] = lambda improvement, width, scale: improvement,
    errors: Callable[[float, list[float]], float] = lambda error, past: error,
    first_alpha: Callable[[float, float], float] = lambda top, bottom: top,
) -> type:
    """A guard with one thing changed; `with_error` makes it the noise-aware one."""

    class Changed:
        average: float | None = None

        def __init__(self, alpha_max: float, alpha_min: float, rho: float, gain_scale: float, wide: float = 0.0):
            self.top, self.bottom, self.rho, self.scale, self.wide = alpha_max, alpha_min, rho, gain_scale, wide
            self.count = 0
            self.past: list[float] = []

        def update(self, reward: float, *rest: float) -> float:
            rest = rest[::-1] if swapped else rest
            confidence = rest[-1]
            if hidden_zero and self.average is None:
                self.average = (1 - self.rho) * reward
                return self.top
            self.past.append(rest[0])
            width = margin(errors(rest[0], self.past), self.wide) if with_error else 0.0
            average = first(reward) if self.average is None else self.average
            self.count += 1
            following = moved(average, seen_by_average(reward, width), self.rho)
            if mean_of_all:
                following = average + (reward - average) / self.count
            gain = reward - (following if early else average) - width
            improvement = after(squash(gain, self.scale), width, self.scale)
            self.average = following
            if self.count == 1 and gain <= 0:
                return first_alpha(self.top, self.bottom)
            return mix(self.top, self.bottom, gates(confidence, improvement))

    return Changed


class _SharedGuard:
    """A guard whose average belongs to the class."""

    average: float | None = None

    def __init__(self, alpha_max: float, alpha_min: float, rho: float, gain_scale: float):
        self.inner = _Guard(alpha_max, alpha_min, rho, gain_scale)

    def update(self, reward: float, confidence: float) -> float:
        """As the guard, with the class's average."""
        self.inner.average = _SharedGuard.average
        alpha = self.inner.update(reward, confidence)
        _SharedGuard.average = self.inner.average
        return alpha


def _global_guard() -> type:
    """A guard whose average is a global variable, which no class and no object owns."""
    average: list[float | None] = [None]

    class Global:
        def __init__(self, *setting: float):
            self.inner = _Guard(*setting)

        def update(self, reward: float, confidence: float) -> float:
            self.inner.average = average[0]
            alpha = self.inner.update(reward, confidence)
            average[0] = self.inner.average
            return alpha

    return Global


def _guard_from(init: str, update: str) -> type:
    """A class as a student types it; both methods from their heads and bodies."""
    names: dict[str, Any] = {"math": math}
    exec(f"class Guard:\n    def __init__({init}\n    def update({update}\n", names)
    return names["Guard"]


_KEEP = """self, alpha_max, alpha_min, rho, gain_scale):
        self.alpha_max, self.alpha_min, self.rho, self.gain_scale = alpha_max, alpha_min, rho, gain_scale
        self.average = None"""
_UPDATE = """self, reward, confidence):
        average = reward if self.average is None else self.average
        gate = confidence * math.tanh(max(0.0, reward - average) / self.gain_scale)
        self.average = self.rho * average + (1 - self.rho) * reward
        return self.alpha_max - (self.alpha_max - self.alpha_min) * gate"""


def _tanh(gain: float, scale: float) -> float:
    return math.tanh(gain / scale)


Guard = Exercise(
    name="Guard",
    title="The guard",
    minutes=20,
    difficulty=2,
    text=r"""
The paper's schedule seeks modes only while the policy is confident *and* improving:

$$\alpha_t = \alpha_{max} - (\alpha_{max} - \alpha_{min})\, c_t\, p_t, \qquad
p_t = \tanh\frac{\max(0,\; R_t - \mathrm{EMA}_{t-1})}{\text{gain scale}}, \qquad
\mathrm{EMA}_t = \rho\,\mathrm{EMA}_{t-1} + (1-\rho)\,R_t$$

$R_t$ is the step's mean reward, $c_t\in[0,1]$ the confidence. Write the class. The first update has nothing to
compare with: there $\mathrm{EMA}_0 = R_1$. Write both methods, `__init__` and `update`, into the class, and mind the
order of comparing and updating. (The tanh is this project's choice; the paper names the average and the positive
part.)
""",
    solution=_Guard,
    referee=_guard_but(),
    checks=(
        Check(
            name="rising",
            title="rewards that rise",
            points=2,
            cases=rewards_of("rising"),
            probe=alphas_of(False),
            rtol=FLOAT32,
            hint="Work out the first three steps by hand: p_1 = 0, and p_2 compares R_2 with R_1.",
        ),
        Check(
            name="noisy",
            title="rewards that rise and fall, changing confidence",
            points=3,
            cases=rewards_of("noisy"),
            probe=alphas_of(False),
            rtol=FLOAT32,
            hint="Work out the step shown by hand: the average before it, the gain, both gates. When the reward falls, alpha "
            "is alpha_max.",
        ),
        Check(
            name="twins",
            title="two guards side by side do not disturb each other",
            points=1,
            cases=rewards_of("noisy"),
            probe=alphas_of(False, twins=True),
            rtol=FLOAT32,
            hint="If the checks above pass: the average belongs to the instance, self.average = ..., set in __init__.",
        ),
    ),
    mistakes=(
        Mistake(
            "average updated before use",
            "the average is updated before the reward is compared with it, so every gain shrinks to rho times itself: compare "
            "with EMA_(t-1), then update.",
            _guard_but(early=True),
        ),
        Mistake(
            "max missing",
            "the max(0, ...) is missing: a falling reward pushes alpha above alpha_max.",
            _guard_but(squash=_tanh),
        ),
        Mistake(
            "clamp the wrong way",
            "the clamp is the wrong way round, min for max: the gate opens when the reward falls.",
            _guard_but(squash=lambda gain, scale: math.tanh(-min(0.0, gain) / scale)),
        ),
        Mistake(
            "absolute gain",
            "the gate opens on any change, also a fall: take the positive part, not the absolute value.",
            _guard_but(squash=lambda gain, scale: math.tanh(abs(gain) / scale)),
        ),
        Mistake(
            "tanh missing",
            "the tanh is missing: a large gain takes alpha below alpha_min.",
            _guard_but(squash=lambda gain, scale: max(0.0, gain) / scale),
        ),
        Mistake(
            "cut at 1 for tanh",
            "the gain is cut at 1 instead of bent by tanh.",
            _guard_but(squash=lambda gain, scale: min(1.0, max(0.0, gain) / scale)),
        ),
        Mistake(
            "gain_scale multiplied",
            "gain_scale multiplies; it divides, so that a gain of its size opens the gate to about 3/4.",
            _guard_but(squash=lambda gain, scale: math.tanh(max(0.0, gain) * scale)),
        ),
        Mistake(
            "gain_scale outside",
            "gain_scale divides after the tanh; it belongs inside.",
            _guard_but(squash=lambda gain, scale: math.tanh(max(0.0, gain)) / scale),
        ),
        Mistake(
            "confidence ignored",
            "the confidence does nothing here: both gates must be open, c times p.",
            _guard_but(gates=lambda confidence, improvement: improvement),
        ),
        Mistake(
            "improvement ignored",
            "the improvement does nothing here: alpha follows the confidence alone.",
            _guard_but(gates=lambda confidence, improvement: confidence),
        ),
        Mistake(
            "uncertainty for confidence",
            "1 - c is used for c: the guard would seek modes while the policy is unsure.",
            _guard_but(gates=lambda confidence, improvement: (1 - confidence) * improvement),
        ),
        Mistake(
            "mean of the gates",
            "the gates are averaged: then one of them is enough to open. They are multiplied.",
            _guard_but(gates=lambda confidence, improvement: (confidence + improvement) / 2),
        ),
        Mistake(
            "smaller of the gates",
            "this takes the smaller of the two gates; they are multiplied.",
            _guard_but(gates=min),
        ),
        Mistake(
            "rests at alpha_min",
            "alpha_max and alpha_min are exchanged: with closed gates alpha rests at alpha_max.",
            _guard_but(mix=lambda top, bottom, gate: bottom + (top - bottom) * gate),
        ),
        Mistake(
            "alpha_min forgotten",
            "alpha_min is forgotten: open gates would take alpha to 0.",
            _guard_but(mix=lambda top, bottom, gate: top - top * gate),
        ),
        Mistake(
            "alpha_min for the difference",
            "open gates take alpha_min off alpha_max here: they take alpha down to alpha_min, so what they take off is the "
            "difference of the two.",
            _guard_but(mix=lambda top, bottom, gate: top - bottom * gate),
        ),
        Mistake(
            "the gate for alpha",
            "this returns how far the gates are open, c times p; alpha is asked for.",
            _guard_but(mix=lambda top, bottom, gate: gate),
        ),
        Mistake(
            "first step at alpha_min",
            "the first step gives alpha_min: nothing has improved yet, so p is 0 and alpha rests at alpha_max.",
            _guard_but(first_alpha=lambda top, bottom: bottom),
        ),
        Mistake(
            "logistic for tanh",
            "this bends the gain by a logistic function, which is 1/2 where nothing improves; tanh is 0 there.",
            _guard_but(squash=lambda gain, scale: 1 / (1 + math.exp(-max(0.0, gain) / scale))),
        ),
        Mistake(
            "rho on the wrong side",
            "rho and 1 - rho are exchanged: rho is the weight of the old average.",
            _guard_but(moved=lambda average, reward, rho: (1 - rho) * average + rho * reward),
        ),
        Mistake(
            "average never moves",
            "the average stays at the first reward: it is never updated.",
            _guard_but(moved=lambda average, reward, rho: average),
        ),
        Mistake(
            "last reward for average",
            "this compares with the last reward; the average remembers longer, by rho.",
            _guard_but(moved=lambda average, reward, rho: reward),
        ),
        Mistake(
            "largest reward for average",
            "this compares with the largest reward so far: after one lucky step nothing would count as a gain again. An "
            "average also sinks.",
            _guard_but(moved=lambda average, reward, rho: max(average, reward)),
        ),
        Mistake(
            "average without 1 - rho",
            "the factor 1 - rho is missing: the average of a constant reward would grow.",
            _guard_but(moved=lambda average, reward, rho: rho * average + reward),
        ),
        Mistake(
            "mean of all rewards",
            "this is the mean of all rewards so far; an exponential average forgets.",
            _guard_but(mean_of_all=True),
        ),
        Mistake(
            "average starts at 0",
            "the average starts at 0, so that the first step looks like a great improvement. It starts at the first reward.",
            _guard_but(first=lambda reward: 0.0),
        ),
        Mistake(
            "average starts at (1 - rho) R_1",
            "the average after the first step is (1 - rho) R_1, as if it had been 0 before: it starts at R_1 itself.",
            _guard_but(hidden_zero=True),
        ),
        Mistake(
            "shared state",
            "two guards share one average: it belongs to the class. Set it in __init__, self.average = ...",
            _SharedGuard,
        ),
        Mistake("global state", NOT_ANEW, _global_guard()),
        Mistake(
            "self missing in update",
            NO_SELF.format("`update`"),
            _guard_from(_KEEP, _UPDATE.replace("self, reward", "reward")),
        ),
        Mistake(
            "self missing in __init__",
            NO_SELF.format("`__init__`"),
            _guard_from(_KEEP.replace("self, alpha_max", "alpha_max"), _UPDATE),
        ),
        Mistake(
            "settings not kept",
            NOT_KEPT.format("gain_scale"),
            _guard_from(_KEEP, _UPDATE.replace("self.gain_scale", "gain_scale")),
        ),
        Mistake(
            "average not set",
            NEVER_SET.format("average"),
            _guard_from(_KEEP.replace("self.average = None", "average = None"), _UPDATE),
        ),
        Mistake(
            "average in a local variable",
            LOST.format("average", "average"),
            _guard_from(
                _KEEP,
                _UPDATE.replace("average = reward if self.average is None else self.average", "pass").replace(
                    "self.average", "average"
                ),
            ),
        ),
    ),
)

# 2. Its failure under noise.


def _gate_under_noise(noise: float, gain_scale: float, rho: float) -> str:
    """E tanh(max(0, X) / gain_scale) for X = R_t - EMA_(t-1), normal with variance 2 noise^2 / (1 + rho); by a sum."""
    sd = noise * math.sqrt(2 / (1 + rho))
    points = [(i + 0.5) / 1000 for i in range(6000)]  # of X / sd, the positive half
    density = [math.exp(-0.5 * x * x) / math.sqrt(2 * math.pi) / 1000 for x in points]
    mean = sum(weight * math.tanh(sd * x / gain_scale) for x, weight in zip(points, density, strict=True))
    return min(
        ("0", "about 0.04", "about 0.23", "about 0.45"), key=lambda choice: abs(float(choice.split()[-1]) - mean)
    )


def _own_noise(generator: torch.Generator) -> dict[str, Any]:
    return {"noise": (0.01, 0.07, 0.5)[int(torch.randint(3, (1,), generator=generator))], "gain_scale": 0.1, "rho": 0.9}


noise_alone = prediction(
    name="noise_alone",
    title="Predict: what does noise do to the gate?",
    minutes=3,
    difficulty=2,
    text=r"""
Nothing is learnt: the mean reward of a step is 0.5 plus normal noise with your `mine["noise"]` as standard deviation.
What is the gate $p_t$ on average, at your `gain_scale` and `rho`? (One point for committing.)
""",
    numbers=_own_noise,
    solution=_gate_under_noise,
    choices={
        "0": "Half of the steps lie above the average, and the gate counts those and never the others.",
        "about 0.04": "Right for a noise ten times smaller than gain_scale: the mean of the positive part is then about 0.4 of "
        "0.01, and tanh is nearly a straight line.",
        "about 0.23": "Right for a noise a little below gain_scale: the gate reads luck as improvement.",
        "about 0.45": "Right for a noise far above gain_scale: half of the steps open the gate nearly to the full, the other "
        "half close it.",
    },
)


def _expected_gain(noise: float, rho: float) -> float:
    """E[max(0, R_t - EMA_(t-1))] where the rewards are independent normal, all with the same mean.

    The average has forgotten its start.  noise: the standard deviation, a float >= 0.  rho: in [0, 1).
    """
    return noise * math.sqrt(2 / (1 + rho)) / math.sqrt(2 * math.pi)


def noises(rho: Callable[[torch.Generator], float]) -> Any:
    """Cases (noise, rho)."""

    def cases(generator: torch.Generator, numbers: Numbers) -> list[tuple[Any, ...]]:
        return [(uniform(generator, 0.05, 2.0), rho(generator)) for _ in range(3)]

    return cases


def _gain_but(
    variance: Callable[[float], float] = lambda rho: 1 + (1 - rho) / (1 + rho),
    factor: float = 1 / math.sqrt(2 * math.pi),
    finish: Callable[[float, float], float] = lambda gain, noise: gain,
) -> Any:
    """E max(0, X) with another variance of X (in units of noise^2), or another factor."""
    return lambda noise, rho: finish(factor * noise * math.sqrt(max(0.0, variance(rho))), noise)


expected_gain = Exercise(
    name="expected_gain",
    title="How much improvement noise fakes",
    minutes=15,
    difficulty=3,
    text=r"""
Work it out, on paper: rewards are independent and normal with one mean and standard deviation $s$, and the average
has been running for so long that its start is forgotten. What is $\mathbb{E}\max(0, R_t - \mathrm{EMA}_{t-1})$? Write
the formula, not a simulation. Three steps: the variance of $\mathrm{EMA}_{t-1} = (1-\rho)\sum_{k\ge0}\rho^k
R_{t-1-k}$; the variance of the difference (is $R_t$ in that average?); and $\mathbb{E}\max(0, X)$ for a centred
normal $X$.
""",
    solution=_expected_gain,
    checks=(
        Check(
            name="value",
            title="the value",
            points=2,
            cases=noises(lambda generator: uniform(generator, 0.3, 0.95)),
            rtol=FLOAT32,
            hint="Compare your formula with a simulation: many normal numbers, a loop for the average, the positive part.",
        ),
        Check(
            name="no_memory",
            title="rho = 0: the average is the last reward",
            points=1,
            cases=noises(lambda generator: 0.0),
            rtol=FLOAT32,
            telling=False,
            hint="Then the average is R_(t-1): the difference of two independent rewards is what counts, and its variance "
            "is 2 s^2.",
        ),
    ),
    mistakes=(
        Mistake(
            "the average taken as exact",
            "the average is taken as exact, but it is noisy itself: its variance is s^2 (1 - rho)/(1 + rho).",
            _gain_but(variance=lambda rho: 1.0),
        ),
        Mistake(
            "variances subtracted",
            "the variances are subtracted: those of independent variables add, also in a difference.",
            _gain_but(variance=lambda rho: 1 - (1 - rho) / (1 + rho)),
        ),
        Mistake(
            "the average's variance is (1 - rho)^2",
            "the average's variance is taken from one reward, (1 - rho)^2: sum the geometric series over all of them.",
            _gain_but(variance=lambda rho: 1 + (1 - rho) ** 2),
        ),
        Mistake(
            "the average's variance is 1 - rho",
            "the average's variance is taken as s^2 (1 - rho): the weights are squared, so the series is in rho^2.",
            _gain_but(variance=lambda rho: 1 + (1 - rho)),
        ),
        Mistake(
            "the average's variance is 1/(1 - rho^2)",
            "the weights of the average have the factor 1 - rho, whose square is missing in its variance.",
            _gain_but(variance=lambda rho: 1 + 1 / (1 - rho**2)),
        ),
        Mistake(
            "the average's variance is that of a reward",
            "the average is taken to be as noisy as one reward: averaging reduces noise.",
            _gain_but(variance=lambda rho: 2.0),
        ),
        Mistake(
            "only the average is noisy",
            "this is the noise of the average alone: R_t is noisy too, and the variances of the two add.",
            _gain_but(variance=lambda rho: (1 - rho) / (1 + rho)),
        ),
        Mistake(
            "standard deviations added",
            "the standard deviations are added; of independent variables the variances add.",
            lambda noise, rho: noise * (1 + math.sqrt((1 - rho) / (1 + rho))) / math.sqrt(2 * math.pi),
        ),
        Mistake(
            "the fraction upside down",
            "the average's variance is upside down, (1 + rho)/(1 - rho): it falls as rho grows, since more rewards are "
            "averaged.",
            _gain_but(variance=lambda rho: 1 + (1 + rho) / (1 - rho)),
        ),
        Mistake(
            "weights exchanged",
            "the average's variance is that of weights rho for the new reward and 1 - rho for the old average: they are "
            "exchanged.",
            _gain_but(variance=lambda rho: 1 + rho / (2 - rho)),
        ),
        Mistake(
            "nothing at rho = 0",
            "at rho = 0 this gives 0; the average is then the last reward, as noisy as this one, so luck opens the gate most.",
            lambda noise, rho: _expected_gain(noise, rho) if rho else 0.0,
        ),
        Mistake(
            "R_t is in the average",
            "this compares R_t with EMA_t, which contains it: the gain then shrinks to rho times itself.",
            lambda noise, rho: rho * _expected_gain(noise, rho) if rho else 0.0,
        ),
        Mistake(
            "absolute value",
            "this is E|X|, twice too large: only the positive half counts.",
            _gain_but(factor=2 / math.sqrt(2 * math.pi)),
        ),
        Mistake(
            "standard deviation for the positive part",
            "this is the standard deviation of the difference; the mean of its positive part is smaller, by 1/sqrt(2 pi).",
            _gain_but(factor=1.0),
        ),
        Mistake(
            "half of it", "this is half a standard deviation; E max(0, X) is sd / sqrt(2 pi).", _gain_but(factor=0.5)
        ),
        Mistake(
            "1/sqrt(pi)",
            "the factor is 1/sqrt(pi); the normal density at its middle is 1/sqrt(2 pi).",
            _gain_but(factor=1 / math.sqrt(math.pi)),
        ),
        Mistake(
            "variance for standard deviation",
            "a root is missing: this uses the variance of the difference, whose unit is the reward squared.",
            lambda noise, rho: noise**2 * 2 / (1 + rho) / math.sqrt(2 * math.pi),
        ),
        Mistake(
            "root of the mean square",
            "this is the root of E max(0, X)^2; the mean of max(0, X) is asked for.",
            _gain_but(factor=math.sqrt(0.5)),
        ),
        Mistake(
            "noise ignored",
            "the noise does nothing here: twice the noise, twice the gain.",
            lambda noise, rho: _expected_gain(1.0, rho),
        ),
    ),
)


def show_gate(expected_gain: Any, noise: float, gain_scale: float, rho: float) -> None:
    """Print the student's expected gain at their noise beside a simulation of the gain and of the gate."""
    gain = expected_gain(noise, rho)
    if gain is None:
        print("Write expected_gain first; then this cell lays a simulation beside it.")
        return
    rewards = (noise * torch.randn(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).tolist()
    average, gains = 0.0, []
    for reward in rewards:
        gains.append(max(0.0, reward - average))
        average = rho * average + (1 - rho) * reward
    gate = statistics.fmean(math.tanh(one / gain_scale) for one in gains)
    print(
        f"noise {noise:g}, rho {rho:g}: your expected gain is {float(gain):.4f}, a simulation gives "
        f"{statistics.fmean(gains):.4f}.\nOver gain_scale {gain_scale:g} that is {float(gain) / gain_scale:.2f}; the gate "
        f"itself is {gate:.2f} on average, less because tanh bends large gains."
    )


# 3. The fix.


class _NoiseGuard:
    """The guard that asks more of a gain: it counts only as far as it exceeds `margin` standard errors.

    __init__(self, alpha_max, alpha_min, rho, gain_scale, margin): all floats.
    update(self, reward, reward_se, confidence): reward_se is the standard error of the step's mean reward; returns alpha.
    """

    def __init__(self, alpha_max: float, alpha_min: float, rho: float, gain_scale: float, margin: float):
        self.alpha_max, self.alpha_min, self.rho, self.gain_scale = alpha_max, alpha_min, rho, gain_scale
        self.margin = margin
        self.average: float | None = None

    def update(self, reward: float, reward_se: float, confidence: float) -> float:
        """One step's mean reward, its standard error and the confidence; returns alpha, a float."""
        average = reward if self.average is None else self.average
        gain = max(0.0, reward - average - self.margin * reward_se)
        self.average = self.rho * average + (1 - self.rho) * reward
        return self.alpha_max - (self.alpha_max - self.alpha_min) * confidence * math.tanh(gain / self.gain_scale)


def guarded_cases(kind: str, margins: tuple[float, ...] = (0.5, 1.5)) -> Any:
    """Cases of `Guard` with a margin among the settings; noisy rewards also have a small gain below and one above it."""

    def cases(generator: torch.Generator, numbers: Numbers) -> list[tuple[Any, ...]]:
        given = []
        for (setting, steps), margin in zip(rewards_of(kind)(generator, numbers), margins, strict=True):
            if kind == "noisy":
                rho = setting[2]
                for share in (0.6, 1.4):
                    average = steps[0][0]
                    for reward, _, _ in steps:
                        average = rho * average + (1 - rho) * reward
                    steps = [*steps, (average + share * (margin or 1.0) * 0.05, 0.05, 0.8)]
            given.append(((*setting, margin), steps))
        return given

    return cases


_aware = functools.partial(_guard_but, with_error=True)

NoiseGuard = Exercise(
    name="NoiseGuard",
    title="A guard that survives noise",
    minutes=15,
    difficulty=2,
    text=r"""
A gain should count only as far as it exceeds what noise would give: subtract `margin` standard errors of the step's
mean reward, `reward_se`, from the gain *before* its positive part is taken. `margin = 0` is the guard as before. The
average goes on seeing the plain reward. (The fix is this project's.)
""",
    solution=_NoiseGuard,
    referee=_aware(),
    checks=(
        Check(
            name="rising",
            title="rewards that rise",
            points=2,
            cases=guarded_cases("rising"),
            probe=alphas_of(True),
            rtol=FLOAT32,
            hint="Work out the first three steps by hand.",
        ),
        Check(
            name="noisy",
            title="rewards that rise and fall, changing noise and confidence",
            points=2,
            cases=guarded_cases("noisy"),
            probe=alphas_of(True),
            rtol=FLOAT32,
            hint="Work out the step shown by hand: the average before it, the gain, the margin, both gates.",
        ),
        Check(
            name="none",
            title="margin = 0: the guard as before",
            points=1,
            cases=guarded_cases("noisy", (0.0, 0.0)),
            probe=alphas_of(True),
            rtol=FLOAT32,
        ),
    ),
    mistakes=(
        Mistake(
            "margin added",
            "the margin is added to the gain: then noise opens the gate even wider. Subtract it.",
            _aware(margin=lambda error, margin: -margin * error),
        ),
        Mistake(
            "margin after the positive part",
            "the margin is subtracted after the positive part: a small gain becomes a negative one, and alpha exceeds "
            "alpha_max.",
            _aware(
                margin=lambda error, margin: margin * error,
                squash=lambda gain, scale: gain,
                after=lambda gain, width, scale: math.tanh((max(0.0, gain + width) - width) / scale),
            ),
        ),
        Mistake(
            "margin as a threshold",
            "a gain above the margin counts in full, the margin is only a threshold: what counts is the excess over it.",
            _aware(
                squash=lambda gain, scale: gain,
                after=lambda gain, width, scale: math.tanh((gain + width) / scale) if gain > 0 else 0.0,
            ),
        ),
        Mistake(
            "margin after the tanh",
            "the margin is subtracted from p, after the tanh: it is in the unit of the reward, so it belongs inside.",
            _aware(
                squash=lambda gain, scale: gain,
                after=lambda gain, width, scale: max(0.0, math.tanh(max(0.0, gain + width) / scale) - width),
            ),
        ),
        Mistake(
            "margin after gain_scale",
            "the margin is subtracted after the division by gain_scale: gain and margin are both in the unit of the reward.",
            _aware(
                squash=lambda gain, scale: gain,
                after=lambda gain, width, scale: math.tanh(max(0.0, (gain + width) / scale - width)),
            ),
        ),
        Mistake(
            "margin in the denominator",
            "the margin widens gain_scale here, so that every gain counts a little; a gain below the margin counts nothing.",
            _aware(
                squash=lambda gain, scale: gain,
                after=lambda gain, width, scale: math.tanh(max(0.0, gain + width) / (scale + width)),
            ),
        ),
        Mistake(
            "a switch for tanh",
            "a gain above the margin opens the gate at once and to the full; how far it opens depends on the excess, by tanh.",
            _aware(squash=lambda gain, scale: float(gain > 0)),
        ),
        Mistake(
            "confidence ignored",
            "the confidence does nothing here: both gates must be open, c times p.",
            _aware(gates=lambda confidence, improvement: improvement),
        ),
        Mistake(
            "root of the standard error",
            "the root of reward_se is taken; reward_se is a root already, in the unit of the reward.",
            _aware(margin=lambda error, margin: margin * math.sqrt(error)),
        ),
        Mistake(
            "margin ignored",
            "the margin does nothing here: this is the guard as before.",
            _aware(margin=lambda error, margin: 0.0),
        ),
        Mistake(
            "standard error ignored",
            "the margin is a fixed number here; it counts standard errors, margin * reward_se.",
            _aware(margin=lambda error, margin: margin),
        ),
        Mistake(
            "one standard error always",
            "one standard error is subtracted whatever the margin is: margin * reward_se.",
            _aware(margin=lambda error, margin: error),
        ),
        Mistake(
            "variance for standard error",
            "the standard error is squared: that is a variance, in the unit of the reward squared.",
            _aware(margin=lambda error, margin: margin * error**2),
        ),
        Mistake(
            "the average sees the margin",
            "the margin is also subtracted from what the average sees: the average would sink below the rewards. It sees the "
            "plain reward.",
            _aware(seen_by_average=lambda reward, width: reward - width),
        ),
        Mistake(
            "both directions",
            "a fall opens the gate as well: take the positive part, not the absolute value.",
            _aware(
                squash=lambda gain, scale: gain,
                after=lambda gain, width, scale: math.tanh(max(0.0, abs(gain + width) - width) / scale),
            ),
        ),
        Mistake(
            "max missing",
            "the max(0, ...) is missing: a falling reward pushes alpha above alpha_max.",
            _aware(squash=_tanh),
        ),
        Mistake(
            "arguments exchanged",
            "reward_se and confidence are exchanged: update(self, reward, reward_se, confidence), in this order.",
            _aware(swapped=True),
        ),
        Mistake(
            "largest standard error so far",
            "this uses the largest standard error seen so far; the present step's is asked for.",
            _aware(errors=lambda error, past: max(past)),
        ),
        Mistake(
            "mean of the standard errors",
            "this uses the mean of all standard errors so far; the present step's is asked for.",
            _aware(errors=lambda error, past: sum(past) / len(past)),
        ),
        Mistake(
            "average updated before use",
            "the average is updated before the reward is compared with it: compare with EMA_(t-1), then update.",
            _aware(early=True),
        ),
    ),
)


TOP, BOTTOM, RHO, SCALE = 0.9, 0.35, 0.9, 0.1  # alpha_max, alpha_min, rho and gain_scale of both guards in the picture


class _PerRun:
    """A student's guards, one for each run, where the bandit expects one schedule for all."""

    def __init__(self, make: Callable[[], Any], runs: int, with_error: bool):
        self.guards, self.with_error = [make() for _ in range(runs)], with_error
        self.alpha: Any = 0.9

    def update(self, signals: Any) -> Tensor:
        """One alpha for each run."""
        rows = zip(self.guards, signals.reward, signals.reward_se, signals.confidence, strict=True)
        self.alpha = torch.tensor(
            [
                float(
                    guard.update(float(r), float(se), float(c)) if self.with_error else guard.update(float(r), float(c))
                )
                for guard, r, se, c in rows
            ],
            dtype=torch.float64,
        )
        return self.alpha

    def traces(self) -> dict[str, Any]:
        """Nothing more to record."""
        return {}


def show_guards(guard: Any, noise_guard: Any, snr: float = 1.0, runs: int = 20, steps: int = 150) -> None:
    """Both guards on a bandit with noisy rewards: alpha and confidence, and what they earn, beside fixed alpha 0.9."""
    from ..widgets import figure

    if not hasattr(guard, "update") or not hasattr(noise_guard, "update"):
        print("Write Guard and NoiseGuard first; then this cell lets them guard a noisy bandit.")
        return
    base = bandits.Loop(num_steps=steps, alpha=TOP, closed_form=True)
    makers = {
        "your Guard": (lambda: guard(TOP, BOTTOM, RHO, SCALE), False),
        "your NoiseGuard, margin 2": (lambda: noise_guard(TOP, BOTTOM, RHO, SCALE, 2.0), True),
    }
    loops = {
        name: replace(base, schedule=functools.partial(_PerRun, make, runs, with_error))
        for name, (make, with_error) in makers.items()
    }
    loops["fixed 0.9"] = base
    bandit = bandits.equal_arms(noise=1.0 / snr)
    histories = {name: bandits.run(bandit, loop, seeds=runs, snapshots=2) for name, loop in loops.items()}
    rest = slice(2 * steps // 3, None)
    print(
        f"noise {1 / snr:g} on a gap of 1, groups of {base.group}, {runs} runs; both guards: alpha_max {TOP:g}, alpha_min "
        f"{BOTTOM:g}, rho {RHO:g}, gain_scale {SCALE:g}\nmean over the last third of the steps and two standard errors"
    )
    with plotting.style():
        picture, ax = plotting.figure(size=(6.0, 2.8))
        for (name, history), dash in zip(histories.items(), plotting.DASHES, strict=False):
            columns = (
                ("alpha", history.alpha),
                ("confidence", history.confidence),
                ("reward", history.expected_reward),
            )
            words = []
            for title, series in columns:
                if name not in makers and title == "confidence":
                    continue  # nobody asks for it
                means = series[rest].mean(0)
                words.append(f"{title} {float(means.mean()):.3f} +- {float(2 * means.std() / runs**0.5):.3f}")
            print(f"  {name:26s} {'   '.join(words)}")
            ax.plot(history.alpha.mean(1), linestyle=dash, label=name)
        ax.set(xlabel="step", ylabel=f"alpha, mean of {runs} runs")
        ax.legend()
    figure(
        picture,
        "Alpha under noise: the guard keeps opening on luck, the one with a margin seldom does.",
        "Alpha against steps for both guards and for a fixed alpha of 0.9, means over runs.",
    )


what_it_mends = Written(
    name="what_it_mends",
    title="What the fix mends",
    minutes=8,
    difficulty=2,
    text=r"""
With your figures: (a) by how much did noise lower alpha under the plain guard, and what did the margin change? (b)
Did the margin change the *reward* beyond its interval? (c) Where does a guarded run end when nothing improves any
more, and which fixed schedule is that? (d) Name one thing that a margin costs, and the line of *your* `NoiseGuard`
that is to blame.
""",
    rubric=(
        (1, "(a) both mean alphas with their intervals, and whether the gap fits the gate that this noise must open"),
        (1, "(b) both rewards with their intervals, and no more than these say"),
        (1, "(c) what p and alpha do when nothing improves, and the fixed schedule that this is"),
        (1, "(d) a cost, and the line that is to blame"),
    ),
    answer=r"""
(a) Under noise of 1 the plain guard rests well below 0.9, although nothing improves; with two standard errors alpha
is within 0.02 of 0.9. (b) The rewards agree within their intervals: the margin mends alpha, not the outcome. (c)
Without improvement $p_t\to0$ and $\alpha_t\to\alpha_{max}$, so a converged guarded run is a run at fixed
$\alpha_{max}$. (d) A real but slow gain, smaller than the margin in any single step, no longer opens the gate: `gain
= max(0.0, reward - average - self.margin * reward_se)` cannot tell it from noise.
""",
)

# 4. Seeds and intervals.

_T95 = (
    12.706,
    4.303,
    3.182,
    2.776,
    2.571,
    2.447,
    2.365,
    2.306,
    2.262,
    2.228,
    2.201,
    2.179,
    2.160,
    2.145,
    2.131,
    2.120,
    2.110,
    2.101,
    2.093,
    2.086,
    2.080,
    2.074,
    2.069,
    2.064,
    2.060,
    2.056,
    2.052,
    2.048,
    2.045,
    2.042,
)


def t95(degrees: int) -> float:
    """Student's t: 95 % of its distribution lies within plus or minus this, for 1 to 30 degrees of freedom."""
    if not 1 <= degrees <= len(_T95):
        raise ValueError(f"degrees is {degrees}; expected 1 to {len(_T95)}.")
    return _T95[degrees - 1]


def _interval(values: Tensor) -> tuple[float, float]:
    """Mean and half-width of the 95 % t-interval of the mean.  values: [n], one number a seed, n from 2 to 31."""
    n = len(values)
    return float(values.mean()), t95(n - 1) * float(values.std()) / math.sqrt(n)


def samples_of(*sizes: int) -> Any:
    """Cases (values,)."""

    def cases(generator: torch.Generator, numbers: Numbers) -> list[tuple[Any, ...]]:
        return [(uniform(generator, 0.3, 0.9) + 0.2 * normal(generator, size),) for size in sizes]

    return cases


def _interval_but(
    quantile: Callable[[int], float] = lambda n: t95(n - 1),
    correction: int = 1,
    divisor: Callable[[int], float] = math.sqrt,
    middle: Callable[[Tensor], Tensor] = torch.mean,
    times: float = 1.0,
    root: bool = True,
) -> Any:
    def compute(values: Tensor) -> tuple[float, float]:
        n = len(values)
        spread = values.std(correction=correction) if root else values.var(correction=correction)
        return float(middle(values)), times * quantile(n) * float(spread) / divisor(n)

    return compute


_mean_and_half = functools.partial(numbers_named, "mean", "half-width")
interval = Exercise(
    name="interval",
    title="An interval over seeds",
    minutes=8,
    difficulty=1,
    text=r"""
A run is one draw. Over $n$ seeds report the mean and the half-width of its 95 % t-interval, $t_{n-1}\, s/\sqrt n$,
with the unbiased standard deviation $s$. `t95(degrees)` gives $t$.
""",
    solution=_interval,
    checks=(
        Check(
            name="few",
            title="a few seeds",
            points=2,
            cases=samples_of(4, 6),
            probe=_mean_and_half(),
            rtol=1e-6,
            hint="Which of the two numbers is off? With few seeds t is far above 2.",
        ),
        Check(name="many", title="more seeds", points=1, cases=samples_of(20, 30), probe=_mean_and_half(), rtol=1e-6),
    ),
    mistakes=(
        Mistake(
            "normal quantile",
            "1.96 is the normal quantile: with a few seeds the spread is itself uncertain, hence Student's t.",
            _interval_but(quantile=lambda n: 1.96),
        ),
        Mistake("2 for t", "2 is a rule of thumb; Student's t depends on n.", _interval_but(quantile=lambda n: 2.0)),
        Mistake(
            "n degrees of freedom",
            "t has n - 1 degrees of freedom: the mean has used one up.",
            _interval_but(quantile=t95),
        ),
        Mistake(
            "n - 2 degrees of freedom",
            "t has n - 1 degrees of freedom; n - 2 belongs to a fitted line.",
            _interval_but(quantile=lambda n: t95(n - 2)),
        ),
        Mistake(
            "biased standard deviation",
            "the standard deviation divides by n; the unbiased one divides by n - 1.",
            _interval_but(correction=0),
        ),
        Mistake(
            "root of n missing",
            "this is the spread of single runs: the mean of n varies less, by 1/sqrt(n).",
            _interval_but(divisor=lambda n: 1.0),
        ),
        Mistake(
            "divided by n", "this divides by n; the standard error divides by its root.", _interval_but(divisor=float)
        ),
        Mistake(
            "root of n - 1",
            "the unbiased standard deviation is there already; divide it by the root of n, not of n - 1.",
            _interval_but(divisor=lambda n: math.sqrt(n - 1)),
        ),
        Mistake(
            "whole width", "this is the whole width of the interval; half of it is asked for.", _interval_but(times=2.0)
        ),
        Mistake(
            "standard error only",
            "this is the standard error: the factor t is missing.",
            _interval_but(quantile=lambda n: 1.0),
        ),
        Mistake("variance", "the root of the variance is missing.", _interval_but(root=False)),
        Mistake(
            "90 %",
            "1.645 is the normal quantile of 90 %; asked for is Student's of 95 %.",
            _interval_but(quantile=lambda n: 1.645),
        ),
        Mistake("sum", "the first number is the sum; the mean is asked for.", _interval_but(middle=torch.sum)),
        Mistake(
            "spread around 0",
            "the spread is the root mean square of the values; the standard deviation is around their mean.",
            lambda values: (
                float(values.mean()),
                t95(len(values) - 1) * float(values.square().mean().sqrt()) / len(values) ** 0.5,
            ),
        ),
        Mistake(
            "half of the half-width",
            "this is half of the half-width: t times the standard error already is.",
            _interval_but(times=0.5),
        ),
        Mistake(
            "median",
            "the first number is the median; the mean is asked for.",
            _interval_but(middle=lambda v: v.median()),
        ),
        Mistake(
            "both ends",
            "these are the two ends of the interval; mean and half-width are asked for.",
            lambda values: (_interval(values)[0] - _interval(values)[1], sum(_interval(values))),
        ),
        Mistake(
            "half-width first",
            "the half-width comes first; the order is mean, half-width.",
            lambda values: _interval(values)[::-1],
        ),
        Mistake(
            "quantiles of the runs",
            "these are quantiles of the single runs, not an interval for their mean.",
            lambda values: (float(values.mean()), float(values.quantile(0.975) - values.quantile(0.025)) / 2),
        ),
    ),
)


def _chosen(rewards: Tensor, reference: int) -> tuple[int, float, float]:
    """Choose a setting on the first half of the seeds, and report on the other half how far it beats the reference.

    rewards: [settings, seeds], an even number of seeds; column i is seed i in every setting (paired).
    reference: the row to compare with.  Returns (row chosen, mean difference, half-width of its 95 % t-interval).
    """
    half = rewards.shape[1] // 2
    best = int(rewards[:, :half].mean(1).argmax())
    difference = (rewards[best] - rewards[reference])[half:]
    return best, float(difference.mean()), t95(half - 1) * float(difference.std()) / math.sqrt(half)


def tables(generator: torch.Generator, numbers: Numbers) -> list[tuple[Any, ...]]:
    """Cases (rewards, reference): seeds matter more than settings, and some settings draw one lucky seed."""
    given: list[tuple[Any, ...]] = []
    for _ in range(3):
        level = torch.tensor([0.50, 0.52, 0.54, 0.56, 0.40]).double()[torch.randperm(5, generator=generator)]
        rewards = level[:, None] + 0.2 * normal(generator, 1, 20) + 0.08 * normal(generator, 5, 20)
        order = rewards[:, :10].mean(1).argsort()
        lucky = int(order[1])  # one lucky seed, and a mean as before
        rewards[lucky, :10] -= 0.1
        rewards[lucky, int(torch.randint(10, (1,), generator=generator))] += 1.0
        rewards[int(order[3]), 10:] += 0.4  # the best of the second half, and of all
        reference = int(order[2])
        given.append((rewards, reference))
    return given


def _chosen_but(
    pick: Callable[[Tensor, int], int] = lambda rewards, half: int(rewards[:, :half].mean(1).argmax()),
    seen: Callable[[Tensor, int], Tensor] = lambda values, half: values[..., half:],
    error: Callable[[Tensor, Tensor], float] = lambda a, b: t95(len(a) - 1) * float((a - b).std()) / math.sqrt(len(a)),
    value: Callable[[Tensor, Tensor], float] = lambda a, b: float((a - b).mean()),
) -> Any:
    def choose(rewards: Tensor, reference: int) -> tuple[int, float, float]:
        half = rewards.shape[1] // 2
        best = pick(rewards, half)
        a, b = seen(rewards[best], half), seen(rewards[reference], half)
        return best, value(a, b), error(a, b)

    return choose


def _capped(n: int) -> float:
    return t95(min(n, 30))


_three = functools.partial(numbers_named, "row chosen", "mean difference", "half-width")
chosen = Exercise(
    name="chosen",
    title="Choose on one half, report on the other",
    minutes=14,
    difficulty=2,
    text=r"""
The best of five settings looks better than it is, because luck helped to choose it. So choose the setting with the
best mean on the *first* half of the seeds, and report on the *second* half how far it beats a reference: mean and
half-width of the 95 % t-interval of the paired differences. Your `interval` does half of the work.
""",
    solution=_chosen,
    checks=(
        Check(
            name="row",
            title="the row chosen",
            points=1,
            cases=tables,
            probe=_three(pick=0),
            rtol=1e-6,
            floor=1e-6,
            telling=False,
            hint="The index of the row, as argmax gives it. Which columns may choose?",
        ),
        Check(
            name="lead",
            title="its mean difference to the reference",
            points=2,
            cases=tables,
            probe=_three(pick=1),
            rtol=1e-6,
            hint="Print which rows and which columns each of your two steps sees.",
        ),
        Check(
            name="width",
            title="the half-width of that",
            points=1,
            cases=tables,
            probe=_three(pick=2),
            rtol=1e-6,
            hint="Differences first, seed by seed; then the interval of the seeds that are reported.",
        ),
    ),
    mistakes=(
        Mistake(
            "reported where it was chosen",
            "the difference is reported on the seeds on which the setting was chosen: those are lucky ones for it.",
            _chosen_but(seen=lambda values, half: values[..., :half]),
        ),
        Mistake(
            "all seeds for both",
            "all seeds are used to choose and to report: nothing is left that the choice has not seen.",
            _chosen_but(
                pick=lambda rewards, half: int(rewards.mean(1).argmax()),
                seen=lambda values, half: values,
                error=lambda a, b: _capped(len(a) - 1) * float((a - b).std()) / math.sqrt(len(a)),
            ),
        ),
        Mistake(
            "reported on all seeds",
            "chosen on the first half, but reported on all seeds, of which half helped to choose.",
            _chosen_but(
                seen=lambda values, half: values,
                error=lambda a, b: _capped(len(a) - 1) * float((a - b).std()) / math.sqrt(len(a)),
            ),
        ),
        Mistake(
            "halves exchanged",
            "the halves are exchanged: choose on the first, report on the second.",
            _chosen_but(
                pick=lambda rewards, half: int(rewards[:, half:].mean(1).argmax()),
                seen=lambda values, half: values[..., :half],
            ),
        ),
        Mistake(
            "the reported seeds helped to choose",
            "the seeds that are reported helped to choose the setting: choose on the first half alone.",
            _chosen_but(pick=lambda rewards, half: int(rewards[:, half:].mean(1).argmax())),
        ),
        Mistake(
            "even and odd seeds",
            "the seeds are split into even and odd ones: choose on the first half, report on the second.",
            _chosen_but(
                pick=lambda rewards, half: int(rewards[:, ::2].mean(1).argmax()),
                seen=lambda values, half: values[..., 1::2],
            ),
        ),
        Mistake(
            "odd and even seeds",
            "the setting is chosen on the odd seeds and reported on the even ones: choose on the first half, report on the "
            "second.",
            _chosen_but(
                pick=lambda rewards, half: int(rewards[:, 1::2].mean(1).argmax()),
                seen=lambda values, half: values[..., ::2],
            ),
        ),
        Mistake(
            "the worst",
            "this chooses the setting with the smallest mean.",
            _chosen_but(pick=lambda rewards, half: int(rewards[:, :half].mean(1).argmin())),
        ),
        Mistake(
            "the best single run",
            "this chooses the setting of the best single run: one lucky seed decides. Take the best mean.",
            _chosen_but(pick=lambda rewards, half: int(rewards[:, :half].amax(1).argmax())),
        ),
        Mistake(
            "sign",
            "this is the reference minus the choice; asked for is the choice minus the reference.",
            _chosen_but(value=lambda a, b: float((b - a).mean())),
        ),
        Mistake(
            "reward for difference",
            "this reports the chosen setting's reward itself; asked for is the difference to the reference.",
            _chosen_but(
                value=lambda a, b: float(a.mean()),
                error=lambda a, b: t95(len(a) - 1) * float(a.std()) / math.sqrt(len(a)),
            ),
        ),
        Mistake(
            "score for row",
            "the first number is the best mean itself; the index of its row is asked for.",
            lambda rewards, reference: (
                float(rewards[:, : rewards.shape[1] // 2].mean(1).max()),
                *_chosen(rewards, reference)[1:],
            ),
        ),
        Mistake(
            "row counted from 1",
            "the row is counted from 1; Python counts from 0.",
            lambda rewards, reference: (_chosen(rewards, reference)[0] + 1, *_chosen(rewards, reference)[1:]),
        ),
        Mistake(
            "not paired",
            "row and difference are right, but the error is that of unpaired runs: take the differences seed by seed, then "
            "their spread.",
            _chosen_but(error=lambda a, b: t95(len(a) - 1) * float((a.var() + b.var()).sqrt()) / math.sqrt(len(a))),
        ),
        Mistake(
            "normal quantile",
            "row and difference are right, but 1.96 is the normal quantile: the half has 10 seeds, so t95(9).",
            _chosen_but(error=lambda a, b: 1.96 * float((a - b).std()) / math.sqrt(len(a))),
        ),
        Mistake(
            "degrees of freedom of all seeds",
            "row and difference are right, but t has the degrees of freedom of the half that is reported.",
            _chosen_but(error=lambda a, b: t95(2 * len(a) - 1) * float((a - b).std()) / math.sqrt(len(a))),
        ),
        Mistake(
            "degrees of freedom not reduced",
            "row and difference are right, but t has n - 1 degrees of freedom, with n the seeds that are reported.",
            _chosen_but(error=lambda a, b: t95(len(a)) * float((a - b).std()) / math.sqrt(len(a))),
        ),
        Mistake(
            "root of n missing",
            "row and difference are right, but this is the spread of single seeds: the mean of n varies less, by 1/sqrt(n).",
            _chosen_but(error=lambda a, b: t95(len(a) - 1) * float((a - b).std())),
        ),
        Mistake(
            "divided by n",
            "row and difference are right, but this divides by n; the standard error divides by its root.",
            _chosen_but(error=lambda a, b: t95(len(a) - 1) * float((a - b).std()) / len(a)),
        ),
        Mistake(
            "whole width",
            "row and difference are right, but this is the whole width of the interval; half of it is asked for.",
            _chosen_but(error=lambda a, b: 2 * t95(len(a) - 1) * float((a - b).std()) / math.sqrt(len(a))),
        ),
        Mistake(
            "divided by the root of all seeds",
            "row and difference are right, but the mean is over one half: divide by the root of its size.",
            _chosen_but(error=lambda a, b: t95(len(a) - 1) * float((a - b).std()) / math.sqrt(2 * len(a))),
        ),
        Mistake(
            "standard error only",
            "row and difference are right, but the factor t is missing in the half-width.",
            _chosen_but(error=lambda a, b: float((a - b).std()) / math.sqrt(len(a))),
        ),
        Mistake(
            "biased standard deviation",
            "row and difference are right, but the standard deviation divides by n; the unbiased one divides by n - 1.",
            _chosen_but(error=lambda a, b: t95(len(a) - 1) * float((a - b).std(correction=0)) / math.sqrt(len(a))),
        ),
    ),
)

# 5. A sweep.

ALPHAS = (0.0, 0.2, 0.4, 0.6, 0.9)
STEPS, SEEDS, REFERENCE = 150, 40, 3
TASKS = ("equal arms", "lucky arms", "flipped")


def task(name: str) -> Any:
    """One of the three bandits of the sweep."""
    if name == "equal arms":
        return bandits.equal_arms()
    if name == "lucky arms":
        return bandits.lucky()
    if name != "flipped":
        raise ValueError(f"task is {name!r}; expected one of {', '.join(TASKS)}.")
    before = bandits.graded()
    return bandits.Changing(bandits=(before, replace(before, values=before.values.flip(-1))), starts=(0, 75))


def _large_wins() -> str:
    """Measured with 40 seeds: 0.9 minus 0 is -0.25 on lucky arms, +0.35 on flipped, -0.008 on equal arms."""
    return "flipped"


which_alpha = prediction(
    name="which_alpha",
    title="Predict: where does a large alpha win?",
    minutes=3,
    difficulty=2,
    text=r"""
Three bandits of sixteen arms. *Equal arms*: four arms pay 1 and the others nothing, exactly. *Lucky arms*: two pay 1
with a noise of 0.1, four pay 0.7 on average with a noise of 0.8, the others nothing. *Flipped*: rewards rise evenly
from arm to arm, and after 75 of 150 steps their order is turned round. On which does a fixed $\alpha$ of 0.9 earn
clearly more than 0 in the second half of the run? Think of assignment 2: the risk attitude, and the length of a step
where success is rare. (One point for committing.)
""",
    solution=_large_wins,
    choices={
        "equal arms": "Here alpha changes the length of the step, and 150 steps are enough for any of them: the difference is "
        "below 0.02.",
        "lucky arms": "Here it loses by far: a large alpha / beta_r likes risk, and the lucky arms have the best single draws.",
        "flipped": "Yes: the policy is sure of what has become the worst, success is rare, and a large alpha makes long "
        "steps where success is rare.",
        "on none": "On flipped it does: where success is rare its steps are longer.",
    },
)


def _own_sweep(generator: torch.Generator) -> dict[str, Any]:
    first = 10 * int(torch.randint(1, 100, (1,), generator=generator))
    name = ("lucky arms", "flipped")[int(torch.randint(2, (1,), generator=generator))]
    return {"name": name, "first_seed": first}


def _sweep_report(name: str, first_seed: int) -> tuple[Tensor, float, float, float]:
    """The sweep: (rewards [5, 40], alpha chosen on the first half, its mean lead over 0.6 on the other, the half-width)."""
    loops = {alpha: bandits.Loop(alpha=alpha, num_steps=150, closed_form=True) for alpha in (0.0, 0.2, 0.4, 0.6, 0.9)}
    histories = bandits.run_all(task(name), loops, seeds=range(first_seed, first_seed + 40), snapshots=2)
    rewards = torch.stack([history.expected_reward[75:].mean(0) for history in histories.values()])
    best = int(rewards[:, :20].mean(1).argmax())
    lead = (rewards[best] - rewards[3])[20:]
    return rewards, tuple(loops)[best], float(lead.mean()), t95(19) * float(lead.std()) / math.sqrt(20)


def _report(rewards: Tensor, row: int, seen: slice, quantile: float = 2.093) -> tuple[Tensor, float, float, float]:
    lead = (rewards[row] - rewards[REFERENCE])[seen]
    return rewards, ALPHAS[row], float(lead.mean()), quantile * float(lead.std()) / math.sqrt(len(lead))


@functools.cache
def _histories(name: str, first_seed: int) -> list[bandits.History]:
    loops = {alpha: bandits.Loop(alpha=alpha, num_steps=150, closed_form=True) for alpha in ALPHAS}
    return list(bandits.run_all(task(name), loops, seeds=range(first_seed, first_seed + 40), snapshots=2).values())


def _swept_but(change: Callable[[Tensor, int], Any]) -> Any:
    """A wrong report made from the right sweep."""

    def answer(name: str, first_seed: int) -> Any:
        rewards = torch.stack([history.expected_reward[75:].mean(0) for history in _histories(name, first_seed)])
        return change(rewards, int(rewards[:, :20].mean(1).argmax()))

    return answer


def _swept_otherwise(
    read: Callable[[bandits.History], Tensor], first: Callable[[int], int] = lambda first_seed: first_seed
) -> Any:
    """A report on scores that are read from other seeds, or otherwise."""

    def answer(name: str, first_seed: int) -> Any:
        rewards = torch.stack([read(history) for history in _histories(name, first(first_seed))])
        return _report(rewards, int(rewards[:, :20].mean(1).argmax()), slice(20, None))

    return answer


OTHER = slice(20, None)


def swept_part(index: int) -> Any:
    """The probe that looks at the table, or at the three numbers."""

    def probe(answer: Any) -> Any:
        if not isinstance(answer, tuple | list) or len(answer) != 4:
            raise NotYet("expected (rewards [5, 40], alpha, difference, half-width).")
        if index:
            return tuple(float(number) for number in answer[1:])
        rewards = torch.as_tensor(answer[0])
        if tuple(rewards.shape) != (5, 40):
            raise NotYet(
                f"the rewards have shape {tuple(rewards.shape)}; expected one row for each alpha, one column a seed."
            )
        return rewards

    return probe


def _one(generator: torch.Generator, numbers: Numbers) -> list[tuple[Any, ...]]:
    return [()]


sweep_report = Exercise(
    name="sweep_report",
    title="A sweep of fixed alpha",
    minutes=12,
    difficulty=2,
    text=r"""
Run it: the task `task(mine["name"])` at $\alpha$ = 0, 0.2, 0.4, 0.6 and 0.9, with 40 seeds from `mine["first_seed"]`
on (the same for every $\alpha$), with the library's bandit:

```python
loops = {alpha: bandits.Loop(alpha=alpha, num_steps=150, closed_form=True) for alpha in (0.0, 0.2, 0.4, 0.6, 0.9)}
first = mine["first_seed"]
histories = bandits.run_all(task(mine["name"]), loops, seeds=range(first, first + 40), snapshots=2)  # {alpha: history}
history.expected_reward  # of one history: [steps, seeds]
```

A run's score is its mean expected reward from step 75 on. Answer with the table of scores, the alpha that `chosen`
chooses, and how far it beats 0.6 on the other half of the seeds, with the half-width.
""",
    stub="sweep_report = None  # (scores [5, 40], alpha, difference to 0.6, half-width)",
    value=True,
    library="all",
    numbers=_own_sweep,
    solution=_sweep_report,
    referee=_swept_but(lambda rewards, row: _report(rewards, row, OTHER)),
    checks=(
        Check(
            name="scores",
            title="the table of scores",
            points=2,
            cases=_one,
            probe=swept_part(0),
            rtol=1e-3,
            hint="history.expected_reward[75:].mean(0), one row for each alpha in the order given.",
        ),
        Check(
            name="choice",
            title="alpha, difference and half-width",
            points=2,
            cases=_one,
            probe=swept_part(1),
            rtol=1e-3,
            hint="Choose on the first 20 seeds, report on the other 20 the differences to 0.6, seed by seed.",
        ),
    ),
    mistakes=(
        Mistake(
            "the reference's alpha",
            "the alpha is 0.6, the one to compare with; the one that was chosen is asked for.",
            _swept_but(lambda rewards, row: (rewards, ALPHAS[REFERENCE], *_report(rewards, row, OTHER)[2:])),
        ),
        Mistake(
            "reported where it was chosen",
            "the difference is reported on the seeds on which alpha was chosen.",
            _swept_but(lambda rewards, row: _report(rewards, row, slice(20))),
        ),
        Mistake(
            "all seeds",
            "the difference is reported on all seeds, of which half helped to choose.",
            _swept_but(lambda rewards, row: _report(rewards, row, slice(None), 2.0227)),
        ),
        Mistake(
            "reward for difference",
            "this reports the chosen alpha's score; asked for is its difference to 0.6.",
            _swept_but(
                lambda rewards, row: (
                    rewards,
                    ALPHAS[row],
                    float(rewards[row, OTHER].mean()),
                    t95(19) * float(rewards[row, OTHER].std()) / math.sqrt(20),
                )
            ),
        ),
        Mistake(
            "the worst alpha",
            "this is the alpha with the smallest score.",
            _swept_but(lambda rewards, row: _report(rewards, int(rewards[:, :20].mean(1).argmin()), OTHER)),
        ),
        Mistake(
            "sign",
            "this is 0.6 minus the choice; asked for is the choice minus 0.6.",
            _swept_but(
                lambda rewards, row: (
                    rewards,
                    ALPHAS[row],
                    -_report(rewards, row, OTHER)[2],
                    _report(rewards, row, OTHER)[3],
                )
            ),
        ),
        Mistake(
            "divided by the root of all seeds",
            "the half-width is divided by the root of 40; 20 seeds are reported.",
            _swept_but(lambda rewards, row: _report(rewards, row, OTHER, 2.093 / math.sqrt(2))),
        ),
        Mistake(
            "over alpha = 0.9",
            "this is the difference to alpha = 0.9, the last row; asked for is that to 0.6.",
            _swept_but(lambda rewards, row: (rewards, ALPHAS[row], *_interval((rewards[row] - rewards[-1])[OTHER]))),
        ),
        Mistake(
            "normal quantile",
            "the half-width has 1.96 for t: 20 seeds are reported, so t95(19).",
            _swept_but(lambda rewards, row: _report(rewards, row, OTHER, 1.96)),
        ),
        Mistake(
            "standard error only",
            "the factor t is missing in the half-width.",
            _swept_but(lambda rewards, row: _report(rewards, row, OTHER, 1.0)),
        ),
        Mistake(
            "other seeds",
            "these are the scores of seeds 0 to 39; yours begin at mine['first_seed'].",
            _swept_otherwise(lambda history: history.expected_reward[75:].mean(0), lambda first_seed: 0),
        ),
        Mistake(
            "sampled rewards",
            "the scores are means of sampled rewards, with their luck in them; history.expected_reward is asked for.",
            _swept_otherwise(lambda history: history.reward[75:].mean(0)),
        ),
        Mistake(
            "the last step only",
            "the scores are read at the last step alone; they are means from step 75 on.",
            _swept_otherwise(lambda history: history.expected_reward[-1]),
        ),
        Mistake(
            "the whole run",
            "the scores are means over the whole run; they are means from step 75 on.",
            _swept_otherwise(lambda history: history.expected_reward.mean(0)),
        ),
        Mistake(
            "the first half",
            "the scores are means over the steps before 75; they are means from step 75 on.",
            _swept_otherwise(lambda history: history.expected_reward[:75].mean(0)),
        ),
        Mistake(
            "entropies",
            "the scores are entropies; expected rewards are asked for.",
            _swept_otherwise(lambda history: history.entropy[75:].mean(0)),
        ),
        Mistake(
            "rows in reverse",
            "the rows are in reverse order: one for each alpha, from 0 to 0.9.",
            _swept_but(lambda rewards, row: (rewards.flip(0), *_report(rewards, row, OTHER)[1:])),
        ),
    ),
)


def show_sweep(interval: Any, sweep_report: Any) -> None:
    """Draw the student's own table of scores with their own intervals, and how often one seed would have chosen otherwise."""
    from ..widgets import figure

    if sweep_report is None or interval(torch.arange(3.0)) is None:
        print("Write interval and sweep_report first; then this cell draws the sweep.")
        return
    rewards = torch.as_tensor(sweep_report[0])
    with plotting.style():
        picture, ax = plotting.figure(size=(6.0, 3.0))
        ax.plot(ALPHAS, rewards, color="#bbbbbb", linewidth=0.6)
        pairs = [interval(row[:31]) for row in rewards]
        means, halves = [float(pair[0]) for pair in pairs], [float(pair[1]) for pair in pairs]
        ax.errorbar(ALPHAS, means, halves, fmt="o-", capsize=4, label="mean of 31 seeds, 95 %")
        ax.set(xlabel="fixed alpha", ylabel="score of a run")
        ax.legend()
    best = rewards.mean(1).argmax()
    same = float((rewards.argmax(0) == best).double().mean())
    words = (
        f"One line a seed. Alpha {ALPHAS[int(best)]:g} is the best on average; a single seed would have chosen it in "
        f"{same:.0%} of cases."
    )
    figure(picture, words, f"Scores against alpha, 40 seeds and their means with intervals. {words}")


one_seed = Written(
    name="one_seed",
    title="What one seed would have told you",
    minutes=6,
    difficulty=2,
    text=r"""
(a) State the result of your sweep in one sentence with its interval, and the mechanism behind it. (b) From your
picture: how often would a study with one seed have chosen another $\alpha$? (c) Why may you not report the difference
on the seeds that chose? Which line of *your* `chosen` prevents it?
""",
    rubric=(
        (1, "(a) alpha, difference and half-width, and a mechanism that fits your task"),
        (1, "(b) the share from the picture, as a statement about single seeds"),
        (1, "(c) the bias, its direction, and the line that avoids it"),
    ),
    answer=r"""
(a) On lucky arms $\alpha = 0$ beats 0.6 by about 0.14 with a half-width of 0.06 (20 seeds): a large $\alpha/\beta_r$
likes risk and goes to the arms with the best single draws. (b) The share is printed under my picture: one seed in
several picks another $\alpha$. (c) The best of five noisy means is too high by selection; on fresh seeds it is not.
`difference = (rewards[best] - rewards[reference])[half:]` reads the seeds that did not choose.
""",
)

# 6. A language model.


@dataclass(frozen=True)
class Fault:
    """A planted fault. code: the run's folder.  how: the one change to the command.  shows: what gives it away."""

    code: str
    how: str
    shows: str


FAULTS = {
    "learning rate too high": Fault(
        "heron",
        "--lr 1e-2",
        "the reward falls to nothing within a dozen steps while kl_old and grad_norm shoot up, and completions run on to the "
        "limit",
    ),
    "judge turned round": Fault(
        "kite",
        "--reward MODULE:FUNCTION, a reward of 1 - accuracy",
        "the reward rises to 1 while the held-out accuracy falls to 0: what is rewarded is not what is wanted",
    ),
    "judge blind": Fault(
        "plover",
        "--reward format",
        "the reward is 1 from the first step on, groups_with_signal and grad_norm are near 0, and nothing is learnt",
    ),
    "schedule frozen": Fault(
        "rail",
        "--confidence_from anchored",
        "the model learns, but the confidence is near 0 all along and alpha does not leave alpha_max",
    ),
    "sampling too cold": Fault(
        "snipe",
        "--temperature 0.1",
        "token_entropy is a tenth of the healthy run's from the first step on, the completions of a group are alike, and few "
        "groups have a signal although the reward is far from 0 and 1",
    ),
    "samples too old": Fault(
        "teal",
        "--epochs 8",
        "kl_old rises in long saw-teeth, 16 updates from one 0 to the next, and the reward stalls or falls",
    ),
    "answers cut off": Fault(
        "wren",
        "--max_completion_tokens 4",
        "truncated_fraction is 1 and completion_length sits at its limit: long answers are never finished, so their groups "
        "have no signal",
    ),
}
HEALTHY = "nothing wrong"


def may_train() -> bool:
    """Whether the notebook's training cell may do what it says: never while it is graded."""
    return not (grading() or os.environ.get("APO_EDU_SANDBOX"))


def rows_of(folder: Path) -> list[dict[str, float]]:
    """metrics.jsonl of a run folder."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines() if line.strip()]


def _own_updates(generator: torch.Generator) -> dict[str, Any]:
    return {
        "mini_batch_prompts": (16, 32, 64)[int(torch.randint(3, (1,), generator=generator))],
        "prompts_per_batch": 64,
    }


def _share_on_policy(mini_batch_prompts: int, prompts_per_batch: int) -> str:
    """The first update of each batch is on policy, the others are not."""
    updates = prompts_per_batch // mini_batch_prompts
    return {1: "in every step", 2: "in every second step", 4: "in every fourth step"}[updates]


on_policy = prediction(
    name="on_policy",
    title="Predict: how often is the trainer on policy?",
    minutes=3,
    difficulty=1,
    text=r"""
The trainer samples completions for `mine["prompts_per_batch"]` prompts, then makes one optimiser step for each
`mine["mini_batch_prompts"]` of them, then samples anew. `kl_old` is the divergence of the present policy from the one
that sampled. In which steps is it exactly 0? (One point for committing.)
""",
    numbers=_own_updates,
    solution=_share_on_policy,
    choices={
        "in every step": "So it is where one step uses up the whole batch: then every step's samples are the policy's own.",
        "in every second step": "So it is with two steps a batch: the first sees its own samples, the second those of a policy "
        "one step old. tiny.yaml is set like this.",
        "in every fourth step": "So it is with four steps a batch: only the first of the four sees its own samples.",
        "never": "Before the first step of a batch the policy has not moved since it sampled: kl_old is exactly 0 there.",
    },
)


def _run_facts(text: str) -> dict[str, float]:
    """Four facts of a run, from the text of its metrics.jsonl (one JSON object a line, one line a step).

    "gain": mean reward_mean of the last quarter of the steps minus that of the first (number of steps // 4 each).
    "gain_se": its standard error, from the unbiased variances of the two quarters.
    "on_policy": the share of steps with kl_old exactly 0.
    "spike": the largest grad_norm over the median grad_norm (the mean of the two middle ones if even).
    """
    rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    rewards = [row["reward_mean"] for row in rows]
    quarter = len(rows) // 4
    first, last = rewards[:quarter], rewards[-quarter:]
    norms = [row["grad_norm"] for row in rows]
    return {
        "gain": statistics.fmean(last) - statistics.fmean(first),
        "gain_se": math.sqrt((statistics.variance(first) + statistics.variance(last)) / quarter),
        "on_policy": sum(row["kl_old"] == 0 for row in rows) / len(rows),
        "spike": max(norms) / statistics.median(norms),
    }


def logs(generator: torch.Generator, numbers: Numbers) -> list[tuple[Any, ...]]:
    """Cases (text of a metrics.jsonl,)."""
    given: list[tuple[Any, ...]] = []
    for steps, least in ((42, 3), (30, 2)):
        noise, norms = (0.04 * normal(generator, steps)).tolist(), (1 + normal(generator, steps).abs()).tolist()
        norms[int(torch.randint(steps - 1, (1,), generator=generator))] = 40.0
        every = int(torch.randint(least, 5, (1,), generator=generator))
        rows = []
        for t in range(steps):
            kl = 0.0 if t % every == 0 else float(0.002 + 0.02 * torch.rand((), generator=generator))
            if t % every == 1 and t // every % 3 == 0:  # hardly moved, and off policy all the same
                kl = 10 ** (-9.1 - 0.8 * float(torch.rand((), generator=generator))) * (1e-4 if t == 1 else 1.0)
            reward = 0.3 + 0.4 * t / steps + noise[t] * (1 + t / steps)
            rows.append({"step": t + 1, "reward_mean": reward, "reward_std": 0.48, "kl_old": kl, "grad_norm": norms[t]})
        given.append(("".join(json.dumps(row) + "\n" for row in rows),))
    return given


FACTS = ("gain", "gain_se", "on_policy", "spike")


def fact(name: str) -> Any:
    """The probe that looks at one of the facts."""

    def probe(answer: Any, text: str) -> Any:
        given = answer(text)
        if given is None:
            return None
        if not isinstance(given, dict) or set(given) != set(FACTS):
            raise NotYet(f"expected a dict with the keys {', '.join(FACTS)}.")
        return float(given[name])

    return probe


def _facts_but(**changes: Callable[[list[dict[str, float]]], float]) -> Any:
    """The facts with one computed differently, from the rows."""

    def facts(text: str) -> dict[str, float]:
        rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        return _run_facts(text) | {name: change(rows) for name, change in changes.items()}

    return facts


def _reward(rows: list[dict[str, float]]) -> list[float]:
    return [row["reward_mean"] for row in rows]


def _norms(rows: list[dict[str, float]]) -> list[float]:
    return [row["grad_norm"] for row in rows]


def _gain_of(
    share: int = 4, mean: Callable[[list[float]], float] = statistics.fmean, steps: int = 0
) -> Callable[[list[dict[str, float]]], float]:
    def gain(rows: list[dict[str, float]]) -> float:
        rewards, part = _reward(rows), steps or len(rows) // share
        return mean(rewards[-part:]) - mean(rewards[:part])

    return gain


def _error_of(
    variance: Callable[[list[float]], float] = statistics.variance,
    combine: Callable[[float, float, int], float] = lambda a, b, n: math.sqrt((a + b) / n),
    share: int = 4,
    steps: int = 0,
) -> Callable[[list[dict[str, float]]], float]:
    def error(rows: list[dict[str, float]]) -> float:
        rewards, part = _reward(rows), steps or len(rows) // share
        return combine(variance(rewards[:part]), variance(rewards[-part:]), part)

    return error


run_facts = Exercise(
    name="run_facts",
    title="Facts of a run",
    minutes=20,
    difficulty=2,
    text=r"""
A run writes one JSON object a step into `metrics.jsonl`. Turn its text into four facts, a dict with the keys below.
The docstring says what each is. (The minutes include the cell above, if you train yourself.)
""",
    solution=_run_facts,
    checks=tuple(
        Check(name=name, title=title, points=1, cases=logs, probe=fact(name), rtol=1e-5, hint=hint)
        for name, title, hint in (
            ("gain", "the gain in reward", "Quarters of len(rows) // 4 steps, first and last."),
            (
                "gain_se",
                "its standard error",
                "Variances of independent means add; each is divided by the number of steps in it.",
            ),
            (
                "on_policy",
                "the share of steps on policy",
                "Count the steps with kl_old == 0, of all steps; a number as small as 1e-12 is not 0.",
            ),
            (
                "spike",
                "the largest gradient norm over the median",
                "The largest of all steps, over statistics.median of all steps.",
            ),
        )
    ),
    mistakes=(
        Mistake(
            "last minus first step",
            "the gain is the last step's reward minus the first's: two single steps are mostly noise. Take quarters.",
            _facts_but(gain=lambda rows: _reward(rows)[-1] - _reward(rows)[0]),
        ),
        Mistake(
            "halves for quarters",
            "gain and error are taken over halves; quarters are asked for.",
            _facts_but(gain=_gain_of(2), gain_se=_error_of(share=2)),
        ),
        Mistake(
            "sign of the gain",
            "the gain is first minus last: a rising reward must have a positive gain.",
            _facts_but(gain=lambda rows: -_gain_of()(rows)),
        ),
        Mistake(
            "median rewards",
            "the gain is a difference of medians; means are asked for.",
            _facts_but(gain=_gain_of(mean=statistics.median)),
        ),
        Mistake(
            "best reward",
            "the gain ends at the best reward of the run, a lucky step; take the mean of the last quarter.",
            _facts_but(gain=lambda rows: max(_reward(rows)) - statistics.fmean(_reward(rows)[: len(rows) // 4])),
        ),
        Mistake(
            "standard deviation for standard error",
            "gain_se is the spread of single steps: divide the variances by the number of steps in a quarter.",
            _facts_but(gain_se=_error_of(combine=lambda a, b, n: math.sqrt(a + b))),
        ),
        Mistake(
            "errors added",
            "the two standard errors are added; of independent means the squares add.",
            _facts_but(gain_se=_error_of(combine=lambda a, b, n: math.sqrt(a / n) + math.sqrt(b / n))),
        ),
        Mistake(
            "error of the last quarter only",
            "gain_se is the error of the last quarter's mean alone; the first quarter's adds to it.",
            _facts_but(gain_se=_error_of(combine=lambda a, b, n: math.sqrt(b / n))),
        ),
        Mistake(
            "variance for standard error",
            "the root is missing in gain_se.",
            _facts_but(gain_se=_error_of(combine=lambda a, b, n: (a + b) / n)),
        ),
        Mistake(
            "biased variance",
            "the variances in gain_se divide by n; the unbiased ones divide by n - 1.",
            _facts_but(gain_se=_error_of(variance=statistics.pvariance)),
        ),
        Mistake(
            "reward_std for the error",
            "reward_std is the spread of single completions within a step; gain_se is about the spread between steps.",
            _facts_but(gain_se=lambda rows: statistics.fmean(row["reward_std"] for row in rows)),
        ),
        Mistake(
            "off policy",
            "this is the share of steps off policy, 1 minus the one asked for.",
            _facts_but(on_policy=lambda rows: statistics.fmean(row["kl_old"] != 0 for row in rows)),
        ),
        Mistake(
            "nearly on policy",
            "kl_old below a threshold counts as on policy here; on policy it is exactly 0.",
            _facts_but(on_policy=lambda rows: statistics.fmean(row["kl_old"] < 0.01 for row in rows)),
        ),
        Mistake(
            "a tolerance for zero",
            "a tiny kl_old counts as on policy here: a policy that has hardly moved has moved. On policy it is exactly 0.",
            _facts_but(on_policy=lambda rows: statistics.fmean(row["kl_old"] < 1e-6 for row in rows)),
        ),
        Mistake(
            "per cent",
            "on_policy is in per cent; a share lies between 0 and 1.",
            _facts_but(on_policy=lambda rows: 100 * statistics.fmean(row["kl_old"] == 0 for row in rows)),
        ),
        Mistake(
            "relative gain",
            "the gain is divided by where it began; the difference itself is asked for.",
            _facts_but(gain=lambda rows: _gain_of()(rows) / statistics.fmean(_reward(rows)[: len(rows) // 4])),
        ),
        Mistake(
            "thirds for quarters",
            "gain and error are taken over thirds; quarters are asked for.",
            _facts_but(gain=_gain_of(3), gain_se=_error_of(share=3)),
        ),
        Mistake(
            "ten steps for quarters",
            "gain and error are taken over ten steps, however long the run is; a quarter is len(rows) // 4.",
            _facts_but(gain=_gain_of(steps=10), gain_se=_error_of(steps=10)),
        ),
        Mistake(
            "1.96 standard errors",
            "gain_se is 1.96 standard errors; one is asked for.",
            _facts_but(gain_se=lambda rows: 1.96 * _error_of()(rows)),
        ),
        Mistake(
            "over the smallest norm",
            "spike is over the smallest gradient norm, one lucky step; the median is asked for.",
            _facts_but(spike=lambda rows: max(_norms(rows)) / min(_norms(rows))),
        ),
        Mistake(
            "a number of steps",
            "on_policy is a number of steps; the share is asked for.",
            _facts_but(on_policy=lambda rows: sum(row["kl_old"] == 0 for row in rows)),
        ),
        Mistake(
            "the largest norm itself",
            "spike is the largest gradient norm; divide it by the median.",
            _facts_but(spike=lambda rows: max(_norms(rows))),
        ),
        Mistake(
            "mean for median",
            "spike is over the mean, which the spike itself pulls up: take the median.",
            _facts_but(spike=lambda rows: max(_norms(rows)) / statistics.fmean(_norms(rows))),
        ),
        Mistake(
            "the lower middle one",
            "for an even number of steps the median is the mean of the two middle norms; this takes the lower of them.",
            _facts_but(spike=lambda rows: max(_norms(rows)) / statistics.median_low(_norms(rows))),
        ),
        Mistake(
            "the upper middle one",
            "for an even number of steps the median is the mean of the two middle norms; this takes the upper of them.",
            _facts_but(spike=lambda rows: max(_norms(rows)) / statistics.median_high(_norms(rows))),
        ),
        Mistake(
            "the last norm",
            "spike is the last gradient norm over the median; the largest is asked for.",
            _facts_but(spike=lambda rows: _norms(rows)[-1] / statistics.median(_norms(rows))),
        ),
    ),
)

read_report = Written(
    name="read_report",
    title="Read the report",
    minutes=12,
    difficulty=2,
    text=r"""
For the run that you have just looked at (say which: yours or the committed one): (a) state the gain in reward with
its standard error, and the held-out accuracy before and after, sampled and greedy, with theirs. Is it learning or
sharpening? (b) When does alpha leave its upper end, and what opened the gate? (c) What share of the steps is on
policy, and from which two options does it follow? (d) Name one thing that the curves do *not* show.
""",
    rubric=(
        (1, "(a) all numbers with their errors, and a verdict with its reason"),
        (1, "(b) when alpha leaves its upper end, and which of the two gates decides it"),
        (1, "(c) the share, and the two options with their values"),
        (1, "(d) something that the curves really do not show"),
    ),
    answer=r"""
(The committed run.) (a) The reward gained about 0.25 ± 0.02 between the first and the last quarter; held out, sampled
pass@1 rose from 0.40 to 0.67 (± 0.024) and greedy from 0.59 to 0.89, so the model's best guess improved too:
learning, not sharpening alone. (b) In bursts of one step, when its reward stands out of the average by more than one
standard error; the confidence is near 0.95 throughout, so it is the improvement gate that decides. (c) One half: 64
prompts a batch in mini-batches of 32. (d) One seed, one task; nothing says that another alpha or GRPO would not have
done the same.
""",
)

# 7. Two planted failures.


def _own_runs(generator: torch.Generator) -> dict[str, Any]:
    codes = sorted(fault.code for fault in FAULTS.values())
    first, second = torch.randperm(len(codes), generator=generator)[:2].tolist()
    return {"first": codes[first], "second": codes[second]}


def _diagnosis(first: str, second: str) -> tuple[str, str]:
    """The faults of the two runs."""
    names = {
        "heron": "learning rate too high",
        "kite": "judge turned round",
        "plover": "judge blind",
        "rail": "schedule frozen",
        "snipe": "sampling too cold",
        "teal": "samples too old",
        "wren": "answers cut off",
    }
    return names[first], names[second]


def named_fault(index: int) -> Any:
    """The probe: whether one of the two runs has the right name; says what the named fault would show."""

    def probe(answer: Any, *codes: str) -> Any:
        if not isinstance(answer, tuple | list):
            raise NotYet("expected two names in brackets, (first, second).")
        if len(answer) != 2:
            raise NotYet(f"{len(answer)} names are given; expected one for each run, (first, second).")
        given, code = " ".join(str(answer[index]).lower().split()), codes[index]
        where = ("the first run", "the second run")[index]
        if given == HEALTHY:
            raise NotYet(f"{where} is not healthy: lay its curves beside the healthy run's, one by one.")
        if given not in FAULTS:
            raise NotYet(f"{given!r} is none of the names in the list.")
        if FAULTS[given].code == code:
            return True
        raise NotYet(f"{where} is not {given!r}. There, {FAULTS[given].shows}. Which of these does it not show?")

    return probe


def at_least_one_wrong(answer: Any) -> str:
    """What is said while working where not both names are right: what each would show, and not which is wrong.

    One verdict for each name would let a student try the list; "" where the answer is not two names of it.
    """
    if not isinstance(answer, tuple | list) or len(answer) != 2:
        return ""
    given = [" ".join(str(name).lower().split()) for name in answer]
    if any(name not in FAULTS for name in given):
        return ""
    shows = "\n".join(f"  {name}: {FAULTS[name].shows}." for name in dict.fromkeys(given))
    return f"not both are right. Look for these in the curves of the run that you gave the name to:\n{shows}"


def _own_codes(generator: torch.Generator, numbers: Numbers) -> list[tuple[Any, ...]]:
    return [(numbers["first"], numbers["second"])]


def _misnamed(change: Callable[[str, str], Any]) -> Any:
    return lambda first, second: change(*_diagnosis(first, second))


diagnosis = Exercise(
    name="diagnosis",
    title="Two planted failures",
    minutes=20,
    difficulty=3,
    text=r"""
Each of the two runs above has one fault. Name each fault, exactly as in this list:

- `"learning rate too high"`: thirty times the healthy one
- `"judge turned round"`: wrong answers are rewarded
- `"judge blind"`: nearly every completion gets the same reward
- `"schedule frozen"`: the confidence is read from a distribution that is always uniform on policy
- `"sampling too cold"`: completions are sampled at temperature 0.1
- `"samples too old"`: each batch of samples is used for many updates
- `"answers cut off"`: completions end before the answer does
- `"nothing wrong"`

The check says whether *both* are right, and otherwise what each of your names would show; which of the two is wrong you learn
with your marks.
""",
    stub='diagnosis = None  # ("name of the first run\'s fault", "name of the second run\'s fault")',
    value=True,
    library="all",
    together=at_least_one_wrong,
    numbers=_own_runs,
    solution=_diagnosis,
    checks=(
        Check(name="first", title="the first run", points=3, cases=_own_codes, probe=named_fault(0)),
        Check(name="second", title="the second run", points=3, cases=_own_codes, probe=named_fault(1)),
    ),
    mistakes=(
        Mistake("exchanged", "the two are exchanged.", _misnamed(lambda a, b: (b, a))),
        Mistake(
            "the first taken for healthy",
            "the first run is not healthy: lay its curves beside the healthy run's, one by one.",
            _misnamed(lambda a, b: (HEALTHY, b)),
        ),
        Mistake(
            "the second taken for healthy",
            "the second run is not healthy: lay its curves beside the healthy run's, one by one.",
            _misnamed(lambda a, b: (a, HEALTHY)),
        ),
        Mistake(
            "both taken for healthy",
            "neither of the two is healthy: lay their curves beside the healthy run's, one by one.",
            _misnamed(lambda a, b: (HEALTHY, HEALTHY)),
        ),
        Mistake(
            "the first's fault twice",
            "the fault named twice is the first run's alone: the two runs have different faults.",
            _misnamed(lambda a, b: (a, a)),
        ),
        Mistake(
            "the second's fault twice",
            "the fault named twice is the second run's alone: the two runs have different faults.",
            _misnamed(lambda a, b: (b, b)),
        ),
        Mistake("one name only", "two names are asked for, in brackets.", _misnamed(lambda a, b: a)),
        Mistake("three names", "one name for each run, two in all.", _misnamed(lambda a, b: (a, b, a))),
        Mistake(
            "the runs' names",
            "these are the names of the runs; the names of their faults are asked for.",
            lambda first, second: (first, second),
        ),
        Mistake("the first left open", "the first run is left open.", _misnamed(lambda a, b: ("", b))),
        Mistake("the second left open", "the second run is left open.", _misnamed(lambda a, b: (a, ""))),
    ),
)


CURVES = (
    ("reward_mean", "mean reward"),
    ("groups_with_signal", "groups with signal"),
    ("token_entropy", "token entropy (nats)"),
    ("alpha", "alpha"),
    ("confidence", "confidence"),
    ("kl_old", "KL to the sampler (nats)"),
    ("grad_norm", "gradient norm"),
    ("truncated_fraction", "truncated completions"),
)


def show_runs(first: str, second: str) -> None:
    """Eight curves of two runs beside the healthy one, their evaluations, and their last completions."""
    from ..widgets import figure

    runs = {"healthy": rows_of(SPECIMENS / "healthy")}
    runs |= {name: rows_of(SPECIMENS / name) for name in (first, second)}
    with plotting.style():
        picture, axes = plotting.figure(2, 4, size=(13.5, 5.4))
        for ax, (key, label) in zip(axes.flat, CURVES, strict=True):
            for (name, rows), dash, width in zip(runs.items(), ("-", "--", ":"), (0.9, 1.6, 1.9), strict=True):
                ax.plot([row["step"] for row in rows], [row[key] for row in rows], dash, label=name, linewidth=width)
            ax.set(xlabel="optimiser step", ylabel=label)
        axes[0, 0].legend()
    for name in runs:
        summary = json.loads((SPECIMENS / name / "summary.json").read_text())
        before, after = summary["eval_before"], summary["eval_after"]
        print(
            f"{name:8s} held-out pass@1 {before['pass@1']:.3f} -> {after['pass@1']:.3f}, "
            f"greedy {before['greedy']:.3f} -> {after['greedy']:.3f} (standard errors below 0.03)"
        )
    for name in (first, second):
        print(f"\n{name}, some of its completions:")
        for line in (SPECIMENS / name / "completions.jsonl").read_text().splitlines()[-5:]:
            sample = json.loads(line)
            print(
                f"  {sample['problem']:18s} {sample['completion']!r:28s} gold {sample['answer']:5s} reward {sample['reward']:g}"
            )
    figure(
        picture,
        f"The healthy run (solid), {first} (dashed) and {second} (dotted): what is unlike?",
        "Eight curves of three runs against optimiser steps: " + ", ".join(label for _, label in CURVES) + ".",
    )


evidence = Written(
    name="evidence",
    title="The evidence",
    minutes=15,
    difficulty=3,
    text=r"""
For each of your two runs: (a) the curve that gave it away, with two numbers read off it and the healthy run's beside
them; (b) another fault from the list that would have looked alike in some curve, and what rules it out; (c) what you
would change, and what you would watch to see that it helped. Would the reward curve alone have told you?
""",
    rubric=(
        (2, "(a) for both runs a curve, with numbers of the run and of the healthy one"),
        (2, "(b) for both runs a real look-alike, ruled out by something that can be seen"),
        (1, "(c) for both runs a change that removes the fault and not a symptom, and a quantity that would show it"),
        (1, "what the reward curve alone would have told, for each of the two"),
    ),
    answer=r"""
(An example, for *judge blind* and *sampling too cold*.) (a) Blind: groups_with_signal is 0.01 from the start, the
healthy run has 0.85. Cold: token_entropy starts at 0.026 nats, the healthy run at 0.28. (b) Both have few groups with
signal. The blind judge's reward is 1.0 from the first step, while the cold run's is between 0.6 and 0.8: its groups
are all right or all wrong because eight nearly equal completions are. (c) Blind: judge the answer, not the form;
watch groups_with_signal and held-out pass@1. Cold: temperature 1; watch the entropy at step 1 and groups_with_signal.
The reward curve alone misleads with the blind judge: at 1.0 it looks like a solved task, and held-out accuracy fell.
""",
)

# 8. One open problem.

open_problem = Written(
    name="open_problem",
    title="Change one thing",
    minutes=60,
    difficulty=3,
    text=r"""
An open problem: nobody has marked the answer, and a well-made "no effect" earns full marks. Change *one* thing in the
method, in the bandit or in the trainer, and find out what it does. Some that are worth an hour:

- another confidence ($c_t$ from the arms drawn, `confidence_from="answers"`; from the target; a constant);
- another gain: a fast minus a slow average instead of one step's reward;
- a rule that lowers $\alpha$ where duplicates in a group get different rewards (a noisy judge);
- $\tau_{anc}$ and the number of updates a batch; Adam for SGD; standardised advantages in APO;
- the trainer with `--off_policy clip`, or `--objective grpo`, at equal cost.

Write: (1) what you change and why it could matter, (2) what you *predicted* before you ran it, (3) how you measured
it: at least 20 paired seeds in the bandit or 3 in the trainer, a fixed baseline, a choice of learning rate that is
fair to both, and your `interval`; (4) the result with its interval and one figure; (5) what would change your mind.
Add code cells below as you need them.
""",
    rubric=(
        (2, "one change, clearly stated, with a reason from the method's equations"),
        (2, "a prediction with a direction, made before the run, and compared honestly with the outcome"),
        (
            3,
            "a fair measurement: paired seeds, enough of them, a baseline with its own best setting, nothing else changed",
        ),
        (2, "the result as a number with an interval, and a figure whose axes and seeds are named"),
        (2, "the conclusion says no more than the interval does; negative results are stated as such"),
        (1, "says what was not tested, and what would change the conclusion"),
    ),
    answer=r"""
(An example.) (1) The gain as a fast (0.5) minus a slow (0.95) average of the reward: single lucky steps should open
the gate less. (2) I predicted a mean $\alpha$ closer to 0.9 at noise 1, and no change in reward. (3) The bandit of
part one, 40 paired seeds, 150 steps, learning rate chosen among 0.25, 0.5 and 1 for each on seeds 100 to 119. (4)
Mean $\alpha$ over the last third rose, as predicted, and the difference in reward had an interval that includes 0.
(5) Only one noise level and one task: on a task that improves slowly for a long time the fast average could see what
one step does not, and that is where I would look next.
""",
)

sources = Written(
    name="sources",
    title="Whom and what you asked",
    minutes=2,
    difficulty=1,
    text='Name the people, pages and AI assistants that you asked, and for what. "Nobody" is an answer.',
    rubric=((0, "says what was asked of whom, within the course's policy"),),
    answer="I asked nobody.",
)

TRAIN_CELL = """
TRAIN = False  # True trains the embedded model here: about a minute, and another one the first time for its warm start
ROOT = Path(apo_edu.__file__).parents[1]
RUN = SPECIMENS / "healthy"  # a finished run, for those who do not want to wait; set it to your own run's folder
if TRAIN and may_train():
    command = [sys.executable, "full/train.py", "--config", "full/configs/tiny.yaml", "--steps", "80", "--eval_every", "0",
               "--eval_problems", "400", "--save_every", "0", "--output_dir", "runs/a3", "--overwrite", "true"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    print(done.stdout[-1500:] if done.returncode == 0 else done.stderr[-3000:])
    RUN = ROOT / "runs" / "a3" if done.returncode == 0 else RUN
print(f"reading {RUN.name}; its report in one page: python full/page.py {RUN}")
"""

FACTS_CELL = """
summary = json.loads((RUN / "summary.json").read_text())
print(run_facts((RUN / "metrics.jsonl").read_text()))
for when in ("eval_before", "eval_after"):
    print(when, {key: summary[when][key] for key in ("pass@1", "pass@1_se", "greedy", "greedy_se", "n")})
show_run(RUN)
me.reveal("on_policy")
"""


def show_run(folder: Path) -> None:
    """Six curves of one run."""
    from ..widgets import figure

    rows = rows_of(Path(folder))
    with plotting.style():
        picture, axes = plotting.figure(2, 3, size=(12.0, 5.4))
        for ax, keys in zip(
            axes.flat,
            (("reward_mean",), ("alpha", "confidence", "improvement"), ("token_entropy",), ("grad_norm",), ("kl_old",),
             ("groups_with_signal", "truncated_fraction")),
            strict=True,
        ):  # fmt: skip
            plotting.training_curves(ax, rows, keys)
        axes[0, 2].set_ylabel("token entropy (nats)")
        axes[1, 1].set_ylabel("KL to the sampler (nats / token)")
        axes[1, 2].set_ylabel("fraction")
    figure(
        picture,
        "Reward, alpha with its gates, token entropy, gradient norm, KL to the sampling policy, groups with signal.",
        "Six curves of one run against optimiser steps.",
    )


assignment = Assignment(
    name="a3",
    title="A guard that survives noise, and a language model",
    intro=r"""
You write the schedule that the paper calls reward-and-confidence guarded, find out what noise does to it, and mend
it. Then you compare fixed $\alpha$ the way a result should be reported, read a run of the real trainer on a small
language model, find what is wrong with two others, and change one thing yourself. Afterwards you can tell an effect
from luck, and a fault from a bad day.

**You need:** assignment 2, means and variances. Lessons 05, 06, 08 and 09 cover the same ground. The last part calls
the trainer as a command; a finished run is there for those who do not want to wait.
""",
    imports=(
        "import json\nimport math\nimport statistics\nimport subprocess\nimport sys\nfrom pathlib import Path\n\n"
        "import torch\nfrom torch import Tensor\n\nimport apo_edu\nfrom toys import bandits\n"
        "from toys.course.a3 import SPECIMENS, may_train, show_gate, show_guards, show_run, show_runs, show_sweep, t95, task"
    ),
    parts=(
        Text(r"""
## Part one: the guard
"""),
        Guard,
        noise_alone,
        expected_gain,
        Code('show_gate(expected_gain, **me.numbers("noise_alone"))\nme.reveal("noise_alone")'),
        NoiseGuard,
        Code("show_guards(Guard, NoiseGuard)"),
        what_it_mends,
        Text(r"""
## Part two: fixed alpha, with seeds and intervals
"""),
        interval,
        chosen,
        which_alpha,
        sweep_report,
        Code('show_sweep(interval, sweep_report)\nme.reveal("which_alpha")'),
        one_seed,
        Text(r"""
## Part three: a language model

The embedded model is a Qwen3 of 0.8 million parameters that has been taught just enough addition to be right about
two times in five (three in five by its best guess). The trainer is the one that also trains Qwen3-1.7B. The next cell
trains it if you say so; grading never does.
"""),
        on_policy,
        Code(TRAIN_CELL),
        run_facts,
        Code(FACTS_CELL),
        read_report,
        Text(r"""
## Part four: what went wrong?

Two runs of the same trainer came back odd, and their configurations are lost. The next cell draws yours beside the
healthy run. Look at every curve, at the accuracies and at the completions before you go on: the first thing that
looks odd is not always the cause.
"""),
        Code('show_runs(**me.numbers("diagnosis"))'),
        diagnosis,
        evidence,
        open_problem,
        sources,
    ),
)
