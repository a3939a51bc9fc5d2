"""The objectives: coefficients equal the objective's gradient, the facts that APO's docstring states, and bad input."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from apo_edu import GroupBatch, group_advantages, objectives
from apo_edu.objectives import OBJECTIVES, coefficients, group_distributions, sequence_logps

OPTIONS = {
    "apo": {"alpha": 0.6, "tau_anc": 0.5, "beta_r": 0.3},
    "adpo": {"tau_anc": 0.5, "beta_r": 0.3},
    "grpo": {},
    "dr_grpo": {"max_tokens": 7},
    "dapo": {},
    "gspo": {},
}


def random_batch(prompts=3, group=4, tokens=5, *, seed=0, drift=0.1, rewards=None, equal_lengths=False):
    g = torch.Generator().manual_seed(seed)
    old = -torch.rand(prompts, group, tokens, generator=g, dtype=torch.float64) * 3
    logps = old + drift * torch.randn(old.shape, generator=g, dtype=torch.float64)
    lengths = torch.randint(1, tokens + 1, (prompts, group), generator=g)
    lengths = torch.full_like(lengths, tokens) if equal_lengths else lengths
    mask = (torch.arange(tokens) < lengths[..., None]).long()
    rewards = torch.rand(prompts, group, generator=g, dtype=torch.float64) if rewards is None else rewards
    return GroupBatch(logps=logps, old_logps=old, mask=mask, rewards=rewards)


class Tiny(nn.Module):
    """A model of token log-probabilities: [rows, tokens] from [rows, tokens, 3] features."""

    def __init__(self):
        super().__init__()
        g = torch.Generator().manual_seed(1)
        self.weight = nn.Parameter(torch.randn(3, 6, generator=g, dtype=torch.float64))
        self.out = nn.Parameter(torch.randn(6, generator=g, dtype=torch.float64) * 0.3)

    def forward(self, features):
        return nn.functional.logsigmoid(torch.tanh(features @ self.weight) @ self.out)


def flat_gradient(model):
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_coefficients_give_the_objectives_own_gradient_at_any_split(name, masked):
    batch, model = random_batch(), Tiny()
    features = torch.randn(3, 4, 5, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    if masked:
        batch = dataclasses.replace(batch, valid=torch.tensor([[True, False, True, True]] * 3))
    with torch.no_grad():
        logps = model(features)
    batch = dataclasses.replace(batch, logps=logps, old_logps=logps + 0.05 * batch.old_logps)

    loss, _ = OBJECTIVES[name].function(dataclasses.replace(batch, logps=model(features)), **OPTIONS[name])
    loss.backward()
    want = flat_gradient(model)
    coef, value, stats = coefficients(OBJECTIVES[name].function, batch, **OPTIONS[name])
    assert value.item() == pytest.approx(loss.item(), rel=1e-14)
    assert not value.requires_grad
    assert not any(stat.requires_grad for stat in stats.values())
    assert bool((coef[batch.mask == 0] == 0).all())
    if masked:
        assert bool((coef[:, 1] == 0).all())
    for rows in (1, 2, 5, 12):
        model.zero_grad()
        for start in range(0, 12, rows):
            part = slice(start, start + rows)
            (coef.flatten(0, 1)[part] * model(features.flatten(0, 1)[part])).sum().backward()
        assert (flat_gradient(model) - want).abs().max() <= 1e-12 * want.abs().max()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_is_off_the_mask_does_not_matter(name):
    batch = random_batch()
    off = batch.mask == 0
    garbage = dataclasses.replace(
        batch,
        logps=batch.logps.masked_fill(off, float("nan")),
        old_logps=batch.old_logps.masked_fill(off, -float("inf")),
    )
    want, got = (coefficients(OBJECTIVES[name].function, b, **OPTIONS[name]) for b in (batch, garbage))
    assert torch.equal(want[0], got[0])
    assert torch.equal(want[1], got[1])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_left_out_completion_leaves_its_group_altogether(name):
    batch = random_batch()
    without = dataclasses.replace(batch, valid=torch.tensor([[True, True, True, False]] * 3))
    smaller = GroupBatch(batch.logps[:, :3], batch.old_logps[:, :3], batch.mask[:, :3], batch.rewards[:, :3])
    coef, loss, _ = coefficients(OBJECTIVES[name].function, without, **OPTIONS[name])
    want, want_loss, _ = coefficients(OBJECTIVES[name].function, smaller, **OPTIONS[name])
    torch.testing.assert_close(coef[:, :3], want, rtol=1e-12, atol=1e-15)
    assert loss.item() == pytest.approx(want_loss.item(), rel=1e-12)


def directions(rewards, **options):
    """[alphas, prompts, group]: APO's gradient in the sequence log-probabilities at u = 0, for several alphas."""
    batch = random_batch(drift=0.0, rewards=rewards, prompts=len(rewards), group=rewards.shape[1], equal_lengths=True)
    alphas = (0.0, 0.2, 0.35, 0.6, 0.9, 1.0)
    return batch, torch.stack(
        [coefficients(objectives.apo, batch, alpha=a, tau_anc=0.5, beta_r=0.3, **options)[0].sum(-1) for a in alphas]
    )


