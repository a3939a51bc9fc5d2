"""On a GPU, shown on a pretended one: no operation has operands on two devices, and few wait for the device."""

import json
import math
from types import SimpleNamespace

import pytest
import torch

from full.config import parse_config
from full.data.order import ProblemOrder
from full.trainer import state
from full.trainer.checkpoints import Progress
from full.trainer.rollout import collect
from full.trainer.state import set_up
from full.trainer.update import train_step
from tests.helpers import save_small_model, small_run
from tests.pretended_device import CUDA, PretendedAccelerator, PretendedDevice, move, pretend_cuda

LAYERS, TOKENS = 2, 6  # of the small model, and of its completions


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def problems(tmp_path_factory):
    """Problems of different lengths, so that their prompts are padded."""
    path = tmp_path_factory.mktemp("data") / "problems.jsonl"
    rows = [{"problem": "1" * (1 + i % 7) + f"+{i}", "solution": rf"\boxed{{{i}}}", "level": "1"} for i in range(60)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rehearse(monkeypatch, model, data, folder, *, half="bf16", **changes):
    """Waits of an evaluation, of sampling a batch and of its updates; and the updates' metrics."""
    pretend_cuda(monkeypatch)
    monkeypatch.setattr(state, "plan_memory", lambda config, *args, **more: (config, SimpleNamespace(line=str)))
    options = {
        "micro_batch_tokens": 2048,
        "generation_rows": 64,
        "data": data,
        "eval_problems": 4,
        "prompts_per_batch": 4,
        "mini_batch_prompts": 2,
    } | changes
    config, _ = parse_config(small_run(model, folder, **options))
    # Recomputed layers without autocast, see `_Autocast`.
    precision = "no" if config.gradient_checkpointing else half
    trainer = set_up(config, PretendedAccelerator(precision), resume=False)
    trainer.run.path.mkdir()
    assert {p.device for p in trainer.model.parameters()} == {CUDA}
    order, progress, rows = ProblemOrder(len(trainer.problems), config.prompts_per_batch, config.seed), Progress(), []
    waits = {}
    with PretendedDevice() as device:
        trainer.evaluate()
        waits["evaluate"] = device.take()
        progress.rollout = collect(trainer, order.batch(0), batch=0, step=0)
        waits["sample"] = device.take()
        for number in range(trainer.plan.updates):
            rows.append(train_step(trainer, progress))
            progress.advance(trainer.plan.updates)
            waits[f"update {number}"] = device.take()
    trainer.close()
    return waits, rows, trainer


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"micro_batch_tokens": 100, "objective": "dapo", "schedule": "ess"},
        {"lora_rank": 2, "schedule": "fixed", "off_policy": "clip"},
        {"gradient_checkpointing": True, "epochs": 1},
    ],
    ids=str,
)
def test_a_step_has_its_operands_on_one_device_and_hardly_waits_for_it(model, problems, tmp_path, monkeypatch, changes):
    waits, rows, trainer = rehearse(monkeypatch, model, problems, tmp_path / "run", **changes)
    assert all(math.isfinite(row["grad_norm"]) and row["grad_norm"] > 0 for row in rows)
    for number in range(trainer.plan.updates):
        # The gradient's norm; from the second update of a batch on, what was scored again. However many passes it takes.
        assert sum(waits[f"update {number}"].values()) <= (1 if number == 0 else 2), waits[f"update {number}"]
    scored = {"evaluate": 0, "sample": trainer.plan.updates > 1}
    for name, more in scored.items():
        # A token: whether rows have ended, and transformers' question, of the prompts twice. A call: the cache's empty
        # layers (transformers), the tokens, their log-probabilities. Once: log-probabilities that later updates need.
        assert sum(waits[name].values()) <= 2 * TOKENS + 1 + 2 * LAYERS + 2 + more, waits[name]


def test_float16_hardly_waits_more(model, problems, tmp_path, monkeypatch):
    monkeypatch.setattr(state, "check_range", lambda *args: None)  # before the pretended device is there
    waits, rows, trainer = rehearse(monkeypatch, model, problems, tmp_path / "run", half="fp16", lora_rank=2)
    assert [row["overflows"] for row in rows] == [0] * trainer.plan.updates
    assert all(math.isfinite(row["grad_norm"]) and row["grad_norm"] > 0 for row in rows)
    base = {p.dtype for name, p in trainer.model.named_parameters() if "base_layer" in name}
    assert base == {torch.float16}
    for number in range(trainer.plan.updates):
        print(waits[f"update {number}"])
        assert sum(waits[f"update {number}"].values()) <= 4, waits[f"update {number}"]


def test_what_a_gpu_refuses_is_refused_and_what_waits_is_noted(monkeypatch):
    pretend_cuda(monkeypatch)
    with PretendedDevice() as device:
        here, there = torch.arange(3.0), torch.arange(3.0).to(CUDA, non_blocking=True)
        assert not device.take()
        with pytest.raises(RuntimeError, match="expected all tensors to be on the same device"):
            here + there
        with pytest.raises(RuntimeError, match="expected tensor, indices and values"):
            here[there.long()]
        with pytest.raises(RuntimeError, match="expected all tensors to be on the same device"):
            torch.stack([here, there])
        assert (there * torch.tensor(2.0)).device == CUDA  # a number on the CPU is allowed
        assert not device.take()
        waiting = [
            lambda: there.sum().item(),
            lambda: bool((there > 1).any()),
            lambda: there.tolist(),
            lambda: there.cpu(),
            lambda: here.copy_(there),
            lambda: here.to(CUDA),
            lambda: torch.tensor([1, 2], device=CUDA),
            lambda: there.nonzero(),
            lambda: there[there > 1],
            lambda: there[torch.tensor([0, 2])],
            lambda: there.masked_select(there > 1),
            lambda: torch.equal(there, there),
        ]
        for number, wait in enumerate(waiting):
            wait()
            assert sum(device.take().values()) == 1, number
        for name, number in device.waits:
            assert name and number
        quiet = torch.zeros(3, device=CUDA).index_copy(0, there.long(), there).masked_fill(there > 1, 0.0)
        assert quiet.device == CUDA and not device.take()


def test_gradients_on_the_pretended_device_are_those_of_the_cpu():
    torch.manual_seed(0)
    layer, rows = torch.nn.Linear(4, 3), torch.randn(2, 4)
    layer(rows).square().sum().backward()
    wanted = layer.weight.grad
    other = torch.nn.Linear(4, 3)
    other.load_state_dict(layer.state_dict())
    with PretendedDevice():
        move(other)
        other(rows.to(CUDA)).square().sum().backward()
        assert other.weight.grad.device == CUDA
        torch.testing.assert_close(other.weight.grad.cpu(), wanted)
