"""Where a run computes, and in which precision: what was asked for is done, and no large model lands on a CPU by mistake."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import Qwen3Config

from full import train
from full.errors import UserError
from full.models.loading import number_of_parameters
from full.trainer import launch
from tests.helpers import metrics_without_times, save_small_model, small_run

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "full" / "configs" / "accelerate"
ON_CPU = SimpleNamespace(device=torch.device("cpu"))


@pytest.fixture
def on_gpu_machine(monkeypatch):
    """A machine with a GPU, as far as one can ask; what the trainer asks accelerate for is returned."""
    asked: dict = {}

    def accelerator(**options):
        asked.update(options)
        raise InterruptedError

    monkeypatch.setattr(torch.cuda, "is_available", lambda: os.environ.get("CUDA_VISIBLE_DEVICES") != "")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *device: (7, 5) if "T4" in os.environ else (9, 0))
    monkeypatch.setattr(launch, "Accelerator", accelerator)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")  # so that whatever is set is undone after the test
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    return asked


def start() -> None:
    with pytest.raises(InterruptedError):
        launch.start_accelerator(1)


@pytest.mark.parametrize(
    ("words", "environment", "wanted"),
    [
        ([], {"ACCELERATE_MIXED_PRECISION": "no"}, (False, "bf16")),  # accelerate says so where nobody asked
        (["--mixed_precision", "no"], {}, (False, "no")),
        (["--mixed-precision=bf16"], {}, (False, "bf16")),
        (["--config_file", str(CONFIGS / "one.yaml")], {"ACCELERATE_MIXED_PRECISION": "no"}, (False, "bf16")),
        (["--config_file", str(CONFIGS / "one.yaml"), "--mixed_precision", "no"], {}, (False, "no")),
        (["--config_file", str(CONFIGS / "ddp.yaml")], {}, (False, "bf16")),
        (["--cpu"], {"ACCELERATE_USE_CPU": "True"}, (True, "no")),
        (["--cpu", "--mixed_precision", "bf16"], {"ACCELERATE_USE_CPU": "true"}, (True, "bf16")),
        (["--config_file", str(CONFIGS / "cpu.yaml")], {"CUDA_VISIBLE_DEVICES": ""}, (True, "no")),
        (None, {"ACCELERATE_MIXED_PRECISION": "no"}, (False, "no")),  # python full/train.py: only a user sets it
        (None, {}, (False, "bf16")),
        ([], {"T4": "here"}, (False, "fp16")),
        (["--mixed_precision", "bf16"], {"T4": "here"}, (False, "bf16")),
        ([], {"T4": "here", "ACCELERATE_USE_FSDP": "true"}, (False, "bf16")),  # emulated: nothing scales its gradient
        (["--mixed_precision", "fp16"], {}, (False, "fp16")),
    ],
)
def test_what_was_asked_for_is_done(on_gpu_machine, monkeypatch, words, environment, wanted):
    monkeypatch.setattr(
        launch, "_launcher_words", lambda: [] if words is None else ["python", "accelerate", "launch", *words]
    )
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    start()
    assert (on_gpu_machine["cpu"], on_gpu_machine["mixed_precision"]) == wanted
    assert torch.cuda.is_available() is not wanted[0]  # hidden from whatever asks later, or not


@pytest.mark.parametrize(
    ("words", "environment", "message"),
    [
        ("--mixed_precision fp8", {}, "mixed_precision is fp8; expected bf16, fp16 or no"),
        ("--cpu --mixed_precision fp16", {"ACCELERATE_USE_CPU": "true"}, "is fp16 on a CPU; expected bf16 or no"),
        ("--mixed_precision fp16", {"ACCELERATE_USE_FSDP": "true"}, "fp16 on weights that processes share"),
        ("--mixed_precision fp16", {"ACCELERATE_USE_DEEPSPEED": "true"}, "fp16 on weights that processes share"),
    ],
)  # fmt: skip
def test_precisions_whose_gradients_nothing_scales_are_refused(
    on_gpu_machine, monkeypatch, words, environment, message
):
    monkeypatch.setattr(launch, "_launcher_words", lambda: ["python", "accelerate", "launch", *words.split()])
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"{message}.*--mixed_precision bf16"):
        launch.start_accelerator(1)


def test_cpu_yaml_hides_gpus_from_the_processes():
    # What accelerate itself makes of the file, on a machine that has GPUs for all it knows.
    script = "import os; os.write(1, f\"visible {os.environ.get('CUDA_VISIBLE_DEVICES')!r}\\n\".encode())"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / "cpu.yaml")]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "0"}
    for processes in ("1", "2"):
        done = subprocess.run(
            [*command, "--num_processes", processes, "--no_python", sys.executable, "-c", script],
            env=environment, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.stdout.splitlines() == ["visible '-1,-1'"] * int(processes), done.stderr[-2000:]


def test_bf16_on_a_cpu_is_respected(tmp_path):
    model = save_small_model(tmp_path / "model")
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--mixed_precision", "bf16"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "full/train.py", *small_run(model, tmp_path / "run", steps=1)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "on 1 x cpu, bf16" in done.stdout
    assert metrics_without_times(tmp_path / "run")[0]["mismatch_mean"] > 0  # sampling and scoring round differently


def large(folder: Path) -> str:
    """A folder that holds the configuration of Qwen3-1.7B, and nothing else."""
    sizes = {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "head_dim": 128}
    heads = {"num_attention_heads": 16, "num_key_value_heads": 8, "vocab_size": 151936, "tie_word_embeddings": True}
    Qwen3Config(**sizes, **heads).save_pretrained(folder)
    return str(folder)


def test_parameters_are_counted_before_loading(tmp_path):
    assert number_of_parameters(large(tmp_path)) == 1_720_574_976
    assert number_of_parameters(str(tmp_path / "nothing")) == 0


def test_a_large_model_stops_on_a_cpu_unless_one_insists(tmp_path):
    folder = large(tmp_path)
    message = (
        r"has 1.7 billion parameters and no GPU is in use; expected a GPU, or at most 0.5 billion.*--allow_cpu true"
    )
    with pytest.raises(UserError, match=message):
        launch.require_fitting_device(ON_CPU, folder, folder, allow_cpu=False)
    launch.require_fitting_device(ON_CPU, folder, folder, allow_cpu=True)
    launch.require_fitting_device(SimpleNamespace(device=torch.device("cuda", 0)), folder, folder, allow_cpu=False)


def test_a_run_of_a_large_model_stops_before_it_is_loaded(tmp_path):
    model = save_small_model(tmp_path / "model")
    (model / "model.safetensors").unlink()  # loading it would say another thing
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"vocab_size": 10**9}))
    with pytest.raises(UserError, match=r"has 16.0 billion parameters and no GPU is in use"):
        train.main(small_run(model, tmp_path / "run"))


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """A machine whose driver knows a GPU that torch does not."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 535.161.08'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return program


