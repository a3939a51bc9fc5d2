"""The pictures of lesson 10: a dial for kappa, and what the committed tables of the experiments say about it."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from apo_edu import palette

from .. import plotting
from ..estimators import prompt_weights
from ..experiments.risk_attitude import BETA_R, LIMITS
from ..experiments.table import Table
from ..widgets import FilmStrip
from .theory import PAIR, certainty_equivalents, curriculum_ratio, learned, switching_kappa

SURE, CHANCE = PAIR.values[0].tolist()  # 0.5, and 0.4: the gamble pays 1
KAPPAS = [round(0.2 * i - 1, 1) for i in range(21)]
RANGE = (0.35, 0.9)  # alpha_min and alpha_max of the paper


def crossing(committed: float | None = None) -> Figure:
    """Certainty equivalents of the sure arm and the gamble against kappa; the committed kappa as a dashed line."""
    kappas = np.linspace(-1, 3, 81)
    sure, gamble = certainty_equivalents(PAIR, torch.from_numpy(kappas))[:, 0].T.numpy()
    made, ax = plotting.figure(size=(6.6, 3.6))
    ax.plot(kappas, sure, color=palette.BLUE, label="0.5 for sure")
    ax.plot(kappas, gamble, "--", color=palette.VERMILION, label="1 with probability 0.4")
    place = switching_kappa(PAIR)
    ax.plot([place], [SURE], "o", color="black", ms=7, label=f"they change places at kappa {place:.2f}")
    ax.axvspan(*(alpha / BETA_R for alpha in RANGE), color="0.9", zorder=0)
    ax.text(sum(RANGE) / BETA_R / 2, 0.215, "alpha 0.35 to 0.9\nat beta_r 0.3", ha="center", va="bottom", fontsize=9)
    if committed is not None:
        ax.axvline(committed, color="black", ls=":", lw=1.2)
        ax.set_title(f"You said: {committed:.2f}")
    ax.set(xlabel="kappa = alpha / beta_r (1 / unit of reward)", ylabel="certainty equivalent (reward)")
    ax.set(xlim=(-1, 3), ylim=(0.2, 0.8))
    ax.legend(loc="upper left", fontsize=9)
    return made


def dial(*, seeds: int = 20) -> FilmStrip:
    """The sure arm against the gamble with a slider for kappa: what theory says, and where `seeds` runs go."""
    runs = learned(KAPPAS, seeds=seeds)
    worth = dict(zip(KAPPAS, certainty_equivalents(PAIR, KAPPAS)[:, 0, 1].tolist(), strict=True))
    ends = {kappa: int((h.probs[-1, :, 0, 1] > 0.5).sum()) for kappa, h in runs.items()}
    rewards = np.linspace(0, 1, 61)

    def utility(kappa: float, reward: Any) -> Any:
        return reward if kappa == 0 else np.expm1(kappa * reward) / np.expm1(kappa)

    def setup(figure: Figure) -> dict[str, Any]:
        left, right = figure.subplots(1, 2)
        left.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="reward", ylabel="utility (0 at reward 0, 1 at reward 1)")
        left.set_title("What a reward is worth")
        left.axhline(CHANCE, color=palette.VERMILION, ls="--", lw=1.4)
        left.text(0.99, CHANCE - 0.055, "the gamble: always 0.4", color=palette.VERMILION, fontsize=9, ha="right")
        left.axvline(SURE, color=palette.BLUE, lw=1.4)
        left.text(SURE + 0.015, 0.02, "the sure arm", color=palette.BLUE, fontsize=9)
        right.set(xlim=(0, 400), ylim=(-0.02, 1.02), xlabel="step", ylabel="probability of the gamble")
        right.set_title(f"{seeds} runs, groups of 64")
        right.axhline(0.5, color="0.6", lw=0.8, ls=":")
        lines = LineCollection([], linewidths=1.0, alpha=0.7)
        right.add_collection(lines)
        return {
            "curve": left.plot([], [], lw=2.6)[0],
            "drop": left.plot([], [], ":", color="black", lw=1.4)[0],
            "dot": left.plot([], [], "o", color="black", ms=7)[0],
            "lines": lines,
        }

    def update(artists: dict[str, Any], kappa: float) -> None:
        color = palette.alpha_color(kappa * BETA_R)
        artists["curve"].set_data(rewards, utility(kappa, rewards))
        artists["curve"].set_color(color)
        artists["drop"].set_data([worth[kappa]] * 2, [0, CHANCE])
        artists["dot"].set_data([worth[kappa]], [CHANCE])
        history = runs[kappa]
        steps = history.probs_steps.numpy()
        paths = history.probs[:, :, 0, 1].T.numpy()
        artists["lines"].set_segments([np.column_stack([steps, path]) for path in paths])
        artists["lines"].set_color(color)

    def describe(kappa: float) -> str:
        better = "more" if worth[kappa] > SURE else "less"
        return (
            f"kappa = {kappa:.1f} (alpha = {kappa * BETA_R:.2f} at beta_r 0.3): the gamble is worth a sure {worth[kappa]:.3f}, "
            f"{better} than 0.5, and {ends[kappa]} of {seeds} runs end on it."
        )

    return FilmStrip(
        setup, update, KAPPAS, label="kappa", form="{:.1f}", start=0.4, describe=describe, still=6, dpi=100, figsize=(8.6, 3.6),
        ends=("shuns risk", "seeks risk"),
        caption="Theory on the left, runs on the right: where the dot passes the blue line, the policies change sides.",
        alt="Left: a utility curve over rewards from 0 to 1 that bends downwards more as kappa grows; a dot marks the "
        "sure reward "
        "that the gamble is worth. Right: the probability of the gamble over 400 steps in 20 runs, going to 0 for small "
        "kappa and to 1 for large kappa.",
    )  # fmt: skip


def switches(table: Table, committed: str | None = None) -> Figure:
    """From experiment 13's table: share of runs on the gamble against alpha by group size, and the switch against theory."""
    made, axes = plotting.figure(1, 2, size=(10.4, 3.8))
    part = "share on the risky arm, gamble"
    groups = {f"groups of {size}": table.where(part=part, rule="apo", x=size) for size in (4, 8, 64)}
    plotting.interval_lines(axes[0], groups, x="alpha")
    axes[0].axvspan(*RANGE, color="0.93", zorder=0)
    axes[0].text(sum(RANGE) / 2 + 0.1, 0.03, "the paper's range", ha="center", fontsize=9)
    axes[0].set(xlabel="order alpha, at beta_r 0.3", ylabel="share of runs that end on the gamble")
    rows = {rule: table.where(part="switch, gamble", rule=rule) for rule in ("measured", "predicted")}
    plotting.interval_lines(
        axes[1], {rule: [row for row in found if math.isfinite(row.x)] for rule, found in rows.items()}
    )
    axes[1].axhline(LIMITS["gamble"], color="0.45", ls=":", label="limit of large groups")
    axes[1].set_xscale("log", base=2)
    axes[1].xaxis.set_major_formatter("{x:g}")
    axes[1].set(xlabel="group size P", ylabel="alpha at which the gamble wins", ylim=(0.2, 0.65))
    axes[1].legend(fontsize=9, title=f"{rows['measured'][0].seeds} seeds", title_fontsize=8)
    if committed is not None:
        axes[0].set_title(f"You said: {committed}")
    return made


