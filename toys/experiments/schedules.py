"""Experiment 3: guard, ESS, line, fixed alpha, and a cap by the reward's variance: does an adaptive alpha pay?"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from apo_edu import EssAlpha, GuardedAlpha, LinearAlpha, palette
from apo_edu.statistics import Interval, mean_interval

from .. import plotting
from ..bandits import Bandit, Changing, History, Loop, equal_arms, lucky, run_all
from .experiment import Experiment, Key, Verdict
from .rules import TrendGuard, VarianceCap, Yoked
from .sweeps import RATES, Setting, best_of, best_rates, final_reward, fixed, mean_reward, over_rates
from .table import Table

BASE = Loop(closed_form=True)
NONE = math.nan
ALPHAS = (0.0, 0.1, 0.2, 0.35, 0.6, 0.9)
SCHEDULES: dict[Setting, Loop] = {
    ("guard", NONE): replace(BASE, schedule=GuardedAlpha),
    ("guard, 2 standard errors", NONE): replace(BASE, schedule=partial(GuardedAlpha, noise_guard=2.0)),
    ("guard, fast minus slow", NONE): replace(BASE, schedule=TrendGuard),
    ("ESS", NONE): replace(BASE, schedule=EssAlpha),
    ("line 0.9 to 0.35", NONE): replace(BASE, schedule=partial(LinearAlpha, num_steps=300)),
    ("variance cap (ours)", NONE): replace(BASE, schedule=VarianceCap),
}


def moved(bandit: Bandit, by: int) -> Bandit:
    """The same arms in other places."""
    noise = torch.as_tensor(bandit.noise, dtype=torch.float64).expand(bandit.values.shape).roll(by, -1)
    return replace(bandit, values=bandit.values.roll(by, -1), noise=noise)


def tasks() -> dict[str, Bandit | Changing]:
    """What is played; "judge" is the case for which the variance cap was made."""
    exact = equal_arms(16, 2)
    flipped = Bandit(values=torch.linspace(0, 1, 16, dtype=torch.float64)[None])
    return {
        "lucky": lucky(),
        "noise (SNR 0.25)": equal_arms(noise=4.0),
        "switch": Changing(bandits=tuple(moved(equal_arms(), 4 * k) for k in range(3)), starts=(0, 100, 200)),
        "flip": Changing(bandits=(flipped, replace(flipped, values=flipped.values.flip(-1))), starts=(0, 150)),
        "lucky, switch": Changing(bandits=tuple(moved(lucky(), 6 * k) for k in range(2)), starts=(0, 150)),
        "exact, then a noisy judge": Changing(
            bandits=(exact, moved(exact, 5), moved(lucky(), 10)), starts=(0, 100, 200)
        ),
    }


# What is shown over time: where improvement stalls, and where the task changes and then turns noisy.
CALM, JUDGE = "improvement stalls", "exact, then a noisy judge"
IMPROVING, STALLED, WINDOW = 50, 100, 10  # first and last steps of a calm run; steps that one reading of alpha averages
TINY = 1e-3  # a change of alpha below this is none


def over_time(seeds: Sequence[int], task: str = CALM) -> dict[str, History]:
    """{schedule: History} where rewards with little noise are soon learned (`CALM`), or on the task made for our rule."""
    names = ("guard", "guard, 2 standard errors", "ESS", "line 0.9 to 0.35", "fixed 0.9", "variance cap (ours)")
    rules = {name: SCHEDULES.get((name, NONE), replace(BASE, alpha=0.9)) for name in names}
    if task == CALM:
        return run_all(equal_arms(noise=0.1), rules, seeds=seeds, snapshots=2)
    longer = {name: replace(loop, num_steps=400) for name, loop in rules.items()}
    longer["line 0.9 to 0.35"] = replace(BASE, num_steps=400, schedule=partial(LinearAlpha, num_steps=400))
    return run_all(tasks()[task], longer, seeds=seeds, snapshots=2)


def returned(history: History) -> tuple[Interval, Interval]:
    """How far alpha falls while a calm run improves, and how far it comes back once improvement has stalled.

    Both from the ten steps of the first 50 in which the mean alpha over seeds is lowest: below the first step's alpha, and
    below the mean of the last 100 steps.
    """
    alpha = history.alpha.double()
    smooth = alpha[:IMPROVING].unfold(0, WINDOW, 1).mean(-1)
    lowest = smooth[int(smooth.mean(1).argmin())]
    return mean_interval(alpha[0] - lowest), mean_interval(alpha[-STALLED:].mean(0) - lowest)


def say_returned(histories: Mapping[str, History]) -> str:
    """Does alpha return when improvement stalls? For each schedule of a calm task, as a list in Markdown.

    A fall or a return counts if its interval lies above 0 (by `TINY`, so that rounding does not count).
    """
    lines = []
    for name, history in histories.items():
        fall, back = returned(history)
        numbers = [f"{row.estimate:.3f} [{row.low:.3f}, {row.high:.3f}]" for row in (fall, back)]
        last = f"{history.alpha[-STALLED:].mean():.3f}"
        if fall.low > TINY and back.low > TINY:
            told = f"falls by {numbers[0]} and comes back by {numbers[1]}, to {last}"
        elif fall.low > TINY:
            told = f"falls by {numbers[0]} in the first {IMPROVING} steps and does not come back; it ends at {last}"
        elif back.low > TINY:
            told = f"starts low and rises by {numbers[1]}, to {last}, while the reward improves"
        else:
            told = f"does not move from {last}"
        lines.append(f"- **{name}** {told}")
    return "\n".join(lines)


def draw_over_time(histories: Mapping[str, History], title: str, changes: Sequence[int] = ()) -> Figure:
    """One panel a schedule: alpha in the colour of its value, beside the true reward and the entropy."""
    made, axes = plotting.figure(2, 3, size=(12.0, 5.6), sharex=True, sharey=True)
    for ax, (name, history) in zip(axes.flat, histories.items(), strict=True):
        plotting.alpha_beside(ax, history)
        ax.set_title(name)
        for step in changes:
            ax.axvline(step, color=palette.NEUTRAL, linewidth=0.9, linestyle=(0, (1, 2)))
    for ax in axes[-1]:
        ax.set_xlabel("step")
    runs = history.expected_reward.shape[1]
    made.suptitle(f"{title} (mean of {runs} seeds)", x=0.01, ha="left", fontsize=11)
    handles = [
        Line2D([], [], color=palette.alpha_color(0.6), linewidth=3.5, label="alpha, in the colour of its value"),
        Line2D([], [], color=palette.REWARD, linestyle="--", label="expected reward"),
        Line2D([], [], color=palette.POLICY, linestyle=":", label="entropy (1 = uniform)"),
    ]
    made.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=9)
    return made


def run(seeds: list[int], quick: bool) -> Table:
    table = Table()
    schedules = dict(list(SCHEDULES.items())[:2]) if quick else SCHEDULES
    for name, task in tasks().items():
        if quick and name != "lucky":
            continue
        steps = 400 if name.startswith("exact") else 300
        measure = mean_reward if isinstance(task, Changing) else final_reward
        fixed_rules = fixed(replace(BASE, num_steps=steps), (0.0, 0.9) if quick else ALPHAS, grpo=False)
        rules = fixed_rules | {key: replace(loop, num_steps=steps) for key, loop in schedules.items()}
        results = over_rates(task, rules, (0.25,) if quick else RATES, seeds, measure)
        best = best_rates(results)
        for (rule, alpha), (lr, values) in best.items():
            table.add(name, rule, "outcome", values, alpha=alpha, x=lr)
        ((_, alpha), _), best_fixed = best_of({key: values for key, values in results.items() if key[0] in fixed_rules})
        table.add(name, "best fixed", "outcome", best_fixed, alpha=alpha)
        for rule, alpha in schedules:
            table.add(name, rule, "minus best fixed", best[rule, alpha][1] - best_fixed)
            table.add(name, rule, "minus fixed 0.9", best[rule, alpha][1] - best["apo", 0.9][1])
        if quick:
            continue
        guard = replace(BASE, schedule=GuardedAlpha, num_steps=steps, lr=best["guard", NONE][0])
        own = run_all(task, {"guard": guard}, seeds=seeds, snapshots=2)["guard"]
        controls = {
            "yoked": replace(guard, schedule=partial(Yoked, own.alpha.roll(1, dims=1))),
            "fixed mean alpha": replace(guard, schedule=None, alpha=float(own.alpha.mean())),
        }
        for label, history in run_all(task, controls, seeds=seeds, snapshots=2).items():
            table.add(name, "guard", f"minus {label}", measure(own) - measure(history))

    calm = run_all(equal_arms(noise=0.1), schedules, seeds=seeds, snapshots=2)
    for (rule, _), history in calm.items():
        for start, stop in ((0, 50), (50, 100), (100, 200), (200, 300)):
            table.add("does alpha return", rule, "mean alpha", history.alpha[start:stop].mean(0), x=(start + stop) / 2)
    return table


def judge(table: Table) -> Verdict:
    """Pays: above the best fixed alpha on some task, with no task below it."""
    rows = table.where(rule="guard", metric="minus best fixed")
    above, below = [r for r in rows if r.low > 0], [r for r in rows if r.high < 0]
    late = table.one(part="does alpha return", rule="guard", x=250)
    said = (
        f"guard minus best fixed alpha: {'; '.join(f'{r.part} {r.interval}' for r in rows)}. After convergence the "
        f"guard's alpha "
        f"is {late.interval}"
    )
    ours = table.where(rule="variance cap (ours)", metric="minus best fixed")
    if len(ours) > 1:
        said += f". Our variance cap minus best fixed: {'; '.join(f'{r.part} {r.interval}' for r in ours)}"
    if above and not below:
        return Verdict("holds", "moderate", f"The guard pays: {said}.")
    if above:
        return Verdict(
            "holds with a condition", "moderate", f"The guard pays on {above[0].part} and costs elsewhere: {said}."
        )
    return Verdict(
        "does not hold", "strong" if below else "moderate", f"The guard beats the best fixed alpha nowhere: {said}."
    )


def draw(table: Table) -> tuple[Figure, str]:
    made, axes = plotting.figure(1, 3, size=(12.0, 4.4))
    for ax, rule, title in (
        (axes[0], "guard", "The guard (paper)"),
        (axes[1], "variance cap (ours)", "Variance cap (ours)"),
    ):
        plotting.differences(ax, {row.part: row for row in table.where(rule=rule, metric="minus best fixed")})
        ax.set(xlabel="outcome minus the best fixed alpha,\neach at its own best lr", title=title)
        ax.tick_params(axis="y", labelsize=8)
    axes[1].set_yticklabels([])  # the same tasks as on its left
    lines = {rule: table.where(part="does alpha return", rule=rule) for rule, _ in SCHEDULES}
    plotting.interval_lines(axes[2], lines)
    axes[2].set(xlabel="step", ylabel="mean alpha", ylim=(0, 1), title="Where alpha comes to rest")
    return made, (
        "The guard beats the best fixed alpha nowhere; a rule that reads the reward's variance (ours) pays where rewards turn "
        "noisy, and no cost of it was seen elsewhere."
    )


EXPERIMENT = Experiment(
    number=3,
    name="schedules",
    title="schedules of alpha against fixed alphas: does adapting pay?",
    question="Does the guard, or any schedule, end better than the best fixed alpha, and does alpha return when "
    "improvement stalls?",
    paper="The guarded schedule moves alpha from coverage to seeking when confident and improving, and back when "
    "improvement stalls; it is reported to be as good as the fixed variant.",
    theory="At rest p_t = 0, so a converged guarded run is a fixed alpha_max run. A schedule can pay only where the "
    "best "
    "alpha changes during the run. Below 2 beta_r delta / sigma^2 a gap of delta decides against a variance of "
    "sigma^2.",
    settings="Six tasks: lucky arms; SNR 0.25; good arms replaced; graded rewards flipped; lucky arms moved; exact "
    "rewards "
    "with a switch at 100 and a noisy judge with lucky arms from 200 on (400 steps, made for our rule). Six "
    "schedules, six fixed alphas, seven learning rates.",
    controls="Best fixed alpha and rate chosen on one half of the seeds; the guard's own alphas replayed on another "
    "seed "
    "(yoked); its mean alpha held.",
    rule="The guard pays if its difference to the best fixed alpha lies above 0 on some task and below 0 on none; "
    "with a "
    "condition if on some of both; not if nowhere above.",
    run=run,
    judge=judge,
    draw=draw,
    key=Key(lambda table: table.one(part="does alpha return", rule="guard, 2 standard errors", x=250).mean, 0.89, 0.03),
)
