"""Every claim that was tried, with its verdict and its key number read from the committed tables.

`CLAIMS` is the table at the head of notebook 12 and of notebooks/results/README.md (`python -m toys.experiments --claims`
writes the latter anew). A claim is in the words of whoever makes it; its verdict follows from a table by a rule, here or in
the experiment's file, so no sentence can drift away from the numbers.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import load
from .experiment import PAR, Verdict, on_a_par
from .sanity import KNOB_SEEDS
from .table import Row, Table

RESULTS = Path(__file__).parents[2] / "notebooks" / "results"
WHOSE = ("paper", "open in the paper", "ours")
NONE = math.nan
BEGIN, END = "<!-- claims: written by `python -m toys.experiments --claims` -->", "<!-- end of claims -->"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim.

    text: what is claimed.
    whose: one of `WHOSE`.
    experiment: the name of the experiment that tries it.
    judge: from its table to the verdict, whose sentence is the key number with its interval.
    """

    text: str
    whose: str
    experiment: str
    judge: Callable[[Table], Verdict]

    def __post_init__(self) -> None:
        if self.whose not in WHOSE:
            raise ValueError(f"whose is {self.whose!r}; expected one of {', '.join(WHOSE)}.")


def table_of(name: str) -> Table | None:
    """The committed table of an experiment; None while it has not been run."""
    path = RESULTS / f"{name}.csv"
    return Table.read(path) if path.is_file() else None


def of_experiment(name: str, sentence: Callable[[Table], str]) -> Callable[[Table], Verdict]:
    """The experiment's own verdict, with a shorter sentence."""

    def judge(table: Table) -> Verdict:
        verdict = load()[name].judge(table)
        return Verdict(verdict.answer, verdict.evidence, sentence(table))

    return judge


def _learns(table: Table) -> Verdict:
    first, *_, last = table.where(part="held-out contexts", rule="apo", metric="expected reward")
    adpo, grpo = table.one(metric="minus adpo"), table.one(metric="minus grpo")
    holds = last.low > first.high and max(abs(adpo.low), abs(adpo.high)) < 0.02
    return Verdict(
        "holds" if holds else "does not hold",
        "strong",
        f"held-out reward {first.mean:.3f} -> {last.interval}; minus ADPO {adpo.interval}, minus GRPO {grpo.interval}, "
        "all at one learning rate",
    )


def _one_knob(table: Table) -> Verdict:
    gaps = [row for row in table if row.part.startswith("one knob")]
    same = max(row.mean for row in gaps if abs(row.alpha / row.x - 3) < 1e-6)
    other = min(row.mean for row in gaps if abs(row.alpha / row.x - 3) > 1)
    return Verdict(
        "holds" if same < 1e-6 < 1e-2 < other else "does not hold",
        "strong",
        f"probabilities of runs with equal alpha/beta_r and unit steps differ by at most {same:.1e}, of twice the ratio "
        f"by {other:.3f}, over {KNOB_SEEDS} seeds",
    )


def _collapse(table: Table) -> str:
    guard = max((row for row in table if row.metric == "collapse at alpha_min 0.2 minus 0.4"), key=lambda row: row.mean)
    free = max((r for r in table if r.metric == "collapse at 0 minus 0.3" and "own" in r.part), key=lambda r: r.mean)
    matched = table.one(part=free.part.replace("own", "matched"), metric=free.metric, x=free.x)
    return (
        f"share of runs on a wrong arm, alpha_min 0.2 minus 0.4: at most {guard.interval}; a fixed alpha of 0 minus 0.3 "
        f"under large noise: {free.interval}, with steps of matched length {matched.interval}"
    )


def _guard(table: Table) -> str:
    rows = {row.part: row for row in table.where(rule="guard", metric="minus best fixed")}
    top = {row.part: row for row in table.where(rule="guard", metric="minus fixed 0.9")}
    return (
        f"guard minus best fixed alpha: lucky arms {rows['lucky'].interval}, good arms replaced {rows['switch'].interval}, "
        f"above 0 on {sum(row.low > 0 for row in rows.values())} of {len(rows)} tasks; minus fixed 0.9: "
        f"{top['lucky'].interval} and {top['switch'].interval}"
    )


