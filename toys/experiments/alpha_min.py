"""Experiment 2: is there a threshold of alpha_min below which the policy collapses, and is it alpha or the step length?"""

import math
from dataclasses import replace
from functools import partial

from matplotlib.figure import Figure
from torch import Tensor

from apo_edu import GuardedAlpha

from .. import plotting
from ..bandits import Bandit, History, Loop, binary, equal_arms, run_all
from ..guards import ConfidenceOnly
from .experiment import Experiment, Key, Verdict
from .sweeps import final_reward, fixed
from .table import Table

BASE = Loop(closed_form=True, num_steps=200)
NONE = math.nan
FLOORS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
ALPHAS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.9)
TASKS = {
    "1 good of 32, 0/1 rewards": binary(32, 1, success=0.9, failure=0.1),
    "4 good of 16, SNR 0.25": equal_arms(noise=4.0),
}


def collapsed(history: History, bandit: Bandit) -> Tensor:
    """[runs] 1 where the last policy puts more than 0.9 on one arm that is not good."""
    return (history.probs[-1][:, 0].masked_fill(bandit.good[0], 0.0).amax(-1) > 0.9).double()


def run(seeds: list[int], quick: bool) -> Table:
    table = Table()
    for name, bandit in TASKS.items():
        if quick and "32" in name:
            continue
        for lr in (0.5,) if quick else (0.25, 0.5, 1.0, 4.0):
            free = fixed(replace(BASE, lr=lr), (0.0, 0.3) if quick else ALPHAS, grpo=not quick)
            matched = {key: replace(loop, reference_alpha=0.6, matched=True) for key, loop in free.items()}
            for steps, rules in (("own steps", free), ("matched steps", matched)):
                found = run_all(bandit, rules, seeds=seeds, snapshots=2)
                bad = {key: collapsed(history, bandit) for key, history in found.items()}
                for (rule, alpha), history in found.items():
                    table.add(f"{name}, {steps}", rule, "wrong collapse", bad[rule, alpha], alpha=alpha, x=lr)
                    table.add(f"{name}, {steps}", rule, "expected reward", final_reward(history), alpha=alpha, x=lr)
                    table.add(f"{name}, {steps}", rule, "entropy", history.entropy[-1], alpha=alpha, x=lr)
                table.add(f"{name}, {steps}", "apo", "collapse at 0 minus 0.3", bad["apo", 0.0] - bad["apo", 0.3], x=lr)
                if not quick:
                    table.add(
                        f"{name}, {steps}", "apo", "collapse at 0.2 minus 0.5", bad["apo", 0.2] - bad["apo", 0.5], x=lr
                    )
        if quick:
            continue
        for lr in (0.5, 4.0):
            kinds = {"guard": GuardedAlpha, "guard without its gate": ConfidenceOnly}
            for kind, schedule in kinds.items():
                loops = {low: replace(BASE, lr=lr, schedule=partial(schedule, alpha_min=low)) for low in FLOORS}
                by_floor = run_all(bandit, loops, seeds=seeds, snapshots=2)
                bad_at = {low: collapsed(history, bandit) for low, history in by_floor.items()}
                for low, history in by_floor.items():
                    table.add(f"{name}, {kind}, lr {lr:g}", kind, "wrong collapse", bad_at[low], x=low)
                    table.add(f"{name}, {kind}, lr {lr:g}", kind, "expected reward", final_reward(history), x=low)
                    table.add(f"{name}, {kind}, lr {lr:g}", kind, "entropy", history.entropy[-1], x=low)
                    table.add(f"{name}, {kind}, lr {lr:g}", kind, "lowest alpha", history.alpha.amin(0), x=low)
                difference = bad_at[0.2] - bad_at[0.4]
                table.add(f"{name}, {kind}, lr {lr:g}", kind, "collapse at alpha_min 0.2 minus 0.4", difference)
    return table


