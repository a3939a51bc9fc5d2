"""Rewards: boxes, equality of answers, hostile text, and functions that break their promise."""

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import types
import warnings
from collections import Counter
from pathlib import Path

import pytest

from full.engines.base import answer_texts
from full.errors import RewardError
from full.rewards import pool, worker
from full.rewards.answers import final_answer, last_boxed, thinking_opened_by
from full.rewards.pool import Verifier
from full.rewards.rewards import Rewarder, accuracies, accuracy, repetition

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"
CASES = ROOT.parent / "shared" / "cases" / "answers.jsonl"
KINDS = {
    "comma", "base", "adjacent", "equation", "texttail", "pairs", "precision", "letters", "stop", "percent", "thousands",
    "units", "textgold", "repeating", "interval", "wrap",
}  # fmt: skip


@pytest.fixture(scope="module")
def verifier():
    pool = Verifier(num_workers=2, seconds=1.0)
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
        (r"\boxed{5\\}", r"5\\"),
        ("no box: 5", None),
        ("", None),
    ],
)
def test_last_box_by_matching_braces(text, answer):
    assert last_boxed(text) == answer


@pytest.mark.parametrize("text", [r"\boxed{" * 4000, r"\boxed{1" * 4000 + "x" * 20_000, "{" * 10**6, "<think>" * 10**5])
def test_boxes_that_never_close_take_milliseconds(text):
    started = time.process_time()
    assert final_answer(text) is None
    assert time.process_time() - started < 0.5  # quadratic: half a minute, and more than a minute


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        (r"<think> maybe \boxed{4}? no", None),
        (r"<think>\boxed{4}</think> It is 5.", None),
        (r"<think>\boxed{4}</think> It is \boxed{5}.", "5"),
        (r"\boxed{4}</think> It is \boxed{5}.", "5"),  # the template may have opened it
        (r"It is \boxed{5}. <think> or \boxed{6}", None),
        (r"<think>a</think>\boxed{3} <think>b</think> \boxed{4}", "4"),
        (r"[THINK]\boxed{1}[/THINK]\boxed{2}", "2"),
        (r"for x < 3, \boxed{5}", "5"),
    ],
)
def test_only_what_follows_the_end_of_thinking_is_an_answer(completion, answer):
    assert final_answer(completion) == answer
    assert accuracy(completion, "4") == float(answer == "4")


def test_a_gold_solution_is_no_thinking():
    assert accuracy(r"\boxed{4}", r"<think> so \boxed{4}") == 1.0


def cases(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("path", [ROOT / "tests" / "golden" / "answers.jsonl", CASES], ids=["ours", "shared"])
def test_answers_of_every_kind_are_judged_rightly(path, verifier):
    """Pairs with verdicts found by hand: no wrong answer is rewarded, and at most 3 % of all are judged wrongly."""
    if not path.exists():
        pytest.skip("the cases are not here")
    rows = cases(path)
    assert {row["kind"] for row in rows} == KINDS
    assert {(row["kind"], row["expected"]) for row in rows} >= {(kind, 1) for kind in KINDS - {"adjacent", "texttail"}}
    got = accuracies([f"\\boxed{{{row['answer']}}}" for row in rows], [row["gold"] for row in rows], verifier)
    missed = [row for row, reward in zip(rows, got, strict=True) if reward != row["expected"]]
    assert [row for row in missed if row["expected"] == 0] == []
    assert len(missed) <= 0.03 * len(rows), (Counter(row["kind"] for row in missed), missed[:20])


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
    ],
)
def test_accuracy(completion, answer, reward):
    assert accuracy(completion, answer) == reward


def test_a_list_of_accepted_answers_is_a_set():
    assert accuracies(
        [r"\boxed{5}", r"\boxed{0.5}", r"\boxed{6}"], [["4", "5"], [r"\frac{1}{2}", "7"], ["4", "5"]]
    ) == [1, 1, 0]
    assert accuracy(r"\boxed{5}", ["5"]) == 1.0


