"""Examine a set-up in under a minute instead of training: `accelerate launch full/train.py ... --doctor`.

What costs people days can be seen before the first step: a prompt that is not what was meant, completions cut off before
their answer, rewards that are all equal, an engine that samples from another distribution, a run that needs more memory or
time than there is. Nothing is written and no weight is changed.

`diagnose` yields one section after the other, with its numbers, so that they can be read by a program; `examine` prints
them. What is measured comes from full/doctor/measure.py; here it is judged.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from apo_edu import LIMITS, palette
from apo_edu.schedules import SCHEDULES, Signals
from full.config import TrainConfig, filled
from full.doctor.measure import (
    Drawn,
    FirstUpdate,
    Memory,
    Scored,
    Speed,
    arithmetic,
    compare_with_policy,
    draw,
    estimate,
    first_update,
    memory_before,
)
from full.errors import UserError
from full.report.glossary import CLIPPED_MEANS
from full.trainer.batches import BatchPlan
from full.trainer.floor import GPUS
from full.trainer.memory import SHARE_OF_GPU
from full.trainer.outlook import Disk, disk_of
from full.trainer.state import Trainer
from full.units import duration, size

COLORS = {"ok": palette.GREEN, "look": palette.ORANGE, "stop": palette.VERMILION}  # from good to bad


# Shares of the memory there is: above the first a run may fail, above the second it will.
TIGHT, FULL = SHARE_OF_GPU, 1.0


# Seconds above which a run is called long.
LONG = 3 * 86400


# So many groups without any signal, or completions without any box, are no bad luck: were 10 % otherwise, one in 30 times.
SURE = 32


class NotReady(UserError):
    """Something must be mended before a run is worth its time."""

    code = 1


@dataclass
class Section:
    """One part of the examination.

    facts: (label, text).
    remarks: (verdict, advice).
    values: the numbers behind them.
    """

    title: str
    facts: list[tuple[str, str]] = field(default_factory=list)
    remarks: list[tuple[str, str]] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)

    def fact(self, label: str, text: str) -> None:
        self.facts.append((label, text))

    def look(self, text: str, *, stop: bool = False) -> None:
        """Add a remark; with `stop` one that must be mended before a run."""
        self.remarks.append(("stop" if stop else "look", text))

    @property
    def verdict(self) -> str:
        """The worst of its remarks."""
        return worst(verdict for verdict, _ in self.remarks)


def worst(verdicts: Iterator[str]) -> str:
    """The worst of some verdicts; "ok" of none."""
    return max(verdicts, key=list(COLORS).index, default="ok")


def diagnose(trainer: Trainer) -> Iterator[Section]:
    """Every section in turn; measures on the way."""
    config, tokenizer = trainer.config, trainer.engine.tokenizer
    yield prompt_section(config, tokenizer, trainer.problems[0]["prompt"], trainer.rendered, trainer.prompts)
    yield ends_section(tokenizer, trainer.engine.eos_ids)
    yield plan_section(config, trainer.plan, len(trainer.problems))
    memory, speed = memory_before(trainer), Speed()
    try:
        drawn = draw(trainer, speed, rows_that_fit=memory.plan.rows_that_fit if memory.plan.rows else math.inf)
        yield samples_section(config, drawn)
        scored = compare_with_policy(trainer, drawn, speed)
        first = first_update(trainer, drawn, memory, speed, token_entropy=scored.token_entropy)
    except torch.OutOfMemoryError as error:
        if trainer.accelerator.num_processes > 1:  # the others wait for this one
            raise
        yield memory_section(config, memory, failure=" ".join(str(error).split())[:120])
        return
    yield first_update_section(config, scored, first)
    yield schedule_section(config, first.signals, drawn.rollout.rewards)
    yield memory_section(config, memory)
    yield disk_section(config, disk_of(trainer))
    seconds = estimate(trainer, drawn, speed)
    yield time_section(config, seconds, measured=first.grad_norm is not None, floor=arithmetic(trainer, drawn, seconds))


def prompt_section(
    config: TrainConfig, tokenizer: Any, messages: Any, rendered: str, prompts: Sequence[Any]
) -> Section:
    """One prompt as the model sees it, the lengths of all, and what thinking does to the template."""
    section = Section("Prompt")
    lengths = [len(ids) for ids in prompts]
    off, on = (
        tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, enable_thinking=choice)
        for choice in (False, True)
    )
    section.values = {"longest": max(lengths), "thinking_heeded": on != off}
    section.fact("the first prompt", rendered)
    shortest, longest = min(lengths), max(lengths)
    spread = f"{shortest:,} to {longest:,}" if shortest < longest else f"{longest:,}"
    section.fact(
        "tokens",
        f"{lengths[0]:,}; over {plural(len(lengths), 'problem')} {spread}, where {config.max_prompt_tokens:,} are allowed",
    )
    switch = "heeds the switch" if on != off else "has no such switch"
    section.fact("thinking", f"{'on' if config.thinking else 'off'}; the chat template {switch}")
    if config.thinking and on == off:
        section.look(
            "thinking is true, but the prompt is the same without it. Take a model whose chat template reads "
            "enable_thinking, or leave --thinking out."
        )
    return section


def ends_section(tokenizer: Any, eos_ids: Sequence[int]) -> Section:
    """Which tokens end a completion, which one pads, and whether the template's own end is among them."""
    section = Section("End of sequence")
    pad, own = tokenizer.pad_token_id, end_of_an_answer(tokenizer)
    section.values = {"eos_ids": list(eos_ids), "pad_is_eos": pad is None or pad in eos_ids, "template_end": own}
    section.fact("tokenizer", named(tokenizer, tokenizer.eos_token_id))
    further = [named(tokenizer, i) for i in eos_ids if i != tokenizer.eos_token_id]
    section.fact("generation_config", "also " + ", ".join(further) if further else "no other")
    section.fact("chat template", f"ends an answer with {named(tokenizer, own)}")
    fine = "; an end too, which is fine: masks go by position, so the end is trained and padding is not"
    section.fact("padding", named(tokenizer, pad) + (fine if section.values["pad_is_eos"] else ""))
    if not eos_ids:
        section.look("nothing ends a completion. Set eos_token_id in the model's generation_config.json.", stop=True)
    elif own is not None and own not in eos_ids:
        section.look(
            f"{named(tokenizer, own)} does not end a completion here: a model that follows its chat template runs on. Add "
            "it to eos_token_id in the model's generation_config.json."
        )
    return section


