"""Schedules: step by step against the formula, a guard that noise does not open, and signals read off a batch."""

import json
import math

import pytest
import torch

from apo_edu import (
    EssAlpha,
    FixedAlpha,
    GroupBatch,
    GuardedAlpha,
    LinearAlpha,
    Signals,
    answer_entropy,
    effective_sample_size,
    group_signals,
    tilted_log_weights,
)

MAKE = {
    "fixed": FixedAlpha,
    "linear": lambda: LinearAlpha(num_steps=7),
    "guarded": lambda: GuardedAlpha(noise_guard=1.0),
    "ess": lambda: EssAlpha(0.5, 1.0, 0.0),
}


def stream(steps, seed=0):
    g = torch.Generator().manual_seed(seed)
    for t in range(steps):
        log_q = (3 * torch.rand(5, 6, generator=g, dtype=torch.float64)).log_softmax(-1)
        log_p = torch.rand(5, 6, generator=g, dtype=torch.float64).log_softmax(-1)
        reward = 0.05 * t + 0.1 * torch.randn((), generator=g).item()
        yield Signals(reward, 0.05, 0.5 + 0.4 * math.sin(t), log_q, log_p)


def test_fixed():
    schedule = FixedAlpha(0.6)
    assert [schedule.update(s) for s in stream(3)] == [0.6] * 3


def test_linear_by_hand():
    schedule = LinearAlpha(0.9, 0.3, num_steps=3)
    assert schedule.alpha == 0.9
    assert [schedule.update(s) for s in stream(5)] == pytest.approx([0.9, 0.7, 0.5, 0.3, 0.3])


def test_guarded_step_by_step():
    # R = 0.2, 0.4, 0.4, 0.1; EMA = 0.2, then 0.9 EMA + 0.1 R = 0.22, 0.238, 0.2242.
    schedule = GuardedAlpha(alpha_max=0.9, alpha_min=0.35, rho=0.9, gain_scale=0.1)
    gates = [0.0, math.tanh(0.2 / 0.1), math.tanh(0.18 / 0.1), 0.0]
    ema = [0.2, 0.22, 0.238, 0.2242]
    for reward, confidence, gate, average in zip((0.2, 0.4, 0.4, 0.1), (1.0, 0.5, 0.8, 1.0), gates, ema, strict=True):
        alpha = schedule.update(Signals(reward, 0.0, confidence))
        assert alpha == schedule.alpha == pytest.approx(0.9 - 0.55 * confidence * gate, rel=1e-12)
        assert schedule.improvement == pytest.approx(gate, rel=1e-12)
        assert schedule.confidence == confidence
        assert schedule.reward_ema == pytest.approx(average, rel=1e-12)


def test_the_guard_subtracts_standard_errors():
    schedule = GuardedAlpha(noise_guard=2.0)
    schedule.update(Signals(0.2, 0.05, 1.0))
    schedule.update(Signals(0.4, 0.05, 1.0))
    assert schedule.improvement == pytest.approx(math.tanh((0.2 - 0.1) / 0.1), rel=1e-12)


@pytest.mark.parametrize("reward", [0.0, 0.7])
def test_a_flat_reward_holds_alpha_at_its_maximum(reward):
    schedule = GuardedAlpha()
    assert {schedule.update(Signals(reward, 0.0, 1.0)) for _ in range(50)} == {0.9}


def test_confident_but_not_improving_and_improving_but_not_confident_hold_alpha():
    confident, improving = GuardedAlpha(), GuardedAlpha()
    for t in range(20):
        assert confident.update(Signals(0.5 - 0.01 * t, 0.0, 1.0)) == 0.9
        assert improving.update(Signals(0.1 * t, 0.0, 0.0)) == 0.9
    assert GuardedAlpha().alpha == 0.9


