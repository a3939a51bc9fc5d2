"""Write report.html of a run again, also of one that was killed: `python full/page.py runs/NAME`."""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout, whatever else is installed
if __name__ == "__main__":
    os.environ.pop("MPLBACKEND", None)  # a notebook's, which may not be installed here; the figures need none

from full.errors import UserError, printable
from full.report.html import write_report


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python full/page.py", description="Write report.html of a run, offline.")
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="folder of a run, finished or not, e.g. runs/apo-guarded-s0"
    )
    faults = []
    for run in parser.parse_args(argv).runs:
        try:
            out = write_report(run)
        except UserError as error:
            faults.append(f"error: {error}")
        else:
            print(printable(f"{out}: {out.stat().st_size / 1e6:.1f} MB"), flush=True)
    if faults:
        sys.exit(printable("\n".join(faults)))


if __name__ == "__main__":
    main()
