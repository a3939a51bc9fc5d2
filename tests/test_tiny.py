"""The embedded model: an ordinary tokenizer and model, a warm start that is cached, and, slowly, a run that learns."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from full import train
from full.engines.hf import Sampler
from full.models import tiny

TOKENIZER = tiny.make_tokenizer()
TINY = Path(__file__).parents[1] / "full" / "configs" / "tiny.yaml"


@given(st.text(max_size=40))
def test_every_text_survives_the_tokenizer(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


def test_prompts_are_short_and_answers_few_tokens():
    assert len(tiny.encode_prompt(TOKENIZER, "Compute $47+38$.")) == 18
    assert len(TOKENIZER.encode("\\boxed{85}")) == 4
    assert len(TOKENIZER) < 300


def test_the_folder_is_an_ordinary_one(tmp_path):
    model = tiny.make_model(TOKENIZER, seed=0)
    assert 0.5e6 < sum(p.numel() for p in model.parameters()) < 1e6
    model.save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.encode("Compute $1+2$.") == TOKENIZER.encode("Compute $1+2$.")
    assert (again.eos_token, again.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config.model_type == "qwen3"


def test_the_warm_start_is_cached_under_what_made_it(tmp_path, monkeypatch):
    monkeypatch.setitem(tiny.WARM_START, "max_steps", 2)
    with pytest.raises(RuntimeError, match=r"the warm start reached pass@1 0.00 in 2 steps; expected 0.3. Try another"):
        tiny.warm_start(0.3, 0, Sampler, cache=tmp_path, quiet=True)
    assert not list(tmp_path.iterdir())  # nothing half-made is left behind
    first = tiny.warm_start(0.0, 0, Sampler, cache=tmp_path, quiet=True)
    made = json.loads((first / "warm_start.json").read_text())
    assert (made["target"], made["seed"]) == (0.0, 0)
    stamp = (first / "model.safetensors").stat().st_mtime_ns
    assert tiny.warm_start(0.0, 0, Sampler, cache=tmp_path, quiet=True) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == stamp
    assert tiny.warm_start(0.0, 1, Sampler, cache=tmp_path, quiet=True) != first


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["apo", "grpo", "gspo"])
@pytest.mark.parametrize("seed", [int(seed) for seed in os.environ.get("APO_EDU_SEEDS", "0").split()])
def test_the_embedded_model_learns(tmp_path, objective, seed):
    run = tmp_path / "run"
    options = ["--objective", objective, "--seed", str(seed), "--output_dir", str(run), "--eval_every", "0"]
    train.main(["--config", str(TINY), *options])
    summary = json.loads((run / "summary.json").read_text())
    assert 0.3 <= summary["eval_before"]["pass@1"] <= 0.5
    assert summary["eval_after"]["pass@1"] - summary["eval_before"]["pass@1"] >= 0.2
