"""Evaluation: estimators equal the mean over all subsets, intervals cover, answers are grouped, processes agree."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from accelerate import Accelerator
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from full import eval as evaluator
from full import train
from full.data.splits import is_held_out, require_held_out
from full.engines.base import Samples
from full.engines.hf import Sampler
from full.errors import UserError
from full.evaluation import (
    ProblemResult,
    answer_classes,
    evaluate,
    majority_at_k,
    mean_intervals,
    pass_at_k,
    problem_results,
    standard_error,
    summarize_results,
)
from full.models.tiny import make_tokenizer
from full.rewards.pool import Verifier
from tests.helpers import save_small_model, small_model, small_run

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def verifier():
    pool = Verifier(seconds=5.0)
    yield pool
    pool.close()


# --- the estimators


@given(st.integers(1, 7).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_mean_over_all_subsets(case):
    n, right, k = case
    subsets = list(combinations([1] * right + [0] * (n - right), k))
    assert pass_at_k(n, right, k) == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-14)


def test_pass_at_k_by_hand_and_where_factorials_overflow():
    assert pass_at_k(4, 1, 2) == 0.5  # of the 6 pairs, 3 hold the right one
    assert pass_at_k(4, 3, 2) == 1.0  # no pair of wrong ones
    assert pass_at_k(10_000, 1, 5_000) == pytest.approx(0.5, rel=1e-12)
    for k in (0, 5):
        with pytest.raises(ValueError, match=f"k is {k} with 4 samples; expected 1 <= k <= samples"):
            pass_at_k(4, 2, k)


def majority_by_hand(votes, right, k):
    """Every subset in turn: the top answers share, and silence is wrong."""
    total, subsets = 0.0, list(combinations(range(len(votes)), k))
    for subset in subsets:
        counts = Counter(votes[i] for i in subset if votes[i] is not None)
        tops = [vote for vote, count in counts.items() if count == max(counts.values())]
        total += sum(right[votes.index(vote)] for vote in tops) / len(tops) if tops else 0.0
    return total / len(subsets)


votes_and_k = st.lists(st.sampled_from([None, 0, 1, 2, 3]), min_size=1, max_size=7).flatmap(
    lambda votes: st.tuples(st.just(votes), st.integers(1, len(votes)), st.sampled_from([(0,), (1,), (), (0, 2)]))
)


@given(votes_and_k)
def test_majority_is_the_mean_over_all_subsets(case):
    votes, k, correct = case
    right = [float(vote in correct) for vote in votes]
    assert majority_at_k(votes, right, k) == pytest.approx(majority_by_hand(votes, right, k), abs=1e-12)


def test_majority_by_hand():
    right = [1.0, 1.0, 0.0, 0.0]
    assert majority_at_k([0, 0, 1, 2], right, 4) == 1.0
    assert majority_at_k([0, 0, 1, 1], right, 4) == 0.5  # a tie is drawn by lot
    assert majority_at_k([0, 0, 1, None], right, 1) == 0.5  # one vote: the mean accuracy
    assert majority_at_k([0, None, None, None], [1.0, 0.0, 0.0, 0.0], 4) == 1.0  # silence does not vote
    assert majority_at_k([None] * 4, [0.0] * 4, 4) == 0.0
    with pytest.raises(ValueError, match="k is 5 with 4 samples"):
        majority_at_k([0, 0, 1, 2], right, 5)


def test_equal_answers_vote_together_whether_right_or_wrong(verifier):
    answers = [["1/2", r"\frac{1}{2}", "0.25", r"\frac{1}{4}", None, "7"], ["3", "4", "03", None, "3", "3"]]
    right = [[1.0, 1.0, 0.0, 0.0, 0.0, 0.0], [0.0] * 6]
    # Where none is right the votes decide nothing, and nothing is compared.
    assert answer_classes(answers, right, verifier) == [[0, 0, 1, 1, None, 2], [0, 1, 2, None, 0, 0]]


def test_equality_is_passed_on_along_a_chain(monkeypatch):
    # a = b and b = c, but the verifier denies a = c.
    denied = {("\\boxed{a}", "\\boxed{c}"), ("\\boxed{c}", "\\boxed{a}")}
    monkeypatch.setattr(
        "full.evaluation.accuracies",
        lambda given, gold, v: [float(p not in denied) for p in zip(given, gold, strict=True)],
    )
    assert answer_classes([["x", "a", "b", "c"]], [[1.0, 0.0, 0.0, 0.0]], None) == [[0, 1, 1, 1]]


# --- the uncertainty


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    values = rng.binomial(4, rng.beta(2, 3, size=(120, 300))) / 4  # 300 data sets of 120 problems; true mean 0.4
    low, high = np.array(mean_intervals(values)).T
    covered = np.mean((low <= 0.4) & (high >= 0.4))
    assert 0.91 <= covered <= 0.98  # the standard error of a coverage of 0.95 over 300 is 0.013
    # Half the width is 1.96 standard errors, since means over 120 problems are nearly normal.
    errors = np.array([standard_error(column) for column in values.T.tolist()])
    assert np.median((high - low) / 2 / errors) == pytest.approx(1.96, abs=0.06)


def test_intervals_are_reproducible_and_shared_by_equal_columns():
    values = np.random.default_rng(1).random((30, 1))
    once = mean_intervals(np.hstack([values, values]))
    assert once[0] == once[1] == mean_intervals(np.hstack([values, values]))[0]
    assert mean_intervals(values, seed=1)[0] != pytest.approx(once[0], rel=1e-6)
    assert mean_intervals(np.ones((5, 1))) == [[1.0, 1.0]]


def test_summary_by_hand():
    results = [
        ProblemResult(0, 1.0, [1.0, 1.0, 0.0, 0.0], [0, 0, 1, None], truncated=1),
        ProblemResult(1, 0.0, [0.0, 0.0, 0.0, 1.0], [0, 0, 0, 1], truncated=0),
    ]
    summary = summarize_results(results, [1, 2, 4])
    assert summary["pass@1"] == 0.375 and summary["greedy"] == 0.5
    assert summary["pass@2"] == pytest.approx((5 / 6 + 1 / 2) / 2)
    assert summary["pass@4"] == 1.0 and summary["maj@4"] == 0.5
    assert summary["pass@1_se"] == pytest.approx(0.125) and summary["greedy_se"] == pytest.approx(0.5)
    assert summary["greedy_ci"] == [0.0, 1.0]
    assert (summary["n"], summary["k"]) == (2, 4)
    assert summary["truncated_fraction"] == summary["unanswered_fraction"] == 1 / 8
    assert "maj@1" not in summary
    assert json.loads(json.dumps(summary)) == summary


# --- what is held out


def test_held_out_problems_are_told_by_their_text():
    require_held_out(["a", "b"], ["c"], source="data")
    with pytest.raises(UserError, match=r"data: 1 problems are in both splits, e.g. 'What is  1\?'; .* Remove them"):
        require_held_out(["What is  1?", "b"], ["What\nis 1? "], source="data")  # white space does not make it new


# --- sampling


class Recorder(Sampler):
    """Counts the calls of the engine."""

    calls: tuple = ()

    def sample(self, prompts, keys, *, greedy=False):
        self.calls += ((len(prompts), sum(greedy)),)
        return super().sample(prompts, keys, greedy=greedy)


PROBLEMS = Dataset.from_list([{"answer": "1"}] * 3)
PROMPTS = [[5, 6, 7], [8, 9], [10, 11, 12, 13]]


def recorder(**changes):
    options = {"seed": 0, "temperature": 1.0, "max_new_tokens": 4, "rows_at_once": 64} | changes
    return Recorder(small_model(dtype=torch.float32), make_tokenizer(), **options)


def test_one_call_of_the_engine_whatever_k(verifier):
    engine = recorder()
    summary = evaluate(engine, PROBLEMS, PROMPTS, 5, verifier, Accelerator(cpu=True), ks=[2, 5])
    assert engine.calls == ((3 + 15, 3),)  # a greedy one and five samples of each problem
    assert {"pass@1", "pass@2", "pass@5", "maj@2", "maj@5", "greedy"} == {n[:-3] for n in summary if n.endswith("_se")}
    assert {"pass@5", "maj@5"} <= evaluate(engine, PROBLEMS, PROMPTS, 5, verifier, Accelerator(cpu=True)).keys()
    once = evaluate(engine, PROBLEMS, PROMPTS, 1, verifier, Accelerator(cpu=True))
    assert not [name for name in once if name.startswith("maj") or name.startswith("pass@5")]


def test_scores_belong_to_their_problem_and_sample(verifier, monkeypatch):
    # Each text names its prompt and sample; problem 1 is solved by its samples 0 and 2, and cut off in sample 1.
    engine = recorder()
    monkeypatch.setattr(
        engine,
        "sample",
        lambda prompts, keys, greedy=False: Samples(
            [[len(p), *key[1:], int(one)] for p, key, one in zip(prompts, keys, greedy, strict=True)]
        ),
    )
    monkeypatch.setattr(
        engine, "texts", lambda rows: [f"\\boxed{{{int(r[0] == 2 and (r[3] or r[2] != 1))}}}" for r in rows]
    )
    monkeypatch.setattr(engine, "ended", lambda row: row != [2, 1, 1, 0])
    results = problem_results(engine, PROBLEMS, PROMPTS, 3, verifier, Accelerator(cpu=True))
    assert [r.index for r in results] == [0, 1, 2]
    assert [r.right for r in results] == [[0.0] * 3, [1.0, 0.0, 1.0], [0.0] * 3]
    assert [r.greedy for r in results] == [0.0, 1.0, 0.0]
    assert [r.votes for r in results] == [[0, 0, 0], [0, 1, 0], [0, 0, 0]]
    assert [r.truncated for r in results] == [0, 1, 0]


# --- full/eval.py


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of two steps, evaluated on 8 problems with one sample each."""
    folder = tmp_path_factory.mktemp("eval")
    train.main(small_run(save_small_model(folder / "base"), folder / "run", steps=2, temperature=0.8, seed=3))
    return folder / "run"