def plan_section(config: TrainConfig, plan: BatchPlan, num_problems: int) -> Section:
    """The arithmetic of batches, so that nobody has to do it."""
    section = Section("Batches")
    prompts, group, updates, minis, batches = plan.prompts, plan.group, plan.updates, plan.mini_batches, plan.batches
    processes = plan.processes
    section.values = {
        "completions_per_batch": plan.completions,
        "mini_batches": minis,
        "updates_per_batch": updates,
        "batches": batches,
        "passes": plan.passes(num_problems),
        "prompts_per_process": prompts // processes,
    }
    share = f"; {plural(prompts // processes, 'prompt')} on each of {processes} processes" if processes > 1 else ""
    section.fact("one batch", f"{prompts:,} prompts x {group} = {plan.completions:,} completions{share}")
    section.fact(
        "its updates",
        f"{plural(minis, 'mini-batch', 'mini-batches')} of {plural(config.mini_batch_prompts, 'prompt')} x "
        f"{plural(config.epochs, 'epoch')} = {plural(updates, 'optimiser step')}",
    )
    section.fact(
        "the run",
        f"{plural(config.steps, 'step')} = {plural(batches, 'batch', 'batches')}, {batches * prompts:,} prompts: "
        f"{plan.passes(num_problems):.2f} passes over {plural(num_problems, 'problem')}",
    )
    objective = config.objective_record
    if not objective.clips and not stops_far_pushes(config):
        clipping = "nothing is clipped; clip_fraction is always 0"
        if updates == 1 and objective.reads("tau_anc"):
            clipping += ". With one update per batch u is 0 in each, and tau_anc only scales the gradient"
    elif updates == 1:
        clipping = "one update per batch: every ratio is 1, clip_fraction always 0, and GSPO is GRPO"
    else:
        clipping = "from the second update of a batch on; on the first every ratio is 1 and clip_fraction 0"
    section.fact("clipping", clipping)
    if (updates >= 4 or config.epochs > 1) and objective.reads("off_policy") and config.off_policy == "none":
        section.look(
            f"{config.objective} takes the samples of later updates for the policy's own, and over four passes the tiny model "
            "hardly learned that way (experiment 4). Take --off_policy clip."
        )
    if plan.unused_updates:
        section.look(
            f"the last batch serves {updates - plan.unused_updates} of its {updates} updates. Take --steps "
            f"{batches * updates} to use it up."
        )
    return section