def judge(table: Table) -> Verdict:
    """A threshold: more collapse below 0.3 than above, in the guard; alpha itself: also with matched steps."""
    guard = [row for row in table if row.metric == "collapse at alpha_min 0.2 minus 0.4"]
    free = [row for row in table if row.metric == "collapse at 0 minus 0.3" and "own" in row.part]
    matched = [row for row in table if row.metric == "collapse at 0 minus 0.3" and "matched" in row.part]
    largest = max(free, key=lambda row: row.mean)
    task = largest.part.removesuffix(", own steps")
    (control,) = [row for row in matched if row.part.startswith(task) and row.x == largest.x]
    said = (
        f"share of runs on a wrong arm, alpha 0 minus 0.3, where it is largest ({task}, lr {largest.x:g}): {largest.interval}; "
        f"there with matched steps: {control.interval}"
    )
    if guard:
        most = max(guard, key=lambda row: row.mean)
        said += f"; in a guard, alpha_min 0.2 minus 0.4 is at most {most.interval} ({most.part})"
    if not largest.low > 0:
        return Verdict("does not hold", "moderate", f"No more collapse below 0.3 anywhere: {said}.")
    if not any(row.low > 0 for row in guard):
        return Verdict(
            "does not hold",
            "moderate",
            "Under large noise a fixed alpha of 0 collapses more often than 0.3, by the length of its steps; in a guard "
            f"alpha_min makes no difference that could be seen: {said}.",
        )
    alpha_itself = control.low > 0 and control.mean > 0.5 * largest.mean
    return Verdict("holds" if alpha_itself else "holds with a condition", "strong", f"{said}.")


def draw(table: Table) -> tuple[Figure, str]:
    made, axes = plotting.figure(3, 2, size=(10.5, 10.5))
    for row, name in zip(axes, TASKS, strict=False):
        for ax, steps in zip(row, ("own steps", "matched steps"), strict=True):
            part = f"{name}, {steps}"
            lines = {a: table.where(part=part, rule="apo", alpha=a, metric="wrong collapse") for a in ALPHAS}
            plotting.interval_lines(ax, lines | {"grpo": table.where(part=part, rule="grpo", metric="wrong collapse")})
            ax.set_xscale("log", base=2)
            ax.xaxis.set_major_formatter("{x:g}")
            if ax is not axes[0, 0]:
                ax.get_legend().remove()
            ax.set(
                xlabel="learning rate",
                ylabel="share of runs on a wrong arm",
                title=f"{name}: {steps}",
                ylim=(-0.02, 0.8),
            )
    for ax, metric in zip(axes[2], ("entropy", "expected reward"), strict=True):
        floors = {
            f"{kind}: {name}": rows
            for kind in ("guard", "guard without its gate")
            for name in TASKS
            if (rows := table.where(part=f"{name}, {kind}, lr 0.5", metric=metric))
        }
        ax.set(xlabel="alpha_min of the guard, lr 0.5", ylabel=f"{metric} at the end", visible=bool(floors))
        if floors:
            plotting.interval_lines(ax, floors)
            ax.get_legend().set_loc("center")
            ax.get_legend().set_visible(metric == "entropy")
    axes[2, 0].set(title="Entropy (1 = uniform) against alpha_min", yscale="log", ylim=(0.004, 0.3))
    axes[2, 1].set(title="Reward against alpha_min", ylim=(0, 1))
    return (
        made,
        "What looks like a threshold of alpha is the length of the step: matched, a small alpha collapses no more often "
        "than a large one. In the guard entropy and reward know no threshold of alpha_min.",
    )


EXPERIMENT = Experiment(
    number=2,
    name="alpha_min",
    title="collapse below alpha_min 0.3: alpha, or the step length?",
    question="Does the policy collapse onto wrong arms below a threshold of alpha_min, and is alpha itself the cause?",
    paper="On one language model with binary rewards entropy collapsed below alpha_min 0.3; 0.3 to 0.4 is recommended for "
    "sparse binary rewards, and 0.35 is used.",
    theory="The weights (r^alpha - 1)/alpha lie in [-1/alpha, (P^alpha - 1)/alpha], and at alpha = 0 log r has no bound "
    "below: with large reward noise a small alpha takes single long steps. With steps of the same length the difference "
    "should vanish.",
    settings="1 good of 32 with 0/1 rewards (0.9 against 0.1) and 4 good of 16 with Gaussian noise (SNR 0.25), 200 "
    "steps, lr "
    "0.25 to 4; fixed alphas, the guard with alpha_min 0 to 0.5, and the guard without its improvement gate.",
    controls="Matched steps (norm of alpha 0.6); GRPO.",
    rule="There is a threshold if wrong collapse at alpha_min 0.2 minus that at 0.4 lies above 0 in the guard "
    "somewhere; it is "
    "alpha itself if the matched control keeps at least half of the largest effect.",
    run=run,
    judge=judge,
    draw=draw,
    key=Key(
        lambda table: table.one(metric="collapse at 0 minus 0.3", part="4 good of 16, SNR 0.25, own steps").mean,
        0.35,
        0.3,
    ),
)
