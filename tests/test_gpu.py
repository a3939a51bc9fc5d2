"""What only a GPU can show: `pytest -m gpu`."""

import contextlib
import json
import warnings

import pytest
import torch
from accelerate.state import AcceleratorState
from transformers import Qwen3ForCausalLM

from full import train
from full.config import parse_config
from full.data.order import ProblemOrder
from full.engines import graphs
from full.engines.hf import Sampler
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


@pytest.fixture(autouse=True)
def fresh_state():
    """accelerate keeps the precision of a process's first Accelerator."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.cuda.set_sync_debug_mode("default")
    torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.parametrize(("precision", "kind"), [("bf16", torch.bfloat16), ("no", torch.float32)])
def test_sampling_and_updates_compute_in_the_precision_asked_for(precision, kind, model, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", precision)
    AcceleratorState._reset_state(reset_partial_state=True)
    trainer, progress = ready(small_run(model, tmp_path / "run"))
    seen = set()

    def note(module, inputs, output):
        if isinstance(module, torch.nn.Linear) and isinstance(output, torch.Tensor):
            seen.add((output.device.type, output.dtype))

    hook = torch.nn.modules.module.register_module_forward_hook(note)
    progress.rollout = collect(trainer, trainer_order(trainer).batch(0), batch=0, step=0)
    train_step(trainer, progress)
    hook.remove()
    trainer.close()
    assert seen == {(trainer.accelerator.device.type, kind)}
    assert next(trainer.model.parameters()).dtype == torch.float32


def ready(words):
    """A trainer and its progress, with a folder to write to."""
    config, _ = parse_config(words)
    trainer = set_up(config, start_accelerator(), resume=False)
    trainer.run.path.mkdir()
    return trainer, Progress()


def trainer_order(trainer):
    """The order of its problems."""
    return ProblemOrder(len(trainer.problems), trainer.config.prompts_per_batch, trainer.config.seed)


def test_an_update_hardly_waits_for_the_device(model, tmp_path):
    trainer, progress = ready(small_run(model, tmp_path / "run"))
    progress.rollout = collect(trainer, trainer_order(trainer).batch(0), batch=0, step=0)
    for number in range(trainer.plan.updates):
        torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            train_step(trainer, progress)
        torch.cuda.set_sync_debug_mode("default")
        progress.advance(trainer.plan.updates)
        waits = [str(one.filename) + f":{one.lineno}" for one in seen if "synchroniz" in str(one.message)]
        assert len(waits) <= 20, (number, waits)
    trainer.close()


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_a_graph_samples_the_same(model, precision, recwarn, monkeypatch):
    monkeypatch.setattr(graphs, "ROOM", 40)
    policy = Qwen3ForCausalLM.from_pretrained(model, dtype=torch.float32).cuda()
    keys = [(0, i, s) for i in range(8) for s in range(6)]
    prompts = [[5 + (i + j) % 200 for j in range(3 + i % 5)] for _, i, _ in keys]
    found = {}
    for on in (False, True):
        sampler = Sampler(policy, make_tokenizer(), 0, 1.0, 120, 64, graphs=on)
        with torch.autocast("cuda", precision) if precision else contextlib.nullcontext():
            found[on] = sampler.sample(prompts, keys)
    assert not [str(one.message) for one in recwarn if "CUDA graph" in str(one.message)]
    same = [a == b for a, b in zip(found[True].completions, found[False].completions, strict=True)]
    if precision is None:
        assert all(same)
        torch.testing.assert_close(found[True].logps, found[False].logps, rtol=0, atol=1e-4)
    else:  # half precision rounds differently where the shapes differ, and a token may fall on the other side
        assert sum(same) >= 24
        first = [(a[0] - b[0]).abs() for a, b in zip(found[True].logps, found[False].logps, strict=True)]
        assert max(first) < 0.02


def test_memory_that_really_runs_out_halves_what_is_computed_at_once(tmp_path, monkeypatch, capsys):
    wide = {
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_hidden_layers": 8,
        "head_dim": 64,
        "max_position_embeddings": 2048,
    }
    model = save_small_model(tmp_path / "wide", **wide)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    options = {"steps": 1, "epochs": 1, "max_completion_tokens": 256, "prompts_per_batch": 64, "mini_batch_prompts": 64}
    options |= {"micro_batch_tokens": 400_000, "group_size": 16, "eval_problems": 4, "generation_rows": 256}
    train.main(small_run(model, tmp_path / "whole", **options))
    peak = json.loads((tmp_path / "whole" / "summary.json").read_text())["peak_memory_bytes"]
    assert "memory ran out" not in capsys.readouterr().out
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.6 * peak / torch.cuda.mem_get_info()[1])
    train.main(small_run(model, tmp_path / "run", **options))
    assert "memory ran out (CUDA out of memory); micro_batch_tokens is" in capsys.readouterr().out
    (row,), (whole,) = metrics_without_times(tmp_path / "run"), metrics_without_times(tmp_path / "whole")
    assert row["out_of_memory"] >= 1 and row["grad_norm"] == pytest.approx(whole["grad_norm"], rel=0.05)
