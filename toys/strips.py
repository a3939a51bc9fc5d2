"""Ready-made film strips, and the kernel-free page of them: `python -m toys.strips OUT.html`.

The page is one file whose sliders work without network or kernel.

To add a strip, write a function that returns a `FilmStrip` and name it in `STRIPS`.
"""

import argparse
import html
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from apo_edu import alpha_divergence, box_cox, palette

from .flows import population_flow
from .mixtures import stationary_fits, two_modes
from .widgets import FilmStrip
from .widgets.film_strip import page_script, page_style
from .worked_example import worked_example

ALPHAS = np.linspace(0.0, 1.0, 41)
ENDS = ("0: mode seeking", "1: mode covering")

_SHEET = """
body { margin: 0 auto; max-width: 800px; padding: 24px 16px 64px; background: #fff; color: #1b1f27;
  font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 8px; }
h2 { font-size: 19px; margin: 40px 0 12px; }
"""


def weight_strip() -> FilmStrip:
    """The weight (w^alpha - 1)/alpha that alpha gives to a sample, against log w."""
    log_w = np.linspace(-3.0, 2.0, 251)

    def weights(alpha: float, at: np.ndarray) -> np.ndarray:
        return box_cox(torch.from_numpy(at), alpha).numpy()

    def setup(figure):
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        left.set(xlim=(-3, 2), ylim=(-3.2, 6.6), xlabel="log w = log q/p (nats)", ylabel="weight of the sample")
        left.set_title("Weight against density ratio")
        left.plot(log_w, weights(0.0, log_w), ":", color="0.45", label="alpha = 0: log w")
        left.plot(log_w, weights(1.0, log_w), "--", color="0.45", label="alpha = 1: w - 1")
        (curve,) = left.plot([], [], lw=2.6)
        left.legend(loc="upper left")
        samples = np.array([-2.5, 1.5])
        right.set(xlim=(-3.2, 6.6), ylim=(-0.6, 1.6), xlabel="weight", yticks=[0, 1])
        right.set_yticklabels(["p has mass,\nq has little\n(log w = -2.5)", "q has mass,\np has little\n(log w = 1.5)"])
        right.axvline(0, color="0.3", lw=0.8)
        right.set_title("Who is heard")
        right.grid(axis="y", visible=False)
        bars = right.barh([0, 1], [0, 0], height=0.5)
        (dots,) = left.plot(samples, samples, "o", color="black", ms=6, ls="none")
        return {"curve": curve, "dots": dots, "bars": list(bars), "samples": samples}

    def update(artists, alpha):
        color = palette.alpha_color(alpha)
        artists["curve"].set_data(log_w, weights(alpha, log_w))
        artists["curve"].set_color(color)
        heights = weights(alpha, artists["samples"])
        artists["dots"].set_ydata(heights)
        for bar, height in zip(artists["bars"], heights, strict=True):
            bar.set_width(height)
            bar.set_color(color)

    def describe(alpha):
        low, high = weights(alpha, np.array([-2.5, 1.5]))
        louder = "the missed mode is louder" if abs(high) > abs(low) else "the misplaced mass is louder"
        return (
            f"At alpha = {alpha:.3f} a sample where p misses q (log w = 1.5) weighs {high:+.2f}, and one where p has "
            f"mass that q lacks (log w = -2.5) weighs {low:+.2f}: {louder}."
        )

    return FilmStrip(
        setup,
        update,
        ALPHAS,
        label="alpha",
        form="{:.3f}",
        ends=ENDS,
        start=0.5,
        describe=describe,
        caption="Raising alpha turns the weight from log w, which shuns misplaced mass, to w - 1, which chases what is "
        "missed.",
        alt="Left: the weight of a sample against its log density ratio, between the curves log w and w - 1. Right: "
        "bars with the weights of two samples, one where p has mass and q little, one where q has mass and p little.",
    )


