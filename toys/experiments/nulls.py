"""Experiment 7, second part: the three nulls that 50 seeds left open, on 2000 new seeds."""

from dataclasses import replace

import torch
from matplotlib.figure import Figure
from torch import Tensor

from .. import plotting
from ..bandits import History
from .experiment import Experiment, Key, Verdict
from .sweeps import Results, best_rates, fixed, over_rates
from .table import Table
from .when_alpha_matters import HIGH, LOW, NULL, REGIMES, Regime

OPEN = ("null: near-good decoys", "null: sparse 0/1 rewards", "null: graded, noise, 1 update")
LATER = 1000  # the first table's seeds begin at FIRST_SEED; these begin so much further on
CHUNK = 250  # seeds of one batched call: bounds the memory, changes no number


def at_every_rate(regime: Regime, seeds: list[int]) -> Results:
    """Every rule at every learning rate of a regime with one problem."""
    problem = regime.problem(0)

    def measure(history: History) -> Tensor:
        return regime.measure(history, problem)

    return over_rates(problem.task, fixed(regime.loop, (LOW, HIGH)), regime.rates or (), seeds, measure)


def run(seeds: list[int], quick: bool) -> Table:
    table = Table()
    fresh = [seed + LATER for seed in seeds]
    for regime in (regime for regime in REGIMES if regime.name in OPEN):
        if quick:
            if regime.name != OPEN[2]:
                continue
            regime = replace(regime, rates=(0.25,))
        parts: list[Results] = [at_every_rate(regime, fresh[i : i + CHUNK]) for i in range(0, len(fresh), CHUNK)]
        best = best_rates({key: torch.cat([part[key] for part in parts]) for key in parts[0]})
        for (rule, alpha), (lr, values) in best.items():
            table.add(regime.name, rule, "outcome", values, alpha=alpha, x=lr)
        low, high = best["apo", LOW][1], best["apo", HIGH][1]
        table.add(regime.name, "own best lr", "alpha 0.9 minus 0", high - low, x=regime.predicted)
    return table


def state(low: float, high: float) -> str:
    """What a 95 % interval of a difference says of the null: "null", "small", "larger" or "undecided"."""
    if max(-low, high) < NULL:
        return "null" if low <= 0 <= high else "small"
    return "larger" if low > NULL or high < -NULL else "undecided"


def judge(table: Table) -> Verdict:
    """A null holds if the interval lies within 0.01 of 0; it does not if all of it lies beyond."""
    words = {
        "null": "none to be seen",
        "small": "one, but smaller than 0.01",
        "larger": "one beyond 0.01",
        "undecided": "not decided",
    }
    rows = table.where(metric="alpha 0.9 minus 0")
    states = [state(row.low, row.high) for row in rows]
    said = "; ".join(
        f"{row.part.removeprefix('null: ')} {row.mean:.4f} [{row.low:.4f}, {row.high:.4f}] ({words[found]})"
        for row, found in zip(rows, states, strict=True)
    )
    said = f"Difference between alpha 0.9 and alpha 0, each at its own best lr: {said}."
    if "undecided" in states:
        return Verdict("cannot be told", "moderate", said)
    return Verdict("does not hold" if "larger" in states else "holds", "strong", said)


def draw(table: Table) -> tuple[Figure, str]:
    made, ax = plotting.figure(size=(7.0, 2.8))
    rows = table.where(metric="alpha 0.9 minus 0")
    ax.axvspan(-NULL, NULL, color="#eeeeee", zorder=0)
    plotting.differences(ax, {row.part.removeprefix("null: "): row for row in rows})
    ax.set(
        xlabel=f"outcome at alpha 0.9 minus alpha 0, own best lr ({rows[0].seeds} seeds)",
        title="Grey: within 0.01 of 0, which counts as none",
    )
    ax.set_xticks([-NULL, -NULL / 2, 0.0, NULL / 2, NULL], ["-0.01", "-0.005", "0", "0.005", "0.01"])
    return made, "The three nulls that 50 seeds left open, each with its interval from new seeds."


EXPERIMENT = Experiment(
    number=7,
    name="nulls",
    title="the nulls that experiment 7 left open, on new seeds",
    question="Where theory predicts that alpha changes nothing, and 50 seeds were too few to say so: does it?",
    paper="Reports that its variants come out alike on one task, without seeds.",
    theory="Near-good decoys are a small risk, two-valued rewards of one prompt leave only the length of a step, equal "
    "noise on all arms is equal risk: no difference beyond 0.01.",
    settings="The three regimes as in when_alpha_matters (16 arms, P 8, 300 steps, seven learning rates), 2000 new "
    "seeds, of which one half chooses the rates and the other counts.",
    controls="The seeds are new, their number was fixed before they were run, and there was no second look.",
    rule="A null holds if the 95 % interval lies within 0.01 of 0, and fails if all of it lies beyond; otherwise it is "
    "undecided. The whole holds if all do.",
    run=run,
    judge=judge,
    draw=draw,
    key=Key(lambda table: table.one(metric="alpha 0.9 minus 0").mean, 0.0, 0.1),
    seeds=2000,
)
