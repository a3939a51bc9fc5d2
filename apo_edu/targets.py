"""From rewards to the target: group-relative advantages A and the Boltzmann target q = softmax(A / beta_r)."""

import torch
from torch import Tensor

from .validation import require_choice, require_finite, require_group, require_positive

# Added to the standard deviation so that a flat group is not divided by 0; the value TRL uses.
SCALE_EPSILON = 1e-4


def group_advantages(
    rewards: Tensor, baseline: str = "mean", scale: str = "group", *, valid: Tensor | None = None
) -> Tensor:
    """Advantage of each completion relative to its own group.

        A_i = (r_i - baseline) / (std + 1e-4)

    The group's mean is near the prompt's own success rate, so it takes the prompt's difficulty out of the gradient's variance.
    Any constant baseline leaves the mean gradient alone, and softmax(A / beta_r) does not notice one.

    Args:
        rewards: [..., group] finite rewards.
        baseline: "mean" of the group; "leave_one_out", the mean of the others (unbiased; equals the mean baseline
            stretched by n / (n - 1)); or "none".
        scale: divide by the unbiased standard deviation of the "group", of the whole "batch", or by "none". GRPO uses
            "group"; APO (arXiv 2512.22953) and Dr.GRPO use "none".
        valid: [..., group] booleans; False leaves a completion (a truncated one, say) out of baseline and scale and
            gives it advantage 0. None keeps all.

    Returns:
        [..., group] advantages, constants (detached). A group with equal rewards gets exactly 0 wherever there is a
        baseline, never rounding noise.

    Raises:
        ValueError: a group of 1, a non-finite reward (with its index), an unknown baseline or scale.

    >>> group_advantages(torch.tensor([[1.0, 0.0, 0.0, 1.0]]), scale="none")
    tensor([[ 0.5000, -0.5000, -0.5000,  0.5000]])
    """
    require_choice("baseline", baseline, ("mean", "leave_one_out", "none"))
    require_choice("scale", scale, ("group", "batch", "none"))
    rewards = torch.as_tensor(rewards).detach()
    rewards = rewards.float() if rewards.dtype not in (torch.float32, torch.float64) else rewards
    require_group("rewards", rewards)
    require_finite("rewards", rewards, kind="rewards")

    keep = torch.ones_like(rewards) if valid is None else valid.to(rewards.dtype)
    count = keep.sum(-1, keepdim=True)
    mean = (keep * rewards).sum(-1, keepdim=True) / count.clamp(min=1)
    if baseline == "none":
        centred = rewards
    else:
        low = rewards.masked_fill(keep == 0, torch.inf).amin(-1, keepdim=True)
        high = rewards.masked_fill(keep == 0, -torch.inf).amax(-1, keepdim=True)
        # The mean of equal rewards can differ from them by rounding; scaled up, that noise would become a signal.
        centred = torch.where(low == high, 0.0, rewards - mean)
        if baseline == "leave_one_out":
            centred = centred * count / (count - 1).clamp(min=1)

    if scale == "group":
        variance = (keep * (rewards - mean) ** 2).sum(-1, keepdim=True) / (count - 1).clamp(min=1)
        centred = centred / (variance.sqrt() + SCALE_EPSILON)
    elif scale == "batch":
        kept = rewards[keep > 0]
        centred = centred / ((kept.std() if kept.numel() > 1 else 0.0) + SCALE_EPSILON)
    return centred * keep


def boltzmann_log_target(advantages: Tensor, beta_r: float | Tensor) -> Tensor:
    """Log of the Boltzmann target over the group: log q = log_softmax(A / beta_r).  (arXiv 2512.22953)

    Args:
        advantages: [..., group] finite advantages, in the unit of the reward; detached, since the target is a constant.
        beta_r: reward temperature > 0, in the same unit: small puts all mass on the best completion, large makes the target
            uniform. On policy with one update per batch only alpha / beta_r turns a group's gradient, see `apo`. A number
            or a tensor over the batch dimensions.

    Returns:
        [..., group] log-probabilities.

    Raises:
        ValueError: beta_r <= 0, a group of 1, non-finite advantages (with the index).

    >>> boltzmann_log_target(torch.tensor([0.5, -0.5]), beta_r=0.5).exp()
    tensor([0.8808, 0.1192])
    """
    require_positive("beta_r", beta_r, remedy="The paper uses 0.3; larger makes the target more even.")
    require_group("advantages", advantages)
    require_finite("advantages", advantages, kind="advantages")
    if isinstance(beta_r, Tensor):
        beta_r = beta_r[..., None]
    return torch.log_softmax(advantages.detach() / beta_r, dim=-1)
