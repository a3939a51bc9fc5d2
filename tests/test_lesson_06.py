"""What lesson 06 says about its runs: one end for all orders, and speed that looks like seeking."""

import math

import pytest
import torch

from toys import bandits, flows
from toys.bandits import Bandit, Loop
from toys.experiments.convergence import lyapunov
from toys.questions.lesson_06 import QUESTIONS

ALPHAS = [0.0, 0.25, 0.5, 0.75, 1.0]


def test_at_reward_by_hand():
    history = bandits.run(Bandit(values=torch.tensor([[0.0, 1.0]])), Loop(num_steps=4), seeds=2)
    rewards = torch.tensor([[0.1, 0.1], [0.6, 0.2], [0.4, 0.3], [0.9, 0.4]])
    kept = torch.tensor([[4.0, 8.0], [3.0, 7.0], [2.0, 6.0], [1.0, 5.0]])
    series = {"expected_reward": rewards, "good_arms": kept, "entropy": kept / 10}
    at = bandits.at_reward(type(history)(**vars(history) | series), 0.5)
    assert (at.steps[0], at.good_arms[0], at.entropy[0]) == pytest.approx((1, 3, 0.3))
    assert math.isnan(at.steps[1]) and math.isnan(at.good_arms[1])


def test_at_equal_steps_alpha_0_keeps_fewer_and_at_equal_reward_as_many():
    loop = Loop(lr=0.1, num_steps=400, closed_form=True)
    runs = bandits.sweep(bandits.equal_arms(noise=0.5), [0.0, 1.0], loop, seeds=100, snapshots=2)
    after_200 = {alpha: h.good_arms[199].mean().item() for alpha, h in runs.items()}
    rewards = {alpha: h.expected_reward[199].mean().item() for alpha, h in runs.items()}
    said = QUESTIONS["early_stop"].choices[QUESTIONS["early_stop"].answer]
    assert (
        f"{rewards[0.0]:.3f} against {rewards[1.0]:.3f}, and {after_200[0.0]:.1f} good arms against {after_200[1.0]:.1f}"
        in said
    )
    at = {alpha: bandits.at_reward(h, 0.94) for alpha, h in runs.items()}
    kept = {alpha: found.good_arms.mean().item() for alpha, found in at.items()}
    steps = {alpha: found.steps.median().item() for alpha, found in at.items()}
    said = QUESTIONS["speed"].choices[QUESTIONS["speed"].answer]
    assert (
        f"{kept[0.0]:.1f} against {kept[1.0]:.1f} of 4, after {steps[0.0]:.0f} steps instead of {steps[1.0]:.0f}"
        in said
    )
    gap = at[0.0].good_arms - at[1.0].good_arms
    assert abs(gap.mean()) < 1.96 * gap.std() / 10  # paired over 100 seeds: it cannot be told apart


def test_the_distance_of_centred_logits_by_hand_and_along_every_road():
    log_q, log_p = torch.tensor([0.0, 0.0]), torch.tensor([3.0, 1.0])  # centred: (1, -1) from (0, 0), so V = 1
    assert lyapunov(log_q, log_p).item() == pytest.approx(1.0)
    assert lyapunov(log_q + 5, log_p - 2).item() == pytest.approx(1.0)
    target = torch.tensor([0.55, 0.35, 0.10], dtype=torch.float64).log()
    starts = torch.tensor([[-2.0, -1.0, 2.0], [2.5, -2.0, 0.0], [-2.0, 2.5, -1.0]], dtype=torch.float64)
    paths = flows.population_flow(target, starts, ALPHAS, lr=0.2, num_steps=600)
    distance = lyapunov(target, paths.log())
    assert not (distance[1:] > distance[:-1]).any()
    assert (paths[-1] - target.exp()).abs().max() < 1e-7


def test_with_tied_parameters_one_kl_falls_and_the_other_rises():
    ends = flows.capacity()
    for kind in ("tabular", "tied"):
        forward, reverse = (flows.arm_divergence(ends["target"].log(), ends[kind], a).mean(-1) for a in (1.0, 0.0))
        if kind == "tabular":
            assert max(forward.max(), reverse.max()) < 1e-8
        else:
            assert (forward.diff() < 0).all() and (reverse.diff() > 0).all()


def test_which_of_alpha_and_beta_r_moves_the_entropy_further():
    noisy, loop = bandits.equal_arms(noise=0.5), Loop(lr=0.1, num_steps=200, closed_form=True)
    loops = {(b, a): Loop(**vars(loop) | {"beta_r": b, "alpha": a}) for b in (0.1, 0.2, 0.3, 0.5, 1.0) for a in ALPHAS}
    runs = bandits.run_all(noisy, loops, seeds=20, snapshots=2)
    table = torch.stack([h.entropy[-1].median() for h in runs.values()]).view(5, 5)

    def spread(values, dim):
        return values.amax(dim) - values.amin(dim)

    assert spread(table, 0).min() > spread(table, 1).max()  # with beta_r = 1
    below = table[:4]
    assert spread(below, 0).max() < 0.3 and spread(below, 1).min() > 0.18 and spread(below, 1).max() < 0.37
    assert table[4].min() > 0.65
    assert [f"{table[i, j]:.2f}" for i, j in ((0, 1), (2, 3))] == ["0.14", "0.33"]
