"""The embedded model: a Qwen3 of under a million parameters, its tokenizer, and its warm start on additions.

It learns visibly on a laptop and takes exactly the path of the 1.7B model: an ordinary Hugging Face folder with weights,
tokenizer and chat template.
"""

import hashlib
import json
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from full.data.splits import is_held_out
from full.data.tasks.arithmetic import arithmetic_rows

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


# Frequent strings that are one token each; everything else is spelled byte by byte.
WORDS = ("\\boxed{", "user", "assistant", "Compute")


# What the warm start is; a change here makes a new one.
WARM_START: dict[str, Any] = {
    "model": {
        "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 4096, "tie_word_embeddings": True,
    },
    "lr": 2e-3, "batch": 100, "max_steps": 1500, "one_digit_steps": 40, "check_every": 5, "check_problems": 256,
}  # fmt: skip


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with a chat template; every text has an encoding, every id a decoding."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = list(SPECIAL) + alphabet
    merges = []
    for word in WORDS:
        for end in range(2, len(word) + 1):
            if word[:end] not in vocabulary:
                merges.append((word[: end - 1], word[end - 1]))
                vocabulary.append(word[:end])
    bpe = Tokenizer(models.BPE({token: i for i, token in enumerate(vocabulary)}, merges))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen3ForCausalLM:
    """The untrained model, 0.8 M parameters."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        **WARM_START["model"],
    )
    return Qwen3ForCausalLM(config).float()


def warm_start(
    target: float, seed: int, make_sampler: Callable[..., Any], *, cache: Path = Path("runs"), quiet: bool = False
) -> Path:
    """Train the embedded model on additions until its sampled pass@1 reaches the target; return its folder.

    Supervised learning, one-digit numbers first, then two-digit ones of the training split. It stops on the measured
    value, since the jump from 0.05 to 0.7 takes few steps and its time varies with the seed. The folder is cached under
    a key of everything that made it.

    Args:
        make_sampler: `full.engines.hf.Sampler`, which measures pass@1; handed in, since engines come after models.
    """
    recipe = {**WARM_START, "target": target, "seed": seed, "words": WORDS, "template": CHAT_TEMPLATE}
    key = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]
    folder = cache / f"warm-start-{key}"
    if folder.exists():
        return folder

    if not quiet:
        print("warm start: teaching the embedded model a little addition; about a minute, then cached", flush=True)
    tokenizer = make_tokenizer()
    model = make_model(tokenizer, seed)
    rng = random.Random(seed)
    easy, rows = arithmetic_rows(1), [row for row in arithmetic_rows(2) if not is_held_out(row["problem"])]
    rng.shuffle(rows)
    checked, rows = rows[: WARM_START["check_problems"]], rows[WARM_START["check_problems"] :]
    sampler = make_sampler(model, tokenizer, seed=seed, temperature=1.0, max_new_tokens=8, rows_at_once=512)
    prompts = [encode_prompt(tokenizer, row["problem"]) for row in checked]
    optimizer = torch.optim.AdamW(model.parameters(), lr=WARM_START["lr"], betas=(0.9, 0.95), weight_decay=0.01)
    score = 0.0
    with tqdm(total=WARM_START["max_steps"], desc="warm start", unit="step", disable=quiet or None, leave=False) as bar:
        for step in range(1, WARM_START["max_steps"] + 1):
            batch = rng.sample(easy if step <= WARM_START["one_digit_steps"] else rows, WARM_START["batch"])
            for group in optimizer.param_groups:
                group["lr"] = WARM_START["lr"] * min(1.0, step / 20)
            loss = supervised_loss(model, tokenizer, batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if step % WARM_START["check_every"] == 0 and loss.item() < 0.7:
                samples = sampler.sample(prompts, keys=[(step, i, 0) for i in range(len(prompts))])
                texts = sampler.texts(samples.completions)
                score = sum(t == r["solution"] for t, r in zip(texts, checked, strict=True)) / len(checked)
            bar.update()
            bar.set_postfix_str(f"loss {loss.item():.2f}, sampled pass@1 {score:.2f}")
            if score >= target:
                break
        else:
            raise RuntimeError(
                f"the warm start reached pass@1 {score:.2f} in {step} steps; expected {target}. Try another --seed."
            )
    # Written aside and renamed, so that a kill cannot leave half a model in the cache.
    cache.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix="warm-start-", dir=cache))
    model.save_pretrained(aside)
    tokenizer.save_pretrained(aside)
    (aside / "warm_start.json").write_text(json.dumps({**recipe, "steps": step, "pass@1": score}, indent=1))
    try:
        aside.rename(folder)
    except OSError:  # another process finished the same warm start first
        shutil.rmtree(aside)
    return folder


def encode_prompt(tokenizer: PreTrainedTokenizerFast, problem: str) -> list[int]:
    """The prompt's token ids through the chat template."""
    encoding: Any = tokenizer.apply_chat_template(
        [{"role": "user", "content": problem}], add_generation_prompt=True, tokenize=True, return_dict=True
    )
    return encoding["input_ids"]


def supervised_loss(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, rows: list[dict]) -> torch.Tensor:
    """Cross-entropy of the solutions' tokens, the end of sequence included, in nats per token."""
    pairs = [
        (encode_prompt(tokenizer, row["problem"]), [*tokenizer.encode(row["solution"]), tokenizer.eos_token_id])
        for row in rows
    ]
    ids, wanted = padded_pairs(pairs, tokenizer.pad_token_id)
    labels = ids.masked_fill(~wanted, -100)
    logits = model(input_ids=ids).logits  # right-padded and causal: padding is never attended to
    return cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def padded_pairs(pairs: list[tuple[list[int], list[int]]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, whether a place is the answer's), [pairs, longest] each, padded on the right.

    pairs: ids of a prompt and of its answer.
    """
    width = max(len(prompt) + len(answer) for prompt, answer in pairs)
    ids = torch.full((len(pairs), width), pad_id)
    wanted = torch.zeros((len(pairs), width), dtype=torch.bool)
    for row, (prompt, answer) in enumerate(pairs):
        end = len(prompt) + len(answer)
        ids[row, :end] = torch.tensor(prompt + answer)
        wanted[row, len(prompt) : end] = True
    return ids, wanted
