"""The memory model against the bytes that the trainer's own functions allocate, and what fits by it."""

import contextlib
import dataclasses
import json
import math
import os
import platform
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
import yaml
from accelerate.utils import DistributedType

import full.engines.hf as hf
import full.trainer.memory as memory_module
from full import heap, train
from full.config import TrainConfig, parse_config
from full.halving import Halving
from full.logprobs import lm_head
from full.logprobs.packing import attention_pair_cost, micro_batches, pack
from full.logprobs.tokens import Policy
from full.models.adapters import add_adapters
from full.report import console
from full.trainer.memory import (
    SHARE_OF_GPU,
    Head,
    MemoryModel,
    MemoryPlan,
    alternatives,
    choose_sizes,
    kept_bytes,
    memory_model,
    round_down,
    widest_row,
)
from full.trainer.update import push_coefficients
from tests.fakes import LiveBytes, fake_qwen3
from tests.helpers import metrics_without_times, save_small_model, small_model, small_run

ROOT = Path(__file__).parents[1]
BF16 = torch.bfloat16
KINDS = {
    "full": {},
    "checkpointing": {"checkpointing": True},
    "LoRA": {"lora_rank": 16},
    "LoRA, checkpointing": {"lora_rank": 16, "checkpointing": True},
}


class OneProcess:
    """As much of an Accelerator as an update needs, on a CPU."""

    device, num_processes, process_index = torch.device("cpu"), 1, 0
    is_fsdp2, distributed_type = False, DistributedType.NO

    def __init__(self, half: torch.dtype | None) -> None:
        self.half = half

    def autocast(self):
        return torch.autocast("cpu", self.half) if self.half else contextlib.nullcontext()

    def no_sync(self, policy):
        return contextlib.nullcontext()

    def gather(self, tensor):
        return tensor

    def reduce(self, tensor, reduction):
        return tensor

    def backward(self, loss):
        loss.backward()


