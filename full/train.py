"""Train a language model with APO (arXiv 2512.22953), or a peer, on problems whose answers can be verified.

    accelerate launch full/train.py                                      # Qwen3-1.7B on MATH level 3
    accelerate launch full/train.py --config full/configs/tiny.yaml      # embedded model: no GPU, no network

Each batch: sample groups of completions, reward them, and take one or more optimiser steps. Each step: read the
schedule's signals, update alpha, turn the objective into one coefficient per token, and push those through the model in
micro-batches. The objective ties a group together and sees the groups of all processes; the model sees a weighted sum.
"""

import errno
import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout, whatever else is installed
from full.config import lasting, parse_config, resting_alpha, solved_reward
from full.heap import begin_with_whole_holes

if __name__ == "__main__" and "--help" in sys.argv:
    parse_config()  # prints it and leaves, before anything slow is loaded
if __name__ == "__main__":
    begin_with_whole_holes()
# Threads that wait without spinning, before torch starts them: beside another busy process it is five times faster.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# The cache of keys grows with every token; without this a GPU's memory falls to pieces of all sizes. By the older of its two
# names: torch 2.9 reads this setting under that one alone, and vLLM, whose sleep excludes it, looks for it there.
if "PYTORCH_ALLOC_CONF" not in os.environ:
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
if __name__ == "__main__":
    sys.path.append(os.getcwd())  # last: where your own modules may lie, for --objective module:function
    os.environ.pop("MPLBACKEND", None)  # a notebook's, which may not be installed here; the figures need none
    parent = os.getppid()  # it may end during the seconds of the imports
    if os.environ.get("RANK", "0") == "0":
        print("starting: loading torch and transformers, about ten seconds", flush=True)

import torch
from safetensors import SafetensorError

from apo_edu import FailureMonitor
from full.data.order import ProblemOrder
from full.errors import CheckpointError, NoRoomError, NotFiniteError, RewardError, Stopped, UserError, one_line
from full.halving import room_or_advice
from full.models.card import write_card
from full.models.loading import save_policy
from full.models.origin import model_origin
from full.report.console import Console, evaluation_line, quiet_libraries, summarize
from full.report.curves import draw_curves
from full.report.html import write_report
from full.runs import located, places, read_run
from full.trainer.checkpoints import Progress, load_checkpoint, save_checkpoint
from full.trainer.launch import claimed, on_main, quiet_exit, start_accelerator
from full.trainer.outlook import outlook
from full.trainer.rollout import collect
from full.trainer.sharding import whole_state, whole_weights
from full.trainer.state import Trainer, set_up
from full.trainer.stop import StopRequest
from full.trainer.trackers import Callback, load_callbacks, push, require_hub, start_tracker
from full.trainer.update import train_step


def main(argv: list[str] | None = None, *, started_by: int | None = None) -> None:
    """The story of a run.

    Args:
        started_by: the process that started this one, if known, see `StopRequest`.
    """
    quiet_libraries()
    config, resume = parse_config(argv)
    config = located(config) if resume else config
    examining = "--doctor" in (sys.argv if argv is None else argv)
    require_hub(config.push_to_hub)
    callbacks = load_callbacks(config.callback)
    with ExitStack() as held:
        stop = StopRequest(started_by)
        held.callback(stop.close)
        standing = f"it went on; try again: --resume {resume}" if resume else "the first step; nothing was written"
        with stop.at_once(f"stopped before {standing}"):
            accelerator = start_accelerator(config.cpu_threads, tracker=config.tracker, folder=config.run_dir)
            console = Console(accelerator.is_main_process)
            if not examining:
                held.enter_context(claimed(config, accelerator, resume=bool(resume)))
            advice = held.enter_context(room_or_advice(config))
            trainer = set_up(config, accelerator, resume=bool(resume), say=console.line)
            advice.finding = trainer.memory.finding
        if examining:
            from full.doctor.print import examine

            return examine(trainer)
        train(trainer, stop, console, callbacks, resume=bool(resume))


