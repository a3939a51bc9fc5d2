"""Lesson 09, The silent-bug lab: two faults that no reward shows, found from a run's metrics by a line of code."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..model import Mistake, Numbers
from .write_it import WriteIt, check

# 1. A confidence that is frozen.


def _frozen(confidence, entropy):
    """Which runs have no confidence at any step, although the policy has become sure.

    confidence, entropy: [steps, runs].  Returns truth values [runs].
    """
    never = confidence.amax(0) < 1e-9
    return never & (entropy[-1] < entropy[0] / 2)


def _frozen_by_run(confidence: Tensor, entropy: Tensor) -> list[bool]:
    told = []
    for run in range(confidence.shape[1]):
        dead = all(value < 1e-9 for value in confidence[:, run].tolist())
        told.append(dead and bool(2 * entropy[-1, run] < entropy[0, run]))
    return told


def _frozen_in_numpy(confidence: Tensor, entropy: Tensor) -> Any:
    fell = entropy.numpy()[-1] / entropy.numpy()[0] < 0.5
    return np.logical_and((confidence.numpy() < 1e-9).all(axis=0), fell)


STEPS = 40
# Of each kind of run: how its confidence goes, and how its entropy, as a share of the first one.
CONFIDENCE = {
    "rises": lambda t: 0.9 * t,
    "frozen": lambda t: torch.zeros_like(t),
    "rounding": lambda t: 3e-17 * torch.ones_like(t),
    "gone at the end": lambda t: 0.5 * (1 - t).clamp(max=0.8) * (t < 0.9),
    "a burst": lambda t: 0.3 * ((t > 0.4) & (t < 0.6)).double(),
    "held": lambda t: torch.full_like(t, 0.4),
    "small": lambda t: 0.02 * t,
}
ENTROPY = {
    "falls": lambda t: 1 - 0.8 * t,
    "falls late": lambda t: torch.where(t > 0.8, 0.2, 0.95),
    "stays": lambda t: 1 - 0.1 * t,
    "dips": lambda t: 1 - 0.8 * torch.sin(torch.pi * t).clamp(min=0),
    "rises first": lambda t: torch.where(t == 0, 1.0, torch.where(t < 0.5, 1.05, 0.515)),
    "falls and half returns": lambda t: torch.where(t < 0.1, 1.0, torch.where(t < 0.9, 0.2, 0.65)),
}
RUNS = (
    ("frozen", "falls"), ("rounding", "falls"), ("rounding", "falls late"), ("frozen", "falls late"), ("rises", "falls"),
    ("rises", "falls late"), ("frozen", "stays"), ("rounding", "stays"), ("rises", "stays"), ("gone at the end", "falls"),
    ("a burst", "falls"), ("a burst", "falls late"), ("frozen", "dips"), ("frozen", "falls and half returns"),
    ("rounding", "falls and half returns"), ("frozen", "rises first"), ("rounding", "rises first"),
    ("held", "falls"), ("small", "falls"),
)  # fmt: skip


def runs(times: int = 1) -> Any:
    """Cases (confidence, entropy): every kind of run `times`, then those without confidence, in random order and heights."""

    def cases(generator: torch.Generator, numbers: Numbers) -> list[tuple[Any, ...]]:
        t = torch.linspace(0, 1, STEPS, dtype=torch.float64)
        made = []
        dead = tuple(kind for kind in RUNS if kind[0] in ("frozen", "rounding"))
        for kinds in (RUNS * times, dead * times):
            order = torch.randperm(len(kinds), generator=generator).tolist()
            first = 0.65 + 0.3 * torch.rand(len(kinds), generator=generator, dtype=torch.float64)
            confidence = torch.stack([CONFIDENCE[kinds[i][0]](t) for i in order], -1)
            entropy = torch.stack([ENTROPY[kinds[i][1]](t) for i in order], -1) * first
            made.append((confidence, entropy))
        return made

    return cases


def _of(condition: Any) -> Any:
    """Truth values from (confidence, entropy, never confident, has become sure)."""
    return lambda confidence, entropy: condition(
        confidence, entropy, confidence.amax(0) < 1e-9, entropy[-1] < entropy[0] / 2
    )


frozen = WriteIt(
    name="frozen",
    title="A gate that never opens",
    minutes=6,
    difficulty=1,
    text=r"""
