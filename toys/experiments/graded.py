"""Experiment 6 (bandit part): graded against two-valued rewards: angle, outcome, and what a larger kappa buys."""

from dataclasses import replace

import torch
from matplotlib.figure import Figure
from torch import Tensor

from .. import plotting
from ..bandits import Bandit, Loop, gamble, graded, run_all
from .experiment import Experiment, Key, Verdict
from .sweeps import GRPO, RATES, Setting, at_best_rates, final_reward, fixed
from .table import Table

BASE = Loop(closed_form=True)
SAFE, CHANCE = 0.6, 0.5
ALPHAS = (0.0, 0.2, 0.35, 0.6, 0.9)


def two_valued_gamble() -> Bandit:
    """The gamble with the same means, and every reward 0 or 1: the safe arms pay 1 with probability 0.6."""
    values = gamble(safe=SAFE, chance=CHANCE).values
    return Bandit(values=values, chance=values)


def angles(bandit: Bandit, seeds: list[int], reference: float = 0.0) -> Tensor:
    """[runs] degrees between the gradients of alpha 0.9 and of the reference at the same points, mean over 60 steps."""
    loop = replace(BASE, alpha=0.9, reference_alpha=reference, lr=0.25, num_steps=60)
    history = run_all(bandit, {"run": loop}, seeds=seeds, snapshots=2)["run"]
    return torch.rad2deg(history.cosine.clamp(-1, 1).acos()).nanmean(0)


def run(seeds: list[int], quick: bool) -> Table:
    table = Table()
    kinds = {
        "graded, no noise": graded(),
        "graded, noise sd 0.5": graded(noise=0.5),
        "gamble (0, 0.6, 1)": gamble(safe=SAFE, chance=CHANCE),
        "gamble, two-valued": two_valued_gamble(),
    }
    for name, bandit in kinds.items():
        table.add("angle", name, "degrees between alpha 0.9 and 0", angles(bandit, seeds))
        if quick:
            continue
        best = at_best_rates(bandit, fixed(BASE, (0.0, 0.9)), RATES, seeds)
        for other, label in ((("apo", 0.0), "alpha 0"), (GRPO, "grpo")):
            table.add("own best lr", name, f"alpha 0.9 minus {label}", best["apo", 0.9][1] - best[other][1])

    risky = gamble(safe=SAFE, chance=CHANCE)
    spread = (
        (risky.values / risky.chance.clamp(min=1e-12)).square() * risky.chance
        if risky.chance is not None
        else risky.values
    )
    for group in (8,) if quick else (2, 4, 6, 8, 16):
        matched = replace(BASE, group=group, reference_alpha=0.6, matched=True, lr=0.25)
        rules: dict[Setting, Loop] = fixed(matched, (0.0, 0.9) if quick else ALPHAS)
        for (rule, alpha), history in run_all(risky, rules, seeds=seeds, snapshots=2).items():
            last = history.probs[-1]
            mean = (last * risky.values).sum(-1)
            sd = ((last * spread).sum(-1) - mean.square()).clamp(min=0).sqrt()[:, 0]
            table.add("gamble over P", rule, "expected reward", final_reward(history), alpha=alpha, x=group)
            table.add("gamble over P", rule, "sd of the reward", sd, alpha=alpha, x=group)
    return table


def judge(table: Table) -> Verdict:
    """A larger kappa buys variance and costs mean at P 8; not with two values."""
    angle = {row.rule: row for row in table.where(part="angle")}
    at = {alpha: table.where(part="gamble over P", alpha=alpha, x=8) for alpha in (0.0, 0.9)}
    (mean_0, sd_0), (mean_9, sd_9) = (sorted(rows, key=lambda row: row.metric) for rows in at.values())
    two = table.where(part="own best lr", rule="gamble, two-valued", metric="alpha 0.9 minus alpha 0")
    plain = table.where(part="own best lr", rule="graded, no noise", metric="alpha 0.9 minus alpha 0")
    said = (
        f"at P 8 alpha 0.9 ends at reward {mean_9.interval} with sd {sd_9.mean:.3f}, alpha 0 at {mean_0.interval} "
        f"with sd "
        f"{sd_0.mean:.3f}; angle to alpha 0: "
        + ", ".join(f"{name} {row.mean:.0f} deg" for name, row in angle.items())
        + (
            f"; own best lr, 0.9 minus 0: two-valued {two[0].interval}, graded without noise {plain[0].interval}"
            if two
            else ""
        )
    )
    bought = mean_9.high < mean_0.low and sd_9.low > sd_0.high
    harmless = not two or (max(abs(two[0].low), abs(two[0].high)) < 0.02)
    return Verdict("holds" if bought and harmless else "holds with a condition", "strong", f"{said}.")


def draw(table: Table) -> tuple[Figure, str]:
    made, axes = plotting.figure(1, 3, size=(13.0, 3.9))
    for ax, metric in zip(axes, ("expected reward", "sd of the reward"), strict=False):
        lines = {
            (alpha if rule == "apo" else rule): table.where(part="gamble over P", rule=rule, alpha=alpha, metric=metric)
            for rule, alpha in (*(("apo", alpha) for alpha in ALPHAS), GRPO)
        }
        plotting.interval_lines(ax, lines)
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter("{x:g}")
        ax.set(xlabel="group size P", ylabel=f"{metric}, at the end")
    axes[0].get_legend().set_loc("lower left")
    axes[1].get_legend().remove()
    axes[0].set_title("A sure 0.6 against 1 with probability 0.5")
    axes[1].set_title("What is bought: variance")
    rows = {row.rule: row for row in table.where(part="own best lr", metric="alpha 0.9 minus alpha 0")}
    turned = {name: table.one(part="angle", rule=name).mean for name in rows}
    plotting.differences(axes[2], {f"{name}\n(angle {turned[name]:.0f} deg)": row for name, row in rows.items()})
    axes[2].tick_params(axis="y", labelsize=8)
    axes[2].set(xlabel="reward at alpha 0.9 minus alpha 0, own best lr", title="Graded is not enough: it takes risk")
    return (
        made,
        "With three reward values a large alpha buys variance and pays with the mean; with two values it cannot.",
    )


EXPERIMENT = Experiment(
    number=6,
    name="graded",
    title="graded against two-valued rewards: angle, mean and variance",
    question="Does a larger kappa = alpha / beta_r buy more variance and less mean where rewards are graded, and "
    "nothing where they "
    "have two values?",
    paper="Binary verifier rewards; graded ones are not studied.",
    theory="With two values and one update alpha cannot turn a prompt's gradient. Three values suffice: groups prefer "
    "the arm with "
    "the larger E exp(kappa R). Graded rewards without noise turn the gradient but leave the best arm the best.",
    settings="4 arms that pay 0.6, 4 that pay 1 with probability 0.5, 8 that pay 0; P 2 to 16; matched steps, lr "
    "0.25. The same "
    "means with two values; evenly graded arms with and without noise of sd 0.5.",
    controls="GRPO; the two-valued task of the same means; own best lr.",
    rule="Holds if at P 8 alpha 0.9 ends with a lower mean and a larger sd than alpha 0, both beyond the intervals, "
    "and on the "
    "two-valued task the difference at own best lr lies within 0.02 of 0.",
    run=run,
    judge=judge,
    draw=draw,
    key=Key(lambda table: table.one(part="gamble over P", metric="expected reward", alpha=0.9, x=8).mean, 0.498, 0.02),
)