BINARY = torch.tensor([[1.0, 0, 0, 0, 0, 1], [0, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0]], dtype=torch.float64)
GRADED = torch.tensor([[1.0, 0.5, 0.0, 0.2, 0.0, 0.9]], dtype=torch.float64)


def test_at_the_anchor_the_gradient_is_centred_and_not_zero():
    for rewards in (BINARY, GRADED):
        _, grads = directions(rewards)
        assert grads.sum(-1).abs().max() < 1e-15
        assert grads.abs().amax(-1).min() > 1e-3
        # It raises what is better than average: minus the gradient has the sign of the advantage for the extremes.
        assert bool((grads[:, 0, rewards[0].argmax()] < 0).all())


@pytest.mark.parametrize("alpha", [0.2, 0.6, 1.0])
def test_at_the_anchor_apo_is_reinforce_with_a_reshaped_advantage(alpha):
    # dD/du_j at p = 1/n: -(q_j^alpha - mean q^alpha) n^(alpha - 1) / alpha; and du/dl = 1 / tau_anc.
    batch, _ = directions(GRADED)
    coef, _, _ = coefficients(objectives.apo, batch, alpha=alpha, tau_anc=0.5, beta_r=0.3)
    q = torch.softmax((GRADED - GRADED.mean()) / 0.3, -1)
    want = -(q**alpha - (q**alpha).mean()) * 6 ** (alpha - 1) / alpha / 0.5
    torch.testing.assert_close(coef.sum(-1), want, rtol=1e-12, atol=1e-15)


def test_binary_rewards_make_alpha_a_step_size_and_grpo_agrees():
    # Token by token, for completions of different lengths: APO's mean over tokens is GRPO's.
    batch = random_batch(drift=0.0, rewards=BINARY, group=6)
    grpo = coefficients(objectives.grpo, batch)[0].flatten(1)
    norms = []
    for alpha in (0.0, 0.2, 0.35, 0.6, 0.9, 1.0):
        grad = coefficients(objectives.apo, batch, alpha=alpha, tau_anc=0.5, beta_r=0.3)[0].flatten(1)
        for prompt in range(len(BINARY)):
            assert torch.cosine_similarity(grad[prompt], grpo[prompt], dim=0).item() == pytest.approx(1.0, abs=1e-9)
        norms.append(grad[0].norm())
    assert max(norms) > 1.2 * min(norms)  # alpha does change the length


