"""One divergence, many names: converts this project's alpha (Csiszar, Cressie-Read) to the other conventions in use.

    D_alpha(q || p) = (1 - S) / (alpha (1 - alpha)),   S = sum_i q_i^alpha p_i^(1-alpha)

Every other member of the family is a function of S, hence of D_alpha: nothing is computed twice.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from apo_edu import alpha_divergence


@dataclass(frozen=True)
class Conventions:
    """The same comparison of q and p in each convention; every field a tensor of the shape of the divergence.

    csiszar: D_alpha, nats.
    amari_order: a = 2 alpha - 1, for 4 / (1 - a^2) (1 - sum q^((1+a)/2) p^((1-a)/2)), which is D_alpha.
    renyi: log S / (alpha - 1), nats, defined for alpha > 0.  tsallis: (1 - S) / (1 - alpha) = alpha D_alpha.
    hellinger_like: 1 - S, which at alpha = 1/2 is the squared Hellinger distance.
    """

    csiszar: Tensor
    amari_order: Tensor
    renyi: Tensor
    tsallis: Tensor
    hellinger_like: Tensor


def conventions(log_q: Tensor, log_p: Tensor, alpha: float | Tensor) -> Conventions:
    """D_alpha(q || p) in every convention; see `Conventions`. Arguments as for `apo_edu.alpha_divergence`."""
    orders = torch.as_tensor(alpha, dtype=log_q.dtype)
    divergence = alpha_divergence(log_q, log_p, orders)
    missing = orders * (1.0 - orders) * divergence  # 1 - S
    # log S / (alpha - 1) tends to KL(q || p) = D_1 as alpha -> 1, where S -> 1.
    at_one = orders == 1.0
    safe = torch.where(at_one, torch.full_like(orders, 0.5), orders)
    renyi = torch.where(at_one, divergence, torch.log1p(-missing) / (safe - 1.0))
    return Conventions(divergence, 2.0 * orders - 1.0, renyi, orders * divergence, missing)


def generator(ratio: Tensor, alpha: float) -> Tensor:
    """The f-generator of D_alpha(q || p) = E_p f(q/p): f(w) = (w^alpha - 1 - alpha (w - 1)) / (alpha (alpha - 1)).

    At alpha = 1 it is w log w - w + 1, at alpha = 0 it is w - 1 - log w. [...] for ratios w > 0.
    """
    if alpha == 1.0:
        return ratio * ratio.log() - ratio + 1.0
    if alpha == 0.0:
        return ratio - 1.0 - ratio.log()
    return (ratio**alpha - 1.0 - alpha * (ratio - 1.0)) / (alpha * (alpha - 1.0))
