"""Experiment 8 (language model): which entropy is confidence? Six readings against the true success rate of problems."""

from matplotlib.figure import Figure

from .. import plotting
from .experiment import Experiment, Verdict
from .table import Row, Table

READINGS = ("tokens", "answers", "candidates", "candidates summed", "target", "likelihood")
TRAINED = ("first", "quarter", "last")
ALPHA_MAX, ALPHA_MIN = 0.9, 0.35
REACH = 0.05  # an alpha that cannot move by so much is a fixed one (the doctor warns below it)


def at(table: Table, number: str, reading: str, stage: str) -> Row:
    """One number of a reading at a stage of training."""
    return table.one(part=stage, metric=f"{number} {reading}")


def reach(table: Table, reading: str, stage: str) -> float:
    """How far below alpha_max the guard gets by this reading while its improvement gate is open."""
    return (ALPHA_MAX - ALPHA_MIN) * at(table, "mean", reading, stage).mean


def qualifies(table: Table, reading: str) -> bool:
    """Whether a reading ranks problems as their success rates do at every stage, and moves alpha."""
    ranks = all(at(table, "rank", reading, stage).low > 0 for stage in TRAINED)
    return ranks and reach(table, reading, "last") >= REACH


def best(table: Table) -> str:
    """The reading that should be the default, by the rule."""
    fit = [reading for reading in READINGS if qualifies(table, reading)]
    if "tokens" in fit:
        fit = [name for name in fit if name == "tokens" or all(at(table, "lead", name, s).low > 0 for s in TRAINED)]
        fit = [name for name in fit if name != "tokens"] or fit
    return max(fit, key=lambda name: sum(at(table, "rank", name, s).mean for s in TRAINED), default="tokens")


def judge(table: Table) -> Verdict:
    said = []
    for reading in READINGS:
        first, last = (at(table, "rank", reading, stage) for stage in ("first", "last"))
        means = " to ".join(f"{at(table, 'mean', reading, stage).mean:.2f}" for stage in ("first", "last"))
        said.append(
            f"{reading}: rank {first.mean:+.2f} [{first.low:+.2f}, {first.high:+.2f}] and {last.mean:+.2f} "
            f"[{last.low:+.2f}, {last.high:+.2f}], c {means}, alpha {ALPHA_MAX - reach(table, reading, 'last'):.2f}"
        )
    candidates = [at(table, "rank", "candidates", stage) for stage in TRAINED]
    useless = reach(table, "candidates", "last") < REACH or any(row.high < 0.2 for row in candidates)
    otherwise = "does not hold" if useless else "cannot be told"
    answer = "holds" if qualifies(table, "candidates") else otherwise
    seeds = candidates[0].seeds
    evidence = "moderate" if seeds >= 5 and answer != "cannot be told" else "weak"
    before, after = (table.one(part=stage, metric="success").mean for stage in ("first", "last"))
    return Verdict(
        answer,
        evidence,
        f"By the rule the default is {best(table)!r}. Rank correlation with the success rate at the start (mean success "
        f"{before:.2f}) and at the end ({after:.2f}), mean confidence, and alpha at the end with the gate open, {seeds} seeds: "
        + "; ".join(said)
        + ".",
    )


def draw(table: Table) -> tuple[Figure, str]:
    made, axes = plotting.figure(1, 3, size=(13.0, 3.9))
    for ax, stage, title in ((axes[0], "first", "At the start"), (axes[1], "last", "At the end")):
        plotting.differences(ax, {reading: at(table, "rank", reading, stage) for reading in READINGS})
        ax.set(xlabel="rank correlation with the success rate", title=title, xlim=(-1, 1.05))
    places = range(len(TRAINED))
    success = [table.one(part=stage, metric="success").mean for stage in TRAINED]
    axes[2].plot(places, success, color="black", linewidth=2.5, label="true success rate")
    for reading, marker, color in zip(READINGS, "osD^vX", plotting.CYCLE, strict=False):
        line = ":" if reading == "likelihood" else "-"  # it lies on "tokens"
        means = [at(table, "mean", reading, stage).mean for stage in TRAINED]
        size = 5 if line == ":" else 8
        axes[2].plot(places, means, line, color=color, marker=marker, markersize=size, label=reading)
    axes[2].set_xticks(list(places), ["start", "a quarter", "end"])
    axes[2].set(
        xlabel="stage of training", ylabel="mean over problems", ylim=(-0.02, 1.02), title="Confidence and success"
    )
    axes[2].legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return made, "Readings of one group of 8 against 32 other samples of each of 100 held-out problems; five seeds."


EXPERIMENT = Experiment(
    number=8,
    name="confidence",
    title="which entropy is confidence? Six readings on the language model",
    question="Which reading of confidence ranks problems as their true success rates do, has a range, and moves alpha?",
    paper="Confidence is one minus the normalised entropy of the candidate set; which distribution that is stays open. The "
    "author's code reads one plus the mean log-probability over log V ('likelihood' here).",
    theory="Log-probabilities per token of one group lie close together, so 'candidates' is near 0 whatever the policy knows; "
    "'target' reads the rewards and not the policy; 'anchored' is 0 on policy and is left out.",
    settings="Default configuration of the tiny model, 48 steps, seeds 10 to 14; after step 1, 12 and 48 one group of 8 for "
    "each of 100 held-out problems.",
    controls="The success rate is read off 32 other samples of each problem, so that no luck is in both.",
    rule="A reading qualifies if its rank correlation is above 0, beyond the interval, at all three stages, and its mean at "
    "the end lets alpha move by 0.05. 'tokens' stays the default unless another reading qualifies and 'tokens' does not, or "
    "the other's rank is above that of 'tokens', beyond the interval, at all three stages. The paper's candidate set as read "
    "off the candidates' log-probabilities holds if 'candidates' qualifies, and does not if alpha cannot move by 0.05 or a "
    "rank lies below 0.2 beyond the interval.",
    sweep="full/configs/experiments/confidence.yaml",
    judge=judge,
    draw=draw,
)