def _returns(table: Table) -> Verdict:
    late = {row.rule: row for row in table.where(part="does alpha return", x=250)}
    guard, aware = late["guard"], late["guard, 2 standard errors"]
    near = [row.low > 0.85 for row in (guard, aware)]
    return Verdict(
        "holds" if near[0] else "holds with a condition" if near[1] else "does not hold",
        "strong",
        f"mean alpha over steps 200 to 300 for an alpha_max of 0.9, reward noise of sd 0.1: {guard.interval}; with a margin "
        f"of two standard errors (ours) {aware.interval}",
    )


def _unreliable(table: Table) -> str:
    naive = table.one(rule="naive guard", metric="alpha, late", x=1.0)
    aware = table.one(rule="guard, 2 standard errors", metric="alpha, late", x=1.0)
    outcome = table.one(part="own best lr, SNR 0.25", metric="minus the guard with 2 standard errors")
    return (
        f"late alpha at SNR 1: {naive.interval} for the paper's gate, {aware.interval} with a margin of two standard errors "
        f"(ours); reward at SNR 0.25, first minus second: {outcome.interval}"
    )


def _limited_impact(table: Table) -> Verdict:
    exact = max(row.high for row in table.where(rule="matched"))
    mixed, switch = (
        table.one(part=part, metric="alpha 0.9 minus 0")
        for part in ("D prompts of mixed difficulty", "C good arms replaced twice")
    )
    moves = mixed.low > 0 or switch.low > 0
    return Verdict(
        "does not hold" if exact > 1e-6 else "holds with a condition" if moves else "holds",
        "moderate",
        f"one prompt, steps of matched length: policies differ by {exact:.1e}; each alpha at its own best lr, 0.9 minus 0: "
        f"prompts of mixed difficulty {mixed.interval}, right answers that change {switch.interval}",
    )


def _regimes(table: Table) -> str:
    rows = {row.part: row for row in table.where(metric="alpha 0.9 minus 0")}
    return (
        f"from {rows['A lucky arms'].interval} (lucky arms) to {rows['C good arms replaced twice'].interval} (good arms "
        f"replaced); {_came_out(rows.values())} of {len(rows)} predictions came out"
    )


def _came_out(rows) -> int:
    def agrees(row: Row) -> bool:
        predicted = round(row.x)
        return row.low > 0 if predicted > 0 else row.high < 0 if predicted < 0 else max(-row.low, row.high) < 0.01

    return sum(agrees(row) for row in rows)


def _nulls(table: Table) -> str:
    rows = table.where(metric="alpha 0.9 minus 0")
    return "alpha 0.9 minus 0: " + ", ".join(
        f"{row.part.removeprefix('null: ')} {row.mean:.4f} [{row.low:.4f}, {row.high:.4f}]" for row in rows
    )


def _trust_region(table: Table) -> str:
    def ratio(optimizer: str, updates: int) -> str:
        row = table.one(part=f"{optimizer}, {updates} updates", metric="KL at tau 0.125 over KL at tau 2", alpha=0.6)
        mean, low, high = (f"{v:.3g}" if abs(v) >= 100 else f"{v:#.3g}" for v in (row.mean, row.low, row.high))
        return f"{mean} [{low}, {high}]"

    return (
        f"KL per batch at tau_anc 0.125 over that at 2, with one update: {ratio('sgd', 1)} for SGD, {ratio('adam', 1)} for "
        f"Adam; with 64: {ratio('sgd', 64)} and {ratio('adam', 64)}"
    )


def _noisy_gradients(table: Table) -> Verdict:
    raw, centred = (
        table.one(rule=rule, metric="slope of log variance, 0.01 to 0.03", x=8) for rule in ("uncentred", "centred")
    )
    clip = table.one(metric="collapse: minus alpha 0")
    return Verdict(
        "holds with a condition" if raw.high < -1.9 and abs(centred.mean) < 0.1 else "cannot be told",
        "strong",
        f"slope of log variance against log alpha, groups of 8: {raw.interval} for the formula as written, {centred.interval} "
        f"centred, which a group does by itself; holding alpha 0's weights to alpha 0.35's range changes its wrong collapse by "
        f"{clip.interval}",
    )


