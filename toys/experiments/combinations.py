"""Experiment 10 (bandit part): a fixed anchor as KL penalty, curricula, reward shaping: do they replace the schedule?"""

import math
from dataclasses import replace

import torch
from matplotlib.figure import Figure
from torch import Tensor

from apo_edu import GuardedAlpha, objectives

from .. import plotting
from ..bandits import Bandit, Changing, Loop, equal_arms, gamble, lucky, run_all
from .experiment import Experiment, Key, Verdict
from .risk_attitude import risk_neutral
from .sweeps import RATES, Setting, at_best_rates, best_rates
from .table import Table
from .when_alpha_matters import MIXED, Problem, mixed_prompts, pass_at_8

BASE = Loop(closed_form=True)
NONE = math.nan
ADAM = replace(BASE, optimizer="adam", num_steps=150)
ADAM_RATES = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)


def easy_first(problem: Problem, until: int) -> Problem:
    """The same prompts, but the four hard ones pay nothing before step `until`."""
    assert isinstance(problem.task, Bandit)
    easy = torch.tensor([rate > 0.2 for rate in MIXED])[:, None]
    early = replace(problem.task, values=problem.task.values * easy)
    return replace(problem, task=Changing(bandits=(early, problem.task), starts=(0, until)))


def hard_first(problem: Problem, until: int) -> Problem:
    """The same prompts, but the four easy ones pay nothing before step `until`."""
    assert isinstance(problem.task, Bandit)
    hard = torch.tensor([rate <= 0.2 for rate in MIXED])[:, None]
    early = replace(problem.task, values=problem.task.values * hard)
    return replace(problem, task=Changing(bandits=(early, problem.task), starts=(0, until)))


def run(seeds: list[int], quick: bool) -> Table:
    table = Table()
    # A fixed anchor: the limit is pi_ref exp(tau r / beta), for every alpha and P; log odds tau / beta = 1.667.
    two = equal_arms(4, 2)
    steps = 400 if quick else 1500
    for group in (8,) if quick else (2, 8, 16):
        loops: dict[Setting, Loop] = {
            ("apo", alpha): replace(BASE, anchor="fixed", alpha=alpha, group=group, num_steps=steps, lr=0.2)
            for alpha in ((0.35, 0.9) if quick else (0.0, 0.35, 0.9))
        }
        for (rule, alpha), history in run_all(two, loops, seeds=seeds, snapshots=2).items():
            last = history.probs[-1, :, 0]
            odds = (last[:, :2].sum(-1) / last[:, 2:].sum(-1)).log()
            table.add("fixed anchor", rule, "log odds at the end", odds, alpha=alpha, x=group)

    # Reward shaping: log(1 + kappa r)/kappa undoes the risk attitude.
    shaped = {"gamble": gamble(), "lucky arms": lucky()}
    for name, bandit in shaped.items():
        apo: dict[Setting, Loop] = {("apo", 0.9): replace(BASE, alpha=0.9)}
        guard: dict[Setting, Loop] = {("guard", NONE): replace(BASE, schedule=GuardedAlpha)}
        rates = (0.25,) if quick else RATES
        plain = at_best_rates(bandit, apo | guard, rates, seeds)
        with_shape = at_best_rates(replace(bandit, shown=risk_neutral), apo, rates, seeds)
        table.add(f"shaping, {name}", "alpha 0.9", "expected reward", plain["apo", 0.9][1], alpha=0.9)
        table.add(f"shaping, {name}", "guard", "expected reward", plain["guard", NONE][1])
        table.add(f"shaping, {name}", "alpha 0.9, shaped", "expected reward", with_shape["apo", 0.9][1], alpha=0.9)
        table.add(
            f"shaping, {name}", "alpha 0.9, shaped", "minus plain", with_shape["apo", 0.9][1] - plain["apo", 0.9][1]
        )
        table.add(
            f"shaping, {name}", "alpha 0.9, shaped", "minus guard", with_shape["apo", 0.9][1] - plain["guard", NONE][1]
        )
    if quick:
        return table

    # Curricula over prompts of mixed difficulty, 40 random problems.
    rules: dict[Setting, Loop] = {
        ("grpo", NONE): replace(ADAM, objective=objectives.grpo),
        ("apo", 0.9): replace(ADAM, alpha=0.9),
        ("guard", NONE): replace(ADAM, schedule=GuardedAlpha),
    }
    results: dict[tuple[Setting, float], list[Tensor]] = {}
    loops_at = {(rule, lr): replace(loop, lr=lr) for rule, loop in rules.items() for lr in ADAM_RATES}
    for index in range(40):
        all_at_once = mixed_prompts(200 + index)
        orders = {
            "all at once": all_at_once,
            "easy first": easy_first(all_at_once, 50),
            "hard first": hard_first(all_at_once, 50),
        }
        for order, problem in orders.items():
            found = run_all(
                problem.task, loops_at, seeds=seeds[:5], features=problem.features, initial_logits=problem.initial_logits,
                snapshots=2,
            )  # fmt: skip
            for ((rule, alpha), lr), history in found.items():
                solved = pass_at_8(history, all_at_once).mean()[None]
                results.setdefault(((f"{rule}, {order}", alpha), lr), []).append(solved)
    best = best_rates({key: torch.cat(values) for key, values in results.items()})
    for (rule, alpha), (lr, values) in best.items():
        table.add("curriculum", rule, "pass@8", values, alpha=alpha, x=lr)
    plain_apo = best["apo, all at once", 0.9][1]
    for rule in ("grpo, all at once", "grpo, easy first", "grpo, hard first", "guard, all at once"):
        table.add("curriculum", rule, "minus apo 0.9, all at once", best[rule, NONE][1] - plain_apo)
    return table


