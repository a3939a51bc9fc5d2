"""Run a table of settings times seeds: `python full/sweep.py full/configs/experiments/NAME.yaml`.

    python full/sweep.py FILE --dry-run          # what would run, and what is done already
    python full/sweep.py FILE --table            # the table of what is finished so far
    python full/sweep.py FILE --jobs 2           # so many runs side by side; default: as many as there are cores
    python full/sweep.py FILE --row 3            # this run alone: one job of an array on a cluster (configs/cluster/slurm.sh)

A sweep file names the question, a configuration to start from, options that all runs share, the arms (a name and options
each; lists of values are crossed), and the seeds:

    question: Does APO lose to GRPO in the stale update?
    base: full/configs/tiny.yaml
    options: {eval_samples: 8}
    arms:
      apo: {objective: apo, schedule: fixed, alpha: 0.9}
      grpo: {objective: grpo, lr: [3.0e-4, 1.0e-3]}
    seeds: [0, 1, 2, 3, 4]
    metrics: [pass@1, greedy, pass@8]
    logged: [token_entropy]

Every run is full/train.py as a user starts it, in runs/sweeps/NAME/ARM-sSEED. A finished run is not run again, one that was
killed is resumed, and at the end stands a table: the mean of each arm over seeds, and every arm's difference to the first one
on equal seeds, with 95 % intervals over seeds; the same numbers, run by run, in runs/sweeps/NAME/results.csv. There also stand
the means, over the first and the last quarter of a run's steps, of what `logged` names of its metrics.jsonl.
"""

import argparse
import csv
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout, whatever else is installed

import yaml
from tqdm import tqdm

from full.errors import UserError
from full.options import CommandParser
from full.report.statistics import t_interval
from full.rewards.pool import available_cores
from full.trainer.launch import quiet_exit
from full.units import duration

ROOT = Path(__file__).resolve().parents[1]
KEYS = {"question", "base", "options", "arms", "seeds", "metrics", "logged"}


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep: a row of its table.

    arm: the name of its settings; a crossed list of values is a part of it.
    words: the options for full/train.py, as on its command line.
    """

    arm: str
    seed: int
    folder: Path
    words: tuple[str, ...]

    @property
    def finished(self) -> bool:
        """Whether its summary was written, which is the last thing but the model's card."""
        return (self.folder / "summary.json").exists()

    @property
    def state(self) -> str:
        """done, begun or new."""
        return "done" if self.finished else "begun" if (self.folder / "config.yaml").exists() else "new"

    def command(self) -> list[str]:
        """full/train.py with this run's options; a run that was begun is resumed."""
        train = [sys.executable, str(ROOT / "full" / "train.py")]
        return [*train, "--resume", str(self.folder)] if self.state == "begun" else [*train, *self.words]


@dataclass(frozen=True)
class Sweep:
    """A sweep file, read and checked."""

    name: str
    question: str
    runs: tuple[SweepRun, ...]
    metrics: tuple[str, ...]
    folder: Path
    logged: tuple[str, ...] = ()


