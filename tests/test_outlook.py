"""What is said before a run: memory, disk and time, on machines that are not here."""

import collections
import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType

from full import train
from full.config import TrainConfig, parse_config
from full.doctor.judge import disk_section
from full.errors import UserError
from full.trainer import outlook as outlook_module
from full.trainer.floor import GPUS, KERNEL, KERNELS_OF_A_LAYER, LAUNCH, REACHED, STREAMED, Work, matmul_rate
from full.trainer.memory import MemoryPlan
from full.trainer.outlook import MEAN_OF_LONGEST, Disk, disk_of, gpu_here, outlook
from tests.fakes import fake_qwen3
from tests.helpers import save_small_model, small_model, small_run
from tests.test_doctor import make_memory

README = Path(__file__).parents[1] / "README.md"
Usage = collections.namedtuple("Usage", "total used free")


def a_run(tmp_path, *, have: float = 80e9, layers: int = 28, **changes) -> SimpleNamespace:
    """As much of a trainer of the 1.7B shape as the outlook reads."""
    config = TrainConfig(output_dir=str(tmp_path / "run"), generation_rows=144, micro_batch_tokens=8192, **changes)
    plan: MemoryPlan = dataclasses.replace(make_memory().plan, have=have)
    return SimpleNamespace(
        config=config,
        accelerator=SimpleNamespace(device=torch.device("cuda"), distributed_type=DistributedType.NO),
        memory=plan,
        model=fake_qwen3("1.7B", layers=layers),
        run=SimpleNamespace(checkpoints=tmp_path / "run" / "checkpoints"),
        plan=SimpleNamespace(local_mini_batch=144, local_completions=288, updates=2),
        prompts=[[0] * 100],
    )


@pytest.fixture
def disk_with(monkeypatch):
    def use(free: float) -> None:
        monkeypatch.setattr(outlook_module.shutil, "disk_usage", lambda path: Usage(1e12, 0, int(free)))

    return use


def test_a_checkpoint_of_the_papers_run_is_20_65_gb(tmp_path, disk_with):
    disk_with(100e9)
    disk = disk_of(a_run(tmp_path))
    assert disk.checkpoint / 1e9 == pytest.approx(20.65, abs=0.005)  # weights and two moments in float32
    # Two are kept while a third is written, and then the model: 62 + 7 GB.
    assert disk.count == 3 and disk.needed / 1e9 == pytest.approx(3 * 20.647 + 6.882, abs=0.01)
    assert disk_of(a_run(tmp_path, model_dtype="bfloat16")).model / 1e9 == pytest.approx(3.441, abs=0.001)
    assert disk_of(a_run(tmp_path, steps=20, save_every=20)).count == 1
    assert disk_of(a_run(tmp_path, steps=21, save_every=20)).count == 2
    assert disk_of(a_run(tmp_path, save_every=0)).count == 1
    assert disk_of(a_run(tmp_path, keep_checkpoints=1)).count == 2


def test_what_a_run_has_written_already_is_room_for_it(tmp_path, disk_with):
    disk_with(1e9)
    for name, length in (("step-20/a/weights", 1000), ("step-40/weights", 500), ("other/weights", 7)):
        path = tmp_path / "run" / "checkpoints" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(b"0" * length)
    assert disk_of(a_run(tmp_path, layers=1)).held == 1500


def test_a_disk_without_room_stops_the_run_before_its_first_step(tmp_path, disk_with, capsys):
    model = save_small_model(tmp_path / "model")
    disk_with(1000)
    with pytest.raises(UserError, match=r"1 kB free; expected .* for 3 checkpoints of .* --keep_checkpoints 1"):
        train.main(small_run(model, tmp_path / "run"))
    assert "evaluating" not in capsys.readouterr().out
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_tight_disk_is_a_warning(tmp_path, disk_with, capsys):
    model = save_small_model(tmp_path / "model")
    weights = sum(p.nbytes for p in small_model(dtype=torch.float32).parameters())
    disk_with(4.3 * weights)  # a checkpoint is three times the weights, and the model: 4 of 4.3 are written
    train.main(small_run(model, tmp_path / "tight", steps=1))
    assert "warning: the disk is tight: " in capsys.readouterr().out
    disk_with(100 * weights)
    train.main(small_run(model, tmp_path / "roomy", steps=1))
    assert "the disk" not in capsys.readouterr().out  # nothing to say, on a CPU


