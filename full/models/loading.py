"""Loading and writing the model and its tokenizer, adapters included; rendering prompts through its chat template."""

import math
import os
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import torch
from accelerate import Accelerator
from datasets import Dataset
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import find_adapter_config_file

from full.config import TrainConfig
from full.errors import UserError
from full.halving import ran_out_of_memory
from full.logprobs.scoring import scoring_error
from full.models.adapters import _load_merged, add_adapters, merged_weights
from full.models.smollm2 import smollm2_folder
from full.models.tiny import warm_start

# Models that this package makes or brings, small enough for any machine.
EMBEDDED = ("tiny", "smollm2")


def load_tokenizer(config: TrainConfig, accelerator: Accelerator, make_sampler: Callable[..., Any]) -> tuple[Any, str]:
    """The tokenizer, and the folder or hub id to load the model from; before anything large is loaded.

    Args:
        make_sampler: what measures the embedded model while it is made, see `warm_start`.

    Raises:
        UserError: it cannot be loaded; says why and names the embedded model.
    """
    name = os.path.expanduser(config.model)
    if name == "tiny":
        with accelerator.main_process_first():  # one process trains it, the others find it in the cache
            name = str(warm_start(config.warm_start_pass_at_1, config.seed, make_sampler))
    elif name == "smollm2":
        with accelerator.main_process_first():
            name = str(smollm2_folder())
    elif not Path(name).is_dir():
        go_offline_if_unreachable()
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, padding_side="left")
    except Exception as error:  # tokenizers raises a bare Exception at a file that it cannot read
        raise _cannot_load(name, error) from None
    if tokenizer.chat_template is None:
        raise UserError(f"the tokenizer of {name!r} has no chat template; expected one. Take an instruct model.")
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"the tokenizer of {name!r} has no end of sequence; expected eos_token in its tokenizer_config.json, without "
            "which no completion ends. Name the token that ends a turn in its chat template."
        )
    return tokenizer, name


def number_of_parameters(name: str) -> int:
    """Parameters of a model that is not loaded yet; 0 where its configuration does not tell."""
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(name))
        return sum(parameter.numel() for parameter in model.parameters())
    except Exception:  # adapters, code of its own, a damaged file: loading it will say what it is
        return 0


def load_model(name: str, config: TrainConfig) -> Any:
    """The model to train, its weights in config.weights; with config.lora_rank only its adapters require a gradient.

    Raises:
        UserError: it cannot be loaded or scored, or new adapters are wanted on top of adapters.
    """
    # An adapter's folder names the model it belongs to, and may be read from another working directory.
    name = str(Path(name).resolve()) if Path(name).is_dir() else name
    try:
        # Master weights in float32: at lr 1e-6 an update is lost in a bfloat16 weight. On a GPU autocast computes in bf16.
        dtype = getattr(torch, config.weights)
        if find_adapter_config_file(name):
            model = _load_merged(name, dtype, config)
        else:
            loaded: Any = AutoModelForCausalLM.from_pretrained(name, dtype=dtype, output_loading_info=True)
            model, found = loaded
            _require_all_weights(name, found["missing_keys"])
    except (OSError, ValueError, StrictDataclassError) as error:
        raise _cannot_load(name, error) from None
    except (SafetensorError, RuntimeError) as error:  # cut off, a git-lfs pointer, other shapes than config.json says
        raise UserError(
            f"the weights of {name!r} cannot be read: {_reason(error)}; expected whole files that fit its config.json. "
            "Download or copy them again."
        ) from None
    if model.config.get_text_config() is not model.config:
        raise UserError(
            f"model {name!r} ({model.config.model_type}) reads more than text; expected a causal language model alone. Take "
            "the text-only model of its family."
        )
    if config.lora_rank:
        add_adapters(model, config.lora_rank)
    if config.weights == "float64":
        keep_float64(model)
    if config.gradient_checkpointing:
        before_5_20 = "gradient_checkpointing_enable"  # its name in the transformers that vLLM 0.32 asks for
        enable = getattr(model, "activation_checkpointing_enable", None) or getattr(model, before_5_20)
        enable({"use_reentrant": False})
        model.train()  # transformers recomputes in training mode only; a loaded model is in evaluation mode
        switch_dropout_off(model)
    return model


def _require_all_weights(name: str, missing: Collection[str]) -> None:
    """transformers only warns of weights that are in no file, and draws them at random."""
    if missing:
        raise UserError(
            f"the weights of {name!r} lack {len(missing)} of the model's, {min(missing)} first; expected all of them. "
            "Download or copy them again."
        )


