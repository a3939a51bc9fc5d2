"""The worked example on paper and by the library, and the mathematics of lessons 01 to 04 around it."""

import math
import re
from fractions import Fraction
from pathlib import Path

import nbformat
import pytest
import torch

from apo_edu import alpha_divergence, boltzmann_log_target, forward_kl, group_advantages, reverse_kl
from toys import bugs, flows, microscope, mixtures, risk, stale
from toys.anchoring import curvatures, fisher_information
from toys.baselines import gradient_moments
from toys.experiments.convergence import CERTIFICATE_P, CERTIFICATE_Q, lyapunov
from toys.experiments.table import Table
from toys.worked_example import (
    BETA_R,
    REWARDS,
    TAU_ANC,
    by_hand,
    grpo_coefficients,
    guarded,
    lines,
    objective_pushes,
    regularised_reward,
    road,
    table,
    worked_example,
)


def logs(*probabilities):
    return torch.tensor(probabilities, dtype=torch.float64).log()


# The example.


@pytest.mark.parametrize("hand", by_hand(), ids=lambda hand: f"alpha {hand.alpha:g}")
def test_what_comes_out_on_paper_is_what_the_library_says(hand):
    library = worked_example(hand.alpha)
    assert library.divergence == pytest.approx(hand.divergence, rel=1e-12)
    torch.testing.assert_close(library.coefficients, torch.tensor(hand.coefficients, dtype=torch.float64))
    assert eval(hand.formula, {"log": math.log, "sqrt": math.sqrt}) == pytest.approx(hand.divergence, rel=1e-14)
    push = torch.tensor(hand.push, dtype=torch.float64)
    assert torch.cosine_similarity(-library.coefficients, push, dim=0) == pytest.approx(1.0, abs=1e-12)


def test_target_policy_and_ratio_are_whole_numbers_over_21_3_and_7():
    example = worked_example(0.5)
    for got, want in (
        (example.advantages, (Fraction(1, 2), 0, Fraction(-1, 2))),
        (example.q, (Fraction(16, 21), Fraction(4, 21), Fraction(1, 21))),
        (example.p, (Fraction(1, 3),) * 3),
        (example.ratio, (Fraction(16, 7), Fraction(4, 7), Fraction(1, 7))),
    ):
        assert got.tolist() == pytest.approx([float(number) for number in want], abs=1e-12)
    assert example.u.tolist() == [0, 0, 0]


def test_half_way_in_the_logits_the_middle_completion_still_has_to_give_way():
    # Moved by tau_anc log 2: u = (log 2, 0, -log 2), p = (4, 2, 1)/7, ratio = (4, 2, 1)/3.
    example = worked_example(1.0, moved=(TAU_ANC * math.log(2), 0.0, -TAU_ANC * math.log(2)))
    assert example.p.tolist() == pytest.approx([4 / 7, 2 / 7, 1 / 7], abs=1e-12)
    assert example.ratio.tolist() == pytest.approx([4 / 3, 2 / 3, 1 / 3], abs=1e-12)
    assert (-example.coefficients * TAU_ANC).tolist() == pytest.approx([4 / 21, -2 / 21, -2 / 21], abs=1e-12)  # q - p


def test_grpo_pushes_as_alpha_0_does_and_not_as_alpha_1():
    at_0, at_1 = worked_example(0.0).coefficients, worked_example(1.0).coefficients
    assert torch.cosine_similarity(grpo_coefficients(), at_0, dim=0) == pytest.approx(1.0, abs=1e-12)
    assert grpo_coefficients()[1] == 0 and at_0[1].abs() < 1e-15 and at_1[1] > 0.2


def test_the_table_has_every_quantity_once():
    lines = table(worked_example(0.5)).splitlines()
    assert len(lines) == 9 and len({line[:20] for line in lines}) == 9
    assert "+0.7619   +0.1905   +0.0476" in lines[2] and "+0.4723 nats" in lines[-1]


# Where q comes from.


