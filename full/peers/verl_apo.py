"""APO as an advantage estimator of verl: "apo", beside verl's "grpo" and "rloo".

    VERL_USE_EXTERNAL_MODULES=full.peers.verl_apo python3 -m verl.trainer.main_ppo \\
        algorithm.adv_estimator=apo actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-mean \\
        +algorithm.apo.alpha=0.6 +algorithm.apo.tau_anc=0.5 +algorithm.apo.beta_r=0.3 \\
        actor_rollout_ref.rollout.n=6 data.train_batch_size=48 actor_rollout_ref.actor.ppo_mini_batch_size=48 \\
        data.train_files=... actor_rollout_ref.model.path=...   # the rest as for GRPO

verl imports the module that the variable names, and the import registers the estimator; apo_edu must be installed where
verl is. A Ray cluster that runs already does not see the variable: pass it as
+ray_kwargs.ray_init.runtime_env.env_vars.VERL_USE_EXTERNAL_MODULES=full.peers.verl_apo too. Without verl this module
imports all the same and registers nothing, so that it can be read and tested.

verl's policy loss is -ratio A per token, on policy the ratio is 1, and loss_agg_mode decides what the gradient is:

| loss_agg_mode         | gradient on policy                                                                |
| --------------------- | --------------------------------------------------------------------------------- |
| "seq-mean-token-mean" | APO's with logp_reduction "mean", exactly (factor 1)                              |
| "seq-mean-token-sum"  | APO's with logp_reduction "sum", exactly (factor 1; tau_anc is then in nats)      |
| "token-mean", default | APO's with "sum", divided by the batch's mean length: a step size that moves      |

"On policy" is the first optimiser step on a batch: all of them if ppo_mini_batch_size is train_batch_size and ppo_epochs 1.
See `full.peers` for what differs later. alpha is fixed: verl shows an estimator no log-probabilities for a schedule. Each
row counts as one response, so agent loops that make several rows of a conversation are not supported.

Tested against the functions of verl 0.9.1, untested in a running verl (Ray, several GPUs).
"""

import importlib.util
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from full.peers import group_reshaped_advantages

# The options under algorithm.apo: the paper's values, its fixed alpha.
DEFAULTS: dict[str, Any] = {"alpha": 0.6, "tau_anc": 0.5, "beta_r": 0.3, "scale": "none"}


@torch.no_grad()
def compute_apo_outcome_advantage(
    token_level_rewards: Tensor,
    response_mask: Tensor,
    index: Sequence[Any] | None = None,
    config: Mapping[str, Any] | None = None,
    **unused: Any,
) -> tuple[Tensor, Tensor]:
    """Advantages with which verl's policy loss has APO's gradient, see `full.peers.group_reshaped_advantages`.

    Args:
        token_level_rewards: [rows, tokens] whose sum is the reward of a response.
        response_mask: [rows, tokens] 1 on the response.
        index: [rows] what tells prompts apart (verl's uid); rows of a prompt may lie anywhere.
        config: verl's `algorithm` section. Read: apo.alpha, apo.tau_anc, apo.beta_r and apo.scale ("none", "group" or
            "batch"). norm_adv_by_std_in_grpo is not: it is on by default, and APO's scale is its own.
        unused: what verl passes to other estimators.

    Returns:
        (advantages, returns), twice the same [rows, tokens], 0 off the mask. A prompt with one response gets 0.

    Raises:
        ValueError: no index, an unknown option under apo, no prompt with two responses, or as the function above.
    """
    if index is None:
        raise ValueError("index is None; expected one uid per response. Give the batch verl's 'uid' column.")
    options: dict[str, Any] = dict((config.get("apo") if config is not None else None) or {})
    unknown = sorted(set(options) - set(DEFAULTS))
    if unknown:
        raise ValueError(f"algorithm.apo has {', '.join(unknown)}; expected {', '.join(DEFAULTS)}. Mend the name.")

    members = defaultdict(list)
    for row, uid in enumerate(index):
        members[uid].append(row)
    scores = token_level_rewards.sum(-1)
    # Groups may differ in size, where a rollout failed: the shorter ones are padded with completions that do not count.
    groups = [scores[rows] for rows in members.values()]
    valid = pad_sequence([torch.ones_like(group, dtype=torch.bool) for group in groups], batch_first=True)
    reshaped = group_reshaped_advantages(pad_sequence(groups, batch_first=True), **DEFAULTS | options, valid=valid)
    # verl takes the mean over the rows there are, not over the padded ones.
    advantages = torch.empty_like(scores)
    order = list(chain.from_iterable(members.values()))
    advantages[order] = reshaped[valid] * (len(scores) / valid.numel())
    advantages = advantages[:, None] * response_mask
    return advantages, advantages


if importlib.util.find_spec("verl") is not None:
    from verl.trainer.ppo.core_algos import register_adv_est

    register_adv_est("apo")(compute_apo_outcome_advantage)