def test_binary_rewards_over_prompts_alpha_shifts_the_weights_of_the_prompts():
    # One step size per prompt: with equal shares of right answers the whole batch keeps its direction, otherwise not.
    for rewards, turns in ((torch.stack([BINARY[0], BINARY[0].roll(1)]), False), (BINARY, True)):
        _, grads = directions(rewards)
        low, high = grads[0].flatten(), grads[-1].flatten()
        cosine = torch.cosine_similarity(low, high, dim=0).item()
        assert cosine < 0.999 if turns else cosine == pytest.approx(1.0, abs=1e-9)


def test_graded_rewards_make_alpha_change_the_direction():
    batch, grads = directions(GRADED)
    grpo = coefficients(objectives.grpo, batch)[0].sum(-1)[0]
    assert torch.cosine_similarity(grads[0, 0], grads[-1, 0], dim=0).item() < 0.97
    assert torch.cosine_similarity(grads[-1, 0], grpo, dim=0).item() < 0.97


def test_adpo_is_apo_at_one_up_to_the_entropy_of_the_target():
    batch = random_batch()
    apo = coefficients(objectives.apo, batch, alpha=1.0, tau_anc=0.5, beta_r=0.3)
    adpo = coefficients(objectives.adpo, batch, tau_anc=0.5, beta_r=0.3)
    torch.testing.assert_close(apo[0], adpo[0], rtol=1e-12, atol=1e-15)
    log_q, _ = group_distributions(batch, tau_anc=0.5, beta_r=0.3)
    entropy = -(log_q.exp() * log_q).sum(-1).mean()
    assert adpo[1].item() == pytest.approx((apo[1] + entropy).item(), rel=1e-12)


def test_on_policy_gspo_has_the_gradient_of_grpo_and_a_loss_of_zero():
    batch = random_batch(drift=0.0)
    grpo, gspo = (coefficients(OBJECTIVES[name].function, batch) for name in ("grpo", "gspo"))
    torch.testing.assert_close(gspo[0], grpo[0], rtol=1e-12, atol=1e-15)
    # "The loss is 0 at the first step": the value is, by centred advantages; the gradient is not.
    assert abs(grpo[1].item()) < 1e-15
    assert grpo[0].abs().max() > 1e-3


def test_clipping_stops_the_gradient_where_the_ratio_has_gone_far_enough():
    # One prompt, two completions of one token; the better one has doubled its probability, the worse one halved it.
    batch = GroupBatch(
        logps=torch.tensor([[[math.log(0.4)], [math.log(0.3)]]], dtype=torch.float64),
        old_logps=torch.tensor([[[math.log(0.2)], [math.log(0.6)]]], dtype=torch.float64),
        mask=torch.ones(1, 2, 1),
        rewards=torch.tensor([[1.0, 0.0]], dtype=torch.float64),
    )
    coef, loss, stats = coefficients(objectives.grpo, batch, epsilon=0.2)
    assert coef.abs().max() == 0
    assert stats["clip_fraction"] == 1.0
    advantage = 0.5 / (math.sqrt(0.5) + 1e-4)
    assert loss.item() == pytest.approx(-(1.2 * advantage - 0.8 * advantage) / 2, rel=1e-12)
    # A wider range leaves the better one free: -rho A / 2 completions.
    coef, _, stats = coefficients(objectives.dapo, batch, epsilon_low=0.2, epsilon_high=1.5)
    assert coef[0, 0, 0].item() == pytest.approx(-2.0 * advantage / 2, rel=1e-12)
    assert stats["clip_fraction"] == 0.5