def test_rl_with_a_kl_penalty_is_the_reverse_kl_to_q_and_sft_the_forward_kl():
    q = boltzmann_log_target(group_advantages(REWARDS, scale="none"), BETA_R)
    uniform = torch.full((3,), -math.log(3.0), dtype=torch.float64)
    log_z = torch.logsumexp(uniform + REWARDS / BETA_R, -1)
    policies = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).log_softmax(-1)
    gap = regularised_reward(policies, beta=BETA_R) + BETA_R * reverse_kl(q, policies)
    torch.testing.assert_close(gap, (BETA_R * log_z).expand(50), rtol=0, atol=1e-12)
    assert regularised_reward(q, beta=BETA_R) == pytest.approx(float(BETA_R * log_z), abs=1e-12)
    # Cross-entropy of samples of q = KL(q || p) + the entropy of q, which p does not touch.
    cross = -(q.exp() * policies).sum(-1)
    torch.testing.assert_close(cross - forward_kl(q, policies), -(q.exp() * q).sum(-1).expand(50), rtol=0, atol=1e-12)
    # DPO's implicit reward: beta log(p / ref) of the optimum is the reward, up to one constant.
    implicit = BETA_R * (q - uniform)
    torch.testing.assert_close(implicit - implicit.mean(), REWARDS - REWARDS.mean(), rtol=0, atol=1e-12)