def mean_gate(noise_guard, *, gain=0.0, steps=20_000):
    """Mean p_t at the setting of the documentation: reward noise 0.07, gain scale 0.1, rho 0.9."""
    g = torch.Generator().manual_seed(0)
    noise = 0.07 * torch.randn(steps, generator=g, dtype=torch.float64)
    schedule, total = GuardedAlpha(rho=0.9, gain_scale=0.1, noise_guard=noise_guard), 0.0
    for t in range(steps):
        schedule.update(Signals(gain * t + noise[t].item(), 0.07, 1.0))
        total += schedule.improvement
    return total / steps


def test_noise_alone_opens_the_papers_gate_and_not_the_guarded_one():
    assert mean_gate(0.0) == pytest.approx(0.23, abs=0.01)
    assert mean_gate(2.0) < 0.02


def test_a_true_gain_opens_the_guarded_gate():
    # At 0.1 a step the EMA lags by 0.1 rho / (1 - rho) = 0.9, far above two standard errors.
    assert mean_gate(2.0, gain=0.1, steps=500) > 0.9


@pytest.mark.parametrize("name", MAKE)
def test_state_continues_in_the_middle_of_a_run(name):
    signals = list(stream(12))
    whole = MAKE[name]()
    want = [whole.update(s) for s in signals]
    first, second = MAKE[name](), MAKE[name]()
    got = [first.update(s) for s in signals[:5]]
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert second.alpha == first.alpha
    got += [second.update(s) for s in signals[5:]]
    assert got == want


def test_state_of_another_schedule_is_refused():
    with pytest.raises(ValueError, match=r"GuardedAlpha state has \['alpha'\]; expected \['alpha', 'reward_ema'\]"):
        GuardedAlpha().load_state_dict(FixedAlpha(0.5).state_dict())


@pytest.mark.parametrize("make", [GuardedAlpha, lambda: EssAlpha(0.5, 1.0, 0.0)])
def test_many_runs_at_once_equal_one_at_a_time(make):
    runs = [list(stream(8, seed)) for seed in range(4)]
    together, alone = make(), [make() for _ in runs]
    for t in range(8):
        at = [run[t] for run in runs]
        alphas = together.update(
            Signals(
                reward=torch.tensor([s.reward for s in at], dtype=torch.float64),
                reward_se=torch.tensor([s.reward_se for s in at], dtype=torch.float64),
                confidence=torch.tensor([s.confidence for s in at], dtype=torch.float64),
                log_q=torch.stack([s.log_q for s in at]),
                log_p=torch.stack([s.log_p for s in at]),
            )
        )
        want = [schedule.update(s) for schedule, s in zip(alone, at, strict=True)]
        assert alphas.tolist() == pytest.approx(want, rel=1e-12)


def test_ess_hits_its_target():
    schedule = EssAlpha(0.5, 1.0, 0.0)
    log_p = torch.full((10, 8), 1 / 8, dtype=torch.float64).log()
    g = torch.Generator().manual_seed(0)
    log_q = (9 * torch.rand(10, 8, generator=g, dtype=torch.float64)).log_softmax(-1)
    alpha = schedule.update(Signals(0.0, log_q=log_q, log_p=log_p))
    assert 0.0 < alpha < 1.0

    def ess(order):
        return effective_sample_size(tilted_log_weights(log_q, log_p, order)).mean().item()

    assert ess(alpha) >= 4.0 > ess(alpha + 1 / 200)  # the last grid point that keeps half the group
    assert EssAlpha(1.0, 0.9, 0.35).update(Signals(0.0, log_q=log_q, log_p=log_p)) == pytest.approx(0.35)
    assert EssAlpha(0.13, 0.9, 0.35).update(Signals(0.0, log_q=log_q, log_p=log_p)) == pytest.approx(0.9)


def batch_of(logps, rewards):
    logps = torch.tensor(logps, dtype=torch.float64)[..., None]
    return GroupBatch(logps, logps, torch.ones_like(logps), torch.tensor(rewards, dtype=torch.float64))


