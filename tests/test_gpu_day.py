"""The script for a day with a GPU works: rehearsed on a CPU, with what fails recorded."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks import gpu_day

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "tests" / "benchmarks" / "gpu_day.sh"


def day(*words: str, out: Path) -> dict:
    done = subprocess.run(
        [str(SCRIPT), "--rehearse", "--out", str(out), *words], capture_output=True, text=True, timeout=600, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(out.read_text())


def test_two_steps_are_rehearsed_and_recorded(tmp_path):
    record = day("--only", "hf", "vllm", out=tmp_path / "day.json")
    item = record["items"]["hf"]
    assert item["outcome"] == "done", item["said"]
    assert len(item["steps"]) == 2 and item["steps"][0]["seconds_generate"] > 0 and item["peak_bytes"] > 10**8
    assert item["steps"][1]["out_of_memory"] == 0
    assert record["facts"]["versions"]["torch"] and record["facts"]["commit"] and record["rehearsal"]
    assert record["facts"]["torch"]["available"] in (True, False)
    assert record["items"]["vllm"]["outcome"].startswith(("left out", "done", "failed"))


@pytest.mark.slow
def test_everything_is_rehearsed(tmp_path):
    record = day(out=tmp_path / "day.json")
    outcomes = {name: item["outcome"] for name, item in record["items"].items()}
    assert outcomes.pop("tests") in ("done", "no test is marked gpu")  # skipped, without one
    outcomes.pop("vllm")
    assert set(outcomes.values()) == {"done"}, record
    assert record["items"]["doctor"]["estimate"]["at most"]
    assert record["items"]["trl"]["pairs"]["short"][0]["ours"]["seconds"] > 0


def test_what_fails_or_lasts_too_long_is_recorded_with_what_it_said():
    failed = gpu_day.attempt([sys.executable, "-c", "print('so far'); raise SystemExit(3)"], 60)
    assert (failed["outcome"], failed["code"], failed["said"]) == ("failed", 3, "so far\n")
    endless = "import subprocess, sys, time; print('begun', flush=True); subprocess.run(['sleep', '60'])"
    late = gpu_day.attempt([sys.executable, "-c", endless], 2)
    assert late["outcome"] == "stopped after its 2 s" and late["said"] == "begun\n" and late["seconds"] < 30


def test_the_items_fit_in_their_time_and_differ_from_the_papers_run_in_places_and_lengths_alone(tmp_path):
    assert sum(gpu_day.LIMITS.values()) <= 33 * 60  # the last ones give way
    plan = gpu_day.commands(tmp_path / "model", tmp_path, rehearse=False)
    assert plan.keys() == gpu_day.LIMITS.keys()
    given = {word for word in plan["hf"] if word.startswith("--")} - {"--config_file"}
    assert given == {
        "--config", "--model", "--data", "--level", "--eval_problems", "--eval_every", "--save_every", "--model_dtype",
        "--overwrite", "--steps", "--output_dir", "--reward",
    }  # fmt: skip


def test_without_a_gpu_it_says_so():
    done = subprocess.run([str(SCRIPT)], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 1 and "no GPU that torch can use; --rehearse" in done.stderr