def lucky_arms(table: Table, committed: str | None = None) -> Figure:
    """From experiment 13's table: probability of the lucky arms over the steps, and the final reward against the group size."""
    made, axes = plotting.figure(1, 2, size=(10.4, 3.8))
    for ax, part in zip(axes, ("path, P 8, matched", "lucky arms, matched"), strict=True):
        keys = dict.fromkeys((row.rule, row.alpha) for row in table.where(part=part) if row.rule == "apo")
        lines: dict[Any, Any] = {alpha: table.where(part=part, rule=rule, alpha=alpha) for rule, alpha in keys}
        plotting.interval_lines(ax, lines | {"grpo": table.where(part=part, rule="grpo")})
    axes[0].set(xlabel="step", ylabel="probability of the lucky arms", ylim=(0, 1), title="Groups of 8")
    axes[1].get_legend().remove()
    axes[1].set_xscale("log", base=2)
    axes[1].xaxis.set_major_formatter("{x:g}")
    axes[1].set(xlabel="group size P", ylabel="expected reward at the end (best: 1)")
    if committed is not None:
        axes[1].set_title(f"You said: {committed}")
    return made


def immunity(table: Table, committed: str | None = None) -> Figure:
    """From experiment 6's table: how far alpha 0.9 turns a gradient from alpha 0, and what that costs, by kind of reward."""
    made, axes = plotting.figure(1, 2, size=(10.6, 3.2))
    # The mean angle of the two-valued task, 0.4 degrees, is rounding: groups of equal rewards have a gradient of 1e-17.
    angles = {row.rule: replace(row, mean=row.median, low=row.q25, high=row.q75) for row in table.where(part="angle")}
    losses = {row.rule: row for row in table.where(part="own best lr", metric="alpha 0.9 minus alpha 0")}
    plotting.differences(axes[0], angles)
    plotting.differences(axes[1], losses)
    axes[0].set(xlabel="angle between the gradients of alpha 0.9 and 0 (degrees)\nmedian and quartiles over seeds")
    axes[1].set(xlabel="reward at alpha 0.9 minus at alpha 0, own best lr\nmean and 95 % interval")
    axes[1].set_yticklabels([])
    if committed is not None:
        axes[0].set_title(f"You said: {committed}")
    return made


def curriculum() -> Figure:
    """The weight of a prompt against its success rate at three orders, and w_1 / w_7 against alpha."""
    made, axes = plotting.figure(1, 2, size=(10.4, 3.6))
    weights = prompt_weights(8, alphas=(0.0, 0.35, 0.9))
    shown = {name: values for name, values in weights.items() if name.startswith("apo ") or name == "grpo"}
    plotting.prompt_weights(axes[0], shown)
    alphas = [round(0.05 * i, 2) for i in range(19)]
    ratios = curriculum_ratio(alphas)
    axes[1].plot(alphas, ratios, color="0.6", lw=1.0)
    axes[1].scatter(alphas, ratios, c=[palette.alpha_color(alpha) for alpha in alphas], s=26, zorder=3)
    axes[1].axhline(1.0, color="0.45", ls=":")
    axes[1].set(xlabel="order alpha, at beta_r 0.3", ylabel="weight of 1 in 8 over weight of 7 in 8", ylim=(0, 5.2))
    return made


def remedies(table: Table) -> Figure:
    """From experiment 13's table: the final reward on lucky arms with each remedy, at its own best learning rate."""
    made, ax = plotting.figure(size=(7.6, 3.2))
    plotting.differences(ax, {row.rule: row for row in table.where(part="what helps, lucky arms")})
    ax.set(xlabel="expected reward at the end (best: 1)", xlim=(0.68, 1.02))
    return made
