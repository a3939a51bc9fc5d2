"""The optimiser step is the same whatever the micro-batches, the processes or the padding; and equal seeds, equal runs."""

import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from apo_edu import GroupBatch, objectives
from full import train
from full.config import TrainConfig
from full.engines.hf import Sampler
from full.errors import NotFiniteError, UserError
from full.logprobs.packing import PackedRows
from full.rewards.numbering import NO_ANSWER, answer_number
from full.rewards.rewards import accuracy
from full.trainer import rollout, state, update
from full.trainer.rollout import Rollout
from tests.helpers import metrics_without_times, save_small_model, small_run

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("model"))


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max((a[name].double() - b[name].double()).abs().max().item() for name in a)


@pytest.fixture(scope="module")
def reference(model, tmp_path_factory):
    """An uninterrupted run of six updates, two of them off policy by an update and four by an epoch."""
    run = tmp_path_factory.mktemp("reference") / "run"
    train.main(small_run(model, run, weights="float64"))
    return run


@pytest.mark.parametrize(
    ("name", "options", "ratio"),
    [
        ("apo", {"alpha": 0.9, "tau_anc": 0.5, "beta_r": 0.3}, 4.74),  # w_1 / w_7, see `objectives.apo`
        ("apo", {"alpha": 0.35, "tau_anc": 0.5, "beta_r": 0.3}, 1.83),
        ("grpo", {}, 1.0),
        ("dr_grpo", {"max_tokens": 8}, 1.0),
    ],
)
def test_push_shares_are_the_weights_of_prompts(name, options, ratio):
    """On policy: prompts solved once in eight against prompts missed once, two of the latter, and one without a signal."""
    rewards = torch.zeros(4, 8, dtype=torch.float64)
    rewards[0, 0] = rewards[1:3, 1:] = rewards[3] = 1.0
    batch = GroupBatch.bandit(torch.full((4, 8), -1.0, dtype=torch.float64), rewards)
    shares = update.push_shares(
        batch, objectives.coefficients(objectives.OBJECTIVES[name].function, batch, **options)[0]
    )
    assert shares["push_hard"] / shares["push_easy"] == pytest.approx(ratio / 2, rel=2e-3)
    assert shares["push_hard"] + shares["push_easy"] == pytest.approx(1.0) and shares["push_idle"] < 1e-9
    # What is left out of a group counts neither as its best nor in its size; without any signal nothing is pushed.
    one = GroupBatch(batch.logps, batch.old_logps, batch.mask, rewards, valid=torch.arange(8).expand(4, 8) < 4)
    alone = update.push_shares(one, torch.ones(4, 8, 1))
    assert alone == {"push_hard": 0.25, "push_easy": 0.5, "push_idle": 0.25}
    assert set(update.push_shares(batch, torch.zeros(4, 8, 1)).values()) == {0.0}


