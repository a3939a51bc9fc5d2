"""What tests/benchmarks/gpu_day.sh does: each item in a process of its own, within its time; what fails is recorded.

The items, in the order of what is wanted most:

    doctor   the examination of the paper's yaml: its plan, memory and seconds
    hf       two steps of the paper's yaml with the embedded engine: peak and seconds beside the doctor's
    tests    the suite's tests that need a GPU (pytest -m gpu)
    decode   bench_decode.py: milliseconds a sampled token without and with CUDA graphs, and the kernels they go to
    lora     two steps with adapters, their base in bfloat16, in micro-batches that fit 24 GB
    less     two steps of the paper's yaml in micro-batches that fit 48 GB
    vllm     two steps with vLLM, where it is installed
    trl      bench_trl.py, the large case
    no       one step in float32 (--mixed_precision no)

The model has the shape of Qwen3-1.7B, random weights and the project's tokenizer, so that nothing is downloaded; its
completions hardly ever end by themselves. The problems are sums, the rewards drawn by a fixed rule, so that every group trains.
Items that need not be alone may run at once, as calls of their own (--only, --model).
"""

import argparse
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAPER = "full/configs/qwen3_1.7b_math_l3.yaml"
# Longest that each may take, seconds; together 25 minutes at most.
LIMITS = {
    "doctor": 200,
    "hf": 300,
    "tests": 150,
    "decode": 100,
    "lora": 240,
    "less": 240,
    "vllm": 240,
    "trl": 270,
    "no": 150,
}
PACKAGES = ("torch", "transformers", "accelerate", "peft", "trl", "vllm", "deepspeed")


def output_of(command: list[str]) -> str:
    """What a command prints; "" where it cannot be run."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=ROOT).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def facts() -> dict[str, Any]:
    """Card, driver, versions and the commit, without loading torch here."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    query = "--query-gpu=name,driver_version,memory.total,compute_cap,power.limit"
    ask_torch = (
        "import json, torch; on = torch.cuda.is_available(); "
        "print(json.dumps({'cuda': torch.version.cuda, 'available': on, 'device': on and torch.cuda.get_device_name(), "
        "'memory': on and torch.cuda.mem_get_info()}))"
    )
    said = output_of([sys.executable, "-c", ask_torch])
    return {
        "card": output_of(["nvidia-smi", query, "--format=csv,noheader"]) or None,
        "torch": json.loads(said) if said else None,
        "versions": found,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "commit": output_of(["git", "rev-parse", "HEAD"]) or None,
        "date": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
    }


def make_model(where: Path, *, rehearse: bool) -> Path:
    """The model of the day: Qwen3-1.7B's shape, or, to rehearse, one that a CPU computes in a second."""
    sys.path.insert(0, str(ROOT))
    if rehearse:
        from tests.helpers import save_small_model

        return save_small_model(where / "small", max_position_embeddings=4096)
    from tests.benchmarks.bench_trl import make_large

    return make_large(where)