@pytest.mark.parametrize("bad", [None, 5, b"x", float("nan"), "", " ", [], [5], {"a": 1}])
def test_a_gold_that_is_no_text_is_refused_and_accuracy_never_raises(bad):
    with pytest.raises(RewardError, match=r"answer 1 is .*; expected a text, or a list of texts"):
        accuracies([r"\boxed{5}"] * 2, ["5", bad])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert accuracy(r"\boxed{5}", bad) == 0.0
    assert "expected a text" in str(told[0].message)
    assert accuracy(bad, "5") == 0.0


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
    pairs = [("1/2", "0.5"), ("x+1", "1+x"), ("5", "10^{10^{11}}"), ("2x", "x+x"), ("3x", "x")]
    before = verifier.timeouts
    assert verifier.verify(pairs) == [True, True, False, True, False]
    assert verifier.timeouts == before + 1
    assert verifier.verify([("x+3", "3+x"), ("x+4", "4+x")]) == [True, True]
    before = verifier.deaths
    for process in [one.process for one in verifier._workers]:
        if process is not None:
            process.kill()
            process.wait()
    assert verifier.verify([("1/4", "0.25"), ("1/8", "0.125"), ("1/5", "0.2")]) == [True] * 3
    assert verifier.deaths > before


def test_a_worker_killed_again_and_again_changes_no_reward():
    verifier = Verifier(num_workers=2)
    pairs = [(f"{n}x+1", f"1+{n}x") for n in range(2, 62)] + [(f"{n}x+1", f"{n}x-1") for n in range(2, 22)]
    verifier.verify(pairs[:1])
    stop = threading.Event()

    def kill():
        # The first two early: a quick machine is done with all eighty within half a second.
        for pause in (0.05, 0.15, 0.5, 0.5, 0.5, 0.5):
            stop.wait(pause)
            victims = [one.process for one in verifier._workers if one.process is not None and one.ready]
            if victims:
                victims[0].kill()

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        assert verifier.verify(pairs) == [True] * 60 + [False] * 20
    finally:
        stop.set()
        thread.join()
        verifier.close()
    assert verifier.deaths >= 1 and verifier.timeouts == 0
    assert verifier.take_counts() == (0, verifier.deaths) and verifier.take_counts() == (0, 0)


def test_limits_are_cpu_seconds_counted_and_not_cached():
    verifier = Verifier(num_workers=1, seconds=0.5)
    # Stopped for longer than its limit: it used no CPU, so nothing is wrong with the answer.
    verifier.verify([("x", "y")])
    process = verifier._workers[0].process
    process.send_signal(signal.SIGSTOP)
    threading.Timer(1.5, process.send_signal, [signal.SIGCONT]).start()
    assert verifier.verify([("x+1", "1+x")]) == [True]
    assert (verifier.timeouts, verifier.deaths) == (0, 0)
    for count in (1, 2):
        assert verifier.verify([("5", "10^{10^{10}}"), ("x+2", "2+x")]) == [False, True]
        assert verifier.timeouts == count
    assert ("5", "10^{10^{10}}") not in verifier._cache and verifier._cache["x+2", "2+x"]
    assert verifier.deaths == 0
    verifier.close()


def test_a_batch_has_a_limit_that_only_the_slow_answers_meet():
    verifier = Verifier(num_workers=1, seconds=60.0, batch_seconds=6.0)
    slow = [(str(n), "10^{10^{10}}") for n in range(20)]
    assert verifier.verify([("x+2", "2+x")]) == [True]  # a worker's start is no part of it: seconds, on a busy machine
    started = time.monotonic()
    # The first one gets one CPU second before the others' turn.
    assert verifier.verify([*slow[:1], ("x+1", "1+x"), *slow[1:]])[1]
    assert time.monotonic() - started < 60.0
    assert verifier.timeouts == 20
    verifier.close()


def test_a_worker_that_cannot_start_stops_the_run_with_its_own_message(monkeypatch, tmp_path):
    script = tmp_path / "worker.py"
    script.write_text("raise ImportError('no module named math_verify here')")
    monkeypatch.setattr(pool, "__file__", str(tmp_path / "pool.py"))
    verifier = Verifier(num_workers=2)
    with pytest.raises(
        RewardError, match="no verifying worker can start: ImportError: no module named math_verify here"
    ):
        accuracies([r"\boxed{x+1}"], ["1+x"], verifier)
    rewarder = Rewarder(["accuracy"])
    with pytest.raises(RewardError, match="no verifying worker can start"):
        rewarder([PROMPTS[0]], [r"\boxed{x+1}"], [{"answer": "1+x"}])
    monkeypatch.undo()
    assert accuracies([r"\boxed{x+1}"], ["1+x"], verifier) == [1.0]  # nothing was cached
    verifier.close()


