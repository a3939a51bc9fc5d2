"""Entropies and effective sample size by hand; the monitor sees each failure signature and leaves healthy runs alone."""

import dataclasses
import math
import random

import pytest
import torch

from apo_edu import LIMITS, FailureMonitor, Limits, effective_sample_size, normalized_entropy


def test_entropy_by_hand():
    probs = torch.tensor([[0.25] * 4, [1.0 - 3e-12, 1e-12, 1e-12, 1e-12], [0.5, 0.5 - 2e-12, 1e-12, 1e-12]])
    got = normalized_entropy(probs.double().log().log_softmax(-1))
    assert got.tolist() == pytest.approx([1.0, 0.0, 0.5], abs=1e-9)


def test_effective_sample_size_by_hand():
    weights = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 1e-30, 1e-30, 1e-30], [3.0, 1.0, 1e-30, 1e-30]])
    # The third: (3 + 1)^2 / (9 + 1).
    assert effective_sample_size(weights.double().log()).tolist() == pytest.approx([4.0, 1.0, 1.6])
    assert effective_sample_size(weights.double().log() + 900.0).tolist() == pytest.approx([4.0, 1.0, 1.6])


def test_bad_input():
    with pytest.raises(ValueError, match=r"log_p sums to 2.*log_softmax"):
        normalized_entropy(torch.zeros(1, 2))
    with pytest.raises(ValueError, match="group of size 1"):
        normalized_entropy(torch.zeros(3, 1))
    with pytest.raises(ValueError, match=r"log_weights holds nan at index \[0\]"):
        effective_sample_size(torch.tensor([math.nan, 0.0]))
    with pytest.raises(ValueError, match="window is 2; expected at least 4"):
        FailureMonitor(window=2)
    with pytest.raises(ValueError, match=r"spike is 1; expected > 1 \(times the median\), e.g. 10.0"):
        FailureMonitor(spike=1)
    with pytest.raises(ValueError, match=r"log_ratio is -1; expected > 0 \(nats\)"):
        Limits(log_ratio=-1)
    with pytest.raises(ValueError, match=r"at_rest is 1.5; expected in \(0, 1\] \(of alpha_max\)"):
        Limits(at_rest=1.5)


def watch(steps, seed=0, alpha_max=0.9, limits=LIMITS, **curves):
    """Signatures found on a synthetic run; each curve is a function of the step, with noise as in real runs."""
    rng = random.Random(seed)
    monitor = FailureMonitor(alpha_max=alpha_max, limits=limits)
    healthy = {
        "reward_mean": lambda t: 0.3 + 0.4 * t / steps + rng.gauss(0, 0.03),
        "token_entropy": lambda t: 0.5 - 0.2 * t / steps + rng.gauss(0, 0.02),
        "alpha": lambda t: rng.choice([0.9, 0.9, 0.8, 0.6]),
        "grad_norm": lambda t: math.exp(rng.gauss(0, 0.4)),
        "ess": lambda t: 4.0 + rng.gauss(0, 0.3),
        "log_ratio_max": lambda t: 3.0 + abs(rng.gauss(0, 0.5)),
    }
    for t in range(steps):
        monitor.update({"step": t, **{name: curve(t) for name, curve in (healthy | curves).items()}})
    return monitor.findings


@pytest.mark.parametrize("seed", range(20))
def test_healthy_runs_have_no_finding(seed):
    assert watch(150, seed) == []


@pytest.mark.parametrize("seed", range(5))
def test_a_run_that_solves_its_task_has_no_finding(seed):
    rng = random.Random(seed)
    assert (
        watch(
            150,
            seed,
            reward_mean=lambda t: min(1.0, 0.4 + 0.6 * min(1.0, t / 60) - abs(rng.gauss(0, 0.01))),
            token_entropy=lambda t: 0.5 * math.exp(-t / 25),
            alpha=lambda t: 0.9,
        )
        == []
    )


