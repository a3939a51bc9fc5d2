"""What the doctor (full/doctor/judge.py) measures before a run: a short sample, a first update without its step, memory, time.

Every process takes part, since they sample and push together, and what decides how much to do is agreed on, so that none
waits for another. Nothing is written and no weight is changed.
"""

import contextlib
import copy
import dataclasses
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import psutil
import torch
from accelerate.utils import DistributedType
from torch import Tensor

from apo_edu.objectives import kl_old
from apo_edu.schedules import Signals
from full.data.order import ProblemOrder
from full.engines import find_engine
from full.engines.base import Samples
from full.logprobs.packing import micro_batches
from full.rewards.answers import final_answer
from full.trainer.floor import GPUS, matmul_rate, work_of
from full.trainer.memory import MemoryPlan, memory_of
from full.trainer.precision import half_type, scale_down
from full.trainer.rollout import Rollout, make_rollout, reward_groups, sample_groups, score_now
from full.trainer.sharding import clip
from full.trainer.state import Trainer
from full.trainer.update import gather_groups, local_coefficients, push_coefficients, read_signals
from full.trainer.update import largest as largest_of

# Seconds that the parts may take, so that all of it stays under a minute once the model is loaded.
PROBE, WHOLE_BATCH, SAMPLING, SCORING, UPDATE = 3.0, 6.0, 22.0, 4.0, 12.0


FEW_PROMPTS = 4  # sampled over all processes where a whole batch would take too long


@dataclass
class Speed:
    """Seconds, the slowest process's, measured when warm.

    steps: rows sampled at once -> seconds of one token of each.
    reward, score, update: of one completion.
    read: of one token in a forward pass.
    kept: share of completions that have a gradient.
    """

    steps: dict[int, float] = field(default_factory=dict)
    reward: float = 0.0
    score: float = 0.0
    update: float = 0.0
    read: float = 0.0
    kept: float = 1.0

    def token(self, rows: int) -> float:
        """Seconds of one token of so many rows: on a line through the fewest and the most rows measured."""
        low, high = min(self.steps), max(self.steps)
        if low == high:  # as if nothing went on at the same time
            return self.steps[high] * max(1.0, rows / high)
        slope = max(0.0, (self.steps[high] - self.steps[low]) / (high - low))
        return max(self.steps[high] + slope * (rows - high), 0.0)

    def sample(self, rows: int, rows_at_once: int, tokens: float) -> float:
        """Seconds to sample so many completions, the longest of so many tokens."""
        full, rest = divmod(rows, rows_at_once)
        return tokens * (full * self.token(rows_at_once) + (self.token(rest) if rest else 0.0))


class Drawn(NamedTuple):
    """This process's completions of the run's first problems; `numbers` are over all processes.

    limit: of tokens here; below max_completion_tokens on a slow machine.
    whole: whether it is the run's first batch as it will be.
    """

    rollout: Rollout
    texts: list[str]
    limit: int
    whole: bool
    numbers: dict[str, float]


