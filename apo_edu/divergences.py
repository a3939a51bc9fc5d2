"""Csiszar alpha-divergences between distributions over a group, exact at both KL limits.

The whole family of arXiv 2512.22953 lives here. Convention (Csiszar, Cressie-Read):

    D_alpha(q || p) = (1 - sum_i q_i^alpha p_i^(1-alpha)) / (alpha (1 - alpha))

alpha -> 1 is forward KL(q || p), which covers modes; alpha -> 0 is reverse KL(p || q), which seeks them.
"""

import math

import torch
from torch import Tensor

from .validation import require_log_probs, require_orders


def alpha_divergence(log_q: Tensor, log_p: Tensor, alpha: float | Tensor) -> Tensor:
    """Csiszar alpha-divergence D_alpha(q || p) over the last dimension, in nats.

        D_alpha(q || p) = (1 - sum_i q_i^alpha p_i^(1-alpha)) / (alpha (1 - alpha))

    alpha = 1 is KL(q || p), alpha = 0 is KL(p || q); both limits are exact, with no epsilon.
    Source: arXiv 2512.22953, the definition of D_alpha.

    Args:
        log_q: [..., n] finite log-probabilities of the target, normalised over the last dimension, n >= 2.
        log_p: [..., n] the same for the policy; broadcasts against log_q.
        alpha: any finite order, a number or a tensor that broadcasts to the batch dimensions, so that
            `alpha_divergence(log_q, log_p, alphas[:, None])` is a sweep in one call. The paper stays in [0, 1].

    Returns:
        [...] divergences, >= 0 up to rounding and 0 when q = p; differentiable in log_q and log_p (each log-probability
        taken as free, so use it behind a log_softmax). Outside [0, 1] a value beyond the largest number of the dtype
        saturates there instead of becoming infinite.

    Raises:
        ValueError: on a group of 1, shapes that do not broadcast, non-finite or unnormalised log-probabilities, or a
            non-finite alpha.

    >>> q, p = torch.tensor([0.5, 0.5]), torch.tensor([0.2, 0.8])
    >>> alpha_divergence(q.log(), p.log(), torch.tensor([0.0, 0.5, 1.0]))  # a sweep
    tensor([0.1927, 0.2053, 0.2231])
    """
    log_q, log_p = require_log_probs(log_q=log_q, log_p=log_p)
    log_ratio = log_q - log_p
    orders = require_orders(alpha, log_ratio)[..., None]

    # D_alpha(q || p) = D_{1-alpha}(p || q). Seen from the side whose order a is at most 1/2, the divisor 1 - a cannot
    # vanish and a -> 0 is a removable limit, so neither end needs an epsilon.
    from_p = orders <= 0.5
    a = torch.where(from_p, orders, 1.0 - orders)
    log_base = torch.where(from_p, log_p, log_q)
    log_ratio = torch.where(from_p, log_ratio, -log_ratio)
    a = a.to(log_ratio.dtype)
    # Adding sum(q) - sum(p) = 0 makes every summand >= 0. The docstring's "1 - sum" cancels when q is near p.
    linear = _weighted_expm1(log_base, log_ratio)
    return (linear - _weighted_box_cox(log_base, log_ratio, a)).sum(-1) / (1.0 - a).squeeze(-1)


def forward_kl(log_q: Tensor, log_p: Tensor) -> Tensor:
    """KL(q || p) = sum_i q_i log(q_i / p_i), in nats: D_alpha at alpha = 1, mode covering. See `alpha_divergence`.

    >>> forward_kl(torch.tensor([0.5, 0.5]).log(), torch.tensor([0.2, 0.8]).log())
    tensor(0.2231)
    """
    return alpha_divergence(log_q, log_p, 1.0)


def reverse_kl(log_q: Tensor, log_p: Tensor) -> Tensor:
    """KL(p || q) = sum_i p_i log(p_i / q_i), in nats: D_alpha at alpha = 0, mode seeking. See `alpha_divergence`.

    >>> reverse_kl(torch.tensor([0.5, 0.5]).log(), torch.tensor([0.2, 0.8]).log())
    tensor(0.1927)
    """
    return alpha_divergence(log_q, log_p, 0.0)