def _converges(table: Table) -> str:
    cases = sum(row.mean for row in table if row.metric == "cases")
    rises = sum(row.mean for row in table if row.metric == "cases in which V rises")
    flows = table.where(part="flows", metric="V rises")
    low, high = (
        table.one(part="out of reach", rule="switches for ever", metric=f"{end} mean, last two phases").mean
        for end in ("lowest", "highest")
    )
    return (
        f"the distance V to a target within reach rises in {rises:.0f} of {cases:,.0f} cases and "
        f"{sum(row.mean * row.seeds for row in flows):.0f} of {sum(row.seeds for row in flows):,} flows; out of reach a "
        f"switching alpha cycles between {low:.3f} and {high:.3f}"
    )


def _shaping(table: Table) -> Verdict:
    rows = [row for row in table if row.metric == "minus guard"]
    return Verdict(
        "holds" if all(row.low > -0.01 for row in rows) else "does not hold",
        "moderate",
        "alpha 0.9 with rewards shown as log(1 + 3 r)/3, minus the guard: "
        + ", ".join(f"{row.part.removeprefix('shaping, ')} {row.interval}" for row in rows),
    )


def _curriculum(table: Table) -> Verdict:
    rows = {row.rule: row for row in table.where(part="curriculum", metric="minus apo 0.9, all at once")}
    easy, plain = rows["grpo, easy first"], rows["grpo, all at once"]
    return Verdict(
        "holds" if easy.low > -0.01 else "does not hold" if easy.high < 0 else "cannot be told",
        "moderate",
        f"pass@8 minus that of alpha 0.9: GRPO with easy prompts first {easy.interval}, with all prompts at once "
        f"{plain.interval}",
    )


def _penalty(table: Table) -> Verdict:
    odds = table.where(part="fixed anchor")
    off = max(abs(row.mean - 0.5 / 0.3) for row in odds)
    return Verdict(
        "holds" if off < 0.02 else "does not hold",
        "strong",
        f"log odds at the end, for {len(odds)} pairs of alpha and group size, {odds[0].seeds} seeds each: "
        f"{min(r.mean for r in odds):.4f} to {max(r.mean for r in odds):.4f}, tau_anc/beta_r is {0.5 / 0.3:.4f}",
    )


def _gamble(table: Table) -> str:
    mean_0, mean_9 = (table.one(part="gamble over P", metric="expected reward", alpha=a, x=8) for a in (0.0, 0.9))
    sd_0, sd_9 = (table.one(part="gamble over P", metric="sd of the reward", alpha=a, x=8) for a in (0.0, 0.9))
    two = table.one(part="own best lr", rule="gamble, two-valued", metric="alpha 0.9 minus alpha 0")
    return (
        f"groups of 8, alpha 0.9 ends at mean {mean_9.interval}, sd {sd_9.mean:.3f}, alpha 0 at {mean_0.interval}, sd "
        f"{sd_0.mean:.3f}; with two values and own best lr, 0.9 minus 0: {two.interval}"
    )


def _threshold(table: Table) -> str:
    found, wanted = (table.one(part="switch, gamble", rule=rule, x=64) for rule in ("measured", "predicted"))
    harm = table.one(part="lucky arms, own best lr", metric="alpha 0.9 minus alpha 0")
    return (
        f"switch at groups of 64: alpha {found.interval}, predicted {wanted.mean:.3f}; lucky arms, own best lr, alpha 0.9 "
        f"minus 0: {harm.interval}"
    )


def _cap(table: Table) -> Verdict:
    rows = {row.part: row for row in table.where(rule="variance cap (ours)", metric="minus best fixed")}
    above, below = [r for r in rows.values() if r.low > 0], [r for r in rows.values() if r.high < 0]
    return Verdict(
        "holds with a condition" if above and not below else "does not hold",
        "moderate",
        f"minus best fixed alpha: {rows['exact, then a noisy judge'].interval} where an exact reward turns noisy (the case it "
        f"was made for), {rows['noise (SNR 0.25)'].interval} under steady noise; above 0 on {len(above)} of {len(rows)} "
        f"tasks, below on {len(below)}; widest: {rows['lucky, switch'].interval}",
    )


