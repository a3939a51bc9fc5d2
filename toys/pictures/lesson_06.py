"""The pictures of lesson 06: roads to one end, where the end differs, and speed against seeking."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from apo_edu import palette

from .. import flows, plotting
from ..bandits import History


def roads(log_q: Tensor, paths: Mapping[float, Tensor], said: str) -> Figure:
    """{alpha: [steps, starts, 3] policies} on the simplex, over the flow at alpha = 1/2."""
    made, ax = plotting.figure(size=(6.4, 4.4))
    plotting.simplex(ax, log_q.exp(), paths, field=flows.simplex_field(log_q, 0.5))
    ax.set_title(f"You said: {said}")
    return made


def along_the_road(entropy: Mapping[float, Tensor], distance: Mapping[float, Tensor]) -> Figure:
    """{alpha: [steps]} of the normalised entropy, and of V on a logarithmic axis."""
    made, axes = plotting.figure(1, 2, size=(10, 3.2))
    for alpha in entropy:
        axes[0].plot(entropy[alpha], label=f"alpha = {alpha:g}", **plotting.alpha_line(alpha))
        axes[1].semilogy(distance[alpha], **plotting.alpha_line(alpha))
    axes[0].set(xlabel="step", ylabel="normalised entropy")
    axes[1].set(xlabel="step", ylabel="V (nats squared)")
    axes[0].legend()
    return made


def capacity(ends: Mapping[str, Tensor]) -> Figure:
    """What `flows.capacity` ends with: both KLs to the target, and the entropy, for a table and for tied parameters."""
    made, axes = plotting.figure(1, 3, size=(13.2, 3.4))
    log_target, alphas = ends["target"].log(), ends["alphas"]
    for kind, marker, color in (("tabular", "o", palette.GREEN), ("tied", "s", palette.VERMILION)):
        look: dict[str, Any] = {"marker": marker, "label": kind, "color": color}
        p = ends[kind]
        axes[0].plot(alphas, flows.arm_divergence(log_target, p, 1.0).mean(-1), **look)
        axes[1].plot(alphas, flows.arm_divergence(log_target, p, 0.0).mean(-1), **look)
        axes[2].plot(alphas, -(p * p.clamp(min=1e-300).log()).sum(-1).mean(-1) / np.log(p.shape[-1]), **look)
    names = ("KL(q || pi) at the end (nats)", "KL(pi || q) at the end (nats)", "normalised entropy at the end")
    for ax, name in zip(axes, names, strict=True):
        ax.set(xlabel="order alpha", ylabel=name)
        ax.legend()
    return made


def early_stop(histories: Mapping[float, History], said: str) -> Figure:
    """Expected reward, entropy and good arms kept at the last step, against alpha."""
    made, axes = plotting.figure(1, 3, size=(13.2, 3.6))
    for ax, series in zip(axes, ("expected_reward", "entropy", "good_arms"), strict=True):
        plotting.against_alpha(ax, histories, series)
    axes[0].set_title(f"You said: {said}")
    return made


def speed(reached: Mapping[float, Sequence[Any]], said: str, *, level: float) -> Figure:
    """Good arms kept, and steps needed, where runs of each alpha first earn as much; the text's `level` is marked."""
    made, axes = plotting.figure(1, 2, size=(10.4, 3.6))
    plotting.at_equal_reward(axes[0], reached)
    plotting.at_equal_reward(axes[1], reached, "steps")
    for ax in axes:
        ax.axvline(level, color="0.6", ls=":", lw=1)
    axes[0].set_title(f"You said: {said}")
    return made


def both_knobs(table: np.ndarray, betas: Sequence[float], alphas: Sequence[float]) -> Figure:
    """Final entropies [betas, alphas] as a heat map with its numbers."""
    made, ax = plotting.figure(size=(5.8, 3.8))
    shown = ax.imshow(table, cmap="cividis", vmin=0, vmax=1, aspect="auto", origin="lower")
    for i in range(len(betas)):
        for j in range(len(alphas)):
            color = "white" if table[i, j] < 0.55 else "black"
            ax.text(j, i, f"{table[i, j]:.2f}", ha="center", va="center", color=color)
    ax.set_xticks(range(len(alphas)), [f"{a:g}" for a in alphas])
    ax.set_yticks(range(len(betas)), [f"{b:g}" for b in betas])
    ax.set(xlabel="order alpha", ylabel="beta_r (unit of reward)")
    ax.grid(False)
    made.colorbar(shown, ax=ax, label="normalised entropy at the end")
    return made
