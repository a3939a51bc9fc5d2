"""Every number that a run writes: what it means, its unit, the range it must lie in, and what is normal.

Plain data, read by the run's page (`full/page.py`). A bound is a number, or the name of the option that sets it.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from apo_edu import LIMITS

INF = math.inf
CLIPPED_MEANS = (
    "A clipped gradient has the length max_grad_norm whatever the objective's scale: tau_anc then has no effect on a batch's "
    "first update, and alpha and beta_r act through directions and the weights between prompts alone."
)


class Entry(NamedTuple):
    """What one metric means. `low` and `high` bound every value; `normal` says what a healthy run shows."""

    meaning: str
    unit: str
    low: float | str
    high: float | str
    normal: str


# metrics.jsonl, one object per optimiser step.
METRICS = {
    "step": Entry("Optimiser steps taken.", "steps", 1, "steps", "Rises by 1."),
    "batch": Entry(
        "The batch of samples that the step learned from, counted from 0.", "", 0, INF,
        "Rises by 1 every prompts_per_batch / mini_batch_prompts x epochs steps.",
    ),
    "reward_mean": Entry(
        "Mean reward of the step's completions.", "reward", -INF, INF,
        "Rises, with noise of about reward_se. accuracy lies in 0 to 1, the repetition penalty in -1 to 0.",
    ),
    "reward_std": Entry("Standard deviation of the step's rewards.", "reward", 0, INF, "0: there is nothing to learn from."),
    "reward_se": Entry(
        "Standard error of reward_mean, over prompts.", "reward", 0, INF,
        "A difference between two steps below twice this is noise.",
    ),
    "groups_with_signal": Entry(
        "Fraction of prompts whose completions differ in reward; the others teach nothing.", "", 0, 1,
        f"{LIMITS.with_signal:g} to 1; falls when problems become all solved, or are never solved.",
    ),
    "alpha": Entry(
        "Order of the divergence, set by the schedule: 1 covers modes, 0 seeks them. Objectives without alpha ignore it.", "",
        0, 1,
        "guarded: at alpha_max, and below it only while confidence and improvement are both above 0.",
    ),
    "confidence": Entry(
        "The schedule's c_t: 1 minus the normalised entropy of what confidence_from names.", "", 0, 1,
        "Always 0 on policy for confidence_from anchored; near 0 for candidates; high for tokens.",
    ),
    "improvement": Entry(
        "The schedule's p_t: tanh of the reward's gain over its moving average; 0 for other schedules.", "", 0, 1,
        "Often 0. Never 0 with noise_guard 0 can be noise that reads as gain.",
    ),
    "candidate_entropy": Entry(
        "Normalised entropy of the policy restricted to the completions it sampled.", "", 0, 1,
        "Near 1 with logp_reduction mean, since means over tokens are close to each other.",
    ),
    "token_entropy": Entry(
        "Entropy of the policy's next-token distribution, mean over the completions' tokens.", "nats", 0, INF,
        "Falls slowly while the reward rises. A fall without gain is collapse; 0 leaves nothing to explore.",
    ),
    "completion_length": Entry(
        "Mean length of the completions, the end of sequence included.", "tokens", 1, "max_completion_tokens",
        "Steady. A rise to the limit without gain is rambling.",
    ),
    "truncated_fraction": Entry(
        "Fraction of completions cut off at max_completion_tokens.", "", 0, 1,
        f"Below {LIMITS.truncated:g}; above it, right answers may be lost: raise max_completion_tokens.",
    ),
    "verify_timeouts": Entry(
        "Answers whose comparison hit a limit (verify_seconds of CPU time, memory, the batch's); they count as wrong.",
        "answers", 0, INF, "Near 0. Many are a policy that writes what no algebra can evaluate, or a limit that is too small.",
    ),
    "verify_deaths": Entry(
        "Verifying workers that died of anything else and were replaced; their questions were asked again.", "workers", 0,
        INF, "0. Else something ends processes (the machine's memory, a job's limit); rewards are not affected.",
    ),
    "tokens": Entry("Completion tokens that the step learned from, over all processes.", "tokens", 1, INF, ""),
    "loss": Entry(
        "Value of the objective.", "nats for apo and adpo", -INF, INF,
        "No measure of progress. On policy it is a constant and the gradient is not zero: apo gives the distance of the "
        "target from even, adpo log(group_size), grpo 0.",
    ),
    "grad_norm": Entry(
        "Norm of the gradient before it is clipped to max_grad_norm.", "", 0, INF,
        f"Above 0 on the first update too. A spike of {LIMITS.spike:g} times the median is instability. {CLIPPED_MEANS}",
    ),
    "clip_fraction": Entry(
        "Fraction of tokens whose probability ratio is clipped, so that they have no gradient.", "", 0, 1,
        "Always 0 on the first update of a batch, and always for apo and adpo without off_policy clip. Else below "
        f"{LIMITS.clipped:g}; gspo, whose range is narrow, clips more.",
    ),
    "kl_old": Entry(
        "Estimated KL divergence of the policy from the one that sampled, per token.", "nats", 0, INF,
        f"0 on the first update of a batch; on later ones below {LIMITS.kl_old:g}, else take fewer updates or a smaller lr.",
    ),
    "ess": Entry(
        "Effective sample size of the weights q^alpha p^(1-alpha) in a group: how many completions apo's gradient rests on.",
        "completions", 1, "group_size", f"Above {LIMITS.ess:g}. group_size means even weights: on policy, equal rewards.",
    ),
    "push_hard": Entry(
        "Share of the push, the sum of |coefficient| over tokens, on prompts that at most a quarter of the group got right "
        "(got the group's highest reward).", "", 0, 1,
        "Falls as prompts are learned. apo with a large alpha gives rare successes more than grpo does.",
    ),
    "push_easy": Entry(
        "Share of the push on prompts that at least three quarters of the group got right, but not all.", "", 0, 1,
        "Rises as prompts are learned.",
    ),
    "push_idle": Entry(
        "Share of the push on prompts whose completions all got the same reward.", "", 0, 1,
        "0 on the first update of a batch, up to rounding; later apo and adpo pull such groups back to the anchor.",
    ),
    "log_ratio_max": Entry(
        "Largest |log q/p| of the step, between target and anchored policy.", "nats", 0, INF,
        f"A few nats on the first update (spread of rewards / beta_r); above {LIMITS.log_ratio:g} is extreme.",
    ),
    "mismatch_mean": Entry(
        "Mean |log-probability by the engine that sampled - by the policy| over sampled tokens.", "nats", 0, INF,
        f"Rounding: below {LIMITS.mismatch:g} in float32, below {LIMITS.mismatch_half:g} in bfloat16.",
    ),
    "mismatch_max": Entry(
        "Largest such difference of the step.", "nats", 0, INF,
        f"Below {LIMITS.mismatch_broken:g} in float32; can reach 1 in bfloat16.",
    ),
    "importance_mean": Entry(
        "Mean over tokens of the importance weight, cut off at importance_cap, that corrects the engine's mismatch.", "",
        0, "importance_cap", "Within 0.01 of 1.",
    ),
    "rows_with_gradient": Entry(
        "Fraction of completions that have a gradient; the others are left out of the backward pass.", "", 0, 1,
        "About groups_with_signal on a batch's first update; later apo and adpo pull every completion to the anchor.",
    ),
    "padding_fraction": Entry(
        "Fraction of the token places of the update's forward passes that hold padding.", "", 0, 1,
        "Costs time, changes nothing.",
    ),
    "out_of_memory": Entry(
        "How often memory ran out and generation_rows or micro_batch_tokens was halved, over all processes, since the run was "
        "last started.", "times", 0, INF,
        "0. Else start the next run with the values that the console named; the results are the same but for rounding.",
    ),
    "overflows": Entry(
        "How often the gradient overflowed float16's range and was computed again with half the scale; 0 in other precisions.",
        "times", 0, INF, "A few on the first step, then 0. No step is lost to them, each takes as long as an update.",
    ),
    "lr": Entry("Learning rate of the step.", "", 0, "lr", "Warms up over warmup_steps, then follows lr_schedule."),
    "tokens_per_second": Entry("Completion tokens learned from per second of the step.", "tokens/s", 0, INF, "Steady."),
    "seconds_generate": Entry("Sampling, rewards and scoring: the step's share of its batch.", "s", 0, INF, ""),
    "seconds_update": Entry("The optimiser step itself.", "s", 0, INF, ""),
    "seconds_step": Entry("Both together, without evaluations and checkpoints.", "s", 0, INF, ""),
    "eval_pass@1": Entry(
        "Held-out accuracy of a sampled completion.", "", 0, 1, f"Rises by more than {LIMITS.gain:g} standard errors."
    ),
    "eval_pass@k": Entry(
        "Held-out problems of which at least one of k samples is right, estimated without bias.", "", 0, 1,
        "At least pass@1. If pass@1 rises and this does not, the policy sharpens.",
    ),
    "eval_maj@k": Entry("Held-out accuracy of the most frequent answer among k samples.", "", 0, 1, "Usually at least pass@1."),
    "eval_greedy": Entry("Held-out accuracy of the likeliest completion, token by token.", "", 0, 1, "Often above pass@1."),
    "eval_truncated_fraction": Entry(
        "Fraction of the sampled evaluations that did not come to an end; they count as they are.", "", 0, 1,
        f"Below {LIMITS.truncated:g}."
    ),
    "eval_unanswered_fraction": Entry(
        "Fraction of the sampled evaluations without a boxed answer, which count as wrong.", "", 0, 1,
        "Falls towards 0 early: much of a first gain is the format.",
    ),
    "eval_n": Entry("Held-out problems evaluated.", "problems", 1, "eval_problems", "The same at every evaluation."),
    "eval_k": Entry("Sampled completions per held-out problem.", "completions", 1, "eval_samples", "eval_samples."),
}  # fmt: skip


# summary.json, once at the end.
SUMMARY = {
    "eval_before": Entry("Evaluation before the first step; its numbers are named as in metrics.jsonl.", "", -INF, INF, ""),
    "eval_after": Entry("The same after the last step, on the same problems.", "", -INF, INF, ""),
    "steps": Entry("Optimiser steps in all.", "steps", 1, "steps", ""),
    "seconds": Entry(
        "Wall time from the first evaluation to the last step, summed over all starts of the run. Loading and the evaluation "
        "after the last step are not in it, nor what a kill took back.", "s", 0, INF, "",
    ),
    "peak_memory_bytes": Entry(
        "Peak memory of the main process: of its GPU, or of the process on a CPU.", "bytes", 0, INF, ""
    ),
    "seed": Entry("Seed of everything random.", "", 0, INF, ""),
    "tracker_url": Entry("Where the tracker shows the run; none without one that has pages.", "", -INF, INF, ""),
    "objective": Entry("What was minimised.", "", -INF, INF, ""),
    "schedule": Entry("Schedule of alpha.", "", -INF, INF, ""),
}  # fmt: skip


def entry(name: str) -> Entry | None:
    """The entry of a key of metrics.jsonl or summary.json; None if there is none.

    eval_pass@8 is looked up as eval_pass@k, and KEY_se and KEY_ci are the standard error and the interval of KEY.
    """
    key = re.sub(r"@\d+", "@k", name)
    found = METRICS.get(name) or METRICS.get(key) or SUMMARY.get(name)
    if found or not key.endswith(("_se", "_ci")):
        return found
    base = name[:-3]
    if entry(base) is None:
        return None
    if name.endswith("_se"):
        return Entry(f"Standard error of {base}, over problems.", "", 0, 0.5, "About 0.5 / sqrt(n) or less.")
    return Entry(f"95 % interval of {base}, by bootstrap over problems.", "", 0, 1, "Two numbers, around the value.")


def bounds(found: Entry, options: Mapping[str, Any]) -> tuple[float, float]:
    """The range of an entry as numbers, for a run with these options."""
    low, high = (options[bound] if isinstance(bound, str) else bound for bound in (found.low, found.high))
    return float(low), float(high)


def outside(values: list[float], low: float, high: float) -> list[float]:
    """The finite values that lie outside a range by more than float32's rounding."""
    slack = [1e-5 * max(1.0, abs(bound)) if math.isfinite(bound) else 0.0 for bound in (low, high)]
    return [value for value in values if math.isfinite(value) and not low - slack[0] <= value <= high + slack[1]]