def test_one_sample_repeats_the_runs_last_evaluation(run):
    record = evaluator.main(["--model", str(run), "--k", "1"])
    after = json.loads((run / "summary.json").read_text())["eval_after"]
    assert {name: record[name] for name in after} == after
    assert (record["temperature"], record["seed"], record["n"], record["max_completion_tokens"]) == (0.8, 3, 8, 6)


def test_a_run_is_evaluated_on_what_it_was_not_trained_on(run, tmp_path, capsys):
    record = evaluator.main(["--model", str(run), "--k", "1", "3", "--n", "5", "--out", str(tmp_path / "e.json")])
    out = capsys.readouterr().out
    assert re.search(r"held out: none of these is among the \d{4} problems of .*run's training data", out)
    for name in ("greedy", "pass@1", "pass@3", "maj@3"):
        assert re.search(rf"│ {name} +│ +\d\.\d{{3}} │ +\d\.\d{{3}} │ +\d\.\d{{3}} to \d\.\d{{3}} │", out)
    assert json.loads((tmp_path / "e.json").read_text()) == record
    assert len(record["problems"]) == 5
    assert all(is_held_out(row["problem"]) and 0 <= row["right"] <= 3 for row in record["problems"])
    assert record["pass@1"] == pytest.approx(sum(row["right"] for row in record["problems"]) / 15)
    with pytest.raises(
        UserError, match=r"run was trained on problems it is evaluated on \(with --split train; --split"
    ):
        evaluator.main(["--model", str(run), "--split", "train", "--n", "5"])


