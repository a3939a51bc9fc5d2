"""Questions are found by name, answers are kept, and a class's answers are counted."""

import csv
import io
import json

import pytest

from toys.questions import ask, class_table, self_test
from toys.questions.__main__ import main


def commit(name, answer):
    asked = ask(name)
    asked.choice.value = answer
    asked.commit()
    return asked


def test_a_question_is_asked_by_its_name_and_a_wrong_name_says_which_there_are():
    asked = ask("01.coins")
    assert asked.name == "01.coins" and "p(heads)" in asked.question
    assert len(self_test("01").questions) == 3
    with pytest.raises(ValueError, match="no question 'coin'; expected one of coins, .* Did you mean 'coins'"):
        ask("01.coin")
    with pytest.raises(ValueError, match="no questions for lesson '99'; expected one of .*01"):
        self_test("99")


def test_an_answer_is_kept_once_it_is_committed(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("APO_EDU_PREDICTIONS", raising=False)
    monkeypatch.chdir(tmp_path)
    ask("01.coins")
    assert not list(tmp_path.iterdir())  # asking keeps nothing
    commit("01.coins", "both")
    commit("01.log_weight", "3")
    first, second = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert (first["question"], first["answer"], first["right"]) == ("01.coins", "both", False)
    assert (second["question"], second["right"]) == ("01.log_weight", True)
    monkeypatch.setenv("APO_EDU_PREDICTIONS", str(tmp_path / "none" / "mine.jsonl"))
    assert commit("01.coins", "both").text and "not kept" in capsys.readouterr().out


def test_a_class_is_counted_by_first_answers(tmp_path, monkeypatch, capsys):
    for learner, answers in {"ann": ["both", "neither"], "bob": ["both"], "cat": ["forward KL(q || p)"]}.items():
        monkeypatch.setenv("APO_EDU_PREDICTIONS", str(tmp_path / f"{learner}.jsonl"))
        for answer in answers:
            commit("01.coins", answer)
    rows = class_table(tmp_path)
    assert [(row["answer"], row["right"], row["learners"]) for row in rows] == [
        ("both", False, 2),
        ("forward KL(q || p)", True, 1),
    ]
    assert rows[0]["share"] == pytest.approx(2 / 3)
    assert main([str(tmp_path)]) == 0
    printed = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert printed[0] == {"question": "01.coins", "answer": "both", "right": "False", "learners": "2", "share": "0.67"}
    (tmp_path / "dan.jsonl").write_text("what?\n")
    assert main([str(tmp_path)]) == 2 and "dan.jsonl, line 1" in capsys.readouterr().err
    assert main([str(tmp_path / "empty")]) == 2
