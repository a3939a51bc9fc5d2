"""The doctor tells what a run would be, changes nothing, and finds what is made wrong here on purpose."""

import copy
import dataclasses
import io
import json
import math
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from apo_edu.schedules import Signals
from full import train, units
from full.config import TrainConfig, parse_config
from full.doctor import judge, measure
from full.doctor.judge import (
    NotReady,
    Section,
    diagnose,
    ends_section,
    first_update_section,
    less_memory,
    memory_section,
    plan_section,
    prompt_section,
    schedule_section,
    time_section,
)
from full.doctor.measure import FirstUpdate, Memory, Scored, Speed, estimate, how_much, memory_before, rows_within
from full.doctor.print import Printer
from full.errors import UserError
from full.models.tiny import make_tokenizer
from full.trainer.batches import BatchPlan
from full.trainer.launch import start_accelerator
from full.trainer.memory import Head, MemoryModel, MemoryPlan
from full.trainer.state import set_up as set_up_trainer
from tests.helpers import save_small_model, small_run
from tests.test_training import launch

TITLES = [
    "Prompt",
    "End of sequence",
    "Batches",
    "Samples",
    "First update",
    "Schedule of alpha",
    "Memory",
    "Disk",
    "Time",
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module", autouse=True)
def patient():
    """No measurement is cut short by a busy machine, unless a test asks for it."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("PROBE", "WHOLE_BATCH", "SAMPLING", "SCORING", "UPDATE"):
            patch.setattr(measure, name, 1e6)
        yield


def set_up(model, folder, **changes):
    config, _ = parse_config([*small_run(model, folder / "run", **changes), "--doctor"])
    return set_up_trainer(config, start_accelerator(config.cpu_threads), resume=False)


@pytest.fixture(scope="module")
def trainer(model, tmp_path_factory):
    trainer = set_up(model, tmp_path_factory.mktemp("doctor"), mini_batch_prompts=8, epochs=1, weights="float64")
    yield trainer
    trainer.rewarder.close()


def examined(trainer, *, rewards=None, **changes) -> dict[str, Section]:
    """All sections by title, with some options and the rewards of the 32 completions changed."""
    if rewards is not None:
        trainer = dataclasses.replace(trainer, rewarder=lambda prompts, texts, rows: (rewards[: len(texts)], {}))
    trainer = dataclasses.replace(trainer, config=dataclasses.replace(trainer.config, **changes))
    return {section.title: section for section in diagnose(trainer)}


def told(section: Section) -> str:
    return "\n".join(f"{label}: {text}" for label, text in section.facts + section.remarks)


# The whole


def test_it_tells_what_the_first_step_of_the_run_is(model, trainer, tmp_path):
    sections = examined(trainer)
    assert list(sections) == TITLES
    train.main(small_run(model, tmp_path / "run", mini_batch_prompts=8, epochs=1, weights="float64", steps=1))
    (row,) = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    samples, update = sections["Samples"].values, sections["First update"].values
    assert samples["completions"] == 32 and samples["groups"] == 8
    for ours, theirs in (
        (samples["reward_mean"], "reward_mean"),
        (samples["mean_length"], "completion_length"),
        (samples["truncated"], "truncated_fraction"),
        (samples["with_signal"], "groups_with_signal"),
        (sections["Schedule of alpha"].values["confidence"], "confidence"),
        (update["alpha"], "alpha"),
        (update["loss"], "loss"),
        (update["grad_norm"], "grad_norm"),
        (update["kl_old"], "kl_old"),
    ):
        assert ours == pytest.approx(row[theirs], rel=1e-9), theirs
    assert update["grad_norm"] > 0 and not update["made_up"]
    assert update["mean"] < 1e-6  # generate takes its logits in float32


def test_it_changes_and_writes_nothing(model, trainer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = copy.deepcopy(trainer.model.state_dict())
    examined(trainer)
    after = trainer.model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert trainer.schedule.state_dict() == trainer.config.make_schedule().state_dict()
    assert trainer.engine.max_new_tokens == trainer.config.max_completion_tokens
    assert all(p.grad is None for p in trainer.model.parameters())
    assert not trainer.optimizer.state_dict()["state"]
    assert not trainer.run.path.exists() and not list(tmp_path.iterdir())


def test_the_command_prints_every_section_and_a_conclusion(model, tmp_path, capsys):
    train.main([*small_run(model, tmp_path / "run"), "--doctor"])
    out = capsys.readouterr().out
    for number, title in enumerate(TITLES, start=1):
        assert f"\n{number} {title} ---" in out
    assert "ready, but look at: Batches, Samples" in out  # an untrained model never ends a completion
    assert "nothing was written, no weight was changed" in out
    assert max(map(len, out.splitlines())) <= 120
    assert not list(tmp_path.iterdir())


def test_what_must_be_mended_makes_the_command_fail(model, tmp_path, capsys):
    with pytest.raises(NotReady, match="not ready; what to mend is marked `stop`") as caught:
        train.main([*small_run(model, tmp_path / "run", reward="accuracy"), "--doctor"])
    assert isinstance(caught.value, UserError) and caught.value.code == 1
    assert "not ready, mend first: Samples" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_two_processes_see_the_same(model, trainer, tmp_path):
    out = launch([*small_run(model, tmp_path / "run"), "--doctor"], processes=2)
    assert out.returncode == 0, out.stderr[-3000:]
    text = " ".join(out.stdout.split())
    assert text.count("1 Prompt ---") == 1
    assert "8 prompts x 4 completions, the whole first batch" in text
    assert "4 prompts on each of 2 processes" in text
    reward = examined(trainer)["Samples"].values["reward_mean"]
    assert f"{reward:.3f} on average" in text
    assert not (tmp_path / "run").exists()


# What it finds


def test_truncation_names_the_option(trainer):
    section = examined(trainer)["Samples"]
    assert section.values["truncated"] > 0.8
    assert section.verdict == "look"
    assert "--max_completion_tokens (now 6)" in section.remarks[0][1]
    assert "--thinking false" not in section.remarks[0][1]
    stopped = examined(trainer, reward=["accuracy"], thinking=True)["Samples"]
    assert stopped.verdict == "stop" and "--thinking false" in stopped.remarks[0][1]


@pytest.mark.parametrize(
    ("value", "truncated", "advice"),
    [
        (0.0, False, "too hard: take an easier --level"),
        (1.0, False, "too easy: take a harder --level"),
        (0.0, True, "Mend"),
    ],
)
def test_equal_rewards_are_no_signal_and_the_gradient_is_tried_all_the_same(
    trainer, monkeypatch, value, truncated, advice
):
    if not truncated:
        monkeypatch.setattr(trainer.engine, "eos_ids", list(range(300)))  # whatever comes first ends it
    sections = examined(trainer, rewards=[value] * 32)
    (remark,) = [text for _, text in sections["Samples"].remarks if "signal" in text]
    assert "no group has a signal" in remark and advice in remark
    update = sections["First update"]
    assert update.values["made_up"] and update.values["grad_norm"] > 0 and update.verdict == "ok"
    assert "rewards made up here" in told(update)
    assert update.values["loss"] == pytest.approx(0.0, abs=1e-12)  # q is uniform, as p is


def test_numbers_of_the_samples_by_hand(trainer, monkeypatch):
    # Eight groups of four: (1, 0, 0, 0) twice, six of all 0. Unbiased variance of the first kind: 1/4.
    rewards = [1.0, 0, 0, 0] * 2 + [0.0] * 24
    texts = ["\\boxed{1}"] * 8 + ["<think>"] * 24
    monkeypatch.setattr(trainer.engine, "texts", lambda completions: texts[: len(completions)])
    section = examined(trainer, rewards=rewards)["Samples"]
    n = section.values
    assert n["with_signal"] == 2 / 8 and n["reward_mean"] == 2 / 32 and n["reward_max"] == 1.0
    assert n["std_within"] == pytest.approx(math.sqrt(2 * 0.25 / 8))
    assert n["boxed"] == 8 / 32 and n["thinking"] == 24 / 32
    assert "75% of the completions think although thinking is false" in told(section)
    assert "few groups" not in told(section)  # a quarter of them is enough
    assert "one of the best: reward 1: \\boxed{1}" in told(section)


def test_missing_boxes_are_told(trainer, monkeypatch):
    monkeypatch.setattr(trainer.engine, "eos_ids", list(range(300)))
    section = examined(trainer, reward=["accuracy"])["Samples"]
    assert section.verdict == "stop"  # 0 of 32
    assert "0% of the completions that ended have a \\boxed{}" in told(section)
    assert "--reward accuracy format" in told(section)
    assert "box{}" not in told(examined(trainer)["Samples"])  # no reward asks for one


def test_a_slow_machine_samples_less_and_says_so(trainer, monkeypatch):
    for name in ("PROBE", "WHOLE_BATCH", "SAMPLING", "SCORING", "UPDATE"):
        monkeypatch.setattr(measure, name, 0.0)
    monkeypatch.setattr(trainer.engine, "max_new_tokens", 40)
    pushed, push = [], measure.push_coefficients
    monkeypatch.setattr(measure, "push_coefficients", lambda *a: pushed.append(int(a[2].any(-1).sum())) or push(*a))
    sections = examined(trainer, max_completion_tokens=40)
    section = sections["Samples"]
    assert section.values["completions"] == 4 and section.values["longest"] == 8
    assert section.values["truncated"] == 0.0  # 8 of 40 tokens say nothing about that
    assert "had not ended after 8 of 40 tokens, where the doctor stopped" in told(section)
    assert "these rewards say little" in told(section) and "no group has a signal" not in told(section)
    assert section.values["expected_length"] > 40 * 0.8
    assert sections["First update"].values["completions"] == 1 and pushed == [1, 1]
    assert [tokens for tokens, _ in sections["Memory"].values["points"]] == [9, 18 + 8]  # cut short; one completion
    assert trainer.engine.max_new_tokens == 40


def test_an_engine_of_another_temperature_is_found(trainer, monkeypatch):
    monkeypatch.setattr(trainer.engine, "temperature", 2.0)
    section = examined(trainer)["First update"]
    assert section.verdict == "stop" and "another distribution" in told(section)


def test_adapters_start_without_effect_or_stop_the_run(model, tmp_path):
    adapted = set_up(model, tmp_path, lora_rank=2, gradient_checkpointing=True)
    adapted.model.train()  # what checkpointing needs; a training model keeps no cache unless asked
    adapted.rewarder.close()
    rewards = [1.0, 0.0, 0.0, 0.0] * 8
    sections = examined(adapted, rewards=rewards)
    update, memory = sections["First update"], sections["Memory"].values["model"]
    assert update.values["adapters"] == 0.0 and update.values["grad_norm"] > 0 and update.verdict == "ok"
    # r (in + out) of q, k, v, o, gate, up, down: 2 (32 + 24 + 24 + 32 + 48 + 48 + 48) in each of 2 layers, float32.
    assert memory["gradients"] == 2 * 2 * 256 * 4 and memory["moments"] == 2 * memory["gradients"]
    with torch.no_grad():
        for name, parameter in adapted.model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.1)
    update = examined(adapted, rewards=rewards)["First update"]
    assert update.values["adapters"] > 0 and update.verdict == "stop"


def test_first_loss_of_adpo_is_the_log_of_the_group(trainer):
    config = dataclasses.replace(trainer.config, objective="adpo")
    section = examined(dataclasses.replace(trainer, objective=config.make_objective()), objective="adpo")[
        "First update"
    ]
    assert section.values["loss"] == pytest.approx(math.log(4), rel=1e-12)
    assert "the logarithm of the group size" in told(section)


@pytest.mark.parametrize(
    ("mean", "exact", "grad_norm", "adapters", "verdict"),
    [
        (1e-6, True, 1.0, None, "ok"),
        (1e-3, True, 1.0, None, "look"),
        (1e-3, False, 1.0, None, "ok"),
        (0.05, False, 1.0, None, "look"),
        (0.05, True, 1.0, None, "stop"),
        (math.nan, False, 1.0, None, "stop"),
        (1e-6, True, 0.0, None, "stop"),
        (1e-6, True, math.nan, None, "stop"),
        (1e-6, True, None, None, "ok"),
        (1e-6, True, 1.0, 1e-3, "stop"),
    ],
)
def test_verdicts_on_the_first_update(mean, exact, grad_norm, adapters, verdict):
    first = FirstUpdate(0.1, 0.9, 0.0, Signals(0.5), False, grad_norm, 8, "no room")
    section = first_update_section(TrainConfig(), Scored(mean, mean, 100, exact, adapters, 0.5), first)
    assert section.verdict == verdict
    assert ("no room" in told(section)) == (grad_norm is None)


def test_it_tells_what_clipping_means():
    def first_update(max_grad_norm):
        first = FirstUpdate(0.1, 0.9, 0.0, Signals(0.5), False, 5.0, 8, "")
        scored = Scored(1e-6, 1e-6, 100, True, None, 0.5)
        return told(first_update_section(TrainConfig(max_grad_norm=max_grad_norm), scored, first))

    assert "5 x max_grad_norm 1, so it is clipped. A clipped gradient has the length max_grad_norm" in first_update(1.0)
    assert "within max_grad_norm 10, so it is not clipped" in first_update(10.0)


# What is read off without a model


def test_prompt_and_thinking():
    tokenizer, messages = make_tokenizer(), [{"role": "user", "content": "x"}]
    section = prompt_section(TrainConfig(thinking=True), tokenizer, messages, "rendered", [[1] * 7, [1] * 9])
    assert "tokens: 7; over 2 problems 7 to 9, where 1,024 are allowed" in told(section)
    assert section.verdict == "look" and "the same without it" in told(section)
    tokenizer.chat_template += "{% if not enable_thinking %}<think></think>{% endif %}"
    section = prompt_section(TrainConfig(thinking=True), tokenizer, messages, "rendered", [[1]])
    assert section.verdict == "ok" and "heeds the switch" in told(section)


def test_ends_pads_and_the_end_that_is_missing():
    tokenizer = make_tokenizer()
    section = ends_section(tokenizer, [0, 2])
    assert section.verdict == "ok" and "generation_config: also <|endoftext|> (0)" in told(section)
    assert section.values == {"eos_ids": [0, 2], "pad_is_eos": True, "template_end": 2}
    assert "masks go by position" in told(section)
    assert "masks go by position" not in told(ends_section(tokenizer, [2]))
    tokenizer.pad_token = tokenizer.eos_token
    assert ends_section(tokenizer, [2]).values["pad_is_eos"] and ends_section(tokenizer, [2]).verdict == "ok"
    missing = ends_section(tokenizer, [0])
    assert missing.verdict == "look" and "<|im_end|> (2) does not end a completion here" in told(missing)
    assert ends_section(tokenizer, []).verdict == "stop"


def plan(config):
    return plan_section(config, BatchPlan(config), 1592)


def test_batches_by_hand():
    config = TrainConfig()  # the paper's: 48 prompts x 6, two mini-batches of 24, 200 steps
    section = plan_section(config, BatchPlan(config, 2), 1592)
    assert section.values == {
        "completions_per_batch": 288,
        "mini_batches": 2,
        "updates_per_batch": 2,
        "batches": 100,
        "passes": 4800 / 1592,
        "prompts_per_process": 24,
    }
    assert "48 prompts x 6 = 288 completions; 24 prompts on each of 2 processes" in told(section)
    assert "100 batches, 4,800 prompts: 3.02 passes over 1,592 problems" in told(section)
    assert section.verdict == "ok"
    odd_config = dataclasses.replace(config, steps=11, epochs=2)
    odd = plan_section(odd_config, BatchPlan(odd_config), 1592)
    assert odd.values["updates_per_batch"] == 4 and odd.values["batches"] == 3
    assert "the last batch serves 3 of its 4 updates. Take --steps 12" in told(odd)


@pytest.mark.parametrize(
    ("changes", "told_of"),
    [
        ({}, False),  # the paper's two updates
        ({"epochs": 2}, True),
        ({"prompts_per_batch": 96}, True),  # four mini-batches
        ({"epochs": 2, "off_policy": "clip"}, False),
        ({"epochs": 2, "objective": "grpo"}, False),  # it has a ratio and a clip
    ],
)
def test_many_updates_on_stale_samples_want_the_clip(changes, told_of):
    assert ("Take --off_policy clip." in told(plan(TrainConfig(**changes)))) is told_of


def test_clipping_that_cannot_occur_is_told():
    once = TrainConfig(objective="grpo", mini_batch_prompts=48)
    assert "clip_fraction always 0, and GSPO is GRPO" in told(plan_section(once, BatchPlan(once), 1592))
    assert "from the second update of a batch on" in told(plan(TrainConfig(objective="grpo")))
    anchored = told(plan(TrainConfig(mini_batch_prompts=48)))
    assert "nothing is clipped" in anchored and "tau_anc only scales" in anchored
    assert "tau_anc only scales" not in told(plan(TrainConfig()))


@pytest.mark.parametrize(
    ("changes", "confidence", "verdict", "text"),
    [
        ({"confidence_from": "anchored"}, 0.0, "look", "alpha stays at alpha_max"),
        ({"confidence_from": "candidates"}, 0.01, "look", "so little confidence keeps alpha at 0.9"),
        ({"confidence_from": "candidates"}, 0.039, "look", "so little confidence"),  # a reach of 0.0215
        ({"confidence_from": "tokens"}, 0.5, "ok", "alpha may fall to 0.62"),  # 0.9 - 0.55 / 2 = 0.625
        ({"confidence_from": "anchored", "objective": "grpo"}, 0.0, "ok", "grpo has no alpha"),
        ({"confidence_from": "anchored", "schedule": "fixed"}, 0.0, "ok", "fixed: alpha = 0.6"),
        ({"schedule": "ess"}, 0.0, "ok", "effective sample size is 0.5 of a group"),
        ({"schedule": "linear"}, 0.0, "ok", "alpha from 0.9 to 0.35 over the run's optimiser steps, 200"),
    ],
)
def test_schedules(changes, confidence, verdict, text):
    section = schedule_section(TrainConfig(**changes), Signals(0.5, confidence=confidence), torch.rand(8))
    assert section.verdict == verdict
    assert text in told(section)


def test_binary_rewards_and_one_update_leave_alpha_a_step_size():
    once = TrainConfig(mini_batch_prompts=48)
    two, many = torch.tensor([0.0, 1.0, 1.0]), torch.tensor([0.0, 0.5, 1.0])
    assert "never turns it" in told(schedule_section(once, Signals(0.5), two))
    assert "never turns it" not in told(schedule_section(once, Signals(0.5), many))
    assert "never turns it" not in told(schedule_section(TrainConfig(), Signals(0.5), two))


# Memory and time


def test_memory_of_the_small_model_by_hand(trainer):
    memory = memory_before(trainer)
    plan, model = memory.plan, memory.plan.model
    vocabulary = len(make_tokenizer())
    # Embedding (tied); per layer q, k, v, o, three of the MLP, two norms of 16, two of a head of 8; the last norm.
    layer = 16 * 16 + 2 * 16 * 8 + 16 * 16 + 3 * 16 * 32 + 2 * 16 + 2 * 8
    parameters = vocabulary * 16 + 2 * layer + 16
    assert model.weights == model.gradients == 8 * parameters and model.moments == 16 * parameters
    assert model.gathered == model.copies == model.copies_sampling == 0
    assert model.spare == 0 and trainer.optimizer.defaults["fused"]  # AdamW makes no copies on the way
    assert model.cache == 2 * 2 * 8 * 8  # keys and values of 2 layers, one head of 8, float64
    assert (plan.prompt, plan.completion) == (max(map(len, trainer.prompts)), 6)
    assert plan.rows == 32 == trainer.config.generation_rows  # no more than a batch has
    assert memory.in_use + 1e8 < plan.have and memory.in_use > 1e8


def test_what_another_engine_holds_already_is_not_taken_for_somebody_elses(trainer, monkeypatch):
    apart = dataclasses.replace(trainer.memory, rows=0, engine=24e9, have=80e9)
    monkeypatch.setattr(measure, "memory_of", lambda *given: (24e9, 56e9))  # with the engine awake
    assert memory_before(dataclasses.replace(trainer, memory=apart)).plan == apart
    section = memory_section(trainer.config, Memory(apart, torch.device("cuda"), 1))
    assert "24 GB of another engine, which sleeps in updates" in told(section)


def make_memory(**changes) -> Memory:
    head = Head(gradient=0.0, copy=0.0, product=0.0, logits=0.0, half=0.0, rows=1)
    model = {
        "weights": 8e9, "gradients": 8e9, "moments": 16e9, "kept": 0.5e6, "passing": 0.0, "reading": 0.0, "cache": 0.05e6,
        "cache_layer": 0.0, "head": head, "tied": False, "vocabulary": 0,
    }  # fmt: skip
    plan = {
        "have": 80e9, "other": 2e9, "share": 0.9, "prompt": 500, "completion": 1500, "copies": 2, "width": 0, "tokens": 16000,
        "rows": 200,
    }  # fmt: skip
    memory = {"device": torch.device("cuda"), "processes": 1, "update_tokens": 16000}
    for given in (model, plan, memory):
        given.update(
            {name: changes.pop(name) for name in list(changes) if name in given or name in ("gathered", "points")}
        )
    memory["points"] = model.pop("points", [])
    return Memory(plan=MemoryPlan(model=MemoryModel(**model), **plan), **memory)


def test_peaks_by_hand():
    memory = make_memory()
    assert memory.in_use == 10e9
    assert memory.activations == pytest.approx(8e9)  # half a megabyte a token
    assert memory.updating == pytest.approx(10e9 + 8e9 + 16e9 + 8e9)
    assert memory.sampling == pytest.approx(10e9 + 16e9 + 200 * 2000 * 0.05e6)
    assert make_memory(update_tokens=0).activations == 0.0
    # Noted: 20 GB at the peak, of which 10 in use and 8 of gradients; the model says 0.25 GB for 500 tokens.
    noted = make_memory()
    noted.note(500, 20e9)
    assert noted.points == [(500, 2e9)] and noted.correction == pytest.approx(8.0)
    assert noted.activations == pytest.approx(8 * 8e9)
    noted.note(9000, 10e9 + 8e9 + 3e9)  # the largest counts, and less than the model says is no reason to promise less
    assert noted.correction == 1.0
    # On a CPU a process's memory says something from half of the run's micro-batch on.
    assert make_memory(device=torch.device("cpu"), points=[(7999, 8e9)]).correction == 1.0
    assert make_memory(device=torch.device("cpu"), points=[(8000, 8e9)]).correction == pytest.approx(2.0)


def test_what_does_not_fit_is_told_with_numbers_that_do():
    config = TrainConfig()
    assert memory_section(config, make_memory()).verdict == "ok"
    # Sampling takes 26 GB and 0.1 GB a row; 0.9 x 80 - 26 = 46 GB hold 460 completions.
    tight = make_memory(rows=600)
    section = memory_section(config, tight)
    assert section.verdict == "stop" and "sampling needs 108%" in told(section)
    assert "Try --generation_rows 460." in told(section)
    assert make_memory(rows=460).sampling <= 0.9 * 80e9 < make_memory(rows=461).sampling
    # An update of 34 + 40 GB; 38 GB are left for activations of 2.5 MB a token: 15,200 tokens.
    large = make_memory(kept=2.5e6)
    section = memory_section(config, large)
    assert section.verdict == "look" and "an update needs 92%" in told(section)
    assert "Try --micro_batch_tokens 15200, or --gradient_checkpointing true." in told(section)
    # The same where the model says half of what was measured.
    section = memory_section(config, make_memory(kept=1.25e6, points=[(8000, 20e9)]))
    assert "an update needs 92%" in told(section) and "--micro_batch_tokens 15200" in told(section)
    assert "20 GB measured on 8,000" in told(section)
    # The weights' own state is too large: nothing but fewer trained or more machines helps.
    section = memory_section(config, make_memory(have=24e9))
    assert section.verdict == "stop" and "--lora_rank 16" in told(section) and "FSDP" in told(section)
    assert "lora_rank" not in less_memory(dataclasses.replace(config, lora_rank=8), make_memory(have=24e9))
    failed = memory_section(config, make_memory(), failure="CUDA out of memory")
    assert failed.verdict == "stop" and "out of memory: CUDA" in told(failed)


def test_running_out_of_memory_is_a_finding(trainer, monkeypatch):
    def fail(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(trainer.engine, "sample", fail)
    sections = examined(trainer)
    assert list(sections) == [*TITLES[:3], "Memory"]
    assert sections["Memory"].verdict == "stop" and "Tried to allocate" in told(sections["Memory"])


def test_without_room_for_gradients_none_are_taken(trainer, monkeypatch):
    monkeypatch.setattr(judge, "memory_before", lambda trainer: make_memory(have=9e9, rows=0))
    sections = examined(trainer)
    assert sections["First update"].values["grad_norm"] is None
    assert sections["Memory"].verdict == "stop"
    assert "not estimated" in told(sections["Time"])


def test_seconds_of_a_token_lie_on_a_line():
    speed = Speed(steps={4: 0.02, 24: 0.03})
    assert speed.token(44) == pytest.approx(0.04) and speed.token(14) == pytest.approx(0.025)
    assert speed.sample(50, 20, 10.0) == pytest.approx(10 * (2 * 0.028 + 0.023))  # 20, 20 and 10 rows
    assert Speed(steps={4: 0.02}).token(8) == 0.04
    assert Speed(steps={4: 0.03, 24: 0.02}).token(100) == 0.02  # noise is no speed-up


def test_how_much_is_sampled():
    options = {"group": 6, "few": 4, "every": 48, "left": 22.0, "rows_that_fit": math.inf}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "WHOLE_BATCH", 6.0)  # as shipped; the fixture above lifts it here
        assert how_much(Speed(steps={6: 1e-4, 24: 1e-4}), most=1280, **options) == (48, 1280)
        assert how_much(Speed(steps={6: 0.01, 24: 0.01}), most=1280, **options) == (4, 1280)
        assert how_much(Speed(steps={6: 0.04, 24: 0.04}), most=1280, **options) == (4, 550)
        assert how_much(Speed(steps={6: 0.25, 24: 1.0}), most=1280, **options) == (1, 88)
        assert how_much(Speed(steps={6: 9.0}), most=1280, **options) == (1, 8)
        few = {**options, "rows_that_fit": 24}
        assert how_much(Speed(steps={6: 1e-4, 24: 1e-4}), most=1280, **few) == (4, 1280)


def test_rows_within_a_time():
    rollout = SimpleNamespace(prompts=[[0] * 10] * 4, completions=[[0] * 10, [0] * 30, [0] * 10, [0] * 10])
    # 20 tokens took 2 s: 0.1 s a token; 20 + 40 tokens take 6 s, and the next 20 two more.
    assert rows_within(rollout, 2.0, 5.9) == 1 and rows_within(rollout, 2.0, 6.1) == 2
    assert rows_within(rollout, 2.0, 8.1) == 3 and rows_within(rollout, 2.0, 0.0) == 1
    assert rows_within(rollout, 2.0, 100.0) == 4
    assert rows_within(rollout, 2.0, 4.1, rows=[0, 2]) == 2 and rows_within(rollout, 2.0, 9.0, rows=[]) == 0


@pytest.mark.parametrize(("exact", "scored"), [(True, 144), (False, 288)])
def test_time_of_a_run_by_hand(exact, scored):
    config = TrainConfig(generation_rows=1000, eval_every=50)
    trainer = SimpleNamespace(
        config=config,
        accelerator=SimpleNamespace(num_processes=1),
        plan=BatchPlan(config),
        engine=SimpleNamespace(exact=exact),
        held_out=range(100),
        held_out_prompts=[[0] * 50] * 100,
    )
    numbers = {"ended": 0.9, "truncated": 0.1, "longest": 1280, "mean_length": 400, "expected_length": 400}
    speed = Speed(steps={10: 0.03, 20: 0.03}, reward=0.01, score=0.02, update=0.1, read=0.001, kept=0.5)
    seconds = estimate(trainer, SimpleNamespace(numbers=numbers), speed)
    # Greedy and sampled completions are sampled together, and read a prompt once.
    batch, evaluation = 1280 * 0.03 + 288 * 0.01, 1280 * 0.03 + 200 * 0.01 + 100 * 50 * 0.001
    # An update pushes half of 144 completions. The second one of a batch scores its own first; an engine that is not
    # exact has those of the second scored once more, when they are sampled.
    update = 144 * 0.5 * 0.1 + scored * 0.02 / 2
    assert seconds["batch"] == pytest.approx(batch) and seconds["evaluation"] == pytest.approx(evaluation)
    assert seconds["update"] == pytest.approx(update)
    assert seconds["evaluations"] == 5  # before, at 50, 100, 150, and after
    assert seconds["run"] == pytest.approx(100 * batch + 200 * update + 5 * evaluation)
    assert seconds["tokens_per_second"] == pytest.approx(288 * 400 / batch)


def test_a_run_of_weeks_is_remarked():
    seconds = {"batch": 100.0, "tokens_per_second": 1.0, "update": 1.0, "evaluation": 1.0, "evaluations": 2, "run": 9e5}
    section = time_section(TrainConfig(), seconds, measured=True)
    assert section.verdict == "look" and "about 10 days" in told(section)
    assert time_section(TrainConfig(), seconds | {"run": 9e4}, measured=True).verdict == "ok"


def test_the_floor_and_other_gpus_are_told():
    seconds = {"batch": 100.0, "tokens_per_second": 1.0, "update": 1.0, "evaluation": 1.0, "evaluations": 2, "run": 9e4}
    floor = {"rate": 55e9, "floor": 12.0, "share": 0.24, "H100": 22.0, "H200": 14.0}
    section = time_section(TrainConfig(), seconds, measured=True, floor=floor)
    assert "the floor: matrix products alone take 12 s of a step at this device's 55 GFLOP/s: 24% of it" in told(
        section
    )
    assert "22 s on an H100, 14 s on an H200 (assumptions: full/trainer/floor.py)" in told(section)
    assert section.values["share"] == 0.24


def test_the_share_of_the_floor_is_that_of_the_step_it_estimates(trainer, monkeypatch):
    monkeypatch.setattr(measure, "matmul_rate", lambda device, half: 1e9)
    config = dataclasses.replace(trainer.config, mini_batch_prompts=4)  # two updates a batch
    trainer = dataclasses.replace(trainer, config=config, plan=BatchPlan(config))
    values = examined(trainer)["Time"].values
    step = values["batch"] / trainer.plan.updates + values["update"]
    assert values["share"] == pytest.approx(values["floor"] / step) and values["rate"] == 1e9
    assert 0 < values["H200"] <= values["H100"]


# Print


def test_text_of_a_model_cannot_steer_the_terminal():
    printer = Printer(main=True)
    out = io.StringIO()
    printer.console, printer.width = Console(file=out, width=80, highlight=False), 80
    section = Section("Samples")
    section.fact("text", "a \x1b[31m red \x07 bell, [bold]no markup[/bold]")
    section.look("[red]nor here[/red]")
    printer.section(4, section)
    assert "\x1b" not in out.getvalue() and "\x07" not in out.getvalue()
    assert "[bold]no markup[/bold]" in out.getvalue() and "[red]nor here[/red]" in out.getvalue()


def test_other_processes_print_nothing(capsys):
    printer = Printer(main=False)
    printer.section(1, Section("Prompt"))
    printer.conclusion([Section("Prompt")], 1.0)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0123, "0.012 s"),
        (12.3, "12 s"),
        (200, "3 min 20 s"),
        (6600, "1 h 50 min"),
        (9000, "2 h 30 min"),
        (9e5, "10 days 10 h"),
    ],
)
def test_durations(seconds, text):
    assert units.duration(seconds) == text


def test_sizes_and_short_texts():
    assert [units.size(n) for n in (1.5e9, 33e6, 156e3)] == ["1.5 GB", "33 MB", "156 kB"]
    assert judge.shorten("a\n\n  b") == "a b" and judge.shorten("") == "(empty)"
    long = judge.shorten("x" * 300 + "end")
    assert len(long) < 240 and long.startswith("xxx") and long.endswith("xend") and " [...] " in long
