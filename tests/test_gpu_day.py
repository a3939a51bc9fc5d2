"""The script for a day with a GPU works, rehearsed on a CPU, with what fails recorded; the comparison with TRL is fair."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import Qwen3Config

from tests.benchmarks import bench_trl, gpu_day

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


def test_what_does_not_begin_in_its_minutes_is_left_out_and_recorded(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_day, "facts", dict)
    monkeypatch.setattr(gpu_day, "attempt", lambda command, seconds: pytest.fail(f"began {command}"))
    out, words = tmp_path / "day.json", ["--rehearse", "--only", "doctor", "trl", "--model", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["gpu_day.py", *words, "--minutes", "0.1", "--out", str(out)])
    gpu_day.main()
    left_out = {"outcome": "left out: no time was left"}
    assert json.loads(out.read_text())["items"] == {"doctor": left_out, "trl": left_out}


def test_the_comparison_with_trl_rewards_both_alike_and_every_group_trains():
    assert {name: case["goal"] for name, case in bench_trl.CASES.items() if name != "large"} == {
        "short": 2.8, "tailed": 2.5, "fixed": 1.1,
    }  # fmt: skip
    for case in bench_trl.CASES.values():
        count = case["prompts"] * case["group"]
        rewards = bench_trl.reward(None, ["text"] * count, None)
        assert rewards == bench_trl.drawn(count) and all(0 <= reward < 1 for reward in rewards)
        groups = [rewards[start : start + case["group"]] for start in range(0, count, case["group"])]
        assert all(len(set(group)) == case["group"] for group in groups)


def test_the_floor_of_the_comparison_by_hand(tmp_path):
    sizes = {"hidden_size": 10, "intermediate_size": 20, "num_hidden_layers": 3, "vocab_size": 100, "head_dim": 4}
    Qwen3Config(**sizes, num_attention_heads=5, num_key_value_heads=2).save_pretrained(tmp_path)
    # A layer: q and o of 10 x 20, k and v of 10 x 8, three of 10 x 20 in the MLP: 1,160. A token of 6 sees 18 + 3 others.
    body, head, attention = 2 * 3 * 1160, 2 * 10 * 100, 4 * 3 * 20 * (18 + 3)
    case = {"prompts": 2, "group": 4}
    wanted = 4 * (48 * (body + head + attention) + 2 * 18 * body)  # sampled, forward, twice backward
    assert bench_trl.matmul_operations(str(tmp_path), case, tokens=48) == wanted


def test_without_a_gpu_it_says_so():
    done = subprocess.run([str(SCRIPT)], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 1 and "no GPU that torch can use; --rehearse" in done.stderr