def test_files_and_metric_keys(reference):
    assert {
        "config.yaml",
        "metrics.jsonl",
        "completions.jsonl",
        "summary.json",
        "curves.png",
        "report.html",
        "checkpoints",
        "model",
    } <= {path.name for path in reference.iterdir()}
    rows = [json.loads(line) for line in (reference / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    promised = (
        "step reward_mean reward_std alpha confidence improvement ess candidate_entropy token_entropy loss grad_norm "
        "kl_old clip_fraction completion_length truncated_fraction tokens_per_second seconds_generate seconds_update "
        "seconds_step lr push_hard push_easy push_idle"
    )
    for row in rows:
        assert set(promised.split()) <= row.keys()
    summary = json.loads((reference / "summary.json").read_text())
    for when in ("eval_before", "eval_after"):
        assert {"pass@1", "pass@1_se", "n"} <= summary[when].keys()
    assert {"steps", "seconds", "peak_memory_bytes", "seed", "objective", "schedule"} <= summary.keys()
    sample = json.loads((reference / "completions.jsonl").read_text().splitlines()[0])
    assert {"prompt", "completion", "answer", "reward"} <= sample.keys()
    assert sample["prompt"].startswith("<|im_start|>user")
    recorded = yaml.safe_load((reference / "config.yaml").read_text())
    assert "split train" in recorded["provenance"]["train"]
    assert recorded["group_size"] == 4


def test_the_plan_says_what_follows_from_the_options(model, tmp_path, capsys):
    train.main(small_run(model, tmp_path / "run", steps=1, prompts_per_batch=16, lora_rank=2))
    said = capsys.readouterr().out
    assert "that is: 1 batches of 64 completions (64 a process), 0.00 passes over 7311 problems" in said
    # The small model has 2 layers of 2,304 weights in matrices; each gets 2 x (inputs + outputs) of adapters.
    adapters = 2 * 2 * sum((16 + 16, 16 + 8, 16 + 8, 16 + 16, 16 + 32, 16 + 32, 32 + 16))
    assert f"({adapters / 1e6:.2f} M trained), on 1 x cpu, float32; sampled by hf" in said
    assert said.count("<|im_start|>user") == 1


def test_the_first_update_is_on_policy_and_the_next_are_not(reference):
    rows = metrics_without_times(reference)
    # Four updates a batch: two mini-batches, twice. Only the first of a batch sees the policy that sampled.
    assert [row["batch"] for row in rows] == [0, 0, 0, 0, 1, 1]
    assert rows[0]["kl_old"] == rows[4]["kl_old"] == 0.0
    assert all(row["kl_old"] > 0 for row in rows if row["step"] not in (1, 5))
    # The group mean is the anchor's uniform distribution: a value, and a gradient that is not zero.
    assert rows[0]["grad_norm"] > 0


def scored_rows(monkeypatch, *, exact: bool) -> list[int]:
    """How many completions each call of `score` gets, from here on; optionally with an engine of other numerics."""
    calls: list[int] = []
    original, make = rollout.score, state.make_engine

    def make_engine(*args):
        engine = make(*args)
        engine.exact = exact
        return engine

    monkeypatch.setattr(rollout, "score", lambda *a, **k: calls.append(len(a[1])) or original(*a, **k))
    monkeypatch.setattr(state, "make_engine", make_engine)
    return calls


@pytest.mark.parametrize(
    ("exact", "changes", "calls"),
    [
        # A mini-batch of 16 before updates 2, 3 and 4; sampling knew the rest.
        (True, {"steps": 4}, [16, 16, 16]),
        (True, {"steps": 2, "mini_batch_prompts": 8, "epochs": 1}, []),
        # With other numerics what later updates need is scored as well: everything, or all but the first mini-batch.
        (False, {"steps": 4}, [32, 16, 16, 16]),
        (False, {"steps": 2, "epochs": 1}, [16, 16]),
        (False, {"steps": 2, "mini_batch_prompts": 8, "epochs": 1}, []),
    ],
)
def test_nothing_is_scored_that_sampling_knew(model, tmp_path, monkeypatch, exact, changes, calls):
    seen = scored_rows(monkeypatch, exact=exact)
    train.main(small_run(model, tmp_path / "run", **changes))
    assert seen == calls


def test_log_probabilities_from_sampling_leave_the_step_as_it_is(model, tmp_path, monkeypatch):
    train.main(small_run(model, tmp_path / "known", steps=2, warmup_steps=0))
    scored_rows(monkeypatch, exact=False)
    train.main(small_run(model, tmp_path / "scored", steps=2, warmup_steps=0))
    assert distance(weights(tmp_path / "known"), weights(tmp_path / "scored")) < 1e-5
    rows = metrics_without_times(tmp_path / "scored")
    assert 0 < rows[0]["mismatch_mean"] <= rows[0]["mismatch_max"] < 1e-5
    assert metrics_without_times(tmp_path / "known")[0]["mismatch_max"] == 0.0


@pytest.mark.parametrize("objective", ["apo", "adpo", "grpo"])
def test_groups_without_signal_are_left_out_of_the_backward_pass(model, tmp_path, monkeypatch, objective):
    def gradient(run, **changes):
        got = {}
        original = update.require_finite

        def spy(trainer, what, values, mini):
            if what == "gradient norm":
                got.update({name: p.grad.clone() for name, p in trainer.model.named_parameters()})
            original(trainer, what, values, mini)

        monkeypatch.setattr(update, "require_finite", spy)
        options = {"reward": "tests.helpers:no_signal_on_odd_sums", "steps": 1, "weights": "float64", "lr": 1e-9}
        # In a group of 6, unlike 4 or 8, the softmax of equal numbers is off by rounding, and so are the coefficients.
        options |= {"group_size": 6, "objective": objective}
        train.main(small_run(model, run, **options, **changes))
        return got, metrics_without_times(run)[0]

    left_out, row = gradient(tmp_path / "left-out")
    share = row["groups_with_signal"]
    assert 0 < share < 1
    assert row["rows_with_gradient"] == share
    original = update.micro_batches
    monkeypatch.setattr(update, "micro_batches", lambda *args, keep, **options: original(*args, **options))
    everything, _ = gradient(tmp_path / "everything")
    largest = max(g.abs().max() for g in everything.values())
    assert largest > 0
    assert all((left_out[name] - everything[name]).abs().max() < 1e-12 * largest for name in everything)


def test_a_batch_without_any_signal_makes_a_step_with_gradient_zero(model, tmp_path):
    train.main(small_run(model, tmp_path / "run", reward="tests.helpers:nothing", steps=2))
    first = metrics_without_times(tmp_path / "run")[0]
    assert (first["grad_norm"], first["rows_with_gradient"], first["groups_with_signal"]) == (0.0, 0.0, 0.0)


def test_truncated_importance_weights_by_hand(model, tmp_path, monkeypatch):
    rollout = Rollout(
        prompts=[[1]], completions=[[2, 3]], rewards=torch.zeros(1), valid=torch.ones(1), truncated=torch.zeros(1),
        answers=torch.zeros(1),
        old_logps=torch.tensor([[-1.0, -2.0, 0.0]]), engine_logps=torch.tensor([[-1.5, -1.0, 0.0]]),
        entropies=torch.zeros(1, 3), seconds=0.0,
    )  # fmt: skip
    expected = [[math.exp(0.5), math.exp(-1.0), 1.0]]
    torch.testing.assert_close(rollout.importance(2.0), torch.tensor(expected))
    assert rollout.importance(1.5)[0, 0].item() == 1.5


def test_importance_weights_multiply_the_coefficients(model, tmp_path, monkeypatch):
    # An engine that overstates every log-probability by log 2 gets all coefficients halved, and so the gradient.
    def run(name, shift):
        original = Sampler.sample

        def sample(self, *args, greedy=False, **kwargs):
            samples = original(self, *args, greedy=greedy, **kwargs)
            return samples if greedy else dataclasses.replace(samples, logps=samples.logps + shift)

        scored_rows(monkeypatch, exact=False)
        monkeypatch.setattr(Sampler, "sample", sample)
        monkeypatch.setattr(state, "check_sampling", lambda *args: None)  # it would find the shift
        train.main(small_run(model, tmp_path / name, steps=1, weights="float64"))
        monkeypatch.setattr(Sampler, "sample", original)
        return metrics_without_times(tmp_path / name)[0]

    plain, shifted = run("plain", 0.0), run("shifted", math.log(2.0))
    assert shifted["grad_norm"] == pytest.approx(plain["grad_norm"] / 2, rel=1e-4)
    assert shifted["mismatch_mean"] == pytest.approx(math.log(2.0), rel=1e-4)
    assert shifted["importance_mean"] == pytest.approx(0.5, rel=1e-4)
    assert plain["importance_mean"] == pytest.approx(1.0, rel=1e-4)


def test_confidence_from_answers_counts_the_distinct_answers_of_a_group(model, tmp_path, monkeypatch):
    monkeypatch.setattr(rollout, "answer_number", lambda text: len(text) % 3)
    train.main(small_run(model, tmp_path / "run", steps=4, confidence_from="answers", log_completions=32))
    samples = [json.loads(line) for line in (tmp_path / "run" / "completions.jsonl").read_text().splitlines()]
    groups = [[len(sample["completion"]) % 3 for sample in samples[i : i + 4]] for i in range(0, 32, 4)]
    entropies = [-sum(f * math.log(f) for f in (g.count(a) / 4 for a in set(g))) / math.log(4) for g in groups]
    # Two mini-batches of four prompts, each used twice.
    halves = [1 - sum(entropies[:4]) / 4, 1 - sum(entropies[4:]) / 4]
    logged = [row["confidence"] for row in metrics_without_times(tmp_path / "run")]
    assert logged == pytest.approx(halves * 2, abs=1e-12) and len(set(halves)) == 2


def test_answers_are_numbered_by_what_is_boxed():
    same = [r"\boxed{\frac{1}{2}}", r"so \boxed{ \dfrac{1}{2} }", r"\boxed{3} no, \boxed{$\frac12$}"]
    first, second, other = map(answer_number, same)
    assert first == second != other
    assert answer_number(r"\boxed{1,000}") == answer_number(r"\boxed{1000}") != answer_number(r"\boxed{1,00}")
    assert answer_number("12") == answer_number("") == NO_ANSWER
    assert 0 <= first < 2**63


@pytest.mark.parametrize("off_policy", ["ratio", "clip"])
def test_off_policy_changes_only_updates_after_the_first_of_a_batch(model, tmp_path, off_policy):
    train.main(
        small_run(model, tmp_path / "run", weights="float64", steps=3, lr_schedule="constant", off_policy=off_policy)
    )
    train.main(small_run(model, tmp_path / "plain", weights="float64", steps=3, lr_schedule="constant"))
    corrected, plain = (metrics_without_times(tmp_path / name) for name in ("run", "plain"))
    assert corrected[0] == plain[0]
    assert corrected[1]["grad_norm"] != plain[1]["grad_norm"] and corrected[1]["loss"] == plain[1]["loss"]


@pytest.mark.parametrize(("max_grad_norm", "same"), [(1e-3, True), (1e9, False)])
def test_a_clipped_gradient_has_one_length_whatever_the_objectives_scale(
    model, tmp_path, monkeypatch, max_grad_norm, same
):
    # What the report and the doctor say of clipping (full/report/glossary.py, CLIPPED_MEANS), on a first update.
    applied = []
    original = update.clip

    def spy(accelerator, policy, norm):
        before = original(accelerator, policy, norm)
        applied.append((before, torch.cat([p.grad.flatten() for p in policy.parameters()]).clone()))
        return before

    monkeypatch.setattr(update, "clip", spy)
    for tau in (0.5, 0.05):
        options = {"steps": 1, "weights": "float64", "tau_anc": tau, "max_grad_norm": max_grad_norm}
        train.main(small_run(model, tmp_path / str(tau), **options))
    (wide, one), (narrow, other) = applied
    assert narrow == pytest.approx(10 * wide, rel=1e-6)
    assert (other.norm() / one.norm()).item() == pytest.approx(1.0 if same else 10.0, rel=1e-2 if same else 1e-6)
    torch.testing.assert_close(one / one.norm(), other / other.norm(), rtol=0, atol=1e-9)


def test_gradient_checkpointing_does_recompute(model, tmp_path, monkeypatch):
    # transformers does so in training mode only, and says nothing otherwise.
    calls = []
    original = state.load_model

    def load(*args):
        loaded = original(*args)
        loaded.model.layers[0].mlp.register_forward_pre_hook(lambda *args: calls.append(torch.is_grad_enabled()))
        return loaded

    monkeypatch.setattr(state, "load_model", load)
    passes = {}
    for on in (False, True):
        calls.clear()
        train.main(small_run(model, tmp_path / str(on), steps=1, gradient_checkpointing=on))
        passes[on] = sum(calls)
    assert passes[True] == 2 * passes[False] > 0


@pytest.mark.parametrize(
    "changes",
    [{"micro_batch_tokens": 1}, {"micro_batch_tokens": 70}, {"generation_rows": 5}, {"gradient_checkpointing": True}],
    ids=str,
)
def test_cutting_the_batch_leaves_the_run_as_it_is(model, reference, tmp_path, changes):
    train.main(small_run(model, tmp_path / "run", weights="float64", **changes))
    assert distance(weights(tmp_path / "run"), weights(reference)) < 1e-12


def test_float32_steps_agree_to_rounding(model, tmp_path):
    runs = []
    for tokens in (10_000, 64):
        runs.append(tmp_path / str(tokens))
        # One update: later ones amplify rounding through Adam's division.
        train.main(small_run(model, runs[-1], micro_batch_tokens=tokens, steps=1, warmup_steps=0))
    assert distance(weights(runs[0]), weights(runs[1])) < 1e-5


@pytest.mark.parametrize("objective", ["grpo", "dapo", "dr_grpo", "gspo", "adpo"])
def test_every_objective_is_indifferent_to_micro_batches(model, tmp_path, objective):
    runs = []
    for tokens in (10_000, 64):
        runs.append(tmp_path / str(tokens))
        train.main(
            small_run(model, runs[-1], objective=objective, micro_batch_tokens=tokens, steps=3, weights="float64")
        )
    assert distance(weights(runs[0]), weights(runs[1])) < 1e-12
    assert metrics_without_times(runs[0])[1]["grad_norm"] > 0


def test_half_precision_as_on_a_gpu(model, tmp_path, monkeypatch):
    # bfloat16 in the products, float32 in weights, optimiser and log-probabilities: what a GPU run does, on this CPU.
    run = tmp_path / "run"
    AcceleratorState._reset_state(reset_partial_state=True)  # accelerate keeps the precision of a process's first one
    with monkeypatch.context() as patch:
        patch.setattr(
            train, "start_accelerator", lambda *args, **options: Accelerator(cpu=True, mixed_precision="bf16")
        )
        train.main(small_run(model, run, steps=4))
    AcceleratorState._reset_state(reset_partial_state=True)
    assert {tensor.dtype for tensor in weights(run).values()} == {torch.float32}
    rows = metrics_without_times(run)
    assert all(row["grad_norm"] > 0 for row in rows)
    # Sampling and scoring may round differently; the difference is measured, small, and corrected.
    assert 0 < rows[0]["mismatch_mean"] < rows[0]["mismatch_max"] < 0.2
    assert 0.95 < rows[0]["importance_mean"] < 1.05
    train.main(small_run(model, tmp_path / "float32", steps=1))
    (exact,) = metrics_without_times(tmp_path / "float32")
    assert 1e-5 < abs(rows[0]["token_entropy"] - exact["token_entropy"]) < 0.5  # it really was half precision


def launch(arguments: list[str], *, processes: int, config: str = "cpu.yaml", extra: tuple[str, ...] = ()):
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", f"full/configs/accelerate/{config}", "--num_processes", str(processes), *extra]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    return subprocess.run(
        [*command, "full/train.py", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )


def test_two_processes_take_the_same_steps_as_one(model, reference, tmp_path):
    out = launch(small_run(model, tmp_path / "run", weights="float64"), processes=2)
    assert out.returncode == 0, out.stderr[-3000:]
    assert distance(weights(tmp_path / "run"), weights(reference)) < 1e-12
    one, two = metrics_without_times(reference), metrics_without_times(tmp_path / "run")
    assert [row["tokens"] for row in one] == [row["tokens"] for row in two]
    for a, b in zip(one, two, strict=True):
        assert a == pytest.approx(b, rel=1e-9, abs=1e-12)
    state = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert state["provenance"]["processes"] == 2


def test_processes_whose_longest_completions_differ(model, tmp_path):
    # Each process pads to its own longest; the group's tensors are as wide as the longest of all.
    stops = shutil.copytree(model, tmp_path / "stops")
    settings = json.loads((stops / "generation_config.json").read_text())
    settings["eos_token_id"] = list(range(2, 100))  # completions of many lengths
    (stops / "generation_config.json").write_text(json.dumps(settings))
    changes = {"weights": "float64", "max_completion_tokens": 40, "temperature": 2.0, "steps": 5}
    train.main(small_run(stops, tmp_path / "one", **changes))
    out = launch(small_run(stops, tmp_path / "two", **changes), processes=2)
    assert out.returncode == 0, out.stderr[-3000:]
    assert distance(weights(tmp_path / "one"), weights(tmp_path / "two")) < 1e-12
    states = [torch.load(path, weights_only=False) for path in (tmp_path / "two" / "checkpoints").glob("*5/progress*")]
    assert len({state["rollout"]["old_logps"].shape[1] for state in states}) == 2  # they did differ


def test_fewer_processes_than_asked_for_stop_the_run(model, tmp_path):
    # accelerate starts one process here, silently.
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    out = subprocess.run(
        [*command, "full/train.py", *small_run(model, tmp_path / "run")],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert out.returncode != 0
    assert "2 processes were asked for but 1 work together" in out.stderr
    assert not (tmp_path / "run").exists()


def test_groups_must_stay_whole(model, tmp_path):
    out = launch(small_run(model, tmp_path / "run", prompts_per_batch=9, mini_batch_prompts=3), processes=2)
    assert out.returncode != 0
    assert "mini_batch_prompts is 3 on 2 processes; expected a multiple, so that groups stay whole" in out.stderr


def test_equal_seeds_give_equal_runs_and_others_do_not(model, reference, tmp_path):
    train.main(small_run(model, tmp_path / "same", weights="float64"))
    assert metrics_without_times(tmp_path / "same") == metrics_without_times(reference)
    assert distance(weights(tmp_path / "same"), weights(reference)) == 0.0
    train.main(small_run(model, tmp_path / "other", weights="float64", seed=1))
    assert metrics_without_times(tmp_path / "other") != metrics_without_times(reference)


def test_truncated_completions_are_kept_or_left_out_and_counted(model, tmp_path):
    rows = {}
    for choice in ("keep", "mask"):
        train.main(small_run(model, tmp_path / choice, truncated=choice, steps=1, weights="float64"))
        (rows[choice],) = metrics_without_times(tmp_path / choice)
    assert rows["keep"]["truncated_fraction"] == rows["mask"]["truncated_fraction"] > 0
    assert rows["keep"]["loss"] != rows["mask"]["loss"]


def test_unloadable_model_names_the_embedded_one(tmp_path):
    (tmp_path / "empty").mkdir()
    data = ["--data", "arithmetic", "--level", "all"]
    with pytest.raises(UserError, match=r"model .*empty' cannot be loaded: .* full/configs/tiny.yaml") as caught:
        train.main(["--model", str(tmp_path / "empty"), *data, "--output_dir", str(tmp_path / "run")])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("quiet", [True, False])
def test_without_a_model_the_plain_command_ends_in_one_line(tmp_path, quiet):
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    launcher = [sys.executable, "-m", "accelerate.commands.launch", *["--quiet"] * quiet]
    command = [*launcher, "full/train.py", "--output_dir", str(tmp_path / "run")]
    out = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert out.returncode != 0
    assert out.stdout.startswith("starting: loading torch and transformers")  # before it loads them
    # Without --quiet accelerate adds a traceback of its own, above the last line.
    assert out.stderr.count("Traceback") == (0 if quiet else 1)
    assert ("CalledProcessError" in out.stderr) == (not quiet)
    assert out.stderr.strip().splitlines()[-1].startswith("error: data 'math' cannot be loaded")
    assert "full/configs/tiny.yaml" in out.stderr


def test_a_folder_with_a_run_is_not_overwritten_unasked(model, tmp_path):
    arguments = small_run(model, tmp_path / "run", steps=1)
    train.main(arguments)
    with pytest.raises(UserError, match=r"already holds a run.*--resume .*--overwrite true"):
        train.main(arguments)
    train.main([*arguments, "--overwrite", "true"])


def test_a_model_without_room_for_the_completions_is_refused(model, tmp_path):
    with pytest.raises(
        UserError, match=r"has 512 positions; expected 61\d, the longest prompt and max_completion_tokens 600"
    ):
        train.main(small_run(model, tmp_path / "run", max_completion_tokens=600))


def test_too_few_problems_for_a_batch(model, tmp_path):
    path = tmp_path / "few.jsonl"
    path.write_text("".join(json.dumps({"problem": f"p{i}", "answer": "1"}) + "\n" for i in range(30)))
    with pytest.raises(UserError, match="training problems for prompts_per_batch 64; expected at least one each"):
        train.main(small_run(model, tmp_path / "run", data=path, prompts_per_batch=64))


@pytest.mark.parametrize("what", ["logps", "gradient"])
def test_a_value_that_is_not_finite_stops_before_the_update(model, tmp_path, monkeypatch, what):
    broken = save_small_model(tmp_path / "broken")
    if what == "logps":
        original = rollout.score
        monkeypatch.setattr(rollout, "score", lambda *a, **k: tuple(t * float("nan") for t in original(*a, **k)))
        scored_rows(monkeypatch, exact=False)
    else:
        spread = PackedRows.spread
        monkeypatch.setattr(PackedRows, "spread", lambda self, coef: spread(self, coef) * float("inf"))
    with pytest.raises(RuntimeError, match=r"is not finite; no update was made, and the batch is in .*smaller lr"):
        train.main(small_run(broken, tmp_path / "run"))
    saved = torch.load(tmp_path / "run" / "failed-batch-0.pt", weights_only=False)
    assert len(saved["completions"]) == len(saved["prompts"]) == 16
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_coefficient_that_is_not_finite_names_the_objective_that_made_it(tmp_path):
    one = SimpleNamespace(num_processes=1, process_index=0, mixed_precision="no")
    trainer = SimpleNamespace(run=SimpleNamespace(path=tmp_path), config=TrainConfig(objective="grpo"), accelerator=one)
    number = torch.zeros(1)
    mini = Rollout([[1]], [[2]], number, number, number, number, number, number, number, 0.0)
    coef = torch.tensor([1.0, math.nan])
    with pytest.raises(
        NotFiniteError, match=r"failed-batch-0.pt \(torch.load reads it; objective grpo made this of it\)"
    ):
        update.require_finite(trainer, "coefficient", coef, mini)
    assert torch.load(tmp_path / "failed-batch-0.pt")["values"].isnan().tolist() == [False, True]


def test_model_folder_is_an_ordinary_one(reference):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(reference / "model")
    loaded = AutoModelForCausalLM.from_pretrained(reference / "model")
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "x"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    assert loaded.generate(**ids, max_new_tokens=2).shape[1] <= ids["input_ids"].shape[1] + 2


MATH = ROOT.parent / "shared" / "data" / "math_level3.jsonl"


@pytest.mark.skipif(not MATH.exists(), reason="the MATH sample is not here")
def test_real_problems_take_the_same_path(tmp_path):
    run = tmp_path / "run"
    model = save_small_model(tmp_path / "model", max_position_embeddings=4096)
    options = {"data": MATH, "level": 3, "max_prompt_tokens": 4096, "reward": "accuracy", "steps": 2}
    train.main(small_run(model, run, prompts_per_batch=2, mini_batch_prompts=1, **options))
    samples = [json.loads(line) for line in (run / "completions.jsonl").read_text().splitlines()]
    assert all("put your final answer within \\boxed{}" in sample["prompt"] for sample in samples)
    assert all(accuracy(f"\\boxed{{{sample['answer']}}}", sample["answer"]) == 1.0 for sample in samples)


def test_on_windows_one_line_says_where_it_runs():
    code = "import sys; sys.platform = 'win32'; import full"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert out.returncode == 1 and out.stdout == ""
    assert out.stderr.splitlines() == [
        "full/ (training, evaluation) needs Linux or macOS: use WSL or a Codespace. apo_edu and toys run on Windows."
    ]