def test_training_problems_in_another_file_are_found(run, tmp_path):
    path = tmp_path / "leak.jsonl"
    rows = [{"problem": f"p{i}", "answer": "1"} for i in range(4)] + [{"problem": "Compute  $10+11$.", "answer": "21"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert not is_held_out("Compute $10+11$.")
    with pytest.raises(UserError, match=r"1 problems are in both splits, e.g. 'Compute \$10\+11\$.'"):
        evaluator.main(["--model", str(run), "--data", str(path), "--split", "all"])


def test_a_model_that_is_no_run(run, tmp_path, capsys):
    path = tmp_path / "few.jsonl"
    path.write_text("".join(json.dumps({"problem": f"p{i}", "answer": str(i)}) + "\n" for i in range(12)))
    options = ["--data", str(path), "--k", "2", "--max_completion_tokens", "3"]
    record = evaluator.main(["--model", str(run / "model"), *options, "--split", "all"])
    assert sorted(row["problem"] for row in record["problems"]) == sorted(f"p{i}" for i in range(12))
    assert "held out: not known" in capsys.readouterr().out
    assert evaluator.main(["--model", str(run / "model"), *options])["n"] < 12  # of a file, test is one in ten


def test_adapters_load_with_their_base(run, tmp_path):
    peft = pytest.importorskip("peft")
    base = AutoModelForCausalLM.from_pretrained(run / "model")
    adapted = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules="all-linear"))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=2.0)
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("model", "checkpoints"))
    adapted.save_pretrained(tmp_path / "run" / "model")
    make_tokenizer().save_pretrained(tmp_path / "run" / "model")
    config = yaml.safe_load((run / "config.yaml").read_text()) | {"lora_rank": 2}
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            evaluator,
            "problem_results",
            lambda engine, *rest, **more: seen.append(engine) or problem_results(engine, *rest, **more),
        )
        evaluator.main(["--model", str(tmp_path / "run"), "--k", "1", "--n", "4"])
    ids = torch.tensor([[5, 6, 7, 8]])
    torch.testing.assert_close(seen[0].model(ids).logits, adapted(ids).logits)