def judge(table: Table) -> Verdict:
    """The identity within 0.02 of tau / beta; replacing: at least as good as the guard, interval above -0.01."""
    target = 0.5 / 0.3
    odds = table.where(part="fixed anchor")
    off = max(abs(row.mean - target) for row in odds)
    shaped = [row for row in table if row.metric == "minus guard"]
    orders = [row for row in table if row.metric == "minus apo 0.9, all at once" and row.rule.startswith("grpo")]
    said = (
        f"with a fixed anchor log odds end within {off:.3f} of tau/beta = {target:.3f} for every alpha and P; shaping "
        f"log(1 + kappa "
        f"r)/kappa minus the guard: {'; '.join(f'{row.part} {row.interval}' for row in shaped)}"
        + (
            "; orders of prompts, no part of the rule, against alpha 0.9 in pass@8: "
            + "; ".join(f"{row.rule} {row.interval}" for row in orders)
            if orders
            else ""
        )
    )
    replaces = all(row.low > -0.01 for row in shaped)
    if off > 0.02:
        return Verdict("does not hold", "strong", said)
    return Verdict("holds" if replaces else "holds with a condition", "moderate", said)


def draw(table: Table) -> tuple[Figure, str]:
    made, axes = plotting.figure(1, 3, size=(13.5, 4.0))
    lines = {alpha: table.where(part="fixed anchor", alpha=alpha) for alpha in (0.0, 0.35, 0.9)}
    plotting.interval_lines(axes[0], lines)
    axes[0].axhline(0.5 / 0.3, color="#777777", linestyle=":", linewidth=3, label="tau / beta_r")
    axes[0].legend(title=axes[0].get_legend().get_title().get_text(), title_fontsize=8, fontsize=8)
    axes[0].set_xscale("log", base=2)
    axes[0].xaxis.set_major_formatter("{x:g}")
    axes[0].set(
        xlabel="group size P",
        ylabel="log odds, good against bad",
        title="A fixed anchor is a KL penalty",
        ylim=(1.4, 1.9),
    )
    rows = {
        f"{row.part.removeprefix('shaping, ')}:\n{row.rule}": row
        for row in table if row.part.startswith("shaping") and row.metric == "expected reward"
    }  # fmt: skip
    plotting.differences(axes[1], rows)
    axes[1].set(xlabel="expected reward at the end", title="Shaping undoes the risk", xlim=(0.4, 1.05))
    plotting.differences(axes[2], {row.rule: row for row in table.where(part="curriculum", metric="pass@8")})
    low = min((row.low for row in table.where(part="curriculum", metric="pass@8")), default=0.9)
    axes[2].set(xlabel="pass@8 at the end", title="Mixed difficulty, orders of prompts", xlim=(low - 0.02, 1.0))
    for ax in axes[1:]:
        ax.tick_params(axis="y", labelsize=8)
    return (
        made,
        "A fixed anchor is a KL penalty for every alpha; shaping the reward replaces a small alpha; no order of prompts "
        "brings GRPO to alpha 0.9.",
    )


EXPERIMENT = Experiment(
    number=10,
    name="combinations",
    title="KL penalty, curriculum, reward shaping: do they replace the schedule?",
    question="Can a fixed reference, a curriculum from easy to hard, or a shaped reward replace a schedule of alpha?",
    paper="Leaves combinations with KL penalties, curricula and shaping open.",
    theory="A fixed anchor has the limit pi_ref exp(tau r / beta_r) for every alpha and P: it is a KL penalty of "
    "weight beta_r / "
    "tau. Rewards shown as log(1 + kappa r)/kappa make exp(kappa shown) linear in r: large groups rank arms by their "
    "mean. APO's "
    "weight of a prompt is a curriculum already: rare successes count more.",
    settings="4 arms, 2 good, fixed anchor, 1500 steps; gamble and lucky arms shaped with kappa 3; eight prompts of "
    "mixed "
    "difficulty (40 new random problems) with all prompts at once, easy ones first, or hard ones first (50 of 150 "
    "steps).",
    controls="The guard, and alpha 0.9, on the same tasks; each at its own best lr.",
    rule="The identity holds within 0.02; shaping replaces the schedule if shaped alpha 0.9 minus the guard lies "
    "above -0.01 on both "
    "tasks.",
    run=run,
    judge=judge,
    draw=draw,
    key=Key(lambda table: table.one(part="fixed anchor", alpha=0.9, x=8).mean, 0.5 / 0.3, 0.1),
)