DYING = """
import json, os, sys
print("ready", flush=True)
for line in sys.stdin:
    number, gold, answer, seconds = json.loads(line)
    if {when}:
        os.kill(os.getpid(), 9)
    print(json.dumps([number, True]), flush=True)
"""


def test_who_is_at_fault_for_a_death_is_found_by_another_question(monkeypatch, tmp_path):
    monkeypatch.setattr(pool, "__file__", str(tmp_path / "pool.py"))
    (tmp_path / "worker.py").write_text(DYING.format(when="answer == 'bad'"))
    verifier = Verifier(num_workers=2)
    assert verifier.verify([("1", "good"), ("1", "bad")]) == [True, False]
    assert (verifier.timeouts, verifier.deaths) == (1, pool.MAX_DEATHS)
    (tmp_path / "worker.py").write_text(DYING.format(when="True"))
    verifier.close()
    with pytest.raises(RewardError, match=r"workers keep dying: it was ended by SIGKILL.*--resume"):
        verifier.verify([("1", "2")])
    verifier.close()


def test_no_descriptors_left_is_said_and_does_not_last():
    """In a process of its own: with 20 descriptors, all taken, and then given back."""
    code = """
import os, resource
from full.errors import RewardError
from full.rewards.rewards import accuracies
resource.setrlimit(resource.RLIMIT_NOFILE, (20, 4096))
taken = []
try:
    while True: taken.append(os.open(os.devnull, os.O_RDONLY))
except OSError: pass
try: print(accuracies([r"\\boxed{x+1}"], ["1+x"]))
except RewardError as error: print(error)
for number in taken: os.close(number)
print(accuracies([r"\\boxed{x+1}"], ["1+x"]))
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
taken = [os.open(os.devnull, os.O_RDONLY) for _ in range(1500)]
from full.rewards.pool import Verifier
print(accuracies([r"\\boxed{x+2}"], ["2+x"], Verifier(num_workers=1)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done.stderr
    assert lines[0].startswith("no verifying worker can start: OSError: [Errno 24] Too many open files")
    assert lines[1:] == ["[1.0]", "[1.0]"]


def test_as_many_workers_as_cores_shared_between_the_ranks(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert len(Verifier()._workers) == 12
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert len(Verifier()._workers) == 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "64")
    assert len(Verifier()._workers) == 1
    assert all(one.process is None for one in Verifier()._workers)  # started when first needed


def test_a_system_without_a_memory_limit_is_told_of(monkeypatch):
    def refuse(*_):
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert not worker.limit_memory(2**31)
    batch = pool._Batch(Verifier(num_workers=1), [])
    pool._say_once.cache_clear()
    with pytest.warns(RuntimeWarning, match="refuses a memory limit"):
        batch._is_ready(pool._Worker(), "ready without a memory limit")


def test_workers_do_not_import_torch():
    code = "import sys; sys.argv=['w','2048']; import full.rewards.worker, full.rewards.equality; print('torch' in sys.modules)"
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
def keys(prompts, completions, rows): return {i: 1.0 for i in range(len(rows))}
def unordered(prompts, completions, rows): return {0.5, 1.0}
def table(prompts, completions, rows):
    import torch
    return torch.zeros(2, 3)
def trl(prompts, completions, answer, **kwargs):
    return [float(c[0]["content"] == a) + len(p) for p, c, a in zip(prompts, completions, answer)]
def trl_columns(completions, level, **columns): return [None, float(sorted(columns) == ["answer", "problem", "prompts"])]
async def later(completions, **columns): return [1.0, 1.0]
def ours(prompts, completions, rows, **options): return [float(rows[0]["answer"]), 0.0]
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
        ("broken", r"my_rewards:broken raised ZeroDivisionError: division by zero \(.*my_rewards.py, line 9\)"),
        ("keys", "my_rewards:keys returned a dict; expected a list of 2 numbers"),
        ("unordered", "my_rewards:unordered returned a set; expected a list"),
        ("table", "my_rewards:table returned tensor.* at index 0; expected a finite number"),
        ("later", "my_rewards:later raised TypeError: asynchronous rewards are not supported"),
    ],
)
def test_broken_promises_name_function_index_and_value(user_module, name, message):
    with pytest.raises(RewardError, match=message):
        Rewarder([f"my_rewards:{name}"])(PROMPTS, TEXTS, ROWS)


def test_rewards_with_the_signature_of_trl_work(user_module):
    """f(prompts, completions, **columns): by name, columns as lists, completions as messages, None left out."""
    assert Rewarder(["my_rewards:trl"])(PROMPTS, ["5", "6"], ROWS)[0] == [2.0, 1.0]
    assert Rewarder(["my_rewards:trl_columns"])(PROMPTS, ["5", "6"], ROWS)[0] == [0.0, 1.0]
    assert Rewarder(["my_rewards:ours"])(PROMPTS, ["5", "6"], ROWS)[0] == [5.0, 0.0]


def test_a_reward_is_given_once():
    with pytest.raises(RewardError, match="reward 'accuracy' is given 2 times; give it once, with a larger weight"):
        Rewarder(["accuracy", "format", "accuracy"])
    with pytest.raises(RewardError, match="1 reward weights for 2 rewards"):
        Rewarder(["accuracy", "format"], [1.0])


@pytest.mark.parametrize("name", ["data", "rewards"])
def test_a_users_module_may_have_the_name_of_a_folder_of_ours(name, tmp_path):
    """As in a run: Python puts the folder of a script, full/, first on its path."""
    (tmp_path / f"{name}.py").write_text("def mine(prompts, completions, rows): return [7.0] * len(rows)")
    code = f"""