def test_token_and_length_normalisation_by_hand():
    # Two completions of 1 and 3 tokens, on policy: each token's coefficient is -A times its objective's normaliser.
    mask = torch.tensor([[[1, 0, 0], [1, 1, 1]]])
    logps = torch.full((1, 2, 3), -1.0, dtype=torch.float64)
    batch = GroupBatch(logps, logps, mask, torch.tensor([[1.0, 0.0]], dtype=torch.float64))
    a = 0.5 / (math.sqrt(0.5) + 1e-4)
    for objective, options, want in (
        (objectives.grpo, {}, [[-a / 2, 0, 0], [a / 6, a / 6, a / 6]]),
        (objectives.dapo, {}, [[-a / 4, 0, 0], [a / 4, a / 4, a / 4]]),
        (objectives.dr_grpo, {"max_tokens": 10, "scale": "group"}, [[-a / 20, 0, 0], [a / 20, a / 20, a / 20]]),
        (objectives.dr_grpo, {"max_tokens": 10}, [[-0.025, 0, 0], [0.025, 0.025, 0.025]]),
        (objectives.gspo, {}, [[-a / 2, 0, 0], [a / 6, a / 6, a / 6]]),
    ):
        coef, _, _ = coefficients(objective, batch, **options)
        torch.testing.assert_close(coef[0], torch.tensor(want, dtype=torch.float64), rtol=1e-12, atol=1e-15)


def test_off_policy_changes_nothing_on_the_first_update():
    batch = random_batch(drift=0.0)
    for name in ("apo", "adpo"):
        want, loss, stats = coefficients(OBJECTIVES[name].function, batch, **OPTIONS[name])
        for off_policy in ("ratio", "clip"):
            got, value, seen = coefficients(OBJECTIVES[name].function, batch, off_policy=off_policy, **OPTIONS[name])
            assert torch.equal(got, want) and value == loss
            assert seen["clip_fraction"] == stats["clip_fraction"] == 0


def test_off_policy_by_hand():
    # Ratios 2, 1.1, 1, 0.9 and 0.5 on completions that are pushed up (the better one) and down.
    ratios = torch.tensor([[[2.0, 1.1, 1.0, 0.9, 0.5]] * 2], dtype=torch.float64)
    old = torch.full_like(ratios, -1.0)
    rewards = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    batch = GroupBatch(old + ratios.log(), old, torch.ones_like(ratios), rewards)
    paper, _, _ = coefficients(objectives.apo, batch, **OPTIONS["apo"])
    assert bool((paper[0, 0] < 0).all()) and bool((paper[0, 1] > 0).all())
    ratio, _, _ = coefficients(objectives.apo, batch, off_policy="ratio", **OPTIONS["apo"])
    torch.testing.assert_close(ratio, paper * ratios, rtol=1e-14, atol=0)
    clip, _, stats = coefficients(objectives.apo, batch, off_policy="clip", **OPTIONS["apo"])
    kept = torch.tensor([[[0, 1, 1, 1, 1], [1, 1, 1, 1, 0]]])
    assert torch.equal(clip, ratio * kept)
    assert stats["clip_fraction"].item() == pytest.approx(2 / 10)
    wide, _, stats = coefficients(objectives.apo, batch, off_policy="clip", off_policy_epsilon=0.6, **OPTIONS["apo"])
    assert torch.equal(wide, ratio * torch.tensor([[[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]]]))
    off = dataclasses.replace(batch, mask=torch.tensor([[[1, 1, 1, 1, 0], [0, 1, 1, 1, 1]]]))
    assert coefficients(objectives.apo, off, off_policy="clip", **OPTIONS["apo"])[2]["clip_fraction"] == 2 / 8


def test_at_its_own_anchor_the_clipped_correction_is_ppos_surrogate():
    batch = random_batch(drift=0.4)
    at_anchor = dataclasses.replace(batch, ref_logps=batch.logps)
    weights = -coefficients(objectives.apo, at_anchor, **OPTIONS["apo"])[0]
    logps = batch.logps.clone().requires_grad_()
    ratio = (logps - batch.old_logps).exp()
    surrogate = -torch.minimum(ratio * weights, ratio.clamp(0.8, 1.2) * weights).sum()
    (want,) = torch.autograd.grad(surrogate, logps)
    got, _, stats = coefficients(objectives.apo, at_anchor, off_policy="clip", **OPTIONS["apo"])
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)
    assert stats["clip_fraction"] > 0.05
    # With rewards of two values the weights have the signs of the advantages: what GRPO stops is stopped.
    binary = dataclasses.replace(at_anchor, rewards=torch.tensor([[1.0, 0, 0, 1]] * 3, dtype=torch.float64))
    grpo, _, want = coefficients(objectives.grpo, binary)
    clip, _, got = coefficients(objectives.apo, binary, off_policy="clip", **OPTIONS["apo"])
    assert torch.equal(clip == 0, grpo == 0)
    assert 0.05 < got["clip_fraction"].item() == pytest.approx(want["clip_fraction"].item(), rel=1e-6)


