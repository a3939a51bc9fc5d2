"""python -m toys: the list, every toy, and errors with the nearest name."""

import numpy as np
import pytest
from PIL import Image

from toys import mixtures
from toys.__main__ import TOYS, main

ARRAYS = {
    "bifurcation": "theta",
    "hysteresis": "up",
    "bandit": "good_arms_0.5",
    "capacity": "tied",
    "guard": "aware_improvement",
    "weights": "apo 0.35",
    "gradients": "variance_centred",
    "simplex": "paths",
}


def test_list_has_one_sentence_each(capsys):
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(TOYS) == list(ARRAYS)
    assert all(line.rstrip().endswith(".") for line in lines)


@pytest.mark.parametrize("name", TOYS)
def test_writes_data_and_figure(name, tmp_path, capsys, monkeypatch):
    search = mixtures.stationary_fits
    monkeypatch.setattr(mixtures, "stationary_fits", lambda targets, alphas: search(targets, alphas[::10]))  # 13 s to 2
    assert main([name, "--seeds", "2", "--out", str(tmp_path / "deep")]) == 0
    picture = np.asarray(Image.open(tmp_path / "deep" / f"{name}.png").convert("L"))
    assert (picture < 250).mean() > 0.01  # not an empty page
    with np.load(tmp_path / "deep" / f"{name}.npz") as arrays:
        assert np.isfinite(arrays[ARRAYS[name]]).all() and arrays[ARRAYS[name]].size > 5
    _, caption = capsys.readouterr().out.splitlines()
    assert caption.endswith(".")


def test_unknown_name_offers_the_nearest(capsys):
    assert main(["bandits"]) == 2
    assert "did you mean 'bandit'" in capsys.readouterr().err


def test_bad_seeds(capsys):
    assert main(["bandit", "--seeds", "0"]) == 2
    assert "expected at least 1" in capsys.readouterr().err
