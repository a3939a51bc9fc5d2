"""Imports run one way, the core is quiet, and no file hides an installed package."""

import ast
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [path for package in ("apo_edu", "toys", "full") for path in sorted((ROOT / package).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    """Top-level names that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_imports_run_one_way(path):
    names = imported(path)
    if path.parent.name == "apo_edu":
        assert names <= {"torch", "apo_edu"} | set(sys.stdlib_module_names)
    elif path.parent.name == "toys":
        assert "full" not in names
    else:
        assert "toys" not in names
    assert not names & {"tests", "notebooks"}


@pytest.mark.parametrize("path", sorted((ROOT / "apo_edu").glob("*.py")), ids=lambda path: path.name)
def test_the_core_neither_prints_nor_touches_files(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("print", "open", "input")


@pytest.mark.parametrize("path", sorted((ROOT / "apo_edu").glob("*.py")), ids=lambda path: path.name)
def test_the_core_is_ascii(path):
    assert path.read_text(encoding="utf-8").isascii()  # alpha, not its Greek letter: it can be typed and searched for


def test_no_file_of_full_hides_an_installed_package():
    # `accelerate launch full/train.py` puts full/ first on the path: full/evaluate.py would shadow Hugging Face's.
    installed = set(packages_distributions()) | set(sys.stdlib_module_names)
    assert not {path.stem for path in (ROOT / "full").glob("*.py") if path.stem != "__init__"} & installed


# What looks at runs or stands beside the trainer; the rest of full/ is what an optimiser step goes through.
TOOLS = {
    "compare",
    "doctor",
    "eval",
    "evaluation",
    "glossary",
    "measuring",
    "page",
    "report",
    "smollm2",
    "tiny",
    "vllm_engine",
}


def test_the_trainer_stays_small():
    lines = {path.stem: len(path.read_text().splitlines()) for path in (ROOT / "full").glob("*.py")}
    assert lines.keys() >= TOOLS
    assert sum(count for name, count in lines.items() if name not in TOOLS) < 3000
    main = next(
        node
        for node in ast.parse((ROOT / "full" / "train.py").read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name == "main"
    )
    assert main.end_lineno - main.lineno < 200


def test_no_other_top_level_folders():
    allowed = {"apo_edu", "toys", "full", "notebooks", "tests", ".ci"}
    kept = {"runs", "out", "build", "dist", ".venv", ".git"}  # what the tools make, and git ignores
    folders = {path.name for path in ROOT.iterdir() if path.is_dir()}
    assert {
        name for name in folders - allowed - kept if not name.startswith((".", "__")) and "egg-info" not in name
    } == set()
