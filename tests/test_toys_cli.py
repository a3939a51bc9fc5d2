"""python -m toys: the list, a run, and errors with the nearest name."""

import numpy as np
import pytest

from toys.__main__ import TOYS, main


def test_list_has_one_sentence_each(capsys):
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(TOYS)
    assert all(line.rstrip().endswith(".") for line in lines)
    assert set(TOYS) >= {"bifurcation", "hysteresis", "bandit", "capacity", "guard", "weights", "gradients", "simplex"}


@pytest.mark.parametrize("name", ["weights", "simplex"])
def test_writes_data_and_figure(name, tmp_path, capsys):
    assert main([name, "--out", str(tmp_path / "deep")]) == 0
    assert (tmp_path / "deep" / f"{name}.png").stat().st_size > 5000
    assert len(np.load(tmp_path / "deep" / f"{name}.npz").files) > 2
    assert capsys.readouterr().out.count("\n") == 2


def test_unknown_name_offers_the_nearest(capsys):
    assert main(["bandits"]) == 2
    assert "did you mean 'bandit'" in capsys.readouterr().err


def test_bad_seeds(capsys):
    assert main(["bandit", "--seeds", "0"]) == 2
    assert "expected at least 1" in capsys.readouterr().err
