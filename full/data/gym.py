"""Problems made by reasoning-gym (an extra): `--data reasoning_gym:NAME?key=value`, with rewards in full/rewards/gym.py."""

import dataclasses
import json
import urllib.parse
from typing import Any

import yaml

from full.data.files import Row, first_line
from full.errors import UserError
from full.rewards.gym import EXECUTES, SCORED

PREFIX = "reasoning_gym:"
PROBLEMS = 1000  # unless ?size= says otherwise


def gym_rows(source: str) -> list[Row]:
    """The problems of `reasoning_gym:NAME?key=value&key=value`, the same ones each time; distinct ones.

    A row has problem, answer and entry: what the task's scorer needs, as JSON, or "" where `accuracy` judges.

    Raises:
        UserError: the package is missing, no such task, one whose scorer may not run here, or a bad value.
    """
    name, _, query = source.removeprefix(PREFIX).partition("?")
    if name in EXECUTES:
        raise UserError(
            f"reasoning-gym's scorer of {name!r} executes the model's text; refused. Take another task, e.g. "
            f"{PREFIX}{SCORED[0]}: graded scores have {', '.join(SCORED)}."
        )
    try:
        from reasoning_gym.dataset import ProceduralDataset
        from reasoning_gym.factory import DATASETS, create_dataset
    except ImportError as error:
        raise UserError(
            f"data {source!r} needs the package reasoning-gym, which cannot be imported ({first_line(error)}). Install it: "
            "pip install 'apo_edu[reasoning-gym]'."
        ) from None
    own_scorer = name in DATASETS and DATASETS[name][0].score_answer is not ProceduralDataset.score_answer
    if name not in DATASETS or (own_scorer and name not in SCORED):
        known = [task for task, (cls, _) in DATASETS.items() if cls.score_answer is ProceduralDataset.score_answer]
        what = "has a scorer that nobody has read here" if name in DATASETS else "is no task of reasoning-gym"
        raise UserError(
            f"{name!r} {what}; expected one with graded scores ({', '.join(SCORED)}) or one that is right or wrong "
            f"({', '.join(sorted(known))})."
        )
    options = {"seed": 0, "size": PROBLEMS, **_options(source, query, DATASETS[name][1])}
    try:
        items = list(create_dataset(name, **options))
    except Exception as error:  # their checks are assertions, and generators raise what they like
        raise UserError(
            f"data {source!r} cannot be made: {first_line(error)}. Change the values behind the '?'."
        ) from None
    rows: dict[str, Row] = {}
    for item in items:
        entry = {"name": name, "answer": item["answer"], "metadata": item["metadata"]} if own_scorer else None
        rows.setdefault(
            item["question"],
            {
                "problem": item["question"],
                "answer": item["answer"],
                "entry": json.dumps(entry, default=str) if entry else "",
            },
        )
    return list(rows.values())


def _options(source: str, query: str, config: type[Any]) -> dict[str, Any]:
    known = [field.name for field in dataclasses.fields(config)]
    options = {}
    for key, text in urllib.parse.parse_qsl(query, keep_blank_values=True):
        if key not in known:
            raise UserError(f"{key!r} in data {source!r} is no option of the task; expected one of {', '.join(known)}.")
        options[key] = yaml.safe_load(text)
    return options
