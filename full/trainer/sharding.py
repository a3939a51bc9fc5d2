"""What differs between one process, DDP, FSDP2 and DeepSpeed; the rest of the trainer does not know which one it runs under.

A run means the same under each of them: gradients of all processes are summed, and every process can hold all weights when
it samples and scores by itself.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy

from full.logprobs.packing import PackedRows


def prepare(
    accelerator: Accelerator, policy: Any, optimizer: torch.optim.Optimizer, *, max_grad_norm: float
) -> tuple[nn.Module, Any]:
    """accelerator.prepare, after saying what accelerate would otherwise choose, and not as this trainer needs it.

    Args:
        policy: a `Policy`; its model keeps its identity and shares its parameters with what is returned.
        max_grad_norm: DeepSpeed clips inside its own step and has to know.
    """
    if accelerator.is_fsdp2:
        plugin = accelerator.state.fsdp_plugin
        plugin.transformer_cls_names_to_wrap = plugin.transformer_cls_names_to_wrap or list(
            policy.model._no_split_modules
        )
        if accelerator.mixed_precision == "bf16":
            # accelerate would also add gradients and return log-probabilities in bfloat16.
            plugin.mixed_precision_policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    elif _on_deepspeed(accelerator):
        config = accelerator.state.deepspeed_plugin.deepspeed_config
        config["gradient_clipping"] = max_grad_norm
        config["train_micro_batch_size_per_gpu"] = 1  # must be there; nothing here depends on it
        config["data_types"] = {"grad_accum_dtype": "fp32"}  # micro-batches are summed in it
        config["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] = True
    policy, optimizer = accelerator.prepare(policy, optimizer)
    if accelerator.is_fsdp2:
        # The first forward pass of FSDP2 must go through the root; ours might be that of the model inside, to sample.
        with torch.no_grad():
            policy(*PackedRows([[0]], [[0]], [[0]], device=accelerator.device).inputs)
    return policy, optimizer


@contextmanager
def whole_weights(policy: nn.Module) -> Iterator[None]:
    """Within it every process holds all weights, so that it can sample and score by itself, as often as it likes.

    All processes enter and leave it together. FSDP2 gathers the weights in the precision it computes in.
    """
    if isinstance(policy, FSDPModule):
        with _whole_fsdp2(policy):
            yield
    elif getattr(policy, "zero_optimization_stage", lambda: 0)() == 3:
        from deepspeed.runtime.zero import unwrap_model_for_generation

        with unwrap_model_for_generation(policy):
            yield
    else:
        yield


@contextmanager
def _whole_fsdp2(policy: Any) -> Iterator[None]:
    parts = [module for module in policy.modules() if isinstance(module, FSDPModule)]
    policy.set_reshard_after_forward(False)
    for part in parts:
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            # As it was: the backward pass needs the root again at once, so that one stays whole after a forward pass.
            part.set_reshard_after_forward(part is not policy, recurse=False)


def whole_state(accelerator: Accelerator, policy: nn.Module) -> dict[str, Tensor]:
    """The model's state_dict with all weights, on the main process (elsewhere it may be empty); all processes call it.

    In the precision of the optimiser under FSDP2, in that of the computation under DeepSpeed. What `whole_weights` shows
    cannot be asked for its state_dict: FSDP2 shares the weights out again when it is.
    """
    state = accelerator.get_state_dict(policy) or {}
    # A weight that two modules share comes once, under its first name.
    policy = accelerator.unwrap_model(policy)
    every, first = (dict(policy.named_parameters(remove_duplicate=once)) for once in (False, True))
    return {name.removeprefix("model."): value for name, value in state.items() if name in first or name not in every}


def may_step_alone(accelerator: Accelerator) -> bool:
    """Whether a backward pass may leave its gradient on the process, to be summed with a later one.

    Not where gradients are sharded: FSDP2 would keep whole ones, whose memory it is there to save, and ZeRO cannot.
    """
    return not (accelerator.is_fsdp2 or _on_deepspeed(accelerator))


def backward(accelerator: Accelerator, loss: Tensor, *, last: bool) -> None:
    """Add the gradient of a sum over this process's rows; processes average, and a sum is wanted."""
    loss = loss * accelerator.num_processes
    if _on_deepspeed(accelerator):
        # accelerator.backward would also step, before anybody has looked at the gradient.
        engine = accelerator.deepspeed_engine_wrapped.engine
        engine.set_gradient_accumulation_boundary(is_boundary=last)
        engine.backward(loss)
    else:
        accelerator.backward(loss)


def clip(accelerator: Accelerator, policy: nn.Module, max_norm: float) -> float:
    """Clip the gradient of all processes to max_norm and return the norm it had.

    DeepSpeed clips and steps in one; the optimizer's own step does nothing afterwards. It takes no step on a gradient that
    is not finite, and the norm is inf then.
    """
    if _on_deepspeed(accelerator):
        accelerator.deepspeed_engine_wrapped.engine.step()
        return float(accelerator.deepspeed_engine_wrapped.get_global_grad_norm())
    norm = accelerator.clip_grad_norm_(policy.parameters(), max_norm)
    return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)


def _on_deepspeed(accelerator: Accelerator) -> bool:
    return accelerator.distributed_type == DistributedType.DEEPSPEED