def _on_a_par(table: Table) -> Verdict:
    """On a par in pass@1 with two updates a batch, as in the paper; with a condition if only with one."""
    after = {
        metric: table.one(part="after", rule="grpo", metric=f"{metric} minus apo")
        for metric in ("pass@1", "greedy", "pass@8")
    }
    fresh = {
        metric: row
        for metric in after
        for row in table.where(part="after", rule="grpo-1", metric=f"{metric} minus apo-1")
    }
    row, alike = after["pass@1"], on_a_par(after["pass@1"])
    found = "holds with a condition" if on_a_par(fresh.get("pass@1")) else "does not hold"
    return Verdict(
        "holds" if alike else "cannot be told" if alike is None else found,
        "moderate" if row.seeds >= 5 and alike is not None else "weak",
        f"GRPO minus APO with alpha 0.9 (a par: pass@1 within {PAR}), two updates a batch: "
        + ", ".join(f"{metric} {gap.signed}" for metric, gap in after.items())
        + ("; with one: " + ", ".join(f"{metric} {gap.signed}" for metric, gap in fresh.items()) if fresh else ""),
    )


def _ratio_and_clip(table: Table) -> str:
    kinds = {"": "two updates a batch", "-4": "four", "-4-passes": "four passes over a batch"}
    found = []
    for kind, name in kinds.items():
        rows = [
            table.where(part="after", rule=f"apo-clip{kind}", metric=f"pass@1 minus {other}{kind}")
            for other in ("apo", "grpo")
        ]
        if all(rows):
            found.append(f"{name}, minus APO {rows[0][0].signed}, minus GRPO {rows[1][0].signed}")
    return f"APO with ratio and clip, pass@1: {'; '.join(found)}"


def _baselines(table: Table) -> str:
    kinds = {"-1": "one update", "": "two updates", "-4": "four updates"}
    found = [
        f"{name} {rows[0].signed}"
        for kind, name in kinds.items()
        if (rows := table.where(part="after", rule=f"grpo{kind}", metric=f"pass@1 minus apo{kind}"))
    ]
    found += [
        f"{metric}, two updates {rows[0].signed}"
        for metric in ("greedy", "pass@8")
        if (rows := table.where(part="after", rule="grpo", metric=f"{metric} minus apo"))
    ]
    return f"GRPO minus APO with alpha 0.9, each at its own rate: pass@1, {', '.join(found)}"


def _rare_successes(table: Table) -> Verdict:
    """Rare successes get a larger share of APO's gradient than of GRPO's, in the first quarter of the steps."""
    gap = table.one(part="first", rule="grpo-4", metric="push_hard minus apo-4")
    apo, grpo = (table.one(part="first", rule=arm, metric="push_hard") for arm in ("apo-4", "grpo-4"))
    apart = gap.low > 0 or gap.high < 0
    return Verdict(
        "holds" if gap.high < 0 else "does not hold" if apart else "cannot be told",
        "moderate" if gap.seeds >= 5 and apart else "weak",
        "share of the push on prompts solved by at most a quarter of a group, first 20 steps, four updates a batch: APO with "
        f"alpha 0.9 {apo.interval}, GRPO {grpo.interval}, GRPO minus APO {gap.signed}",
    )


def _stale_bandit(table: Table) -> str:
    parts = {
        "later mini-batches": "mixed prompts, 2 mini-batches, own best lr",
        "the same samples again": "graded, 4 updates on the same samples, own best lr",
    }
    return "ratio and clip minus none, own best lr: " + ", ".join(
        f"{name} {table.one(part=part, rule='clip', metric='minus none').signed}" for name, part in parts.items()
    )


def _partial_credit(table: Table, tasks: Sequence[str] = ("digits", "closeness")) -> str:
    def gap(task: str, metric: str) -> str:
        return table.one(part="last", rule=f"{task}-0.9", metric=f"{metric} minus {task}-0.0").signed

    return "alpha 0.9 minus 0: " + "; ".join(
        f"{task}: mean reward {gap(task, 'reward')}, risk {gap(task, 'risk')}" for task in tasks
    )