def test_the_doctor_tells_of_the_disk(tmp_path):
    disk = Disk(checkpoint=20e9, count=3, model=7e9, free=100e9, held=0.0, folder=tmp_path)
    config = TrainConfig()
    assert disk_section(config, disk).verdict == "ok"
    assert disk_section(config, dataclasses.replace(disk, free=70e9)).verdict == "look"
    short = disk_section(config, dataclasses.replace(disk, free=60e9))
    assert short.verdict == "stop" and "67 GB for 3 checkpoints of 20 GB and model/" in short.remarks[0][1]
    resumed = disk_section(config, dataclasses.replace(disk, free=29e9, held=40e9))
    assert resumed.verdict == "look"  # 27 GB more, of 29
    assert (
        "--lora_rank"
        not in disk_section(dataclasses.replace(config, lora_rank=4), dataclasses.replace(disk, free=1e9)).remarks[0][1]
    )


def test_on_a_gpu_three_lines_are_said(tmp_path, disk_with, monkeypatch):
    disk_with(500e9)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    memory, disk, seconds = outlook(a_run(tmp_path))
    assert memory == "fits: about 46 GB of 80 GB of the GPU's memory (57%)"
    assert disk == "disk: 68.8 GB for 3 checkpoints of 20.6 GB and model/; 500 GB are free"
    assert seconds.startswith("time: about ") and "with completions of 512 tokens" in seconds
    tight, _, _ = outlook(a_run(tmp_path, have=50e9))
    assert tight.startswith("warning: sampling needs about 46 GB of 50 GB") and "--generation_rows 190" in tight
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100-SXM2-32GB")
    assert "not estimated" in outlook(a_run(tmp_path))[-1]


# The floor


def a_step(**changes) -> Work:
    values = {
        "body": 1e9, "head": 1e8, "attention": 1e5, "layers": 10, "cache": 1e5, "frozen": False, "rows": 10.0, "prompts": 2.0,
        "prompt": 100.0, "completion": 50.0, "longest": 80.0, "rescored": 0.5, "batch": 20, "rows_at_once": 8, "updates": 2,
    }  # fmt: skip
    return Work(**(values | changes))


def test_operations_by_hand():
    work = a_step()
    # A token of a completion: 2 (1e9 + 1e8) + 4 x 1e5 x 125; 500 of them, and 200 of prompts without the head.
    forward = 500 * (2.2e9 + 5e7) + 200 * 2e9
    assert work.operations(1.0) == pytest.approx(forward)
    assert work.step_operations == pytest.approx(
        (1 + 3 + 0.5) * forward
    )  # sampled, forward, twice backward, half scored
    assert a_step(frozen=True).step_operations == pytest.approx(3.5 * forward)
    assert work.floor(1e12) == pytest.approx(4.5 * forward / 1e12)


def test_seconds_on_a_gpu_by_hand():
    gpu = gpu_here("NVIDIA H100 80GB HBM3")
    assert gpu is GPUS[0] and gpu_here("NVIDIA H200").bandwidth == 4.8e12 and gpu_here("Tesla V100") is None
    assert gpu_here("NVIDIA GeForce RTX 4090").rate == 165e12 and gpu_here("NVIDIA GeForce RTX 4090 Laptop GPU") is None
    assert gpu_here("NVIDIA T400 4GB") is None  # no T4
    work = a_step()
    # 20 rows in three passes of 80 tokens, for two updates. A token: 540 kernels, 2.2e9 + 20 / 3 x 125 x 1e5 bytes.
    token = 540 * KERNEL + (2.2e9 + 20 / 3 * 125 * 1e5) / (STREAMED * 3.35e12)
    assert KERNELS_OF_A_LAYER == 54 and work.sampling_on(gpu) == pytest.approx(3 * 80 * token / 2)
    assert a_step(graphs=False).sampling_on(gpu) == pytest.approx(3 * 80 * 540 * LAUNCH / 2)
    heavy = a_step(body=1e11, graphs=False)  # the weights take longer to read than the kernels to start
    assert heavy.sampling_on(gpu) == a_step(body=1e11).sampling_on(gpu) > 3 * 80 * 540 * LAUNCH
    assert work.update_on(gpu) == pytest.approx(work.operations(3.5) / (REACHED * 989e12))
    assert work.step_on(gpu) == work.sampling_on(gpu) + work.update_on(gpu)


