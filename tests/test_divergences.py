"""D_alpha against 60 digits, by hand, and by its properties; the gradient against autograd and differences."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from apo_edu import alpha_divergence, alpha_divergence_grad, box_cox, forward_kl, reverse_kl, tilted_log_weights

HERE = Path(__file__).parent
GOLDEN = [HERE / "golden" / "alpha_divergence.json", HERE.parents[1] / "shared" / "golden" / "alpha_divergence.json"]
CASES = [case for path in GOLDEN if path.exists() for case in json.loads(path.read_text())["cases"]]

logits = st.lists(st.floats(-5.0, 5.0), min_size=4, max_size=4)  # one group of four
orders = st.floats(-1.0, 2.0)


def log_probs(u, dtype=torch.float64):
    return torch.tensor([u], dtype=torch.float64).log_softmax(-1).to(dtype)


def autograd(log_q, log_p, alpha):
    u = log_p.clone().requires_grad_()
    alpha_divergence(log_q, u.log_softmax(-1), alpha).sum().backward()
    return u.grad


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_golden_values_and_gradients_in_float64(case):
    log_q, log_p = (torch.tensor(case[name], dtype=torch.float64) for name in ("log_q", "log_p"))
    for row in case["rows"]:
        alpha, value = row["alpha"], torch.tensor(float(row["value"]), dtype=torch.float64)
        grad = torch.tensor([float(g) for g in row["grad"]], dtype=torch.float64)
        # The inputs are rounded to float64, which moves a value by 1e-16 of the distance between them: hence the atol.
        options = {"rtol": 1e-9, "atol": 1e-14, "msg": lambda m, alpha=alpha: f"alpha = {alpha}: {m}"}
        torch.testing.assert_close(alpha_divergence(log_q, log_p, alpha), value, **options)
        torch.testing.assert_close(alpha_divergence_grad(log_q, log_p, alpha), grad, **options)
        torch.testing.assert_close(autograd(log_q, log_p, alpha), grad, **options)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_golden_values_and_gradients_in_float32(case):
    log_q, log_p = (torch.tensor(case[name], dtype=torch.float64) for name in ("log_q", "log_p"))
    largest = torch.finfo(torch.float32).max
    for row in case["rows"]:
        alpha, value = row["alpha"], float(row["value"])
        grad = torch.tensor([float(g) for g in row["grad"]], dtype=torch.float64)
        got = alpha_divergence(log_q.float(), log_p.float(), alpha)
        closed = alpha_divergence_grad(log_q.float(), log_p.float(), alpha)
        by_autograd = autograd(log_q.float(), log_p.float(), alpha)
        for result in (got, closed, by_autograd):
            assert bool(torch.isfinite(result).all()), (alpha, result)
        if abs(value) > 1e-3 * largest or grad.abs().max() > 1e-3 * largest:
            continue  # beyond float32: it saturates, finite (asserted above)
        # Rounding a log-probability l to float32 changes it by up to 6e-8 |l|, which no later arithmetic can undo; a
        # value or gradient moves by that times its slope in l, at most its own size times the order, or 1 for the base.
        blur = 6e-8 * max(log_q.abs().max().item(), log_p.abs().max().item())
        room = 3e-7 + 4 * blur * (1 + abs(alpha)) * max(1.0, abs(value))
        slack = room if value > 1e-3 else blur + 1e-7  # nearly identical distributions: only rounding is left of them
        assert got.item() == pytest.approx(value, rel=1e-4, abs=slack)
        top = max(1.0, grad.abs().max().item())
        torch.testing.assert_close(closed.double(), grad, rtol=1e-4, atol=2 * room * top)
        torch.testing.assert_close(by_autograd.double(), grad, rtol=1e-4, atol=2 * room * top)


def test_square_root_case_by_hand():
    # alpha = 1/2, q = (1/2, 1/2), p = (1/5, 4/5): sqrt(1/10) + sqrt(4/10) = 3 / sqrt(10), times 4.
    value = alpha_divergence(log_probs([0.0, 0.0]), log_probs([0.0, math.log(4.0)]), 0.5)
    assert value.item() == pytest.approx(4.0 * (1.0 - 3.0 / math.sqrt(10.0)), rel=1e-13)


def test_the_ends_are_the_two_kls_by_hand():
    # q = (3/4, 1/4), p = (1/2, 1/2).
    log_q, log_p = log_probs([math.log(3.0), 0.0]), log_probs([0.0, 0.0])
    forward = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    reverse = 0.5 * math.log(2 / 3) + 0.5 * math.log(2.0)
    assert forward_kl(log_q, log_p).item() == pytest.approx(forward, rel=1e-14)
    assert reverse_kl(log_q, log_p).item() == pytest.approx(reverse, rel=1e-14)
    assert alpha_divergence(log_q, log_p, 1.0).item() == pytest.approx(forward, rel=1e-14)
    assert alpha_divergence(log_q, log_p, 0.0).item() == pytest.approx(reverse, rel=1e-14)


def test_negative_and_large_orders_by_hand():
    # alpha = 2: (sum q^2/p - 1) / 2; alpha = -1: (sum p^2/q - 1) / 2. q = (3/4, 1/4), p = (1/2, 1/2).
    log_q, log_p = log_probs([math.log(3.0), 0.0]), log_probs([0.0, 0.0])
    assert alpha_divergence(log_q, log_p, 2.0).item() == pytest.approx((1.25 - 1) / 2, rel=1e-13)
    assert alpha_divergence(log_q, log_p, -1.0).item() == pytest.approx((1 / 3 + 1 - 1) / 2, rel=1e-13)


@given(logits, logits, orders)
@example([0.0] * 4, [0.0, 0.0, 0.0, 1.0], 5e-324)  # found by hypothesis: alpha times the log-ratio underflowed
@example([0.0] * 4, [0.0, 0.0, 0.0, 1e-9], 0.5)
def test_non_negative_and_symmetric_under_a_swap(u, v, alpha):
    value = alpha_divergence(log_probs(u), log_probs(v), alpha)
    assert value.item() >= -1e-13
    swapped = alpha_divergence(log_probs(v), log_probs(u), 1.0 - alpha)
    torch.testing.assert_close(value, swapped, rtol=1e-9, atol=1e-13)


@given(logits, logits, orders)
def test_gradient_is_that_of_the_value(u, v, alpha):
    log_q, log_p = log_probs(u), log_probs(v)
    closed = alpha_divergence_grad(log_q, log_p, alpha)
    scale = closed.abs().max().item() + 1e-12
    assert abs(closed.sum().item()) <= 1e-12 * scale + 1e-15  # softmax does not change when all logits move together
    torch.testing.assert_close(autograd(log_q, log_p, alpha), closed, rtol=1e-8, atol=1e-11 * scale + 1e-15)
    step = 1e-5
    for j in range(4):
        moved = torch.zeros(4, dtype=torch.float64)
        moved[j] = step
        up = alpha_divergence(log_q, (log_p + moved).log_softmax(-1), alpha)
        down = alpha_divergence(log_q, (log_p - moved).log_softmax(-1), alpha)
        curvature = max(1.0, alpha_divergence(log_q, log_p, alpha).item())
        assert ((up - down) / (2 * step)).item() == pytest.approx(closed[0, j].item(), rel=1e-4, abs=1e-7 * curvature)


@given(logits, logits, st.sampled_from([1e-13, 1e-9, 1e-6]))
def test_both_limits_are_continuous(u, v, distance):
    log_q, log_p = log_probs(u), log_probs(v)
    for end in (0.0, 1.0):
        at = alpha_divergence(log_q, log_p, end).item()
        for near in (end - distance, end + distance):
            value = alpha_divergence(log_q, log_p, near).item()
            assert value == pytest.approx(at, rel=200 * distance + 1e-9, abs=1e-12)


def test_a_sweep_is_one_call():
    torch.manual_seed(0)
    log_q, log_p = (torch.randn(64, 8, dtype=torch.float64).log_softmax(-1) for _ in range(2))
    alphas = torch.linspace(0.0, 1.0, 101, dtype=torch.float64)
    together = alpha_divergence(log_q, log_p, alphas[:, None])
    grads = alpha_divergence_grad(log_q, log_p, alphas[:, None])
    assert together.shape == (101, 64)
    for i, alpha in enumerate(alphas.tolist()):
        torch.testing.assert_close(together[i], alpha_divergence(log_q, log_p, alpha), rtol=1e-13, atol=1e-16)
        torch.testing.assert_close(grads[i], alpha_divergence_grad(log_q, log_p, alpha), rtol=1e-13, atol=1e-16)


def test_float32_alphas_keep_their_float64_meaning():
    # 1.001 as float32 is 1.00100004673: a divergence of two far distributions would differ in the seventh digit.
    log_q, log_p = log_probs([0.0, -30.0]), log_probs([-30.0, 0.0])
    exact = alpha_divergence(log_q, log_p, torch.tensor(1.001, dtype=torch.float64))
    assert torch.equal(alpha_divergence(log_q, log_p, 1.001), exact)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_promoted_not_rounded_further(dtype):
    log_q, log_p = log_probs([1.0, 0.0, -1.0], dtype), log_probs([0.0, 0.5, 0.0], dtype)
    value = alpha_divergence(log_q, log_p, 0.5)
    exact = alpha_divergence(log_probs([1.0, 0.0, -1.0]), log_probs([0.0, 0.5, 0.0]), 0.5)
    assert value.item() == pytest.approx(exact.item(), abs=0.02)  # what rounding the inputs does
    assert value.dtype == torch.float32
    (grad,) = torch.autograd.grad(alpha_divergence(log_q, log_p.requires_grad_(), 0.5).sum(), log_p)
    assert grad.dtype == dtype


def test_second_derivative_and_far_gradients_are_finite():
    log_q = log_probs([0.0, -700.0])
    u = torch.tensor([[-700.0, 0.0]], dtype=torch.float64, requires_grad=True)
    for alpha in (0.0, 0.3, 0.9, 1.0):
        (grad,) = torch.autograd.grad(alpha_divergence(log_q, u.log_softmax(-1), alpha).sum(), u, create_graph=True)
        (second,) = torch.autograd.grad(grad[0, 0], u)
        assert bool(torch.isfinite(grad).all())
        assert bool(torch.isfinite(second).all())


def test_box_cox_by_hand():
    x = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64)
    torch.testing.assert_close(box_cox(x, 0.0), x)  # log r
    torch.testing.assert_close(box_cox(x, 1.0), x.exp() - 1)  # r - 1
    torch.testing.assert_close(box_cox(x, 0.5), ((0.5 * x).exp() - 1) / 0.5)


def test_tilted_weights_run_from_p_to_q():
    log_q, log_p = log_probs([1.0, 0.0, 0.0]), log_probs([0.0, 0.0, 3.0])
    torch.testing.assert_close(tilted_log_weights(log_q, log_p, 0.0), log_p)
    torch.testing.assert_close(tilted_log_weights(log_q, log_p, 1.0), log_q)
    torch.testing.assert_close(tilted_log_weights(log_q, log_p, 0.25), 0.25 * log_q + 0.75 * log_p)


GOOD = log_probs([0.0, 1.0, 2.0])


@pytest.mark.parametrize("function", [alpha_divergence, alpha_divergence_grad])
@pytest.mark.parametrize(
    ("log_q", "log_p", "alpha", "message"),
    [
        (GOOD, GOOD, math.nan, r"alpha is nan; expected a finite order. Use 0.0 or 1.0"),
        (GOOD, GOOD, math.inf, "alpha is inf"),
        (GOOD.expand(2, 3), GOOD, torch.zeros(3), r"alpha has shape \(3,\).*dimensions \(2,\).*alphas\[:, None\]"),
        (GOOD[:, :2].log_softmax(-1), GOOD, 0.5, r"log_q has shape \(1, 2\), log_p has shape \(1, 3\).*broadcast"),
        (GOOD + 1.0, GOOD, 0.5, r"log_q sums to 2.718.* at index \[0\].*log_softmax"),
        (GOOD, GOOD * float("nan"), 0.5, r"log_p holds nan at index \[0, 0\] \(3 non-finite of 3\)"),
        (
            torch.tensor([[0.0, -math.inf]]),
            torch.zeros(1, 2).log_softmax(-1),
            0.5,
            r"log_q holds -inf at index \[0, 1\]",
        ),
        (torch.zeros(4, 1), torch.zeros(4, 1), 0.5, r"log_q has shape \(4, 1\).*group of size 1"),
        (torch.zeros(2, 2, dtype=torch.long), GOOD, 0.5, r"log_q has dtype torch.int64.*\.float\(\)"),
        ([0.5, 0.5], GOOD, 0.5, r"log_q is a list; expected a torch.Tensor"),
    ],
)
def test_bad_input(function, log_q, log_p, alpha, message):
    with pytest.raises(ValueError, match=message):
        function(log_q, log_p, alpha)
