"""Experiment 5: reward noise, alike for all arms or not: what it does to the guard's gate, to alpha, and to the "
"outcome."""

import math
from dataclasses import replace
from functools import partial

from matplotlib.figure import Figure

from apo_edu import GuardedAlpha

from .. import plotting
from ..bandits import Loop, equal_arms, lucky, run_all
from .experiment import Experiment, Key, Verdict
from .rules import TrendGuard, Yoked
from .sweeps import RATES, Setting, at_best_rates, final_reward, fixed
from .table import Table

BASE = Loop(closed_form=True)
NONE = math.nan
GUARDS: dict[Setting, Loop] = {
    ("naive guard", NONE): replace(BASE, schedule=GuardedAlpha),
    ("guard, 2 standard errors", NONE): replace(BASE, schedule=partial(GuardedAlpha, noise_guard=2.0)),
    ("guard, fast minus slow", NONE): replace(BASE, schedule=TrendGuard),
    ("guard, 1 standard error", NONE): replace(BASE, schedule=partial(GuardedAlpha, noise_guard=1.0)),
}
SNRS = (16.0, 4.0, 1.0, 0.25)
LATE = 200  # from this step on, at SNR >= 1, nothing improves any more


def run(seeds: list[int], quick: bool) -> Table:
    table = Table()
    rules = dict(list(GUARDS.items())[:2]) if quick else GUARDS | fixed(BASE, (0.35, 0.9))
    for snr in (1.0,) if quick else SNRS:
        bandit = equal_arms(noise=1.0 / snr)
        for (rule, alpha), history in run_all(bandit, rules, seeds=seeds, snapshots=2).items():
            table.add("equal noise, lr 0.5", rule, "alpha, late", history.alpha[LATE:].mean(0), alpha=alpha, x=snr)
            table.add("equal noise, lr 0.5", rule, "gate, late", history.improvement[LATE:].mean(0), alpha=alpha, x=snr)
            table.add(
                "equal noise, lr 0.5", rule, "alpha, first 50 steps", history.alpha[:50].mean(0), alpha=alpha, x=snr
            )
            table.add("equal noise, lr 0.5", rule, "expected reward", final_reward(history), alpha=alpha, x=snr)
    if quick:
        return table

    # Noise that differs between arms: the alpha of each guard there, and who earns what at equal length of steps.
    for (rule, alpha), history in run_all(lucky(), GUARDS, seeds=seeds, snapshots=2).items():
        table.add("lucky arms, lr 0.5", rule, "alpha, late", history.alpha[LATE:].mean(0), alpha=alpha)
    for group in (8, 16):
        matched = replace(BASE, group=group, reference_alpha=0.6, matched=True, lr=0.25)
        for (rule, alpha), history in run_all(
            lucky(), fixed(matched, (0.0, 0.35, 0.9)), seeds=seeds, snapshots=2
        ).items():
            table.add(
                "lucky arms, matched, lr 0.25", rule, "expected reward", final_reward(history), alpha=alpha, x=group
            )

    for part, bandit in (("own best lr, SNR 0.25", equal_arms(noise=4.0)), ("own best lr, lucky arms", lucky())):
        best = at_best_rates(bandit, rules, RATES, seeds)
        for (rule, alpha), (lr, values) in best.items():
            table.add(part, rule, "expected reward", values, alpha=alpha, x=lr)
        naive = best["naive guard", NONE][1]
        others = {
            "the guard with 2 standard errors": ("guard, 2 standard errors", NONE),
            "fixed alpha 0.9": ("apo", 0.9),
        }
        for label, key in (others | {"fixed alpha 0.35": ("apo", 0.35)}).items():
            table.add(part, "naive guard", f"minus {label}", naive - best[key][1])

    # Is it alpha's timing or only its level? The same alphas from another seed, and their mean.
    noisy = equal_arms(noise=4.0)
    guard = replace(BASE, schedule=GuardedAlpha, lr=0.25)
    trace = run_all(noisy, {"guard": guard}, seeds=seeds, snapshots=2)["guard"]
    controls = {
        "yoked": replace(guard, schedule=partial(Yoked, trace.alpha.roll(1, dims=1))),
        "mean alpha": replace(guard, schedule=None, alpha=float(trace.alpha.mean())),
    }
    for name, history in run_all(noisy, controls, seeds=seeds, snapshots=2).items():
        table.add(
            "controls, SNR 0.25, lr 0.25", "naive guard", f"minus {name}", final_reward(trace) - final_reward(history)
        )

    for rho in (0.0, 0.5, 0.9, 0.98):
        for margin in (0.0, 2.0):
            loop = replace(BASE, schedule=partial(GuardedAlpha, rho=rho, noise_guard=margin))
            history = run_all(equal_arms(noise=1.0), {"guard": loop}, seeds=seeds, snapshots=2)["guard"]
            rule = "naive guard" if margin == 0 else "guard, 2 standard errors"
            table.add("rho, SNR 1", rule, "gate, late", history.improvement[LATE:].mean(0), x=rho)
            table.add("rho, SNR 1", rule, "gate, first 50 steps", history.improvement[:50].mean(0), x=rho)
    return table


