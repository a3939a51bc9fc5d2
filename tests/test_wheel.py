"""A wheel is the core alone; it works where only torch is installed."""

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

IN_AN_EMPTY_ENVIRONMENT = """
import doctest, importlib, importlib.util, pkgutil
import apo_edu
assert importlib.util.find_spec("full") is None and importlib.util.find_spec("toys") is None
names = ["apo_edu"] + [f"apo_edu.{module.name}" for module in pkgutil.iter_modules(apo_edu.__path__)]
results = [doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE) for name in names]
print(apo_edu.__file__, sum(result.attempted for result in results), sum(result.failed for result in results))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # From a copy: a build writes into its source tree.
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    for path in (p for package in ("apo_edu", "toys", "full") for p in (ROOT / package).rglob("*.py")):
        target = source / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    (source / "apo_edu" / "py.typed").touch()
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, source]
    subprocess.run(command, check=True, timeout=300)
    (found,) = folder.glob("*.whl")
    return found


def test_a_wheel_holds_the_core_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"apo_edu"}
    assert "apo_edu/py.typed" in names and "apo_edu/objectives.py" in names
    entry_points = [name for name in names if name.endswith("entry_points.txt")]
    assert entry_points == []  # no command that would not start


def test_the_wheel_works_where_only_torch_is(wheel, tmp_path):
    venv.create(tmp_path / "empty", with_pip=False)
    python = tmp_path / "empty" / "bin" / "python"
    library = next((tmp_path / "empty" / "lib").glob("python*/site-packages"))
    zipfile.ZipFile(wheel).extractall(library)  # what installing a pure wheel does
    # torch is too large to install anew; a .pth in that folder is not read, so what is editable there stays unknown.
    (library / "torch.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    command = [python, "-I", "-c", IN_AN_EMPTY_ENVIRONMENT]
    out = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert out.returncode == 0, out.stderr
    where, attempted, failed = out.stdout.split()[-3:]
    assert Path(where).is_relative_to(tmp_path) and int(attempted) > 0 and failed == "0"