def alpha_divergence_grad(log_q: Tensor, log_p: Tensor, alpha: float | Tensor) -> Tensor:
    """Gradient of D_alpha(q || p) with respect to the logits u of p = softmax(u), in closed form.

        dD/du_j = -(q_j^alpha p_j^(1-alpha) - p_j sum_k q_k^alpha p_k^(1-alpha)) / alpha
                = -p_j (z_j - E_p z),   z = (r^alpha - 1) / alpha,   r = q / p

    z is the Box-Cox transform of the ratio: log r at alpha = 0 and r - 1 at alpha = 1. The centred form has no 1/alpha
    blow-up. Source: arXiv 2512.22953, the unified gradient, with the softmax Jacobian written out.

    Where q is fixed and can be reached, following minus this gradient converges under every schedule of alpha (ours): with
    u* = log q, both centred, `V = |u - u*|^2 / 2` falls along it at every alpha, since dV/dt = -Cov_p(log r, z) <= 0, both
    being increasing in r. V is what falls: D_alpha itself need not, once alpha moves, since the gradients of two orders
    can point apart (tests/test_claims.py has a case, cosine -0.49).

    Args, Raises: as for `alpha_divergence`.

    Returns:
        [..., n] the gradient; it sums to 0 over the last dimension. Accurate to rounding of its largest term, which for
        negative orders can be far larger than the gradient where some p_j is within rounding of 1.

    >>> alpha_divergence_grad(torch.tensor([0.5, 0.5]).log(), torch.tensor([0.2, 0.8]).log(), 1.0)  # p - q
    tensor([-0.3000,  0.3000])
    """
    log_q, log_p = require_log_probs(log_q=log_q, log_p=log_p)
    log_ratio = log_q - log_p
    a = require_orders(alpha, log_ratio)[..., None].to(log_ratio.dtype)
    weighted = _weighted_box_cox(log_p, log_ratio, a)
    return log_p.exp() * weighted.sum(-1, keepdim=True) - weighted


def box_cox(log_ratio: Tensor, alpha: float | Tensor) -> Tensor:
    """The weight of a sample in the gradient: z = (r^alpha - 1) / alpha, with limit log r at alpha = 0.

    grad D_alpha = -E_p[z grad log p]: this one curve is what alpha changes (notebook 01). alpha > 0 is a built-in clip from
    below, z >= -1 / alpha; and over a group of P at the anchor r <= P, so z <= (P^alpha - 1) / alpha. At alpha = 0, log r
    has no lower bound.

    Args:
        log_ratio: [..., n] log(q / p), finite.
        alpha: a number or a tensor that broadcasts to the batch dimensions.

    Returns:
        [..., n] weights; they saturate instead of overflowing.

    >>> box_cox(torch.tensor([-1.0, 0.0, 1.0]), 0.5)
    tensor([-0.7869,  0.0000,  1.2974])
    """
    a = require_orders(alpha, log_ratio)[..., None].to(log_ratio.dtype)
    return _weighted_box_cox(torch.zeros_like(log_ratio), log_ratio, a)


def tilted_log_weights(log_q: Tensor, log_p: Tensor, alpha: float | Tensor) -> Tensor:
    """log(q^alpha p^(1-alpha)), the unnormalised geometric path from p (alpha = 0) to q (alpha = 1), [..., n].

    >>> tilted_log_weights(torch.tensor([0.5, 0.5]).log(), torch.tensor([0.2, 0.8]).log(), 0.5).exp()
    tensor([0.3162, 0.6325])
    """
    log_q, log_p = require_log_probs(log_q=log_q, log_p=log_p)
    a = require_orders(alpha, log_q - log_p)[..., None].to(log_p.dtype)
    return a * log_q + (1.0 - a) * log_p


def _weighted_box_cox(log_w: Tensor, log_ratio: Tensor, a: Tensor) -> Tensor:
    """exp(log_w) * (exp(a log_ratio) - 1) / a, with its limit exp(log_w) * log_ratio as a -> 0."""
    # Below 1e-30 the product a * log_ratio can underflow, and the term dropped is far below rounding.
    tiny = a.abs() < 1e-30
    safe = torch.where(tiny, torch.ones_like(a), a)
    return torch.where(tiny, log_w.exp() * log_ratio, _weighted_expm1(log_w, safe * log_ratio) / safe)


def _weighted_expm1(log_w: Tensor, x: Tensor) -> Tensor:
    """exp(log_w) * expm1(x), of which neither the value nor the gradient overflows for large `|x|`."""
    # Not -x.abs(): its subgradient at x = 0 is 0, where the true slope is 1.
    positive = x > 0
    exponent = torch.where(positive, log_w + x, log_w)
    # Saturate below the largest number, leaving room for the sum over the group and the divisor a (1 - a). The excess
    # is detached: a saturated summand keeps a (saturated) slope, since a slope of 0 would read as "converged".
    cap = math.log(torch.finfo(x.dtype).max) - math.log(max(x.shape[-1], 1)) - 8.0
    exponent = exponent - (exponent - cap).clamp(min=0.0).detach()
    return torch.where(positive, -1.0, 1.0) * exponent.exp() * torch.expm1(torch.where(positive, -x, x))
