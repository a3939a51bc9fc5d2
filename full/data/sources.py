"""Problems: MATH from the hub, a local file in the same schema, or a generated task; with a seeded order.

Schema of a row: problem, level ("Level 3"), type, solution (its last box holds the answer), optionally answer, and prompt or
messages where the model should see something else than the problem and our instruction. GSM8K's columns (question, and an
answer that ends in "#### 18") are known too; others are named by `columns`.

Rows are plain Python values from the file to the data set: `datasets.map` would keep a cache of its own, which outlives a
change of our functions and of a file with the same size and time.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, List, Value, load_dataset

from full.data import gym
from full.data.files import LOADABLE, Row, first_line, is_readable, read_path, table_rows
from full.data.rows import (
    Message,
    Unusable,
    answer_text,
    chat_messages,
    level_name,
    problem_text,
    same_level,
    stated_answer,
)
from full.data.splits import is_held_out, problem_hash, require_held_out
from full.data.tasks import TASKS
from full.errors import UserError

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


# Hub ids whose data set has several configurations, with those to take; of others ID:CONFIGURATION names one.
CONFIGURATIONS: dict[str, Sequence[str | None]] = {**MATH_SOURCES, "openai/gsm8k": ("main",)}


# What a column may be called without being named by `columns`, the first that is there.
KNOWN_NAMES = {
    "problem": ("problem", "question"),
    "answer": ("answer",),
    "solution": ("solution",),
    "level": ("level",),
    "prompt": ("prompt", "messages"),
}


@dataclass(frozen=True)
class Source:
    """What was read.

    parts: the rows by split; the one split "all" is divided by a hash of the problems.
    where: what to record of their origin.
    instruction: follows every problem.
    examples: chat messages before every problem.
    kept: columns of texts that stay beside those of the schema.
    """

    parts: Mapping[str, Sequence[Row]]
    where: str
    instruction: str = INSTRUCTION
    examples: Sequence[Message] = ()
    kept: Sequence[str] = ()


def load_problems(
    source: str,
    *,
    level: int | float | str | None = None,
    split: str = "train",
    seed: int = 0,
    system_prompt: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> Dataset:
    """Load problems in a seeded order.

    Args:
        source: "math" (the hub sources in turn), a hub id (ID:CONFIGURATION where it has several), a local file or folder
            (.jsonl, .json, .csv, .tsv, .parquet, also compressed), the name of a generated task (full/data/tasks), or
            "reasoning_gym:NAME?key=value" (full/data/gym.py), whose rows have a column entry for its reward.
        level: keep this level only, as 3 or "Level 3"; None or "all" keeps all.
        split: "train" or "test". A source without splits is divided by a hash of the problem's text: one in ten is
            "test", whatever the order, the seed or the other rows.
        seed: of the order.
        system_prompt: comes first in every prompt.
        columns: what the source calls a column of the schema, e.g. {"problem": "question"}; a dot goes into an object.

    Returns:
        A datasets.Dataset with columns prompt (chat messages), problem, answer, level. Its `info.description` names the
        source, revision, level and split that were loaded, what was left out and which columns are not used.

        A prompt is the problem and an instruction, unless the source has a column prompt or messages: its messages (or
        text) are then the prompt, unchanged; a last message of the assistant is the solution.

        An answer is a text; numbers are exact decimals. Where a row gives a list, any member is right, and every answer
        of the source is a list.

    Raises:
        UserError: a source that cannot be loaded (naming the local option), a missing column, a problem that is no text,
            an empty result.
    """
    if split not in ("train", "test"):
        raise UserError(f"split is {split!r}; expected 'train' or 'test'.")
    found = _read(source)
    names = _names(source, found, columns or {})
    rows = {part: _problems(source, found, names, part, system_prompt) for part in found.parts}
    if "all" in rows:
        rows = {
            name: [row for row in rows["all"] if is_held_out(row["problem"]) == (name == "test")]
            for name in ("train", "test")
        }
    chosen = rows[split]
    if not chosen:
        raise UserError(
            f"{source} has no problem in split {split!r}, but {sum(map(len, rows.values()))} in the other; expected some in "
            "both (one in ten, by a hash of its text, is held out). Give a file with more problems."
        )
    if level is not None and str(level).casefold() != "all":
        chosen = _of_level(source, rows, split, level, has_levels="level" in names)
    answered = [row for row in chosen if not isinstance(row["answer"], Unusable)]
    left_out = Counter(str(row["answer"]) for row in chosen if isinstance(row["answer"], Unusable))
    reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.most_common(5))
    if not answered:
        raise UserError(
            f"{source}: none of the {len(chosen)} problems of split {split!r} has an answer ({reasons}); expected a text, a "
            "number or a list of accepted ones in the column 'answer', or a solution with \\boxed{} or a last line '#### 18'. "
            "Name another column: --columns answer=NAME."
        )
    lists = any(isinstance(row["answer"], list) for part in rows.values() for row in part)
    problems = Dataset.from_list(
        [
            {**row, "answer": [row["answer"]] if lists and isinstance(row["answer"], str) else row["answer"]}
            for row in answered
        ],
        features=_features(lists, found.kept),
    )
    problems = problems.shuffle(seed=seed)
    problems.info.description = (
        f"{source} ({found.where}), level {level}, split {split}, {left_out.total()} rows without an answer left out"
        + (f" ({reasons})" if left_out else "")
        + _columns_line(found, names)
    )
    return problems


def load_splits(
    source: str,
    *,
    level: int | float | str | None,
    seed: int,
    system_prompt: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> tuple[Dataset, Dataset]:
    """The training and the held-out problems, which share none (checked by their text, see `apart`).

    Raises:
        UserError: as `load_problems`, or splits that are the same problems.
    """
    options: dict[str, Any] = {"level": level, "system_prompt": system_prompt, "columns": columns}
    train = load_problems(source, split="train", seed=seed, **options)
    test = load_problems(source, split="test", seed=0, **options)  # the same problems in the same order for all seeds
    return apart(train, test, source=source), test


def apart(train: Dataset, test: Dataset, *, source: str) -> Dataset:
    """The training problems that are not held out.

    A few problems that stand in both splits of a source (MATH has one) are left out, and the description says so.

    Raises:
        UserError: more than half of the training problems are held out too: these splits are no splits.
    """
    held_out = {problem_hash(problem) for problem in test["problem"][:]}
    kept = [i for i, problem in enumerate(train["problem"][:]) if problem_hash(problem) not in held_out]
    if 2 * len(kept) < len(train):
        require_held_out(train["problem"][:], test["problem"][:], source=source)
    if len(kept) < len(train):
        description = f"{train.info.description}; {len(train) - len(kept)} left out that the test split has too"
        train = train.select(kept)
        train.info.description = description
    return train


def is_remote(source: str) -> bool:
    """Whether a source is on the hub: neither a generated task nor, by its looks, a file here."""
    path = Path(source).expanduser()
    return not (
        source in TASKS
        or source.startswith(gym.PREFIX)
        or path.exists()
        or is_readable(path)
        or source.startswith(("~", ".", "/"))
    )


def _read(source: str) -> Source:
    """The rows of a source, wherever it is."""
    if source in TASKS:
        task = TASKS[source]
        return Source({"all": task.rows()}, "generated", task.instruction, task.examples)
    if source.startswith(gym.PREFIX):
        return Source({"all": gym.gym_rows(source)}, "generated by reasoning-gym", kept=("entry",))
    if is_remote(source):
        return Source(*_load_hub(source))
    return Source(*read_path(Path(source).expanduser()))


def _names(source: str, found: Source, columns: Mapping[str, str]) -> dict[str, str]:
    """Column of the schema -> column of the source, for those that it has."""
    there = list(dict.fromkeys(name for rows in found.parts.values() for row in rows for name in row))
    columns = {ours: str(theirs) for ours, theirs in columns.items()}
    for ours, theirs in columns.items():
        if ours not in KNOWN_NAMES:
            raise UserError(
                f"columns names {ours!r}={theirs}; expected one of {', '.join(KNOWN_NAMES)} before the equals sign."
            )
        if theirs.split(".")[0] not in there:
            raise UserError(f"columns says {ours}={theirs} but {source} has no column {theirs!r}, only {there}.")
    names = {ours: next((name for name in known if name in there), "") for ours, known in KNOWN_NAMES.items()}
    names = {ours: name for ours, name in {**names, **columns}.items() if name}
    fix = "Name yours: --columns problem=NAME,answer=NAME (also solution, level, prompt)."
    if "problem" not in names and "prompt" not in names:
        raise UserError(
            f"{source} has no column 'problem', only {there}; expected the MATH schema: problem, level, type, solution (or "
            f"answer). {fix}"
        )
    if not {"answer", "solution", "prompt"} & names.keys():
        raise UserError(f"{source} has no column 'solution' or 'answer', only {there}; expected one of them. {fix}")
    return names


def _problems(
    source: str, found: Source, names: Mapping[str, str], part: str, system_prompt: str | None
) -> list[dict[str, Any]]:
    """The rows of one part as problems; an answer that cannot be used is an `Unusable`.

    Raises:
        UserError: rows whose problem or prompt is none; how many, and the first one.
    """
    problems, faults = [], []
    for number, row in enumerate(found.parts[part], start=1):
        try:
            problems.append(_problem(row, names, found, system_prompt))
        except Unusable as error:
            faults.append(f"row {number}{'' if part == 'all' else f' of {part}'} is {error}")
    if faults:
        what = names.get("problem", names.get("prompt"))
        raise UserError(
            f"{source}: {len(faults)} of {len(found.parts[part])} rows have no text for a {what!r}: {faults[0]}; expected a "
            "text in each (or chat messages in a prompt). Mend these rows or take them out."
        )
    return problems


def _problem(row: Row, names: Mapping[str, str], found: Source, system_prompt: str | None) -> dict[str, Any]:
    values = {ours: _value(row, name) for ours, name in names.items()}
    prompt = None
    if "prompt" in names and not ("problem" not in names and isinstance(values["prompt"], str)):
        prompt = chat_messages(values["prompt"])
        if prompt[-1]["role"] == "assistant":  # a conversation to learn from: its end is the solution
            values["solution"] = values.get("solution") or prompt[-1]["content"]
            prompt = prompt[:-1]
        if not prompt or prompt[-1]["role"] != "user":
            raise Unusable("a conversation that does not end with the user's words")
    problem = values.get("problem", prompt[-1]["content"] if prompt else values.get("prompt"))
    problem = problem_text(problem)
    if prompt is None:
        prompt = [*found.examples, {"role": "user", "content": f"{problem} {found.instruction}".strip()}]
    if system_prompt is not None:
        if prompt[0]["role"] == "system":
            raise Unusable("a prompt with a system message of its own beside --system_prompt (leave that option out)")
        prompt = [{"role": "system", "content": system_prompt}, *prompt]
    return {
        "prompt": prompt,
        "problem": problem,
        "answer": _answer(values),
        "level": level_name(values.get("level")),
    } | {name: row[name] for name in found.kept}


def _answer(values: Mapping[str, Any]) -> str | list[str] | Unusable:
    """The answer's column, or else what the solution ends in."""
    fault = None
    if "answer" in values:
        try:
            return answer_text(values["answer"])
        except Unusable as error:
            fault = error
    solution = values.get("solution")
    if not isinstance(solution, str):
        return fault or Unusable("without a solution")
    stated = stated_answer(solution)
    return stated if stated else fault or Unusable("solution without \\boxed{} or ####")