@pytest.mark.parametrize("seed", range(10))
def test_a_plateau_after_a_real_gain_is_no_collapse(seed):
    # The entropy bought 0.4 of reward by step 60 and stays low; that the last windows are flat is no loss.
    rng = random.Random(seed)
    curves = {
        "reward_mean": lambda t: 0.3 + 0.4 * min(1.0, t / 60) + rng.gauss(0, 0.03),
        "token_entropy": lambda t: 0.5 - 0.35 * min(1.0, t / 60) + rng.gauss(0, 0.01),
    }
    assert watch(150, seed, **curves) == []


@pytest.mark.parametrize("seed", range(10))
def test_a_slow_gain_within_the_noise_of_one_window_is_neither_collapse_nor_stagnation(seed):
    # 0.4 in 150 steps under a noise of 0.03: over one window the gain is hardly two standard errors.
    rng = random.Random(seed)
    assert watch(150, seed, alpha=lambda t: 0.9) == []
    assert watch(150, seed, token_entropy=lambda t: 0.5 * math.exp(-t / 90) + rng.gauss(0, 0.01)) == []


def test_a_late_collapse_is_seen_although_the_reward_once_rose():
    found = watch(
        150,
        reward_mean=lambda t: 0.3 + 0.4 * min(1.0, t / 60) - 0.2 * (t > 110),
        token_entropy=lambda t: 0.5 if t < 100 else 0.1,
    )
    assert [finding.signature for finding in found] == ["entropy_collapse"]
    assert found[0].step >= 100


def test_without_alpha_max_the_largest_alpha_of_the_stream_counts():
    stuck = {"reward_mean": lambda t: 0.3, "token_entropy": lambda t: 0.5, "alpha": lambda t: 0.6 if t == 3 else 0.9}
    assert {finding.signature for finding in watch(100, alpha_max=None, **stuck)} == {"stagnant_exploration"}


def test_a_constant_alpha_is_no_finding_where_there_is_no_schedule():
    assert watch(100, alpha_max=None, alpha=lambda t: 0.6, reward_mean=lambda t: 0.5) == []