def commands(model: Path, where: Path, *, rehearse: bool) -> dict[str, list[str]]:
    """The command line of each item."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "full/configs/accelerate/one.yaml"]
    # Only places and lengths of time differ from the paper's yaml.
    run = ["full/train.py", "--config", PAPER, "--model", str(model), "--data", "arithmetic", "--level", "all"]
    run += [
        "--eval_problems",
        "4",
        "--eval_every",
        "0",
        "--save_every",
        "0",
        "--model_dtype",
        "bfloat16",
        "--overwrite",
        "true",
        "--reward",
        "tests.benchmarks.bench_trl:reward",
    ]
    if rehearse:
        run += [
            "--prompts_per_batch",
            "4",
            "--mini_batch_prompts",
            "2",
            "--max_completion_tokens",
            "8",
            "--eval_problems",
            "4",
        ]
        run += ["--cpu_threads", "1"]
    two = [*run, "--steps", "2", "--output_dir"]
    bench = ["tests/benchmarks/bench_trl.py", "--pairs", "2"]
    bench += ["--only", "short"] if rehearse else ["--only", "large", "--model", str(model)]
    return {
        "doctor": [*launch, *run, "--doctor", "--output_dir", str(where / "doctor")],
        "hf": [*launch, *two, str(where / "hf")],
        "tests": [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-m",
            "gpu",
            *map(str, sorted((ROOT / "tests").glob("test_gpu*.py"))),
        ],
        "decode": [
            sys.executable,
            "tests/benchmarks/bench_decode.py",
            "--profile",
            "--json",
            str(where / "decode.json"),
        ]
        + (["--rows", "6", "--prompts", "8", "--tokens", "4"] if rehearse else ["--model", str(model)]),
        "lora": [*launch, *two, str(where / "lora"), "--lora_rank", "16", "--lr", "1e-5", *sizes(4352, 56)],
        "less": [*launch, *two, str(where / "less"), *sizes(2304, 64)],
        "vllm": [*launch, *two, str(where / "vllm"), "--engine", "vllm"],
        "trl": [sys.executable, *bench, "--json", str(where / "trl.json")],
        "no": [*launch, "--mixed_precision", "no", *run, "--steps", "1", "--output_dir", str(where / "no")],
    }


def sizes(tokens: int, rows: int) -> list[str]:
    """The options that decide how much memory a run takes."""
    return ["--micro_batch_tokens", str(tokens), "--generation_rows", str(rows)]


def attempt(command: list[str], seconds: float) -> dict[str, Any]:
    """Run a command within its time; what became of it. Its processes end with it."""
    started = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=seconds)
        outcome = "done" if process.returncode == 0 else "failed"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        said, _ = process.communicate()
        outcome = f"stopped after its {seconds:.0f} s"
    return {
        "command": " ".join(command),
        "outcome": outcome,
        "code": process.returncode,
        "seconds": round(time.perf_counter() - started, 1),
        "said": said[-12000:],
    }


def figures(name: str, where: Path) -> dict[str, Any]:
    """The numbers that an item left: of a run its steps, its peak; of the comparison with TRL all."""
    if name in ("trl", "decode"):
        path = where / f"{name}.json"
        return {"found": json.loads(path.read_text())} if path.exists() else {}
    found: dict[str, Any] = {}
    metrics, summary = where / name / "metrics.jsonl", where / name / "summary.json"
    if metrics.exists():
        keys = (
            "seconds_generate",
            "seconds_update",
            "tokens_per_second",
            "completion_length",
            "grad_norm",
            "out_of_memory",
        )
        rows = [json.loads(line) for line in metrics.read_text().splitlines()]
        found["steps"] = [{key: row[key] for key in keys if key in row} for row in rows]
    if summary.exists():
        record = json.loads(summary.read_text())
        found |= {"peak_bytes": record["peak_memory_bytes"], "run_seconds": record["seconds"]}
    return found


def estimate(said: str) -> dict[str, str]:
    """The doctor's lines on memory and time, as it says them."""
    lines = [re.sub(r"\s+", " ", line).strip(" │|") for line in said.splitlines()]
    wanted = (
        "at most",
        "activations",
        "sampling",
        "optimiser",
        "in use",
        "a batch",
        "a step",
        "the run",
        "an evaluation",
    )
    return {word: line for line in lines for word in wanted if line.startswith(word)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=Path("gpu_day.json"), help="Where the JSON goes; rewritten after each item."
    )
    parser.add_argument("--only", nargs="+", choices=LIMITS, default=list(LIMITS), help="These items.")
    parser.add_argument(
        "--minutes", type=float, default=25.0, help="For all together; what does not begin in time is left out."
    )
    parser.add_argument("--model", type=Path, help="A folder with the model, as bench_trl.py's make_large writes it.")
    parser.add_argument("--rehearse", action="store_true", help="On a CPU, with a tiny model.")
    options = parser.parse_args()
    deadline = time.monotonic() + 60 * options.minutes
    record: dict[str, Any] = {"rehearsal": options.rehearse, "facts": facts(), "items": {}}
    if options.rehearse:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif not (record["facts"]["torch"] or {}).get("available"):
        raise SystemExit("no GPU that torch can use; --rehearse tries the script on a CPU")
    with tempfile.TemporaryDirectory(prefix="gpu_day-") as folder:
        where = Path(folder)
        model = options.model or make_model(where, rehearse=options.rehearse)
        plan = commands(model.absolute(), where, rehearse=options.rehearse)
        for name in options.only:
            left = deadline - time.monotonic()
            if name == "vllm" and importlib.util.find_spec("vllm") is None:
                record["items"][name] = {"outcome": "left out: vllm is not installed"}
            elif left < 30:
                record["items"][name] = {"outcome": "left out: no time was left"}
            else:
                item = attempt(plan[name], min(LIMITS[name], left))
                if name == "tests" and item["code"] == 5:
                    item["outcome"] = "no test is marked gpu"
                item |= {"estimate": estimate(item["said"])} if name == "doctor" else figures(name, where)
                record["items"][name] = item
                for part in ("checkpoints", "model"):  # 24 GB a run
                    shutil.rmtree(where / name / part, ignore_errors=True)
            print(
                f"{name:>8}: {record['items'][name]['outcome']}, {record['items'][name].get('seconds', 0)} s",
                flush=True,
            )
            options.out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
