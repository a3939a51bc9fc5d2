"""`python -m toys.experiments NAME [--seeds N] [--quick] [--out DIR]`: run an experiment, judge it, keep its table.

Without a name: the list. "all" runs every bandit experiment. A full run writes notebooks/results/NAME.csv; a quick one
writes to out/experiments/, and so does every figure.
"""

import argparse
import csv
import difflib
import os
import platform
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import torch

from ..plotting import style
from . import load
from .claims import RESULTS, with_claims
from .experiment import FIRST_SEED, Experiment, Verdict
from .table import Table

ROOT = Path(__file__).parents[2]
FIGURES = Path("out") / "experiments"


def perform(experiment: Experiment, seeds: int, quick: bool) -> Table:
    """Run a bandit experiment, or read the runs of a trainer's sweep; the table says the verdict, and how to get it again."""
    started = time.perf_counter()
    if experiment.run is not None:
        table = experiment.run(list(range(FIRST_SEED, FIRST_SEED + seeds)), quick)
        command = f"python -m toys.experiments {experiment.name} --seeds {seeds}" + (" --quick" if quick else "")
        seconds = time.perf_counter() - started
    else:
        runs = experiment.runs
        if not runs.is_file():
            raise FileNotFoundError(f"there is no {runs} yet; make it: python full/sweep.py {experiment.sweep}")
        table = Table.from_runs(runs, experiment.pairs)
        command = f"python full/sweep.py {experiment.sweep}; python -m toys.experiments {experiment.name}"
        with open(runs, newline="", encoding="utf-8") as file:
            seconds = sum(float(entry["seconds"]) for entry in csv.DictReader(file))
    table.about = {
        "experiment": f"{experiment.number} {experiment.title}",
        **words(experiment.judge(table)),
        "commit": commit(),
        "command": command,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        "seconds": f"{seconds:.0f}",
    }
    return table


def words(verdict: Verdict) -> dict[str, str]:
    """What the head of a table says of the verdict."""
    return {"verdict": f"{verdict.answer} (evidence: {verdict.evidence})", "in words": verdict.sentence}


def commit() -> str:
    """The commit of the working tree, with "+" where it differs from it; "unknown" outside a checkout."""
    try:
        head = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True)
        changed = subprocess.run(["git", "status", "--porcelain", "apo_edu", "toys"], cwd=ROOT, capture_output=True)
    except OSError:
        return "unknown"
    return head.stdout.strip() + ("+" if changed.stdout else "") if head.returncode == 0 else "unknown"


def tell(experiment: Experiment) -> str:
    """What the experiment asks and predicts, in paragraphs."""
    parts = {
        "Question": experiment.question,
        "The paper": experiment.paper,
        "Theory": experiment.theory,
        "Settings": experiment.settings,
        "Controls": experiment.controls,
        "Rule": experiment.rule,
    }
    lines = [f"{experiment.number}. {experiment.title}"]
    for name, text in parts.items():
        lines.append(
            textwrap.fill(f"{name}: {' '.join(text.split())}", 110, initial_indent="  ", subsequent_indent="    ")
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, run, print the verdict, write the table and the figure; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m toys.experiments", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("name", nargs="?", help='which experiment, or "all"; without it, the list')
    parser.add_argument("--seeds", type=int, help="runs of each setting (default: the experiment's own)")
    parser.add_argument("--quick", action="store_true", help="fewer settings and seeds, as in the tests")
    parser.add_argument(
        "--claims", action="store_true", help="write the README's table of claims anew, from the tables"
    )
    parser.add_argument("--redraw", action="store_true", help="judge and draw the table there is, without running")
    parser.add_argument(
        "--out", type=Path, help="where the table goes (default notebooks/results, quick: out/experiments)"
    )
    options = parser.parse_args(arguments)
    experiments = load()
    if options.claims:
        page = RESULTS / "README.md"
        page.write_text(with_claims(page.read_text(encoding="utf-8")), encoding="utf-8")
        return 0
    if options.name is None:
        for experiment in experiments.values():
            print(f"{experiment.number:3} {experiment.name:20} {experiment.kind:8} {experiment.title}")
        return 0
    if options.name != "all" and options.name not in experiments:
        near = difflib.get_close_matches(options.name, experiments, n=1, cutoff=0.0)
        print(
            f"{options.name!r} is no experiment; did you mean {near[0]!r}? All: {', '.join(experiments)}.",
            file=sys.stderr,
        )
        return 2
    if options.seeds is not None and options.seeds < 4:
        print(f"--seeds is {options.seeds}; expected at least 4: an interval needs several.", file=sys.stderr)
        return 2
    out = options.out or (FIGURES if options.quick else RESULTS)
    for experiment in experiments.values():
        if options.name not in ("all", experiment.name):
            continue
        print(tell(experiment), flush=True)
        if experiment.kind == "trainer" and not experiment.runs.is_file():
            print(f"  This one trains a language model; run it first: python full/sweep.py {experiment.sweep}")
            continue
        if options.redraw:
            table = Table.read(out / f"{experiment.name}.csv")
            table.about |= words(experiment.judge(table))
        else:
            seeds = options.seeds or (experiment.quick_seeds if options.quick else experiment.seeds)
            table = perform(experiment, seeds, options.quick)
        table.write(out / f"{experiment.name}.csv")
        with style():
            figure, caption = experiment.draw(table)
            FIGURES.mkdir(parents=True, exist_ok=True)
            figure.savefig(FIGURES / f"{experiment.name}.png")
        print(f"  Verdict: {table.about['verdict']}. {table.about['in words']}")
        print(f"  {out / experiment.name}.csv, {FIGURES / experiment.name}.png ({table.about['seconds']} s). {caption}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
