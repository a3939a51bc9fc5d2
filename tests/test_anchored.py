"""Anchored coordinates: by hand, uniform at the anchor, curvature 1/tau^2, and no gradient into the anchor."""

import pytest
import torch

from apo_edu import alpha_divergence, anchored_log_policy, anchored_logits

LOGPS = torch.tensor([[-1.0, -2.0, -4.0]], dtype=torch.float64)
REF = torch.tensor([[-1.5, -2.0, -3.0]], dtype=torch.float64)


def test_by_hand():
    # (-1 + 1.5) / 0.5 = 1, 0, (-4 + 3) / 0.5 = -2.
    torch.testing.assert_close(anchored_logits(LOGPS, REF, 0.5), torch.tensor([[1.0, 0.0, -2.0]], dtype=torch.float64))
    total = torch.tensor([1.0, 0.0, -2.0], dtype=torch.float64).exp().sum().log()
    want = torch.tensor([[1.0, 0.0, -2.0]], dtype=torch.float64) - total
    torch.testing.assert_close(anchored_log_policy(LOGPS, REF, 0.5), want)


def test_at_the_anchor_the_policy_is_uniform():
    probs = anchored_log_policy(LOGPS, LOGPS, 0.5).exp()
    torch.testing.assert_close(probs, torch.full_like(probs, 1 / 3))


def test_the_anchor_is_a_constant():
    logps, ref = LOGPS.clone().requires_grad_(), REF.clone().requires_grad_()
    anchored_log_policy(logps, ref, 0.5)[0, 0].backward()
    assert logps.grad.abs().sum() > 0
    assert ref.grad is None


@pytest.mark.parametrize("alpha", [0.0, 0.35, 0.9, 1.0])
def test_the_curvature_at_the_anchor_goes_with_one_over_tau_squared_for_every_alpha(alpha):
    # The Hessian of any D_alpha(uniform || softmax(l / tau)) at l = l_ref is the Fisher matrix (I/n - 11'/n^2) / tau^2.
    uniform = torch.full((3,), 1 / 3, dtype=torch.float64).log()
    for tau in (0.25, 0.5, 1.0):
        hessian = torch.autograd.functional.hessian(
            lambda logps, tau=tau: alpha_divergence(uniform, anchored_log_policy(logps, REF[0], tau), alpha), REF[0]
        )
        fisher = (torch.eye(3, dtype=torch.float64) / 3 - torch.full((3, 3), 1 / 9, dtype=torch.float64)) / tau**2
        torch.testing.assert_close(hessian, fisher, rtol=1e-9, atol=1e-12)


def test_tau_may_differ_by_prompt():
    both = anchored_logits(LOGPS.expand(2, 3), REF, torch.tensor([0.5, 2.0], dtype=torch.float64))
    torch.testing.assert_close(both[1], anchored_logits(LOGPS, REF, 2.0)[0])


@pytest.mark.parametrize(
    ("logps", "ref", "tau", "message"),
    [
        (LOGPS, REF, 0.0, r"tau_anc is 0.0; expected a finite number > 0. The paper uses 0.5"),
        (LOGPS, REF, -1.0, "tau_anc is -1.0"),
        (LOGPS, REF, float("nan"), "tau_anc is nan"),
        (LOGPS, REF[:, :2], 0.5, r"logps has shape \(1, 3\), ref_logps has shape \(1, 2\).*broadcast"),
        (LOGPS.log(), REF, 0.5, r"logps holds nan at index \[0, 0\]"),
        (LOGPS[:, :1], REF[:, :1], 0.5, "a group of size 1"),
    ],
)
def test_bad_input(logps, ref, tau, message):
    with pytest.raises(ValueError, match=message):
        anchored_logits(logps, ref, tau)