def _value(row: Row, name: str) -> Any:
    """A column's value; a dot goes into an object unless the column itself has one."""
    if name in row or "." not in name:
        return row.get(name)
    first, rest = name.split(".", 1)
    inner = row.get(first)
    return _value(inner, rest) if isinstance(inner, dict) else None


def _of_level(
    source: str, rows: Mapping[str, Sequence[dict[str, Any]]], split: str, level: Any, *, has_levels: bool
) -> list[dict[str, Any]]:
    wanted = level_name(level)
    if not has_levels:
        raise UserError(f"{source} has no column 'level' to pick {wanted} by. Use --level all to take every problem.")
    chosen = {name: [row for row in part if same_level(row["level"], wanted)] for name, part in rows.items()}
    if not chosen[split]:
        there = ", ".join(sorted({row["level"] or "no level" for row in rows[split]})[:8])
        other = next((f"; split {name!r} has {len(part)} of it" for name, part in chosen.items() if part), "")
        raise UserError(f"{source} has no problem of {wanted}, only {there} in split {split!r}{other}. Change --level.")
    return chosen[split]


def _features(lists: bool, kept: Sequence[str]) -> Features:
    string = Value("string")
    answer = List(string) if lists else string
    return Features(
        {"prompt": List({"role": string, "content": string}), "problem": string, "answer": answer, "level": string}
        | dict.fromkeys(kept, string)
    )