def divergence_strip() -> FilmStrip:
    """D_alpha between a coin q and every coin p, so that both ends show where the divergence is steep."""
    heads = np.linspace(0.004, 0.996, 249)
    log_p = torch.from_numpy(np.log(np.stack([heads, 1.0 - heads], axis=-1)))
    log_q = torch.tensor([0.8, 0.2], dtype=torch.float64).log()
    curves = alpha_divergence(log_q, log_p, torch.from_numpy(ALPHAS)[:, None]).numpy()
    at = {float(alpha): curve for alpha, curve in zip(ALPHAS, curves, strict=True)}

    def setup(figure):
        axes = figure.subplots()
        axes.set(xlim=(0, 1), ylim=(0, 2.5), xlabel="p(heads)", ylabel="divergence (nats)")
        axes.set_title("D_alpha(q || p) for two coins, q(heads) = 0.8")
        axes.axvline(0.8, color=palette.TARGET, lw=1.0, ls=":")
        axes.text(0.79, 2.35, "q", ha="right", va="top", fontsize=12)
        axes.plot(heads, curves[0], ":", color="0.45", label="alpha = 0: KL(p || q)")
        axes.plot(heads, curves[-1], "--", color="0.45", label="alpha = 1: KL(q || p)")
        (curve,) = axes.plot([], [], lw=2.6)
        axes.legend(loc="upper center")
        return curve

    def update(curve, alpha):
        curve.set_data(heads, at[alpha])
        curve.set_color(palette.alpha_color(alpha))

    def describe(alpha):
        low, high = np.interp([0.05, 0.99], heads, at[alpha])
        return (
            f"At alpha = {alpha:.3f}, a p that all but forgets heads (0.05) costs {low:.2f} nats, and a p that all but "
            f"forgets tails (0.99) costs {high:.2f} nats."
        )

    return FilmStrip(
        setup,
        update,
        ALPHAS,
        label="alpha",
        form="{:.3f}",
        ends=ENDS,
        start=0.5,
        describe=describe,
        caption="Every D_alpha is zero at p = q only; what changes is the price of forgetting, which has no bound "
        "at alpha = 1.",
        alt="The divergence between two coins against the probability of heads under p, between the two KL "
        "divergences, touching zero at 0.8.",
    )


def density_strip() -> FilmStrip:
    """One Gaussian against modes at -2 and 2 (sd 0.6): every stationary fit of D_alpha, the best ones bold."""
    target = two_modes(2.0)
    table = stationary_fits(target, ALPHAS.tolist())
    x = np.linspace(-5.0, 5.0, 401)
    density = target.log_density(torch.from_numpy(x)[:, None]).exp().numpy()

    def setup(figure):
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        left.set(xlim=(-5, 5), ylim=(0, 0.85), xlabel="x", ylabel="density")
        left.set_title("Target q and every stationary fit p")
        left.fill_between(x, density, color="0.85")
        left.plot(x, density, color=palette.TARGET, lw=1.2, label="target q")
        for name, style in {"best fit": "-", "another minimum": "--", "saddle": ":"}.items():
            left.plot([], [], style, color="0.35", lw=2.6 if style == "-" else 1.6, label=name)
        left.legend(loc="upper left", ncols=2, fontsize=8.5)
        right.set(xlim=(-0.02, 1.02), ylim=(-2.6, 2.6), xlabel="alpha", ylabel="mean of the fit")
        right.set_title("Where the fits are")
        for keep, size, face in [(~table.stable, 8, "white"), (table.stable, 14, "0.45"), (table.best, 34, "black")]:
            rows = table.where(keep)
            right.scatter(rows.alpha, rows.mean[:, 0], s=size, facecolor=face, edgecolor="0.35", lw=0.6, clip_on=False)
        return {"fits": [left.plot([], [])[0] for _ in range(6)], "now": right.axvline(0.0, lw=2.0, alpha=0.7)}

    def update(artists, alpha):
        rows = table.at(alpha)
        artists["now"].set_xdata([alpha, alpha])
        artists["now"].set_color(palette.alpha_color(alpha))
        for i, line in enumerate(artists["fits"]):
            line.set_visible(i < len(rows))
            if i >= len(rows):
                continue
            mean, sd = float(rows.mean[i, 0]), float(rows.sd[i, 0])
            line.set_data(x, np.exp(-0.5 * ((x - mean) / sd) ** 2) / (sd * np.sqrt(2.0 * np.pi)))
            best, stable = bool(rows.best[i]), bool(rows.stable[i])
            line.set(linestyle="-" if best else "--" if stable else ":", linewidth=3.0 if best else 1.6)
            line.set_color(palette.alpha_color(alpha) if stable else "0.5")

    def describe(alpha):
        rows = table.at(alpha)
        best, minima = rows.where(rows.best), int(rows.stable.sum())
        covers = len(best) == 1
        return (
            f"At alpha = {alpha:.3f} the best fit {'covers both modes' if covers else 'sits on one mode'} "
            f"(sd {float(best.sd[0, 0]):.2f}): it misses {float(best.mass_missed[0]):.0%} of the target and keeps "
            f"{float(best.mass_in_valley[0]):.0%} of its own mass in the valley. "
            + ("It is the only minimum." if minima == 1 else f"There are {minima} minima.")
        )

    return FilmStrip(
        setup,
        update,
        ALPHAS,
        label="alpha",
        form="{:.3f}",
        ends=ENDS,
        start=1.0,
        describe=describe,
        caption="Between covering and seeking there is a jump: the covering fit stays a minimum down to alpha = 0, but "
        "a fit on one mode overtakes it.",
        alt="Left: a target with two modes and the Gaussians that are stationary for D_alpha, the best one bold. "
        "Right: the means of all stationary fits against alpha, one branch above 0.6, five below.",
    )


