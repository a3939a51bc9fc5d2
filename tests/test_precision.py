"""float16 with a scaled gradient: what is computed, what happens where it overflows, and which GPU gets it."""

import json
import math
import shutil

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from full import train
from full.errors import NotFiniteError, UserError
from full.logprobs.tokens import token_logps
from full.trainer import precision
from tests.helpers import metrics_without_times, save_small_model, small_model, small_run

IDS = torch.tensor([[5, 9, 30, 7, 40, 41, 2], [11, 12, 13, 14, 42, 43, 44]])
COMPLETION = (torch.arange(7) >= 4).long().expand(2, 7)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("model"))


def fp16_on_a_cpu(scale: float) -> Accelerator:
    """accelerate's own fp16, which it leaves out on a CPU: its autocast and its scaling of loss, gradient and steps."""
    AcceleratorState._reset_state(reset_partial_state=True)  # it keeps the precision of a process's first one
    accelerator = Accelerator(cpu=True, mixed_precision="fp16")
    accelerator.native_amp, accelerator.scaler = True, torch.amp.GradScaler("cpu", init_scale=scale)
    return accelerator


@pytest.fixture
def run(model, tmp_path, monkeypatch):
    """A run in float16 on this CPU: its folder."""

    def start(name: str, scale: float = 2.0**16, *, model=model, resume=False, **changes):
        words = ["--resume", str(tmp_path / name)] if resume else small_run(model, tmp_path / name, **changes)
        with monkeypatch.context() as patch:
            patch.setattr(train, "start_accelerator", lambda *args, **options: fp16_on_a_cpu(scale))
            train.main(words)
        AcceleratorState._reset_state(reset_partial_state=True)
        return tmp_path / name

    yield start
    AcceleratorState._reset_state(reset_partial_state=True)


def gradient(model, half: torch.dtype | None, *, scale: float, coefficient: float) -> torch.Tensor:
    """Of coefficient * the sum of log-probabilities, divided by the scale: of all weights, one after another."""
    model.zero_grad()
    with torch.autocast("cpu", half or torch.bfloat16, enabled=half is not None):
        (coefficient * token_logps(model, IDS, torch.ones_like(IDS), COMPLETION)).sum().mul(scale).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]) / scale


def test_the_scale_keeps_what_float16_alone_would_lose():
    model = small_model(dtype=torch.float32)
    for coefficient in (1.0, 1e-6):  # of a batch: an advantage over completions times tokens
        exact = gradient(model, None, scale=1.0, coefficient=coefficient)
        errors = {}
        for half, scale in ((torch.float16, 2.0**16), (torch.float16, 1.0), (torch.bfloat16, 1.0)):
            off = gradient(model, half, scale=scale if coefficient < 1 else 1.0, coefficient=coefficient) - exact
            errors[half, scale] = (off.norm() / exact.norm()).item()
        assert errors[torch.float16, 2.0**16] < 0.01
        assert errors[torch.float16, 2.0**16] < 0.5 * errors[torch.bfloat16, 1.0]  # three binary digits more
    assert errors[torch.float16, 1.0] > 0.1  # numbers below 6e-8 became 0


def test_a_gradient_that_overflows_is_computed_again_and_no_step_is_lost(run, capsys):
    right = run("right", steps=3)
    saved = load_file(right / "model" / "model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    assert "overflowed" not in capsys.readouterr().out
    high = run("high", 2.0**40, steps=3)
    said = capsys.readouterr().out
    before, after = metrics_without_times(right), metrics_without_times(high)
    times = int(after[0]["overflows"])
    assert {row["overflows"] for row in before} == {0}
    assert 0 < before[0]["mismatch_max"] < 0.02  # half precision, and finer than bfloat16, where it reaches 0.2
    assert times > 10 and [row["overflows"] for row in after[1:]] == [0, 0]
    assert said.count("overflowed") == 1
    assert (
        f"float16: the gradient of step 1 overflowed {times} x and was computed again, in the end with a scale of "
        in said
    )
    assert f"a scale of {2.0 ** (40 - times):g}; no step is lost" in said
    # A power of two scales without rounding, where nothing underflows: the same steps were made.
    for ours, theirs in zip(after, before, strict=True):
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-3)
    ours, theirs = (load_file(folder / "model" / "model.safetensors") for folder in (high, right))
    moved = max((ours[name] - theirs[name]).abs().max().item() for name in ours)
    assert moved < 1e-3  # three steps of lr 1e-3 at most move a weight by 3e-3


