"""The bandit loop: seeds, run independence, the gradient by autograd, and the facts the lessons teach."""

import pytest
import torch

from apo_edu import GroupBatch, GuardedAlpha, objectives
from toys import bandits
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


def test_bad_input_says_what_to_do():
    with pytest.raises(ValueError, match=r"values has shape \(4,\).*values\[None\]"):
        Bandit(values=torch.zeros(4))
    with pytest.raises(ValueError, match="anchor is 'never'"):
        Loop(anchor="never")
    with pytest.raises(ValueError, match="binary rewards"):
        Bandit(values=torch.tensor([[0.5, 2.0]]), binary=True)
