"""Advantages and the Boltzmann target: by hand, in the limits of beta_r, constants, and bad input."""

import math
import statistics

import pytest
import torch

from apo_edu import boltzmann_log_target, group_advantages

REWARDS = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.2, 0.5, 0.9, 0.4]], dtype=torch.float64)


def test_mean_and_scale_by_hand():
    got = group_advantages(REWARDS)
    for row, rewards in zip(got.tolist(), REWARDS.tolist(), strict=True):
        mean, std = statistics.fmean(rewards), statistics.stdev(rewards)  # unbiased
        assert row == pytest.approx([(r - mean) / (std + 1e-4) for r in rewards], rel=1e-12)


def test_other_scales_and_baselines_by_hand():
    std = statistics.stdev(REWARDS.flatten().tolist())
    torch.testing.assert_close(group_advantages(REWARDS, scale="none")[0], REWARDS[0] - 0.5)
    torch.testing.assert_close(group_advantages(REWARDS, scale="batch")[0], (REWARDS[0] - 0.5) / (std + 1e-4))
    torch.testing.assert_close(group_advantages(REWARDS, "none", "none"), REWARDS)
    # 0.2 against the mean of 0.5, 0.9 and 0.4.
    got = group_advantages(REWARDS, "leave_one_out", "none")[1, 0].item()
    assert got == pytest.approx(0.2 - 0.6, rel=1e-12)


@pytest.mark.parametrize("reward", [0.1, 0.3, 1e6 + 0.1])
@pytest.mark.parametrize("scale", ["group", "none"])
def test_equal_rewards_give_exactly_zero(reward, scale):
    # The mean of six 0.1 differs from 0.1 by rounding; divided by a standard deviation of rounding it would be a signal.
    assert bool((group_advantages(torch.full((2, 6), reward), scale=scale) == 0).all())


def test_left_out_completions_count_for_nothing():
    valid = torch.tensor([[True, True, False, True]] * 2)
    for baseline in ("mean", "leave_one_out"):
        for scale in ("group", "none", "batch"):
            got = group_advantages(REWARDS, baseline, scale, valid=valid)
            want = group_advantages(REWARDS[:, [0, 1, 3]], baseline, scale)
            torch.testing.assert_close(got[:, [0, 1, 3]], want)
            assert bool((got[:, 2] == 0).all())


def test_target_by_hand_and_in_its_limits():
    advantages = torch.tensor([[0.3, 0.0, -0.3]], dtype=torch.float64)
    weights = [math.e, 1.0, 1 / math.e]  # exp(A / 0.3)
    want = [w / sum(weights) for w in weights]
    assert boltzmann_log_target(advantages, 0.3).exp()[0].tolist() == pytest.approx(want, rel=1e-12)
    assert boltzmann_log_target(advantages, 1e-3).exp()[0].tolist() == pytest.approx([1.0, 0.0, 0.0], abs=1e-12)
    assert boltzmann_log_target(advantages, 1e6).exp()[0].tolist() == pytest.approx([1 / 3] * 3, abs=1e-6)
    by_prompt = boltzmann_log_target(advantages.expand(2, 3), torch.tensor([0.3, 1e6]))
    torch.testing.assert_close(by_prompt[0], boltzmann_log_target(advantages, 0.3)[0], rtol=1e-6, atol=1e-6)


def test_the_target_is_a_constant():
    rewards = REWARDS.clone().requires_grad_()
    assert not group_advantages(rewards).requires_grad
    assert not boltzmann_log_target(rewards, 0.3).requires_grad


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: group_advantages(REWARDS, "median"), "baseline is 'median'; expected one of 'mean', 'leave_one_out'"),
        (lambda: group_advantages(REWARDS, scale="std"), "scale is 'std'; expected one of 'group', 'batch', 'none'"),
        (lambda: group_advantages(torch.ones(3, 1)), "rewards has shape .*a group of size 1.*Sample more"),
        (lambda: group_advantages(torch.tensor([[1.0, math.nan]])), r"rewards holds nan at index \[0, 1\]"),
        (lambda: group_advantages(torch.tensor([[math.inf, 0.0]])), r"rewards holds inf at index \[0, 0\]"),
        (lambda: boltzmann_log_target(REWARDS, 0.0), "beta_r is 0.0; expected a finite number > 0. The paper uses 0.3"),
        (lambda: boltzmann_log_target(REWARDS, torch.tensor([0.3, -1.0])), r"beta_r is a tensor of shape \(2,\)"),
        (lambda: boltzmann_log_target(torch.tensor([[0.0, math.nan]]), 0.3), r"advantages holds nan at index \[0, 1\]"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
