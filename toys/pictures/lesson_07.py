"""The pictures of lesson 07: how gradient estimates scatter, and which way alpha turns them."""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from apo_edu import alpha_divergence_grad, palette

from .. import plotting
from ..estimators import AgainstGrpo, EstimatorStudy
from ..widgets import FilmStrip


def variances(study: EstimatorStudy, said: str) -> Figure:
    """Variance of one gradient estimate against alpha, for three estimators."""
    made, ax = plotting.figure(size=(6.2, 3.6))
    plotting.estimator_variance(ax, study)
    ax.set_title(f"You said: {said}")
    return made


def clouds_strip(
    clouds: Mapping[float, Mapping[str, Tensor]], log_q: Tensor, log_p: Tensor, *, samples: int
) -> FilmStrip:
    """{alpha: {estimator: [estimates, arms]}}: two components of each estimate, and the truth, with a slider for alpha.

    samples: how many an estimate is made of, for the text.
    """

    def setup(figure: Figure) -> dict[str, Any]:
        axes = figure.subplots(1, 2, sharex=True, sharey=True)
        out = {}
        for ax, name in zip(axes, ("uncentred", "centred"), strict=True):
            ax.set(xlim=(-3.2, 3.2), ylim=(-3.2, 3.2), xlabel="dD/du of arm 1 (nats)", title=name)
            out[name] = ax.plot([], [], "o", ms=3, alpha=0.5, mew=0)[0]
            out[name + " truth"] = ax.plot([], [], "+", ms=14, mew=2.5, color="black")[0]
        axes[0].set_ylabel("dD/du of arm 2 (nats)")
        return out

    def update(artists: dict[str, Any], alpha: float) -> None:
        exact = alpha_divergence_grad(log_q, log_p, alpha)
        for name in ("uncentred", "centred"):
            color = plotting.alpha_line(alpha)["color"]
            artists[name].set(data=clouds[alpha][name][:, :2].T.numpy(), color=color)
            artists[name + " truth"].set_data([exact[0]], [exact[1]])

    def describe(alpha: float) -> str:
        scatter = {name: estimates[:, 0].std().item() for name, estimates in clouds[alpha].items()}
        return (
            f"alpha = {alpha:g}: from {samples} samples the uncentred estimates scatter by {scatter['uncentred']:.2f} "
            f"in the first component, the centred ones by {scatter['centred']:.2f}."
        )

    count = len(next(iter(next(iter(clouds.values())).values())))
    return FilmStrip(
        setup, update, list(clouds), label="alpha", form="{:g}", start=0.2, describe=describe, still=4, dpi=100,
        figsize=(8, 4), ends=("0.1: towards mode seeking", "1: mode covering"),
        caption=f"{count} estimates of the same gradient from {samples} samples each (many coincide: samples are counts); "
        "the cross is exact.",
        alt="Two clouds of gradient estimates around the exact value; the uncentred cloud grows as alpha falls, the "
        "centred does not.",
    )  # fmt: skip


def effective(study: EstimatorStudy) -> Figure:
    """How many samples the weights rest on, against alpha."""
    made, ax = plotting.figure(size=(5.6, 3.2))
    plotting.effective_samples(ax, study)
    return made


def directions(found: Mapping[str, AgainstGrpo], said: str) -> Figure:
    """{what group: how APO's gradient lies to GRPO's}: the cosine between them, and APO's length, against alpha."""
    made, axes = plotting.figure(1, 2, size=(9.6, 3.3))
    looks = (("-", palette.BLUE), ("--", palette.ORANGE), (":", palette.GREEN))
    for (name, one), (style, color) in zip(found.items(), looks, strict=True):
        axes[0].plot(one.alphas, one.cosine, style, label=name, color=color)
        axes[1].plot(one.alphas, one.length, style, label=name, color=color)
    axes[0].set(xlabel="order alpha", ylabel="cosine with GRPO's gradient", title=f"You said: {said}")
    axes[1].set(xlabel="order alpha", ylabel="length of the gradient (1 / nat)")
    axes[0].legend()
    return made
