"""One set-up: pyproject.toml, constraints.txt, environment.yml and the Makefile say the same."""

import re
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = ("full", "notebooks", "dev", "trackers", "peers", "site")


def pins() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!]+", line) for line in lines)  # no paths, no addresses
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def required() -> dict[str, Requirement]:
    texts = list(PROJECT["dependencies"])
    for extra in EXTRAS:
        texts += PROJECT["optional-dependencies"][extra]
    return {canonicalize_name(Requirement(text).name): Requirement(text) for text in texts}


def test_every_requirement_is_pinned_within_its_range():
    pinned = pins()
    for name, requirement in required().items():
        assert name in pinned, name
        assert requirement.specifier.contains(pinned[name]), (str(requirement), pinned[name])
    assert all("==" not in text for text in PROJECT["dependencies"])  # the library itself asks for a range


def test_accelerate_is_new_enough_to_resume_sharded_state():
    # 1.12 fails at it.
    specifier = required()["accelerate"].specifier
    assert specifier.contains("1.15.0") and not specifier.contains("1.14.9")


def test_conda_gets_the_same_set():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python = next(item for item in environment["dependencies"] if str(item).startswith("python"))
    assert python == "python=3.11"
    assert PROJECT["requires-python"] == ">=3.11"
    (pip,) = (item["pip"] for item in environment["dependencies"] if isinstance(item, dict))
    assert pip[0] == "--constraint constraints.txt"
    assert pip[-1] == "--editable ."
    listed = dict(line.split("==") for line in pip[1:-1])
    pinned = pins()
    assert listed == {name: pinned[name] for name in required()}


def test_make_installs_the_same_extras():
    makefile = (ROOT / "Makefile").read_text()
    assert f"-c constraints.txt -e '.[{','.join(EXTRAS)}]'" in makefile
    for target in ("demo", "test", "lab", "bench"):
        recipe = re.search(rf"^{target}:(.*)$", makefile, re.M)
        assert recipe
        assert recipe[1].split()[0] in ("setup", "lint")


def test_uv_gets_the_same_extras():
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    assert groups == {"dev": [f"apo_edu[{','.join(EXTRAS)}]"]}