def _candidate_set(table: Table) -> str:
    first, last = (table.one(part=stage, metric="rank candidates") for stage in ("first", "last"))
    tokens = table.one(part="last", metric="rank tokens")
    return (
        f"rank correlation of its confidence with the success rate: {first.signed} at the start, {last.signed} at the end; "
        f"of the token entropy's (our default) {tokens.signed} at the end"
    )


def _candidate_set_bandit(table: Table) -> str:
    first, last = (table.one(part=stage, rule="candidates", metric="rank") for stage in ("first", "last"))
    lowest = table.one(part="guarded by it", rule="candidates", metric="alpha, lowest")
    return (
        f"rank correlation of its confidence with the success rate: {first.signed} at the start, {last.signed} at the end; "
        f"lowest alpha of a guard that reads it: {lowest.interval}, of a maximum of 0.9"
    )


CLAIMS = (
    Claim(
        text="a fixed alpha of 0.6 learns, and comes out close to ADPO-softmax",
        whose="paper", experiment="sanity", judge=_learns,
    ),
    Claim(
        text="on policy with one update, alpha and beta_r turn a prompt's gradient through alpha/beta_r alone",
        whose="ours", experiment="sanity", judge=_one_knob,
    ),
    Claim(
        text="an alpha_min below 0.3 makes the policy collapse (for sparse binary rewards)",
        whose="paper", experiment="alpha_min", judge=of_experiment("alpha_min", _collapse),
    ),
    Claim(
        text="the guarded schedule does at least as well as a fixed alpha",
        whose="paper", experiment="schedules", judge=of_experiment("schedules", _guard),
    ),
    Claim(
        text="alpha returns to alpha_max when improvement stalls",
        whose="paper", experiment="schedules", judge=_returns,
    ),
    Claim(
        text="a cap on alpha by the variance of the reward beats the best fixed alpha",
        whose="ours", experiment="schedules", judge=_cap,
    ),
    Claim(
        text="APO is on a par with GRPO",
        whose="paper", experiment="stale_update", judge=_on_a_par,
    ),
    Claim(
        text="what APO lacks in the later updates of a batch are the importance ratio and PPO's clip",
        whose="ours", experiment="stale_update", judge=of_experiment("stale_update", _ratio_and_clip),
    ),
    Claim(
        text="APO is on a par with GRPO, each at its own learning rate",
        whose="paper", experiment="baselines", judge=of_experiment("baselines", _baselines),
    ),
    Claim(
        text="prompts that are rarely solved get more of APO's gradient than of GRPO's",
        whose="ours", experiment="stale_update", judge=_rare_successes,
    ),
    Claim(
        text="ratio and clip help after updates on other prompts, and cost on the same samples again",
        whose="ours", experiment="stale_update_bandit", judge=of_experiment("stale_update_bandit", _stale_bandit),
    ),
    Claim(
        text="alpha stays near alpha_max while the reward is unreliable",
        whose="paper", experiment="reward_noise", judge=of_experiment("reward_noise", _unreliable),
    ),
    Claim(
        text="where a sure reward competes with a gamble, a larger alpha/beta_r buys variance and pays with the mean",
        whose="ours", experiment="graded", judge=of_experiment("graded", _gamble),
    ),
    Claim(
        text="a language model with partial credit, too, pays for a larger alpha with the mean",
        whose="ours", experiment="graded_model", judge=of_experiment("graded_model", _partial_credit),
    ),
    Claim(
        text="so does SmolLM2 on a graded task of reasoning-gym",
        whose="ours", experiment="graded_smollm2",
        judge=of_experiment("graded_smollm2", lambda table: _partial_credit(table, ["spell"])),
    ),
    Claim(
        text="with binary rewards the choice of divergence has limited impact",
        whose="paper", experiment="when_alpha_matters", judge=_limited_impact,
    ),
    Claim(
        text="where alpha changes the outcome, and in which direction, can be predicted",
        whose="ours", experiment="when_alpha_matters", judge=of_experiment("when_alpha_matters", _regimes),
    ),
    Claim(
        text="three more settings in which alpha changes nothing (a difference below 0.01)",
        whose="ours", experiment="nulls", judge=of_experiment("nulls", _nulls),
    ),
    Claim(
        text="the entropy of the candidate set is confidence",
        whose="paper", experiment="confidence", judge=of_experiment("confidence", _candidate_set),
    ),
    Claim(
        text="the entropy of the candidate set is confidence (tried on a bandit)",
        whose="paper", experiment="confidence_bandit", judge=of_experiment("confidence_bandit", _candidate_set_bandit),
    ),
    Claim(
        text="tau_anc is a trust region: a smaller one holds the policy closer to its anchor",
        whose="paper", experiment="anchor", judge=of_experiment("anchor", _trust_region),
    ),
    Claim(
        text="a fixed anchor is a KL penalty: the limit is the same for every alpha and group size",
        whose="ours", experiment="combinations", judge=_penalty,
    ),
    Claim(
        text="a shaped reward can stand in for the schedule",
        whose="open in the paper", experiment="combinations", judge=_shaping,
    ),
    Claim(
        text="a curriculum from easy to hard can stand in for alpha",
        whose="open in the paper", experiment="combinations", judge=_curriculum,
    ),
    Claim(
        text="descent converges while alpha moves",
        whose="open in the paper", experiment="convergence", judge=of_experiment("convergence", _converges),
    ),
    Claim(
        text="gradients grow noisy as alpha falls; clip the weights",
        whose="paper", experiment="gradient_noise", judge=_noisy_gradients,
    ),
    Claim(
        text="alpha is a risk attitude, with a threshold that theory gives without a fit",
        whose="ours", experiment="risk_attitude", judge=of_experiment("risk_attitude", _threshold),
    ),
)  # fmt: skip


