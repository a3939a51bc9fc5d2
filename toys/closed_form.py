"""The coefficients of APO and GRPO in closed form, for completions of one token: a fifth of the time of autograd.

They equal `objectives.coefficients` to 1e-12 (tests/test_bandits.py), so a sweep may take them; a lesson takes the
objectives themselves. Every function: (logps, old_logps, ref_logps, rewards) of shape [prompts, group] -> dL/dlogps, for a
loss that is the mean over prompts.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from apo_edu import objectives


def apo(
    logps: Tensor,
    old_logps: Tensor,
    ref_logps: Tensor,
    rewards: Tensor,
    *,
    alpha: Tensor,
    tau_anc: Any,
    beta_r: Any,
    scale: str = "none",
) -> Tensor:
    """dL/dl_j = -(q_j^a p_j^(1-a) - p_j sum_k q_k^a p_k^(1-a)) / (a tau), in powers that are exact as a -> 0.

    With z = (r^a - 1)/a, r = q/p, it is -p_j (z_j - E_p z) / tau. Advantages are not scaled: `scale` must be "none".
    """
    if scale != "none":
        raise ValueError(f"scale is {scale!r}; expected 'none'. Take the objective itself (closed_form=False).")
    log_q = torch.log_softmax(rewards / _column(beta_r), dim=-1)
    log_p = torch.log_softmax((logps - ref_logps) / _column(tau_anc), dim=-1)
    order = _column(alpha)
    log_ratio = log_q - log_p
    powers = torch.where(order == 0, log_ratio, torch.expm1(order * log_ratio) / torch.where(order == 0, 1.0, order))
    p = log_p.exp()
    return -p * (powers - (p * powers).sum(-1, keepdim=True)) / _column(tau_anc) / len(logps)


def grpo(
    logps: Tensor, old_logps: Tensor, ref_logps: Tensor, rewards: Tensor, *, alpha: Any = None, epsilon: float = 0.2
) -> Tensor:
    """dL/dl_j = -A_j rho_j / P, and 0 where the clip holds; A = (r - mean) / (std + 1e-4)."""
    advantages = (rewards - rewards.mean(-1, keepdim=True)) / (rewards.std(-1, keepdim=True) + 1e-4)
    ratio = (logps - old_logps).exp()
    held = ((ratio > 1 + epsilon) & (advantages > 0)) | ((ratio < 1 - epsilon) & (advantages < 0))
    return torch.where(held, 0.0, -advantages * ratio) / logps.numel()


FORMS: dict[Callable[..., Any], Callable[..., Tensor]] = {objectives.apo: apo, objectives.grpo: grpo}


def _column(value: Any) -> Any:
    """A number stays one; one value a prompt [prompts] becomes [prompts, 1]."""
    return value[:, None] if isinstance(value, Tensor) and value.dim() else value