def test_the_gradient_is_clipped_at_its_true_size(run, monkeypatch):
    seen = []
    clip = torch.nn.utils.clip_grad_norm_

    def note(parameters, *args, **options):
        parameters = list(parameters)
        norm = clip(parameters, *args, **options)
        seen.append((float(norm), math.hypot(*(float(p.grad.norm()) for p in parameters if p.grad is not None))))
        return norm

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", note)
    rows = metrics_without_times(run("clipped", steps=1, max_grad_norm=1e-3))
    for (before, after), row in zip(seen, rows, strict=True):
        assert before == row["grad_norm"] < 1e3  # 65,536 times that, were it clipped while scaled
        assert after == pytest.approx(1e-3, rel=1e-3)


def test_a_gradient_that_no_scale_makes_finite_stops_the_run(run, monkeypatch, tmp_path):
    monkeypatch.setattr("full.trainer.update.clip", lambda *args: math.inf)
    with pytest.raises(NotFiniteError, match=r"a gradient norm is not finite.*than float16's: --mixed_precision bf16"):
        run("never", steps=1)
    assert not (tmp_path / "never" / "metrics.jsonl").exists() or not metrics_without_times(tmp_path / "never")


def test_a_resumed_run_has_its_scale_and_none_is_made_up(run, tmp_path):
    whole = run("whole", 2.0**40, steps=2, lora_rank=2)
    state = torch.load(whole / "checkpoints" / "step-2" / "scaler.pt", weights_only=True)
    assert state["scale"] == 2.0 ** (40 - metrics_without_times(whole)[0]["overflows"])
    half = load_file(whole / "checkpoints" / "step-2" / "model.safetensors")
    assert {half[name].dtype for name in half if ".base_layer." in name} == {torch.float16}
    assert {half[name].dtype for name in half if ".lora_" in name} == {torch.float32}
    shutil.copytree(whole, tmp_path / "resumed")
    shutil.rmtree(tmp_path / "resumed" / "checkpoints" / "step-2")
    run("resumed", resume=True)
    assert metrics_without_times(tmp_path / "resumed") == metrics_without_times(whole)
    again = torch.load(tmp_path / "resumed" / "checkpoints" / "step-2" / "scaler.pt", weights_only=True)
    assert again == state
    # Of another precision there is none.
    first = tmp_path / "resumed" / "checkpoints" / "step-1"
    manifest = json.loads((first / "manifest.json").read_text())
    del manifest["files"]["scaler.pt"]
    (first / "scaler.pt").unlink()
    (first / "manifest.json").write_text(json.dumps(manifest))
    shutil.rmtree(tmp_path / "resumed" / "checkpoints" / "step-2")
    with pytest.raises(UserError, match=r"was written without float16's scale.*--mixed_precision bf16 or no"):
        run("resumed", resume=True)


def test_a_model_beyond_float16_is_refused_before_it_trains(model, tmp_path, run):
    large = AutoModelForCausalLM.from_pretrained(model)
    with torch.no_grad():
        large.model.layers[0].mlp.down_proj.weight.mul_(
            1e6
        )  # its products are beyond 65,504; norms forgive that in float32
    large.save_pretrained(tmp_path / "large")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (model / name).exists():
            shutil.copy(model / name, tmp_path / "large" / name)
    with pytest.raises(
        UserError, match=r"no numbers .NaN. in float16, whose range ends at 65,504.*--mixed_precision bf16"
    ):
        run("run", model=tmp_path / "large", steps=1)


@pytest.mark.parametrize(
    ("capability", "sharded", "wanted"),
    [
        ((7, 5), False, "fp16"),
        ((7, 0), False, "fp16"),
        ((8, 0), False, "bf16"),
        ((9, 0), False, "bf16"),
        ((7, 5), True, "bf16"),
    ],
)
def test_the_gpu_decides_where_nobody_asked(monkeypatch, capability, sharded, wanted):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *device: capability)
    assert precision.best_precision(sharded=sharded) == wanted


@pytest.mark.parametrize(
    ("name", "capability", "mixed", "line"),
    [
        ("T4", (7, 5), "fp16", "products in float16, the gradient scaled, since this GPU has no bfloat16 (T4, compute"),
        ("T4", (7, 5), "bf16", "products in bfloat16, which this GPU emulates slowly: --mixed_precision fp16 (T4"),
        ("L4", (8, 9), "bf16", "products in bfloat16 (L4, compute capability 8.9)"),
        ("L4", (8, 9), "fp16", "products in float16, the gradient scaled (L4"),
        ("L4", (8, 9), "no", "float32 (L4"),
    ],
)  # fmt: skip
def test_the_choice_is_said(monkeypatch, name, capability, mixed, line):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *device: name)

    class Here:
        device, mixed_precision = torch.device("cuda", 0), mixed

    assert precision.precision_line(Here()).startswith(f"precision: {line}")
