"""Notebook 12's cells: the table of claims, one section an experiment, and a small version run live."""

from IPython.display import Markdown, display

from ..plotting import style
from ..widgets import figure
from . import claims, load, schedules
from .experiment import FIRST_SEED, Experiment
from .table import Table

DPI = 108  # of the sections' pictures: 22 of them in one notebook


def overview() -> Markdown:
    """The table of claims, each with a link to its section below."""

    def link(claim: claims.Claim) -> str:
        title = claims.heading(claim.experiment)
        return f"[{title}](#{title.replace(' ', '-')})"

    return Markdown("\n".join(claims.lines(link)))


def section(name: str, *, alt: str) -> None:
    """Question, predictions, command, figure and verdict of an experiment, from its committed table.

    alt: what the figure shows, in words.
    """
    experiment, table = load()[name], claims.table_of(name)
    display(Markdown(_before(experiment)))
    if table is None:
        command = (
            f"python full/sweep.py {experiment.sweep}" if experiment.sweep else f"python -m toys.experiments {name}"
        )
        display(Markdown(f"**Not run yet.** `{command}` runs it; this section then shows its figure and its verdict."))
        return
    _show(experiment, table, alt)
    display(Markdown(_after(experiment, table)))


def _show(experiment: Experiment, table: Table, alt: str) -> None:
    with style():
        picture, caption = experiment.draw(table)
        figure(picture, caption, alt, dpi=DPI)


def _before(experiment: Experiment) -> str:
    return "\n\n".join(
        (
            f"**Question.** {experiment.question}",
            f"**The paper.** {experiment.paper}",
            f"**Theory, beforehand.** {experiment.theory}",
            f"**What was run.** {experiment.settings} **Controls.** {experiment.controls}",
            f"**Rule, fixed beforehand.** {experiment.rule}",
        )
    )


def _after(experiment: Experiment, table: Table) -> str:
    every = sorted({row.seeds for row in table if row.seeds})
    counts = table.behind(table.about["in words"]) or every
    seeds = ", ".join(map(str, counts))
    seeds += f" (in the whole table {every[0]} to {every[-1]})" if every != counts else ""
    return "\n\n".join(
        (
            f"**Verdict: {table.about['verdict']}.** {table.about['in words']}",
            f"Seeds behind these numbers: {seeds}. `{table.about['command']}` ({table.about['seconds']} s on "
            f"{table.about['machine']}, commit {table.about['commit']}); all numbers: "
            f"[{experiment.name}.csv](results/{experiment.name}.csv)",
        )
    )


def alpha_over_time(*, calm: str, judge: str) -> None:
    """Experiment 3 over time, run here and now: alpha beside reward and entropy, and whether alpha comes back.

    calm, judge: what the two figures show, in words.
    """
    seeds = range(FIRST_SEED, FIRST_SEED + schedules.EXPERIMENT.quick_seeds)
    for task, alt, changes in ((schedules.CALM, calm, ()), (schedules.JUDGE, judge, (100, 200))):
        histories = schedules.over_time(seeds, task)
        with style():
            figure(
                schedules.draw_over_time(histories, task, changes),
                f"Alpha over time: {task}. Grey: alpha in the middle half of the runs.",
                alt,
            )
        if task == schedules.CALM:
            said = schedules.say_returned(histories)
            display(Markdown(f"**Does alpha return when improvement stalls?** With {len(seeds)} seeds:\n\n{said}"))


def live(name: str, *, alt: str) -> Table:
    """Run the quick version of a bandit experiment here and now, show its figure and verdict, and return its table.

    Raises:
        ValueError: the experiment trains a language model.
    """
    experiment = load()[name]
    if experiment.run is None:
        raise ValueError(
            f"{name} trains a language model; expected a bandit. Run it with: python full/sweep.py {experiment.sweep}"
        )
    table = experiment.run(list(range(FIRST_SEED, FIRST_SEED + experiment.quick_seeds)), True)
    _show(experiment, table, alt)
    verdict = experiment.judge(table)
    display(Markdown(f"**With {experiment.quick_seeds} seeds: {verdict.answer}.** {verdict.sentence}"))
    return table
