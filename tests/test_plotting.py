"""The plotting functions draw the numbers they are given, and the legend says what they are."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from apo_edu import palette
from apo_edu.objectives import find_objective
from toys import bandits, estimators, guards, mixtures, plotting
from toys.experiments.table import Table


@pytest.fixture(scope="module")
def history():
    return bandits.run(bandits.equal_arms(), bandits.Loop(num_steps=5), seeds=3)


@pytest.fixture
def ax():
    return plotting.figure()[1]


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_median_and_quartiles_are_drawn(ax):
    plotting.median_band(ax, [0, 1], torch.tensor([[1.0, 2.0, 4.0], [0.0, 0.0, 8.0]]), "x")
    assert ax.lines[0].get_ydata().tolist() == [2.0, 0.0]
    (band,) = ax.collections
    edges = band.get_paths()[0].vertices
    assert edges[edges[:, 0] == 0.0][:, 1].min() == 1.5  # by hand: the quartiles of 1, 2, 4 are 1.5 and 3
    assert edges[edges[:, 0] == 0.0][:, 1].max() == 3.0


def test_a_series_is_the_histories_own_and_says_how_many_runs(ax, history):
    plotting.bandit_series(ax, {0.5: history, "other": history}, "entropy")
    assert legend(ax) == ["alpha = 0.5 (3 runs)", "other (3 runs)"]
    assert ax.get_legend().get_title().get_text() == "median, quartiles shaded"
    np.testing.assert_allclose(ax.lines[0].get_ydata(), history.entropy.median(-1).values)
    assert ax.lines[0].get_color() == palette.alpha_color(0.5)


def test_against_alpha_marks_median_and_mean_of_the_last_step(ax, history):
    plotting.against_alpha(ax, {1.0: history, 0.0: history}, "good_arms")
    (mean,) = [line for line in ax.lines if line.get_label() == "mean"]
    assert mean.get_xdata().tolist() == [0.0, 1.0]
    assert mean.get_ydata().tolist() == pytest.approx([float(history.good_arms[-1].mean())] * 2)


def test_schedule_traces_are_alpha_confidence_and_gate(ax, history):
    plotting.schedule_traces(ax, history)
    for line, name in zip(ax.lines, ("alpha", "confidence", "improvement"), strict=True):
        np.testing.assert_allclose(line.get_ydata(), getattr(history, name).median(-1).values)


@pytest.mark.parametrize("quantity", ["mean", "sd"])
def test_bifurcation_tells_minima_from_saddles(ax, quantity):
    fits = mixtures.stationary_fits(mixtures.two_modes(), [0.2, 0.5, 0.8])
    plotting.bifurcation(ax, fits, quantity)
    drawn = {points.get_label(): points.get_offsets() for points in ax.collections}
    assert list(drawn) == ["saddle", "local minimum", "global minimum"]
    assert [len(points) for points in drawn.values()] == [4, 3, 4]  # 0.2: 2 of 3 minima are global; 0.5: 1; 0.8: 1
    assert sorted(drawn["global minimum"][:, 0]) == pytest.approx([0.2, 0.2, 0.5, 0.8])


def test_hysteresis_draws_both_ways(ax):
    branches = mixtures.continuation(mixtures.two_modes(), [0.0, 0.5, 1.0])
    plotting.hysteresis(ax, branches)
    down, up = ax.lines
    assert down.get_ydata()[0] > 1.7 > 0.7 > up.get_ydata()[0]  # at alpha 0: still covering, already locked


def test_the_global_fit_is_bold(ax):
    x = np.array([0.0, 1.0])
    plotting.density_fits(ax, x, [0.5, 0.5], [(0.5, [0.1, 0.2], True), (0.5, [0.3, 0.4], False)])
    assert legend(ax) == ["target q", "alpha = 0.5, global", "alpha = 0.5, local"]
    assert ax.lines[1].get_linewidth() > 2 * ax.lines[2].get_linewidth()
    assert ax.lines[2].get_ydata().tolist() == [0.3, 0.4]


def test_integrands_take_the_colours_of_alpha(ax):
    plotting.integrand(ax, [0.0, 1.0], {0.0: [1.0, 2.0], 1.0: [3.0, 4.0]})
    assert [line.get_color() for line in ax.lines] == [palette.alpha_color(0.0), palette.alpha_color(1.0)]
    assert len({line.get_linestyle() for line in ax.lines}) == 2  # never told by colour alone


def test_a_path_on_the_landscape_starts_and_ends_where_it_does(ax):
    path = np.array([[0.0, 0.1], [1.0, 0.9], [2.0, 1.5]])
    plotting.landscape(ax, np.arange(4), np.arange(3), np.arange(12.0).reshape(3, 4), [(0.5, path)])
    whole, start, end = ax.lines
    np.testing.assert_array_equal(whole.get_xydata(), path)
    assert start.get_xydata()[0].tolist() == [0.0, 0.1]
    assert end.get_xydata()[0].tolist() == [2.0, 1.5]


def test_the_optimiser_s_steps_grow_bolder_and_the_global_fit_is_not_told_by_colour_alone(ax):
    x, steps = np.array([0.0, 1.0]), np.arange(40.0).reshape(20, 2)
    plotting.minima_and_steps(ax, x, [0.5, 0.5], [([0.1, 0.2], True), ([0.3, 0.4], False)], steps, 0.5)
    best, other, *drawn = ax.lines[1:]
    assert (
        best.get_linestyle() == "-"
        and other.get_linestyle() == "--"
        and best.get_linewidth() > 2 * other.get_linewidth()
    )
    assert (
        len(drawn) == 7
        and drawn[0].get_ydata().tolist() == [0.0, 1.0]
        and drawn[-1].get_ydata().tolist() == [38.0, 39.0]
    )
    assert np.all(np.diff([line.get_alpha() for line in drawn]) > 0)


def test_a_descent_has_its_minima_as_stars_and_circles(ax):
    path = np.array([[0.0, 0.1], [1.0, 0.9], [2.0, 1.5]])
    plotting.descent(ax, path, [(2.0, 1.5, True), (3.0, 0.5, False)], 0.5)
    walked, _, star, circle = ax.lines
    np.testing.assert_array_equal(walked.get_xydata(), path)
    assert (star.get_marker(), star.get_xydata()[0].tolist()) == ("*", [2.0, 1.5])
    assert (circle.get_marker(), circle.get_xydata()[0].tolist()) == ("o", [3.0, 0.5])


def test_followed_fits_are_drawn_beside_the_best(ax):
    fits = mixtures.best_fits([mixtures.two_modes(s) for s in (1.5, 2.5)], 0.2)
    plotting.followed(ax, {"best": ([3.0, 5.0], fits), "together": ([5.0, 3.0], fits), "apart": ([3.0, 5.0], fits)})
    assert [line.get_linestyle() for line in ax.lines] == ["None", "-", "--"]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [0.0, 2.5], atol=0.01)


def test_the_simplex_puts_a_sure_policy_into_its_corner(ax):
    plotting.simplex(ax, [0.0, 0.0, 1.0], {0.5: np.array([[[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]]])})
    path, star = ax.lines[1:]
    np.testing.assert_allclose(path.get_xydata(), [[0.0, 0.0], [1.0, 0.0]])
    np.testing.assert_allclose(star.get_xydata()[0], [0.5, np.sqrt(3) / 2])


def test_prompt_weights_peak_at_one(ax):
    plotting.prompt_weights(ax, estimators.prompt_weights(4))
    assert all(line.get_ydata().max() == pytest.approx(1.0) for line in ax.lines)
    assert ax.lines[0].get_xdata().tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_estimators_are_drawn_from_their_study():
    made, (left, right) = plotting.figure(1, 2)
    study = estimators.estimator_study(torch.tensor([0.6, 0.4]).log(), torch.tensor([0.4, 0.6]).log(), [0.1, 1.0])
    plotting.estimator_variance(left, study)
    assert [text.get_text() for text in left.get_legend().get_texts()] == list(study.variance)
    np.testing.assert_allclose(left.lines[0].get_ydata(), study.variance["uncentred"])
    np.testing.assert_allclose(plotting.effective_samples(right, study).lines[0].get_ydata(), study.ess)
    made.canvas.draw()


def test_the_noise_study_is_drawn_by_snr(ax):
    study = guards.guard_noise_study([1.0, 4.0], seeds=2, loop=bandits.Loop(num_steps=6))
    plotting.noise_study(ax, study, "alpha")
    assert legend(ax) == ["naive (2 runs)", "noise-aware (2 se) (2 runs)"]
    assert ax.lines[0].get_xdata().tolist() == [1.0, 4.0]


def test_training_curves_average_and_skip_missing_rows(ax):
    rows = [
        {"step": 1, "reward_mean": 0.0},
        {"step": 2},
        {"step": 3, "reward_mean": 1.0},
        {"step": 4, "reward_mean": 2.0},
    ]
    plotting.training_curves(ax, rows, smooth=2)
    assert ax.lines[0].get_xydata().tolist() == [[3.0, 0.5], [4.0, 1.5]]
    with pytest.raises(ValueError, match="no row holds 'reward'.*reward_mean"):
        plotting.training_curves(ax, rows, ["reward"])


def test_drawing_leaves_pyplot_alone():
    # pyplot keeps every figure alive and picks a backend; a lesson must get neither from an import.
    code = "import sys, toys.plotting, toys.__main__; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


def rows_of(*means, alpha=float("nan")):
    table = Table()
    return [
        table.add("p", "apo", "m", [mean - 1.0, mean, mean + 1.0], alpha=alpha, x=i) for i, mean in enumerate(means)
    ]


def test_interval_lines_draw_means_and_both_ends(ax):
    plotting.interval_lines(ax, {0.9: rows_of(1.0, 2.0), "grpo": rows_of(3.0, 4.0)})
    assert legend(ax) == ["alpha = 0.9", "grpo"] and ax.get_legend().get_title().get_text() == "3 seeds"
    line = ax.containers[0].lines[0]
    assert line.get_xydata().tolist() == [[0.0, 1.0], [1.0, 2.0]] and line.get_color() == palette.alpha_color(0.9)
    assert ax.containers[1].lines[0].get_color() == find_objective("grpo").color
    (bars,) = ax.containers[0].lines[2]
    row = rows_of(1.0)[0]
    assert bars.get_segments()[0][:, 1].tolist() == pytest.approx([row.low, row.high])


def test_differences_stand_in_order_from_the_top(ax):
    first, second = rows_of(1.0, -2.0)
    plotting.differences(ax, {"above": first, "below": second})
    heights = [container.lines[0].get_xydata()[0].tolist() for container in ax.containers]
    assert heights == [[1.0, 1.0], [-2.0, 0.0]]
    assert dict(zip(ax.get_yticks(), [text.get_text() for text in ax.get_yticklabels()], strict=True)) == {
        1.0: "above", 0.0: "below",
    }  # fmt: skip
