"""CPU seconds and memory of one optimiser step: our trainer beside TRL's GRPOTrainer with transformers' generate.

    python tests/benchmarks/bench_trl.py [--pairs 3] [--steps 12] [--threads 1] [--only natural]

Same model (the embedded one, warm-started), problems, prompts x group, completion lengths, objective (GRPO, one update a
batch), optimiser and number of steps; ours and theirs in turn, each in a process of its own. Counted is the CPU time of the
process and its children (our verifying worker) between optimiser steps, without set-up, evaluation and saving. "natural":
completions stop by themselves; "fixed": nothing stops before the limit, since the end of sequence is a token that never
comes. With a GPU the same is done for the Qwen3-1.7B shape with random weights in bfloat16, in wall seconds.
"""

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LEFT_OUT = 3  # steps before the clock is read: caches, lazy imports
NEVER = "\u0100"  # how byte-level BPE spells the byte 0, which no completion contains


class Clock:
    """CPU seconds of this process and its living children, and wall seconds, at each step."""

    def __init__(self) -> None:
        self.cpu: list[float] = []
        self.wall: list[float] = []

    def tick(self) -> None:
        import psutil

        me = psutil.Process()
        times = [process.cpu_times() for process in [me, *me.children(recursive=True)]]
        self.cpu.append(sum(t.user + t.system for t in times))
        self.wall.append(time.perf_counter())

    def report(self, tokens: float) -> dict[str, float]:
        cpu, wall = (
            statistics.median(b - a for a, b in zip(t[LEFT_OUT - 1 :], t[LEFT_OUT:], strict=False))
            for t in (self.cpu, self.wall)
        )
        import torch

        gpu = torch.cuda.is_available()
        peak = (
            torch.cuda.max_memory_allocated() / 2**20
            if gpu
            else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        )
        return {"cpu_seconds": cpu, "wall_seconds": wall, "peak_mib": peak, "tokens_per_step": tokens, "gpu": gpu}


def boxed_equals(completion: str, answer: str) -> float:
    boxes = re.findall(r"\\boxed\{([^{}]*)\}", completion)
    return float(bool(boxes) and boxes[-1].strip() == answer)


def ours(folder: Path, data: Path, a: argparse.Namespace) -> dict[str, float]:
    from full import train
    from full.runs import RunFolder

    clock, append = Clock(), RunFolder.append

    def ticking(self, name, rows):
        append(self, name, rows)
        if name == "metrics.jsonl":
            clock.tick()

    RunFolder.append = ticking
    with tempfile.TemporaryDirectory() as run:
        options = {
            "model": folder, "data": "arithmetic", "level": "all", "output_dir": f"{run}/run", "objective": "grpo",
            "reward": "accuracy", "group_size": a.group, "prompts_per_batch": a.prompts, "mini_batch_prompts": a.prompts,
            "max_completion_tokens": a.tokens, "max_prompt_tokens": 4096, "steps": a.steps, "lr": a.lr, "warmup_steps": 0,
            "micro_batch_tokens": a.micro_tokens, "eval_every": 0, "eval_problems": 1, "save_every": 0,
            "cpu_threads": a.threads, "generation_rows": 4096,
        }  # fmt: skip
        train.main([word for name, value in options.items() for word in (f"--{name}", str(value))])
        rows = [json.loads(line) for line in Path(run, "run", "metrics.jsonl").read_text().splitlines()]
    return clock.report(statistics.fmean(row["tokens"] for row in rows)) | {
        "reward_last": statistics.fmean(row["reward_mean"] for row in rows[-3:])
    }


