"""The bandit loop: seeds, run independence, the gradient by autograd, and the facts the lessons teach."""

from dataclasses import replace

import pytest
import torch

from apo_edu import GroupBatch, GuardedAlpha, objectives
from toys import bandits, closed_form
from toys.bandits import Bandit, Changing, Loop, contextual, equal_arms, run, run_all, sweep, tied_features


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


@pytest.mark.parametrize("form", closed_form.FORMS)
@pytest.mark.parametrize("alpha", [-0.5, 0.0, 1e-9, 0.35, 1.0, 2.2])
def test_closed_forms_equal_the_objectives(form, alpha):
    prompts, group = 40, 6
    generator = torch.Generator().manual_seed(1)
    logps, old_logps, ref_logps, rewards = torch.randn(4, prompts, group, generator=generator, dtype=torch.float64)
    rewards[:10] = rewards[:10].sign().clamp(min=0)  # binary
    rewards[0] = 1.0  # a group without signal
    orders = torch.full((prompts,), alpha, dtype=torch.float64)
    temperatures = {name: 0.2 + torch.rand(prompts, generator=generator).double() for name in ("tau_anc", "beta_r")}
    keywords = {k: temperatures[k] for k in objectives.record_of(form).options if k in temperatures}
    batch = GroupBatch(
        logps=logps[..., None], old_logps=old_logps[..., None], ref_logps=ref_logps[..., None], rewards=rewards,
        mask=torch.ones(prompts, group, 1),
    )  # fmt: skip
    expected, _, _ = objectives.coefficients(form, batch, alpha=orders, **keywords)
    got = closed_form.FORMS[form](logps, old_logps, ref_logps, rewards, alpha=orders, **keywords)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(got, expected[..., 0], rtol=1e-12, atol=1e-12)


def test_a_closed_form_run_is_the_same_run():
    for objective in closed_form.FORMS:
        loop = Loop(objective=objective, num_steps=40, updates=3, schedule=GuardedAlpha)
        slow = run(bandits.lucky(), loop, seeds=4)
        fast = run(bandits.lucky(), replace(loop, closed_form=True), seeds=4)
        torch.testing.assert_close(fast.probs, slow.probs, rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="closed_form is True for dapo.*expected apo or grpo"):
        Loop(objective=objectives.dapo, closed_form=True)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_loops_in_one_call_are_the_runs_they_are_alone(optimizer):
    base = Loop(num_steps=30, optimizer=optimizer, lr=0.05)
    loops = {
        "a": base, "b": replace(base, alpha=0.1, lr=0.2), "c": replace(base, beta_r=0.7, tau_anc=1.3),
        "d": replace(base, group=3), "e": replace(base, objective=objectives.grpo), "f": replace(base, updates=2),
    }  # fmt: skip
    together = run_all(bandits.lucky(), loops, seeds=[3, 8])
    assert list(together) == list(loops)
    for name, loop in loops.items():
        alone = run(bandits.lucky(), loop, seeds=[3, 8])
        torch.testing.assert_close(together[name].probs, alone.probs, rtol=1e-9, atol=1e-12)
        assert together[name].seeds == (3, 8)


def test_runs_of_one_seed_draw_the_same_numbers():
    # At the first step every policy is uniform, so equal draws are equal rewards.
    pair = run_all(bandits.lucky(), {0.1: Loop(num_steps=1, alpha=0.1), 0.9: Loop(num_steps=1, alpha=0.9)}, seeds=30)
    torch.testing.assert_close(pair[0.1].reward, pair[0.9].reward)
    assert pair[0.1].reward.std() > 0.01


def test_matched_steps_have_the_length_of_the_reference_and_their_own_direction():
    loop = Loop(num_steps=1, alpha=0.9, reference_alpha=0.6, lr=1e-3)
    bandit = bandits.graded(6)
    free, matched = run(bandit, loop, seeds=5), run(bandit, replace(loop, matched=True), seeds=5)
    reference = run(bandit, replace(loop, alpha=0.6), seeds=5)

    def step(history):  # a small step in the logits moves the uniform policy by lr p (g - mean g)
        return (history.probs[-1] - history.probs[0]).flatten(1)

    torch.testing.assert_close(step(matched).norm(dim=-1), step(reference).norm(dim=-1), rtol=1e-3, atol=0)
    cosine = torch.cosine_similarity(step(free), step(matched), dim=-1)
    torch.testing.assert_close(cosine, torch.ones(5, dtype=torch.float64), rtol=0, atol=1e-6)
    assert (step(free).norm(dim=-1) / step(reference).norm(dim=-1) - 1).abs().max() > 0.01
    expected = torch.cosine_similarity(step(free), step(reference), dim=-1)
    torch.testing.assert_close(free.cosine[0], expected, rtol=0, atol=1e-4)
    assert reference.cosine.min() == pytest.approx(1.0) and run(bandit, Loop(num_steps=1)).cosine.isnan().all()


def test_a_gradient_that_is_rounding_alone_has_no_direction():
    # Sparse 0/1 rewards: alpha turns nothing, to the end of a run, where most groups draw one arm only.
    sparse = bandits.binary(num_good=1, success=0.5, failure=0.02)
    cosine = run(sparse, Loop(num_steps=120, alpha=0.9, reference_alpha=0.0, closed_form=True), seeds=8).cosine
    assert cosine[~cosine.isnan()].min() > 1 - 1e-9
    assert 0.3 < cosine.isnan().double().mean() < 0.9