def test_at_rest_apo_with_a_fixed_anchor_is_rl_with_the_penalty_beta_r_over_tau_anc():
    log_ref = logs(0.5, 0.2, 0.3)
    q = worked_example(0.5).q.log()
    at_rest = (log_ref + TAU_ANC * q).log_softmax(-1)  # where the anchored policy equals q
    best = regularised_reward(at_rest, beta=BETA_R / TAU_ANC, log_ref=log_ref)
    others = at_rest + 0.1 * torch.randn(200, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert bool((regularised_reward(others.log_softmax(-1), beta=BETA_R / TAU_ANC, log_ref=log_ref) <= best).all())
    worse = regularised_reward((log_ref + 1.2 * TAU_ANC * q).log_softmax(-1), beta=BETA_R / TAU_ANC, log_ref=log_ref)
    assert worse < best - 1e-3


# Curvature.


@pytest.mark.parametrize(("alpha", "want"), [(0.0, (0.638, 2.029)), (0.5, (0.956, 1.567)), (1.0, (4 / 3, 4 / 3))])
def test_the_curvature_of_the_loss_at_the_anchor_depends_on_alpha(alpha, want):
    q = logs(0.6, 0.3, 0.1)
    q = q - q.logsumexp(-1)
    assert curvatures(q, alpha, tau_anc=0.5).tolist() == pytest.approx(want, abs=6e-4)
    torch.testing.assert_close(curvatures(q, alpha, tau_anc=0.25), 4 * curvatures(q, alpha, tau_anc=0.5))


@pytest.mark.parametrize("alpha", [0.0, 0.35, 1.0])
def test_the_curvature_where_target_and_policy_agree_is_the_fisher_information(alpha):
    q = worked_example(alpha).q.log()
    for tau_anc in (0.5, 2.0):
        for target, u in ((q, q), (torch.full_like(q, -math.log(3)), torch.zeros_like(q))):
            fisher = torch.linalg.eigvalsh(fisher_information(u.log_softmax(-1), tau_anc=tau_anc))
            assert fisher[0].abs() < 1e-12
            got = curvatures(target, alpha, tau_anc=tau_anc, u=u)
            torch.testing.assert_close(got, fisher[1:], rtol=1e-6, atol=0)


def test_fisher_information_is_the_mean_square_of_the_score():
    log_p = logs(0.5, 0.3, 0.2)
    scores = (torch.eye(3, dtype=torch.float64) - log_p.exp()) / 0.5
    want = sum(log_p.exp()[i] * torch.outer(scores[i], scores[i]) for i in range(3))
    torch.testing.assert_close(fisher_information(log_p, tau_anc=0.5), want)


# Convergence.


def test_a_kl_rises_on_the_way_down_another_one_and_v_never_does():
    q, start = (logs(*probabilities).log_softmax(-1) for probabilities in (CERTIFICATE_Q, CERTIFICATE_P))
    for alpha, rising in ((1.0, reverse_kl), (0.0, forward_kl)):
        path = flows.population_flow(q, start[None], [alpha], num_steps=60)[:, 0, 0].log()
        assert rising(q, path)[:11].diff().min() > 0
        assert alpha_divergence(q, path, alpha).diff().max() < 0 and lyapunov(q, path).diff().max() < 0
        assert lyapunov(q, path)[0] == pytest.approx(63.76, abs=0.01)


# Baselines.

EASY = torch.tensor([1.0, 1, 1, 1, 1, 0], dtype=torch.float64)


@pytest.mark.parametrize("rewards", [EASY, 1 - EASY])
def test_a_constant_baseline_costs_variance_and_no_bias(rewards):
    constants = {b: gradient_moments(rewards, group=6, baseline=b) for b in (0.0, 0.5, float(rewards.mean()))}
    assert all(moments.length == pytest.approx(1, abs=1e-12) and moments.off < 1e-12 for moments in constants.values())
    best = constants[float(rewards.mean())].variance
    # By hand: E (r - b)^2 (5/6) / 6 minus the square of the mean, and r - 1/2 is twice a sign.
    assert constants[0.5].variance == pytest.approx(0.25 * (5 / 6) / 6 - (5 / 36) / 36, rel=1e-9)
    assert best == pytest.approx(constants[0.5].variance / 2, rel=1e-9)
    own = gradient_moments(rewards, group=6, baseline="mean")
    assert own.length == pytest.approx(5 / 6) and own.off < 1e-12  # it has seen itself: shorter, not turned
    others = gradient_moments(rewards, group=6, baseline="leave_one_out")
    assert others.length == pytest.approx(1) and others.variance == pytest.approx(own.variance * (6 / 5) ** 2)


def test_a_baseline_over_other_prompts_is_another_matter_for_apo_only_in_name():
    both = torch.stack([EASY, 1 - EASY])
    within = boltzmann_log_target(group_advantages(both, scale="none"), 0.3)
    torch.testing.assert_close(boltzmann_log_target(both - both.mean(), 0.3), within, rtol=0, atol=1e-14)


def test_groups_that_cannot_be_counted_are_refused():
    with pytest.raises(ValueError, match="10 arms in groups of 6 are 1000000 groups"):
        gradient_moments(torch.zeros(10, dtype=torch.float64), group=6, baseline=0.0)


# The price of a missed mode.


@pytest.mark.parametrize("sd", [0.7, 0.5, 0.35])
def test_a_missed_mode_costs_at_most_its_mass_over_1_minus_alpha(sd):
    target, theta = mixtures.two_modes(2.0), torch.tensor([2.0, math.log(sd)], dtype=torch.float64)
    costs = {alpha: mixtures.cost_below(target, theta, alpha, 0.0) for alpha in (0.0, 0.5, 1.0)}
    assert 0.49 < costs[0.0][0] <= 0.5 + 1e-6 and 0.98 < costs[0.5][0] <= 1 + 1e-6
    # At alpha = 1: half a mass, about (4^2 + 0.6^2)/(2 sd^2) + log(sd / 0.6) - 1/2 + log(1/2) nats from p, minus a half.
    want = 0.5 * ((16 + 0.36) / (2 * sd**2) + math.log(sd / 0.6) - 0.5 + math.log(0.5)) - 0.5
    assert costs[1.0][0] == pytest.approx(want, abs=0.02)
    if sd == 0.7:
        assert costs[0.0][0] / costs[0.0][1] == pytest.approx(0.70, abs=0.005)
    on = mixtures.grid(target)
    assert costs[1.0][1] == pytest.approx(float(mixtures.divergence(theta, target, 1.0, on)), rel=1e-5)


# Where the locked fits come from.


def test_the_locked_fits_appear_in_two_folds_and_the_covering_fit_never_loses_its_hold():
    """A pitchfork would turn the covering fit into a saddle and grow its arms out of mean 0."""
    fits = mixtures.stationary_fits(mixtures.two_modes(2.0), [0.6, 0.58, 0.3, 0.0])
    assert len(fits.at(0.6)) == 1
    for alpha in (0.58, 0.3, 0.0):
        rows = fits.at(alpha)
        covering = rows.where(rows.mean[:, 0].abs() < 0.1)
        assert len(covering) == 1 and bool(covering.stable) and covering.eigenvalues[0, 0] > 0.2
    born = fits.at(0.58)
    off = born.where(born.mean[:, 0].abs() > 0.1)
    assert off.mean[:, 0].abs().min() > 1.9  # each pair, a minimum and a saddle, is born on a mode
    assert off.stable.sum() == 2 and len(off) == 4


# Numbers that lesson 03 quotes in words.


def test_lesson_03_quotes_the_tables_of_the_experiments():
    folder = Path(__file__).parents[1] / "notebooks"
    text = (folder / "03_anchored_coordinates.ipynb").read_text(encoding="utf-8")
    anchor, convergence = (Table.read(folder / "results" / f"{name}.csv") for name in ("anchor", "convergence"))

    def ratio(optimizer, updates):
        return anchor.one(part=f"{optimizer}, {updates} updates", metric="KL at tau 0.125 over KL at tau 2", alpha=0.6)

    assert f"makes a step of {ratio('sgd', 1).mean:.0f} times the KL" in text
    assert ratio("adam", 1).mean == 1 and ratio("adam", 4).high < 1  # "Adam from 4 updates on"
    assert ratio("sgd", 16).low > 1 > ratio("sgd", 64).high  # "SGD somewhere between 16 and 64"
    cases = [row.mean for row in convergence if row.metric == "cases"]
    rising = [row.mean for row in convergence if row.metric == "cases in which V rises"]
    assert f"{sum(cases):,.0f} random cases" in text and sum(rising) == 0


# The example in later lessons.

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def printed(lesson):
    """What the cells of a saved lesson print, as one text."""
    (path,) = NOTEBOOKS.glob(f"{lesson}_*.ipynb")
    cells = nbformat.read(path, as_version=4).cells
    return "\n".join(o.text for cell in cells for o in cell.get("outputs", []) if o.output_type == "stream")


def test_lines_are_columns_under_their_heads():
    said = lines(("best", "a long head"), {"x": (1 / 3, -1e-17), "longer": torch.tensor([2.0, -0.25])}).splitlines()
    assert said == [
        "           best  a long head",
        "x         0.333        0.000",
        "longer    2.000       -0.250",
    ]  # fmt: skip


def test_lesson_05_four_readings_of_the_confidence_and_the_alpha_of_the_guard():
    opened = math.tanh(0.1 / 0.1)
    logps = torch.tensor([-3.0, -9.0, -1.0], dtype=torch.float64).log_softmax(-1)
    entropies = {
        "candidates": float(-(logps.exp() * logps).sum()),
        "answers": math.log(3),  # three different ones
        "anchored": math.log(3),  # uniform
        "target": math.log(21) - (16 * math.log(16) + 4 * math.log(4)) / 21,
    }
    for source, entropy in entropies.items():
        confidence, alpha = guarded(source)
        want = 1 - entropy / math.log(3)
        assert confidence == pytest.approx(want, abs=1e-9)
        assert alpha == pytest.approx(0.9 - 0.55 * want * opened, abs=1e-9)
        assert guarded(source, gain=0.0)[1] == guarded(source, gain=-0.1)[1] == 0.9
        assert f"{source:10}  {confidence:10.3f}  {alpha:7.3f}" in printed("05")
    assert f"{opened:.2f}" == "0.76"


def test_lesson_06_the_roads_differ_and_the_end_is_the_entropy_of_q():
    alphas, steps = [0.0, 0.5, 1.0], (0, 1, 10, 600)
    entropy = road(alphas, steps)
    assert entropy[:, 0].tolist() == pytest.approx([1.0] * 3)
    after_one = torch.tensor([h.push for h in by_hand()], dtype=torch.float64)
    for row, hand, push in zip(entropy, by_hand(), after_one, strict=True):
        step = 0.2 * TAU_ANC * -torch.tensor(hand.coefficients, dtype=torch.float64)  # along dD/du = tau_anc dD/dl
        assert torch.cosine_similarity(step, push, dim=0) == pytest.approx(1)
        p = step.softmax(-1)
        assert row[1] == pytest.approx(float(-(p * p.log()).sum()) / math.log(3), abs=1e-12)
    assert (entropy[:, 2].diff() > 0).all()  # alpha = 0 is ahead after ten steps
    ends = (math.log(21) - (16 * math.log(16) + 4 * math.log(4)) / 21) / math.log(3)
    assert entropy[:, 3].tolist() == pytest.approx([ends] * 3, abs=5e-5)  # 600 steps are not all
    for alpha, row in zip(alphas, road(alphas, (1, 10, 100, 600)).tolist(), strict=True):
        numbers = [*(-worked_example(alpha).coefficients).tolist(), *row]
        assert numbers_said(numbers) in re.sub(r" +", " ", printed("06"))


def numbers_said(numbers):
    return " ".join(f"{round(number, 3) + 0.0:.3f}" for number in numbers)


def test_lesson_07_the_six_objectives_on_it():
    third, scaled, k = 1 / 3, 0.5 / 0.5001, 4 / (9 * math.sqrt(7))
    want = {
        "apo": (4 * (1 - math.sqrt(7) / 3), 5 * k, -k, -4 * k),
        "adpo": (math.log(3), 6 / 7, -2 / 7, -4 / 7),
        "grpo": (0.0, third * scaled, 0.0, -third * scaled),
        "dr_grpo": (-0.5 * third * (4 - 2) / 4, 0.5 * third, 0.0, -0.5 * third * 2 / 4),
        "dapo": (-scaled * (4 - 2) / 7, 4 / 7 * scaled, 0.0, -2 / 7 * scaled),
        "gspo": (0.0, third * scaled, 0.0, -third * scaled),
    }
    found = objective_pushes((4, 1, 2), alpha=0.5)
    assert set(want) == set(found)
    for name, numbers in want.items():
        assert found[name] == pytest.approx(numbers, abs=1e-9), name
        assert f"\n{name} " in printed("07") and numbers_said(numbers) in re.sub(r" +", " ", printed("07"))


def test_lesson_09_what_a_fault_does_to_it():
    found = bugs.worked_example_pushes(alphas=(1.0, 0.5))
    k, half = 4 / (9 * math.sqrt(7)), torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64)
    p, w = half / 7, half / 3  # half way: p = (4, 2, 1)/7, w = q/p = (4, 2, 1)/3
    z = 2 * (w.sqrt() - 1)
    stale = (p * (z - (p * z).sum()) / TAU_ANC).tolist()
    healthy = [6 / 7, -2 / 7, -4 / 7, 5 * k, -k, -4 * k]
    want = {
        "healthy": healthy,
        "q and p swapped": [2 / 3 * math.log(4), 0, -2 / 3 * math.log(4), 5 * k, -k, -4 * k],  # at 1 what 0 does
        "wrong sign": [-4 / 7, -2 / 7, 6 / 7, -4 * k, -k, 5 * k],
        "tau_anc multiplies": [number * TAU_ANC**2 for number in healthy],
        "stale anchor, second batch": [8 / 21, -4 / 21, -4 / 21, *stale],
    }
    assert list(found) == list(want)
    for name, numbers in want.items():
        assert found[name] == pytest.approx(numbers, abs=1e-12), name
        assert f"{name} {numbers_said(numbers)}" in re.sub(r" +", " ", printed("09"))