def draw(trainer: Trainer, speed: Speed, *, rows_that_fit: float) -> Drawn:
    """Sample and reward as many of the first batch's groups, to as many tokens, as the time allows."""
    config, accelerator = trainer.config, trainer.accelerator
    slots, group, most = trainer.plan.slots(), config.group_size, config.max_completion_tokens
    positions = ProblemOrder(len(trainer.problems), config.prompts_per_batch, config.seed).batch(0)
    few = min(len(slots), -(-FEW_PROMPTS // accelerator.num_processes))

    def sample(count: int, limit: int) -> tuple[list[list[int]], Samples, float]:
        with Stopwatch(trainer) as watch:
            prompts, samples = sample_groups(trainer, positions, slots[:count], batch=0, limit=limit, refresh=False)
        seconds = largest(trainer, watch.seconds)
        speed.steps[len(prompts)] = seconds / largest(trainer, max(map(len, samples.completions)))
        return prompts, samples, seconds

    with trainer.sampling():
        pass  # the engine takes over the weights while no clock runs
    spent = 0.0
    for count, limit, bearable in ((1, 2, 3 * PROBE), (1, 8, PROBE), (few, 8, PROBE)):  # the first warms up
        seconds = sample(count, min(limit, most))[2]
        spent += seconds
        if seconds > bearable:  # what is known must do
            break
    left = max(SAMPLING - spent, SAMPLING / 4)
    count, limit = how_much(speed, group, few, len(slots), most, left=left, rows_that_fit=rows_that_fit)
    prompts, samples, _ = sample(count, limit)

    with Stopwatch(trainer) as watch:
        judged = reward_groups(trainer, positions, slots[:count], samples)
    speed.reward = largest(trainer, watch.seconds) / len(prompts)
    ended = ~torch.tensor(judged.truncated)
    if limit < most:  # a limit set here says nothing about the run's
        judged = dataclasses.replace(judged, truncated=[False] * len(prompts))
    assert samples.logps is not None
    logps = samples.logps.to(torch.float64 if config.weights == "float64" else torch.float32)
    entropies = torch.zeros_like(logps) if samples.entropies is None else samples.entropies.to(logps)
    rollout = make_rollout(trainer, prompts, samples, judged, logps, logps, entropies, seconds=0.0)
    whole = count == len(slots) and limit == most
    return Drawn(rollout, judged.texts, limit, whole, sample_numbers(trainer, rollout, judged.texts, ended))


def how_much(
    speed: Speed, group: int, few: int, every: int, most: int, *, left: float, rows_that_fit: float
) -> tuple[int, int]:
    """(prompts on this process, tokens): the whole batch where that is quick, else few prompts, else fewer tokens.

    left: seconds.
    """
    for count, allowed in ((every, WHOLE_BATCH), (few, left), (1, left)):
        if count * group <= rows_that_fit and speed.token(count * group) * most <= allowed:
            return count, most
    tokens = int(left / speed.token(few * group))
    if tokens >= 64:
        return few, min(most, tokens)
    return 1, min(most, max(8, int(left / speed.token(group))))


def sample_numbers(trainer: Trainer, rollout: Rollout, texts: list[str], ended: Tensor) -> dict[str, float]:
    """Means and extremes over all processes: sums first, then one division."""
    config, rewards = trainer.config, rollout.rewards
    lengths = torch.tensor([len(ids) for ids in rollout.completions])
    groups = rewards.view(-1, config.group_size)
    boxed = torch.tensor([final_answer(text) is not None for text in texts])
    thinking = torch.tensor(["<think>" in text for text in texts])
    signal = groups.amax(-1) > groups.amin(-1)
    parts = (
        *(lengths, ended, rollout.truncated, boxed, boxed & ended, thinking, rewards),
        *(signal, groups.var(-1), torch.ones(len(groups)), torch.ones(len(texts))),
    )
    sums = torch.stack([part.double().sum() for part in parts]).to(trainer.accelerator.device)
    *totals, num_groups, count = trainer.accelerator.reduce(sums, reduction="sum").tolist()
    tokens, num_ended, truncated, with_box, box_and_end, thoughts, reward, with_signal, variance = totals
    return {
        "completions": count,
        "groups": num_groups,
        "mean_length": tokens / count,
        "longest": largest(trainer, lengths.max().item()),
        # Whoever had not come to an end at a limit set here may go on to the run's own.
        "expected_length": (tokens + (count - num_ended - truncated) * config.max_completion_tokens) / count,
        "ended": num_ended / count,
        "truncated": truncated / count,
        "boxed": with_box / count,
        "boxed_of_ended": box_and_end / max(num_ended, 1.0),
        "thinking": thoughts / count,
        "reward_mean": reward / count,
        "reward_max": largest(trainer, rewards.max().item()),
        "std_within": math.sqrt(variance / num_groups),
        "with_signal": with_signal / num_groups,
    }


class Scored(NamedTuple):
    """How far the engine's log-probabilities are from the policy's, nats per token; and those with adapters off from on.

    exact: whether they should agree to float32's rounding.
    adapters: None without adapters.
    token_entropy: of the policy, nats.
    """

    mean: float
    max: float
    tokens: int
    exact: bool
    adapters: float | None
    token_entropy: float


def compare_with_policy(trainer: Trainer, drawn: Drawn, speed: Speed) -> Scored:
    """Score samples under the policy. Before the first step nothing has moved, so it must agree with the engine."""
    rollout, width = drawn.rollout, drawn.rollout.old_logps.shape[1]

    def scores(count: int) -> tuple[Tensor, Tensor]:
        return score_now(trainer, rollout.prompts[:count], rollout.completions[:count], width=width)

    count = rows_within(rollout, warm_seconds(trainer, lambda: scores(1)), SCORING)
    with Stopwatch(trainer) as watch:
        logps, entropies = scores(count)
    speed.score = largest(trainer, watch.seconds / count)
    speed.read = largest(trainer, watch.seconds / sum(cells(trainer, rollout, range(count))))
    if rollout.entropies.any():  # the engine knew them
        entropies = rollout.entropies[:count]
    difference = (logps - rollout.engine_logps[:count]).abs().double()
    adapters = None
    if trainer.config.lora_rank:
        trainer.model.disable_adapters()
        try:
            adapters = largest(trainer, (scores(count)[0] - logps).abs().max().item())
        finally:
            trainer.model.enable_adapters()
    num_tokens = torch.tensor(sum(map(len, rollout.completions[:count]))).double()
    sums = torch.stack([difference.sum(), entropies.double().sum(), num_tokens]).to(trainer.accelerator.device)
    total, entropy, tokens = trainer.accelerator.reduce(sums, reduction="sum").tolist()
    return Scored(
        mean=total / tokens,
        max=largest(trainer, difference.max().item()),
        tokens=int(tokens),
        exact=trainer.engine.exact,
        adapters=adapters,
        token_entropy=entropy / tokens,
    )


class FirstUpdate(NamedTuple):
    """What the first update would be.

    grad_norm: None where it was not taken, for the `reason`.
    made_up: whether rewards were made up to take the gradient with, where the real ones would give none.
    """

    loss: float
    alpha: float
    kl_old: float
    signals: Signals
    made_up: bool
    grad_norm: float | None
    completions: int
    reason: str = ""


def first_update(
    trainer: Trainer, drawn: Drawn, memory: "Memory", speed: Speed, *, token_entropy: float
) -> FirstUpdate:
    """Take the coefficients and push them through the model as an update does, without its optimiser step."""
    config, accelerator, numbers = trainer.config, trainer.accelerator, drawn.numbers
    mini = trainer.plan.local_mini_batch
    rollout = drawn.rollout.select(slice(0, mini))  # a rollout holds its mini-batches one after the other
    batch = gather_groups(rollout, rollout.old_logps, accelerator, config)
    signals = read_signals(trainer, rollout, batch, token_entropy=token_entropy)
    alpha = copy.deepcopy(trainer.schedule).update(signals)  # a copy, since reading it moves it
    coef, loss, _ = trainer.coefficients(batch, alpha)
    made_up = not bool(coef.any())
    if made_up:
        rewards = torch.zeros_like(batch.rewards)
        rewards[:, 0] = 1.0
        imagined = dataclasses.replace(batch, rewards=rewards, valid=None)
        coef, _, _ = trainer.coefficients(imagined, alpha)
    rows = len(rollout.prompts)
    coef = local_coefficients(trainer, rollout, coef)
    wanted = coef.ne(0).any(-1).nonzero().flatten().tolist()
    speed.kept = 1.0 if made_up else len(wanted) / rows
    known = (loss.item(), alpha, kl_old(batch).item(), signals, made_up)
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        return FirstUpdate(*known, None, 0, "DeepSpeed knows the norm only once it has taken a step")
    if largest(trainer, float(memory.in_use + memory.plan.model.gradients > memory.plan.have)):
        return FirstUpdate(*known, None, 0, "there is no room for the gradients")

    def push(some: Rollout, weights: Tensor, keep: Sequence[int]) -> float:
        """Push these completions' coefficients, and note the memory that takes; return the seconds."""
        chosen = torch.zeros_like(weights)
        chosen[keep] = weights[keep]
        trainer.optimizer.zero_grad(set_to_none=True)
        with Stopwatch(trainer) as watch, peak_memory(accelerator.device) as peak:
            push_coefficients(trainer, some, chosen)
        memory.note(max(cells(trainer, some, keep)), peak())
        return largest(trainer, watch.seconds)

    try:
        # A few tokens first: they warm up, and tell what memory does not depend on the tokens.
        short = rollout.select(slice(0, 1))
        short.prompts, short.completions = [short.prompts[0][-8:]], [short.completions[0][:1]]
        push(short, torch.ones_like(coef[:1]), [0])
        seconds, count = push(rollout, coef, wanted[:1]), len(wanted[:1])
        more = rows_within(rollout, seconds, UPDATE, rows=wanted)
        if largest(trainer, more) > 1:
            seconds, count = push(rollout, coef, wanted[:more]), more
        grad_norm = clip(accelerator, trainer.policy, config.max_grad_norm)
        while not math.isfinite(grad_norm) and scale_down(accelerator):
            push(rollout, coef, wanted[:count])
            grad_norm = clip(accelerator, trainer.policy, config.max_grad_norm)
    finally:
        trainer.optimizer.zero_grad(set_to_none=True)
    speed.update = seconds / max(1, count)
    longer = numbers["expected_length"] / numbers["mean_length"]
    of_update = sum(cells(trainer, rollout, wanted[:count])) / max(1, count) * mini * speed.kept * longer
    memory.update_tokens = round(min(config.micro_batch_tokens, max(1.0, of_update)))
    total = accelerator.reduce(torch.tensor(count, device=accelerator.device), reduction="sum").item()
    return FirstUpdate(*known, grad_norm, int(total))


@dataclass
class Memory:
    """What the run's memory plan says, and what was measured beside it.

    plan: of the trainer, see `MemoryPlan`.
    device: where it runs; processes: how many there are.
    points: (tokens of the largest micro-batch, bytes beyond those in use and the gradients) of every update measured.
    update_tokens: of a micro-batch in the run, at these lengths.
    """

    plan: MemoryPlan
    device: torch.device
    processes: int
    points: list[tuple[int, float]] = field(default_factory=list)
    update_tokens: int = 0

    @property
    def in_use(self) -> float:
        """Bytes when everything is loaded."""
        return self.plan.other + self.plan.model.weights

    @property
    def activations(self) -> float:
        """Bytes of a micro-batch in the run, by the model, but never less than was measured (`correction`)."""
        if not self.update_tokens:
            return 0.0
        return self._modelled(self.update_tokens) * self.correction

    @property
    def correction(self) -> float:
        """Measured over modelled activations of the largest update measured; 1 where the model says more.

        A CPU's memory is that of the whole process, allocator included, and of a small update mostly noise: there it counts
        from half of the run's micro-batch on.
        """
        tokens, measured = max(self.points, default=(0, 0.0))
        if not tokens or (self.device.type != "cuda" and 2 * tokens < self.update_tokens):
            return 1.0
        return max(1.0, measured / self._modelled(tokens))

    def _modelled(self, tokens: int) -> float:
        return self.plan.heap * self.plan.model.activations(tokens, min(self.plan.width, tokens))

    @property
    def updating(self) -> float:
        """The most that an update holds."""
        model = self.plan.model
        state = self.plan.taken(model.resting + model.gradients)
        return state + max(self.activations, self.plan.heap * model.spare)

    @property
    def sampling(self) -> float:
        """The most that sampling holds: no gradients then, but every completion's keys and values."""
        return self.plan.sampling

    def note(self, tokens: int, peak: float) -> None:
        """Take the peak of an update."""
        self.points.append((tokens, max(0.0, peak - self.in_use - self.plan.model.gradients)))


def memory_before(trainer: Trainer) -> Memory:
    """What is known when everything is loaded and nothing has run.

    What another engine holds by now is in the plan, which was made before: it would be taken for somebody else's.
    """
    accelerator, plan = trainer.accelerator, trainer.memory
    if plan.rows:
        in_use, have = memory_of(accelerator.device, accelerator.num_processes)
        plan = dataclasses.replace(plan, have=have, other=max(0.0, in_use - plan.model.weights))
    return Memory(plan=plan, device=accelerator.device, processes=accelerator.num_processes)


def estimate(trainer: Trainer, drawn: Drawn, speed: Speed) -> dict[str, float]:
    """Seconds of the parts of a run, from what was measured."""
    config, processes, numbers = trainer.config, trainer.accelerator.num_processes, drawn.numbers
    all_ended = numbers["ended"] + numbers["truncated"] > 1 - 1e-9
    tokens = numbers["longest"] if all_ended else config.max_completion_tokens
    longer = numbers["expected_length"] / numbers["mean_length"]
    plan = trainer.plan
    rows, mini, updates = plan.local_completions, plan.local_mini_batch, plan.updates

    def sample(rows: int) -> float:
        return speed.sample(rows, config.generation_rows, tokens) + rows * speed.reward

    scored = (updates - 1) * mini  # the first update knows its log-probabilities
    if not trainer.engine.exact:  # and so does its engine's share, see `old_log_probabilities`
        scored += rows - (mini if find_engine(config.engine).samples_with_policy and config.epochs == 1 else 0)
    batch = sample(rows)
    update = mini * speed.kept * speed.update * longer + scored * speed.score * longer / updates
    problems = -(-len(trainer.held_out) // processes)
    # Greedy and sampled in one call, which reads a prompt once. Its prompts are many; the completions of a batch share theirs.
    prompt_tokens = sum(map(len, trainer.held_out_prompts)) / processes
    evaluation = sample(problems * (1 + config.eval_samples)) + prompt_tokens * speed.read
    evaluations = 2 + ((config.steps - 1) // config.eval_every if config.eval_every else 0)
    return {
        "batch": batch,
        "tokens_per_second": rows * numbers["expected_length"] / batch,
        "update": update,
        "evaluation": evaluation,
        "evaluations": evaluations,
        "run": config.steps * (batch / updates + update) + evaluations * evaluation,
    }


def arithmetic(trainer: Trainer, drawn: Drawn, seconds: Mapping[str, float]) -> dict[str, float]:
    """The floor of a step at this device's rate, its share of the estimated step, and a step's seconds on known GPUs.

    Args:
        seconds: of `estimate`.
    """
    numbers, config = drawn.numbers, trainer.config
    all_ended = numbers["ended"] + numbers["truncated"] > 1 - 1e-9
    longest = numbers["longest"] if all_ended else config.max_completion_tokens
    prompt = sum(map(len, drawn.rollout.prompts)) / len(drawn.rollout.prompts)
    work = work_of(trainer, prompt=prompt, completion=numbers["expected_length"], longest=longest)
    rate = -largest(
        trainer, -matmul_rate(trainer.accelerator.device, half_type(trainer.accelerator))
    )  # the slowest process's
    step = seconds["batch"] / trainer.plan.updates + seconds["update"]
    floor = work.floor(rate)
    return {"rate": rate, "floor": floor, "share": floor / step, **{gpu.name: work.step_on(gpu) for gpu in GPUS}}


class Stopwatch:
    """Seconds of what runs within, all work on the device included."""

    def __init__(self, trainer: Trainer) -> None:
        self.device = trainer.accelerator.device

    def __enter__(self) -> "Stopwatch":
        self._wait()
        self.started = time.perf_counter()
        return self

    def __exit__(self, *_: Any) -> None:
        self._wait()
        self.seconds = time.perf_counter() - self.started

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def warm_seconds(trainer: Trainer, work: Callable[[], Any]) -> float:
    """Seconds of some work, the slowest process's; of a second time if it is quick, since the first pays for set-ups."""
    seconds = math.inf
    for _ in range(2):
        with Stopwatch(trainer) as watch:
            work()
        seconds = largest(trainer, watch.seconds)
        if seconds > 1:
            break
    return seconds


def largest(trainer: Trainer, value: float) -> float:
    """The largest value of all processes: what all must wait for, and a number that they agree on."""
    return largest_of(torch.tensor(value, dtype=torch.float64), trainer.accelerator)


def rows_within(rollout: Rollout, seconds: float, allowed: float, *, rows: Sequence[int] | None = None) -> int:
    """How many rows, the first of which took so many seconds, can be done in those allowed; at least one if there is one."""
    rows = range(len(rollout.prompts)) if rows is None else rows
    lengths = [len(rollout.prompts[i]) + len(rollout.completions[i]) for i in rows]
    count = min(1, len(lengths))
    while count < len(lengths) and sum(lengths[: count + 1]) * seconds <= allowed * lengths[0]:
        count += 1
    return count


def cells(trainer: Trainer, rollout: Rollout, rows: Sequence[int]) -> list[int]:
    """Tokens, padding included, of each micro-batch that an update on these rows takes; [1] of none."""
    most, cpu = trainer.config.micro_batch_tokens, torch.device("cpu")
    packed = micro_batches(
        rollout.prompts, rollout.completions, most, device=cpu, keep=rows, pair_cost=trainer.pair_cost
    )
    return [batch.input_ids.numel() for batch in packed] or [1]


@contextlib.contextmanager
def peak_memory(device: torch.device) -> Iterator[Callable[[], float]]:
    """Yield a function that tells, afterwards, the most bytes in use within."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield lambda: float(torch.cuda.max_memory_allocated(device))
        return
    process, most, done = psutil.Process(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            most[0] = max(most[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield lambda: float(max(most[0], process.memory_info().rss))
    finally:
        done.set()
        watcher.join()