def stops_far_pushes(config: TrainConfig) -> bool:
    """Whether tokens whose ratio has gone far enough are left out of an objective that has no clip of its own."""
    return config.off_policy == "clip"


def samples_section(config: TrainConfig, drawn: Drawn) -> Section:
    """Lengths, rewards and boxes, and what to change where they teach nothing."""
    n, most, rewards = drawn.numbers, config.max_completion_tokens, drawn.rollout.rewards
    section = Section("Samples", values=dict(n))
    which = "the whole first batch" if drawn.whole else "from the first batch"
    section.fact("sampled", f"{plural(round(n['groups']), 'prompt')} x {config.group_size} completions, {which}")
    section.fact("length", f"{n['mean_length']:.0f} tokens on average, {n['longest']:.0f} at most")
    unended = 1 - n["ended"]
    if drawn.limit < most:
        cut = f"unknown: {unended:.0%} had not ended after {drawn.limit:,} of {most:,} tokens, where the doctor stopped"
    else:
        cut = f"{n['truncated']:.0%} at max_completion_tokens {most:,}"
    section.fact("truncated", cut)
    section.fact(
        "reward", f"{n['reward_mean']:.3f} on average, standard deviation within a group {n['std_within']:.3f}"
    )
    section.fact("signal", f"{n['with_signal']:.0%} of the groups: their rewards differ")
    section.fact("box", f"{n['boxed']:.0%} of the completions have one")
    shown = {"one of the best": int(rewards.argmax()), "one of the worst": int(rewards.argmin())}
    if len(rewards.unique()) == 1:
        shown = {"the first": 0, "the last": len(rewards) - 1}
    for label, i in shown.items():
        section.fact(label, f"reward {rewards[i]:.3g}: {shorten(drawn.texts[i])}")

    verified = any(reward.startswith("accuracy") for reward in config.reward)
    if n["truncated"] > LIMITS.truncated:
        early = " before they gave an answer" if n["boxed"] < LIMITS.boxed else ""
        instead = ", or take --thinking false" if config.thinking else ""
        section.look(
            f"{n['truncated']:.0%} of the completions are cut off{early}. Raise "
            f"--max_completion_tokens (now {most:,}){instead}. --truncated mask leaves them out of their groups.",
            stop=verified and n["truncated"] > LIMITS.truncated_most,
        )
    too_short = drawn.limit < most and unended > LIMITS.truncated
    if too_short:
        section.look(
            "a minute is too short here to sample to the end, so these rewards say little. Watch truncated_fraction and "
            "groups_with_signal in the first steps."
        )
    if n["thinking"] > LIMITS.thinking and not config.thinking:
        section.look(
            f"{n['thinking']:.0%} of the completions think although thinking is false. Take a model that can leave it, or "
            "room for it: --max_completion_tokens 4096 or more."
        )
    if verified and n["ended"] > 0 and n["boxed_of_ended"] < LIMITS.boxed and not too_short:
        section.look(
            f"{n['boxed_of_ended']:.0%} of the completions that ended have a \\boxed{{}}; the others are wrong whatever they "
            "say. Ask for it in the problem, or reward it for a while: --reward accuracy format --reward_weights 1 0.1",
            stop=n["boxed_of_ended"] == 0 and n["ended"] * n["completions"] >= SURE,
        )
    if n["with_signal"] < LIMITS.with_signal and not too_short:
        found = "no group has a signal" if n["with_signal"] == 0 else "few groups have a signal"
        section.look(
            f"{found}, and without one there is nothing to learn from. {why_equal(config, n)}",
            stop=n["with_signal"] == 0 and n["groups"] >= SURE,
        )
    return section


