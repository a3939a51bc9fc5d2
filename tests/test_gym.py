"""reasoning-gym: what may run does, what executes a model's text does not, and a wrong answer is never a right one."""

import importlib.util
import json
import sys

import pytest

from full.config import parse_config
from full.data import load_problems
from full.data.gym import gym_rows
from full.data.sources import is_remote, load_splits
from full.errors import RewardError, UserError
from full.rewards import gym
from full.rewards.pool import Verifier
from full.rewards.rewards import Rewarder, accuracies, gym_scores, right_answers

installed = pytest.mark.skipif(importlib.util.find_spec("reasoning_gym") is None, reason="reasoning-gym is an extra")


def entry(name, answer, **metadata):
    return json.dumps({"name": name, "answer": answer, "metadata": metadata})


@pytest.mark.parametrize("name", gym.EXECUTES)
def test_a_scorer_that_executes_text_is_refused(name):
    with pytest.raises(UserError, match=f"scorer of '{name}' executes the model's text; refused"):
        gym_rows(f"reasoning_gym:{name}")
    assert gym.score(entry(name, "24", numbers=[4, 6]), "4*6") == 0.0  # also where the entry comes from elsewhere


def test_without_the_package_it_is_one_line(monkeypatch):
    for name in ("reasoning_gym", "reasoning_gym.dataset", "reasoning_gym.factory"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        UserError, match=r"needs the package reasoning-gym.*pip install 'apo_edu\[reasoning-gym\]'"
    ) as caught:
        load_problems("reasoning_gym:spell_backward")
    assert "\n" not in str(caught.value)
    assert not is_remote("reasoning_gym:spell_backward")


@pytest.mark.parametrize(
    ("name", "given", "theirs", "ours"),
    [
        ("spell_backward", "nus and more", 1.0000000000000002, 0.9),
        ("letter_jumble", "NUS", 1.0, 1.0),
        ("letter_jumble", "nus nus", 0.9999999999999999, 0.9),
        ("game_of_life", r"\text{ n u s }", 1.0, 1.0),
        ("complex_arithmetic", "nan", 1.0, 0.0),
        ("complex_arithmetic", "inf", 1.0, 0.0),
        ("complex_arithmetic", "1.0j", 1.0, 1.0),
        ("word_sorting", "x", -1.0, 0.0),
        ("word_sorting", "x", float("nan"), 0.0),
        ("word_sorting", "x" * 4001, 1.0, 0.0),
    ],
)
def test_only_a_right_answer_is_worth_one(monkeypatch, name, given, theirs, ours):
    monkeypatch.setattr(gym, "_scorer", lambda task: lambda text, problem: theirs)
    assert gym.score(entry(name, "nus"), given) == ours


@pytest.mark.parametrize("error", [KeyError, IndexError, RecursionError, ValueError, TypeError])
def test_a_scorer_that_raises_gives_nothing(monkeypatch, error):
    def raises(text, problem):
        raise error

    monkeypatch.setattr(gym, "_scorer", lambda task: raises)
    assert gym.score(entry("game_of_life", "[]"), "{}") == 0.0


def test_the_reward_is_for_its_data_alone():
    rewarder = Rewarder(["reasoning_gym"])
    with pytest.raises(RewardError, match="expected --data reasoning_gym:NAME"):
        rewarder([[]], ["\\boxed{1}"], [{"answer": "1"}])
    rewarder.close()


@installed
def test_the_lists_are_right_about_the_package():
    import inspect

    from reasoning_gym.dataset import ProceduralDataset
    from reasoning_gym.factory import DATASETS

    calls = ("eval(answer", "parse_expr(answer", "parse_expr(user", "exec(answer")
    for name, (task, _) in DATASETS.items():
        executes = any(call in inspect.getsource(task) for call in calls)
        assert executes == (name in gym.EXECUTES), name
    assert all(DATASETS[name][0].score_answer is not ProceduralDataset.score_answer for name in gym.SCORED)


@installed
@pytest.mark.parametrize("name", gym.SCORED)
def test_right_answers_get_one_and_others_less(name):
    for row in gym_rows(f"reasoning_gym:{name}?size=5"):
        assert gym.score(row["entry"], row["answer"]) == 1.0
        assert gym.score(row["entry"], f"\\text{{{row['answer']}}}") == 1.0
        for wrong in ("", "nan", "inf", "nan+nanj", "x", "{}", "null", "[" * 3000, row["answer"] + " and more"):
            assert 0.0 <= gym.score(row["entry"], wrong) <= gym.NEARLY, wrong


