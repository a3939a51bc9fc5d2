"""One group of a real run, token by token: rewards, target, anchored policy, coefficients, and the push on every token.

The groups are committed data, written by `full/train.py --callback full.trainer.microscope:groups`; everything computed here
comes from the library's functions.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from torch import Tensor

from apo_edu import GroupBatch, objectives, palette
from apo_edu.objectives import group_distributions

from .widgets import FilmStrip, LiveCanvas
from .worked_example import group_batch

PUSHES = LinearSegmentedColormap.from_list("pushes", [palette.VERMILION, "#ffffff", palette.BLUE])


@dataclass(frozen=True)
class Group:
    """The completions of one problem.

    problem, answer: the question and the right answer. step, step_later: optimiser steps of the run when they were sampled,
        and when they were scored again.
    tokens: for each completion its tokens as texts.
    logps, later: [group, tokens] log-probabilities when sampled and at step_later, nats, 0 where there is no token.
    mask: [group, tokens]; rewards: [group].
    """

    problem: str
    answer: str
    step: int
    step_later: int
    tokens: tuple[tuple[str, ...], ...]
    logps: Tensor
    later: Tensor
    mask: Tensor
    rewards: Tensor

    def batch(self, *, later: bool = False) -> GroupBatch:
        """As the trainer's batch of one prompt: on policy, or with the policy of `step_later` on the same samples."""
        logps = self.later if later else self.logps
        return GroupBatch(logps[None], self.logps[None], self.mask[None], self.rewards[None])


@dataclass(frozen=True)
class Anatomy:
    """What the objective makes of a group. q, p, coef: [group]; coef is one number a token, dL/d(log pi), equal over a
    completion's tokens. push: [group, tokens], minus the gradient with respect to each sampled token's own logit."""

    q: Tensor
    p: Tensor
    coef: Tensor
    push: Tensor


def load(path: Path) -> list[Group]:
    """The groups of a file, in its order.

    Raises:
        ValueError: at a line that is no group.
    """
    groups = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            rows = row["completions"]
            width = max(len(one["tokens"]) for one in rows)

            def table(key: str, rows: Any = rows, width: int = width) -> Tensor:
                padded = [one[key] + [0.0] * (width - len(one[key])) for one in rows]
                return torch.tensor(padded, dtype=torch.float64)

            mask = torch.tensor([[i < len(one["tokens"]) for i in range(width)] for one in rows])
            groups.append(
                Group(
                    row["problem"], row["answer"], row["step"], row["step_later"],
                    tuple(tuple(one["tokens"]) for one in rows), table("logps"), table("later"), mask,
                    torch.tensor([one["reward"] for one in rows], dtype=torch.float64),
                )
            )  # fmt: skip
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}, line {number}: {error!r}; expected a group as full.trainer.microscope writes it. Make the file "
                "again."
            ) from None
    return groups


def worked_example_group() -> Group:
    """The course's three completions as a group of the microscope, one token each."""
    batch = group_batch()
    logps = batch.logps[0]
    tokens = (("best",), ("middle",), ("worst",))
    return Group("The worked example", "best", 0, 0, tokens, logps, logps, batch.mask[0].bool(), batch.rewards[0])


def anatomy(group: Group, *, alpha: float, beta_r: float, tau_anc: float, later: bool = False) -> Anatomy:
    """q, p, coefficients and pushes of a group, from `objectives.coefficients` of apo.

    The push on a token is -c (1 - pi): the softmax passes that much of a log-probability's gradient to the token's own logit.
    """
    batch = group.batch(later=later)
    options: dict[str, Any] = {"tau_anc": tau_anc, "beta_r": beta_r}
    log_q, log_p = group_distributions(batch, **options)
    coef, _, _ = objectives.coefficients(objectives.apo, batch, alpha=alpha, **options)
    push = -coef[0] * (1 - batch.logps[0].exp()) * group.mask
    one_a_token = coef[0].sum(-1) / group.mask.sum(-1).clamp(min=1)  # equal over a completion's tokens
    return Anatomy(log_q.exp()[0], log_p.exp()[0], one_a_token, push)


def told(group: Group, found: Anatomy) -> str:
    """The group in one sentence, with its numbers."""
    best, worst = int(found.q.argmax()), int(found.q.argmin())
    right = int((group.rewards == group.rewards.max()).sum())
    count, reward = len(group.rewards), group.rewards.max()
    return (
        f"{right} of {count} have the highest reward, {reward:g}. The best gets q = {found.q[best]:.3f} where the policy has "
        f"p = {found.p[best]:.3f}, and each of its tokens the coefficient {found.coef[best]:+.3f}; the worst "
        f"q = {found.q[worst]:.3f}, p = {found.p[worst]:.3f}, {found.coef[worst]:+.3f}."
    )


