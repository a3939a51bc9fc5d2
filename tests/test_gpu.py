"""What only a GPU can show: `pytest -m gpu`."""

import json
import warnings

import pytest
import torch
from accelerate.state import AcceleratorState

from full import train
from full.config import parse_config
from full.data.order import ProblemOrder
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


def test_a_run_computes_in_bf16_and_without_it_in_float32(model, tmp_path, monkeypatch, capsys):
    rows = {}
    for precision in ("bf16", "no"):
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", precision)
        AcceleratorState._reset_state(reset_partial_state=True)
        train.main(small_run(model, tmp_path / precision, steps=2))
        assert f"on 1 x cuda, {precision.replace('no', 'float32')}" in capsys.readouterr().out
        rows[precision] = metrics_without_times(tmp_path / precision)
    assert rows["no"][0].get("mismatch_max", 0.0) < 1e-3 < rows["bf16"][0]["mismatch_max"] * 10
    assert json.loads((tmp_path / "bf16" / "summary.json").read_text())["peak_memory_bytes"] > 0


def test_an_update_hardly_waits_for_the_device(model, tmp_path):
    config, _ = parse_config(small_run(model, tmp_path / "run"))
    trainer = set_up(config, start_accelerator(), resume=False)
    trainer.run.path.mkdir()
    order, progress = ProblemOrder(len(trainer.problems), config.prompts_per_batch, config.seed), Progress()
    progress.rollout = collect(trainer, order.batch(0), batch=0, step=0)
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
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction(min(1.0, 6 * 2**30 / total))
    train.main(small_run(model, tmp_path / "run", **options))
    assert "memory ran out (CUDA out of memory); micro_batch_tokens is" in capsys.readouterr().out
    (row,) = metrics_without_times(tmp_path / "run")
    assert row["out_of_memory"] >= 1 and row["grad_norm"] > 0