@installed
def test_scores_are_graded_and_given_by_the_workers():
    rows = list(load_problems("reasoning_gym:spell_backward?size=40&min_word_len=4&max_word_len=6"))
    assert set(rows[0]) == {"prompt", "problem", "answer", "level", "entry"}
    half = [row["answer"][: len(row["answer"]) // 2] for row in rows]
    texts = [f"It is \\boxed{{{text}}}." for text in half]
    rewarder = Rewarder(["reasoning_gym"], num_workers=1)
    try:
        _, parts = rewarder([[]] * len(rows), texts, rows)
        expected = [len(text) / len(row["answer"]) for text, row in zip(half, rows, strict=True)]
        assert parts["reasoning_gym"] == pytest.approx(expected)
        _, parts = rewarder([[]] * 2, [f"\\boxed{{{rows[0]['answer']}}}", "no box"], [rows[0], rows[1]])
        assert parts["reasoning_gym"] == [1.0, 0.0]
        assert rewarder.take_counts() == (0, 0)
    finally:
        rewarder.close()


@installed
def test_a_task_without_a_scorer_is_judged_by_accuracy():
    rows = list(load_problems("reasoning_gym:gcd?size=30"))
    assert not any(row["entry"] for row in rows)
    rewarder = Rewarder(["reasoning_gym"], num_workers=1)
    try:
        texts = [f"\\boxed{{{row['answer']}}}" for row in rows]
        assert rewarder([[]] * len(rows), texts, rows)[0] == [1.0] * len(rows)
        longer = [f"\\boxed{{{row['answer']}0}}" for row in rows]  # their base scorer gives these half a point
        assert rewarder([[]] * len(rows), longer, rows)[0] == [0.0] * len(rows)
    finally:
        rewarder.close()


@installed
def test_the_problems_are_the_same_each_time_and_distinct():
    source = "reasoning_gym:word_sorting?size=60"
    train, test = load_splits(source, level="all", seed=0)
    assert load_splits(source, level="all", seed=0)[0].to_list() == train.to_list()
    problems = [*train["problem"], *test["problem"]]
    assert len(set(problems)) == len(problems) == 60
    assert load_problems(f"{source}&seed=1")["problem"][:] != train["problem"][:]
    assert len(gym_rows("reasoning_gym:spell_backward?size=50&min_word_len=3&max_word_len=3")) < 50
    config, _ = parse_config(["--data", source, "--level", "all", "--reward", "reasoning_gym"])
    assert config.data == source


@installed
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no_such", "'no_such' is no task of reasoning-gym; expected one with graded scores .*spell_backward.*gcd"),
        ("codeio", "has a scorer that nobody has read here"),
        ("spell_backward?length=3", "'length' in data .* is no option of the task; expected one of min_word_len"),
        ("spell_backward?min_word_len=0", "cannot be made: min_word_len must be positive"),
        ("spell_backward?size=many", "cannot be made: .*Change the values behind the"),
    ],
)
def test_what_cannot_be_made_is_one_line(source, message):
    with pytest.raises(UserError, match=message) as caught:
        gym_rows(f"reasoning_gym:{source}")
    assert "\n" not in str(caught.value)


@installed
def test_a_worker_outlives_hostile_text():
    row = gym_rows("reasoning_gym:game_of_life?size=1")[0]
    pool = Verifier(num_workers=1, judge="full.rewards.gym:score")
    try:
        texts = ["[" * 3999, "9" * 4000, "\x00", "", row["answer"]]
        assert pool.scores([(row["entry"], text) for text in texts]) == [0.0, 0.0, 0.0, 0.0, 1.0]
    finally:
        pool.close()


@pytest.mark.parametrize(("given", "letters"), [("nus", 1.0), ("nsu", 1 / 3), ("sun", 1 / 3)])
def test_right_is_by_the_tasks_own_scorer_not_by_a_product_of_letters(given, letters):
    # math-verify reads letters as factors, in any order: by it alone "nsu" is right.
    assert accuracies(["\\boxed{nsu}"], ["nus"]) == [1.0]
    gym_pool = ScoresBySpelling()
    row = {"answer": "nus", "entry": entry("spell_backward", "nus"), "prompt": []}
    other = {"answer": "0.5", "entry": "", "prompt": []}
    rows, texts = [other, row, row], ["\\boxed{1/2}", f"\\boxed{{{given}}}", "no box"]
    verifier = Verifier(num_workers=1)
    try:
        assert right_answers(texts, rows, verifier, gym_pool) == [1.0, float(given == "nus"), 0.0]
        assert gym_scores([texts[1]], [row["entry"]], gym_pool) == [letters]
    finally:
        verifier.close()


class ScoresBySpelling:
    """In the place of the workers: letters in their places."""

    def scores(self, pairs):
        return [
            sum(a == b for a, b in zip(json.loads(e)["answer"], given, strict=True)) / len(given) for e, given in pairs
        ]
