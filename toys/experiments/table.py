"""The table of an experiment's results: one row a number, with its interval and its seeds, as a small CSV file."""

import csv
import io
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from apo_edu.statistics import Interval, mean_interval, median_quartiles, student_interval

# The last word of a column of a sweep: before and after the run (evaluations), or when a probe looked.
STAGES = ("before", "after", "first", "quarter", "last")
_QUOTED = re.compile(r"([+-]?[\d.]+(?:e-?\d+)?) \[([+-]?[\d.]+), ([+-]?[\d.]+)\]")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One number.

    part: which part of the experiment.
    rule: what was run, e.g. "grpo", "guard"; an APO run with a fixed alpha is "apo".
    alpha: its order; NaN where there is none or it moves.
    x: what the part varies (group size, learning rate, ...); NaN where nothing.
    metric: what was measured, or "A minus B" for a paired difference.
    seeds: how many runs.
    mean, low, high: the mean over seeds and its 95 % interval: bootstrap, or Student's for the trainer's few seeds.
    q25, median, q75: quartiles over seeds.
    """

    part: str
    rule: str
    metric: str
    seeds: int
    mean: float
    low: float
    high: float
    q25: float
    median: float
    q75: float
    alpha: float = math.nan
    x: float = math.nan

    @property
    def interval(self) -> str:
        """Mean with interval, for sentences."""
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"

    @property
    def signed(self) -> str:
        """A difference with its interval, each with its sign."""
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


@dataclass
class Table:
    """Rows, and what is to be known about them: `about` becomes the head of the CSV file."""

    rows: list[Row] = field(default_factory=list)
    about: dict[str, str] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def add(
        self,
        part: str,
        rule: str,
        metric: str,
        values: Any,
        *,
        alpha: float = math.nan,
        x: float = math.nan,
        interval: Callable[[Tensor], Interval] = mean_interval,
    ) -> Row:
        """Append the summary of `values`, one a seed, and return it; `interval` is the bootstrap's, or Student's for few."""
        data = torch.as_tensor(values, dtype=torch.float64)
        found, quartiles = interval(data), median_quartiles(data)
        row = Row(
            part=part, rule=rule, metric=metric, seeds=found.n, mean=float(found.estimate), low=float(found.low),
            high=float(found.high), q25=float(quartiles.low), median=float(quartiles.median), q75=float(quartiles.high),
            alpha=alpha, x=x,
        )  # fmt: skip
        self.rows.append(row)
        return row

    def add_statistic(
        self, part: str, rule: str, metric: str, values: Tensor, statistic: Callable[[Tensor], Tensor], **place: float
    ) -> Row:
        """Append a statistic that is no mean over seeds, with its percentile bootstrap interval.

        Args:
            values: [..., seeds]; a resample takes the same seeds everywhere, so that pairs stay pairs.
            statistic: from [resamples, ..., seeds] to [resamples].
        """
        values = values.double()
        seeds = values.shape[-1]
        drawn = torch.randint(seeds, (1000, seeds), generator=torch.Generator().manual_seed(0))
        resampled = statistic(values[..., drawn].movedim(-2, 0))
        low, high = resampled.nanquantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
        self.rows.append(_bare(part, rule, metric, seeds, float(statistic(values[None])[0]), low, high, **place))
        return self.rows[-1]

    def add_number(self, part: str, rule: str, metric: str, number: float, **place: float) -> Row:
        """Append a number that has no seeds: a prediction, or an exact result."""
        self.rows.append(_bare(part, rule, metric, 0, number, number, number, **place))
        return self.rows[-1]

    def where(self, **wanted: Any) -> list[Row]:
        """The rows whose columns have these values; NaN equals NaN."""
        return [row for row in self.rows if all(_same(getattr(row, name), value) for name, value in wanted.items())]

    def find(self, **wanted: Any) -> Row | None:
        """The first row with these values; None where there is none."""
        return next(iter(self.where(**wanted)), None)

    def one(self, **wanted: Any) -> Row:
        """The only row with these values.

        Raises:
            ValueError: there is none, or more than one.
        """
        rows = self.where(**wanted)
        if len(rows) != 1:
            raise ValueError(
                f"{len(rows)} rows have {wanted}; expected one. Parts: {sorted({row.part for row in self})}."
            )
        return rows[0]

    def behind(self, sentence: str) -> list[int]:
        """How many seeds stand behind the intervals that a sentence quotes: the different numbers, from few to many.

        An interval is "mean [low, high]", with as many digits as it likes; one that is no row of this table counts for nothing.
        """
        counts = set()
        for found in _QUOTED.finditer(sentence.replace("\N{MINUS SIGN}", "-")):
            counts |= {
                row.seeds
                for row in self.rows
                if row.seeds and all(map(_printed, found.groups(), (row.mean, row.low, row.high)))
            }
        return sorted(counts)

    def write(self, path: Path) -> None:
        """Write a CSV file whose first lines, from "# ", are what `about` holds."""
        text = io.StringIO()
        for name, value in self.about.items():
            text.write(f"# {name}: {value}\n")
        writer = csv.DictWriter(text, [column.name for column in fields(Row)], lineterminator="\n")
        writer.writeheader()
        for row in self.rows:
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in asdict(row).items()})
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.getvalue(), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Table":
        """Read what `write` wrote."""
        lines = path.read_text(encoding="utf-8").splitlines()
        head = [line[2:].partition(": ") for line in lines if line.startswith("# ")]
        kinds = {column.name: column.type for column in fields(Row)}
        rows = [
            Row(**{name: kinds[name](value) for name, value in entry.items()})  # type: ignore[operator]
            for entry in csv.DictReader(line for line in lines if not line.startswith("# "))
        ]
        return cls(rows, {name: value for name, _, value in head})

    @classmethod
    def from_runs(cls, path: Path, pairs: Sequence[tuple[str, str]] = ()) -> "Table":
        """The table of a trainer's sweep, from the runs that it wrote, one a line (runs/sweeps/NAME/results.csv).

        Its columns are arm, seed, "METRIC before", "METRIC after", "NUMBER STAGE" of the probes, seconds. The parts are the
        stages (`STAGES`), and the rules are the arms. "METRIC minus ARM" is a paired difference, on shared seeds. Intervals
        are Student's, since seeds are few.

        Args:
            pairs: (arm, arm that is subtracted); empty subtracts the first arm from every other.
        """
        with open(path, newline="", encoding="utf-8") as file:
            runs = list(csv.DictReader(file))
        arms: dict[str, dict[str, dict[str, str]]] = {}
        for entry in runs:
            arms.setdefault(entry["arm"], {})[entry["seed"]] = entry
        table, first = cls(), next(iter(arms))
        wanted = [(arm, other) for arm, other in pairs if arm in arms and other in arms]
        wanted = wanted if pairs else [(arm, first) for arm in arms if arm != first]
        for column in [name for name in runs[0] if name.rpartition(" ")[2] in STAGES]:
            metric, _, part = column.rpartition(" ")
            for arm, by_seed in arms.items():
                values = [float(entry[column]) for entry in by_seed.values() if entry[column]]
                if len(values) > 1:
                    table.add(part, arm, metric, values, interval=student_interval)
            for arm, other in wanted:
                both = [
                    (arms[arm][seed][column], arms[other][seed][column]) for seed in arms[arm] if seed in arms[other]
                ]
                gaps = [float(one) - float(two) for one, two in both if one and two]
                if len(gaps) > 1:
                    table.add(part, arm, f"{metric} minus {other}", gaps, interval=student_interval)
        return table


def _bare(part: str, rule: str, metric: str, seeds: int, mean: float, low: float, high: float, **place: float) -> Row:
    none = math.nan
    return Row(
        part=part, rule=rule, metric=metric, seeds=seeds, mean=mean, low=low, high=high, q25=none, median=none, q75=none,
        **place,
    )  # fmt: skip


def _printed(number: str, value: float) -> bool:
    """Whether a printed number is this value, rounded to the digits printed."""
    digits, _, power = number.partition("e")
    last = 10.0 ** (int(power or 0) - len(digits.partition(".")[2]))
    return abs(float(number) - value) <= 0.5000001 * last + 1e-6 * abs(value)


def _same(value: Any, wanted: Any) -> bool:
    if isinstance(value, float) and isinstance(wanted, (float, int)):
        return math.isclose(value, wanted, rel_tol=1e-5, abs_tol=1e-9) or (math.isnan(value) and math.isnan(wanted))
    return bool(value == wanted)