def _setup(figure: Figure, group: Group) -> dict[str, Any]:
    left, right = figure.subplots(1, 2, width_ratios=(2.1, 1))
    size, width = len(group.tokens), max(map(len, group.tokens))
    order = torch.argsort(group.rewards, descending=True, stable=True).tolist()
    left.set(xlim=(-1.6, width), ylim=(size - 0.4, -0.6), yticks=[], xticks=[])
    left.grid(visible=False)
    for side in left.spines.values():
        side.set_visible(False)
    left.set_title(f"{group.problem}  (answer {group.answer}, step {group.step})", fontsize=9)
    boxes: dict[tuple[int, int], FancyBboxPatch] = {}
    words = []  # drawn with the boxes, or these would cover them
    for y, i in enumerate(order):
        left.text(-0.2, y, f"r = {group.rewards[i]:g}", ha="right", va="center", fontsize=8)
        for t, text in enumerate(group.tokens[i]):
            box = FancyBboxPatch(
                (t + 0.06, y - 0.36), 0.88, 0.72, boxstyle="round,pad=0,rounding_size=0.1", lw=0.6, ec="0.5"
            )
            boxes[i, t] = left.add_patch(box)
            shown = text.replace("\n", "\\n").strip() or "\u2423"
            long = len(shown) > (5 if width < 12 else 3)
            words.append(
                left.text(t + 0.5, y, shown, ha="center", va="center", fontsize=5.2 if long else 7.5, zorder=5)
            )
    right.set(ylim=(size - 0.4, -0.6), xlim=(0, 1), yticks=[], xlabel="probability within the group")
    right.set_title("target q (filled), policy p (line)", fontsize=9)
    bars = right.barh(range(size), [0.0] * size, height=0.62, color=palette.TARGET, alpha=0.75)
    (marks,) = right.plot([], [], "|", color=palette.BLUE, ms=15, mew=2.6)
    numbers = [right.text(0.99, y, "", ha="right", va="center", fontsize=7.5) for y in range(size)]
    return {"boxes": boxes, "bars": list(bars), "marks": marks, "numbers": numbers, "words": words, "order": order}


def _update(artists: dict[str, Any], group: Group, found: Anatomy) -> None:
    scale = float(found.push.abs().max()) or 1.0
    for ((i, t), box), word in zip(artists["boxes"].items(), artists["words"], strict=True):
        word.set_color("white" if abs(float(found.push[i, t])) > 0.6 * scale else "black")
        box.set_facecolor(PUSHES(0.5 + 0.5 * float(found.push[i, t]) / scale))
    for y, i in enumerate(artists["order"]):
        artists["bars"][y].set_width(float(found.q[i]))
        artists["numbers"][y].set_text(f"c = {float(found.coef[i]):+.3f}")
    order = artists["order"]
    artists["marks"].set_data(np.array(found.p)[order], range(len(order)))


_ALT = (
    "Each row is a completion, its tokens in boxes: blue where the token's logit is pushed up, orange where it is pushed down, "
    "white where there is hardly a push. Beside it the target q as a bar, the policy p as a line, and the coefficient."
)


def table(group: Group, found: Anatomy) -> str:
    """Reward, q, p, coefficient and text of each completion, as text."""
    lines = [f"{'reward':>6} {'q':>7} {'p':>7} {'c':>8}  completion"]
    for i, tokens in enumerate(group.tokens):
        said = "".join(tokens).replace("\n", "\\n")
        numbers = f"{group.rewards[i]:6g} {found.q[i]:7.3f} {found.p[i]:7.3f} {found.coef[i]:+8.3f}"
        lines.append(f"{numbers}  {said}")
    return "\n".join(lines)


def alpha_strip(group: Group, *, beta_r: float = 0.3, tau_anc: float = 0.5) -> FilmStrip:
    """The group with a slider for alpha; it works without a kernel."""
    alphas = np.linspace(0, 1, 21)

    def found(alpha: float) -> Anatomy:
        return anatomy(group, alpha=alpha, beta_r=beta_r, tau_anc=tau_anc)

    return FilmStrip(
        lambda figure: _setup(figure, group), lambda artists, alpha: _update(artists, group, found(alpha)), alphas.tolist(),
        label="alpha", start=0.6, describe=lambda alpha: f"At alpha = {alpha:.2f}: " + told(group, found(alpha)), still=4,
        caption="Colours: the push on each token's logit, as a share of the largest; c is the coefficient of the completion.",
        alt=_ALT, figsize=(9.6, 3.6), dpi=110, ends=("0: mode seeking", "1: mode covering"),
    )  # fmt: skip


def microscope(group: Group, *, still: Sequence[Mapping[str, Any]] = ({},)) -> LiveCanvas:
    """The group with sliders for alpha, beta_r and tau_anc, on the policy of `step_later`: the samples are stale."""

    def found(alpha: float, beta_r: float, tau_anc: float) -> Anatomy:
        return anatomy(group, alpha=alpha, beta_r=beta_r, tau_anc=tau_anc, later=True)

    return LiveCanvas(
        lambda figure: _setup(figure, group), lambda artists, **knobs: _update(artists, group, found(**knobs)),
        {
            "alpha": ("alpha", 0.0, 1.0, 0.05, 0.6),
            "beta_r": ("beta_r", 0.05, 2.0, 0.05, 0.3),
            "tau_anc": ("tau_anc", 0.1, 2.0, 0.05, 0.5),
        },
        describe=lambda **knobs: told(group, found(**knobs)),
        caption="The same samples after a few more steps: p has left the uniform distribution, and the coefficients answer.",
        alt=_ALT, figsize=(9.6, 3.6), still=still,
    )  # fmt: skip
