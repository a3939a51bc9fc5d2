"""Experiment 4 (language model): objectives like for like, each at its own learning rate."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .. import plotting
from .baselines_lr import ARMS, KINDS, OBJECTIVES
from .experiment import PAR, Experiment, Verdict, on_a_par
from .table import Row, Table

OTHERS = tuple(name for name in OBJECTIVES if name != "apo")


def gap(table: Table, arm: str, kind: str, metric: str = "pass@1", other: str = "apo") -> Row | None:
    """The row of a difference after training; None where it was not run."""
    return table.find(part="after", rule=f"{arm}{kind}", metric=f"{metric} minus {other}{kind}")


def judge(table: Table) -> Verdict:
    two, one = (on_a_par(gap(table, "grpo", kind)) for kind in ("", "-1"))
    if two:
        answer = "holds"
    elif one:
        answer = "holds with a condition"
    else:
        answer = "does not hold" if two is False and one is False else "cannot be told"
    said = []
    for kind, name in KINDS.items():
        rows = {OBJECTIVES[arm]: row for arm in OTHERS if (row := gap(table, arm, kind))}
        if rows:
            seeds = min(row.seeds for row in rows.values())
            said.append(f"{name} ({seeds} seeds): " + ", ".join(f"{arm} {row.signed}" for arm, row in rows.items()))
    others = {metric: row for metric in ("greedy", "pass@8") if (row := gap(table, "grpo", "", metric))}
    said += [f"GRPO in {metric}, two updates: {row.signed}" for metric, row in others.items()]
    for kind in ("", "-4"):
        if row := gap(table, "apo-clip", kind, other="grpo"):
            said.append(f"APO with ratio and clip minus GRPO, {KINDS[kind]}: {row.signed}")
    if pairs := table.where(part="first", rule="grpo-1", metric="push_hard minus apo-1"):
        said.append(
            f"share of the push on prompts that are rarely solved, GRPO minus APO, one update: {pairs[0].signed}"
        )
    missing = [name for kind, name in KINDS.items() if gap(table, "grpo", kind) is None]
    said += [f"not run: {', '.join(missing)}"] if missing else []
    fewest = min((row.seeds for kind in KINDS if (row := gap(table, "grpo", kind))), default=0)
    evidence = "moderate" if fewest >= 5 and answer != "cannot be told" else "weak"
    return Verdict(answer, evidence, f"Sampled pass@1 minus APO's, each at its own rate. {'; '.join(said)}.")


def draw(table: Table) -> tuple[Figure, str]:
    metrics = ("pass@1", "greedy", "pass@8")
    run = [(arm, kind) for kind in KINDS for arm in OTHERS if gap(table, arm, kind)]
    made, axes = plotting.figure(2, 2, size=(11.5, 4.2 + 0.45 * len(run)))
    for ax, metric in zip(axes.flat, metrics, strict=False):
        labels = {f"{OBJECTIVES[arm]}, {KINDS[kind]}": gap(table, arm, kind, metric) for arm, kind in run}
        plotting.differences(ax, {label: row for label, row in labels.items() if row})
        ax.locator_params(axis="x", nbins=4)
        ax.set(xlabel=f"{metric} minus APO's", title=metric)
    _draw_shares(axes[1][1], table)
    return made, (
        "Differences to APO, alpha 0.9, on equal seeds, each at its own rate; Student's intervals over seeds. Bottom right: "
        "share of the push by the share of a group that is right, two updates a batch, means over seeds."
    )


def _draw_shares(ax: Axes, table: Table) -> None:
    """Stacked bars: whose the gradient is, in the first quarter of the steps, with two updates a batch."""
    arms = [arm for arm in OBJECTIVES if table.where(part="first", rule=arm, metric="push_hard")]
    names = [OBJECTIVES[arm] for arm in arms]
    hard, easy, idle = (
        np.array([table.one(part="first", rule=arm, metric=f"push_{share}").mean for arm in arms])
        for share in ("hard", "easy", "idle")
    )
    left = np.zeros(len(arms))
    parts = {
        "at most a quarter right": hard,
        "between": 1 - hard - easy - idle,
        "at least three quarters": easy,
        "all alike": idle,
    }
    for (label, share), color in zip(parts.items(), (*plotting.CYCLE[:3], "#dddddd"), strict=True):
        ax.barh(names, share, left=left, color=color, label=label)
        left = left + share
    ax.invert_yaxis()
    ax.set(xlabel="share of the push", title="Whose gradient it is, first quarter of the steps", xlim=(0, 1))
    ax.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))


EXPERIMENT = Experiment(
    number=4,
    name="baselines",
    title="baselines on the language model, second part: six objectives, each at its own learning rate",
    question="Each objective at its own learning rate, is APO on a par with its peers?",
    paper="With two updates a batch APO is reported on a par with its baselines, one run each.",
    theory="With one update all are alike: right or wrong makes of alpha a step size for each prompt. With two and four GRPO "
    "is above APO, whose gradient lacks the importance ratio, and ratio and clip close the gap. APO and ADPO push prompts that "
    "are rarely solved more than GRPO: between prompts solved once and missed once in eight the weights are as 4.74 to 1 at "
    "alpha 0.9, and as 1 to 1 for GRPO.",
    settings="Tiny model, additions, 80 steps of 32 prompts, gradients cut at norm 10, alpha 0.9 fixed for APO, each "
    "objective's published clip range and the learning rate that baselines_lr chose for it and its number of updates a batch; "
    "200 held-out problems with 8 samples; seeds 20 to 27, on which nothing was chosen.",
    controls="One update a batch, where nothing is stale (GSPO has GRPO's gradient there, and ratio and clip change nothing); "
    "APO with ratio and clip.",
    rule=f"A par holds if GRPO minus APO in pass@1, two updates a batch, lies within {PAR} of 0 with an interval that holds 0; "
    "with a condition if it does so with one update only; it does not hold if the interval excludes 0 with both; otherwise it "
    "cannot be told. The other objectives are told beside, uncorrected for how many they are.",
    sweep="full/configs/experiments/baselines.yaml",
    pairs=(
        *((arm, f"apo{kind}") for arm, (name, kind) in ARMS.items() if name != "apo"),
        *((arm, f"grpo{kind}") for arm, (name, kind) in ARMS.items() if name not in ("apo", "grpo")),
        *((f"{name}{kind}", f"{name}-1") for kind in ("", "-4") for name in ("apo", "grpo")),
    ),
    judge=judge,
    draw=draw,
)
