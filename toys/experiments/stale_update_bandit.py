"""Experiment 4 (bandit): the importance ratio where the same samples are used again, and where others came in between."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from apo_edu import objectives

from .. import plotting
from ..bandits import History, Loop, graded, run_all
from .experiment import Experiment, Key, Verdict
from .sweeps import RATES, Results, best_rates, final_reward
from .table import Row, Table
from .when_alpha_matters import mixed_prompts

NONE = math.nan
NEW = 5000  # added to the seeds: the finding to be confirmed was made on lower ones
BASE = Loop(alpha=0.9)
RULES = {
    "none": replace(BASE, closed_form=True),
    "ratio": replace(BASE, off_policy="ratio"),
    "clip": replace(BASE, off_policy="clip"),
    "grpo": replace(BASE, objective=objectives.grpo, closed_form=True),
}
AGAIN = {"graded": graded(), "graded, noise sd 0.5": graded(noise=0.5)}
FOUND = "graded, 4 updates on the same samples, lr 2"
PROBLEMS = 24
MIXED_RATES = (0.05, 0.1, 0.2, 0.4)
WITHIN = 0.01  # a difference whose interval lies within this of 0 counts as none


def same_samples(table: Table, seeds: Sequence[int], quick: bool) -> None:
    """Several updates on the same group of one prompt: at lr 2, and each rule at its own best lr."""
    for name, task in list(AGAIN.items())[: 1 if quick else None]:
        if not quick:
            at_found(table, name, seeds)
        for updates in (4,) if quick else (2, 4):
            rates = (2.0,) if quick else RATES
            loops = {
                ((rule, NONE), lr): replace(loop, updates=updates, lr=lr)
                for rule, loop in RULES.items()
                for lr in rates
            }
            histories = run_all(task, loops, seeds=seeds, snapshots=2)
            part = f"{name}, {updates} updates on the same samples"
            for (rule, _), lr in loops:
                if lr == 2.0:
                    history = histories[(rule, NONE), lr]
                    table.add(f"{part}, lr 2", rule, "expected reward", final_reward(history))
                    table.add(f"{part}, lr 2", rule, "KL of a step", history.kl_anchor[:50].mean(0))
            compare(table, f"{part}, lr 2", {rule: final_reward(histories[(rule, NONE), 2.0]) for rule in RULES})
            if not quick:
                own_best(table, f"{part}, own best lr", {key: final_reward(h) for key, h in histories.items()})


def at_found(table: Table, name: str, seeds: Sequence[int]) -> None:
    """The setting of the earlier finding with alpha 0.6, the bandit's default: its note does not say which alpha it had."""
    loops = {rule: replace(loop, updates=4, lr=2.0, alpha=0.6) for rule, loop in RULES.items()}
    values = {rule: final_reward(h) for rule, h in run_all(AGAIN[name], loops, seeds=seeds, snapshots=2).items()}
    part = f"{name}, alpha 0.6, 4 updates on the same samples, lr 2"
    for rule, found in values.items():
        table.add(part, rule, "expected reward", found)
    compare(table, part, values)


def later_mini_batches(table: Table, seeds: Sequence[int], num_problems: int) -> None:
    """Prompts that share parameters, each used once, in 2 or 4 mini-batches: the later ones are stale."""
    for parts in (2, 4):
        base: dict[str, Any] = {"optimizer": "adam", "num_steps": 150, "updates": parts, "mini_batches": parts}
        loops = {((rule, NONE), lr): replace(loop, lr=lr, **base) for rule, loop in RULES.items() for lr in MIXED_RATES}
        results: dict = {key: [] for key in loops}
        for index in range(500, 500 + num_problems):
            problem = mixed_prompts(index)
            histories = run_all(
                problem.task, loops, seeds=seeds[:4], features=problem.features, initial_logits=problem.initial_logits,
                snapshots=2,
            )  # fmt: skip
            for key, history in histories.items():
                results[key].append(success(history, problem.task.values).mean())
        own_best(
            table, f"mixed prompts, {parts} mini-batches, own best lr", {k: torch.stack(v) for k, v in results.items()}
        )


def success(history: History, values: Tensor) -> Tensor:
    """[runs] expected reward of the last policy."""
    return (history.probs[-1] * values).sum(-1).mean(-1)


def own_best(table: Table, part: str, results: Results) -> None:
    """Each rule at its own best lr, and their differences."""
    best = best_rates(results)
    for (rule, _), (lr, values) in best.items():
        table.add(part, rule, "expected reward", values, x=lr)
    compare(table, part, {rule: values for (rule, _), (_, values) in best.items()})


def compare(table: Table, part: str, values: dict[str, Tensor]) -> None:
    """Paired differences: ratio, clip and GRPO minus none, and clip minus GRPO."""
    for rule, other in (("ratio", "none"), ("clip", "none"), ("grpo", "none"), ("clip", "grpo")):
        table.add(part, rule, f"minus {other}", values[rule] - values[other])


def run(seeds: list[int], quick: bool) -> Table:
    table = Table()
    shifted = [seed + NEW for seed in seeds]
    same_samples(table, shifted, quick)
    if not quick:
        later_mini_batches(table, shifted, PROBLEMS)
    return table