def _columns_line(found: Source, names: Mapping[str, str]) -> str:
    """What a reader should know of the columns: prompts of the source's own, and what is not used."""
    if found.where.startswith("generated"):
        return ""
    there = dict.fromkeys(name for rows in found.parts.values() for row in rows for name in row)
    used = {name if name in there else name.split(".")[0] for name in names.values()}
    unused = [name for name in there if name not in used and name != "type"]  # MATH's subject
    parts = [f"prompts as in column {names['prompt']!r}"] if "prompt" in names else []
    parts += [f"columns not used: {', '.join(map(str, unused[:8]))}"] if unused else []
    return "".join(f"; {part}" for part in parts)


def _load_hub(source: str) -> tuple[dict[str, list[Row]], str]:
    """Rows by split (the source's own, or "all"), and what to record of their origin."""
    if source == "math":
        sources: Mapping[str, Sequence[str | None]] = MATH_SOURCES
    else:
        hub_id, _, configuration = source.partition(":")
        sources = {hub_id: (configuration,) if configuration else CONFIGURATIONS.get(hub_id, (None,))}
    failures = []
    for hub_id, configurations in sources.items():
        try:
            loaded = [load_dataset(hub_id, name) for name in configurations]
            revision = _revision(hub_id)
        except Exception as error:  # no network, gone, renamed, gated: the next source may do
            failures.append(f"{hub_id}: {first_line(error)}")
            continue
        own = all("train" in part and "test" in part for part in loaded)
        parts = {}
        for name in ("train", "test") if own else ("all",):
            tables = [part[name if own else next(iter(part))].with_format("arrow")[:] for part in loaded]
            parts[name] = [row for table in tables for row in table_rows(table)]
        return parts, f"{hub_id} at revision {revision}"
    raise UserError(
        f"data {source!r} cannot be loaded: {'; '.join(failures)}. Give a local file, --data problems.jsonl (problem, "
        f"level, type, solution; {LOADABLE}), a generated task ({', '.join(TASKS)}), or run the embedded task: --config "
        "full/configs/tiny.yaml"
    )


def _revision(hub_id: str) -> str:
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(hub_id).sha)
    except Exception:  # offline with a warm cache: the rows are there, the name of the revision is not
        return "unknown (offline)"