def train(
    trainer: Trainer, stop: StopRequest, console: Console, callbacks: Sequence[Callback], *, resume: bool
) -> None:
    """From the first step, or where the last sitting ended, to the last one."""
    config, accelerator = trainer.config, trainer.accelerator
    run, plan, say = trainer.run, trainer.plan, console.line
    order = ProblemOrder(len(trainer.problems), config.prompts_per_batch, config.seed)
    monitor = FailureMonitor(alpha_max=resting_alpha(vars(config)), solved=solved_reward(vars(config)))
    console.plan(config, plan, trainer.model, trainer.rendered, accelerator, len(trainer.problems))
    progress = Progress()
    messages: list[str] = []
    on_main(accelerator, lambda: messages.extend(outlook(trainer)))
    say(*messages)
    messages = []
    if resume:
        progress, messages = load_checkpoint(run.checkpoints, accelerator, lasting(config))
    sources = {"train": trainer.problems.info.description, "test": trainer.held_out.info.description}
    origins = {**sources, "model": model_origin(config.model), "places": places(config)}
    messages += run.write_config(config, {**origins, "processes": accelerator.num_processes})
    if resume:
        messages += run.trim(progress.step)
        for row in run.read("metrics.jsonl"):
            monitor.update(row)
        messages.append(f"resuming {run.path} after step {progress.step} of {config.steps}")
    say(*messages)
    tracker: dict[str, Any] = {"project": config.project, "options": asdict(config), "resume": resume}
    tracker_url = start_tracker(accelerator, config.tracker, run.path, **tracker)

    started = time.perf_counter() - progress.seconds
    if progress.eval_before is None:
        say(f"evaluating {len(trainer.held_out)} held-out problems before the first step")
        with stop.at_once(f"stopped before the first step; go on with --resume {run.path}"):
            progress.eval_before = trainer.evaluate()
        say(evaluation_line("before", progress.eval_before))

    def save() -> None:
        progress.seconds = time.perf_counter() - started
        run.sync()
        keep, options = config.keep_checkpoints, lasting(config)
        fault = save_checkpoint(run.checkpoints, accelerator, progress, keep=keep, options=options)
        say(*[f"warning: {fault}"] * bool(fault))

    with console.progress(config, progress.step) as bar:
        while progress.step < config.steps or progress.unlogged is not None:
            if progress.unlogged is None:
                if progress.rollout is None:
                    positions = order.batch(progress.batch)
                    progress.rollout = collect(trainer, positions, batch=progress.batch, step=progress.step)
                progress.unlogged = train_step(trainer, progress)
                progress.advance(plan.updates)
            outcome = f"stopped after step {progress.step}; go on with --resume {run.path}"
            if is_due(progress.step, config.eval_every) and progress.step < config.steps:
                try:
                    progress.unlogged |= evaluate_along(trainer, stop, outcome)
                except Stopped:  # the checkpoint keeps the step, which is logged when its evaluation is done
                    save()
                    trainer.close()
                    raise
            metrics, progress.unlogged = progress.unlogged, None
            run.append("metrics.jsonl", [metrics])
            numbers = {k: v for k, v in metrics.items() if isinstance(v, int | float) and k != "step"}
            accelerator.log(numbers, step=progress.step)
            bar.step(metrics)
            for callback in callbacks:
                callback(trainer, metrics)
            for finding in monitor.update(metrics):
                say(f"warning: {finding}")
            stopping = stop.agreed(accelerator)
            if stopping or progress.step == config.steps or is_due(progress.step, config.save_every):
                save()
            if stopping:
                trainer.close()
                raise Stopped(outcome, stop.signal)

    finish(trainer, progress, monitor, console, stop, tracker_url)


def evaluate_along(trainer: Trainer, stop: StopRequest, outcome: str) -> dict[str, Any]:
    """An evaluation between steps, for metrics.jsonl.

    Raises:
        Stopped: a request ended it. Only of one process: several would have to agree where, so they finish it.
    """
    with stop.at_once(outcome) if trainer.accelerator.num_processes == 1 else nullcontext():
        return {f"eval_{name}": value for name, value in trainer.evaluate().items()}


def finish(
    trainer: Trainer,
    progress: Progress,
    monitor: FailureMonitor,
    console: Console,
    stop: StopRequest,
    tracker_url: str | None,
) -> None:
    """After the last step: evaluate, write the model, and show what happened."""
    config, accelerator, run = trainer.config, trainer.accelerator, trainer.run
    with stop.at_once(f"stopped after the last step, before its evaluation; go on with --resume {run.path}"):
        eval_after = trainer.evaluate()
    stop.when = "when the model and the report are written"
    write_model(trainer)
    if accelerator.is_main_process:
        assert progress.eval_before is not None
        summary = summarize(config, progress.eval_before, eval_after, progress.seconds)
        summary["tracker_url"] = tracker_url
        run.write_summary(summary)
        record = read_run(run.path)
        write_card(run.path / "model", record.options, record.provenance, summary)
        draw_curves(run)
        write_report(run.path)
        console.conclusion(run, summary, monitor.findings, config)
        if config.push_to_hub:
            console.line(push(run.path / "model", config.push_to_hub))
    trainer.close()


def write_model(trainer: Trainer) -> None:
    """Write model/, on the main process.

    Raises:
        CheckpointError: it could not be written; the run goes on from its last checkpoint.
    """
    config, accelerator, folder = trainer.config, trainer.accelerator, trainer.run.path / "model"
    state = whole_state(accelerator, trainer.policy)
    dtype = None if config.model_dtype == "same" else getattr(torch, config.model_dtype)
    options = {"merge": config.merge_lora, "state": state, "dtype": dtype, "generation": trainer.generation}
    with whole_weights(trainer.policy):
        if accelerator.is_main_process:
            try:
                save_policy(trainer.model, trainer.engine.tokenizer, folder, **options)
            except (OSError, SafetensorError) as error:
                raise CheckpointError(
                    f"{folder} could not be written ({one_line(error)}); the training is done. Make room and go on with "
                    f"--resume {trainer.run.path}"
                ) from error


def is_due(step: int, every: int) -> bool:
    """Whether something done every so many steps is due; 0 is never."""
    return every > 0 and step % every == 0


def run_and_report(argv: list[str] | None = None, *, started_by: int | None = None) -> None:
    """`main`, with what a user can mend told in one line."""
    try:
        main(argv, started_by=started_by)
    except Stopped as stopped:
        quiet_exit(str(stopped), stopped.code)
    except (UserError, RewardError) as error:
        quiet_exit(f"error: {error}", getattr(error, "code", 2))
    except (CheckpointError, NoRoomError, NotFiniteError) as error:
        quiet_exit(f"error: {error}", 1)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        what = f" {error.filename}" if error.filename else ""
        quiet_exit(f"error: the disk is full ({error.strerror}{what}). Make room and go on with --resume RUN", 1)


if __name__ == "__main__":
    run_and_report(sys.argv[1:], started_by=parent)