def test_signals_by_hand():
    batch = batch_of([[-1.0, -1.0], [0.0, math.log(1 / 3)]], [[1.0, 0.0], [1.0, 1.0]])
    options = {"tau_anc": 0.5, "beta_r": 0.5}
    signals = group_signals(batch, **options, confidence_from="candidates")
    assert signals.reward == 0.75
    assert signals.reward_se == pytest.approx(math.sqrt(0.125) / math.sqrt(2))  # of the prompts' means 0.5 and 1
    # The candidates' distributions are (1/2, 1/2), and (3/4, 1/4) with an entropy of 0.8113 bits.
    bits = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    assert signals.confidence == pytest.approx((0.0 + 1.0 - bits) / 2, rel=1e-12)
    # On policy the anchored policy is uniform: its confidence is 0, always.
    assert group_signals(batch, **options, confidence_from="anchored").confidence == pytest.approx(0.0, abs=1e-12)
    # q = softmax(+-0.5 / 0.5) for the first prompt, uniform for the second.
    high = 1 / (1 + math.exp(-2))
    bits = -(high * math.log2(high) + (1 - high) * math.log2(1 - high))
    assert group_signals(batch, **options, confidence_from="target").confidence == pytest.approx((1 - bits) / 2)
    assert group_signals(batch, **options, confidence_from="tokens", token_entropy=0.3).confidence == pytest.approx(0.7)


def test_signals_of_many_runs():
    batch = batch_of([[-1.0, -1.0], [0.0, -1.0], [-2.0, 0.0], [-3.0, -1.0]], [[1, 0], [1, 1], [0, 0], [0, 1]])
    options = {"tau_anc": 0.5, "beta_r": 0.5, "confidence_from": "candidates"}
    together = group_signals(batch, **options, num_runs=2)
    for run in range(2):
        rows = slice(2 * run, 2 * run + 2)
        alone = group_signals(
            GroupBatch(batch.logps[rows], batch.old_logps[rows], batch.mask[rows], batch.rewards[rows]), **options
        )
        for name in ("reward", "reward_se", "confidence"):
            assert getattr(together, name)[run].item() == pytest.approx(getattr(alone, name), rel=1e-12, abs=1e-15)
        torch.testing.assert_close(together.log_q[run], alone.log_q)
    # With one prompt a run, the error is taken over its completions.
    single = group_signals(batch, **options, num_runs=4)
    assert single.reward_se.tolist() == pytest.approx([0.5, 0.0, 0.0, 0.5])


def test_left_out_completions_do_not_count_for_confidence_or_ess():
    whole = batch_of([[-1.0, -2.0, -0.5, -3.0]] * 2, [[1.0, 0.2, 0.0, 0.9], [0.0, 1.0, 0.3, 0.1]])
    part = GroupBatch(whole.logps[:, :3], whole.old_logps[:, :3], whole.mask[:, :3], whole.rewards[:, :3])
    valid = torch.tensor([[True, True, True, False]] * 2)
    masked = GroupBatch(whole.logps, whole.old_logps, whole.mask, whole.rewards, valid=valid)
    options = {"tau_anc": 0.5, "beta_r": 0.5}
    answers = torch.tensor([[0, 1, 1, 2], [0, 1, 2, 2]])
    for source in ("candidates", "anchored", "target", "answers"):
        got, want = (
            group_signals(batch, **options, confidence_from=source, answers=kept)
            for batch, kept in ((masked, answers), (part, answers[:, :3]))
        )
        assert got.confidence == pytest.approx(want.confidence, abs=1e-9), source
    options["token_entropy"] = 0.5
    got, want = (EssAlpha(0.8, 1.0, 0.0).update(group_signals(batch, **options)) for batch in (masked, part))
    assert got == pytest.approx(want)
    assert group_signals(masked, **options).reward == group_signals(whole, **options).reward


