"""The folder of a run: its configuration, one line of metrics per step, completions, summary and curves."""

import dataclasses
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from full.claims import delete_run, write_aside
from full.config import TrainConfig, require_format
from full.errors import UserError

LIBRARIES = ("torch", "transformers", "accelerate", "datasets", "math-verify")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl file, none if there is no file; what follows a line cut off by a kill is left out."""
    rows: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").split("\n") if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            break
        if isinstance(row, dict):
            rows.append(row)
    return rows


class RunFolder:
    """runs/NAME.

    config.yaml, metrics.jsonl, completions.jsonl, summary.json, curves.png, report.html, checkpoints/, model/. Only the
    main process writes.
    """

    def __init__(self, config: TrainConfig, *, resume: bool, main: bool) -> None:
        self.path, self.main, self.resume = config.run_dir, main, resume
        self.checkpoints = self.path / "checkpoints"

    def write_config(self, config: TrainConfig, provenance: Mapping[str, Any]) -> None:
        """Create the folder, with config.yaml: all options, as --config and --resume read them, and the data's origin."""
        if self.main:
            if config.overwrite and not self.resume:
                delete_run(self.path)
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            record = {**provenance, "python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}
            text = config.to_yaml() + yaml.safe_dump({"provenance": record}, sort_keys=False)
            self._replace("config.yaml", text)

    def append(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add lines to a .jsonl file."""
        if self.main and rows:
            with open(self.path / name, "a") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)

    def trim(self, step: int) -> None:
        """Drop what was logged after a checkpoint: metrics of later steps, completions sampled at or after it."""
        if self.main:
            for name, last in (("metrics.jsonl", step), ("completions.jsonl", step - 1)):
                kept = [row for row in self.read(name) if row["step"] <= last]
                self._replace(name, "".join(json.dumps(row) + "\n" for row in kept))

    def read(self, name: str) -> list[dict[str, Any]]:
        """The lines of a .jsonl file of the run, see `read_lines`."""
        return read_lines(self.path / name)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        if self.main:
            self._replace("summary.json", json.dumps(summary, indent=1) + "\n")

    def _replace(self, name: str, text: str) -> None:
        write_aside(self.path / name, text)


@dataclass(frozen=True)
class RunRecord:
    """What a run folder holds; the summary is empty while the run is unfinished."""

    path: Path
    options: Mapping[str, Any]  # every option; the default where config.yaml has none
    recorded: Mapping[str, Any]  # config.yaml as it is
    provenance: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    samples: Sequence[Mapping[str, Any]]
    summary: Mapping[str, Any]


def read_run(path: Path) -> RunRecord:
    """Read a run folder, finished or not."""
    try:
        recorded = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        raise UserError(
            f"{path} holds no readable config.yaml; expected the folder of a run, e.g. runs/apo-guarded-s0."
        ) from None
    recorded = recorded if isinstance(recorded, dict) else {}
    provenance = recorded.pop("provenance", {})
    require_format(recorded.pop("format", None), path / "config.yaml", resume=False)
    summary = path / "summary.json"
    return RunRecord(
        path=path,
        options={name: recorded.get(name, default) for name, default in dataclasses.asdict(TrainConfig()).items()},
        recorded=recorded,
        provenance=provenance,
        rows=read_lines(path / "metrics.jsonl"),
        samples=read_lines(path / "completions.jsonl"),
        summary=json.loads(summary.read_text(encoding="utf-8")) if summary.exists() else {},
    )
