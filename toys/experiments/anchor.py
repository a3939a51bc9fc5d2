"""Experiment 9: is tau_anc a trust region? KL per batch against tau_anc, for SGD and Adam and 1 to 64 updates a batch."""

import math
from dataclasses import replace

import torch
from matplotlib.figure import Figure

from .. import plotting
from ..bandits import Loop, decoys, graded, run, run_all
from .experiment import Experiment, Key, Verdict
from .sweeps import final_reward
from .table import Table

TAUS = (0.125, 0.25, 0.5, 1.0, 2.0)
UPDATES = (1, 4, 16, 64)
RATES = {"sgd": 0.05, "adam": 0.02}
BATCHES = 15
NONE = math.nan


def inner_loop_error(tau_anc: float, alpha: float, updates: int) -> float:
    """Largest `|log pi_new/pi_old - tau A / beta_r|` over one batch of distinct rewards, both centred over the group, nats."""
    bandit = graded(8)
    loop = Loop(
        closed_form=True, num_steps=1, updates=updates, tau_anc=tau_anc, alpha=alpha, lr=2.0 * tau_anc**2, group=8
    )
    history = run(bandit, loop, seeds=[1], snapshots=2)
    before, after = history.probs[0, 0, 0], history.probs[-1, 0, 0]
    uniform = torch.rand(32, 2, 1, 8, generator=torch.Generator().manual_seed(1))[0, 0, 0].double()
    drawn = torch.searchsorted(before.cumsum(-1), uniform).clamp(max=7).unique()
    moved, wanted = (after / before).log()[drawn], tau_anc * bandit.values[0, drawn] / loop.beta_r
    return float(((moved - moved.mean()) - (wanted - wanted.mean())).abs().max())


def run_experiment(seeds: list[int], quick: bool) -> Table:
    table = Table()
    bandit = decoys()
    for optimizer, lr in RATES.items():
        for updates in (1, 16) if quick else UPDATES:
            for alpha in (0.6,) if quick else (0.0, 0.6, 0.9):
                base = Loop(
                    closed_form=True,
                    optimizer=optimizer,
                    lr=lr,
                    updates=updates,
                    alpha=alpha,
                    num_steps=5 if quick else BATCHES,
                )
                taus = (0.125, 2.0) if quick else TAUS
                found = run_all(bandit, {tau: replace(base, tau_anc=tau) for tau in taus}, seeds=seeds, snapshots=2)
                lengths = {tau: history.kl_anchor.mean(0) for tau, history in found.items()}
                for tau, values in lengths.items():
                    table.add(
                        f"{optimizer}, {updates} updates", "apo", "KL per batch (nats)", values, alpha=alpha, x=tau
                    )
                    table.add(
                        f"{optimizer}, {updates} updates", "apo", "expected reward after the batches",
                        final_reward(found[tau]), alpha=alpha, x=tau,
                    )  # fmt: skip
                pair = torch.stack([lengths[0.125], lengths[2.0]])
                table.add_statistic(
                    f"{optimizer}, {updates} updates", "apo", "KL at tau 0.125 over KL at tau 2", pair,
                    lambda resampled: resampled[:, 0].mean(-1) / resampled[:, 1].mean(-1), alpha=alpha, x=updates,
                )  # fmt: skip
    for alpha in (0.35, 0.9):
        for updates in (1, 64) if quick else (1, 16, 64, 1024):
            error = max(inner_loop_error(tau, alpha, updates) for tau in (0.25, 1.0))
            table.add_number("inner loop", "apo", "largest error of log ratio (nats)", error, alpha=alpha, x=updates)
    if quick:
        return table

    # Whole runs: is there an lr at which a larger tau_anc saves a run that a smaller one loses?
    for optimizer, lr in {"sgd": 2.0, "adam": 0.2}.items():
        for updates in (1, 16):
            base = Loop(closed_form=True, optimizer=optimizer, lr=lr, updates=updates, alpha=0.9, num_steps=100)
            found = run_all(decoys(), {tau: replace(base, tau_anc=tau) for tau in TAUS}, seeds=seeds, snapshots=2)
            for tau, history in found.items():
                wrong = (final_reward(history) < 0.95).double()
                table.add(f"hard, {optimizer}, {updates} updates", "apo", "runs below 0.95", wrong, alpha=0.9, x=tau)
    return table