def test_two_processes_find_what_one_does(run, tmp_path):
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--config_file"]
    command += [ROOT / "full" / "configs" / "accelerate" / "cpu.yaml", ROOT / "full" / "eval.py", "--model", run]
    command += ["--k", "2", "--n", "3", "--out", tmp_path / "two.json"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    out = subprocess.run(
        list(map(str, command)), cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert out.returncode == 0, out.stderr[-3000:]
    assert out.stdout.startswith("loading the libraries")
    assert out.stdout.count("│ greedy") == 1
    one = evaluator.main(["--model", str(run), "--k", "2", "--n", "3"])
    assert {**json.loads((tmp_path / "two.json").read_text()), "seconds": 0} == {**one, "seconds": 0}


def test_errors_are_one_line(run, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(evaluator, "quiet_exit", lambda *words: said.append(words))
    evaluator.run_and_report(["--model", str(tmp_path / "none"), "--data", "arithmetic"])
    ((message, code),) = said
    assert code == 2
    assert message.startswith(f"error: model '{tmp_path / 'none'}' cannot be loaded") and "\n" not in message
    (tmp_path / "unfinished").mkdir()
    shutil.copy(run / "config.yaml", tmp_path / "unfinished")
    for arguments, message in (
        (["--model", str(tmp_path / "unfinished")], r"holds a run without model/; expected a finished one.*--resume"),
        (["--model", str(run / "model")], "holds no run; expected the folder of a run, or a model's folder or hub id"),
        (["--model", str(run), "--k", "0"], "--k is 0; expected at least 1"),
        (["--model", str(run), "--n", "0"], "--n is 0; expected at least 1"),
        (["--model", str(run), "--temperature", "0"], "temperature is 0.0; expected a finite number > 0"),
        (["--model", str(run), "--colour"], "unrecognized arguments: --colour. See --help"),
        (["--model", str(run), "--out", str(tmp_path / "no" / "e.json")], "--out is .*no is no folder"),
        (["--k", "1"], "the following arguments are required: --model"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            evaluator.main(arguments)
        assert "\n" not in str(caught.value)