def test_two_valued_rewards_leave_only_the_length():
    # DESIGN fact 3: matched, every alpha is the same run.
    loop = Loop(num_steps=60, reference_alpha=0.6, matched=True)
    ends = run_all(bandits.binary(), {alpha: replace(loop, alpha=alpha) for alpha in (0.0, 0.35, 0.9, 2.0)}, seeds=10)
    for history in ends.values():
        torch.testing.assert_close(history.probs, ends[0.9].probs, rtol=1e-8, atol=1e-10)


def test_rewards_have_the_mean_and_the_spread_of_their_arm():
    uniform = torch.rand(200_000, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def moments(bandit, arm):
        rewards = bandit.draw(torch.full_like(uniform, arm, dtype=torch.long), uniform)
        return rewards.mean().item(), rewards.std().item()

    lucky, gamble = bandits.lucky(num_good=2, num_lucky=4), bandits.gamble(chance=0.4)
    assert moments(lucky, 0) == pytest.approx((1.0, 0.1), abs=0.01)
    assert moments(lucky, 5) == pytest.approx((0.7, 0.8), abs=0.01)
    assert moments(gamble, 0) == pytest.approx((0.6, 0.0), abs=1e-9)
    assert moments(gamble, 4) == pytest.approx((0.4, (0.4 * 0.6) ** 0.5), abs=0.01)  # Bernoulli
    luck = torch.tensor([[[0.39, 0.41, 0.5, 0.5]]], dtype=torch.float64)
    assert gamble.draw(torch.tensor([[[4, 4, 0, 9]]]), luck).tolist() == [[[1.0, 0.0, 0.6, 0.0]]]
    assert moments(bandits.binary(success=0.9), 0) == pytest.approx((0.9, 0.3), abs=0.01)


def test_a_changing_task_changes_when_it_says():
    first, second = equal_arms(4, 1), Bandit(values=equal_arms(4, 1).values.flip(-1))
    task = Changing(bandits=(first, second), starts=(0, 20))
    changed = run(task, Loop(num_steps=60), seeds=10)
    before = run(first, Loop(num_steps=60), seeds=10)
    torch.testing.assert_close(changed.expected_reward[:20], before.expected_reward[:20])
    policy_at_change = changed.expected_reward[19].mean()
    assert policy_at_change > 0.6 > 0.2 > changed.expected_reward[20].mean()  # what was learnt is worth little
    assert changed.expected_reward[-1].mean() > 0.6  # and the new arm is found
    with pytest.raises(ValueError, match=r"starts is \(0, 0\) for 2 bandits"):
        Changing(bandits=(first, second), starts=(0, 0))
    with pytest.raises(ValueError, match="differ in shape"):
        Changing(bandits=(first, equal_arms(5, 1)), starts=(0, 9))


def test_bad_input_says_what_to_do():
    with pytest.raises(ValueError, match=r"values has shape \(4,\).*values\[None\]"):
        Bandit(values=torch.zeros(4))
    with pytest.raises(ValueError, match="anchor is 'never'"):
        Loop(anchor="never")
    with pytest.raises(ValueError, match="matched is True without a reference"):
        Loop(matched=True)
    with pytest.raises(ValueError, match=r"lr has shape \(3,\); expected a number or \[2\]"):
        run(equal_arms(), Loop(lr=torch.ones(3)), seeds=2)
    with pytest.raises(ValueError, match=r"noise has shape \(3,\)"):
        Bandit(values=torch.zeros(1, 4), noise=torch.zeros(3))
    with pytest.raises(ValueError, match="chance below 1 and noise"):
        Bandit(values=torch.ones(1, 2), noise=0.1, chance=torch.tensor([[0.5, 1.0]]))
    with pytest.raises(ValueError, match="expected probabilities"):
        Bandit(values=torch.tensor([[0.5, 2.0]]), chance=torch.tensor([[0.5, 2.0]]))


def test_mini_batches_take_each_context_once():
    # With a parameter of its own for every context nothing is stale: two halves are one whole with twice the step.
    bandit = contextual(4, 6, seed=1)
    halves = run(bandit, Loop(num_steps=20, updates=2, mini_batches=2, lr=2.0), seeds=3)
    whole = run(bandit, Loop(num_steps=20, lr=4.0), seeds=3)
    torch.testing.assert_close(halves.expected_reward, whole.expected_reward, rtol=0, atol=1e-12)
    shared = {"features": tied_features(4, 2), "seeds": 3}
    stale = {
        name: run(
            bandit, Loop(num_steps=20, updates=2, mini_batches=2, lr=2.0, off_policy=name), **shared
        ).expected_reward
        for name in ("none", "ratio")
    }
    assert not torch.allclose(
        stale["none"], stale["ratio"], atol=1e-3
    )  # by what contexts share the second half is stale
    with pytest.raises(ValueError, match="mini_batches is 3 for 4 contexts; expected a divisor"):
        run(bandit, Loop(mini_batches=3), seeds=1)
