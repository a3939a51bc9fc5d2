"""The bandit loop: seeds, run independence, the gradient by autograd, and the facts the lessons teach."""

import pytest
import torch

from apo_edu import GroupBatch, GuardedAlpha, objectives
from toys import bandits, bugs
from toys.bandits import Bandit, Loop, equal_arms, run, sweep, tied_features


def test_a_seed_is_the_same_run_whatever_runs_beside_it():
    loop = Loop(num_steps=40, schedule=GuardedAlpha, optimizer="adam", lr=0.05)
    many, one = run(equal_arms(noise=0.2), loop, seeds=12), run(equal_arms(noise=0.2), loop, seeds=[7])
    torch.testing.assert_close(many.probs[:, 7:8], one.probs, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(many.alpha[:, 7:8], one.alpha, rtol=1e-9, atol=1e-12)
    shorter = run(
        equal_arms(noise=0.2), Loop(num_steps=10, schedule=GuardedAlpha, optimizer="adam", lr=0.05), seeds=[7]
    )
    torch.testing.assert_close(one.reward[:10], shorter.reward)


@pytest.mark.parametrize("objective", [objectives.apo, objectives.grpo, objectives.dr_grpo])
def test_two_updates_equal_autograd_through_the_whole_policy(objective):
    bandit, contexts = bandits.contextual(3, 5, noise=0.3), 3
    features = tied_features(contexts, 2)
    loop = Loop(objective=objective, num_steps=1, updates=2, lr=2.0, group=4)
    history = run(bandit, loop, seeds=[5], features=features)
    # The same step, with torch differentiating the loss down to theta. Draws: the documented generator of the run.
    uniform, luck = torch.rand(bandits.BLOCK, 2, contexts, 4, generator=torch.Generator().manual_seed(5)).double()[0]
    theta = torch.zeros(2, 5, dtype=torch.float64, requires_grad=True)
    arms = (uniform[..., None] > torch.full((5,), 0.2, dtype=torch.float64).cumsum(-1)).sum(-1).clamp(max=4)
    rewards = bandit.draw(arms[None], luck[None])[0]
    old_logps = torch.full((contexts, 4, 1), 0.2, dtype=torch.float64).log()
    for _ in range(2):  # the second is off policy: there GRPO's clipped coefficients do not sum to 0
        logps = torch.log_softmax(features @ theta, -1).gather(-1, arms)[..., None]
        batch = GroupBatch(logps=logps, old_logps=old_logps, mask=torch.ones_like(logps), rewards=rewards)
        (grad,) = torch.autograd.grad(objective(batch, alpha=0.6, **loop.keywords())[0], theta)
        theta = (theta - 2.0 * grad).detach().requires_grad_()
    expected = torch.softmax(features @ theta.detach(), -1)
    torch.testing.assert_close(history.probs[-1, 0], expected, rtol=1e-9, atol=1e-12)


def test_sweep_equals_separate_runs():
    loop = Loop(num_steps=15)
    joint = sweep(equal_arms(), [0.2, 0.9], loop, seeds=3)
    alone = run(equal_arms(), Loop(num_steps=15, alpha=0.9), seeds=3)
    torch.testing.assert_close(joint[0.9].expected_reward, alone.expected_reward)


def test_tabular_softmax_reaches_the_target_for_every_alpha():
    log_q = torch.tensor([0.55, 0.35, 0.10], dtype=torch.float64).log()
    start = torch.tensor([[0.05, 0.1, 0.85], [0.9, 0.05, 0.05]], dtype=torch.float64).log()
    end = bandits.population_flow(log_q, start, [0.0, 0.25, 0.5, 0.75, 1.0], num_steps=800)[-1]
    torch.testing.assert_close(end, log_q.exp().expand_as(end), rtol=0, atol=1e-8)


def test_tied_parameters_end_elsewhere_for_each_alpha():
    ends = bandits.capacity(alphas=(0.0, 1.0), num_steps=800)
    torch.testing.assert_close(ends["tabular"], ends["target"].expand(2, -1, -1), rtol=0, atol=1e-4)
    assert (ends["tied"][0] - ends["tied"][1]).abs().max() > 0.05


def test_flow_field_points_along_the_trajectory():
    log_q = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log()
    points, velocities = bandits.simplex_field(log_q, 0.3)
    path = bandits.population_flow(log_q, points.log(), [0.3], lr=1e-6, num_steps=1)[:, 0]
    torch.testing.assert_close((path[1] - path[0]) / 1e-6, velocities, rtol=1e-4, atol=1e-6)


def test_uncentred_variance_blows_up_as_one_over_alpha_squared():
    q, p = torch.tensor([0.5, 0.3, 0.2]).log(), torch.tensor([0.2, 0.3, 0.5]).log()
    study = bandits.estimator_study(q, p, [0.01, 0.02, 1.0])
    assert study.variance["uncentred"][0] / study.variance["uncentred"][1] == pytest.approx(4.0, rel=0.1)
    assert study.variance["centred"][0] / study.variance["centred"][1] == pytest.approx(1.0, rel=0.05)
    assert study.bias["centred"].max() < 0.02
    # The study summarises these very estimates.
    estimates = bandits.gradient_estimates(q, p, 1.0)
    assert estimates["centred"].shape == (2000, len(q))
    torch.testing.assert_close(estimates["centred"].var(0).sum(), study.variance["centred"][-1])
    with pytest.raises(ValueError, match="alpha is 0"):
        bandits.gradient_estimates(q, p, 0.0)


def test_prompt_weights_follow_the_known_curves():
    weights = bandits.prompt_weights(8)
    k = torch.arange(9, dtype=torch.float64)
    torch.testing.assert_close(weights["dr_grpo"], k / 8 * (1 - k / 8))  # (k/P)(1 - k/P): the Bernoulli variance
    for name, values in weights.items():
        assert values[[0, 8]].abs().max() < 1e-9, name
    # alpha = 0: log q is linear in the reward, so the push is symmetric in k; alpha = 1 listens to the hard prompts.
    torch.testing.assert_close(weights["apo 0"], weights["apo 0"].flip(0))
    assert weights["adpo"].argmax() < 4


def test_noise_alone_opens_the_naive_guard_and_not_the_aware_one():
    study = bandits.guard_noise_study([1.0], seeds=6, loop=Loop(num_steps=60))
    gates = {name: float(values.mean()) for name, values in study.gate.items()}
    assert gates["naive"] > 0.2
    assert gates["noise-aware (2 se)"] < 0.06


def test_planted_bugs_show_their_symptoms():
    histories, key = bugs.lab(seeds=4)
    by_name = {name: histories[letter] for letter, name in key.items()}
    healthy = bugs.healthy(seeds=4)
    assert sorted(key.values()) == sorted(bugs.LAB)
    assert by_name["sign"].expected_reward[-1].max() < 0.1
    assert by_name["frozen_alpha"].confidence.max() < 1e-12
    assert by_name["frozen_alpha"].alpha.min() == pytest.approx(0.9)
    assert by_name["inverted_tau"].grad_norm[:5].mean() < 0.5 * healthy.grad_norm[:5].mean()
    assert by_name["stale_anchor"].kl_anchor[-1].mean() > 5 * healthy.kl_anchor[-1].mean()
    assert "tau_anc" in bugs.reveal(key)


def test_bad_input_says_what_to_do():
    with pytest.raises(ValueError, match=r"values has shape \(4,\).*values\[None\]"):
        Bandit(values=torch.zeros(4))
    with pytest.raises(ValueError, match="anchor is 'never'"):
        Loop(anchor="never")
    with pytest.raises(ValueError, match="binary rewards"):
        Bandit(values=torch.tensor([[0.5, 2.0]]), binary=True)
    with pytest.raises(ValueError, match="alphas reach 0.0.*divides by alpha"):
        bandits.estimator_study(torch.zeros(2), torch.zeros(2), [0.0, 1.0])


def test_confidence_alone_holds_a_policy_at_the_wrong_arm_and_the_guard_does_not():
    histories = bandits.confident_but_wrong(seeds=20)
    stuck = {label: (h.expected_reward[-1] < 0.6).double().mean().item() for label, h in histories.items()}
    assert stuck["fixed 0.9"] < stuck["confidence only"]
    assert stuck["guarded"] < 0.5 < stuck["confidence only"]
    assert stuck["fixed 0.35"] > 0.5
