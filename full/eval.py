"""Evaluate a run or any Hugging Face model on problems whose answers can be verified.

    python full/eval.py --model runs/NAME --k 8                                 # the run's own held-out problems
    python full/eval.py --model Qwen/Qwen3-1.7B --data math --level 3 --k 1 4 16
    accelerate launch --multi_gpu full/eval.py --model runs/NAME --k 8          # over several GPUs

Of a run, everything that is not given is as it was trained: data, level, template, temperature, seed. So --k 1 repeats the
run's last evaluation.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout, whatever else is installed
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in train.py, and so below
if "PYTORCH_ALLOC_CONF" not in os.environ:
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
if __name__ == "__main__":
    sys.path.append(os.getcwd())  # as in train.py: a run may have an objective of your own
    if os.environ.get("RANK", "0") == "0":  # before the imports, which can be slow on a cold disk
        print("loading the libraries (some seconds)", flush=True)

import argparse
import dataclasses
import json
import time
from collections.abc import Sequence
from typing import Any

from datasets import Dataset, concatenate_datasets

from apo_edu import LIMITS
from full.config import TrainConfig, names_of_tasks, parse_config
from full.data.sources import apart, is_remote, load_problems, load_splits
from full.data.splits import require_held_out
from full.engines import ENGINES, find_engine, make_engine
from full.engines.hf import Sampler, check_sampling
from full.errors import RewardError, UserError
from full.evaluation import ProblemResult, majority_at_k, problem_results, summarize_results
from full.logprobs.packing import attention_pair_cost
from full.models.loading import (
    check_tokenizer,
    go_offline_if_unreachable,
    load_model,
    load_tokenizer,
    render_prompts,
    without_long_prompts,
)
from full.options import CommandParser
from full.report.console import Console, plain, quiet_libraries
from full.rewards.rewards import Rewarder
from full.trainer.launch import quiet_exit, start_accelerator
from full.trainer.memory import plan_memory


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Evaluate; print a table, write and return what goes into the JSON file."""
    quiet_libraries()
    args = parse_arguments(argv)
    config, run = resolve(args)
    out = Path(args.out).expanduser() if args.out else run and run / "eval.json"
    if out and not out.parent.is_dir():
        raise UserError(f"--out is {out} but {out.parent} is no folder; expected one that exists. Create it first.")
    accelerator = start_accelerator(config.cpu_threads)
    say = Console(accelerator.is_main_process)
    say.line(f"loading {config.model} and {config.data}")
    if is_remote(config.data):
        go_offline_if_unreachable()
    problems = choose_problems(config, args.split)
    tokenizer, model_name = load_tokenizer(config, accelerator, Sampler)
    problems = without_long_prompts(tokenizer, problems, config)
    problems = problems.select(range(min(args.n or (config.eval_problems if run else len(problems)), len(problems))))
    prompts, rendered = render_prompts(tokenizer, problems, config)
    say.line(
        f"data: {problems.info.description}; {len(problems)} problems",
        held_out_line(problems, run, args.split),
        f"one prompt, as the model sees it:\n{rendered}\n",
    )
    rewarder = Rewarder(["accuracy"], verify_seconds=config.verify_seconds)
    try:
        rewarder.self_test()
        model = load_model(model_name, config)
        check_tokenizer(model, tokenizer, model_name)
        if find_engine(config.engine).samples_with_policy:
            check_sampling(model, tokenizer, prompts[0], config.model)
        samples = max(args.k)
        batch = -(-len(problems) // accelerator.num_processes) * (1 + samples)
        sizes = {"prompts": prompts, "batch": batch, "pair_cost": attention_pair_cost(model), "training": False}
        config, _ = plan_memory(dataclasses.replace(config, eval_samples=samples), model, accelerator, **sizes)
        model = model.to(accelerator.device)
        engine = make_engine(config, model, tokenizer, model_name, accelerator)
        say.line(
            f"waiting for {len(problems)} x (1 greedy + {samples} sampled) completions of at most "
            f"{config.max_completion_tokens} tokens, on {accelerator.num_processes} x {accelerator.device.type}"
        )
        started = time.perf_counter()
        with accelerator.autocast():
            engine.refresh(model)
            results = problem_results(
                engine, problems, prompts, samples, rewarder.verifier, accelerator, gym=rewarder.gym
            )
        engine.close()
    finally:
        rewarder.close()
    record = {
        "model": args.model,
        "data": problems.info.description,
        **{name: getattr(config, name) for name in ("temperature", "max_completion_tokens", "thinking", "seed")},
        "seconds": time.perf_counter() - started,
        **summarize_results(results, args.k),
        "problems": [describe(problems[result.index], result) for result in results],
    }
    if accelerator.is_main_process:
        show(record, say)
        if out:
            out.write_text(json.dumps(record, indent=1) + "\n")
            say.line(f"written to {out}")
    accelerator.end_training()
    return record


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The few options there are.

    Raises:
        UserError: an unknown option or a bad value.
    """

    parser = CommandParser(prog="python full/eval.py", description=str(__doc__).split("\n\n")[0], allow_abbrev=False)
    add = parser.add_argument
    add("--model", required=True, help="A run's folder, a Hugging Face folder (LoRA adapters too), or a hub id.")
    add(
        "--data",
        help="As in full/train.py: 'math', a hub id, a .jsonl/.json/.csv/.parquet file or folder, or a generated task "
        f"({', '.join(names_of_tasks())}). Default: the run's.",
    )
    add(
        "--columns", nargs="+", metavar="NAME=VALUE",
        help="What other data call problem, answer, solution, level or prompt, e.g. problem=question,answer=gold.",
    )  # fmt: skip
    add("--system_prompt", help="System message before every prompt. Default: the run's, else none.")
    add("--level", help="Problems of this level only, or 'all'. Default: the run's, else all.")
    add(
        "--split", choices=("test", "train", "all"), default="test",
        help="Which part; of a source without splits test is one problem in ten, by a hash. Default: test.",
    )  # fmt: skip
    add(
        "--k", type=int, nargs="+", default=[8], metavar="K",
        help="Report pass@k and maj@k for these k; the largest is the number of samples. Default: 8.",
    )  # fmt: skip
    add("--n", type=int, help="Problems, at most. Default: as many as the run was evaluated on, else all.")
    add("--temperature", help="Of sampling, > 0. Default: the run's, else 1.")
    add("--max_completion_tokens", help="Longest completion, tokens. Default: the run's, else 1280.")
    add("--seed", help="Of sampling. Default: the run's, else 0.")
    add(
        "--engine",
        choices=tuple(ENGINES),
        default=TrainConfig.engine,
        help=f"What samples. {'; '.join(f'{name}: {record.help}' for name, record in ENGINES.items())}",
    )
    add(
        "--out",
        metavar="FILE",
        help="Write numbers, and the results of every problem, as JSON. Default: RUN/eval.json.",
    )
    args = parser.parse_args(argv)
    for name, values in (("k", args.k), ("n", [1 if args.n is None else args.n])):
        if min(values) < 1:
            raise UserError(f"--{name} is {min(values)}; expected at least 1.")
    return args


def resolve(args: argparse.Namespace) -> tuple[TrainConfig, Path | None]:
    """The options of the evaluation as a trainer's configuration, and the run's folder if it is one.

    Raises:
        UserError: an unfinished run, missing data, a bad value.
    """
    model = str(Path(args.model).expanduser()) if args.model.startswith("~") else args.model
    run = Path(model) if (Path(model) / "config.yaml").is_file() else None
    # What belongs to training only must not be set up again.
    words = ["--lora_rank", "0", "--merge_lora", "false", "--tracker", "none", "--engine", args.engine]
    words += ["--objective", TrainConfig.objective, "--objective_options", "--off_policy", "none"]
    words += ["--schedule", TrainConfig.schedule, "--schedule_options"]
    if run:
        words += ["--config", str(run / "config.yaml")]
        if not (run / "model").is_dir():
            raise UserError(
                f"{run} holds a run without model/; expected a finished one. Go on with it by --resume {run}, or give a "
                "model's folder."
            )
        model = str(run / "model")
    elif args.data is None:
        what = "holds no run" if Path(model).exists() else "is no folder here"
        raise UserError(
            f"{args.model} {what}; expected the folder of a run, or a model's folder or hub id together with --data, e.g. "
            "--data math or --data problems.jsonl."
        )
    level = args.level or (None if run else "all")
    given = {"model": model, "data": args.data, "level": level, "temperature": args.temperature, "seed": args.seed}
    given |= {"max_completion_tokens": args.max_completion_tokens, "system_prompt": args.system_prompt}
    words += (
        ["--columns", *(args.columns or [])] if args.columns or args.data else []
    )  # a run's are those of its own data
    words += [word for name, value in given.items() if value is not None for word in (f"--{name}", value)]
    config, _ = parse_config(words)
    return config, run


def choose_problems(config: TrainConfig, split: str) -> Dataset:
    """The problems in one order for all seeds and models, so that two evaluations see the same ones."""
    if split != "all":
        return load_problems(config.data, split=split, **config.problem_options)
    parts, faults = [], []
    for part in ("test", "train"):
        try:
            parts.append(load_problems(config.data, split=part, **config.problem_options))
        except UserError as error:  # a small file may have nothing in one of them
            faults.append(error)
    if not parts:
        raise faults[0]
    if len(parts) == 2:
        parts[1] = apart(parts[1], parts[0], source=config.data)
    joined = concatenate_datasets(parts)
    joined.info.description = parts[0].info.description.replace("split test", "split all")
    return joined


def held_out_line(problems: Dataset, run: Path | None, split: str) -> str:
    """Check that a run was not trained on what it is evaluated on; say what was checked.

    Raises:
        UserError: it was.
    """
    if run is None:
        return "held out: not known; no run's folder was given, so what the model was trained on is not recorded"
    trained, _ = parse_config(["--config", str(run / "config.yaml")])
    try:
        known = load_splits(trained.data, seed=0, **trained.problem_options)[0]["problem"][:]
    except UserError as error:
        return f"held out: not checked, since the training data cannot be loaded: {error}"
    hint = "" if split == "test" else f" (with --split {split}; --split test leaves them out)"
    require_held_out(known, problems["problem"][:], source=f"{run} was trained on problems it is evaluated on{hint}")
    return f"held out: none of these is among the {len(known)} problems of {run}'s training data (by hash)"


def describe(row: dict[str, Any], result: ProblemResult) -> dict[str, Any]:
    """One problem in the JSON file: `right` of its samples are right, `majority` is what the vote of all is worth."""
    return {
        "problem": row["problem"],
        "level": row["level"],
        "answer": row["answer"],
        "greedy": result.greedy,
        "right": round(sum(result.right)),
        "majority": majority_at_k(result.votes, result.right, len(result.right)),
    }


def show(record: dict[str, Any], say: Console) -> None:
    """The table, and how to read it."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=plain(f"{record['model']}: accuracy on {record['n']} problems, {record['k']} samples each"))
    for name in ("", "accuracy", "standard error", "95 % interval"):
        table.add_column(name, justify="left" if not name else "right")
    for name in [name.removesuffix("_ci") for name in record if name.endswith("_ci")]:
        low, high = record[f"{name}_ci"]
        table.add_row(name, f"{record[name]:.3f}", f"{record[f'{name}_se']:.3f}", f"{low:.3f} to {high:.3f}")
    Console().print(table)
    say.line(*notes(record))


def notes(record: dict[str, Any]) -> Sequence[str]:
    """What a reader of the table should know."""
    lines = [
        "pass@k: one of k tries is right; maj@k: the commonest of k answers is (ties by lot, no box no vote). Both are means",
        "over all sets of k of the samples. Standard errors and intervals (bootstrap) are over problems.",
        f"{record['truncated_fraction']:.1%} of the samples were cut off, {record['unanswered_fraction']:.1%} have no "
        r"\boxed{} answer; both count as wrong.",
    ]
    if record["truncated_fraction"] > LIMITS.truncated:
        lines.append(f"warning: more --max_completion_tokens than {record['max_completion_tokens']} would help.")
    if record["greedy"] in (0.0, 1.0) or record["pass@1"] in (0.0, 1.0):
        bound = min(1.0, 3 / record["n"])
        lines.append(
            f"where all problems agree the interval has no width; read it as within {bound:.3f} (3 / problems)."
        )
    return lines


def run_and_report(argv: list[str] | None = None) -> None:
    """`main`, with what a user can mend told in one line."""
    try:
        main(argv)
    except (UserError, RewardError) as error:
        quiet_exit(f"error: {error}", 2)


if __name__ == "__main__":
    run_and_report(sys.argv[1:])