def check_tokenizer(model: Any, tokenizer: Any, name: str) -> None:
    """Raise unless every id of the tokenizer has a row in the model's embedding.

    Raises:
        UserError: names the largest id and the rows.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    token, largest = max(tokenizer.get_vocab().items(), key=lambda item: item[1])
    if largest >= rows:
        raise UserError(
            f"the tokenizer of {name!r} has ids up to {largest} ({token!r}) and the model's embedding {rows} rows; expected "
            f"at least {largest + 1}. Take the tokenizer that the model was trained with, or resize the embedding: "
            "model.resize_token_embeddings(len(tokenizer)), then save_pretrained."
        )


def check_model(model: Any, prompts: list[list[int]], config: TrainConfig, pair_cost: float) -> None:
    """Raise unless the model is scored as it is, and has room for the longest prompt with the longest completion.

    Raises:
        UserError: says by how much.
    """
    needed = max(map(len, prompts)) + config.max_completion_tokens
    room = getattr(model.config, "max_position_embeddings", None)
    if room is not None and needed > room:
        raise UserError(
            f"model {config.model!r} has {room} positions; expected {needed}, the longest prompt and max_completion_tokens "
            f"{config.max_completion_tokens} together. Lower --max_completion_tokens, or take out the longest prompts."
        )
    changed = logit_options(model.config)
    if changed:
        raise UserError(
            f"model {config.model!r} changes its logits after the LM head ({', '.join(changed)}); expected the head's own, "
            "since log-probabilities are computed from those. Take another family."
        )
    for shared in (False, True) if pair_cost < float("inf") else (False,):
        try:
            error = scoring_error(model, prompts[0], shared=shared)
        except Exception as fault:  # the code of any model
            if ran_out_of_memory(fault):
                raise
            raise UserError(
                f"model {config.model!r} cannot be scored: its code raises {type(fault).__name__} ({_reason(fault)}); expected "
                "a causal language model that takes ids, a mask and positions. Take another family."
            ) from fault
        if math.isnan(error):
            raise UserError(
                f"model {config.model!r} gives log-probabilities that are no numbers (NaN); expected numbers. Its weights are "
                "damaged: download or copy them again."
            )
        if error > 1e-3:
            raise UserError(
                f"model {config.model!r} gives other log-probabilities than the scorer, by {error:.2g} nats; expected the "
                "same. It does more to its logits than its LM head does (scales or caps them, say). Take another family."
            )


def logit_options(config: Any) -> list[str]:
    """The options by which a model caps or scales its logits: the caps of Gemma2, RecurrentGemma, xLSTM, Granite's and
    Cohere's scales, the multipliers of Falcon-H1 and Muse.

    By the configuration and not by a sample of log-probabilities: a cap changes nothing while the logits are small, and would
    be off by 1e-3 nats later.
    """
    text = getattr(config, "text_config", None) or config
    caps = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
    scales = ("logits_scaling", "logit_scale", "lm_head_multiplier", "output_multiplier")
    neutral = {**dict.fromkeys(caps, (None, 0)), **dict.fromkeys(scales, (None, 1))}
    return [
        f"{name} {getattr(text, name)}" for name, values in neutral.items() if getattr(text, name, None) not in values
    ]


def switch_dropout_off(model: Any) -> None:
    """Dropout off, also in training mode: what is trained is the distribution that was sampled and scored."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def keep_float64(model: Any) -> None:
    """Let the model's norms compute in float64 too; transformers' own pass through float32, whatever the weights are.

    Without it a float64 model has float32's rounding, and its gradient depends on the order of a sum in the seventh digit.
    """
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = partial(_rms_norm, module)


