"""What learners committed to: kept in one file each, on their own machine, and read together by a lecturer."""

import json
import os
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..widgets.questions import Predict

FILE = "predictions.jsonl"


def keep(asked: "Predict") -> None:
    """Append a committed answer to `predictions.jsonl`; nothing leaves the machine, and a lesson goes on without it.

    The file lies in the current folder, a notebook's own; the environment variable APO_EDU_PREDICTIONS names another one.
    """
    when = datetime.now(UTC).isoformat(timespec="seconds")
    row = {"question": asked.name, "answer": asked.committed, "right": asked.correct, "when": when}
    path = Path(os.environ.get("APO_EDU_PREDICTIONS") or FILE)
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    except OSError as error:
        print(f"your prediction was not kept: {path}: {error.strerror}")


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of one learner's file, in order; the page of lessons exports the same format.

    Raises:
        ValueError: at a line that is no such row.
    """
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            rows.append({key: row[key] for key in ("question", "answer", "right", "when")})
        except (json.JSONDecodeError, KeyError, TypeError):
            raise ValueError(
                f"{path}, line {number}: {line[:80]!r}; expected a JSON object with question, answer, right and when, "
                "as a lesson writes it. Remove the line, or ask the learner for the file again."
            ) from None
    return rows


def class_table(folder: Path) -> list[dict[str, Any]]:
    """Each question's answers over a class, from every `*.jsonl` in the folder; a learner's first answer counts.

    Returns:
        One row an answer: question, answer, right, learners (how many chose it), share (of those who answered).

    Raises:
        ValueError: if the folder holds no such file, or a file is damaged.
    """
    files = sorted(folder.rglob("*.jsonl"))
    if not files:
        raise ValueError(
            f"{folder} holds no .jsonl file; expected one predictions.jsonl a learner. Collect them there."
        )
    counts: Counter = Counter()
    for file in files:
        first: dict[str, tuple[Any, bool]] = {}
        for row in read(file):
            first.setdefault(row["question"], (row["answer"], bool(row["right"])))
        counts.update((question, *answer) for question, answer in first.items())
    asked: Counter = Counter()
    for (question, _, _), number in counts.items():
        asked[question] += number
    rows = sorted(counts.items(), key=lambda item: (item[0][0], -item[1], str(item[0][1])))
    return [
        {"question": q, "answer": answer, "right": right, "learners": n, "share": n / asked[q]}
        for (q, answer, right), n in rows
    ]