def flow_strip() -> FilmStrip:
    """Policies over three completions, following D_alpha at three alphas to the target of the worked example."""
    log_q = worked_example(0.5).q.log()
    start = torch.tensor([0.06, 0.24, 0.7], dtype=torch.float64).log()
    alphas, steps = (0.0, 0.5, 1.0), range(41)
    path = population_flow(log_q, start[None], alphas, num_steps=steps[-1])[:, :, 0]
    left_over = (path - log_q.exp()).abs().sum(-1) / 2
    names = ("best (1)", "middle (1/2)", "worst (0)")
    looks = [{"color": palette.alpha_color(alpha)} for alpha in alphas]

    def setup(figure):
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        left.set(xlim=(-0.6, 2.6), ylim=(0, 1), ylabel="probability", xlabel="completion (its reward)")
        left.set_xticks(range(3), names)
        left.set_title("Policies p (filled) on their way to the target q (outline)")
        left.grid(axis="x", visible=False)
        bars = [
            left.bar(
                [k + 0.27 * (i - 1) for k in range(3)], [0.0] * 3, width=0.25, zorder=2, label=f"{alpha:g}", **look
            )
            for i, (alpha, look) in enumerate(zip(alphas, looks, strict=True))
        ]
        left.legend(title="from left to right: alpha", ncols=3, loc="upper right")
        outline = left.bar(
            range(3), log_q.exp().tolist(), width=0.85, facecolor="none", edgecolor=palette.TARGET, lw=1.6, zorder=3
        )
        right.set(xlim=(0, steps[-1]), ylim=(0, 0.75), xlabel="step", ylabel="probability in the wrong place")
        right.set_title("What is left to do")
        for i, (alpha, dash, look) in enumerate(zip(alphas, ("-", "--", ":"), looks, strict=True)):
            right.plot(range(len(left_over)), left_over[:, i], linestyle=dash, label=f"alpha = {alpha:g}", **look)
        dots = [right.plot([], [], "o", ms=8, mec="black", zorder=4, **look)[0] for look in looks]
        right.legend()
        # The outline is drawn over the bars, so it moves with them.
        return {"bars": [bar for group in bars for bar in group], "dots": dots, "outline": list(outline)}

    def update(artists, step):
        for bar, height in zip(artists["bars"], path[int(step)].flatten().tolist(), strict=True):
            bar.set_height(height)
        for dot, height in zip(artists["dots"], left_over[int(step)].tolist(), strict=True):
            dot.set_data([step], [height])

    def describe(step):
        shares = [
            f"{float(share):.0%} at alpha = {alpha:g}"
            for share, alpha in zip(left_over[int(step)], alphas, strict=True)
        ]
        best = [f"{float(p):.2f}" for p in path[int(step), :, 0]]
        return (
            f"After {int(step)} steps the probability in the wrong place is {', '.join(shares[:2])} and {shares[2]}; the best "
            f"completion has {', '.join(best[:2])} and {best[2]}, on the way to {float(log_q.exp()[0]):.2f}."
        )

    return FilmStrip(
        setup,
        update,
        list(steps),
        label="step",
        form="{:.0f}",
        start=0,
        describe=describe,
        still=4,
        caption="The same start and the same target: alpha changes the road and the pace. Alpha = 1 is ahead at first and "
        "last at the end.",
        alt="Left: for each of three completions three bars, one for alpha 0, 1/2 and 1, moving into the outline of the "
        "target. Right: the share of the probability in the wrong place against the step, falling soonest for alpha 1 and "
        "ending lowest for alpha 0.",
    )


STRIPS: dict[str, Callable[[], FilmStrip]] = {
    "One Gaussian, two modes": density_strip,
    "What alpha does to one sample's weight": weight_strip,
    "What alpha does to the price of forgetting": divergence_strip,
    "Three policies on their way to the target": flow_strip,
}


def page(strips: dict[str, Callable[[], FilmStrip]] | None = None) -> str:
    """The whole page as HTML: each strip under its heading (`STRIPS` unless given)."""
    parts = [
        f"<section>\n<h2>{html.escape(title)}</h2>\n{build().to_html(alone=False)}</section>"
        for title, build in (STRIPS if strips is None else strips).items()
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>Move alpha and understand</title>\n<style>{_SHEET}{page_style()}</style>\n</head>\n<body>\n<main>\n"
        "<h1>Move alpha and understand</h1>\n<p>The alpha-divergence D_alpha(q || p) goes from KL(p || q), which seeks "
        "modes, at alpha = 0, to KL(q || p), which covers them, at alpha = 1. Drag a slider, or focus it and use "
        "the arrow keys, Home and End.</p>\n"
        + "\n".join(parts)
        + f"\n</main>\n<script>{page_script()}</script>\n</body>\n</html>\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m toys.strips", description="Write the kernel-free page.")
    parser.add_argument("out", type=Path, help="the file to write, e.g. out/apo.html")
    out = parser.parse_args().out
    out.parent.mkdir(parents=True, exist_ok=True)
    text = page()
    out.write_text(text, encoding="utf-8")
    print(f"{out}: {len(text) / 1e6:.1f} MB, {len(STRIPS)} strips")


if __name__ == "__main__":
    main()