def why_equal(config: TrainConfig, numbers: Mapping[str, float]) -> str:
    """Advice on groups whose rewards are equal."""
    if numbers["truncated"] > 1 - LIMITS.boxed:
        return "Mend the truncation first."
    if numbers["reward_mean"] > 0.5 * numbers["reward_max"] > 0:
        return f"The problems look too easy: take a harder --level (now {config.level}) or other data."
    return f"The problems look too hard: take an easier --level (now {config.level}), a larger --group_size, graded rewards."


def first_update_section(config: TrainConfig, scored: Scored, first: FirstUpdate) -> Section:
    """Whether the policy is its own anchor before the first step, and whether it would learn."""
    section = Section("First update", values={**scored._asdict(), **first._asdict()})
    section.fact(
        "engine and policy",
        f"log-probabilities differ by {scored.mean:.1e} nats per token, {scored.max:.1e} at most, over {scored.tokens:,} "
        "tokens",
    )
    if scored.adapters is not None:
        section.fact("adapters on and off", f"log-probabilities differ by {scored.adapters:.1g} nats; 0 is expected")
    section.fact(
        "kl_old", f"{first.kl_old:.1g}: the policy is its own anchor (u = 0), and p_theta uniform over a group"
    )
    section.fact("loss", f"{first.loss:.4g}, a constant on the first update: {config.objective_record.first_loss}")
    if first.grad_norm is None:
        section.fact("gradient norm", f"not taken: {first.reason}")
    else:
        rewards = " and rewards made up here, as the real ones give none" if first.made_up else ""
        section.fact(
            "gradient norm", f"{first.grad_norm:.3g}, not zero, on {plural(first.completions, 'completion')}{rewards}"
        )
        section.fact("step length", step_length(config, first.grad_norm))
    # In float32 sampling and scoring agree to rounding; other kernels and bfloat16 differ by a few hundredths of a nat.
    near = LIMITS.mismatch if scored.exact else LIMITS.mismatch_half
    far = LIMITS.mismatch_broken if scored.exact else LIMITS.mismatch_half_broken
    if not scored.mean <= far:
        section.look(
            "the engine samples from another distribution than the policy's. Look for a temperature or weights that it "
            "does not share, or sample with --engine hf.",
            stop=True,
        )
    elif scored.mean > near:
        section.look(
            "engine and policy differ by more than rounding. Importance weights correct for it, up to importance_cap "
            f"{config.importance_cap:g}; watch mismatch_mean, or sample with --engine hf."
        )
    if scored.adapters:
        section.look("the adapters already change the policy, so the run would not start from the model.", stop=True)
    if first.grad_norm is not None and not 0 < first.grad_norm < math.inf:
        section.facts[-2:] = [("gradient norm", f"{first.grad_norm}")]
        section.look(
            f"the gradient norm is {first.grad_norm} where rewards differ; expected a finite number > 0. Look for frozen "
            "weights, or log-probabilities that are not finite.",
            stop=True,
        )
    return section


