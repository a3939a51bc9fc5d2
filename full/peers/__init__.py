"""APO inside the engines people already run: its gradient as the advantage of their policy loss.

An engine that trains with a token loss wants one number per completion, its advantage A_i. On policy, at the first update,
u = 0 and the anchored policy p_theta is uniform over the group; there the gradient of APO is that of REINFORCE with a
reshaped advantage (`group_reshaped_advantages`). So the engine keeps its sampling, its memory tricks and its loss, and
only its advantages are replaced:

* `full.peers.trl_apo`: `APOTrainer`, a GRPOTrainer of TRL 1.16.
* `full.peers.verl_apo`: the advantage estimator "apo" of verl.

Where it is exact: the first optimiser step on a batch of samples. With one step per batch, that is every step.
What differs from the second step on: the group is not compared again. The advantage stays what it was, a PPO ratio and its
clip take the place of the anchored softmax, and tau_anc only scales the step: the anchor no longer bounds it.
`full/train.py` has no such limit. This module imports no engine.
"""

import torch
from torch import Tensor

from apo_edu import GroupBatch, alpha_divergence_grad
from apo_edu.objectives import group_distributions


def group_reshaped_advantages(
    rewards: Tensor,
    *,
    alpha: float | Tensor,
    tau_anc: float,
    beta_r: float,
    scale: str = "none",
    valid: Tensor | None = None,
) -> Tensor:
    """The advantages that give a policy loss the gradient of APO, wherever p_theta is uniform.

        A_j = -(n / tau_anc) dD_alpha(q || p)/du_j  at  u = 0
            = ((n q_j)^alpha - mean_k (n q_k)^alpha) / (alpha tau_anc),      q = softmax((r - mean r) / beta_r)

    for a group of n: -dD/du is the gradient that descends, 1 / tau_anc is du/dl, and n turns APO's mean over prompts into
    the mean over completions of an engine. alpha = 1 gives (n q_j - 1) / tau_anc, ADPO's; alpha = 0 the centred log q_j,
    which is (r_j - mean r) / (beta_r tau_anc): plain mean-only advantages, scaled.
    Source: arXiv 2512.22953, the unified gradient (`apo_edu.alpha_divergence_grad`), at the uniform p_theta.

    A loss that is on policy, and the mean over completions of the mean over tokens of -ratio A, then has the gradient of
    `apo_edu.objectives.apo` with logp_reduction "mean"; with the sum over tokens, that of "sum".

    Args:
        rewards: [prompts, group] one finite reward per completion.
        alpha: order of the divergence, a number or a tensor [prompts].
        tau_anc: anchor temperature > 0, in nats per token (for a sum over tokens, in nats). It scales the result, as a
            learning rate would.
        beta_r: reward temperature > 0, in the unit of the reward.
        scale: of the advantages under q, see `apo_edu.group_advantages`; "none" is the paper's.
        valid: [prompts, group] booleans; False leaves a completion out of its group and gives it 0. None keeps all.

    Returns:
        [prompts, group] constants that sum to 0 over each group, exactly 0 where its rewards are equal.

    Raises:
        ValueError: rewards of another shape, a group of 1, a non-finite reward (with its index), tau_anc or beta_r <= 0.
    """
    if rewards.dim() != 2:
        raise ValueError(
            f"rewards has shape {tuple(rewards.shape)}; expected [prompts, group]. Reshape it first, e.g. "
            "rewards.view(num_prompts, group_size)."
        )
    batch = on_policy_batch(rewards, valid=valid)
    log_q, log_p = group_distributions(batch, tau_anc=tau_anc, beta_r=beta_r, scale=scale)
    return -rewards.shape[1] / tau_anc * alpha_divergence_grad(log_q, log_p, alpha)


def on_policy_batch(rewards: Tensor, logps: Tensor | None = None, *, valid: Tensor | None = None) -> GroupBatch:
    """The completions as one token each, at their anchor: u = 0.

    Args:
        rewards, valid: [prompts, group], as above.
        logps: [prompts, group] reduced log-probabilities, for whoever reads them (a schedule's confidence); None is 0,
            since u = 0 whatever they are.
    """
    logps = (torch.zeros_like(rewards) if logps is None else logps.detach().to(rewards.dtype))[..., None]
    return GroupBatch(logps, logps, torch.ones_like(logps), rewards, valid=valid)