def judge(table: Table) -> Verdict:
    """Near alpha_max means within 0.05 of 0.9, late, at SNR 1."""
    naive = table.one(rule="naive guard", metric="alpha, late", x=1.0)
    aware = table.one(rule="guard, 2 standard errors", metric="alpha, late", x=1.0)
    said = f"at SNR 1 alpha late is {naive.interval} for the paper's gate and {aware.interval} with 2 standard errors"
    outcome = table.where(part="own best lr, SNR 0.25", metric="minus the guard with 2 standard errors")
    if outcome:
        said += f"; at SNR 0.25 and own best lr the naive guard minus the noise-aware one ends {outcome[0].interval}"
        said += f", minus fixed alpha 0.9 {table.one(part=outcome[0].part, metric='minus fixed alpha 0.9').interval}"
    if naive.low > 0.85:
        return Verdict("holds", "strong", f"The gate stays shut: {said}.")
    answer = "holds with a condition" if aware.low > 0.85 else "does not hold"
    return Verdict(answer, "strong", f"Only with a margin for noise does alpha stay near alpha_max: {said}.")


def draw(table: Table) -> tuple[Figure, str]:
    made, grid = plotting.figure(2, 2, size=(11.0, 7.6))
    axes = grid.flat
    part = "equal noise, lr 0.5"
    for ax, metric in ((axes[0], "alpha, late"), (axes[1], "expected reward")):
        names = [
            ("naive guard", NONE),
            ("guard, 2 standard errors", NONE),
            ("guard, fast minus slow", NONE),
            ("guard, 1 standard error", NONE),
            ("apo", 0.9),
        ]
        lines = {
            (alpha if rule == "apo" else rule): table.where(part=part, rule=rule, alpha=alpha, metric=metric)
            for rule, alpha in names
        }
        plotting.interval_lines(ax, lines)
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter("{x:g}")
        ax.set(xlabel="signal to noise (gap / sd of the reward)")
    axes[0].get_legend().remove()
    axes[0].set(ylabel="mean alpha, steps 200 to 300", title="Noise drags the naive guard down")
    axes[1].set(ylabel="expected reward at the end", title="The outcome at lr 0.5")
    rows = {}
    for part in ("own best lr, SNR 0.25", "own best lr, lucky arms"):
        for row in table.where(part=part, rule="naive guard"):
            if row.metric.startswith("minus"):
                rows[f"{part.split(', ')[1]}:\n{row.metric}"] = row
    plotting.differences(axes[2], rows)
    axes[2].tick_params(axis="y", labelsize=8)
    axes[2].set(xlabel="expected reward, naive guard minus ...", title="Each at its own best lr")
    lines = {
        f"{rule}, {when}": table.where(part="rho, SNR 1", rule=rule, metric=f"gate, {when}")
        for rule in ("naive guard", "guard, 2 standard errors")
        for when in ("late", "first 50 steps")
    }
    lines = {label: rows for label, rows in lines.items() if rows}
    if lines:
        plotting.interval_lines(axes[3], lines)
    axes[3].set(
        xlabel="rho, the decay of the reward's average", ylabel="mean gate p_t", ylim=(0, 1),
        title="rho does not close the gate (SNR 1)", visible=bool(lines),
    )  # fmt: skip
    return (
        made,
        "A margin of two standard errors keeps alpha near its maximum under noise; the outcome hardly changes.",
    )


EXPERIMENT = Experiment(
    number=5,
    name="reward_noise",
    title="reward noise: the guard's gate, alpha, and the outcome",
    question="Does alpha_t stay near alpha_max where improvement is unreliable, and does it matter for the outcome?",
    paper="The improvement gate is meant to keep alpha near alpha_max when the reward does not rise reliably.",
    theory="E max(0, noise) > 0: pure noise reads as improvement. A margin of 2 standard errors shuts the gate.",
    settings="16 arms, 4 good, Gaussian noise of equal size, SNR 16, 4, 1, 0.25, lr 0.5; lucky arms, whose noise is larger, at "
    "lr 0.5, with matched steps in groups of 8 and 16, and, as SNR 0.25, at own best lr; rho 0 to 0.98.",
    controls="Fixed alpha 0.9 and 0.35, GRPO; a margin of 1 standard error, which the configurations have; the guard's "
    "alphas replayed on another seed (yoked), and their mean.",
    rule="The claim holds if the paper's gate keeps the mean alpha after convergence above 0.85 at SNR 1; with a "
    "condition "
    "if only the gate with 2 standard errors does.",
    run=run,
    judge=judge,
    draw=draw,
    key=Key(lambda table: table.one(rule="naive guard", metric="alpha, late", x=1.0).mean, 0.675, 0.04),
)