def judge(table: Table) -> Verdict:
    """A trust region: the larger tau, the longer the step; the ratio of KL at 0.125 over 2 lies below 1."""
    rows = [row for row in table if row.metric.startswith("KL at tau 0.125") and row.alpha == 0.6]
    holds = [row.part for row in rows if row.high < 0.9]
    said = "; ".join(f"{_one(row.part)} {row.mean:.3g} [{row.low:.3g}, {row.high:.3g}]" for row in rows)
    answer = "holds" if len(holds) == len(rows) else "holds with a condition" if holds else "does not hold"
    return Verdict(
        answer, "strong", f"KL per batch at tau 0.125 over that at 2 (a trust region has less than 1): {said}."
    )


def draw(table: Table) -> tuple[Figure, str]:
    made, axes = plotting.figure(2, 3, size=(13.0, 7.6))
    measures = {"KL per batch (nats)": "step: KL(new || old) per batch (nats)"}
    measures["expected reward after the batches"] = f"speed: expected reward after {BATCHES} batches"
    for row, (metric, label) in zip(axes, measures.items(), strict=True):
        for ax, optimizer in zip(row, RATES, strict=False):
            lines = {
                f"{updates} a batch": table.where(part=f"{optimizer}, {updates} updates", alpha=0.6, metric=metric)
                for updates in UPDATES
            }
            plotting.interval_lines(ax, lines)
            title = {"sgd": "SGD", "adam": "Adam"}[optimizer]
            ax.set(xlabel="anchor temperature tau_anc (nats)", ylabel=label, title=title)
            if ax is not axes[0, 0]:
                ax.get_legend().remove()
    hard = {row.part: row.part.removeprefix("hard, ") for row in table if row.part.startswith("hard")}
    if hard:
        plotting.interval_lines(axes[1, 2], {_one(name): table.where(part=part) for part, name in hard.items()})
    axes[1, 2].set(
        xlabel="anchor temperature tau_anc (nats)", ylabel="share of runs that end below 0.95",
        title="Whole runs at a large lr, alpha 0.9", visible=bool(hard),
    )  # fmt: skip
    plotting.interval_lines(axes[0, 2], {alpha: table.where(part="inner loop", alpha=alpha) for alpha in (0.35, 0.9)})
    axes[0, 2].set(
        xlabel="updates on one batch",
        ylabel="largest |log ratio - tau A / beta_r| (nats)",
        title="The inner loop's end",
    )
    axes[0, 2].get_legend().set_title("")  # no seeds: one group
    for ax in axes.flat:
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter("{x:g}")
    for ax in axes[0]:
        ax.set_yscale("log")
    return (
        made,
        "tau_anc limits the step only where the inner loop nearly converges; with SGD and one update a smaller tau is a "
        "longer step, faster and less safe. Lines of step and speed: alpha 0.6.",
    )


def _one(part: str) -> str:
    """ "sgd, 1 updates" as one says it."""
    return part.replace(" 1 updates", " 1 update")


EXPERIMENT = Experiment(
    number=9,
    name="anchor",
    title="tau_anc: a trust region, a learning rate, or nothing?",
    question="How does tau_anc set the size of a step, for SGD and Adam, one to 64 updates per batch, and different "
    "alphas?",
    paper="tau_anc is a trust region: a small one holds the policy close to the anchor.",
    theory="With one update and SGD the gradient is proportional to 1/tau, KL per batch to 1/tau^2: 256 between 0.125 "
    "and 2. Adam "
    "divides it out: 1. A converged inner loop ends at log pi_new/pi_old = tau A / beta_r: KL grows with tau.",
    settings="16 arms with decoys, P 8, 15 batches, SGD lr 0.05, Adam lr 0.02, tau 0.125 to 2, 1, 4, 16, 64 updates.",
    controls="Three alphas; one batch run to convergence against its closed form; whole runs at a large learning rate.",
    rule="A trust region where the ratio of KL per batch at tau 0.125 over that at 2 lies below 0.9; the claim holds "
    "if everywhere, "
    "with a condition if only for some numbers of updates.",
    run=run_experiment,
    judge=judge,
    draw=draw,
    key=Key(lambda table: table.one(part="adam, 1 updates", metric="KL at tau 0.125 over KL at tau 2").mean, 1.0, 0.01),
    quick_seeds=8,
)
