"""float16 on a real GPU, whatever it is: `pytest -m gpu tests/test_gpu_fp16.py -rP` (two minutes, with figures)."""

import gc
import json
import shutil
import time

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from transformers import Qwen3Config, Qwen3ForCausalLM

from full import train
from full.config import parse_config
from full.models.tiny import make_tokenizer
from full.trainer.checkpoints import Progress
from full.trainer.launch import start_accelerator
from full.trainer.rollout import collect
from full.trainer.state import set_up
from full.trainer.update import train_step
from tests.helpers import metrics_without_times, save_small_model, small_run

pytestmark = pytest.mark.gpu


@pytest.fixture
def model(tmp_path):
    return save_small_model(tmp_path / "model")


@pytest.fixture
def run(model, tmp_path, monkeypatch):
    """A run in a precision: its metrics."""

    def start(name: str, half: str | None, *, scale: float | None = None, resume: bool = False, **changes):
        monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
        if half:
            monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", half)
        AcceleratorState._reset_state(reset_partial_state=True)  # it keeps the precision of a process's first one

        def accelerator(*args, **options):
            made = start_accelerator(*args, **options)
            if scale:
                made.scaler = torch.amp.GradScaler("cuda", init_scale=scale)
            return made

        monkeypatch.setattr(train, "start_accelerator", accelerator)
        words = ["--resume", str(tmp_path / name)] if resume else small_run(model, tmp_path / name, **changes)
        train.main(words)
        return metrics_without_times(tmp_path / name)

    yield start
    AcceleratorState._reset_state(reset_partial_state=True)


def test_float16_is_finer_than_bfloat16_and_takes_every_step(run, tmp_path, capsys):
    fp16 = run("fp16", "fp16", steps=4)
    said = capsys.readouterr().out
    assert "products in float16, the gradient scaled" in said and "on 1 x cuda, fp16" in said
    bf16 = run("bf16", "bf16", steps=4)
    assert [row["step"] for row in fp16] == [1, 2, 3, 4]
    assert all(0 < row["grad_norm"] < 1e3 for row in fp16)
    assert 0 < fp16[0]["mismatch_mean"] < 0.5 * bf16[0]["mismatch_mean"]
    assert {value.dtype for value in load_file(tmp_path / "fp16" / "model" / "model.safetensors").values()} == {
        torch.float32
    }
    print(*[(row["mismatch_mean"], row["mismatch_max"], row["overflows"]) for row in (fp16[0], bf16[0])])


def test_an_overflow_costs_a_pass_and_no_step(run, tmp_path, capsys):
    options = {"steps": 3, "lora_rank": 2}
    usual, high = run("usual", "fp16", **options), run("high", "fp16", scale=2.0**40, **options)
    times = high[0]["overflows"]
    assert times > 10 and [row["overflows"] for row in high[1:]] == [0, 0]
    assert f"the gradient of step 1 overflowed {times} x" in capsys.readouterr().out
    assert high[0]["grad_norm"] == pytest.approx(usual[0]["grad_norm"], rel=2e-3)
    saved = load_file(tmp_path / "high" / "checkpoints" / "step-3" / "model.safetensors")
    assert {saved[name].dtype for name in saved if ".base_layer." in name} == {torch.float16}
    state = torch.load(tmp_path / "high" / "checkpoints" / "step-3" / "scaler.pt", weights_only=True)
    assert state["scale"] == 2.0 ** (40 - times)
    shutil.rmtree(tmp_path / "high" / "checkpoints" / "step-3")
    run("high", "fp16", resume=True)
    state = torch.load(tmp_path / "high" / "checkpoints" / "step-3" / "scaler.pt", weights_only=True)
    assert state["scale"] == 2.0 ** (40 - times)  # that of the checkpoint, and not the first one's


@pytest.mark.parametrize(("capability", "told"), [((7, 5), "float16"), ((8, 0), "bfloat16")])
def test_the_gpu_chooses_where_nobody_asked(run, monkeypatch, capsys, capability, told):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *device: capability)
    run("run", None, steps=1)
    assert f"precision: products in {told}" in capsys.readouterr().out


def test_gpu_15gb_yaml_fits_a_t4(tmp_path, monkeypatch):
    """Its sizes at the longest prompts and completions, on random weights of its model's shape, in float16."""
    sizes = {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "head_dim": 128}
    heads = {"num_attention_heads": 16, "num_key_value_heads": 8, "vocab_size": 151936, "tie_word_embeddings": True}
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = Qwen3ForCausalLM(Qwen3Config(**sizes, **heads, eos_token_id=2, pad_token_id=0))
    model.save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    del model
    gc.collect()
    torch.cuda.empty_cache()
    rows = [{"problem": "1" * 420 + f"+{i}", "solution": rf"\boxed{{{i}}}", "level": "1"} for i in range(60)]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    AcceleratorState._reset_state(reset_partial_state=True)
    options = {
        "model": tmp_path / "model",
        "data": tmp_path / "problems.jsonl",
        "level": "all",
        "output_dir": tmp_path / "run",
    }
    # Sizes as the yaml's comment gives them; a batch of as many rows as it samples at once, with rewards that differ.
    options |= {"micro_batch_tokens": 4608, "generation_rows": 72, "prompts_per_batch": 9, "mini_batch_prompts": 9}
    options |= {"reward": "tests.helpers:letters"}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    config, _ = parse_config(["--config", "full/configs/gpu_15gb.yaml", *words])
    trainer = set_up(config, start_accelerator(), resume=False)
    trainer.run.path.mkdir()
    progress, seconds = Progress(), {}
    torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    progress.rollout = collect(trainer, list(range(9)), batch=0, step=0)
    seconds["sample"] = time.perf_counter() - started
    peaks = [torch.cuda.max_memory_allocated()]
    torch.cuda.reset_peak_memory_stats()
    metrics = train_step(trainer, progress)
    seconds["update"] = metrics["seconds_update"]
    peaks.append(torch.cuda.max_memory_allocated())
    trainer.close()
    AcceleratorState._reset_state(reset_partial_state=True)
    plan = trainer.memory
    modelled = [plan.sampling - plan.other, plan.updating - plan.other]
    figures = {"completion": metrics["completion_length"], "overflows": metrics["overflows"], "seconds": seconds}
    sizes = {"peak GB": [n / 1e9 for n in peaks], "modelled GB": [n / 1e9 for n in modelled]}
    print(torch.cuda.get_device_name(), figures, sizes)
    assert metrics["grad_norm"] > 0
    assert max(peaks) < 13.4e9
    assert 0.85 < modelled[0] / peaks[0] < 1.5  # it counts more distinct prompts than this batch has
    assert 0.85 < modelled[1] / peaks[1] < 1.25