def test_lesson_10_the_middle_completion_is_the_sure_arm():
    alphas = [-1.0, -0.5, 0.0, 0.5, 1.0]
    pushes = [(2, 1, -3), (4, 1, -5), (1, 0, -1), (5, -1, -4), (3, -1, -2)]
    for (alpha, row), push in zip(risk.worked_example_attitudes(alphas).items(), pushes, strict=True):
        kappa = 2 * alpha * math.log(4)
        even_chance = math.log((math.exp(kappa) + 1) / 2) / kappa if kappa else 0.5
        assert row == pytest.approx([kappa, even_chance, *(number / max(map(abs, push)) for number in push)], abs=1e-9)
        assert (row[3] < -1e-9) == (even_chance > 0.5) and (row[3] > 1e-9) == (even_chance < 0.5)
        if kappa:  # the lesson's formula, by its ratio to the best's, (x^2 - (x^2 + x + 1)/3)/kappa
            x = math.exp(kappa / 2)
            assert row[3] / row[2] == pytest.approx(-((x - 1) ** 2) / (2 * x * x - x - 1))
        assert f"alpha = {alpha:g} {numbers_said(row)}" in re.sub(r" +", " ", printed("10"))


def test_lesson_11_clip_and_anchor_after_one_stale_update():
    k = 4 / (9 * math.sqrt(7))
    moved = [0.3 * number * k for number in (5, -1, -4)]
    ratios, found = stale.worked_example_pushes(alpha=0.5)
    assert ratios == pytest.approx([math.exp(number) for number in moved], rel=1e-12)
    p = torch.tensor(moved, dtype=torch.float64).div(TAU_ANC).softmax(-1)
    z = 2 * ((torch.tensor([16.0, 4.0, 1.0], dtype=torch.float64) / 21 / p).sqrt() - 1)
    anchored = (p * (z - (p * z).sum()) / TAU_ANC).tolist()
    corrected = [push * ratio for push, ratio in zip(anchored, ratios, strict=True)]
    third = 1 / 3 * 0.5 / 0.5001
    want = {
        "APO": anchored,
        "APO, ratio": corrected,
        "APO, clip": [0.0, *corrected[1:]],  # 1.29 is beyond 1.2; 0.95 and 0.82 are within
        "GRPO": [0.0, 0.0, -third * ratios[2]],
        "GRPO without its clip": [third * ratios[0], 0.0, -third * ratios[2]],
    }
    assert list(found) == list(want)
    for name, then in want.items():
        first = [5 * k, -k, -4 * k] if name.startswith("APO") else [third, 0.0, -third]
        assert found[name] == pytest.approx([*first, *then], abs=1e-9), name
        assert f"{name} {numbers_said([*first, *then])}" in re.sub(r" +", " ", printed("11"))
    assert f"{ratios[0]:.2f} {ratios[2]:.2f}" == "1.29 0.82"
    assert 1 / 3 < 1 - anchored[0] / (5 * k) < 0.4  # "more than a third"


def test_lesson_13_the_microscope_has_its_columns():
    group = microscope.worked_example_group()
    found = microscope.anatomy(group, alpha=0.5, beta_r=BETA_R, tau_anc=TAU_ANC)
    k = 4 / (9 * math.sqrt(7))
    assert found.q.tolist() == pytest.approx([16 / 21, 4 / 21, 1 / 21]) and found.p.tolist() == pytest.approx(
        [1 / 3] * 3
    )
    assert found.coef.tolist() == pytest.approx([-5 * k, k, 4 * k], rel=1e-12)
    pi = [math.exp(-3), math.exp(-9), math.exp(-1)]
    assert found.push[:, 0].tolist() == pytest.approx([5 * k * (1 - pi[0]), -k * (1 - pi[1]), -4 * k * (1 - pi[2])])
    assert microscope.table(group, found) in printed("13")