def jacobian_asymmetry(batch, off_policy):
    """Largest |J - J^T| of the field logps -> coefficients, relative to the largest |J|, by central differences."""
    flat, step = batch.logps.flatten(), 1e-5

    def field(logps):
        moved = dataclasses.replace(batch, logps=logps.view_as(batch.logps))
        return coefficients(objectives.apo, moved, off_policy=off_policy, **OPTIONS["apo"])[0].flatten()

    columns = [(field(flat + step * e) - field(flat - step * e)) / (2 * step) for e in torch.eye(len(flat)).to(flat)]
    jacobian = torch.stack(columns, dim=-1)
    return ((jacobian - jacobian.T).abs().max() / jacobian.abs().max()).item()


def test_the_ratio_times_the_coefficients_is_no_objectives_gradient():
    # A gradient has a symmetric Jacobian. One prompt of four completions, a token each.
    off = random_batch(prompts=1, tokens=1, drift=0.4)
    on = dataclasses.replace(off, logps=off.old_logps)
    assert jacobian_asymmetry(off, "none") < 1e-7  # the paper's field is the gradient of D_alpha
    assert jacobian_asymmetry(on, "ratio") < 1e-7
    assert jacobian_asymmetry(off, "ratio") > 0.02
    # What it is: the gradient of sum sg(c) rho.
    coef, _, _ = coefficients(objectives.apo, off, **OPTIONS["apo"])
    logps = off.logps.clone().requires_grad_()
    (surrogate,) = torch.autograd.grad((coef * (logps - off.old_logps).exp()).sum(), logps)
    got, _, _ = coefficients(objectives.apo, off, off_policy="ratio", **OPTIONS["apo"])
    torch.testing.assert_close(got, surrogate, rtol=1e-14, atol=0)


def test_sequence_reduction_by_hand():
    logps = torch.tensor([[[-1.0, -3.0, 99.0], [-2.0, 99.0, 99.0]]])
    mask = torch.tensor([[[1, 1, 0], [1, 0, 0]]])
    assert sequence_logps(logps, mask, "sum").tolist() == [[-4.0, -2.0]]
    assert sequence_logps(logps, mask, "mean").tolist() == [[-2.0, -2.0]]
    with pytest.raises(ValueError, match="logp_reduction is 'median'; expected one of 'mean', 'sum'"):
        sequence_logps(logps, mask, "median")


def test_the_anchor_may_be_another_policy():
    batch = random_batch()
    elsewhere = dataclasses.replace(batch, ref_logps=batch.logps)
    _, log_p = group_distributions(elsewhere, tau_anc=0.5, beta_r=0.3)
    torch.testing.assert_close(log_p, torch.full_like(log_p, -math.log(4)))
    assert (
        coefficients(objectives.apo, batch, **OPTIONS["apo"])[1]
        != coefficients(objectives.apo, elsewhere, **OPTIONS["apo"])[1]
    )


def test_alpha_may_differ_by_prompt():
    batch = random_batch()
    alphas = torch.tensor([0.2, 0.6, 1.0], dtype=torch.float64)
    together, _, _ = coefficients(objectives.apo, batch, alpha=alphas, tau_anc=0.5, beta_r=0.3)
    for i, alpha in enumerate(alphas.tolist()):
        alone, _, _ = coefficients(objectives.apo, batch, alpha=alpha, tau_anc=0.5, beta_r=0.3)
        torch.testing.assert_close(together[i], alone[i], rtol=1e-12, atol=1e-15)


