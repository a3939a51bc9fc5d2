"""The bug lab as an exam: everybody's letters differ, the key stays outside, and answers are read without being run."""

import csv

import nbformat
import pytest

from toys import bugs
from toys.course import exam
from toys.course.__main__ import main


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exam")
    out, key = folder / "out", folder / "safe" / "key.csv"
    (folder / "students.csv").write_text("id\nada\nbob\n")
    arguments = ["exam", "word", "--students", str(folder / "students.csv"), "--out", str(out), "--key", str(key)]
    assert main([*arguments, "--seeds", "2"]) == 0
    return out, key


def read_key(path):
    with path.open(newline="") as file:
        return {row.pop("id"): row for row in csv.DictReader(file)}


def answer(path, given):
    book = nbformat.read(path, as_version=4)
    book.cells[-1].source = f"answers = {given}"
    nbformat.write(book, path)


def test_every_fault_once_and_letters_of_ones_own(written):
    key = read_key(written[1])
    assert set(key) == {"ada", "bob"}
    for order in key.values():
        assert sorted(order.values()) == sorted(("healthy", *bugs.LAB))
    assert len({tuple(exam.letters("word", f"s{i}").values()) for i in range(20)}) > 15
    assert exam.letters("word", "ada") != exam.letters("another word", "ada")


def test_the_notebook_gives_nothing_away(written):
    text = (written[0] / "ada.ipynb").read_text()
    assert not [name for name in bugs.LAB if "_" in name and name in text]
    assert text.count("image/png") == 6
    assert "word" not in text.split()


def test_marks(written, capsys):
    out, key = written
    order = read_key(key)["ada"]
    right = {letter: exam.FAULTS.index(name) for letter, name in order.items()}
    answer(out / "ada.ipynb", right)
    assert exam.mark_exam(out, key) == {"ada": 6, "bob": 0}
    answer(out / "ada.ipynb", right | {"A": (right["A"] + 1) % 6})
    assert exam.mark_exam(out, key)["ada"] == 5
    answer(out / "ada.ipynb", "open('/etc/passwd').read()")  # nothing is run
    assert exam.mark_exam(out, key)["ada"] == 0
    assert main(["mark-exam", str(out), "--key", str(key)]) == 0
    assert "ada,0,6" in capsys.readouterr().out


def test_the_key_stays_outside(tmp_path):
    for key in (exam.ROOT / "key.csv", tmp_path / "out" / "key.csv"):
        with pytest.raises(ValueError, match="expected a path outside it"):
            exam.write_exam("word", ["ada"], tmp_path / "out", key)
        assert not key.exists()


def test_the_table_of_mistakes(capsys):
    assert main(["mistakes", "a1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| exercise") and len(lines) > 90
    assert any("arguments swapped" in line for line in lines)