def read_sweep(path: Path, *, out: Path = Path("runs/sweeps")) -> Sweep:
    """Read a sweep file.

    Args:
        out: the folder of all sweeps; this one's is named as its file.

    Raises:
        UserError: no such file, not YAML, an unknown or missing key, an arm that is no table, two arms of one name.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read as YAML ({' '.join(str(error).split())[:160]}).") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}; expected the keys {', '.join(sorted(KEYS))}.")
    for key in content.keys() - KEYS:
        raise UserError(f"{key!r} in {path} is no key of a sweep; expected {', '.join(sorted(KEYS))}.")
    for key in ("arms", "seeds"):
        if not content.get(key):
            raise UserError(f"{path} has no {key}; expected at least one. See the head of full/sweep.py.")
    seeds = content["seeds"]
    if not isinstance(seeds, list) or not all(isinstance(seed, int) for seed in seeds) or len(set(seeds)) < len(seeds):
        raise UserError(f"seeds in {path} is {seeds}; expected a list of different whole numbers, e.g. [0, 1, 2].")
    folder = out / path.stem
    base = ["--config", str(content["base"])] if content.get("base") else []
    runs: list[SweepRun] = []
    for arm, options in content["arms"].items():
        if not isinstance(options, dict):
            raise UserError(f"arm {arm!r} in {path} is {options!r}; expected options, e.g. {{objective: grpo}}.")
        for name, crossed in cross(str(arm), {**(content.get("options") or {}), **options}):
            words = [word for option, value in crossed.items() for word in (f"--{option}", *as_words(value))]
            for seed in seeds:
                place = folder / f"{name}-s{seed}"
                own = ("--seed", str(seed), "--output_dir", str(place))
                runs.append(SweepRun(name, seed, place, (*base, *words, *own)))
    names = [run.folder for run in runs]
    if len(set(names)) < len(names):
        raise UserError(f"two arms of {path} have the same name; expected different ones.")
    metrics = tuple(content.get("metrics") or ("pass@1", "greedy"))
    logged = tuple(content.get("logged") or ())
    return Sweep(path.stem, str(content.get("question", "")), tuple(runs), metrics, folder, logged)


def cross(arm: str, options: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """(name, options) for every combination of the listed values; `reward` and `reward_weights` are lists themselves."""
    lists = {
        name: value
        for name, value in options.items()
        if isinstance(value, list) and name not in ("reward", "reward_weights")
    }
    made = []
    for values in itertools.product(*lists.values()):
        chosen = dict(zip(lists, values, strict=True))
        made.append(("-".join([arm, *(f"{name}{value}" for name, value in chosen.items())]), {**options, **chosen}))
    return made


def as_words(value: Any) -> list[str]:
    """A value of a YAML file as the words of a command line."""
    if isinstance(value, bool):
        return [str(value).lower()]
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]


def perform(run: SweepRun) -> str:
    """Run or resume one row to its end; return "" or why it failed. Its output goes to a log beside its folder."""
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    log = run.folder.with_name(run.folder.name + ".log")
    environment = os.environ | {"TQDM_DISABLE": "1"}
    with open(log, "ab") as file:
        done = subprocess.run(run.command(), stdout=file, stderr=subprocess.STDOUT, env=environment, cwd=Path.cwd())
    if done.returncode == 0 and run.finished:
        return ""
    lines = log.read_text(errors="replace").strip().splitlines() or ["no output"]
    return f"{run.folder} ended with {done.returncode}: {lines[-1][:200]} (all of it in {log})"


def perform_all(runs: Sequence[SweepRun], jobs: int) -> list[str]:
    """Run what is not finished, so many at a time; return what failed.

    The first run of each seed goes first: what it prepares and caches (the embedded model's warm start) serves the others.
    """
    first_of_seed = {run.seed: run for run in reversed(runs)}
    waves = [list(first_of_seed.values()), [run for run in runs if first_of_seed[run.seed] is not run]]
    failures: list[str] = []
    started, total, done = time.perf_counter(), len(runs), 0
    with (
        tqdm(total=total, unit="run", desc="sweep", dynamic_ncols=True, disable=None) as bar,
        ThreadPoolExecutor(jobs) as pool,
    ):
        for wave in waves:
            for future in as_completed([pool.submit(perform, run) for run in wave]):
                failures += [failure] if (failure := future.result()) else []
                done += 1
                left = (time.perf_counter() - started) / done * (total - done)
                bar.update()
                bar.set_postfix_str(f"about {duration(left)} left, {len(failures)} failed")
                if bar.disable:
                    print(f"{done} of {total} runs, about {duration(left)} left", flush=True)
    return failures


def results(sweep: Sweep) -> list[dict[str, Any]]:
    """One row per finished run: arm, seed, each metric before and after, what it logged, what its probes say, seconds."""
    rows = []
    for run in sweep.runs:
        if run.finished:
            summary = json.loads((run.folder / "summary.json").read_text())
            row: dict[str, Any] = {"arm": run.arm, "seed": run.seed}
            for metric in sweep.metrics:
                for when in ("before", "after"):
                    if metric not in summary[f"eval_{when}"]:
                        known = [key for key in summary["eval_after"] if not key.endswith(("_se", "_ci"))]
                        raise UserError(
                            f"metric {metric!r} is not in {run.folder}/summary.json, which has {', '.join(known)}. For "
                            "pass@8 put eval_samples: 8 into the sweep's options."
                        )
                    row[f"{metric} {when}"] = summary[f"eval_{when}"][metric]
            row |= logged(run.folder, sweep.logged)
            rows.append({**row, **probed(run.folder), "seconds": summary["seconds"]})
    return rows


def logged(folder: Path, names: Sequence[str]) -> dict[str, float]:
    """Means over the first and the last quarter of a run's steps, as "NAME first" and "NAME last"."""
    if not names:
        return {}
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    quarter = max(1, len(steps) // 4)
    if missing := [name for name in names if name not in steps[0]]:
        raise UserError(
            f"logged {missing[0]!r} is not in {folder}/metrics.jsonl, which has {', '.join(steps[0])}. A run of an older "
            "version may lack it: delete its folder to run it again."
        )
    return {
        f"{name} {stage}": statistics.fmean(step[name] for step in chosen)
        for name in names
        for stage, chosen in (("first", steps[:quarter]), ("last", steps[-quarter:]))
    }


def probed(folder: Path) -> dict[str, float]:
    """What a run's probes wrote (full/trainer/probes.py), as "NAME STAGE"; of a resumed run the last word counts."""
    path = folder / "probes.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
    return {
        f"{name} {line['stage']}": value
        for line in lines
        for name, value in line.items()
        if name not in ("step", "stage")
    }


def table(rows: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> list[dict[str, Any]]:
    """One row per arm and metric: its mean over seeds, and its difference to the first arm on the seeds both have."""
    arms: dict[str, dict[int, Mapping[str, Any]]] = {}
    for row in rows:
        arms.setdefault(row["arm"], {})[row["seed"]] = row
    made: list[dict[str, Any]] = []
    for metric in metrics:
        key = f"{metric} after"
        for index, (arm, by_seed) in enumerate(arms.items()):
            first = next(iter(arms.values()))
            shared = sorted(by_seed.keys() & first.keys())
            gaps = [by_seed[seed][key] - first[seed][key] for seed in shared] if index else []
            low, high = t_interval(gaps)
            values = [row[key] for row in by_seed.values()]
            made.append(
                {
                    "metric": metric,
                    "arm": arm,
                    "seeds": len(values),
                    "mean": statistics.fmean(values),
                    "difference": statistics.fmean(gaps) if gaps else None,
                    "low": low,
                    "high": high,
                    "won": sum(gap > 0 for gap in gaps),
                    "lost": sum(gap < 0 for gap in gaps),
                }
            )
    return made


def show(sweep: Sweep, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the table, and write the runs' numbers beside it."""
    from rich.console import Console
    from rich.table import Table

    from full.report.console import plain

    made = Table(title=plain(f"{sweep.name}: {sweep.question}"), title_justify="left")
    for name in ("metric", "arm", "seeds", "mean after", "difference to the first", "95 % interval", "won : lost"):
        made.add_column(name, justify="left" if name in ("metric", "arm") else "right")
    for row in table(rows, sweep.metrics):
        told = ["", "", ""]
        if row["difference"] is not None:
            interval = "one seed" if row["low"] is None else f"{row['low']:+.3f} to {row['high']:+.3f}"
            told = [f"{row['difference']:+.3f}", interval, f"{row['won']} : {row['lost']}"]
        made.add_row(plain(row["metric"]), plain(row["arm"]), str(row["seeds"]), f"{row['mean']:.3f}", *told)
    Console(width=None if sys.stdout.isatty() else 150).print(made)
    sweep.folder.mkdir(parents=True, exist_ok=True)
    with open(sweep.folder / "results.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)
    print(
        "differences are paired by seed; intervals are Student's t over seeds, not corrected for how many there are",
        f"written to {sweep.folder / 'results.csv'}",
        sep="\n",
    )


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = CommandParser(prog="python full/sweep.py", description=str(__doc__).split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("file", metavar="FILE", help="A sweep file, e.g. full/configs/experiments/stale_update.yaml.")
    parser.add_argument("--dry-run", action="store_true", help="Print the rows and what is done, and run nothing.")
    parser.add_argument("--table", action="store_true", help="Show the table of what is finished, and run nothing.")
    parser.add_argument("--row", type=int, metavar="K", help="Run this row alone, from 0.")
    parser.add_argument("--jobs", type=int, default=0, metavar="N", help="Runs side by side. Default: one a core.")
    parser.add_argument("--out", default="runs/sweeps", metavar="DIR", help="Where sweeps are. Default: runs/sweeps.")
    args = parser.parse_args(argv)
    if args.jobs < 0:
        raise UserError(f"--jobs is {args.jobs}; expected at least 1, or 0 for one a core.")
    return args


def main(argv: list[str] | None = None) -> None:
    """Read the file, check every row's options, run what is missing, show the table."""
    args = parse_arguments(argv)
    sweep = read_sweep(Path(args.file), out=Path(args.out))
    check_options(sweep)
    if args.row is not None and not 0 <= args.row < len(sweep.runs):
        raise UserError(f"--row is {args.row}; expected 0 to {len(sweep.runs) - 1}. See --dry-run.")
    if args.dry_run:
        for number, run in enumerate(sweep.runs):
            print(f"{number:3d} {run.state:5s} {run.folder}: {' '.join(run.words)}")
        return
    chosen = sweep.runs if args.row is None else [sweep.runs[args.row]]
    open_runs = [run for run in chosen if not run.finished and not args.table]
    print(f"{len(chosen)} runs, {sum(run.finished for run in chosen)} of them done already", flush=True)
    failures = perform_all(open_runs, args.jobs or available_cores()) if open_runs else []
    rows = results(sweep)
    if rows and args.row is None:
        show(sweep, rows)
    if failures:
        raise UserError(f"{len(failures)} of {len(chosen)} runs failed; the first: {failures[0]}")


def check_options(sweep: Sweep) -> None:
    """Read every arm's options as full/train.py will, so that a wrong one is found before the first run."""
    from full.config import parse_config

    for run in {run.arm: run for run in sweep.runs}.values():
        try:
            parse_config(list(run.words))
        except UserError as error:
            raise UserError(f"arm {run.arm!r}: {error}") from None


def run_and_report(argv: list[str] | None = None) -> None:
    """`main`, with what a user can fix told in one line."""
    try:
        main(argv)
    except UserError as error:
        quiet_exit(f"error: {error}", 2)


if __name__ == "__main__":
    run_and_report(sys.argv[1:])