import sys; sys.path.insert(0, {str(ROOT / "full")!r}); sys.path.insert(1, {str(ROOT)!r})
from full.rewards import Rewarder
print(Rewarder(["{name}:mine"])([0], [""], [{{}}])[0])
"""
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.strip() == "[7.0]", done.stderr


def test_a_module_that_raises_when_imported_is_told_with_its_line(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "raising.py").write_text("import math\nmath.sqrt(-1)\n")
    (tmp_path / "unwritten.py").write_text("x = 1\ndef f(:\n")
    (tmp_path / "importing.py").write_text("import os\nimport nowhere_at_all\n")
    for name, message in [
        ("raising", r"ValueError: .* \(.*raising.py, line 2\)"),
        ("unwritten", r"SyntaxError: .* \(.*unwritten.py, line 2\)"),
        ("importing", r"No module named 'nowhere_at_all' \(.*importing.py, line 2\)"),
    ]:
        with pytest.raises(RewardError, match=f"reward '{name}:f' cannot be imported: {message}") as caught:
            Rewarder([f"{name}:f"])
        assert "\n" not in str(caught.value)


def test_unknown_rewards(user_module):
    with pytest.raises(RewardError, match="'acuracy' is no known reward: expected accuracy"):
        Rewarder(["acuracy"])
    with pytest.raises(RewardError, match="my_rewards has no function 'brevty'; expected accuracy"):
        Rewarder(["my_rewards:brevty"])
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


@pytest.mark.parametrize(
    ("prompt", "mark"),
    [
        ("user: 2+2?\nassistant\n<think>\n", "<think>"),
        ("assistant\n[THINK]", "[THINK]"),
        ("assistant\n<think>\n\n</think>\n\n", ""),  # a template that leaves thinking out
        ("Write in <think> tags.\nassistant\n", ""),  # a user's words open nothing
        ("", ""),
    ],
)
def test_thinking_that_the_prompt_opens(prompt, mark):
    assert thinking_opened_by(prompt) == mark
    draft, answer = r"maybe \boxed{4}? no", r"so 5.</think> It is \boxed{5}."
    assert final_answer(mark + draft) == (None if mark else "4")
    assert final_answer(mark + answer) == "5"


def test_a_completion_is_judged_after_what_its_prompt_opens():
    words = {1: "2+2? <think>", 2: "3+3?", 7: r"maybe \boxed{4}"}
    engine = types.SimpleNamespace(texts=lambda rows: [" ".join(words[i] for i in row) for row in rows])
    texts = answer_texts(engine, [[1], [2], [1]], [[7], [7], [7]])
    assert texts == [r"<think>maybe \boxed{4}", r"maybe \boxed{4}", r"<think>maybe \boxed{4}"]
    assert answer_texts(engine, [], []) == []
