"""Every plotting function returns its Axes, labels them, and draws without pyplot."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from apo_edu import palette
from toys import bandits, mixtures, plotting


@pytest.fixture(scope="module")
def history():
    return bandits.run(bandits.equal_arms(), bandits.Loop(num_steps=5), seeds=3)


@pytest.fixture(scope="module")
def fits():
    return mixtures.stationary_fits(mixtures.two_modes(), [0.2, 0.5])


def test_alpha_map_is_the_palettes():
    for alpha in (0.0, 0.2, 0.4, 1.0):
        expected = [int(palette.alpha_color(alpha)[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        assert plotting.ALPHA_MAP(alpha)[:3] == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(
    "draw",
    [
        lambda ax, h, f: plotting.bandit_series(ax, {0.5: h, "other": h}),
        lambda ax, h, f: plotting.against_alpha(ax, {0.0: h, 1.0: h}, "good_arms"),
        lambda ax, h, f: plotting.schedule_traces(ax, h),
        lambda ax, h, f: plotting.bifurcation(ax, f),
        lambda ax, h, f: plotting.bifurcation(ax, f, "sd"),
        lambda ax, h, f: plotting.hysteresis(ax, {"down": f, "up": f}),
        lambda ax, h, f: plotting.density_fits(ax, np.arange(5.0), np.ones(5), [(0.5, np.ones(5), True)]),
        lambda ax, h, f: plotting.density_fits_2d(
            ax, np.arange(4), np.arange(3), np.random.rand(3, 4), [(0.5, np.zeros(2), np.eye(2), True)]
        ),
        lambda ax, h, f: plotting.integrand(ax, np.arange(5.0), {0.0: np.ones(5)}),
        lambda ax, h, f: plotting.weight_curve(ax, np.arange(5.0), {0.0: np.ones(5)}, samples=[1.0]),
        lambda ax, h, f: plotting.landscape(
            ax, np.arange(4), np.arange(3), np.random.rand(3, 4), [(0.5, np.ones((2, 2)))]
        ),
        lambda ax, h, f: plotting.prompt_weights(ax, bandits.prompt_weights()),
        lambda ax, h, f: plotting.target_bars(ax, [0.0, 1.0], {0.3: [0.2, 0.8]}),
        lambda ax, h, f: plotting.training_curves(ax, [{"step": i, "reward_mean": i / 9} for i in range(9)], smooth=3),
    ],
)
def test_axes_come_back_labelled(draw, history, fits):
    made, ax = plotting.figure()
    assert draw(ax, history, fits) is ax
    assert ax.get_xlabel()
    assert ax.get_ylabel()
    made.canvas.draw()


def test_legend_says_how_many_runs(history):
    _, ax = plotting.figure()
    plotting.bandit_series(ax, {0.5: history})
    assert "(3 runs)" in ax.get_legend().get_texts()[0].get_text()


def test_median_and_quartiles_are_drawn():
    _, ax = plotting.figure()
    plotting.median_band(ax, [0], torch.tensor([[1.0, 2.0, 4.0]]), "x")
    assert ax.lines[0].get_ydata()[0] == 2.0


def test_missing_key_names_those_there_are():
    with pytest.raises(ValueError, match="no row holds 'reward'.*reward_mean"):
        plotting.training_curves(plotting.figure()[1], [{"step": 0, "reward_mean": 1.0}], ["reward"])


def test_pyplot_is_never_imported():
    assert "matplotlib.pyplot" not in plotting.__dict__
    assert "pyplot" not in Path(sys.modules["toys.plotting"].__file__).read_text()
