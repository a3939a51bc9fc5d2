"""A model small enough for a test, its tokenizer, and a configuration that trains it in a second or two."""

import json
from functools import cache
from pathlib import Path
from zlib import crc32

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from full.models.loading import keep_float64
from full.models.tiny import make_tokenizer
from full.rewards.pool import Verifier
from full.rewards.rewards import accuracies


def small_model(seed: int = 0, dtype: torch.dtype = torch.float64, **changes) -> Qwen3ForCausalLM:
    """An untrained Qwen3 of some ten thousand parameters."""
    torch.manual_seed(seed)
    options = {
        "vocab_size": len(make_tokenizer()),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "bos_token_id": None,
    }
    model = Qwen3ForCausalLM(Qwen3Config(**{**options, **changes})).to(dtype)
    # The default initialisation is nearly uniform over the vocabulary; sharper logits test more.
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(20.0)
    if dtype == torch.float64:
        keep_float64(model)
    return model


def save_small_model(folder: Path, **options) -> Path:
    """A Hugging Face folder with the small model and the tokenizer."""
    small_model(**{"dtype": torch.float32, **options}).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def small_run(model: Path, output: Path, **changes) -> list[str]:
    """Command line of a run of a few steps on the small model, with graded rewards so that there always is a signal."""
    options = {
        "model": model,
        "output_dir": output,
        "data": "arithmetic",
        "level": "all",
        "reward": "tests.helpers:letters",
        "group_size": 4,
        "prompts_per_batch": 8,
        "mini_batch_prompts": 4,
        "epochs": 2,
        "max_completion_tokens": 6,
        "steps": 6,
        "lr": 1e-3,
        "warmup_steps": 2,
        "lr_schedule": "linear",
        "eval_every": 0,
        "eval_problems": 8,
        "save_every": 1,
        "cpu_threads": 1,
        "confidence_from": "tokens",
    } | changes
    return [word for name, value in options.items() for word in (f"--{name}", *str(value).split(" "))]


def letters(prompts, completions, rows) -> list[float]:
    """A graded reward: the share of characters that are letters."""
    return [sum(c.isalpha() for c in text) / max(len(text), 1) for text in completions]


def no_signal_on_odd_sums(prompts, completions, rows) -> list[float]:
    """Like `letters`, but every completion of a problem with an odd answer gets the same reward."""
    graded = letters(prompts, completions, rows)
    return [0.5 if int(row["answer"]) % 2 else value for row, value in zip(rows, graded, strict=True)]


@cache
def one_worker() -> Verifier:
    """A verifying worker of this process."""
    return Verifier(num_workers=1)


def verified(prompts, completions, rows) -> list[float]:
    """Like `letters`, and 1 more where a worker finds two polynomials equal that are made of the text."""
    counts = [
        (len(text) % 3 + 1, sum(c.isalpha() for c in text) % 3 + 1, crc32(text.encode()) % 20) for text in completions
    ]
    given = [rf"\boxed{{x(x+{m})+{n}-{n}}}" for _, m, n in counts]
    verdicts = accuracies(given, [f"x^2+{k}x" for k, _, _ in counts], one_worker())
    # Known without asking: whatever becomes of the worker, no fault of its may become a verdict.
    assert verdicts == [float(k == m) for k, m, _ in counts]
    return [x + y for x, y in zip(letters(prompts, completions, rows), verdicts, strict=True)]


def every_other(prompts, completions, rows) -> list[float]:
    """Every group has a signal, whatever was sampled."""
    return [float(i % 2) for i in range(len(completions))]


def nothing(prompts, completions, rows) -> list[float]:
    """No completion is better than another."""
    return [0.0] * len(completions)


def metrics_without_times(run: Path) -> list[dict]:
    """The lines of metrics.jsonl without what depends on the clock."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith(("seconds", "tokens_per"))} for row in rows]
