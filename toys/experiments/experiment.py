"""What an experiment is: a question, two predictions, settings, controls, a run, and a verdict rule fixed beforehand.

One file of this folder is one experiment; it defines `EXPERIMENT`. A "bandit" experiment runs here. A "trainer" experiment
is run by `python full/sweep.py SWEEP` (this package never imports full/), and is judged and drawn here from the numbers of
its runs (`Table.from_runs`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from .table import Row, Table

ANSWERS = ("holds", "does not hold", "holds with a condition", "cannot be told")
EVIDENCE = ("strong", "moderate", "weak")

# How far from 0 a difference in pass@1 may reach, interval and all, for two objectives to count as on a par.
PAR = 0.03

# Seeds below this one were for looking around and choosing settings; every reported number is from seeds at or above it.
FIRST_SEED = 1000


def on_a_par(row: Row | None) -> bool | None:
    """Whether two objectives are on a par: their difference holds 0 and lies within `PAR` of it.

    None where the interval does not tell, or there is no row.
    """
    if row is None:
        return None
    if row.low > 0 or row.high < 0:
        return False
    return True if max(-row.low, row.high) < PAR else None


@dataclass(frozen=True)
class Verdict:
    """What came out.

    answer: one of `ANSWERS`, about the paper's claim (or about the theory's, where the paper makes none).
    evidence: one of `EVIDENCE`.
    sentence: the answer in words, with its numbers and intervals.
    """

    answer: str
    evidence: str
    sentence: str

    def __post_init__(self) -> None:
        for name, value, allowed in (("answer", self.answer, ANSWERS), ("evidence", self.evidence, EVIDENCE)):
            if value not in allowed:
                raise ValueError(f"{name} is {value!r}; expected one of {', '.join(allowed)}.")


@dataclass(frozen=True)
class Key:
    """The figure by which the quick test holds an experiment.

    read: from the table to the number.
    expected: its value.
    tolerance: how far a quick run may be from it: four standard errors at the quick run's seeds, or what is stated beside it.
    """

    read: Callable[[Table], float]
    expected: float
    tolerance: float


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One experiment.

    number, name, title: the number in the list of questions, the name on the command line, a line for lists.
    question: what is asked.
    paper: what arXiv 2512.22953 says or implies.
    theory: what is derived beforehand.
    settings, controls: what is run, and what is run beside it to exclude another explanation.
    rule: how the verdict follows from the numbers, fixed before they were seen.
    seeds, quick_seeds: how many by default, and in the quick test.
    run: from the seeds and whether to be quick to the table; None for a trainer experiment.
    sweep: the trainer's sweep file, for a trainer experiment; None for a bandit.
    model: what a trainer experiment trains, in words.
    pairs: (arm, arm that is subtracted) of a sweep; empty subtracts the first arm from every other.
    judge: from the table to the verdict, by the rule.
    draw: from the table to a figure and its caption.
    key: the figure that the quick test holds.
    """

    number: int
    name: str
    title: str
    question: str
    paper: str
    theory: str
    settings: str
    controls: str
    rule: str
    judge: Callable[[Table], Verdict]
    draw: Callable[[Table], tuple[Figure, str]]
    key: Key | None = None
    run: Callable[[list[int], bool], Table] | None = None
    sweep: str | None = None
    model: str = "tiny language model"
    pairs: tuple[tuple[str, str], ...] = ()
    seeds: int = 100
    quick_seeds: int = 12

    def __post_init__(self) -> None:
        if (self.run is None) == (self.sweep is None):
            raise ValueError(
                f"experiment {self.name} has {'neither' if self.run is None else 'both'} run and sweep; expected one: run "
                "for a bandit, sweep (a file in full/configs/experiments/) for the trainer."
            )

    @property
    def runs(self) -> Path:
        """Where the trainer's sweep puts its runs' numbers."""
        return Path("runs") / "sweeps" / Path(self.sweep or self.name).stem / "results.csv"

    @property
    def kind(self) -> str:
        """ "bandit" or "trainer"."""
        return "bandit" if self.sweep is None else "trainer"
