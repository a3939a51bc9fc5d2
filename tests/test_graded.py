"""Partial credit for numbers: by hand, at the edges, and through the trainer's rewarder."""

import math

import pytest

from full.data import load_problems
from full.errors import RewardError
from full.rewards import closeness, digits
from full.rewards.rewards import Rewarder


@pytest.mark.parametrize(
    ("given", "gold", "share"),
    [
        ("85", "85", 1),
        ("75", "85", 1 / 2),  # the units
        ("5", "85", 1 / 2),
        ("185", "85", 2 / 3),
        ("58", "85", 0),
        ("85.0", "85", 1),
        ("170/2", "85", 1),
        ("1,085", "1085", 1),
        ("-85", "85", 0),
        ("-85", "-85", 1),
        ("8", "0", 0),
        ("0", "0", 1),
        ("85.5", "85", 0),
        ("x", "85", 0),
        ("", "85", 0),
        ("1/0", "85", 0),
        ("1e999999999", "85", 0),
        ("9" * 10_000, "85", 0),
        ("5", ["85", "15", "25"], 1 / 2),
        ("25", ["85", "25"], 1),
    ],
)
def test_share_of_right_digits(given, gold, share):
    assert digits(f"It is \\boxed{{{given}}}.", gold) == pytest.approx(share, abs=1e-15)


@pytest.mark.parametrize(
    ("given", "gold", "error"),
    [("85", "85", 0), ("86", "85", 1), ("84.5", "85", 0.5), ("1/2", "0.5", 0), ("-3", "3", 6), ("2", ["9", "4"], 2)],
)
def test_closeness_is_the_exponential_of_minus_the_error(given, gold, error):
    assert closeness(f"\\boxed{{{given}}}", gold) == pytest.approx(math.exp(-error), rel=1e-15)


@pytest.mark.parametrize("text", ["85", "\\boxed{}", "\\boxed{x}", "\\boxed{1e9}", "\\boxed{" + "9" * 41 + "}", ""])
def test_what_is_no_number_gets_nothing(text):
    assert digits(text, "85") == closeness(text, "85") == 0.0


def test_far_away_is_zero_and_no_overflow():
    assert closeness(f"\\boxed{{{'9' * 40}}}", "85") == 0.0


@pytest.mark.parametrize(("reward", "gold"), [(digits, "0.5"), (digits, "x+1"), (closeness, "x+1"), (closeness, [])])
def test_a_right_answer_that_is_no_number_is_an_error(reward, gold):
    with pytest.raises(ValueError, match="the right answer is .*expected a.* number.*--reward accuracy"):
        reward("\\boxed{5}", gold)


def test_they_are_rewards_of_the_trainer():
    rows = list(load_problems("arithmetic", split="test").select(range(20)))
    rewarder = Rewarder(["digits", "closeness"], [1.0, 2.0])
    try:
        texts = [f"\\boxed{{{int(row['answer']) + 10}}}" for row in rows]
        total, parts = rewarder([row["prompt"] for row in rows], texts, rows)
        assert parts["digits"] == [digits(text, row["answer"]) for text, row in zip(texts, rows, strict=True)]
        assert set(parts["digits"]) <= {0.5, 1 / 3, 2 / 3}  # a carry makes more digits wrong
        assert parts["closeness"] == pytest.approx([math.exp(-10)] * 20)
        assert total[0] == pytest.approx(parts["digits"][0] + 2 * parts["closeness"][0])
        with pytest.raises(RewardError, match="reward digits raised ValueError: the right answer is 'x'"):
            rewarder([[]], ["\\boxed{1}"], [{"answer": "x"}])
    finally:
        rewarder.close()