def trl(folder: Path, data: Path, a: argparse.Namespace) -> dict[str, float]:
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    torch.set_num_threads(a.threads)
    gpu = torch.cuda.is_available()
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    chats = [{"prompt": row["prompt"], "answer": row["answer"]} for row in rows]
    clock, tokens, rewards = Clock(), [], []

    def reward(completions, completion_ids, answer, **kwargs):
        tokens.append(sum(map(len, completion_ids)))
        values = [boxed_equals(c[0]["content"], gold) for c, gold in zip(completions, answer, strict=True)]
        rewards.append(statistics.fmean(values))
        return values

    class Ticking(TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            clock.tick()

    rows_per_step = a.prompts * a.group
    micro = min(rows_per_step, max(a.group, a.micro_tokens // (a.tokens + a.prompt_tokens)))
    while rows_per_step % micro:
        micro -= 1
    with tempfile.TemporaryDirectory() as run:
        config = GRPOConfig(
            output_dir=run, per_device_train_batch_size=micro, gradient_accumulation_steps=rows_per_step // micro,
            num_generations=a.group, max_completion_length=a.tokens, max_steps=a.steps, learning_rate=a.lr,
            lr_scheduler_type="constant", warmup_steps=0, beta=0.0, temperature=1.0, loss_type="grpo", num_iterations=1,
            use_cpu=not gpu, bf16=gpu, gradient_checkpointing=False, report_to="none", save_strategy="no",
            logging_strategy="no", disable_tqdm=True, max_grad_norm=1.0, adam_beta2=0.95,
        )  # fmt: skip
        trainer = GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
            reward_funcs=reward,
            args=config,
            train_dataset=Dataset.from_list(chats),
            processing_class=AutoTokenizer.from_pretrained(folder, padding_side="left"),
            callbacks=[Ticking()],
        )
        trainer.train()
    return clock.report(sum(tokens) / len(clock.cpu)) | {"reward_last": statistics.fmean(rewards[-3:])}


def make_inputs(where: Path) -> dict[str, Path]:
    """The model folders, and the problems as a file for the peer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from full.data.sources import load_problems
    from full.engines.hf import Sampler
    from full.models.tiny import warm_start

    load_problems("arithmetic", split="train").to_json(where / "problems.jsonl")  # what ours generates by itself
    natural = warm_start(0.35, 0, Sampler)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(natural), AutoTokenizer.from_pretrained(natural)
    tokenizer.eos_token = NEVER
    model.generation_config.eos_token_id = model.config.eos_token_id = tokenizer.eos_token_id
    for part in (model, tokenizer):
        part.save_pretrained(where / "fixed")
    return {"natural": natural, "fixed": where / "fixed", "problems": where / "problems.jsonl"}


def make_large(where: Path) -> Path:
    """The Qwen3-1.7B shape with random weights, and the embedded model's tokenizer."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from full.models.tiny import make_tokenizer

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=151_936, hidden_size=2048, intermediate_size=6144, num_hidden_layers=28, num_attention_heads=16,
        num_key_value_heads=8, head_dim=128, tie_word_embeddings=True, eos_token_id=2, pad_token_id=0, bos_token_id=None,
    )  # fmt: skip
    Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(where / "large")
    make_tokenizer().save_pretrained(where / "large")
    return where / "large"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("pairs", 3), ("steps", 12), ("threads", 1), ("prompts", 32), ("group", 8), ("tokens", 8)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--prompt_tokens", type=int, default=18)
    parser.add_argument("--micro_tokens", type=int, default=8192)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--only", help="natural, fixed or large.")
    parser.add_argument("--run", nargs=3, metavar=("WHO", "MODEL", "DATA"), help=argparse.SUPPRESS)
    return parser.parse_args()


def main(a: argparse.Namespace) -> None:
    import torch

    with tempfile.TemporaryDirectory() as folder:
        inputs = make_inputs(Path(folder))
        cases = {name: inputs[name] for name in ("natural", "fixed")}
        if torch.cuda.is_available():
            cases = {"large": make_large(Path(folder))}
        for case, model in cases.items():
            if a.only and a.only != case:
                continue
            words = sys.argv[1:]
            if case == "large":
                words += [
                    "--tokens",
                    "512",
                    "--micro_tokens",
                    "16384",
                    "--prompts",
                    "16",
                    "--steps",
                    "6",
                    "--lr",
                    "1e-6",
                ]
            pairs = []
            for _ in range(a.pairs):
                pair = {}
                for who in ("trl", "ours"):
                    command = [sys.executable, __file__, *words, "--run", who, str(model), str(inputs["problems"])]
                    environment = os.environ | {"OMP_NUM_THREADS": str(a.threads), "OMP_WAIT_POLICY": "PASSIVE"}
                    out = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
                    pair[who] = json.loads(out.stdout.splitlines()[-1])
                pairs.append(pair)
                key = "wall_seconds" if pair["ours"]["gpu"] else "cpu_seconds"
                print(
                    f"{case:>8}: "
                    + "; ".join(
                        f"{who} {got[key]:.3f} {key.replace('_', ' ')} a step, {got['tokens_per_step']:.0f} tokens, "
                        f"peak {got['peak_mib']:.0f} MiB, last reward {got['reward_last']:.2f}"
                        for who, got in pair.items()
                    )
                    + f"; ratio {pair['trl'][key] / pair['ours'][key]:.2f}",
                    flush=True,
                )
            ratios = [pair["trl"][key] / pair["ours"][key] for pair in pairs]
            print(
                f"{case:>8}: median ratio {statistics.median(ratios):.2f} over {len(ratios)} pairs (goal: at least 2)"
            )


if __name__ == "__main__":
    arguments = parse()
    if arguments.run:
        who, model, data = arguments.run
        print(json.dumps({"ours": ours, "trl": trl}[who](Path(model), Path(data), arguments)))
    else:
        main(arguments)