A schedule that reads the wrong distribution sees no confidence, ever, and alpha never moves. The reward does not tell;
a line of code over the metrics does. Write `frozen(confidence, entropy)`, both `[steps, runs]`: true for a run whose confidence
is below $10^{-9}$ at *every* step although its policy has become sure, its entropy at the last step being less than half of
that at the first. A run that is still undecided has no confidence either, and nothing is wrong with it.
""",
    hint=r"""
Two conditions for each run, joined by `&`. Steps are the first dimension: `amax(0)` is the largest value over the steps.
""",
    after="Tried on the five runs above it would have named one of them by itself.",
    solution=_frozen,
    also_right=(_frozen_by_run, _frozen_in_numpy),
    checks=(
        check(
            "values",
            "runs of every kind",
            runs(),
            rtol=1e-9,
            hint="No confidence ever, entropy from 0.9 to 0.3: frozen. The same, entropy from 0.9 to 0.6: undecided.",
        ),
        check("more", "more runs of every kind", runs(2), rtol=1e-9),
    ),
    mistakes=(
        Mistake(
            "confidence alone",
            "the entropy is not asked: a run that is still undecided has no confidence either, and is right not to.",
            _of(lambda c, e, never, sure: never),
        ),
        Mistake("entropy alone", "every run that has become sure is blamed here.", _of(lambda c, e, never, sure: sure)),
        Mistake(
            "or", "the two conditions are joined by `or`; both must hold.", _of(lambda c, e, never, sure: never | sure)
        ),
        Mistake(
            "at some step",
            "one step without confidence is enough here; every run begins with one. It must be so at all steps.",
            _of(lambda c, e, never, sure: (c < 1e-9).any(0) & sure),
        ),
        Mistake(
            "at the last step",
            "only the last step's confidence is looked at; a run may have lost it again.",
            _of(lambda c, e, never, sure: (c[-1] < 1e-9) & sure),
        ),
        Mistake(
            "at the first step",
            "only the first step's confidence is looked at, where every policy is undecided.",
            _of(lambda c, e, never, sure: (c[0] < 1e-9) & sure),
        ),
        Mistake(
            "exactly 0",
            "this compares with 0 exactly; one minus an entropy of 1 is often 1e-17. Compare with 1e-9.",
            _of(lambda c, e, never, sure: (c == 0).all(0) & sure),
        ),
        Mistake(
            "turned round",
            "this is true for the runs that are in order.",
            _of(lambda c, e, never, sure: ~(never & sure)),
        ),
        Mistake(
            "one verdict for all",
            "this is one verdict over all runs; give one a run, over the steps alone.",
            _of(lambda c, e, never, sure: (never & sure).any()),
        ),
        Mistake(
            "the most confident run",
            "the largest confidence of all runs decides here for each of them; take it over the steps alone, `amax(0)`.",
            _of(lambda c, e, never, sure: (c.amax() < 1e-9) & sure),
        ),
        Mistake(
            "from the largest entropy",
            "the entropy is compared with half of its largest value; half of the first step's is asked for.",
            _of(lambda c, e, never, sure: never & (e[-1] < e.amax(0) / 2)),
        ),
        Mistake(
            "over the runs",
            "this goes over the runs and has one verdict a step; steps are the first dimension.",
            lambda c, e: (c.amax(1) < 1e-9) & (e[:, -1] < e[:, 0] / 2),
        ),
        Mistake(
            "the mean entropy",
            "this compares the mean entropy; the last step's is asked for: a policy may become sure late.",
            _of(lambda c, e, never, sure: never & (e.mean(0) < e[0] / 2)),
        ),
        Mistake(
            "the least entropy",
            "this takes the least entropy on the way; one that has come back since counts as undecided.",
            _of(lambda c, e, never, sure: never & (e.amin(0) < e[0] / 2)),
        ),
        Mistake(
            "entropy the wrong way",
            "this blames the runs that are still undecided; the entropy must have fallen.",
            _of(lambda c, e, never, sure: never & ~sure),
        ),
        Mistake(
            "an absolute half",
            "this compares the entropy with 0.5; half of the first step's is asked for.",
            _of(lambda c, e, never, sure: never & (e[-1] < 0.5)),
        ),
        Mistake(
            "held anywhere",
            "this blames a confidence that does not change, at whatever height; only one at 0 is dead.",
            _of(lambda c, e, never, sure: (c.amax(0) - c.amin(0) < 1e-9) & sure),
        ),
        Mistake(
            "a loose limit",
            "a small confidence is taken for none here; the limit is 1e-9.",
            _of(lambda c, e, never, sure: (c.amax(0) < 0.05) & sure),
        ),
    ),
)

# 2. A batch that does not start on policy.


def _stale_starts(kl, batch):
    """Share of the batches whose first update already finds a KL to the sampler.

    kl: [steps], nats.  batch: [steps] integers, the batch that each step learned from, in order.  Returns a float.
    """
    new = torch.cat([torch.tensor([True]), batch[1:] != batch[:-1]])
    return float((kl[new] > 1e-6).double().mean())


def _starts_by_dictionary(kl: Tensor, batch: Tensor) -> float:
    first: dict[int, float] = {}
    for value, number in zip(kl.tolist(), batch.tolist(), strict=True):
        first.setdefault(number, value)
    return sum(value > 1e-6 for value in first.values()) / len(first)


def _starts_in_numpy(kl: Tensor, batch: Tensor) -> float:
    _, first = np.unique(batch.numpy(), return_index=True)
    return float(np.mean(kl.numpy()[first] > 1e-6))


def steps(*updates: int, first: int = 0, healthy: bool = False) -> Any:
    """Cases (kl, batch): batches of these numbers of updates, in turns; some of them do not start on policy."""

    def cases(generator: torch.Generator, numbers: Numbers) -> list[tuple[Any, ...]]:
        made = []
        for count in (11, 14):
            per_batch = torch.tensor([updates[i % len(updates)] for i in range(count)])
            batch = torch.repeat_interleave(torch.arange(count) + first, per_batch)
            kl = 0.002 + 0.01 * torch.rand(len(batch), generator=generator, dtype=torch.float64)
            starts = torch.cumsum(per_batch, 0) - per_batch
            stale = torch.rand(count, generator=generator) < 0.35
            stale[torch.randperm(count, generator=generator)[:2]] = torch.tensor([True, False])
            stale[0] = not healthy  # a first batch that is forgotten must be missed
            kl[starts] = torch.where(stale & (not healthy), kl[starts], 1e-9 * (torch.arange(count) % 2))
            # In every third batch an update finds no KL again: the least one is not the first.
            back = starts[(per_batch > 1) & (torch.arange(count) % 3 == 0)] + 1
            kl[back] = 0.0
            made.append((kl, batch))
        return made

    return cases


def _starts(batch: Tensor) -> Tensor:
    return torch.cat([torch.tensor([True]), batch[1:] != batch[:-1]])


def _late(kl: Tensor) -> Tensor:
    return (kl > 1e-6).double()


def _by_batch(compute: Any) -> Any:
    """Share of the batches for which `compute` of their KLs is above the limit."""
    return lambda kl, batch: float(_late(torch.stack([compute(kl[batch == one]) for one in batch.unique()])).mean())


stale_starts = WriteIt(
    name="stale_starts",
    title="Does every batch start on policy?",
    minutes=8,
    difficulty=2,
    text=r"""
