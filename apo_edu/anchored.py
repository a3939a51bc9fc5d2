"""Anchored coordinates: the policy as a distribution over its own group of samples.

    u_i = (l_i - l_ref,i) / tau_anc,     p_theta = softmax(u)          (arXiv 2512.22953, anchored logits)

In these coordinates the anchor is the uniform distribution (u = 0), and the curvature of every D_alpha there, in the
log-probabilities, goes with 1 / tau_anc^2. What tau_anc does to training depends on how long a batch of samples is
optimised and by what (derived here, tests/test_claims.py):

* One update per batch: u = 0 at that update, so tau_anc divides the gradient and nothing else. With SGD lr / tau_anc is one
  knob, and a SMALLER tau_anc makes a LARGER step; with Adam, or where the gradient is clipped, it does nothing.
* Updates until the inner problem is solved: log(pi_new / pi_old) goes to tau_anc A / beta_r, up to a constant of the
  group. Only there is tau_anc the radius of a trust region, whatever alpha is, as the paper describes it.
"""

import torch
from torch import Tensor

from .validation import require_log_probs, require_positive


def anchored_logits(logps: Tensor, ref_logps: Tensor, tau_anc: float | Tensor) -> Tensor:
    """Anchored logits u_i = (l_i - l_ref,i) / tau_anc.

    Args:
        logps: [..., group] sequence log-probabilities under the policy being trained, in nats (or nats per token).
        ref_logps: [..., group] the same under the anchor; a constant, so it is detached here.
        tau_anc: anchor temperature > 0, in the unit of logps: a difference of tau_anc is a difference of 1 in u. See above
            for what it does to a step.

    Returns:
        [..., group] logits, without unit; differentiable in logps.

    Raises:
        ValueError: tau_anc <= 0, a group of 1, shapes that do not broadcast, non-finite log-probabilities.

    >>> anchored_logits(torch.tensor([-1.0, -2.0]), torch.tensor([-1.5, -2.0]), tau_anc=0.5)
    tensor([1., 0.])
    """
    require_positive("tau_anc", tau_anc, remedy="The paper uses 0.5 nats per token.")
    logps, ref_logps = require_log_probs(normalized=False, logps=logps, ref_logps=ref_logps)
    if isinstance(tau_anc, Tensor):
        tau_anc = tau_anc[..., None].to(logps.dtype)
    return (logps - ref_logps.detach()) / tau_anc


def anchored_log_policy(logps: Tensor, ref_logps: Tensor, tau_anc: float | Tensor) -> Tensor:
    """Log of the anchored policy over the group: log p_theta = log_softmax(u). Arguments as for `anchored_logits`.

    Returns:
        [..., group] log-probabilities; uniform when the policy equals its anchor (u = 0).

    >>> anchored_log_policy(torch.tensor([-1.0, -2.0]), torch.tensor([-1.0, -2.0]), tau_anc=0.5).exp()  # at the anchor
    tensor([0.5000, 0.5000])
    """
    return torch.log_softmax(anchored_logits(logps, ref_logps, tau_anc), dim=-1)