def test_no_gradient_reaches_constants():
    batch = random_batch()
    tensors = [t.clone().requires_grad_() for t in (batch.logps, batch.old_logps, batch.rewards)]
    for name, record in OBJECTIVES.items():
        loss, _ = record.function(GroupBatch(tensors[0], tensors[1], batch.mask, tensors[2]), **OPTIONS[name])
        grads = torch.autograd.grad(loss, tensors, allow_unused=True)
        assert grads[0].abs().max() > 0, name
        assert grads[1] is None, name
        assert grads[2] is None, name


def test_equal_rewards_have_no_signal():
    for name, record in OBJECTIVES.items():
        batch = random_batch(drift=0.0, rewards=torch.full((3, 4), 0.1, dtype=torch.float64))
        assert coefficients(record.function, batch, **OPTIONS[name])[0].abs().max() < 1e-15


ONES = torch.ones(2, 3, 4)
BATCH = {"logps": -ONES, "old_logps": -ONES, "mask": ONES, "rewards": ONES[..., 0]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logps": -ONES[0]}, r"logps has shape \(3, 4\); expected \[prompts, group, tokens\].*view.*tokens = 1"),
        ({"logps": -ONES[:, :1]}, r"a group of size 1; expected .*at least 2"),
        ({"mask": ONES[:, :, :2]}, r"mask has shape \(2, 3, 2\); expected \(2, 3, 4\), because logps has shape"),
        ({"rewards": ONES}, r"rewards has shape \(2, 3, 4\); expected \(2, 3\)"),
        ({"rewards": ONES[..., 0].log().log()}, r"rewards holds -inf at index \[0, 0\]"),
        ({"old_logps": ONES * float("nan")}, r"old_logps holds nan at index \[0, 0, 0\] .*on the mask"),
        ({"logps": ONES.long()}, "logps has dtype torch.int64"),
        ({"valid": ONES.bool()}, r"valid has shape \(2, 3, 4\); expected \(2, 3\)"),
    ],
)
def test_bad_batches(changes, message):
    with pytest.raises(ValueError, match=message):
        GroupBatch(**{**BATCH, **changes})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("apo", {"tau_anc": 0.0}, "tau_anc is 0.0; expected a finite number > 0"),
        ("apo", {"beta_r": -1.0}, "beta_r is -1.0; expected a finite number > 0"),
        ("apo", {"alpha": math.nan}, "alpha is nan"),
        ("apo", {"scale": "std"}, "scale is 'std'"),
        ("grpo", {"epsilon": 0.0}, "epsilon_low is 0.0; expected a finite number > 0"),
        ("dr_grpo", {"max_tokens": 0}, "max_tokens is 0; expected a finite number > 0"),
    ],
)
def test_bad_options(name, options, message):
    with pytest.raises(ValueError, match=message):
        OBJECTIVES[name].function(random_batch(), **{**OPTIONS[name], **options})


@pytest.mark.parametrize(
    ("objective", "options", "message"),
    [
        (objectives.apo, {"off_policy": "ppo"}, "off_policy is 'ppo'; expected one of 'none', 'ratio', 'clip'"),
        (
            objectives.grpo,
            {"off_policy": "ratio"},
            "off_policy is 'ratio' for grpo, which has a ratio .* expected 'none'",
        ),
        (
            objectives.apo,
            {"off_policy": "clip", "off_policy_epsilon": 1.5},
            r"off_policy_epsilon is 1.5; expected in \(0, 1\)",
        ),
    ],
)
def test_bad_off_policy(objective, options, message):
    with pytest.raises(ValueError, match=message):
        coefficients(objective, random_batch(), **{**OPTIONS["apo"], **options})


def test_advantages_are_those_of_the_targets_module():
    batch = random_batch(drift=0.0)
    coef, _, _ = coefficients(objectives.grpo, batch)
    torch.testing.assert_close(coef.sum(-1), -group_advantages(batch.rewards) / 12, rtol=1e-12, atol=1e-15)