def _rms_norm(module: Any, states: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.rms_norm(states, module.weight.shape, module.weight, module.variance_epsilon)


def save_policy(
    model: Any,
    tokenizer: Any,
    folder: Path,
    *,
    merge: bool,
    state: dict[str, torch.Tensor] | None = None,
    dtype: torch.dtype | None = None,
    generation: Any = None,
) -> None:
    """Write the model and its tokenizer as an ordinary Hugging Face folder.

    With adapters it holds these alone and names the model they belong to (transformers and peft load both); merged, it
    holds whole weights with the adapters added, and loads without peft. The model in memory stays as it is.

    Args:
        state: the whole weights, where the model's own are shared out among processes.
        dtype: of the whole weights; None is the model's own.
        generation: the generation_config that the model came with; an engine sets it aside to sample.
    """
    adapted = hasattr(model, "peft_config")
    if merge if adapted else dtype is not None:
        with torch.device("meta"):
            plain = AutoModelForCausalLM.from_config(model.config, dtype=model.dtype)
        weights = dict(merged_weights(model)) if adapted else state or model.state_dict()
        plain.load_state_dict(weights, strict=False, assign=True)
        plain.tie_weights()
        plain.generation_config = model.generation_config
        model, state = plain.to(dtype or plain.dtype), None
    model.save_pretrained(folder, state_dict=state)
    if generation is not None and not hasattr(model, "peft_config"):  # adapters are loaded with their base's
        generation.to_json_file(folder / "generation_config.json")
    tokenizer.save_pretrained(folder)


def go_offline_if_unreachable() -> None:
    """Where the hub cannot be reached, use only what is cached, instead of a minute of retries for each file."""
    try:  # through the hub's own client, which knows the proxies of the environment
        huggingface_hub.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=5)
    except Exception:  # no route, no name, no certificate, switched off: whatever it is, the hub cannot be asked
        huggingface_hub.constants.HF_HUB_OFFLINE = True
        datasets.config.HF_HUB_OFFLINE = True


def _cannot_load(name: str, error: Exception) -> UserError:
    reason = _reason(error)
    if huggingface_hub.constants.HF_HUB_OFFLINE and not Path(name).is_dir():
        reason = "the hub cannot be reached, and no copy is cached on this machine"
    return UserError(
        f"model {name!r} cannot be loaded: {reason}. Give a folder on this machine (--model DIR), or run "
        "the embedded model, which needs neither GPU nor network: accelerate launch full/train.py --config "
        "full/configs/tiny.yaml"
    )


def _reason(error: Exception) -> str:
    """What an exception of another library says, in one line of bearable length."""
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__


def render_prompts(tokenizer: Any, problems: Dataset, config: TrainConfig) -> tuple[list[list[int]], str]:
    """Token ids of every prompt through the chat template, and the first one as text.

    Raises:
        UserError: a prompt is longer than max_prompt_tokens (says how many and what would fit), or the template gives none.
    """
    texts, prompts = _rendered(tokenizer, problems, config)
    longest = max(map(len, prompts))
    if longest > config.max_prompt_tokens:
        over = sum(len(ids) > config.max_prompt_tokens for ids in prompts)
        raise UserError(
            f"{over} of {len(prompts)} prompts are longer than max_prompt_tokens {config.max_prompt_tokens}; the longest "
            f"has {longest} tokens. Use --max_prompt_tokens {longest}, or leave them out: --long_prompts drop."
        )
    return prompts, texts[0]


def without_long_prompts(tokenizer: Any, problems: Dataset, config: TrainConfig) -> Dataset:
    """With long_prompts "drop" the problems whose prompts fit; the description says how many do not. Otherwise all.

    Raises:
        UserError: none fits.
    """
    if config.long_prompts == "error":
        return problems
    _, prompts = _rendered(tokenizer, problems, config)
    kept = [index for index, ids in enumerate(prompts) if len(ids) <= config.max_prompt_tokens]
    if not kept:
        raise UserError(
            f"all {len(prompts)} prompts are longer than max_prompt_tokens {config.max_prompt_tokens}; the shortest has "
            f"{min(map(len, prompts))} tokens. Raise --max_prompt_tokens."
        )
    left_out = f"{len(prompts) - len(kept)} prompts longer than {config.max_prompt_tokens} tokens left out"
    fitting = problems.select(kept)
    fitting.info.description = f"{problems.info.description}; {left_out}"
    return fitting


def _rendered(tokenizer: Any, problems: Dataset, config: TrainConfig) -> tuple[list[str], list[list[int]]]:
    """Every prompt as text and as token ids."""
    try:
        texts = tokenizer.apply_chat_template(
            problems["prompt"][:], tokenize=False, add_generation_prompt=True, enable_thinking=config.thinking
        )
    except Exception as error:  # a template is a program of the model's, and may raise anything
        roles = ", ".join(dict.fromkeys(message["role"] for message in problems[0]["prompt"]))
        raise UserError(
            f"the chat template of {config.model!r} raised an error: {_reason(error)}; expected the text of a prompt "
            f"with the roles {roles}. Leave out what it has no room for (--system_prompt, other roles), or take another model."
        ) from None
    blank = sum(not text.strip() for text in texts)
    if blank:
        raise UserError(
            f"the chat template of {config.model!r} gives no text for {blank} of {len(texts)} prompts; expected the "
            "problem's text. Take an instruct model, or mend its template."
        )
    return texts, tokenizer(texts, add_special_tokens=False)["input_ids"]
