"""What a baseline does to the policy gradient of one prompt, exactly: its mean and its variance over all groups."""

from dataclasses import dataclass

import torch
from torch import Tensor

from apo_edu import group_advantages


@dataclass(frozen=True)
class GradientMoments:
    """Of g = (1/P) sum_i A_i grad log pi(a_i), in the logits of a uniform policy, over all equally likely groups.

    length: of the mean gradient along the true gradient of the expected reward, as a share of it; 1 is unbiased.
    off: length of what the mean gradient has across the true one, the same share; 0 where only the length is off.
    variance: trace of the covariance of one group's gradient.
    """

    length: float
    off: float
    variance: float


def gradient_moments(rewards: Tensor, *, group: int, baseline: str | float) -> GradientMoments:
    """Every group of `group` arms is counted once, so nothing is sampled: the policy is uniform over the arms.

    Args:
        rewards: [arms], what each arm pays.
        baseline: a number that is subtracted from every reward, whatever was drawn; or "mean" or "leave_one_out" of
            `apo_edu.group_advantages`.
    """
    arms = len(rewards)
    if arms**group > 100_000:
        raise ValueError(
            f"{arms} arms in groups of {group} are {arms**group} groups; expected at most 100000. Take smaller groups."
        )
    drawn = torch.cartesian_prod(*[torch.arange(arms)] * group).view(-1, group)
    earned = rewards[drawn]
    advantages = (
        group_advantages(earned, baseline=baseline, scale="none") if isinstance(baseline, str) else earned - baseline
    )
    scores = torch.eye(arms, dtype=rewards.dtype) - 1 / arms  # grad log pi(a) in the logits of a uniform policy
    gradients = (advantages[..., None] * scores[drawn]).mean(1)
    true = (rewards - rewards.mean()) / arms
    mean = gradients.mean(0)
    along = float(mean @ true / (true @ true))
    return GradientMoments(
        length=along,
        off=float((mean - along * true).norm() / true.norm()),
        variance=float((gradients - mean).square().sum(-1).mean()),
    )