def heading(name: str) -> str:
    """The heading of an experiment's section in notebook 12, whose anchor the table of claims links to."""
    return f"{load()[name].number} {name.replace('_', ' ')}"


def greek(text: str) -> str:
    """The names of the code as symbols, for pages that are read as text: "alpha_min" -> "\N{GREEK SMALL LETTER ALPHA}_min"."""
    symbols = {
        "alpha": "\N{GREEK SMALL LETTER ALPHA}",
        "beta_r": "\N{GREEK SMALL LETTER BETA}_r",
        "tau_anc": "\N{GREEK SMALL LETTER TAU}_anc",
        "->": "\N{RIGHTWARDS ARROW}",
    }
    for name, symbol in symbols.items():
        text = re.sub(rf"(?<![\w]){re.escape(name)}(?![a-z])", symbol, text)
    return re.sub(r"(?<![\w.])-(?=\d)", "\N{MINUS SIGN}", text)


def lines(link: Callable[[Claim], str], words: Callable[[str], str] = str) -> list[str]:
    """The table of claims in Markdown; a claim whose experiment has no table yet says so.

    link: makes the last column.  words: how the text is shown, e.g. `greek`.
    """
    rows = [
        "| claim | whose | verdict | evidence | key number | seeds | experiment |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for claim in CLAIMS:
        table = table_of(claim.experiment)
        verdict = claim.judge(table) if table else None
        experiment = load()[claim.experiment]
        where = "bandits" if experiment.kind == "bandit" else experiment.model
        said = ("not run yet", "", "", "")
        if table and verdict:
            seeds = ", ".join(map(str, table.behind(verdict.sentence)))
            said = (verdict.answer, f"{verdict.evidence}, on {where}", verdict.sentence, seeds)
        rows.append(f"| {words(' | '.join((claim.text, claim.whose, *said)))} | {link(claim)} |")
    return rows


def with_claims(page: str) -> str:
    """The page with its table of claims written anew, between the two marks.

    Raises:
        ValueError: the page lacks a mark.
    """
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise ValueError(
            f"the page has {page.count(BEGIN)} of {BEGIN!r} and {page.count(END)} of {END!r}; expected one each."
        )
    before, rest = page.split(BEGIN)

    def link(claim: Claim) -> str:
        name = claim.experiment
        return f"[{name}]({name}.csv)" if (RESULTS / f"{name}.csv").is_file() else name

    table = "\n".join(lines(link, greek))
    return f"{before}{BEGIN}\n{table}\n{END}{rest.split(END)[1]}"