def judge(table: Table) -> Verdict:
    found = rows_of(table, FOUND)
    words = ["is not confirmed", "is confirmed"]
    said = f"graded rewards, 4 updates on the same samples, lr 2: {differences(found)}; "
    said += f"the earlier finding {words[costly(found)]}"
    again = table.where(part="graded, 4 updates on the same samples, own best lr", rule="clip", metric="minus none")
    later = table.where(part="mixed prompts, 2 mini-batches, own best lr", rule="clip", metric="minus none")
    if not (again and later):
        return Verdict("cannot be told", "weak", f"A quick run. {said}.")
    noisy = rows_of(table, FOUND.replace("graded", "graded, noise sd 0.5"))
    said += f" here, and {words[costly(noisy)]} with reward noise of sd 0.5: {differences(noisy)}"
    for part in (
        "graded, 4 updates on the same samples",
        "mixed prompts, 2 mini-batches",
        "mixed prompts, 4 mini-batches",
    ):
        said += f"; {part}, own best lr: {differences(rows_of(table, f'{part}, own best lr'))}"
    helps, costs = later[0].low > 0, again[0].high < 0
    none = all(abs(end) < WITHIN for row in (*again, *later) for end in (row.low, row.high))
    if none or later[0].high < 0:
        answer = "does not hold"
    elif helps and costs:
        answer = "holds"
    else:
        answer = "holds with a condition" if helps or costs else "cannot be told"
    return Verdict(answer, "strong" if answer != "cannot be told" else "weak", f"Minus no correction: {said}.")


def rows_of(table: Table, part: str) -> dict[str, Row]:
    """Ratio, clip and GRPO minus no correction, in a part."""
    return {rule: table.one(part=part, rule=rule, metric="minus none") for rule in ("ratio", "clip", "grpo")}


def costly(rows: dict[str, Row]) -> bool:
    """Whether ratio and clip both end below no correction, beyond the intervals."""
    return rows["ratio"].high < 0 and rows["clip"].high < 0


def differences(rows: dict[str, Row]) -> str:
    """ "ratio ..., clip ..., grpo ..." with intervals."""
    return ", ".join(f"{rule} {row.signed}" for rule, row in rows.items())


def short(part: str) -> str:
    """A part's name as a label: without what the panel's title and the caption say."""
    for words in (", lr 2", ", own best lr", " on the same samples"):
        part = part.removesuffix(words)
    return part.replace("graded, noise sd 0.5", "noisy")


def draw(table: Table) -> tuple[Figure, str]:
    parts = list(dict.fromkeys(row.part for row in table))
    shown = [
        [part for part in parts if part.endswith(", lr 2")],
        [part for part in parts if not part.endswith(", lr 2")],
    ]
    titles = ("At lr 2", "Each at its own best lr")
    made, axes = plotting.figure(1, 2, size=(14.0, 6.0))
    for ax, names, title in zip(axes, shown, titles, strict=True):
        rows = {
            f"{rule}: {short(name)}": table.one(part=name, rule=rule, metric="minus none")
            for name in names
            for rule in ("ratio", "clip", "grpo")
        }
        plotting.differences(ax, rows)
        ax.tick_params(axis="y", labelsize=7)
        ax.set(xlabel="reward minus APO's without correction", title=title)
    return made, (
        "Differences to APO as published, alpha 0.9 unless said, on equal seeds; graded and noisy (graded, noise of sd 0.5): "
        "updates on the same samples, mixed prompts: each sample once."
    )


EXPERIMENT = Experiment(
    number=4,
    name="stale_update_bandit",
    title="the importance ratio on bandits: the same samples again, or later mini-batches",
    question="Do the importance ratio and PPO's clip help APO on a bandit, and does it matter whether the same samples are "
    "used again or other prompts were trained in between?",
    paper="No correction; nothing is said about stale samples.",
    theory="On the samples of its own prompt the anchored divergence has a target at which it stops, and a ratio only distorts "
    "the way there. After updates on other prompts the samples are stale and no target says so: the ratio is needed. "
    "Looking around (one setting: graded rewards, 4 updates on the same samples, lr 2) had none .913, ratio .815, clip .781, "
    "GRPO .970.",
    settings="alpha 0.9. Same samples: 16 graded arms, with and without noise, 2 and 4 updates. Later mini-batches: 24 tasks "
    "of 8 prompts of mixed difficulty with shared parameters (rank 4), Adam, 150 steps, 2 and 4 mini-batches, each sample "
    "used once. Seeds from 6000 on.",
    controls="GRPO; lr 2, where the finding was made, and each rule's own best lr; alpha 0.6 at lr 2, added after a quick run "
    "of 12 seeds had not confirmed the finding with 0.9.",
    rule="The earlier finding is confirmed if ratio and clip are below none at its setting (alpha 0.9), beyond the intervals. "
    "The theory holds if at own best lr clip minus none is above 0 with 2 mini-batches and below 0 with 4 updates on the "
    "same samples (graded); with a condition if one of the two; does not hold if both lie within 0.01 of 0 or the first "
    "is below 0.",
    run=run,
    judge=judge,
    draw=draw,
    key=Key(lambda table: table.one(part=FOUND, rule="grpo", metric="minus none").mean, 0.147, 0.13),
)
