"""How steep the divergence is around the anchor: Fisher information, and the curvature of D_alpha beside it."""

import torch
from torch import Tensor

from apo_edu import alpha_divergence, anchored_log_policy


def fisher_information(log_p: Tensor, *, tau_anc: float = 1.0) -> Tensor:
    """[n, n] Fisher information of p = softmax(l / tau_anc) in the log-probabilities l, per nat squared.

    F = E_p[ s s^T ],    s = grad_l log p = (onehot - p) / tau_anc,    so F = (diag(p) - p p^T) / tau_anc^2
    """
    p = log_p.exp()
    return (torch.diag(p) - torch.outer(p, p)) / tau_anc**2


def curvatures(log_q: Tensor, alpha: float, *, tau_anc: float, u: Tensor | None = None) -> Tensor:
    """[n - 1] eigenvalues, ascending, of the Hessian of D_alpha(q || softmax(u)) in the log-probabilities l, u = l / tau_anc.

    By automatic differentiation of the library's functions. The direction that changes all log-probabilities alike, whose
    eigenvalue is 0, is left out.

    Args:
        log_q: [n] target; the uniform distribution gives the divergence *from the anchor* at u = 0.
        u: [n] anchored logits where it is taken; None is the anchor, u = 0.
    """
    at = torch.zeros_like(log_q) if u is None else u * tau_anc
    hessian = torch.autograd.functional.hessian(
        lambda logps: alpha_divergence(log_q, anchored_log_policy(logps, torch.zeros_like(logps), tau_anc), alpha), at
    )
    shift = torch.ones_like(log_q) / len(log_q) ** 0.5
    values, vectors = torch.linalg.eigh(hessian)
    return values[(vectors.mT @ shift).abs() < 0.5]
