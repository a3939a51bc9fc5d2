"""apo_edu: alpha-divergence preference optimisation (APO, arXiv 2512.22953) in pure PyTorch functions.

Where each equation lives: the divergence and its gradient in `divergences`, anchored logits in `anchored`, advantages and
the Boltzmann target in `targets`, the objectives in `objectives`, the schedules of alpha in `schedules`, entropies and the
failure signatures in `diagnostics`. Intervals and comparisons of repeated runs are in `statistics`.
"""

from . import objectives, palette, schedules, statistics
from .anchored import anchored_log_policy, anchored_logits
from .diagnostics import LIMITS, FailureMonitor, Finding, Limits, effective_sample_size, normalized_entropy
from .divergences import alpha_divergence, alpha_divergence_grad, box_cox, forward_kl, reverse_kl, tilted_log_weights
from .objectives import GroupBatch
from .schedules import (
    EssAlpha,
    FixedAlpha,
    GuardedAlpha,
    LinearAlpha,
    Signals,
    answer_entropy,
    candidate_entropy,
    group_signals,
)
from .targets import boltzmann_log_target, group_advantages

__all__ = [
    "LIMITS",
    "EssAlpha",
    "FailureMonitor",
    "Finding",
    "FixedAlpha",
    "GroupBatch",
    "GuardedAlpha",
    "Limits",
    "LinearAlpha",
    "Signals",
    "alpha_divergence",
    "alpha_divergence_grad",
    "anchored_log_policy",
    "anchored_logits",
    "answer_entropy",
    "boltzmann_log_target",
    "box_cox",
    "candidate_entropy",
    "effective_sample_size",
    "forward_kl",
    "group_advantages",
    "group_signals",
    "normalized_entropy",
    "objectives",
    "palette",
    "reverse_kl",
    "schedules",
    "statistics",
    "tilted_log_weights",
]
