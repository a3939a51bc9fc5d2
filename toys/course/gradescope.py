"""The Gradescope face: a zip to upload, and what runs in it.

Gradescope builds an image from setup.sh once, with a network, and calls run_autograder for each submission; by default that
has 768 MB, half a processor and ten minutes.
"""

import json
import zipfile
from pathlib import Path
from typing import Any

import apo_edu

from .grading import Submission, grade
from .model import Assignment

ROOT = Path(apo_edu.__file__).parents[1]

SETUP = """#!/usr/bin/env bash
# Builds the image: Python 3.11, torch for the CPU, and this course.
set -euo pipefail
cd /autograder/source
python3 -m pip install --break-system-packages -q uv || python3 -m pip install -q uv
uv venv --python 3.11 /autograder/env
uv pip install -q --python /autograder/env/bin/python --constraint constraints.txt torch \\
    --extra-index-url https://download.pytorch.org/whl/cpu --index-strategy unsafe-best-match
uv pip install -q --python /autograder/env/bin/python --constraint constraints.txt '.[notebooks]'
"""

RUN = """#!/usr/bin/env bash
cd /autograder
# The installed package is the core alone; the course is read from the zip.
export PYTHONPATH=/autograder/source OMP_NUM_THREADS=1
/autograder/env/bin/python -m toys.course run-gradescope {name} --variant '{variant}'
"""


def write_zip(assignment: Assignment, variant: str, path: Path) -> Path:
    """Write the autograder's zip: setup.sh, run_autograder and the packages of this repository."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, text in (("setup.sh", SETUP), ("run_autograder", RUN.format(name=assignment.name, variant=variant))):
            info = zipfile.ZipInfo(name)
            info.external_attr = 0o755 << 16
            file.writestr(info, text)
        for name in ("pyproject.toml", "setup.py", "constraints.txt", "README.md", "LICENSE"):
            if (ROOT / name).exists():
                file.write(ROOT / name, name)
        for package in ("apo_edu", "toys", "full"):
            for source in sorted((ROOT / package).rglob("*")):
                if source.is_file() and "__pycache__" not in source.parts:
                    file.write(source, str(source.relative_to(ROOT)))
    return path


def run(assignment: Assignment, folder: Path, *, variant: str, **options: Any) -> dict[str, Any]:
    """Grade FOLDER/submission and write FOLDER/results/results.json; returns what was written.

    The student may have written any of the ids that Gradescope knows (SID, e-mail, name) into the notebook. Written answers
    are left to Gradescope's own manual grading.
    """
    metadata = folder / "submission_metadata.json"
    users = json.loads(metadata.read_text(encoding="utf-8")).get("users", []) if metadata.exists() else []
    known = [str(user[key]) for user in users for key in ("sid", "email", "name", "id") if user.get(key)]
    also = (*known, *(text.split("@")[0] for text in known if "@" in text))
    notebooks = sorted(
        (folder / "submission").rglob("*.ipynb"), key=lambda path: (path.stem != assignment.name, path.name)
    )
    submission = Submission(known[0] if known else "", notebooks[0] if notebooks else None, also=also)
    data = grade(assignment, submission, variant=variant, **options).json()
    data["tests"] = [test for test in data["tests"] if "." in test["name"]]
    path = folder / "results" / "results.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=1), encoding="utf-8")
    return data
