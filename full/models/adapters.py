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


def keep_base_in(model: Any, dtype: torch.dtype) -> None:
    """Keep the frozen linear layers under adapters in the type that autocast computes in.

    Autocast would cast each of them at every use, to the same values: half the memory, and no casts. What else is frozen
    stays: the embedding starts the residual stream, whose additions autocast leaves in float32, an LM head tied to it is
    the same tensor, and norms are computed in float32. Such a model can be used under autocast alone.
    """
    embedding = model.get_input_embeddings().weight
    for module in model.modules():
        frozen = type(module) is torch.nn.Linear and not any(p.requires_grad for p in module.parameters())
        if frozen and module.weight is not embedding:
            module.to(dtype)


def merged_weights(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and values of a model's weights as without adapters: those of peft's LoRA are added to what they adapt.

    The model is left alone: merging and unmerging in place would round its weights a little more each time. What is kept in
    half precision (`keep_base_in`) comes in float32, so that a delta is not rounded to it.
    """
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            continue
        value = parameter.detach().to(torch.promote_types(parameter.dtype, torch.float32))
        if ".base_layer." not in name:
            yield name, value
            continue
        layer_name, _, kind = name.rpartition(".base_layer.")
        layer = model.get_submodule(layer_name)
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
