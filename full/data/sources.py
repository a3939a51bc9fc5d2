"""Problems: MATH from the hub, a local file in the same schema, or a generated task; with a seeded order.

Schema of a row: problem, level ("Level 3"), type, solution (its last box holds the answer), optionally answer.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, concatenate_datasets, load_dataset

from full.data.splits import is_held_out, require_held_out
from full.data.tasks import TASKS
from full.errors import UserError
from full.rewards.answers import last_boxed

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."


# MATH has been taken down and moved before, so there is more than one place: (hub id, configurations).
SUBJECTS = (
    "algebra", "counting_and_probability", "geometry", "intermediate_algebra", "number_theory", "prealgebra",
    "precalculus",
)  # fmt: skip


MATH_SOURCES: dict[str, Sequence[str | None]] = {
    "EleutherAI/hendrycks_math": SUBJECTS,
    "DigitalLearningGmbH/MATH-lighteval": ("default",),
    "nlile/hendrycks-MATH-benchmark": (None,),
}


SUFFIXES = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}


def load_problems(source: str, *, level: int | str | None = None, split: str = "train", seed: int = 0) -> Dataset:
    """Load problems in a seeded order.

    Args:
        source: "math" (the hub sources in turn), a hub id, a local .jsonl/.json/.parquet file, or the name of a
            generated task (full/data/tasks).
        level: keep this level only, as 3 or "Level 3"; None or "all" keeps all.
        split: "train" or "test". A source without splits is divided by a hash of the problem's text: one in ten is
            "test", whatever the order, the seed or the other rows.
        seed: of the order.

    Returns:
        A datasets.Dataset with columns prompt (chat messages), problem, answer, level. Its `info.description` names the
        source, revision, level and split that were loaded.

    Raises:
        UserError: a source that cannot be loaded (naming the local option), a missing column, an empty result.
    """
    if split not in ("train", "test"):
        raise UserError(f"split is {split!r}; expected 'train' or 'test'.")
    instruction, examples = INSTRUCTION, ()
    if source in TASKS:
        task = TASKS[source]
        rows, where, has_splits = Dataset.from_list(task.rows()), "generated", False
        instruction, examples = task.instruction, task.examples
    elif Path(source).suffix in SUFFIXES:
        rows, where, has_splits = _load_file(source), f"file sha256 {_file_hash(source)}", False
    else:
        rows, where, has_splits = _load_hub(source, split)
    for column in ("problem", "solution"):
        if column not in rows.column_names and not (column == "solution" and "answer" in rows.column_names):
            raise UserError(
                f"{source} has no column {column!r}, only {rows.column_names}; expected the MATH schema: problem, level, "
                "type, solution (or answer). Rename the columns."
            )
    if not has_splits:
        rows = rows.filter(lambda row: is_held_out(row["problem"]) == (split == "test"))
        if len(rows) == 0:
            raise UserError(
                f"{source} has no problem in split {split!r}; expected some. Give a file with more problems."
            )
    if level not in (None, "all"):
        wanted = f"Level {str(level).removeprefix('Level ').strip()}"
        if "level" not in rows.column_names:
            raise UserError(
                f"{source} has no column 'level' to pick {wanted} by. Use --level all to take every problem."
            )
        levels = sorted({str(value) for value in rows["level"]})
        rows = rows.filter(lambda row: str(row["level"]) in (wanted, wanted.removeprefix("Level ")))
        if len(rows) == 0:
            raise UserError(f"{source} has no problem of {wanted}, only {', '.join(levels[:8])}. Change --level.")
    rows = rows.map(lambda row: _to_problem(row, instruction, examples), remove_columns=rows.column_names)
    missing = sum(answer is None for answer in rows["answer"])
    if missing:
        rows = rows.filter(lambda row: row["answer"] is not None)
    rows = rows.shuffle(seed=seed)
    rows.info.description = (
        f"{source} ({where}), level {level}, split {split}, {missing} rows without an answer left out"
    )
    return rows


def load_splits(source: str, *, level: int | str | None, seed: int) -> tuple[Dataset, Dataset]:
    """The training and the held-out problems, which share none (checked by their text).

    Raises:
        UserError: as `load_problems`, or an overlap.
    """
    train = load_problems(source, level=level, split="train", seed=seed)
    test = load_problems(source, level=level, split="test", seed=0)  # the same problems in the same order for all seeds
    require_held_out(train["problem"][:], test["problem"][:], source=source)
    return train, test


def _to_problem(row: dict[str, Any], instruction: str, examples: Sequence[dict[str, str]]) -> dict[str, Any]:
    answer = row.get("answer")
    if answer is None and row.get("solution") is not None:
        answer = last_boxed(row["solution"])
    return {
        "prompt": [*examples, {"role": "user", "content": f"{row['problem']} {instruction}".strip()}],
        "problem": row["problem"],
        "answer": None if answer is None else str(answer),
        "level": str(row.get("level", "")),
    }


def _load_file(source: str) -> Dataset:
    path = Path(source)
    if not path.is_file():
        raise UserError(f"{source} does not exist; expected a .jsonl, .json or .parquet file in the MATH schema.")
    try:
        return Dataset.from_parquet(source) if path.suffix == ".parquet" else Dataset.from_json(source)
    except Exception as error:  # the reader raises many kinds; all mean that the file is not what its name says
        raise UserError(f"{source} cannot be read as {SUFFIXES[path.suffix]}: {_first_line(error)}") from None


def _load_hub(source: str, split: str) -> tuple[Dataset, str, bool]:
    """Rows, what to record of their origin, and whether the split was the source's own."""
    sources = MATH_SOURCES if source == "math" else {source: MATH_SOURCES.get(source, (None,))}
    failures = []
    for hub_id, configurations in sources.items():
        try:
            parts = [load_dataset(hub_id, name) for name in configurations]
            revision = _revision(hub_id)
        except Exception as error:  # no network, gone, renamed, gated: the next source may do
            failures.append(f"{hub_id}: {_first_line(error)}")
            continue
        own = all("train" in part and "test" in part for part in parts)
        chosen = [part[split if own else next(iter(part))] for part in parts]
        return concatenate_datasets(chosen), f"{hub_id} at revision {revision}", own
    raise UserError(
        f"data {source!r} cannot be loaded: {'; '.join(failures)}. Give a local file, --data problems.jsonl (problem, "
        "level, type, solution), or run the embedded task: --config full/configs/tiny.yaml"
    )


def _revision(hub_id: str) -> str:
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(hub_id).sha)
    except Exception:  # offline with a warm cache: the rows are there, the name of the revision is not
        return "unknown (offline)"


def _file_hash(source: str) -> str:
    with open(source, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
