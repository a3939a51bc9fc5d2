"""Experiment 4 (language model): the learning rate that each objective wants, chosen on seeds reported nowhere else."""

from matplotlib.figure import Figure

from .. import plotting
from .experiment import Experiment, Verdict
from .table import Row, Table

OBJECTIVES = {
    "apo": "APO", "apo-clip": "APO with ratio and clip", "adpo": "ADPO", "grpo": "GRPO", "dr_grpo": "Dr.GRPO", "dapo": "DAPO",
    "gspo": "GSPO",
}  # fmt: skip
# Suffix of the arms -> updates a batch.
KINDS = {"-1": "one update a batch", "": "two updates", "-4": "four updates"}
SAME_IN_ONE = ("apo-clip", "gspo")  # with one update a batch they are APO and GRPO
ARMS = {
    f"{name}{kind}": (name, kind) for kind in KINDS for name in OBJECTIVES if kind != "-1" or name not in SAME_IN_ONE
}
GRID = (0.0001, 0.0003, 0.001)
RATES = (0.00003, *GRID, 0.003)  # the ends where a grid's end is best
COMMON = 0.0003


def at(table: Table, arm: str, rate: float, metric: str = "pass@1", part: str = "after") -> Row | None:
    """An arm's number at a rate; None where it was not run."""
    return table.find(part=part, rule=f"{arm}-lr{rate}", metric=metric)


def best_rate(table: Table, arm: str) -> float | None:
    """The rate with the largest mean pass@1; None unless the whole grid was run, and its neighbour where its end is best."""
    means = {rate: row.mean for rate in RATES if (row := at(table, arm, rate))}
    if not means.keys() >= set(GRID):
        return None
    best = max(means, key=lambda rate: means[rate])
    beyond = {GRID[0]: RATES[0], GRID[-1]: RATES[-1]}.get(best)
    return best if beyond is None or beyond in means else None


def judge(table: Table) -> Verdict:
    chosen = {arm: rate for arm in ARMS if (rate := best_rate(table, arm))}
    gains = {
        arm: table.one(part="after", rule=f"{arm}-lr{rate}", metric=f"pass@1 minus {arm}-lr{COMMON}")
        for arm, rate in chosen.items()
        if rate != COMMON
    }
    if len(chosen) < len(ARMS):
        answer = "cannot be told"
    elif len(set(chosen.values())) == 1:
        answer = "holds"
    else:
        answer = "does not hold" if any(row.low > 0 for row in gains.values()) else "cannot be told"
    said = []
    for kind, name in KINDS.items():
        rates = {OBJECTIVES[ARMS[arm][0]]: rate for arm, rate in chosen.items() if ARMS[arm][1] == kind}
        if rates:
            said.append(f"{name}: " + ", ".join(f"{objective} {rate:g}" for objective, rate in rates.items()))
    if gains:
        rows = ", ".join(
            f"{OBJECTIVES[ARMS[arm][0]]} with {KINDS[ARMS[arm][1]]} {row.signed}" for arm, row in gains.items()
        )
        said.append(f"own rate minus {COMMON:g}, pass@1, {min(row.seeds for row in gains.values())} seeds: {rows}")
    if missing := [arm for arm in ARMS if arm not in chosen]:
        said.append(f"no rate chosen for {', '.join(missing)}")
    return Verdict(answer, "weak", f"Rates chosen, {'; '.join(said)}.")


def draw(table: Table) -> tuple[Figure, str]:
    made, axes = plotting.figure(2, 3, size=(11.5, 7.0))
    for column, (kind, title) in enumerate(KINDS.items()):
        for name, marker, color in zip(OBJECTIVES, "osD^vXP", plotting.CYCLE, strict=False):
            for ax, metric, part in ((axes[0][column], "pass@1", "after"), (axes[1][column], "token_entropy", "last")):
                rows = {rate: row for rate in RATES if (row := at(table, f"{name}{kind}", rate, metric, part))}
                if rows:
                    means = [row.mean for row in rows.values()]
                    ax.plot(list(rows), means, marker=marker, color=color, alpha=0.85, label=OBJECTIVES[name])
        axes[0][column].set(title=title)
        axes[1][column].set(xlabel="learning rate")
    for row, label in zip(axes, ("sampled pass@1 after 80 steps", "token entropy, last quarter (nats)"), strict=True):
        low, high = min(ax.get_ylim()[0] for ax in row), max(ax.get_ylim()[1] for ax in row)
        for ax in row:
            ax.set(xscale="log", ylim=(low, high), xlim=(RATES[0] / 1.3, RATES[-1] * 1.3))
        row[0].set(ylabel=label)
    axes[0][1].legend(fontsize=8, loc="lower left")
    return made, "Means over the three seeds that choose a rate, 0, 1 and 3."


EXPERIMENT = Experiment(
    number=4,
    name="baselines_lr",
    title="baselines on the language model, first part: each objective's own learning rate",
    question="Which learning rate does each objective want? Does one suit all?",
    paper="All objectives are trained at one rate, 1e-6 to 2e-6 on the 1.7B model.",
    theory="Adam takes most of a gradient's length away, so that objectives whose gradients differ by a factor should want "
    "the same rate; steps that are too long for stale samples should hurt objectives without a clip first.",
    settings="Tiny model, additions, 80 steps of 32 prompts, one, two and four updates a batch, gradients cut at norm 10, "
    "alpha 0.9 fixed for APO, each objective's published clip range; learning rates 1e-4, 3e-4 and 1e-3; 200 held-out problems "
    "with 8 samples; seeds 0, 1 and 3, on which pilots had looked around.",
    controls="These seeds choose and are reported nowhere else. Where an end of the grid is best, the rate beyond it is run.",
    rule="An objective's rate, for each number of updates, is the one with the largest mean pass@1. One rate for all holds if "
    "all choose the same; it does not hold if some objective gains by its own rate over 3e-4 with an interval above 0 "
    "(uncorrected); otherwise it cannot be told. Three seeds are weak evidence, and enough to choose by.",
    sweep="full/configs/experiments/baselines_lr.yaml",
    pairs=tuple((f"{arm}-lr{rate}", f"{arm}-lr{COMMON}") for arm in ARMS for rate in RATES if rate != COMMON),
    judge=judge,
    draw=draw,
)
