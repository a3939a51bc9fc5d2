"""`python -m toys.questions FOLDER`: what a class predicted, as CSV, from its predictions.jsonl files."""

import argparse
import csv
import sys
from pathlib import Path

from .keeping import class_table


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m toys.questions", description=__doc__)
    parser.add_argument("folder", type=Path, help="a folder with one .jsonl file a learner, at any depth")
    folder = parser.parse_args(words).folder
    try:
        rows = class_table(folder)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    table = csv.DictWriter(sys.stdout, rows[0].keys(), lineterminator="\n")
    table.writeheader()
    table.writerows(row | {"share": f"{row['share']:.2f}"} for row in rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
