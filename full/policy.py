"""Loading the model and its tokenizer, and rendering prompts through the model's own chat template."""

import socket
import urllib.parse
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import torch
from accelerate import Accelerator
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from full.config import TrainConfig, UserError
from full.tiny import warm_start


def load_tokenizer(config: TrainConfig, accelerator: Accelerator) -> tuple[Any, str]:
    """The tokenizer, and the folder or hub id to load the model from; before anything large is loaded.

    Raises:
        UserError: it cannot be loaded; says why and names the embedded model.
    """
    name = config.model
    if name == "tiny":
        with accelerator.main_process_first():  # one process trains it, the others find it in the cache
            name = str(warm_start(config.warm_start_pass_at_1, config.seed))
    elif not Path(name).is_dir():
        go_offline_if_unreachable()
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, padding_side="left")
    except (OSError, ValueError) as error:
        raise _cannot_load(name, error) from None
    if tokenizer.chat_template is None:
        raise UserError(f"the tokenizer of {name!r} has no chat template; expected one. Take an instruct model.")
    return tokenizer, name


def load_model(name: str, config: TrainConfig) -> Any:
    """The model, its weights in config.weights.

    Raises:
        UserError: it cannot be loaded or scored.
    """
    try:
        # Master weights in float32: at lr 1e-6 an update is lost in a bfloat16 weight. On a GPU autocast computes in bf16.
        model = AutoModelForCausalLM.from_pretrained(name, dtype=getattr(torch, config.weights))
    except (OSError, ValueError) as error:
        raise _cannot_load(name, error) from None
    if getattr(model.config, "final_logit_softcapping", None):
        raise UserError(f"model {name!r} caps its logits, which the scoring here does not do; take another family.")
    if config.gradient_checkpointing:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    return model


def go_offline_if_unreachable() -> None:
    """Where the hub cannot be reached, use only what is cached, instead of a minute of retries for each file."""
    hub = urllib.parse.urlparse(huggingface_hub.constants.ENDPOINT)
    try:
        socket.create_connection((hub.hostname or "", hub.port or 443), timeout=5).close()
    except OSError:
        huggingface_hub.constants.HF_HUB_OFFLINE = True
        datasets.config.HF_HUB_OFFLINE = True


def _cannot_load(name: str, error: Exception) -> UserError:
    reason = " ".join(str(error).split())
    if huggingface_hub.constants.HF_HUB_OFFLINE and not Path(name).is_dir():
        reason = "the hub cannot be reached, and no copy is cached on this machine"
    return UserError(
        f"model {name!r} cannot be loaded: {reason[:200].rstrip('.')}. Give a folder on this machine (--model DIR), or run "
        "the embedded model, which needs neither GPU nor network: accelerate launch full/train.py --config "
        "full/configs/tiny.yaml"
    )


def render_prompts(tokenizer: Any, problems: Dataset, config: TrainConfig) -> tuple[list[list[int]], str]:
    """Token ids of every prompt through the chat template, and the first one as text.

    Raises:
        UserError: a prompt is longer than max_prompt_tokens; says how many and what would fit.
    """
    texts = tokenizer.apply_chat_template(
        problems["prompt"][:], tokenize=False, add_generation_prompt=True, enable_thinking=config.thinking
    )
    prompts: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
    longest = max(map(len, prompts))
    if longest > config.max_prompt_tokens:
        over = sum(len(ids) > config.max_prompt_tokens for ids in prompts)
        raise UserError(
            f"{over} of {len(prompts)} prompts are longer than max_prompt_tokens {config.max_prompt_tokens}; the longest "
            f"has {longest} tokens. Use --max_prompt_tokens {longest}, or remove them from the data."
        )
    return prompts, texts[0]