def test_a_gpu_that_torch_cannot_use_stops_the_run(nvidia_smi, tmp_path, monkeypatch):
    model = str(save_small_model(tmp_path / "model"))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    message = (
        r"nvidia-smi sees 1 x NVIDIA H100 80GB HBM3 with driver 535.161.08, and torch .*, built for CUDA 13.0, cannot use it; "
        "expected one that it can. Either update the driver, or install a torch.*--allow_cpu true"
    )
    with pytest.raises(UserError, match=message):
        launch.require_fitting_device(ON_CPU, model, model, allow_cpu=False)
    launch.require_fitting_device(ON_CPU, model, model, allow_cpu=True)
    launch.require_fitting_device(ON_CPU, "tiny", model, allow_cpu=False)  # a CPU is right for it
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(UserError, match="built for CPUs alone, cannot use it"):
        launch.require_fitting_device(ON_CPU, model, model, allow_cpu=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # whoever hides it knows of it
    launch.require_fitting_device(ON_CPU, model, model, allow_cpu=False)


@pytest.mark.parametrize("content", ["#!/bin/sh\nexit 9\n", "#!/bin/sh\necho 'No devices were found'\n"])
def test_a_driver_without_a_gpu_is_no_fault(nvidia_smi, content):
    nvidia_smi.write_text(content)
    assert launch.unusable_gpus() == ""


def test_tests_see_no_gpu():
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
