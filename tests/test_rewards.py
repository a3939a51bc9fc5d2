"""Rewards: boxes, equality of answers, hostile text, and functions that break their promise."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from full.errors import RewardError
from full.rewards.answers import last_boxed
from full.rewards.pool import Verifier
from full.rewards.rewards import Rewarder, accuracies, accuracy, repetition

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="module")
def verifier():
    pool = Verifier(num_workers=2, seconds=3.0)
    yield pool
    pool.close()


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{5}.", "5"),
        (r"\boxed{1} then \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{a_{1_{2}}} and \boxed{unfinished", "a_{1_{2}}"),
        (r"\boxed 7.", "7"),
        (r"\fbox{3}", "3"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed {4}", "4"),
        ("no box: 5", None),
        ("", None),
    ],
)
def test_last_box_by_matching_braces(text, answer):
    assert last_boxed(text) == answer


@pytest.mark.parametrize(
    ("completion", "answer", "reward"),
    [
        (r"\boxed{5}", "5", 1.0),
        (r"\boxed{+1,000}", "1000", 1.0),
        (r"\boxed{5} or rather \boxed{6}", "5", 0.0),
        (r"\boxed{0.5}", r"\frac{1}{2}", 1.0),
        (r"\boxed{x^2+1}", "1+x^2", 1.0),
        (r"\boxed{\frac{3}{4}}", r"we get \boxed{\frac34}", 1.0),
        (r"\boxed{7}", "8", 0.0),
        ("7", "7", 0.0),  # an answer without a box does not count
        (r"\boxed{}", "", 0.0),
    ],
)
def test_accuracy(completion, answer, reward):
    assert accuracy(completion, answer) == reward


@pytest.mark.parametrize("bad", [None, 5, b"x", ["5"], float("nan")])
def test_accuracy_never_raises(bad):
    assert accuracy(bad, "5") == 0.0
    assert accuracy(r"\boxed{5}", bad) == 0.0


HOSTILE = [
    "10^{10^{10}}",
    "(10^9)!",
    r"\sum_{k=1}^{1000000000} k",
    "{" * 5000,
    "+".join(f"x^{{{i}}}" for i in range(2000)),
    "9" * 100_000,
    r"\frac{1}{0}",
    "__import__('os').system('touch hacked')",
    r"\int_0^{\infty} e^{-x^2} x^{1000} dx",
    "\x00\ud800",
]


@pytest.mark.parametrize("answer", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_answers_are_wrong_within_the_limit(answer, verifier, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    started = time.monotonic()
    assert accuracies([f"\\boxed{{{answer}}}"], ["5"], verifier) == [0.0]
    assert time.monotonic() - started < 3.0 + 60.0  # the limit, and a worker's start on a busy machine
    assert not list(tmp_path.iterdir())  # nothing was executed


def test_the_pool_survives_killed_workers_and_answers_rightly_afterwards(verifier):
    pairs = [("1/2", "0.5"), ("5", "(10^9)!"), ("x+1", "1+x"), ("5", "10^{10^{10}}"), ("2x", "x+x"), ("3x", "x")]
    assert verifier.verify(pairs) == [True, False, True, False, True, False]
    for worker in verifier._workers:
        if worker.process is not None:
            worker.process.kill()
    assert verifier.verify([("1/4", "0.25"), ("1/8", "0.125"), ("1/5", "0.2")]).count(True) >= 1
    assert verifier.verify([("1/16", "0.0625"), ("x+2", "2+x")]) == [True, True]


def test_workers_do_not_import_torch():
    code = "import sys; sys.argv=['w','2048']; import full.rewards.worker, math_verify; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
    code = "import sys, full.rewards; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


def test_repetition_penalty_by_hand():
    assert repetition("one two three") == 0.0  # shorter than one 8-gram
    # 16 equal words hold nine 8-grams, eight of which occurred before.
    assert repetition("a " * 16) == pytest.approx(-8 / 9)
    assert repetition(" ".join(map(str, range(100)))) == 0.0


ROWS = [{"answer": "5", "problem": "2+3", "level": ""}] * 2
PROMPTS = [[{"role": "user", "content": "2+3"}]] * 2
TEXTS = [r"\boxed{5}", r"\boxed{6}"]


def test_weighted_sum_of_rewards():
    rewarder = Rewarder(["accuracy", "format"], [1.0, 0.25])
    total, parts = rewarder(PROMPTS, TEXTS, ROWS)
    assert total == [1.25, 0.25]
    assert parts == {"accuracy": [1.0, 0.0], "format": [1.0, 1.0]}
    rewarder.self_test()
    rewarder.close()


def test_wrong_answers_cost_their_repetition_and_right_ones_nothing():
    rewarder = Rewarder(["accuracy_or_repetition"])
    total, _ = rewarder(PROMPTS, [r"\boxed{5} " + "a " * 16, "a " * 16], ROWS)
    assert total == [1.0, pytest.approx(-8 / 9)]
    rewarder.close()


USER_REWARDS = """
def brevity(prompts, completions, rows): return [1.0 / len(c) for c in completions]
def short(prompts, completions, rows): return [1.0]
def nan(prompts, completions, rows): return [0.0, float("nan")]
def infinite(prompts, completions, rows): return [float("inf"), 0.0]
def text(prompts, completions, rows): return ["0.5", 1.0]
def none(prompts, completions, rows): return [1.0, None]
def scalar(prompts, completions, rows): return 1.0
def broken(prompts, completions, rows): return 1 / 0
def row(prompts, completions, rows): return [float(r["answer"]) + len(p) for p, r in zip(prompts, rows)]
number = 3
"""


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text(USER_REWARDS)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("my_rewards", None)


def test_user_rewards_are_called_with_prompts_completions_rows(user_module):
    assert Rewarder(["my_rewards:brevity"])(PROMPTS, ["a", "ab"], ROWS)[0] == [1.0, 0.5]
    assert Rewarder(["my_rewards:row"])(PROMPTS, TEXTS, ROWS)[0] == [6.0, 6.0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("short", "my_rewards:short returned 1 values for 2 completions; expected one each"),
        ("nan", "my_rewards:nan returned nan at index 1; expected a finite number"),
        ("infinite", "my_rewards:infinite returned inf at index 0"),
        ("text", "my_rewards:text returned '0.5' at index 0"),
        ("none", "my_rewards:none returned None at index 1"),
        ("scalar", "my_rewards:scalar returned a float; expected a list of 2 numbers"),
        ("broken", "my_rewards:broken raised ZeroDivisionError: division by zero"),
    ],
)
def test_broken_promises_name_function_index_and_value(user_module, name, message):
    with pytest.raises(RewardError, match=message):
        Rewarder([f"my_rewards:{name}"])(PROMPTS, TEXTS, ROWS)


def test_unknown_rewards(user_module):
    with pytest.raises(RewardError, match="'acuracy' is no known reward; expected accuracy"):
        Rewarder(["acuracy"])
    with pytest.raises(RewardError, match="cannot be imported: No module named 'nowhere'"):
        Rewarder(["nowhere:f"])
    with pytest.raises(RewardError, match="my_rewards:number.* is no known reward"):
        Rewarder(["my_rewards:number"])


def test_the_self_test_notices_a_broken_verifier(monkeypatch):
    rewarder = Rewarder(["accuracy"])
    monkeypatch.setattr(rewarder.verifier, "verify", lambda pairs: [False] * len(pairs))
    with pytest.raises(RewardError, match=r"self-test gave \[0.0, 0.0, 0.0\]"):
        rewarder.self_test()


@pytest.mark.skipif(not SHARED.exists(), reason="the MATH sample is not here")
@pytest.mark.parametrize("name", ["math_level3.jsonl", "math_other_levels.jsonl"])
def test_every_real_solution_verifies_against_itself(name, verifier):
    rows = [json.loads(line) for line in (SHARED / name).read_text().splitlines()]
    solutions = [row["solution"] for row in rows]
    rewards = accuracies(solutions, solutions, verifier)
    misses = [row["problem"][:60] for row, reward in zip(rows, rewards, strict=True) if reward != 1.0]
    assert misses == []


@pytest.mark.skipif(not SHARED.exists(), reason="the MATH sample is not here")
def test_real_answers_survive_the_worker(verifier):
    # Not string equality: the gold box with spaces added must be found equal by math-verify.
    rows = [json.loads(line) for line in (SHARED / "math_level3.jsonl").read_text().splitlines()][:120]
    golds = [last_boxed(row["solution"]) for row in rows]
    equal = verifier.verify([(gold, f" {gold} ") for gold in golds])
    misses = [gold for gold, same in zip(golds, equal, strict=True) if not same]
    assert len(misses) <= 0.02 * len(golds), misses