def schedule_section(config: TrainConfig, signals: Signals, rewards: Tensor) -> Section:
    """What alpha will do, what it reads, and when it cannot do anything."""
    section = Section("Schedule of alpha")
    objective, schedule = config.objective_record, config.schedule_record
    section.values = {"confidence": signals.confidence}
    section.fact("rule", f"{schedule.name}: {filled(schedule.rule, vars(config))}")
    if not objective.reads_alpha:
        section.fact("use", f"none: {objective.name} has no alpha; it is only logged")
        return section
    if objective.reads("beta_r") and len(rewards.unique()) <= 2 and BatchPlan(config).updates == 1:
        section.fact("use", "two rewards and one update per batch: alpha scales each prompt's gradient, never turns it")
    if "confidence" not in schedule.signals:
        return section
    rest, lowest = alpha_range(config, signals)
    section.values["reach"] = rest - lowest
    section.fact(
        "confidence",
        f"1 - normalised entropy of {config.confidence_from}: {signals.confidence:.3f} on these samples, so alpha may fall "
        f"to {lowest:.2f}",
    )
    if schedule.reads("noise_guard"):
        guard = (
            f"beyond {config.noise_guard:g} x its standard error"
            if config.noise_guard
            else "noise too (see --noise_guard)"
        )
        section.fact("improvement", f"counts what the reward gains, {guard}")
    if not schedule.rests_at_max:
        return section
    if config.confidence_from == "anchored":
        section.look(
            "confidence_from anchored reads p_theta, which is uniform on the first update of every batch: its confidence is "
            "0 and alpha stays at alpha_max. Take --confidence_from tokens."
        )
    elif rest - lowest < LIMITS.alpha_reach < config.alpha_max - config.alpha_min:
        held = next(record.name for record in SCHEDULES.values() if not record.moves)
        section.look(
            f"so little confidence keeps alpha at {rest:g}. Take --confidence_from tokens to let the schedule act, or "
            f"--schedule {held} to say what happens."
        )
    return section


def step_length(config: TrainConfig, grad_norm: float) -> str:
    """What decides how long a step is: the objective's scale, or the clipping of the gradient."""
    if grad_norm <= config.max_grad_norm:
        return f"the gradient is within max_grad_norm {config.max_grad_norm:g}, so it is not clipped"
    return (
        f"the gradient is {grad_norm / config.max_grad_norm:.3g} x max_grad_norm {config.max_grad_norm:g}, so it is clipped. "
        f"{CLIPPED_MEANS}"
    )


def alpha_range(config: TrainConfig, signals: Signals) -> tuple[float, float]:
    """(alpha of a first step with these signals, alpha if the reward rose far above its noise then); any schedule."""
    schedule = config.make_schedule()
    rest = float(schedule.update(signals))
    far = float(signals.reward) + 1e3 * (1 + abs(float(signals.reward)) + config.noise_guard * float(signals.reward_se))
    return rest, min(rest, float(schedule.update(dataclasses.replace(signals, reward=far))))


def memory_section(config: TrainConfig, memory: Memory, *, failure: str = "") -> Section:
    """The parts, the two peaks, what there is, and what to change where it does not fit."""
    section, plan, model = Section("Memory"), memory.plan, memory.plan.model
    section.values = {**asdict(plan), "points": memory.points, "update_tokens": memory.update_tokens}
    section.values |= {"updating": memory.updating, "sampling": memory.sampling, "correction": memory.correction}
    machine = "GPU" if memory.device.type == "cuda" else "machine"
    each = " for each process" if memory.processes > 1 else ""
    section.fact("in use", f"{size(memory.in_use)} when all is loaded, {size(model.weights)} of it weights")
    section.fact("optimiser", f"gradients {size(model.gradients)}, Adam's moments {size(model.moments)}")
    if memory.update_tokens:
        text = f"about {size(memory.activations)} for a micro-batch of {memory.update_tokens:,} tokens"
        if memory.points:
            tokens, measured = max(memory.points)
            text += f"; {size(measured)} measured on {tokens:,}"
        section.fact("activations", text)
    beyond = size(memory.sampling - plan.taken(model.resting))
    rows = f"{beyond} for {plan.rows:,} completions of up to {plan.longest:,} tokens"
    apart = (
        f"{size(plan.engine)} of another engine, which sleeps in updates" if plan.engine else "another engine's memory"
    )
    section.fact("sampling", rows if plan.rows else apart)
    section.fact(
        "at most",
        f"about {size(memory.updating)} in an update, {size(memory.sampling)} while sampling; the {machine} has "
        f"{size(plan.have)}{each}",
    )
    if plan.heap > 1:
        section.fact(
            "",
            f"resident memory of the whole process: {size(plan.other)} of libraries, the weights, and all else "
            f"{plan.heap - 1:.0%} larger than its tensors, for holes in the C library's heap (measured on Linux)",
        )
    if failure:
        section.look(f"out of memory: {failure}. {less_memory(config, memory)}", stop=True)
    for what, need in (("an update", memory.updating), ("sampling", memory.sampling)):
        if need > TIGHT * plan.have:
            section.look(
                f"{what} needs {need / plan.have:.0%} of what there is. {less_memory(config, memory, what)}",
                stop=need > FULL * plan.have,
            )
    return section


