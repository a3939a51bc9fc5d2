"""What the core's docstrings claim about training: kappa and risk, the weights of prompts, tau_anc, convergence, collapse."""

import math

import pytest
import torch

from apo_edu import (
    GroupBatch,
    GuardedAlpha,
    Signals,
    alpha_divergence,
    alpha_divergence_grad,
    box_cox,
    candidate_entropy,
    group_advantages,
    objectives,
)
from apo_edu.objectives import coefficients
from toys.bandits import Loop, equal_arms, graded, run


def on_policy(rewards, logps=None):
    """One token per completion, at the anchor."""
    rewards = torch.as_tensor(rewards, dtype=torch.float64)
    logps = torch.full_like(rewards, -1.0) if logps is None else logps
    return GroupBatch(logps[..., None], logps[..., None], torch.ones_like(rewards)[..., None], rewards)


def push(batch, objective=objectives.apo, **options):
    """Minus the gradient in the log-probabilities, [prompts, group]."""
    return -coefficients(objective, batch, **options)[0].sum(-1)


def random_rewards(prompts=20, group=8, seed=0):
    return torch.randn(prompts, group, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# alpha and beta_r are one knob, kappa.


@pytest.mark.parametrize("kappa", [0.3, 1.0, 3.0])
def test_on_policy_a_prompts_direction_is_exp_kappa_a_minus_its_mean(kappa):
    rewards = random_rewards()
    advantages = group_advantages(rewards, scale="none")
    want = (kappa * advantages).exp() - (kappa * advantages).exp().mean(-1, keepdim=True)
    want = want / want.norm(dim=-1, keepdim=True)
    for alpha in (0.05, 0.3, 0.9, 1.5):
        got = push(on_policy(rewards), alpha=alpha, tau_anc=0.5, beta_r=alpha / kappa)
        torch.testing.assert_close(got / got.norm(dim=-1, keepdim=True), want, rtol=0, atol=1e-13)


def unit_step_run(alpha, beta_r, *, steps=200, arms=16, group=8, lr=0.3, noise=0.5):
    """A bandit of one prompt, plain loop: every update has length lr."""
    g = torch.Generator().manual_seed(0)
    values, logits = torch.linspace(0, 1, arms, dtype=torch.float64), torch.zeros(arms, dtype=torch.float64)
    for _ in range(steps):
        log_pi = logits.log_softmax(-1)
        uniform = torch.rand(group, generator=g, dtype=torch.float64)
        sampled = torch.searchsorted(log_pi.exp().cumsum(-1), uniform).clamp(max=arms - 1)
        rewards = values[sampled] + noise * torch.randn(group, generator=g, dtype=torch.float64)
        weights = push(on_policy(rewards[None], log_pi[sampled][None]), alpha=alpha, tau_anc=0.5, beta_r=beta_r)[0]
        step = torch.zeros(arms, dtype=torch.float64).index_add(0, sampled, weights) - weights.sum() * log_pi.exp()
        if step.norm() > 1e-9:  # a group of one arm has no direction
            logits = logits + lr * step / step.norm()
    return logits


def test_equal_kappa_and_equal_step_lengths_are_the_same_run():
    runs = [unit_step_run(alpha, beta_r) for alpha, beta_r in ((0.9, 0.3), (0.45, 0.15), (0.3, 0.1))]
    assert (runs[0] - runs[1]).abs().max() < 1e-6 and (runs[0] - runs[2]).abs().max() < 1e-6
    assert (runs[0] - unit_step_run(0.3, 0.3)).abs().max() > 0.1  # another kappa is another run


# kappa is a risk attitude.


def test_the_direction_of_a_large_group_is_the_gradient_of_the_exponential_utility():
    kappa, beta_r = 2.0, 0.3
    g = torch.Generator().manual_seed(0)
    logits, means, sds = (torch.tensor(v, dtype=torch.float64) for v in ([0.3, 0, -0.2], [0.5, 0.4, 0.2], [0, 0.5, 1]))
    pi = logits.softmax(-1)
    arms = torch.multinomial(pi, 400_000, replacement=True, generator=g)
    rewards = means[arms] + sds[arms] * torch.randn(len(arms), generator=g, dtype=torch.float64)
    weights = push(on_policy(rewards[None]), alpha=kappa * beta_r, tau_anc=1.0, beta_r=beta_r)[0]
    got = torch.zeros(3, dtype=torch.float64).index_add(0, arms, weights) - weights.sum() * pi
    # (1/kappa) log sum_a pi_a E[exp(kappa R) | a], by autograd; E exp(kappa R) = exp(kappa (mean + kappa sd^2 / 2)).
    leaf = logits.clone().requires_grad_()
    certainty = means + kappa * sds**2 / 2
    utility = torch.logsumexp(leaf.log_softmax(-1) + kappa * certainty, -1) / kappa
    (want,) = torch.autograd.grad(utility, leaf)
    assert torch.cosine_similarity(got, want, dim=0) > 0.9999
    mean_only = torch.autograd.grad((leaf.softmax(-1) * means).sum(), leaf)[0]
    assert torch.cosine_similarity(got, mean_only, dim=0) < 0  # the mean points elsewhere


def test_where_a_sure_half_gives_way_to_a_gamble():
    # Half of a group takes the sure 0.5, half a gamble that pays 1 twice in five. With x = e^(kappa/2) they are worth the
    # same at 0.4 x^2 - x + 0.6 = 0, x = 1.5: kappa = 2 ln 1.5 = 0.811, alpha = 0.2433 at beta_r 0.3.
    batch = on_policy([[0.5] * 5 + [1.0] * 2 + [0.0] * 3])

    def gamble(alpha, beta_r=0.3):
        return push(batch, alpha=alpha, tau_anc=0.5, beta_r=beta_r)[0, 5:].sum().item()

    switch = 2 * math.log(1.5) * 0.3
    assert gamble(switch) == pytest.approx(0.0, abs=1e-12)
    assert gamble(switch - 0.01) < 0 < gamble(switch + 0.01)
    assert gamble(switch, beta_r=0.2) > 0  # the same alpha, another kappa
    for objective in (objectives.grpo, objectives.dr_grpo):
        options = {"max_tokens": 1} if objective is objectives.dr_grpo else {}
        assert push(batch, objective, **options)[0, 5:].sum() < 0  # these follow the mean


# Between prompts alpha is a curriculum.


def test_the_weight_of_a_prompt_solved_k_times():
    group, beta_r = 8, 0.3
    solved = torch.arange(1, group)
    batch = on_policy((torch.arange(group) < solved[:, None]).double())
    right, k = batch.rewards == 1, solved.double()

    def weights(objective=objectives.apo, **options):
        return (push(batch, objective, **options) * right).sum(-1) * len(solved)

    ratios = {}
    for alpha in (1e-9, 0.35, 0.6, 0.9):
        got = weights(alpha=alpha, tau_anc=1.0, beta_r=beta_r)
        m = (k * math.exp(1 / beta_r) + group - k) / group
        want = k / group * (1 - k / group) * math.expm1(alpha / beta_r) / (alpha * m**alpha)
        torch.testing.assert_close(got, want, rtol=1e-8, atol=0)
        ratios[alpha] = (got[0] / got[-1]).item()
    assert ratios[1e-9] == pytest.approx(1.0, rel=1e-6)
    assert ratios[0.35] == pytest.approx(1.83, abs=0.005)
    assert ratios[0.9] == pytest.approx(4.74, abs=0.005)
    grpo = weights(objectives.grpo)
    assert (grpo[0] / grpo[-1]).item() == pytest.approx(1.0, rel=1e-9)


# What tau_anc does.


def test_at_the_anchor_tau_divides_the_gradient_and_nothing_else():
    batch = on_policy(random_rewards())
    for alpha in (0.0, 0.35, 1.0):
        one = push(batch, alpha=alpha, tau_anc=1.0, beta_r=0.3)
        torch.testing.assert_close(push(batch, alpha=alpha, tau_anc=0.25, beta_r=0.3), 4 * one, rtol=1e-12, atol=0)


def test_with_one_update_a_smaller_tau_is_a_larger_step_for_sgd_and_nothing_for_adam():
    def travelled(**options):
        return run(graded(noise=0.3), Loop(alpha=0.6, num_steps=20, **options), seeds=4)

    sgd = travelled(tau_anc=0.5, lr=0.5).probs[-1]
    torch.testing.assert_close(travelled(tau_anc=0.25, lr=0.25).probs[-1], sgd, rtol=1e-9, atol=1e-12)  # one knob
    near, far = (travelled(tau_anc=tau, lr=0.05).kl_anchor[0].mean() for tau in (2.0, 0.5))
    assert far / near == pytest.approx(16, rel=0.2)  # KL of a step goes with 1 / tau^2
    adam = [travelled(tau_anc=tau, optimizer="adam", lr=0.05).probs[-1] for tau in (2.0, 0.125)]
    torch.testing.assert_close(adam[0], adam[1], rtol=1e-4, atol=1e-6)
    # Where every step is clipped, tau_anc is gone too.
    clipped = [travelled(tau_anc=tau, max_grad_norm=1e-3, lr=50.0).probs[-1] for tau in (2.0, 0.125)]
    torch.testing.assert_close(clipped[0], clipped[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("alpha", [0.0, 0.35, 0.9])
def test_with_updates_until_it_converges_tau_is_the_radius_of_a_trust_region(alpha):
    # A group that holds each of four arms once: log(pi_new / pi_old) -> tau A / beta_r, up to a constant.
    rewards = torch.tensor([[1.0, 0.6, 0.3, 0.0]], dtype=torch.float64)
    old = torch.tensor([[0.4, 0.1, 0.3, 0.2]], dtype=torch.float64).log()
    for tau in (0.1, 0.4):
        logits = old.clone()
        for _ in range(600):
            log_pi = logits.log_softmax(-1)
            batch = GroupBatch(log_pi[..., None], old[..., None], torch.ones(1, 4, 1), rewards)
            weights = push(batch, alpha=alpha, tau_anc=tau, beta_r=0.5)
            logits = logits + 3 * tau**2 * (weights - weights.sum(-1, keepdim=True) * log_pi.exp())
        moved = logits.log_softmax(-1) - old
        want = tau * rewards / 0.5
        torch.testing.assert_close(moved - moved.mean(), want - want.mean(), rtol=0, atol=1e-6)


# A fixed target has a Lyapunov function; the weights are bounded.


def centred(values):
    return values - values.mean(-1, keepdim=True)


def test_the_distance_of_centred_logits_falls_at_every_order():
    g = torch.Generator().manual_seed(0)
    for group in (2, 3, 8, 32):
        scale = 6 * torch.rand(30_000, 1, generator=g, dtype=torch.float64)
        log_q, log_p = (
            (scale * torch.randn(30_000, group, generator=g, dtype=torch.float64)).log_softmax(-1) for _ in range(2)
        )
        alpha = 2 * torch.rand(30_000, generator=g, dtype=torch.float64) - 0.5
        grad = alpha_divergence_grad(log_q, log_p, alpha)
        summands = centred(log_p - log_q) * grad
        falls = summands.sum(-1)  # minus dV/dt along minus the gradient
        assert bool((falls >= -1e-12 * summands.abs().sum(-1)).all())
        assert falls.median() > 0


def test_a_divergence_may_rise_while_another_order_is_followed():
    log_q = torch.tensor([0.8475, 0.0002, 0.1523], dtype=torch.float64).log().log_softmax(-1)
    log_p = torch.tensor([1e-9, 0.0041, 0.9959], dtype=torch.float64).log().log_softmax(-1)
    reverse, forward = (alpha_divergence_grad(log_q, log_p, alpha) for alpha in (0.0, 1.0))
    assert torch.cosine_similarity(reverse, forward, dim=0).item() == pytest.approx(-0.49, abs=0.02)
    # So a small step down one of them goes up the other.
    followed = (log_p - 1e-4 * forward).log_softmax(-1)
    assert alpha_divergence(log_q, followed, 1.0) < alpha_divergence(log_q, log_p, 1.0)
    assert alpha_divergence(log_q, followed, 0.0) > alpha_divergence(log_q, log_p, 0.0)


@pytest.mark.parametrize("group", [2, 6, 32])
@pytest.mark.parametrize("alpha", [0.1, 0.35, 0.9, 1.0])
def test_alpha_above_zero_bounds_the_weights(group, alpha):
    g = torch.Generator().manual_seed(0)
    log_q = (20 * torch.randn(20_000, group, generator=g, dtype=torch.float64)).log_softmax(-1)
    anchor = torch.full((group,), -math.log(group), dtype=torch.float64)
    elsewhere = (3 * torch.randn(20_000, group, generator=g, dtype=torch.float64)).log_softmax(-1)
    top = (group**alpha - 1) / alpha
    assert box_cox(log_q - elsewhere, alpha).min() >= -1 / alpha - 1e-12
    weights = box_cox(log_q - anchor, alpha)
    assert -1 / alpha - 1e-12 <= weights.min() and weights.max() <= top + 1e-9
    assert weights.max() > 0.99 * top  # and it is reached
    # Centred by their mean, as the gradient has them, they reach a little further up, and no further down.
    assert centred(weights).max() <= (group**alpha - group ** (alpha - 1)) / alpha + 1e-9
    assert centred(weights).min() >= -1 / alpha - 1e-12
    assert box_cox(log_q - anchor, 0.0).min() < -50  # at alpha = 0 nothing holds them


# Collapse, noise and confidence.


def collapsed(alpha, *, matched, noise=4.0):
    """Share of runs that end sure (entropy below 0.3) and wrong (reward below a half)."""
    loop = Loop(alpha=alpha, lr=0.5, num_steps=300, reference_alpha=0.6, matched=matched, closed_form=True)
    history = run(equal_arms(noise=noise), loop, seeds=60)
    return ((history.entropy[-1] < 0.3) & (history.expected_reward[-1] < 0.5)).double().mean().item()


def test_collapse_at_a_small_alpha_is_a_matter_of_step_length():
    assert collapsed(0.0, matched=False) > collapsed(0.3, matched=False) + 0.1
    assert collapsed(0.0, matched=True) < 0.05
    assert collapsed(0.0, matched=False, noise=1.0) == 0  # it takes a noise of several times the rewards' range


@pytest.mark.parametrize(("rho", "gate"), [(0.0, 0.28), (0.9, 0.23), (0.99, 0.23)])
def test_rho_hardly_changes_how_noise_reads(rho, gate):
    noise = 0.07 * torch.randn(10_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    schedule, total = GuardedAlpha(rho=rho, gain_scale=0.1), 0.0
    for value in noise.tolist():
        schedule.update(Signals(value, 0.07, 1.0))
        total += schedule.improvement
    assert total / len(noise) == pytest.approx(gate, abs=0.01)


@pytest.mark.parametrize("rho", [0.5, 0.9])
def test_a_steady_gain_stays_g_over_one_minus_rho_above_its_average(rho):
    schedule = GuardedAlpha(rho=rho, gain_scale=1.0)
    for t in range(300):
        schedule.update(Signals(0.02 * t, 0.0, 1.0))
    assert math.atanh(schedule.improvement) == pytest.approx(0.02 / (1 - rho), rel=1e-9)


@pytest.mark.parametrize("spread", [0.1, 0.5, 2.0])
def test_candidates_give_a_confidence_of_at_most_d_squared_over_8_log_n(spread):
    g = torch.Generator().manual_seed(0)
    for group in (2, 6, 16):
        logps = -1 - spread * torch.rand(2000, group, generator=g, dtype=torch.float64)
        logps[0, : group // 2], logps[0, group // 2 :] = -1.0, -1.0 - spread  # the worst case has two values
        confidence = 1 - candidate_entropy(on_policy(torch.zeros(2000, group), logps))
        bound = spread**2 / (8 * math.log(group))
        assert confidence.max() <= bound
        assert confidence.max() > 0.6 * bound
