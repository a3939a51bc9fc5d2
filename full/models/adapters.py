"""LoRA adapters: added, merged, loaded."""

from collections.abc import Iterator
from typing import Any

import torch

from full.config import TrainConfig
from full.errors import UserError


def add_adapters(model: Any, rank: int) -> None:
    """Put LoRA adapters on all linear layers but the LM head and freeze everything else; random, from torch's seed.

    An adapter adds 2 B A x to its layer. B starts at 0, so that the policy starts as the model it was. No dropout: the
    policy that is scored must be the one that sampled.
    """
    from peft import LoraConfig  # six seconds: only for those who use it

    model.add_adapter(
        LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear")
    )


def merged_weights(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and values of a model's weights as without adapters: those of peft's LoRA are added to what they adapt.

    The model is left alone: merging and unmerging in place would round its weights a little more each time.
    """
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            continue
        if ".base_layer." not in name:
            yield name, parameter.detach()
            continue
        layer_name, _, kind = name.rpartition(".base_layer.")
        layer = model.get_submodule(layer_name)
        value = parameter.detach()
        if kind == "weight":
            value = sum((layer.get_delta_weight(adapter) for adapter in layer.active_adapters), start=value)
        yield f"{layer_name}.{kind}", value


def _load_merged(name: str, dtype: torch.dtype, config: TrainConfig) -> Any:
    """The model that a folder of adapters belongs to, the adapters added to its weights."""
    if config.lora_rank:
        raise UserError(
            f"model {name!r} holds adapters and lora_rank is {config.lora_rank}; expected whole weights below new adapters. "
            "Write them merged (--merge_lora true) in the run that made them."
        )
    from peft import AutoPeftModelForCausalLM

    return AutoPeftModelForCausalLM.from_pretrained(name, dtype=dtype).merge_and_unload()
