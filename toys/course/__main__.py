"""`python -m toys.course generate|grade|gradescope|export`: what `make assignments` and `make grade` call."""

import argparse
import sys
from pathlib import Path

from . import handout
from .catalogue import ASSIGNMENTS, load

FOLDER = Path("notebooks/assignments")


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and do it; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m toys.course", description="Hand out and grade assignments.")
    commands = parser.add_subparsers(dest="command", required=True)

    generate = commands.add_parser("generate", help="write source, student and solution notebooks")
    generate.add_argument("names", nargs="*", help=f"assignments (default: {' '.join(ASSIGNMENTS)})")
    generate.add_argument("--folder", type=Path, default=FOLDER, help=f"where course.toml lies (default {FOLDER})")
    generate.set_defaults(run=_generate)

    options = parser.parse_args(arguments)
    try:
        return int(options.run(options))
    except (ValueError, FileNotFoundError) as error:
        print(f"{parser.prog} {options.command}: {error}", file=sys.stderr)
        return 2


def _generate(options: argparse.Namespace) -> int:
    for name in options.names or ASSIGNMENTS:
        for path in handout.write(load(name), options.folder):
            print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
