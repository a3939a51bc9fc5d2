"""Compare finished runs: a table, paired differences over seeds, and their curves side by side.

    python full/compare.py runs/apo-* runs/grpo-* --out compare.png --csv compare.csv

Runs that differ in nothing but the seed are one group. Two groups are compared on the seeds they share: the same seed means
the same order of problems and, for the embedded model, the same start, so the difference of two such runs varies less than
the runs do. Its interval is over seeds: what training again would give. Where full/eval.py was run on both (eval.json), the
difference per problem is added: what these very models would do on other problems of the kind.
"""

import argparse
import os
import sys
from itertools import combinations
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout, whatever else is installed
if __name__ == "__main__":
    os.environ.pop("MPLBACKEND", None)  # a notebook's, which may not be installed here; the figures need none

from full.errors import UserError, printable
from full.options import CommandParser
from full.report.comparison import draw, gain_rows, group_runs, notes, pair_rows, read_finished_run, show, write_csv
from full.trainer.launch import quiet_exit


def main(argv: list[str] | None = None) -> None:
    """Read, group, compare, show."""
    args = parse_arguments(argv)
    runs = []
    for path in {Path(name).resolve(): Path(name) for name in args.runs}.values():
        try:
            runs.append(read_finished_run(path))
        except UserError as error:
            print(printable(f"left out: {error}"), flush=True)
    if not runs:
        raise UserError("none of the folders holds a finished run; expected at least one. See the lines above.")
    groups, repeated = group_runs(runs)
    for line in repeated:
        print(printable(f"left out: {line}"))
    gains = [row for group in groups for row in gain_rows(group)]
    pairs = [row for a, b in combinations(groups, 2) for row in pair_rows(a, b)]
    show(groups, gains, pairs)
    print(printable("\n".join(notes(groups, pairs))))
    if args.csv:
        target = Path(args.csv)
        for path, rows in ((target, gains), (target.with_stem(f"{target.stem}-pairs"), pairs)):
            if rows:
                write_csv(path, rows)
                print(f"written to {path}")
    out = Path(args.out) if args.out else Path(args.runs[0]).resolve().parent / "compare.png"
    draw(groups, out)
    print(f"curves: {out}")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The options.

    Raises:
        UserError: an unknown one, or a file that could not be written.
    """

    parser = CommandParser(prog="python full/compare.py", description=str(__doc__).split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="Folders of finished runs, best several seeds of each.")
    parser.add_argument("--out", metavar="FILE", help="The figure. Default: compare.png beside the first run's folder.")
    parser.add_argument("--csv", metavar="FILE", help="Write the table here, and the pairs to FILE-pairs.")
    args = parser.parse_args(argv)
    for name in ("out", "csv"):
        value = getattr(args, name)
        if value and not Path(value).resolve().parent.is_dir():
            raise UserError(
                f"--{name} is {value} but its folder does not exist; expected one that does. Create it first."
            )
    return args


def run_and_report(argv: list[str] | None = None) -> None:
    """`main`, with what a user can mend told in one line."""
    try:
        main(argv)
    except UserError as error:
        quiet_exit(f"error: {error}", 2)


if __name__ == "__main__":
    run_and_report(sys.argv[1:])
