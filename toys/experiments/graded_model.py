"""Experiment 6 (language model): two graded rewards of our own: does a larger kappa buy variance and cost mean?"""

from collections.abc import Sequence

from matplotlib.figure import Figure

from .. import plotting
from .experiment import Experiment, Verdict
from .table import Row, Table

TASKS = ("digits", "closeness")
METRICS = {"reward": "mean reward", "risk": "risk (share of the possible variance)", "right": "share of right answers"}


def pairs_of(tasks: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """The differences of each task: alpha 0.9 to alpha 0 and to GRPO, GRPO to alpha 0."""
    return tuple(
        (f"{task}-{arm}", f"{task}-{other}")
        for task in tasks
        for arm, other in (("0.9", "0.0"), ("0.9", "grpo"), ("grpo", "0.0"))
    )


def gap(table: Table, task: str, metric: str) -> Row:
    """Alpha 0.9 minus alpha 0 after training."""
    return table.one(part="last", rule=f"{task}-0.9", metric=f"{metric} minus {task}-0.0")


def judge(table: Table, tasks: Sequence[str] = TASKS) -> Verdict:
    bought, refuted, said = {}, {}, []
    for task in tasks:
        mean, risk = gap(table, task, "reward"), gap(table, task, "risk")
        bought[task] = mean.high < 0 and risk.low > 0
        refuted[task] = mean.low > 0 or risk.high < 0
        words = ", ".join(
            f"{metric} {row.signed}"
            for metric in ("reward", "sd", "risk", "right")
            for row in [gap(table, task, metric)]
        )
        said.append(f"{task} ({mean.seeds} seeds): {words}")
    if all(bought.values()):
        answer = "holds"
    elif any(bought.values()):
        answer = "holds with a condition"
    else:
        answer = "does not hold" if all(refuted.values()) else "cannot be told"
    seeds = min(gap(table, task, "reward").seeds for task in tasks)
    evidence = "moderate" if seeds >= 5 and answer != "cannot be told" else "weak"
    return Verdict(
        answer, evidence, f"alpha 0.9 minus alpha 0 (kappa 3 minus 0): {'; '.join(said)}{beside(table, tasks)}."
    )


def beside(table: Table, tasks: Sequence[str]) -> str:
    """GRPO minus alpha 0 in words; "" where GRPO was not run."""
    said = []
    for task in tasks:
        found = {
            metric: table.where(part="last", rule=f"{task}-grpo", metric=f"{metric} minus {task}-0.0")
            for metric in ("reward", "risk")
        }
        words = [f"{metric} {r.signed}" for metric, rows in found.items() for r in rows]
        said += [f"{task}: {', '.join(words)}"] if words else []
    return f". GRPO minus alpha 0: {'; '.join(said)}" if said else ""


def draw(table: Table) -> tuple[Figure, str]:
    caption = (
        "Additions with partial credit, 48 steps, one update a batch; 100 held-out problems with 24 samples each; Student's "
        "intervals over five seeds."
    )
    return differences(table, TASKS), caption


def differences(table: Table, tasks: Sequence[str]) -> Figure:
    """Alpha 0.9 minus alpha 0 and GRPO's side of it, in mean reward, risk and share of right answers."""
    made, axes = plotting.figure(1, 3, size=(13.0, 2.0 + 0.8 * len(tasks)))
    for ax, (metric, label) in zip(axes, METRICS.items(), strict=True):
        rows: dict[str, Row] = {}
        for task in tasks:
            for arm, other in pairs_of([task]):
                found = table.where(part="last", rule=arm, metric=f"{metric} minus {other}")
                names = {f"{task}-0.9": "alpha 0.9", f"{task}-0.0": "alpha 0", f"{task}-grpo": "GRPO"}
                rows |= {f"{task}:\n{names[arm]} minus {names[other]}": row for row in found}
        plotting.differences(ax, rows)
        ax.locator_params(axis="x", nbins=5)
        ax.set(xlabel=f"difference in {label}", title=label)
    return made


EXPERIMENT = Experiment(
    number=6,
    name="graded_model",
    title="partial credit on the language model: does a larger kappa buy variance?",
    question="Where a language model gets partial credit, does a larger kappa = alpha / beta_r buy variance and cost mean?",
    paper="Binary verifier rewards; graded ones are not studied.",
    theory="On bandits a larger kappa prefers the arm with the larger E exp(kappa R). Here the reward is a function of the "
    "answer and the right answer is the best for every kappa, so that only the way there can differ: between a sure part of "
    "the credit and all or nothing. With 3 values or more the direction differs (12 to 28 degrees on bandits).",
    settings="Tiny model, additions; rewards digits (share of right digits) and closeness (exp(-|error|)); alpha 0 and 0.9 at "
    "beta_r 0.3, kappa 0 and 3; one update a batch, 48 steps of 32 prompts, lr 3e-4, seeds 10 to 14; 100 held-out problems "
    "with 24 samples after the last step.",
    controls="Risk is the variance within a problem as a share of what its mean allows, since a worse policy has more variance "
    "anyhow; GRPO beside it.",
    rule="On a task kappa buys variance and costs mean if alpha 0.9 minus alpha 0 is below 0 in mean reward and above 0 in "
    "risk, beyond the intervals. Holds if on both tasks, with a condition if on one; does not hold if on both the mean is "
    "above 0 or the risk below 0; else it cannot be told.",
    sweep="full/configs/experiments/graded_model.yaml",
    pairs=pairs_of(TASKS),
    judge=judge,
    draw=draw,
)