def less_memory(config: TrainConfig, memory: Memory, what: str = "") -> str:
    """What to change; see `MemoryPlan.advice`."""
    plan = dataclasses.replace(memory.plan, share=TIGHT)  # on a CPU too, where what is chosen is smaller
    return plan.advice(config, what, tokens=memory.update_tokens, correction=memory.correction)


def disk_section(config: TrainConfig, disk: Disk) -> Section:
    """What the run will write, and what is free."""
    section = Section("Disk", values={**asdict(disk), "needed": disk.needed})
    section.fact("needed", disk.told())
    section.fact("free", size(disk.free) + (f"; {size(disk.held)} are this run's checkpoints" if disk.held else ""))
    try:
        warning = disk.warning(config)
    except UserError as error:
        section.look(str(error), stop=True)
    else:
        if warning:
            section.look(warning.removeprefix("warning: "))
    return section


def time_section(
    config: TrainConfig, seconds: Mapping[str, float], *, measured: bool, floor: Mapping[str, float] | None = None
) -> Section:
    """How long a run takes, as far as a minute can tell.

    Args:
        floor: see `arithmetic`.
    """
    section = Section("Time", values={**seconds, **(floor or {})})
    section.fact(
        "a batch",
        f"about {duration(seconds['batch'])} to sample and reward, {seconds['tokens_per_second']:,.0f} tokens/s per process",
    )
    if not measured:
        section.fact("an update", "not measured, so the run is not estimated")
        return section
    section.fact("an update", f"about {duration(seconds['update'])}, without AdamW's own step")
    section.fact("an evaluation", f"about {duration(seconds['evaluation'])}; there are {seconds['evaluations']:.0f}")
    section.fact("the run", f"about {duration(seconds['run'])} for {plural(config.steps, 'step')}")
    if floor:
        section.fact(
            "the floor",
            f"matrix products alone take {duration(floor['floor'])} of a step at this device's {floor['rate'] / 1e9:,.0f} "
            f"GFLOP/s: {floor['share']:.0%} of it",
        )
        on_gpus = ", ".join(f"{duration(floor[gpu.name])} on an {gpu.name}" for gpu in GPUS)
        section.fact("elsewhere", f"by arithmetic a step takes about {on_gpus} (assumptions: full/trainer/floor.py)")
    if seconds["run"] > LONG:
        section.look(
            "that is long: fewer --steps, shorter completions, --engine vllm, a smaller model or more processes."
        )
    return section


def end_of_an_answer(tokenizer: Any) -> int | None:
    """The special token with which the chat template ends an answer; None if it uses none."""
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "zebra"}]
    tail = tokenizer.apply_chat_template(messages, tokenize=False).rpartition("zebra")[2]
    ids = tokenizer(tail, add_special_tokens=False)["input_ids"]
    return next((i for i in ids if i in tokenizer.all_special_ids), None)


def named(tokenizer: Any, token: int | None) -> str:
    """A token's text and id."""
    return "no token" if token is None else f"{tokenizer.convert_ids_to_tokens(token)} ({token})"


def plural(count: int, one: str, many: str | None = None) -> str:
    """A number with its noun."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def shorten(text: str, most: int = 220) -> str:
    """A completion in a few lines: its beginning and its end, white space folded."""
    plain = " ".join(text.split()) or "(empty)"
    return plain if len(plain) <= most else f"{plain[: most // 2].rstrip()} [...] {plain[-most // 2 :].lstrip()}"