def test_answer_entropy_by_hand():
    answers = torch.tensor([[7, 7, 7, 7], [0, 1, 2, 3], [5, 5, 9, 9], [3, 3, 3, -1], [-1, -1, -1, -1]])
    # Out of two bits: none; two; one; (3/4) log2(4/3) + (1/4) 2 = 0.8113; those without an answer are one answer.
    bits = [0.0, 2.0, 1.0, 0.75 * math.log2(4 / 3) + 0.5, 0.0]
    assert answer_entropy(answers).tolist() == pytest.approx([b / 2 for b in bits], abs=1e-15)
    # Two of four left out: what counts is {5, 9} of two; one left: no confidence.
    valid = torch.tensor([[True] * 4] * 2 + [[True, False, True, False], [True, False, False, False], [False] * 4])
    assert answer_entropy(answers, valid=valid)[2:].tolist() == [1.0, 1.0, 1.0]
    # The same answer under other numbers, and in another order.
    renamed = torch.tensor([[0, 1, 0, 1]])
    assert answer_entropy(renamed).item() == pytest.approx(0.5)


def test_answers_as_confidence():
    batch = batch_of([[-1.0, -1.0, -2.0, -2.0]] * 2, [[1.0, 0.0, 0.0, 1.0]] * 2)
    options = {"tau_anc": 0.5, "beta_r": 0.5, "confidence_from": "answers"}
    answers = torch.tensor([[1, 1, 1, 1], [1, 1, 2, 2]])
    assert group_signals(batch, **options, answers=answers).confidence == pytest.approx((1.0 + 0.5) / 2)
    runs = group_signals(batch, **options, answers=answers, num_runs=2).confidence
    assert runs.tolist() == pytest.approx([1.0, 0.5])


def test_tokens_are_the_default():
    batch = batch_of([[-1.0, -2.0]], [[1.0, 0.0]])
    assert group_signals(batch, tau_anc=0.5, beta_r=0.5, token_entropy=0.2).confidence == pytest.approx(0.8)


BATCH = batch_of([[-1.0, -2.0]] * 3, [[1, 0]] * 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: GuardedAlpha(alpha_max=0.3, alpha_min=0.5), "alpha_min is 0.5 and alpha_max is 0.3; expected .*Swap"),
        (lambda: EssAlpha(0.5, 0.3, 0.5), "alpha_min is 0.5 and alpha_max is 0.3"),
        (lambda: GuardedAlpha(rho=1.0), "rho is 1.0; expected 0 <= rho < 1"),
        (lambda: GuardedAlpha(gain_scale=0.0), "gain_scale is 0.0; expected > 0"),
        (lambda: GuardedAlpha(noise_guard=-1.0), "noise_guard is -1.0; expected >= 0"),
        (lambda: GuardedAlpha(alpha_max=math.nan), "alpha_max is nan; expected a finite number"),
        (lambda: FixedAlpha(math.inf), "alpha is inf; expected a finite number"),
        (lambda: LinearAlpha(num_steps=0), "num_steps is 0; expected at least 1"),
        (lambda: EssAlpha(0.0), r"target_fraction is 0.0; expected \(0, 1\]"),
        (lambda: EssAlpha().update(Signals(0.0)), r"log_q or signals.log_p is None.*group_signals\(batch"),
        (lambda: GuardedAlpha().update(Signals(math.nan)), "reward is nan; expected finite numbers"),
        (lambda: GuardedAlpha().update(Signals(0.0, 0.0, 1.5)), r"confidence is 1.5; expected \[0, 1\]"),
        (lambda: group_signals(BATCH, tau_anc=1, beta_r=1, confidence_from="words"), "confidence_from is 'words'; exp"),
        (lambda: group_signals(BATCH, tau_anc=1, beta_r=1), "token_entropy is None.*'tokens', the default. Pass it"),
        (lambda: group_signals(BATCH, tau_anc=1, beta_r=1, confidence_from="answers"), r"answers is None.*integers"),
        (lambda: answer_entropy(torch.rand(2, 3)), "answers has dtype torch.float32; expected integers.*setdefault"),
        (lambda: answer_entropy(torch.zeros(3, 1).long()), "group of size 1"),
        (lambda: group_signals(BATCH, tau_anc=1, beta_r=1, num_runs=2), "num_runs is 2 for 3 prompts; expected a div"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