def measure_update(model, *, tokens: int, prompt: int, completion: int, half=torch.bfloat16):
    """(peak of an update of two micro-batches, by the trainer's own function; peak of AdamW's step; the micro-batches'
    tokens; their rows' width)."""
    group, pair_cost = 6, attention_pair_cost(model)
    count = 2 * (tokens // (prompt + completion)) + 1
    mini = SimpleNamespace(
        prompts=[[1 + i // group] * prompt for i in range(count)],
        completions=[[1] * (completion - i % 3) for i in range(count)],
    )
    options = {"device": torch.device("cpu"), "pair_cost": pair_cost}
    cut = [rows.input_ids for rows in micro_batches(mini.prompts, mini.completions, tokens, **options)]
    assert len(cut) > 1
    trainer = SimpleNamespace(
        config=TrainConfig(micro_batch_tokens=tokens),
        accelerator=OneProcess(half),
        policy=Policy(model),
        pair_cost=pair_cost,
        micro_batch=Halving("micro_batch_tokens", tokens),
        engine=SimpleNamespace(halvings=0),
    )
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6, fused=True)
    with LiveBytes(model.parameters()) as live:
        push_coefficients(trainer, mini, torch.ones(count, completion))
        update, live.peak = live.peak, live.now
        optimizer.step()
    return update, live.peak, max(ids.numel() for ids in cut), max(ids.shape[1] for ids in cut)


def first_update(memory: MemoryModel, tokens: int, width: int) -> float:
    """What the model says of an update before there are moments, as a dispatch mode counts it.

    Under one, autograd adds the two gradients of a tied weight into a third tensor; in a run it adds in place.
    """
    third = memory.head.gradient * memory.tied
    end = memory.resting + memory.gradients + memory.copies + 2 * third
    return max(memory.updating(tokens, width), end + third) - memory.moments


def measure_sampling(model, monkeypatch, *, rows: int, prompt: int, completion: int, half=torch.bfloat16) -> float:
    """Peak of the sampler at the end of its longest completions; long prompts fill the cache in their place."""

    def draw(logits, *args):  # counted, and then what a fake tensor cannot say
        real_draw(logits, *args)
        return torch.ones(len(logits), dtype=torch.long), *torch.zeros(2, len(logits))

    real_draw, filled = hf.draw, prompt + completion - 2
    sampler = hf.Sampler(model, SimpleNamespace(pad_token_id=0, eos_token_id=2), 0, 1.0, 2, rows)
    prompts = [
        [1] * (filled - i % 2) for i in range(rows)
    ]  # two distinct ones, of two lengths, so that there is a mask
    with monkeypatch.context() as patch, OneProcess(half).autocast(), LiveBytes(model.parameters()) as live:
        patch.setattr(hf, "draw", draw)
        sampler.sample(prompts, [(0, 0, i) for i in range(rows)])
    return live.peak


def extrapolated(shape: str, layers: int = 28, *, shared=None, **options) -> MemoryModel:
    """The memory model of so many layers from those of two and three: every part is constant or grows with the layers."""
    return _extrapolated(shape, layers, tuple((shared or {}).items()), tuple(options.items()))


@cache
def _extrapolated(shape: str, layers: int, shared: tuple, options: tuple) -> MemoryModel:
    two, three = (
        memory_model(
            fake_qwen3(shape, layers=n, **dict(options)), autocast=torch.bfloat16, device="cuda", **dict(shared)
        )
        for n in (2, 3)
    )
    values = {f.name: getattr(two, f.name) for f in dataclasses.fields(two)}
    growth = {name: getattr(three, name) - value for name, value in values.items() if isinstance(value, float | int)}
    return dataclasses.replace(two, **{name: values[name] + (layers - 2) * more for name, more in growth.items()})


# A GPU's run in fake tensors: the trainer's own functions, bfloat16 autocast, the real vocabulary


@pytest.fixture
def chunks_of_a_gpu(monkeypatch):
    """The LM head takes as many tokens at once as on a GPU."""
    monkeypatch.setattr(lm_head, "CHUNK_ELEMENTS", lm_head.CHUNK_ELEMENTS_CUDA)


@pytest.mark.parametrize("shape", ["0.6B", "1.7B"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_an_update_allocates_on_a_gpu(chunks_of_a_gpu, shape, kind):
    model = fake_qwen3(shape, layers=3, **KINDS[kind])
    memory = memory_model(model, autocast=torch.bfloat16, device="cuda")
    update, step, tokens, width = measure_update(model, tokens=8192, prompt=300, completion=700)
    assert first_update(memory, tokens, width) == pytest.approx(update, rel=0.04)
    assert memory.stepping == pytest.approx(step, rel=0.01)


@pytest.mark.parametrize(("shape", "options"), [("0.6B", {}), ("1.7B", {}), ("1.7B", {"lora_rank": 16})])
def test_what_sampling_allocates_on_a_gpu(monkeypatch, shape, options):
    model = fake_qwen3(shape, layers=3, **options)
    memory = memory_model(model, autocast=torch.bfloat16, device="cuda")
    for rows, prompt, completion in ((96, 500, 1280), (200, 10, 30)):  # the cache decides, the vocabulary decides
        measured = measure_sampling(model, monkeypatch, rows=rows, prompt=prompt, completion=completion)
        assert memory.sampling(rows, prompt, completion, prompts=2) - memory.moments == pytest.approx(
            measured, rel=0.05
        )


def test_reading_many_prompts_can_take_more_than_writing_short_answers(monkeypatch):
    model = fake_qwen3("0.6B", layers=2, vocab_size=1000)
    memory = memory_model(model, autocast=torch.bfloat16, device="cuda")
    sampler = hf.Sampler(model, SimpleNamespace(pad_token_id=0, eos_token_id=2), 0, 1.0, 1, 48)
    monkeypatch.setattr(hf, "draw", lambda logits, *_: (torch.ones(48, dtype=torch.long), *torch.zeros(2, 48)))
    with torch.autocast("cpu", torch.bfloat16), LiveBytes(model.parameters()) as live:
        sampler.sample([[i + 1] * (500 - i % 2) for i in range(48)], [(0, 0, i) for i in range(48)])
    assert memory.sampling(48, 500, 1) - memory.moments == pytest.approx(live.peak, rel=0.05)
    assert memory.sampling(48, 500, 1) > 1.5 * memory.sampling(48, 500, 1, prompts=2)


def plan_for(memory: MemoryModel, gigabytes: float, **changes) -> tuple[TrainConfig, MemoryPlan]:
    """The paper's run with the longest prompts and completions it allows, on a GPU of so much memory; 0 is what fits."""
    config = TrainConfig(**changes)
    prompt, completion, group = config.max_prompt_tokens, config.max_completion_tokens, config.group_size
    plan = MemoryPlan(
        model=memory,
        have=gigabytes * 1e9,
        other=0.0,
        share=SHARE_OF_GPU,
        prompt=prompt,
        completion=completion,
        copies=2,
        width=widest_row(prompt, completion, group, 8.1e-5),
        tokens=0,
        rows=1,
    )
    config = choose_sizes(config, plan, device="cuda", batch=1000)
    return config, dataclasses.replace(plan, tokens=config.micro_batch_tokens, rows=config.generation_rows)


@pytest.mark.parametrize("shape", ["0.6B", "1.7B"])
def test_what_else_could_be_run_is_known_without_running_it(shape):
    model = fake_qwen3(shape, layers=3)
    found = alternatives(TrainConfig(), memory_model(model, autocast=BF16, device="cuda"), model, BF16)
    named = {"checkpointing": "--gradient_checkpointing true", "LoRA": "--lora_rank 16"}
    named["LoRA, checkpointing"] = f"{named['LoRA']} {named['checkpointing']}"
    assert set(found) == set(named.values())
    for kind, options in named.items():
        counted = memory_model(fake_qwen3(shape, layers=3, **KINDS[kind]), autocast=BF16, device="cuda")
        for tokens in (2304, 8192):
            # With adapters a layer keeps less, which its shape does not tell: what is advised is on the safe side.
            more = found[options].updating(tokens, 900) / counted.updating(tokens, 900)
            assert 0.99 <= more <= (1.02 if "checkpointing" in kind else 1.11), kind
        assert found[options].stepping == pytest.approx(counted.stepping, rel=0.01)
        assert found[options].sampling(64, 500, 1280) == pytest.approx(counted.sampling(64, 500, 1280), rel=0.02)
    done = TrainConfig(gradient_checkpointing=True, lora_rank=16)
    assert alternatives(done, memory_model(model, autocast=BF16, device="cuda"), model, BF16) == {}


def test_what_would_fit_is_said_with_its_sizes_where_nothing_can_be_halved():
    memory, room = extrapolated("1.7B"), 0.9 * 44e9
    instead = {f"--{name}": extrapolated("1.7B", **KINDS[name]) for name in ("checkpointing", "LoRA")}
    _, plan = plan_for(memory, 44)
    plan = dataclasses.replace(plan, tokens=100_000, rows=100_000, instead=instead)
    text = plan.finding()
    assert (
        f"By the memory model one completion at a time needs about {plan.least() / 1e9:.1f} GB of 44 GB. Try " in text
    )
    longest, told = re.search(r"Try --max_completion_tokens (\d+) \(about ([0-9.]+) GB\)", text).groups()
    assert plan.least(int(longest)) <= room < plan.least(int(longest) + 1) and 1 < int(longest) < plan.completion
    assert told == f"{plan.least(int(longest)) / 1e9:.1f}"
    for name, model in instead.items():
        sizes = rf"{name} --micro_batch_tokens (\d+) --generation_rows (\d+) \(about ([0-9.]+) GB\)"
        tokens, rows, told = re.search(sizes, text).groups()
        other = dataclasses.replace(plan, model=model, tokens=int(tokens), rows=int(rows))
        assert f"{other.peak / 1e9:.1f}" == told and other.peak <= room
        larger = dataclasses.replace(other, tokens=other.tokens + 1, rows=other.rows + 1)
        assert larger.updating > room and larger.sampling > room
    assert "should fit" not in text and text.endswith("several GPUs that share the weights (FSDP), or a smaller model.")
    # On 12 GB none of it fits; on 200 GB it should have.
    assert "Try several GPUs" in dataclasses.replace(plan, have=12e9, instead={"--LoRA": memory}).finding()
    assert "so it should fit: look for what else takes memory" in dataclasses.replace(plan, have=200e9).finding()


@pytest.mark.parametrize("shape", ["0.6B", "1.7B"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_chosen_for_80_gb_stays_below_72(shape, kind):
    config, plan = plan_for(extrapolated(shape, **KINDS[kind]), 80)
    assert 1024 <= config.micro_batch_tokens <= 16384 and 8 <= config.generation_rows <= 1000
    assert plan.updating <= 72e9 and plan.sampling <= 72e9 and plan.peak == max(plan.updating, plan.sampling)


def test_the_papers_run_stays_below_72_gb_by_what_it_allocates(chunks_of_a_gpu, monkeypatch):
    memory = extrapolated("1.7B")
    config, plan = plan_for(memory, 80)
    tokens, rows = config.micro_batch_tokens, config.generation_rows
    assert tokens > 8000 and rows >= 96  # no less than was found by hand
    updates, samplings = [], []
    for layers in (2, 3, 4):
        model = fake_qwen3("1.7B", layers=layers)
        updates.append(measure_update(model, tokens=tokens, prompt=100, completion=1280)[0])
        samplings.append(measure_sampling(model, monkeypatch, rows=rows, prompt=1024, completion=1280))
    for two, three, four in (updates, samplings):
        assert four - three == pytest.approx(three - two, rel=0.01)  # so a line leads to 28 layers
        peak = two + 26 * (four - two) / 2 + memory.moments
        assert peak < 72e9
        assert peak == pytest.approx(plan.updating if two == updates[0] else plan.sampling, rel=0.1)
    assert plan.model.stepping < 72e9


@pytest.mark.parametrize(
    ("file", "shape", "gigabytes"),
    [("gpu_80gb", "1.7B", 80), ("gpu_48gb", "1.7B", 48), ("gpu_24gb", "1.7B", 24), ("gpu_15gb", "0.6B", 15)],
)
def test_the_files_for_gpus_fit_them_and_quote_the_model(file, shape, gigabytes):
    path = ROOT / "full" / "configs" / f"{file}.yaml"
    given = parse_config(["--config", str(path)])[0]
    assert given.model == f"Qwen/Qwen3-{shape}"
    options = {"lora_rank": given.lora_rank} if given.lora_rank else {}
    lengths = {"max_prompt_tokens": given.max_prompt_tokens, "max_completion_tokens": given.max_completion_tokens}
    config, plan = plan_for(extrapolated(shape, **options), gigabytes, group_size=given.group_size, **lengths)
    assert plan.peak <= 0.9 * gigabytes * 1e9
    text = " ".join(path.read_text().replace("#", " ").split())
    sizes = f"micro_batch_tokens {config.micro_batch_tokens}, generation_rows {config.generation_rows}"
    assert f"{sizes}; at most {plan.peak / 1e9:.1f} GB" in text
    table = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("| Qwen3-")]
    row = next(line for line in table if f"configs/{file}.yaml`" in line)
    assert f"| {plan.peak / 1e9:.1f} GB |" in row and f"| Qwen3-{shape}" in row
    if "With --gradient_checkpointing true" in text:
        saving = extrapolated(shape, **options, checkpointing=True)
        more, _ = plan_for(saving, gigabytes, group_size=given.group_size, **lengths)
        assert f"With --gradient_checkpointing true {more.micro_batch_tokens} tokens fit" in text


def test_the_file_for_vllm_leaves_it_its_share():
    given = parse_config(["--config", "gpu_80gb_vllm"])[0]
    memory, share = extrapolated("1.7B"), given.vllm_memory * 80e9
    assert memory.resting + share < 72e9  # while it samples
    parts = (memory.resting, share, memory.weights / 2)  # its weights are in bfloat16
    text = " ".join((ROOT / "full" / "configs" / "gpu_80gb_vllm.yaml").read_text().replace("#", " ").split())
    assert (
        "{:.1f} GB of weights and moments, {:.0f} GB for vLLM, {:.1f} of them".format(*(n / 1e9 for n in parts)) in text
    )
    # Its cache holds 70 completions of the longest kind; the others wait.
    assert (share - memory.weights / 2) / memory.cache > 70 * (given.max_prompt_tokens + given.max_completion_tokens)


def test_another_engines_share_counts_while_it_samples_and_not_in_updates(monkeypatch):
    _, plan = plan_for(extrapolated("1.7B"), 80)
    apart = dataclasses.replace(plan, rows=0, engine=24e9)
    assert apart.sampling == plan.model.resting + 24e9 and apart.updating == plan.updating
    # 72 GB less 20.6 of weights and moments are 51.4 of the 64 that it asks for.
    config, much = TrainConfig(engine="vllm", vllm_memory=0.8), dataclasses.replace(apart, engine=64e9)
    assert much.sampling > 80e9 and much.advice(config, "sampling") == "Try --vllm_memory 0.64."
    # On a CPU it keeps its share.
    monkeypatch.setattr(memory_module, "memory_of", lambda *given: (1e9, 50e9))
    monkeypatch.setattr(memory_module, "total_memory", lambda device: 60e9)
    here = SimpleNamespace(
        device=torch.device("cpu"), num_processes=1, mixed_precision="no", is_fsdp2=False, distributed_type=DistributedType.NO,
        gather=lambda tensor: tensor,
    )  # fmt: skip
    model, given = small_model(dtype=torch.float32), {"prompts": [[1] * 5], "batch": 8, "pair_cost": math.inf}
    hf_plan, vllm_plan = (
        memory_module.plan_memory(TrainConfig(engine=engine, vllm_memory=0.5), model, here, **given)[1]
        for engine in ("hf", "vllm")
    )
    assert vllm_plan.other - hf_plan.other == 30e9 and (vllm_plan.rows, vllm_plan.engine) == (0, 0.0)


def test_8b_fits_four_gpus_that_share_it():
    shared = {"weight_shards": 4, "state_shards": 4}
    memory = extrapolated(
        "8B", 36, shared=shared, num_attention_heads=32, tie_word_embeddings=False, checkpointing=True
    )
    assert (memory.weights + memory.moments) * 4 / 1e9 == pytest.approx(
        98.3, abs=0.1
    )  # a checkpoint of 8.19e9 parameters
    config, plan = plan_for(memory, 80)
    assert plan.peak <= 72e9 and config.generation_rows >= 64
    assert memory.gathered == pytest.approx(0.75 * 2 * 8.19e9, rel=1e-3)  # in bfloat16, to sample with
    assert f"{plan.peak / 1e9:.0f} GB on each of four GPUs" in (ROOT / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["0.6B", "1.7B"])
@pytest.mark.parametrize("kind", KINDS)
def test_all_layers_stay_below_72_gb(chunks_of_a_gpu, monkeypatch, shape, kind):
    model = fake_qwen3(shape, **KINDS[kind])
    memory = memory_model(model, autocast=torch.bfloat16, device="cuda")
    config, plan = plan_for(memory, 80)
    line = extrapolated(shape, **KINDS[kind])
    for field in ("weights", "gradients", "copies", "copies_sampling", "kept", "kept_pair", "cache"):
        assert getattr(line, field) == pytest.approx(getattr(memory, field), rel=1e-9), field
    assert line.passing == pytest.approx(memory.passing, rel=0.05)  # a mean over layers, where checkpointing is on
    update, step, tokens, width = measure_update(model, tokens=config.micro_batch_tokens, prompt=100, completion=1280)
    assert first_update(memory, tokens, width) == pytest.approx(update, rel=0.05)
    assert max(update + memory.moments, step) < 72e9
    model.eval()
    measured = measure_sampling(model, monkeypatch, rows=config.generation_rows, prompt=1024, completion=1280)
    assert plan.sampling - memory.moments == pytest.approx(measured, rel=0.1) and measured + memory.moments < 72e9


# Real tensors on a CPU


CPU_SHAPES = {
    "deep": {
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "head_dim": 32,
    },
    "wide": {
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "head_dim": 64,
    },
    "vocabulary": {"hidden_size": 64, "intermediate_size": 128, "vocab_size": 30_000},
    "untied": {"hidden_size": 64, "intermediate_size": 256, "vocab_size": 8_000, "tie_word_embeddings": False},
}


@pytest.mark.parametrize("name", CPU_SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_run_on_a_cpu_allocates(monkeypatch, name, kind):
    model = small_model(dtype=torch.float32, **CPU_SHAPES[name])
    if "lora_rank" in KINDS[kind]:
        add_adapters(model, 16)
    if "checkpointing" in KINDS[kind]:
        model.activation_checkpointing_enable({"use_reentrant": False})
        model.train()
    else:
        model.eval()
    memory = memory_model(model, autocast=None, device="cpu")
    update, step, tokens, width = measure_update(model, tokens=1024, prompt=10, completion=90, half=None)
    assert first_update(memory, tokens, width) == pytest.approx(update, rel=0.1)
    assert memory.stepping == pytest.approx(step, rel=0.02)
    measured = measure_sampling(model.eval(), monkeypatch, rows=32, prompt=30, completion=70, half=None)
    assert memory.sampling(32, 30, 70, prompts=2) - memory.moments == pytest.approx(measured, rel=0.1)


needs_glibc = pytest.mark.skipif(
    sys.platform != "linux" or platform.libc_ver()[0] != "glibc" or any(Path(gpu).exists() for gpu in heap.GPUS),
    reason="the heap is set for glibc, on a machine without a GPU",
)
LARGE = {
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "head_dim": 64,
}
WIDE = {
    "hidden_size": 1024, "intermediate_size": 2048, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 4,
    "head_dim": 128,
}  # fmt: skip
RUNS = {
    "all weights": (LARGE, {}),
    "LoRA": (LARGE, {"lora_rank": 16}),
    "checkpointing": (LARGE, {"gradient_checkpointing": True}),
    "wide": (WIDE, {}),
}


@needs_glibc
@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_what_a_training_process_on_a_cpu_grows_by(tmp_path, name):
    shape, options = RUNS[name]
    save_small_model(tmp_path / "model", **shape)
    sizes = {"prompts_per_batch": 8, "mini_batch_prompts": 8, "group_size": 8, "max_completion_tokens": 64, "steps": 2}
    fixed = {"epochs": 1, "eval_problems": 4, "save_every": 0, "reward": "tests.helpers:every_other"}
    fixed |= {"callback": "tests.test_memory:note_the_plan"}
    words = small_run(tmp_path / "model", tmp_path / "run", **(sizes | fixed | options))
    environment = {name: value for name, value in os.environ.items() if name != heap.VARIABLE}
    environment["PYTHONPATH"] = str(ROOT)
    subprocess.run([sys.executable, "full/train.py", *words], cwd=ROOT, env=environment, check=True, timeout=900)
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    peak = json.loads((tmp_path / "run" / "summary.json").read_text())["peak_memory_bytes"]
    said, measured = plan["peak"] - plan["other"], peak - plan["other"]
    print(f"{name}: {said / 1e6:.0f} MB said, {measured / 1e6:.0f} measured, {said / measured:.2f}")
    assert measured > 4e8  # more than what the libraries allocate
    assert said == pytest.approx(measured, rel=0.1)


def note_the_plan(trainer, metrics) -> None:
    """A callback that leaves what the run's plan says."""
    told = {"peak": trainer.memory.peak, "other": trainer.memory.other}
    (trainer.run.path / "plan.json").write_text(json.dumps(told))


@needs_glibc
def test_a_run_begins_again_once_with_the_heap_set(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(
        "import os, sys\nfrom full.heap import VARIABLE, begin_with_whole_holes\n"
        "print(os.getpid(), os.environ.get(VARIABLE), sys.argv[1:], flush=True)\nbegin_with_whole_holes()\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != heap.VARIABLE}
    environment["PYTHONPATH"] = str(ROOT)

    def told(*command: str, **more: str) -> list[str]:
        run = subprocess.run(
            [sys.executable, *command], env=environment | more, capture_output=True, text=True, check=True
        )
        return run.stdout.splitlines()

    first, second = told("-P", str(script), "--steps", "a b")
    number = first.split()[0]
    assert first == f"{number} None ['--steps', 'a b']"
    # The same process, so that whoever waits for it still does.
    assert second == f"{number} {heap.SETTINGS} ['--steps', 'a b']"
    (kept,) = told(str(script), **{heap.VARIABLE: "glibc.malloc.perturb=0"})
    assert "perturb" in kept  # the user's own
    # What runs the file within a process of its own is left alone: a notebook's %run, say.
    assert len(told("-c", f"import sys, runpy; sys.argv = [{str(script)!r}]; runpy.run_path({str(script)!r})")) == 1


def test_the_heap_is_left_alone_where_it_would_not_help(monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python", *sys.argv])
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(heap.platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(heap, "GPUS", ())
    monkeypatch.delenv(heap.VARIABLE, raising=False)
    assert heap.may_begin_again()
    for change in (
        lambda patch: patch.setattr(heap, "GPUS", ("/",)),
        lambda patch: patch.setattr(heap.platform, "libc_ver", lambda: ("", "")),
        lambda patch: patch.setattr(sys, "platform", "darwin"),
        lambda patch: patch.setattr(sys, "orig_argv", ["python", "-m", "ipykernel_launcher"]),
        lambda patch: patch.setenv(heap.VARIABLE, ""),
    ):
        with monkeypatch.context() as patch:
            change(patch)
            assert not heap.may_begin_again()


def test_holes_of_the_heap_by_hand():
    _, plan = plan_for(extrapolated("1.7B"), 80)
    plan = dataclasses.replace(plan, other=1e9, heap=1.25, tokens=4096, rows=8)
    weights = plan.model.weights
    assert plan.taken(weights) == 1e9 + weights  # which lie in memory as they were loaded
    assert plan.taken(weights + 8e9) == pytest.approx(1e9 + weights + 10e9)
    assert plan.taken(plan.room) == pytest.approx(72e9)
    assert plan.updating == plan.taken(plan.model.updating(4096, min(plan.width, 4096)))
    tokens, rows = plan.tokens_that_fit, plan.rows_that_fit
    full = dataclasses.replace(plan, tokens=tokens, rows=rows)
    more = dataclasses.replace(plan, tokens=tokens + 1, rows=rows + 1)
    assert full.updating <= 72e9 < more.updating and full.sampling <= 72e9 < more.sampling


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_peak_of_a_run_is_that_of_its_own_process(monkeypatch):
    # Linux keeps the peak of whoever started a process in the process's own ru_maxrss: 611 MB of one that held 10.
    monkeypatch.setattr(console.resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=2**40))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    held = psutil.Process().memory_info().rss
    large = torch.ones(2**25)
    here = psutil.Process().memory_info().rss
    del large
    assert here >= held + 2**26  # 128 MiB, of which some may have been freed before
    assert 0.999 * here <= console.peak_memory_bytes() < psutil.virtual_memory().total


def test_what_a_token_keeps_by_hand():
    # An embedding, a norm and a head in float64: one layer less tells what a layer keeps.
    one, two = (kept_bytes(small_model(num_hidden_layers=n).eval(), None) for n in (1, 2))
    assert two[2] == two[0] and one[1] == two[1] / 2 > 0  # no checkpointing; a mask a layer
    # With checkpointing a layer keeps its input alone: 16 numbers of 8 bytes.
    models = [small_model(num_hidden_layers=n) for n in (1, 2)]
    for model in models:
        model.activation_checkpointing_enable({"use_reentrant": False})
        model.train()
    (first, _, _), (second, _, whole) = (kept_bytes(model, None) for model in models)
    assert second - first == 16 * 8
    assert whole == two[0] and model.training


def test_sums_by_hand():
    head = Head(gradient=4.0, copy=2.0, product=1.0, logits=40.0, half=20.0, rows=10)
    assert head.peak(5) == 2 + 4 + max(20 + 10, 10 + 1) and head.peak(100) == 2 + 4 + 60
    memory = MemoryModel(
        weights=10.0, gradients=8.0, moments=16.0, buckets=8.0, spare=3.0, copies=5.0, copies_sampling=6.0, kept=2.0,
        kept_pair=0.5, passing=1.0, reading=7.0, cache=3.0, cache_layer=1.0, head=head, tied=True, vocabulary=0,
    )  # fmt: skip
    assert memory.resting == 34 and memory.stepping == 34 + 8 + 3
    assert memory.activations(10, 4) == 5 + (2 + 2) * 10 + max(66, 4 + 10)
    assert memory.updating(10, 4) == 34 + 8 + 5 + 40 + 66
    assert memory.updating(10, 4, micro_batches=1) == 34 + 5 + 40 + 66
    assert memory.updating(0) == 34 + 8 + 5 + 2 * 4  # the gradients of a tied weight wait for each other
    assert memory.sampling(5, 10, 200) == 34 + 6 + 5 * (210 * 3 + 210 * 1)
    assert memory.sampling(5, 100, 1) == 34 + 6 + 5 * 100 * (3 + 7 + 100)
    assert memory.sampling(5, 100, 1, prompts=1) == 34 + 6 + max(100 * 110, 5 * 101 * 4)
    fitting = memory.tokens_that_fit(1000.0, 4)
    assert memory.updating(fitting, 4) <= 1000 < memory.updating(fitting + 1, 4)
    rows = memory.rows_that_fit(10_000.0, 10, 20)
    assert memory.sampling(rows, 10, 20) <= 10_000 < memory.sampling(rows + 1, 10, 20)
    assert memory.tokens_that_fit(10.0) == memory.rows_that_fit(10.0, 1, 1) == 0


def test_how_wide_a_row_gets():
    # Found by packing itself: groups of six with completions of every length.
    for prompt in (20, 150, 520):
        for cost in (1e-3, 8.1e-5):
            for length in (10, 50, 200, 700):
                prompts, completions = [[1] * prompt] * 6, [[1] * length] * 6
                widest = max(prompt + length * len(row) for row in pack(range(6), prompts, completions, 10**6, cost))
                assert widest <= widest_row(prompt, length, 6, cost)
    assert widest_row(20, 700, 6, math.inf) == 720  # one completion a row
    assert widest_row(20, 5, 6, 1e-9) == 20 + 6 * 5  # the whole group


def test_a_number_that_was_given_stays_and_a_zero_becomes_what_fits():
    memory = extrapolated("1.7B")
    given, _ = plan_for(memory, 80, micro_batch_tokens=77, generation_rows=5)
    assert (given.micro_batch_tokens, given.generation_rows) == (77, 5)
    config, _ = plan_for(memory, 80)
    assert config.micro_batch_tokens % 256 == 0 and config.generation_rows % 8 == 0
    again, _ = plan_for(memory, 80.002)  # a few megabytes more or less change nothing
    assert again == config
    small, plan = plan_for(
        memory, 16
    )  # where nothing fits, as little as can be tried; the doctor says that it does not
    assert (small.micro_batch_tokens, small.generation_rows) == (1, 1) and plan.peak > 16e9
    assert round_down(100, 256) == 100 and round_down(700, 256) == 512
    config = choose_sizes(TrainConfig(), dataclasses.replace(plan, have=1e12), device="cpu", batch=1000)
    assert (config.micro_batch_tokens, config.generation_rows) == (2048, 96)  # no faster beyond, on a CPU
    vllm = choose_sizes(TrainConfig(), dataclasses.replace(plan, rows=0), device="cuda", batch=50)
    assert vllm.generation_rows == 50


def test_a_run_writes_what_it_chose_and_goes_on_with_it(tmp_path, capsys, monkeypatch):
    model = save_small_model(tmp_path / "model")
    train.main(small_run(model, tmp_path / "run", steps=1, eval_problems=10))
    told = capsys.readouterr().out
    # 8 prompts x 4 completions here, 10 x (1 greedy + 1 sampled) there: no more rows than that are ever wanted.
    assert "memory: micro_batch_tokens 2048 (what fits), generation_rows 32 (what fits): at most about " in told
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (written["micro_batch_tokens"], written["generation_rows"]) == (2048, 32)
    resumed, _ = parse_config(["--resume", str(tmp_path / "run")])
    assert (resumed.micro_batch_tokens, resumed.generation_rows) == (2048, 32)
    # With less memory the numbers are smaller, and the run is the same but for rounding.
    monkeypatch.setattr(memory_module, "memory_of", lambda device, processes: (1e9, 2e9 + 6e5))
    train.main(small_run(model, tmp_path / "tight", steps=1, eval_problems=10))
    assert "micro_batch_tokens 2048 (what fits)" not in capsys.readouterr().out
    tight = yaml.safe_load((tmp_path / "tight" / "config.yaml").read_text())
    assert 1 <= tight["generation_rows"] < 32 and 1 <= tight["micro_batch_tokens"] < 2048
    (a,), (b,) = (metrics_without_times(tmp_path / name) for name in ("run", "tight"))
    assert [b[name] for name in ("loss", "grad_norm")] == pytest.approx([a[name] for name in ("loss", "grad_norm")])