def test_the_readmes_hour_on_a_t4_is_by_this_arithmetic():
    # gpu_15gb.yaml: 60 steps of 16 prompts of 120 tokens, 8 completions each of at most 768, by the mean share of them; 72 at
    # once. Of the 0.6B shape: 28 layers of 15.73e6 entries.
    t4 = gpu_here("Tesla T4")
    work = a_step(
        body=28 * 15.73e6, head=151936 * 1024.0, attention=28 * 2048.0, layers=28, cache=28 * 2 * 8 * 128 * 2.0, frozen=True,
        rows=128.0, prompts=16.0, prompt=120.0, completion=MEAN_OF_LONGEST * 768, longest=768.0, rescored=0.0, batch=128,
        rows_at_once=72, updates=1,
    )  # fmt: skip
    assert 60 * work.step_on(t4) == pytest.approx(3600, rel=0.15)
    row = next(line for line in README.read_text().splitlines() if "gpu_15gb.yaml" in line)
    assert "an hour for 60 steps on a T4, by arithmetic" in row
    config, _ = parse_config(["--config", str(README.parent / "full" / "configs" / "gpu_15gb.yaml")])
    assert (config.steps, config.prompts_per_batch, config.group_size, config.epochs) == (60, 16, 8, 1)


SHAPE = {"body": 1.41e9, "head": 3.11e8, "attention": 28 * 2048.0, "layers": 28, "cache": 114_688.0}  # Qwen3-1.7B


def test_the_readmes_seconds_of_the_papers_step_are_by_this_arithmetic():
    # 144 completions of 500 tokens, the longest 1,280, behind 24 prompts of 120; half of a batch of 288 is scored again.
    step = {"rows": 144.0, "prompts": 24.0, "prompt": 120.0, "completion": 500.0, "longest": 1280.0, "batch": 288}
    halves, whole = (a_step(**SHAPE, **step, rows_at_once=rows) for rows in (176, 288))
    h100, h200 = gpu_here("NVIDIA H100 80GB HBM3"), gpu_here("NVIDIA H200")
    told = " ".join(README.read_text().split())
    operations, floor = halves.step_operations / 1e15, halves.floor(h100.rate)
    assert (
        f"is {operations:.1f} PFLOP in matrix products: {floor:.1f} s at the 989 TFLOP/s of an H100's or an H200's"
        in told
    )
    on_h100, sampling = round(halves.step_on(h100)), round(halves.sampling_on(h100))
    assert f"about {on_h100} s, {sampling} of them sampling 144 completions at a time" in told
    assert f"with all 288 at once on an H200 about {round(whole.step_on(h200))} s" in told
    row = next(line for line in told.split("| Qwen3") if "gpu_80gb.yaml" in line)
    minutes = int(row.split(" minutes for 200 steps on an H100")[0].split()[-1])
    assert minutes == pytest.approx(200 * halves.step_on(h100) / 60, rel=0.05)


@pytest.mark.parametrize(
    ("file", "gpu", "rows", "hours"),
    [("gpu_24gb", "RTX 4090", 56, 5), ("gpu_48gb", "L40S", 64, 5)],  # rows: of the files, see test_memory.py
)
def test_the_readmes_hours_on_smaller_gpus_are_by_this_arithmetic(file, gpu, rows, hours):
    config, _ = parse_config(["--config", file])
    step = {"rows": 144.0, "prompts": 24.0, "prompt": 120.0, "completion": MEAN_OF_LONGEST * 1280, "longest": 1280.0}
    work = a_step(**SHAPE, **step, batch=288, rows_at_once=rows, frozen=config.lora_rank > 0)
    assert config.steps == 200 and 200 * work.step_on(gpu_here(f"NVIDIA {gpu}")) == pytest.approx(3600 * hours, rel=0.1)
    row = next(line for line in README.read_text().splitlines() if f"configs/{file}.yaml` |" in line)
    assert f"{hours} hours for 200 steps on an {gpu}, by arithmetic" in row


def test_the_estimate_is_near_what_an_h200_took():
    # Qwen3-1.7B, 288 completions of 1,280 tokens, two updates: a batch 25 s (3 of them scoring), the updates 10.5 and 10.3 s.
    # Sampling 176 of them took 20 s.
    shape = SHAPE | {"prompt": 18.0}
    run = {"rows": 144.0, "prompts": 24.0, "completion": 1275.0, "longest": 1280.0, "batch": 288, "rows_at_once": 288}
    h200 = gpu_here("NVIDIA H200")
    work = a_step(**shape, **run)
    assert 2 * work.sampling_on(h200) == pytest.approx(22, rel=0.2)
    assert work.update_on(h200) == pytest.approx(10.4, rel=0.15)
    fewer = a_step(**shape, **run | {"batch": 176, "rows_at_once": 176})
    assert 2 * fewer.sampling_on(h200) == pytest.approx(20, rel=0.2)
    # Without graphs the same batch took 90 s, scoring included.
    assert 2 * a_step(**shape, **run, graphs=False).sampling_on(h200) == pytest.approx(87, rel=0.1)


def test_the_rate_of_this_machine_is_one():
    assert 1e9 < matmul_rate(torch.device("cpu"), None) < 1e14