On the first update of a batch the policy is the one that sampled, so the KL to the sampler is 0. Where it is not, the
completions are scored otherwise than they were sampled: another temperature, an old copy of the weights, an anchor that
was not renewed. A run's `metrics.jsonl` has for every step its `kl_old` and its `batch`, the number of the batch it learned
from. Write `stale_starts(kl, batch)`: the share of the *batches* whose first update has a KL above $10^{-6}$ nats.
Batches may have one update or several.
""",
    hint=r"""
A step is the first of its batch where `batch` differs from that of the step before, and the very first step is one, too.
""",
    after="For both runs of the language model above it is 0, over 75 batches each: nothing to see here, and that was worth "
    "knowing.",
    solution=_stale_starts,
    also_right=(_starts_by_dictionary, _starts_in_numpy),
    checks=(
        check(
            "values",
            "two updates a batch",
            steps(2),
            rtol=1e-9,
            hint="KL 0, 0.01, 0.02, 0.01 in batches 0, 0, 1, 1: of two batches the second one starts stale, so it is 1/2.",
        ),
        check("several", "one to four updates a batch, from batch 7 on", steps(1, 3, 4, 2, first=7), rtol=1e-9),
        check("healthy", "a healthy run", steps(2, 3, healthy=True), floor=1e-12),
    ),
    mistakes=(
        Mistake(
            "all steps",
            "all steps count here. From the second update on a KL is as it should be: look at the first one of each batch.",
            lambda kl, batch: float(_late(kl).mean()),
        ),
        Mistake(
            "the last update",
            "this looks at the last update of each batch, where the policy has moved; the first one is asked for.",
            lambda kl, batch: float(_late(kl[torch.cat([batch[1:] != batch[:-1], torch.tensor([True])])]).mean()),
        ),
        Mistake(
            "a number",
            "this is how many batches start stale; divide by the number of batches.",
            lambda kl, batch: float(_late(kl[_starts(batch)]).sum()),
        ),
        Mistake(
            "share of the steps",
            "this divides by the number of steps; the share of the batches is asked for.",
            lambda kl, batch: float(_late(kl[_starts(batch)]).sum() / len(kl)),
        ),
        Mistake(
            "those in order",
            "this is the share of batches that start on policy; the others are asked for.",
            lambda kl, batch: float(1 - _late(kl[_starts(batch)]).mean()),
        ),
        Mistake(
            "the mean KL",
            "this is the mean KL of the first updates, in nats; a share is asked for.",
            lambda kl, batch: float(kl[_starts(batch)].mean()),
        ),
        Mistake(
            "every second step",
            "this takes every second step for the first of a batch; how many updates a batch has is in `batch`.",
            lambda kl, batch: float(_late(kl[::2]).mean()),
        ),
        Mistake(
            "the first batch forgotten",
            "the very first step is missing: it has none before it and is a first update all the same.",
            lambda kl, batch: float(_late(kl[1:][batch[1:] != batch[:-1]]).mean()),
        ),
        Mistake(
            "no limit",
            "every KL above 0 counts here; rounding leaves 1e-9. The limit is 1e-6.",
            lambda kl, batch: float((kl[_starts(batch)] > 0).double().mean()),
        ),
        Mistake(
            "whether any",
            "this says whether any batch starts stale; how large a share of them is asked for.",
            lambda kl, batch: float(_late(kl[_starts(batch)]).max()),
        ),
        Mistake(
            "the largest KL",
            "this is the largest KL among the first updates; a share is asked for.",
            lambda kl, batch: float(kl[_starts(batch)].max()),
        ),
        Mistake(
            "mean over a batch",
            "later updates count here, too, in a batch's mean or largest KL; only its first update says how it started.",
            _by_batch(lambda values: values.mean()),
        ),
        Mistake(
            "the least of a batch",
            "this takes the least KL of a batch; a later update may find less than the first one.",
            _by_batch(lambda values: values.min()),
        ),
        Mistake(
            "one step late",
            "this takes the step after the first one of each batch: the comparison is shifted by one.",
            lambda kl, batch: float(_late(kl[1:][_starts(batch)[:-1]]).mean()),
        ),
    ),
)

exercises = (frozen, stale_starts)
