"""The folder of a run: its configuration, one line of metrics per step, completions, summary and curves."""

import dataclasses
import json
import math
import os
import platform
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from full.claims import delete_run, read_config, write_aside
from full.config import FIELDS, MOVABLE, TrainConfig, require_format
from full.errors import UserError
from full.options import checked, kinds

LIBRARIES = ("torch", "transformers", "accelerate", "datasets", "math-verify")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl file that have a step, none if there is no file; see `scan_lines`."""
    return scan_lines(path)[0]


def scan_lines(path: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """(objects, damaged): the objects of a .jsonl file that have a step, and the numbers of the lines that hold none.

    A last line that a kill has cut off is no damage.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return [], []
    except OSError:  # a folder, a loop of links, no permission
        return [], [1]
    rows: list[dict[str, Any]] = []
    damaged = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict) and type(row.get("step")) is int:
            rows.append(row)
        elif line.strip() and number < len(lines):
            damaged.append(number)
    return rows, damaged


class RunFolder:
    """runs/NAME.

    config.yaml, metrics.jsonl, completions.jsonl, summary.json, curves.png, report.html, checkpoints/, model/. Only the
    main process writes.
    """

    def __init__(self, config: TrainConfig, *, resume: bool, main: bool) -> None:
        self.path, self.main, self.resume = config.run_dir, main, resume
        self.checkpoints = self.path / "checkpoints"

    def write_config(self, config: TrainConfig, provenance: Mapping[str, Any]) -> list[str]:
        """Create the folder, with config.yaml: all options, as --config and --resume read them, and the data's origin.

        The origin is written once. A resumed run keeps it, and adds the versions that it goes on with where they differ.

        Returns:
            What a reader of the log should know.
        """
        if not self.main:
            return []
        now = {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}
        record, messages = {**provenance, **now}, []
        if self.resume:
            record = self.provenance() or record
            found = record.get("resumed")
            resumed = [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
            last = {**record, **(resumed[-1] if resumed else {})}
            changed = [name for name in now if last.get(name) != now[name]]
            if changed:
                record = {**record, "resumed": [*resumed, now]}
                told = ", ".join(f"{name} {last.get(name)} to {now[name]}" for name in changed)
                messages.append(f"warning: {told} since this run was started; what follows may be rounded otherwise")
        elif config.overwrite:
            delete_run(self.path)
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        self._replace("config.yaml", config.to_yaml() + yaml.safe_dump({"provenance": record}, sort_keys=False))
        return messages

    def provenance(self) -> dict[str, Any]:
        """What config.yaml records of the run's origin, or {}."""
        found = read_config(self.path).get("provenance")
        return found if isinstance(found, dict) else {}

    def require_same_origin(self, now: Mapping[str, str]) -> list[str]:
        """Check that a resumed run goes on with what it began with.

        Args:
            now: train, test and model, each as it would be recorded today.

        Returns:
            What could not be checked.

        Raises:
            UserError: another hash or revision; names both.
        """
        if not self.resume:
            return []
        then, unchecked = self.provenance(), []
        for what, text in now.items():
            old, new = origin(str(then.get(what, ""))), origin(text)
            if not old or not new:
                if old != new:
                    unchecked.append(f"warning: whether {what} is what this run began with cannot be checked: {text}")
            elif old != new:
                raise UserError(
                    f"{what} is not what this run began with: {text} has {new}, but {self.path / 'config.yaml'} records "
                    f"{old}. A resumed run must compute the same: put the old one back, or start a new run."
                )
        return unchecked

    def append(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add lines to a .jsonl file."""
        if self.main and rows:
            with open(self.path / name, "a", encoding="utf-8") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)

    def sync(self) -> None:
        """Bring the lines so far to the disk, so that no checkpoint is there without them after a power cut."""
        if self.main:
            for name in ("metrics.jsonl", "completions.jsonl"):
                if (self.path / name).exists():
                    with open(self.path / name, "rb") as file:
                        os.fsync(file)

    def trim(self, step: int) -> list[str]:
        """Drop what was logged after a checkpoint: metrics of later steps, completions sampled at or after it.

        Returns:
            What is wrong with the rest: damaged lines, which are left out here and kept in a copy; steps that are missing,
            or there twice, of which the last counts.
        """
        messages: list[str] = []
        for name, last in (("metrics.jsonl", step), ("completions.jsonl", step - 1)) if self.main else ():
            rows, damaged = scan_lines(self.path / name)
            kept = [row for row in rows if row["step"] <= last]
            count = Counter(row["step"] for row in kept) if name == "metrics.jsonl" else Counter()
            twice = [number for number, times in count.items() if times > 1]
            if damaged or twice:
                copy = next(p for i in range(1, 10**6) if not (p := self.path / f"{name}.damaged-{i}").exists())
                copy.write_bytes((self.path / name).read_bytes())
                places = [f"line {number} is damaged" for number in damaged[:5]] + [
                    f"step {n} is there twice" for n in twice
                ]
                messages.append(f"warning: {name}: {', '.join(places)}; left out, and kept as it was in {copy.name}")
            if twice:
                kept = list({row["step"]: row for row in kept}.values())
            missing = sorted(set(range(1, step + 1)) - count.keys()) if name == "metrics.jsonl" else []
            if missing:
                messages.append(
                    f"warning: {name} has no line for step {', '.join(map(str, missing[:5]))}; the run goes on"
                )
            self._replace(name, "".join(json.dumps(row) + "\n" for row in kept))
        return messages

    def read(self, name: str) -> list[dict[str, Any]]:
        """The lines of a .jsonl file of the run, see `read_lines`."""
        return read_lines(self.path / name)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        if self.main:
            self._replace("summary.json", json.dumps(summary, indent=1) + "\n")

    def _replace(self, name: str, text: str) -> None:
        write_aside(self.path / name, text)


def origin(text: str) -> str:
    """What in a recorded line tells one source from another: a hash, a revision, or the name of what is made here."""
    found = re.search(
        r"sha256 [0-9a-f]+|\S+ at revision (?!unknown)[^\s)]+|\S+ \((generated|embedded|on the hub)\)", text
    )
    return found[0] if found else ""


def places(config: TrainConfig) -> dict[str, str]:
    """Where data and model lie as seen from the run's folder, for those that are files here."""
    paths = {name: Path(getattr(config, name)).expanduser() for name in MOVABLE}
    return {name: os.path.relpath(path, config.run_dir) for name, path in paths.items() if path.exists()}


def located(config: TrainConfig) -> TrainConfig:
    """A resumed run's configuration with its data and model where they are now, if they were moved along with it."""
    found = RunFolder(config, resume=True, main=False).provenance().get("places")
    recorded: dict[str, Any] = found if isinstance(found, dict) else {}
    moved: dict[str, Any] = {}
    for name in MOVABLE:
        path, given = config.run_dir / str(recorded.get(name, "")), Path(getattr(config, name)).expanduser()
        if name in recorded and path.name == given.name and path.exists() and not given.exists():
            moved[name] = os.path.normpath(path)
    return dataclasses.replace(config, **moved)


@dataclass(frozen=True)
class RunRecord:
    """What a run folder holds, as far as it can be read; the summary is empty while the run is unfinished."""

    path: Path
    options: Mapping[str, Any]
    """Every option; the default where config.yaml has none, or none that can be one."""
    recorded: Mapping[str, Any]
    """The options that config.yaml has."""
    provenance: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    """Finite or not, the values of a line are numbers, or pairs of them, the ends of intervals."""
    samples: Sequence[Mapping[str, Any]]
    summary: Mapping[str, Any]
    damage: Sequence[tuple[str, str]] = ()
    """(file, what of it could not be read)."""


def read_run(path: Path) -> RunRecord:
    """Read a run folder, finished or not, whatever has happened to it.

    Raises:
        UserError: it holds no config.yaml that can be read.
    """
    recorded = read_config(path)
    provenance = recorded.pop("provenance", {})
    require_format(recorded.pop("format", None), path / "config.yaml", resume=False)
    damage: list[tuple[str, str]] = []
    options = _options(recorded, damage)
    rows = [_metrics(row, damage) for row in _scanned(path, "metrics.jsonl", damage)]
    samples = [_sample(row, damage) for row in _scanned(path, "completions.jsonl", damage)]
    summary = _summary(path / "summary.json", damage)
    if not isinstance(provenance, dict):
        damage.append(("config.yaml", "provenance is no table"))
        provenance = {}
    return RunRecord(path, options, recorded, provenance, rows, samples, summary, tuple(damage))


def _options(recorded: dict[str, Any], damage: list[tuple[str, str]]) -> dict[str, Any]:
    """Every option; those in config.yaml that cannot be one are taken out there."""
    options = dataclasses.asdict(TrainConfig())
    kind_of = kinds(TrainConfig)
    for name in [name for name in recorded if name in options]:
        try:
            options[name] = checked(FIELDS[name], kind_of[name], recorded[name])
        except UserError as error:
            damage.append(("config.yaml", str(error)))
            del recorded[name]
    return options


def _scanned(path: Path, name: str, damage: list[tuple[str, str]]) -> list[dict[str, Any]]:
    rows, damaged = scan_lines(path / name)
    damage += [(name, f"line {number}") for number in damaged]
    return rows


def _metrics(row: dict[str, Any], damage: list[tuple[str, str]]) -> dict[str, Any]:
    """A line of metrics.jsonl without what is no number."""
    kept = {name: value for name, value in row.items() if _is_number(value) or _is_interval(value)}
    lost = [name for name in row.keys() - kept.keys() if row[name] is not None]
    evaluated = {name.removeprefix("eval_"): kept[name] for name in kept if name.startswith("eval_")}
    if evaluated and not _is_evaluation(evaluated):
        lost += ["its evaluation"]
        kept = {name: value for name, value in kept.items() if not name.startswith("eval_")}
    damage += [("metrics.jsonl", f"{name} of step {row['step']}") for name in sorted(lost)]
    return kept


def _sample(row: dict[str, Any], damage: list[tuple[str, str]]) -> dict[str, Any]:
    """A line of completions.jsonl whose rewards are numbers."""
    wrong = [n for n in row if (n == "reward" or n.startswith("reward/")) and not _is_number(row[n])]
    damage += [("completions.jsonl", f"{name} of a completion of step {row['step']}") for name in wrong]
    return {name: value for name, value in row.items() if name not in wrong}


def _summary(path: Path, damage: list[tuple[str, str]]) -> dict[str, Any]:
    """summary.json; {} if there is none, or one that is damaged."""
    found = read_json(path, damage)
    numbers = ("steps", "seconds", "peak_memory_bytes", "seed")
    evaluations = [found.get(name) for name in ("eval_before", "eval_after")] if isinstance(found, dict) else []
    if found is None:
        return {}
    if not isinstance(found, dict):
        fault = "holds no object"
    elif not all(isinstance(one, dict) and _is_evaluation(one) for one in evaluations):
        fault = "lacks an evaluation before or after"
    elif wrong := [n for n in numbers if n in found and not _is_number(found[n])]:
        fault = f"{wrong[0]} is no number"
    elif "steps" not in found:
        fault = "lacks steps"
    else:
        return found
    damage.append((path.name, fault))
    return {}


def read_json(path: Path, damage: list[tuple[str, str]]) -> Any:
    """The content of a .json file; None, and a line in `damage`, where it cannot be read. None if there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        damage.append((path.name, f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"))
        return None


def _is_evaluation(found: Mapping[str, Any]) -> bool:
    """Whether what every evaluation has is there: two accuracies with their errors, and the number of problems."""
    needed = ("pass@1", "pass@1_se", "greedy", "greedy_se", "n")
    right = all(_is_number(found.get(name)) and math.isfinite(found[name]) for name in needed)
    return right and all(value is None or _is_number(value) or _is_interval(value) for value in found.values())


def _is_interval(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_number, value))


def _is_number(value: Any) -> bool:
    """Whether a value is a number that a float can be; JSON has whole numbers of any length."""
    if isinstance(value, int):
        return abs(value) < 2**1023
    return isinstance(value, float)
