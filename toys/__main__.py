"""`python -m toys NAME --seeds N --out DIR`: one toy result as data (.npz) and as a figure (.png), with its caption."""

import argparse
import difflib
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from apo_edu import GuardedAlpha

from . import bandits, estimators, flows, mixtures, plotting

Result = tuple[Mapping[str, Any], Figure, str]  # arrays by name, the figure, its caption
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)


def bifurcation(seeds: int) -> Result:
    """All stationary Gaussian fits of three mixtures against alpha: where covering jumps to seeking."""
    separations = (1.2, 2.0, 3.0)
    fits = mixtures.stationary_fits([mixtures.two_modes(s) for s in separations], torch.linspace(0, 1, 41))
    made, axes = plotting.figure(2, 3)
    for index, separation in enumerate(separations):
        part = fits.where(fits.target == index)
        plotting.bifurcation(axes[0, index], part, "mean").set_title(f"modes at +-{separation:g}")
        plotting.bifurcation(axes[1, index], part, "sd")
        axes[1, index].get_legend().remove()
    data = {name: getattr(fits, name) for name in ("target", "alpha", "theta", "loss", "grad_norm", "stable", "best")}
    return (
        data,
        made,
        "Near modes never split a fit; far modes lock it to one of them, at a jump in alpha and not by a slide.",
    )


def hysteresis(seeds: int) -> Result:
    """Follow one fit while alpha goes down and up: it remembers where it came from."""
    branches = mixtures.continuation(mixtures.two_modes(2.0), torch.linspace(0, 1, 51))
    made, axes = plotting.figure(1, 2)
    plotting.hysteresis(axes[0], branches, "sd")
    plotting.hysteresis(axes[1], branches, "mean")
    data = {"alpha": branches["up"].alpha, "down": branches["down"].theta, "up": branches["up"].theta}
    return (
        data,
        made,
        "Going down, the covering fit survives to alpha = 0; going up, the locked fit lets go just below 0.6.",
    )


def bandit(seeds: int) -> Result:
    """The whole loop on 16 arms, 4 of them equally good, for five values of alpha."""
    loop = bandits.Loop(lr=0.1, num_steps=200)
    histories = bandits.sweep(bandits.equal_arms(noise=0.1), ALPHAS, loop, seeds=seeds)
    made, axes = plotting.figure(1, 3)
    plotting.bandit_series(axes[0], histories, "expected_reward")
    plotting.bandit_series(axes[1], histories, "entropy")
    axes[1].get_legend().remove()
    plotting.against_alpha(axes[2], histories, "good_arms")
    data = {
        f"{name}_{alpha:g}": getattr(h, name)
        for alpha, h in histories.items()
        for name in ("expected_reward", "entropy", "good_arms")
    }
    return data, made, f"Reward, entropy and good arms kept against alpha: medians and quartiles of {seeds} seeds."


def capacity(seeds: int) -> Result:
    """A tabular softmax ends at the target for every alpha; tied parameters do not."""
    data = flows.capacity(alphas=ALPHAS)
    made, axes = plotting.figure(1, 2, sharey=True)
    arms = np.arange(data["target"].shape[1]) + 1
    for ax, name in zip(axes, ("tabular", "tied"), strict=True):
        ax.bar(arms, data["target"][0].numpy(), color="#dddddd", label="target q")
        for index, alpha in enumerate(ALPHAS):
            ax.plot(
                arms,
                data[name][index, 0],
                marker="o",
                markersize=4,
                label=f"alpha = {alpha:g}",
                **plotting.alpha_line(alpha),
            )
        ax.set(xlabel="arm", ylabel="probability, first context", title=f"{name} policy")
    axes[1].legend(fontsize=8)
    return (
        data,
        made,
        "With a parameter for everything alpha changes nothing in the end; with tied parameters it decides what is given up.",
    )


def guard(seeds: int) -> Result:
    """The guarded schedule on noisy rewards: naive against noise-aware."""
    naive, aware = (
        bandits.run(
            bandits.equal_arms(noise=0.5),
            bandits.Loop(schedule=partial(GuardedAlpha, noise_guard=margin), lr=0.2, num_steps=200),
            seeds=seeds,
        )
        for margin in (0.0, 2.0)
    )
    made, axes = plotting.figure(1, 2, sharey=True)
    plotting.schedule_traces(axes[0], naive).set_title("naive guard (the paper's)")
    plotting.schedule_traces(axes[1], aware).set_title("noise-aware guard (2 standard errors)")
    data = {
        f"{label}_{name}": getattr(h, name)
        for label, h in (("naive", naive), ("aware", aware))
        for name in ("alpha", "confidence", "improvement", "expected_reward")
    }
    return (
        data,
        made,
        "The naive gate stays open on noise when nothing improves any more; a margin of two standard errors shuts it.",
    )


