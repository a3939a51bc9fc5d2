"""GRPO, Dr.GRPO, DAPO and GSPO equal TRL's own loss and gradient on the same tensors, in float64.

TRL's `_compute_loss` is called as it is, on a stub with the private attributes that version 1.16 reads.
"""

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from apo_edu import GroupBatch, group_advantages, objectives

trl = pytest.importorskip("trl", reason="the peer's losses need TRL: pip install 'apo_edu[peers]'")
if not trl.__version__.startswith("1.16."):
    pytest.skip(f"the stub fits TRL 1.16, here is {trl.__version__}", allow_module_level=True)
from trl.trainer.grpo_trainer import GRPOTrainer  # noqa: E402

LONGEST = 9


class OneProcess:
    """An accelerator of a single process."""

    num_processes, sync_gradients = 1, True

    def reduce(self, tensor, reduction="sum"):
        return tensor

    def gather(self, tensor):
        return tensor

    gather_for_metrics = gather


def trl_loss(logps, old_logps, mask, advantages, *, loss_type, level="token", epsilon=0.2, epsilon_high=None):
    rows, tokens = logps.shape
    trainer = SimpleNamespace(
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level=level,
        loss_type=loss_type,
        beta=0.0,
        epsilon_low=epsilon,
        epsilon_high=epsilon if epsilon_high is None else epsilon_high,
        max_completion_length=LONGEST,
        use_vllm=False,
        vllm_importance_sampling_correction=False,
        model=SimpleNamespace(training=True),
        current_gradient_accumulation_steps=1,
        accelerator=OneProcess(),
        _entropy_bonus_enabled=False,
        _metrics={"train": defaultdict(list), "eval": defaultdict(list)},
        args=SimpleNamespace(
            use_bias_correction_kl=True, delta=None, sapo_temperature_pos=1.0, sapo_temperature_neg=1.05,
            steps_per_generation=1,
        ),
        _get_per_token_logps_and_entropies=lambda *args, **kwargs: (logps, torch.zeros_like(logps), None),
    )  # fmt: skip
    inputs = {
        "prompt_ids": torch.zeros(rows, 1, dtype=torch.long),
        "prompt_mask": torch.ones(rows, 1, dtype=torch.long),
        "completion_ids": torch.zeros(rows, tokens, dtype=torch.long),
        "completion_mask": mask,
        "advantages": advantages,
        "old_per_token_logps": old_logps,
        "num_items_in_batch": mask.sum(),
    }
    return GRPOTrainer._compute_loss(trainer, None, inputs)


PAIRS = [
    ("grpo", {"epsilon": 0.2}, {"loss_type": "grpo"}),
    ("grpo", {"epsilon": 0.05}, {"loss_type": "grpo", "epsilon": 0.05}),
    ("dr_grpo", {"epsilon": 0.2, "max_tokens": LONGEST, "scale": "group"}, {"loss_type": "dr_grpo"}),
    ("dapo", {"epsilon_low": 0.2, "epsilon_high": 0.28}, {"loss_type": "dapo", "epsilon_high": 0.28}),
    ("gspo", {}, {"loss_type": "grpo", "level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4}),
    (
        "gspo",
        {"epsilon_low": 0.05, "epsilon_high": 0.1},
        {"loss_type": "grpo", "level": "sequence", "epsilon": 0.05, "epsilon_high": 0.1},
    ),
]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("name", "ours", "theirs"), PAIRS, ids=lambda value: str(value))
def test_loss_and_gradient_equal_trl(name, ours, theirs, seed):
    g = torch.Generator().manual_seed(seed)
    shape = (3, 4, 7)
    old = -3 * torch.rand(shape, generator=g, dtype=torch.float64)
    logps = (old + 0.2 * torch.randn(shape, generator=g, dtype=torch.float64)).requires_grad_()
    lengths = torch.randint(1, 8, shape[:2], generator=g)
    mask = (torch.arange(7) < lengths[..., None]).long()
    rewards = torch.randint(0, 3, shape[:2], generator=g).double() / 2
    advantages = group_advantages(rewards)
    mean, std = rewards.mean(-1, keepdim=True), rewards.std(-1, keepdim=True)
    torch.testing.assert_close(advantages, (rewards - mean) / (std + 1e-4), rtol=1e-12, atol=1e-12)

    want = trl_loss(logps.flatten(0, 1), old.flatten(0, 1), mask.flatten(0, 1), advantages.flatten(), **theirs)
    (want_grad,) = torch.autograd.grad(want, logps)
    loss, stats = objectives.OBJECTIVES[name].function(GroupBatch(logps, old, mask, rewards), **ours)
    (grad,) = torch.autograd.grad(loss, logps)
    assert loss.item() == pytest.approx(want.item(), abs=1e-7)
    torch.testing.assert_close(grad, want_grad, rtol=0, atol=1e-7)
    assert grad.abs().max() > 1e-3 or stats["clip_fraction"] > 0.3  # something is compared