@pytest.mark.parametrize(
    ("signature", "curves", "message", "remedy"),
    [
        (
            "entropy_collapse",
            {"token_entropy": lambda t: 0.5 * math.exp(-t / 20), "reward_mean": lambda t: 0.3},
            "Entropy collapse without reward gain: token entropy fell from",
            "a lower lr, or fewer updates",
        ),
        (
            "stagnant_exploration",
            {"reward_mean": lambda t: 0.3, "token_entropy": lambda t: 0.5, "alpha": lambda t: 0.9},
            "Stagnant reward with high entropy: alpha stayed at 0.90",
            "groups_with_signal first",
        ),
        (
            "gradient_instability",
            {"grad_norm": lambda t: 40.0 if t == 70 else 1.0},
            "Gradient instability: the gradient norm is 40, 40 times its median",
            "Clip the gradient",
        ),
        (
            "gradient_instability",
            {"ess": lambda t: 1.05},
            "effective sample size of the weights is 1.05",
            "Raise beta_r",
        ),
        (
            "extreme_ratios",
            {"log_ratio_max": lambda t: 3.0 if t < 50 else 25.0},
            r"Extreme ratios: |log q/p| reached 25 nats",
            "Raise beta_r",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and "_" in value else "",
)
def test_each_signature_fires_with_its_remedy(signature, curves, message, remedy):
    found = watch(100, **curves)
    assert {finding.signature for finding in found} == {signature}
    assert message in found[0].message
    assert remedy in found[0].remedy
    assert str(found[0]).startswith(f"step {found[0].step}: ")


def test_a_lasting_signature_is_reported_once_and_again_after_it_cleared():
    lasting = watch(100, log_ratio_max=lambda t: 25.0)
    assert len(lasting) == 1
    twice = watch(100, log_ratio_max=lambda t: 25.0 if t in (10, 11, 60) else 2.0)
    assert [finding.step for finding in twice] == [10, 60]


def test_missing_and_non_finite_metrics_are_not_judged():
    monitor = FailureMonitor()
    for t in range(50):
        assert (
            monitor.update({"step": t, "reward_mean": math.nan, "token_entropy": math.nan, "grad_norm": math.inf}) == []
        )
        assert monitor.update({"step": t}) == []
        assert monitor.update({"step": t, "reward_mean": None, "grad_norm": None}) == []
    # What was not finite at the start of a run does not blind it to what follows.
    assert "entropy_collapse" in {
        finding.signature
        for finding in watch(
            100, reward_mean=lambda t: 0.3, token_entropy=lambda t: math.nan if t < 6 else 0.5 * math.exp(-t / 20)
        )
    }


FLAT = {"alpha": lambda t: 0.9, "token_entropy": lambda t: 0.5}


@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_solved_is_in_the_unit_of_the_reward(scale):
    # A reward from 0 to `scale` that stays at 0.3 of it: with the limit of a reward up to 1 it would count as solved.
    stuck = FLAT | {"reward_mean": lambda t: 0.3 * scale}
    assert {f.signature for f in watch(100, limits=Limits(solved=0.9 * scale), **stuck)} == {"stagnant_exploration"}
    assert bool(watch(100, **stuck)) is (scale == 1.0)
    solved = FLAT | {"reward_mean": lambda t: 0.95 * scale}
    assert watch(100, limits=Limits(solved=0.9 * scale), **solved) == []
    never = watch(100, limits=Limits(solved=None), **solved)
    assert {f.signature for f in never} == {"stagnant_exploration"}


@pytest.mark.parametrize(
    ("strict", "loose", "curves"),
    [
        ({"spike": 3.0}, {"spike": 5.0}, {"grad_norm": lambda t: 4.0 if t == 70 else 1.0}),
        ({"ess": 2.5}, {"ess": 1.5}, {"ess": lambda t: 2.0}),
        ({"log_ratio": 4.0}, {"log_ratio": 6.0}, {"log_ratio_max": lambda t: 5.0}),
        ({"at_rest": 0.5}, {"at_rest": 0.95}, {**FLAT, "reward_mean": lambda t: 0.3, "alpha": lambda t: 0.6}),
        (
            {"entropy_high": 0.5},
            {"entropy_high": 0.9},
            {**FLAT, "reward_mean": lambda t: 0.3, "token_entropy": lambda t: 0.5 if t < 10 else 0.4},
        ),
        (
            {"entropy_fall": 1.2},
            {"entropy_fall": 3.0},
            {"reward_mean": lambda t: 0.3, "token_entropy": lambda t: 0.5 if t < 50 else 0.3},
        ),
        (  # the reward rises by some ten standard errors while the entropy halves
            {"gain": 50.0},
            {"gain": 2.0},
            {
                "reward_mean": lambda t: 0.3 + 0.02 * (t >= 50) + 0.005 * (-1) ** t,
                "token_entropy": lambda t: 0.5 if t < 50 else 0.2,
            },
        ),
    ],
    ids=lambda value: next(iter(value)),
)
def test_each_limit_draws_its_line(strict, loose, curves):
    quiet = {"grad_norm": lambda t: 1.0, "ess": lambda t: 4.0, "log_ratio_max": lambda t: 1.0}
    assert watch(100, limits=Limits(**strict), **{**quiet, **curves})
    assert watch(100, limits=Limits(**loose), **{**quiet, **curves}) == []


def test_single_limits_change_the_given_table():
    monitor = FailureMonitor(limits=Limits(spike=3.0), solved=9.0)
    assert (monitor.limits.spike, monitor.limits.solved, monitor.limits.ess) == (3.0, 9.0, LIMITS.ess)
    assert all({"unit", "why"} == set(f.metadata) for f in dataclasses.fields(Limits))