def weights(seeds: int) -> Result:
    """How much each objective listens to a prompt, against the prompt's success rate."""
    data = estimators.prompt_weights()
    made, axes = plotting.figure(1, 2)
    for ax, by_alpha, title in zip(axes, (False, True), ("objectives without alpha", "by alpha"), strict=True):
        plotting.prompt_weights(ax, {k: v for k, v in data.items() if (" " in k) is by_alpha}).set_title(title)
    return (
        data,
        made,
        "Large alpha listens to hard prompts, small alpha to the middling: binary rewards, group of 8, on policy.",
    )


def gradients(seeds: int) -> Result:
    """The noise of sampled gradients against alpha: the 1/alpha blow-up is the estimator's, not the divergence's."""
    log_q, log_p = torch.tensor([0.5, 0.3, 0.1, 0.1]).log(), torch.tensor([0.1, 0.2, 0.3, 0.4]).log()
    study = estimators.estimator_study(log_q, log_p, torch.logspace(-2, 0, 15))
    made, axes = plotting.figure(1, 2)
    plotting.estimator_variance(axes[0], study)
    plotting.effective_samples(axes[1], study)
    data = {"alphas": study.alphas, "ess": study.ess, **{f"variance_{k}": v for k, v in study.variance.items()}}
    return data, made, "The uncentred estimator's variance grows as 1/alpha^2; centring removes it."


def simplex(seeds: int) -> Result:
    """Three arms: every alpha ends at the target, on another road."""
    log_q = torch.tensor([0.55, 0.35, 0.10], dtype=torch.float64).log()
    starts = torch.tensor([[0.05, 0.1, 0.85], [0.05, 0.85, 0.10], [0.9, 0.05, 0.05]], dtype=torch.float64).log()
    paths = flows.population_flow(log_q, starts, ALPHAS, num_steps=600)
    made, axes = plotting.figure(1, 2, size=(10, 4.4))
    plotting.simplex(axes[0], log_q.exp(), {a: paths[:, i] for i, a in enumerate(ALPHAS)})
    plotting.simplex(axes[1], log_q.exp(), field=flows.simplex_field(log_q, 0.5)).set_title("flow at alpha = 0.5")
    return (
        {"target": log_q.exp(), "paths": paths, "alphas": np.array(ALPHAS)},
        made,
        "Same end, different roads: gradient flow on the 3-arm simplex.",
    )


TOYS: dict[str, Callable[[int], Result]] = {
    f.__name__: f for f in (bifurcation, hysteresis, bandit, capacity, guard, weights, gradients, simplex)
}


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, run one toy, write its files; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m toys", description="Toy results, each as data and as a figure.")
    parser.add_argument("name", nargs="?", help="which toy; without it, the list")
    parser.add_argument("--seeds", type=int, default=20, help="runs, for the toys that sample (default 20)")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder to write to (default out)")
    options = parser.parse_args(arguments)
    if options.name is None:
        for name, toy in TOYS.items():
            print(f"{name:12} {(toy.__doc__ or '').splitlines()[0]}")
        return 0
    if options.name not in TOYS:
        near = difflib.get_close_matches(options.name, TOYS, n=1, cutoff=0.0)
        print(
            f"python -m toys: {options.name!r} is no toy; did you mean {near[0]!r}? All: {', '.join(TOYS)}.",
            file=sys.stderr,
        )
        return 2
    if options.seeds < 1:
        print(
            f"python -m toys: --seeds is {options.seeds}; expected at least 1. 20 gives an interval.", file=sys.stderr
        )
        return 2
    with plotting.style():
        data, made, caption = TOYS[options.name](options.seeds)
    options.out.mkdir(parents=True, exist_ok=True)
    arrays: Any = {k: np.asarray(v) for k, v in data.items()}
    np.savez_compressed(options.out / f"{options.name}.npz", **arrays)
    with plotting.style():
        made.savefig(options.out / f"{options.name}.png")
    print(f"{options.out / options.name}.png, .npz\n{caption}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
