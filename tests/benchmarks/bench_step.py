"""One batch and its updates: seconds and peak memory of each, beside what the memory model and the floor say.

    python tests/benchmarks/bench_step.py [--profile] [--json FILE] OPTIONS OF full/train.py

The trainer's own functions, without evaluation and checkpoints. Rewards are drawn by a fixed rule, so that every group trains.
Peaks are the allocator's on a GPU; on a CPU there are none.
"""

import argparse
import contextlib
import json
import sys
import time
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def main() -> None:
    from full.config import parse_config
    from full.data.order import ProblemOrder
    from full.trainer.checkpoints import Progress
    from full.trainer.floor import matmul_rate, work_of
    from full.trainer.launch import start_accelerator
    from full.trainer.precision import half_type
    from full.trainer.rollout import collect
    from full.trainer.state import set_up
    from full.trainer.update import train_step

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--profile", action="store_true", help="Also the kernels of the last update, by device time; it takes longer."
    )
    parser.add_argument("--json", type=Path)
    a, options = parser.parse_known_args()
    gpu = torch.cuda.is_available()
    config, _ = parse_config([*options, "--reward", "tests.benchmarks.bench_trl:reward", "--eval_problems", "1"])
    trainer = set_up(config, start_accelerator(), resume=False)
    trainer.run.path.mkdir(parents=True, exist_ok=True)
    order, progress = ProblemOrder(len(trainer.problems), config.prompts_per_batch, config.seed), Progress()
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * gpu
    device, plan, found = trainer.accelerator.device, trainer.memory, []

    def measured(what, work, said):
        if gpu:
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
        started = time.perf_counter()
        got = work()
        if gpu:
            torch.cuda.synchronize(device)
        row = {"what": what, "seconds": time.perf_counter() - started, "said": said}
        row["peak"] = torch.cuda.max_memory_allocated(device) if gpu else None
        row["reserved"] = torch.cuda.max_memory_reserved(device) if gpu else None
        found.append(row)
        peak = (
            f", peak {row['peak'] / 1e9:.2f} GB (said {said / 1e9:.2f}, reserved {row['reserved'] / 1e9:.2f})"
            if gpu
            else ""
        )
        print(f"{what}: {row['seconds']:.2f} s{peak}", flush=True)
        return got

    print(plan.line(), flush=True)
    progress.rollout = measured("a batch", lambda: collect(trainer, order.batch(0), batch=0, step=0), plan.sampling)
    mean = float(progress.rollout.mask().sum(-1).float().mean())
    for number in range(trainer.plan.updates):
        last = a.profile and number == trainer.plan.updates - 1
        with profile(activities=activities) if last else contextlib.nullcontext() as seen:
            measured(f"update {number + 1}", lambda: train_step(trainer, progress), plan.updating)
        progress.advance(trainer.plan.updates)
    prompt = sum(map(len, trainer.prompts)) / len(trainer.prompts)
    work = work_of(trainer, prompt=prompt, completion=mean, longest=config.max_completion_tokens)
    rate = matmul_rate(device, half_type(trainer.accelerator))
    floors = {"sampling": work.operations(1.0) / rate, "update": work.operations(work.update_passes) / rate}
    print(
        f"floor at {rate / 1e12:.3g} TFLOP/s, a step: sampling {floors['sampling']:.2f} s, update {floors['update']:.2f} s"
    )
    if a.profile:
        key = "self_cuda_time_total" if gpu else "self_cpu_time_total"
        print(seen.key_averages().table(sort_by=key, row_limit=40, max_name_column_width=70))
    if a.json:
        a.json.write_text(json.dumps({"rows": found, "floors": floors, "options": options}, indent=1) + "\n")
    trainer.close()


if __name__ == "__main__":
    main()
