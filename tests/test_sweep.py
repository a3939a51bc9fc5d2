"""Sweeps: the rows of a file, what is run and what is not run again, and the table."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from full import sweep
from full.config import parse_config
from full.errors import UserError
from full.trainer.batches import BatchPlan
from tests.helpers import save_small_model, small_run

ROOT = Path(__file__).parents[1]


def write(path: Path, **content) -> Path:
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def test_rows_are_arms_times_values_times_seeds(tmp_path):
    arms = {
        "apo": {"objective": "apo", "lr": [0.1, 0.2], "alpha": [0.0, 0.9]},
        "grpo": {"reward": ["accuracy", "format"]},
    }
    read = sweep.read_sweep(
        write(tmp_path / "s.yaml", arms=arms, seeds=[3, 4], options={"merge_lora": False}, base="b.yaml"), out=tmp_path
    )
    assert [(run.arm, run.seed) for run in read.runs[:4]] == [
        ("apo-lr0.1-alpha0.0", 3),
        ("apo-lr0.1-alpha0.0", 4),
        ("apo-lr0.1-alpha0.9", 3),
        ("apo-lr0.1-alpha0.9", 4),
    ]
    assert len(read.runs) == 2 * 2 * 2 + 2
    assert read.runs[-1].words == (
        *("--config", "b.yaml", "--merge_lora", "false", "--reward", "accuracy", "format", "--seed", "4"),
        *("--output_dir", str(tmp_path / "s" / "grpo-s4")),
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"arms": {"a": {}}}, "has no seeds; expected at least one"),
        ({"seeds": [0]}, "has no arms; expected at least one"),
        ({"arms": {"a": {}}, "seeds": [0, 0]}, "expected a list of different whole numbers"),
        ({"arms": {"a": 3}, "seeds": [0]}, "arm 'a' .* is 3; expected options"),
        ({"arms": {"a": {}}, "seeds": [0], "seed": 1}, "'seed' in .* is no key of a sweep"),
        ({"arms": {"a": {"objective": "gpro"}}, "seeds": [0]}, "arm 'a': .*gpro"),
    ],
)
def test_a_bad_file_is_one_line_before_anything_runs(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        sweep.main([str(write(tmp_path / "s.yaml", **content)), "--out", str(tmp_path / "out"), "--dry-run"])
    assert not (tmp_path / "out").exists()


def test_the_table_by_hand():
    rows = [
        {"arm": arm, "seed": seed, "pass@1 after": value}
        for arm, values in {"a": (0.5, 0.6), "b": (0.7, 0.6), "c": (0.1,)}.items()
        for seed, value in enumerate(values)
    ]
    a, b, c = sweep.table(rows, ["pass@1"])
    assert (a["mean"], a["difference"], a["seeds"]) == (pytest.approx(0.55), None, 2)
    # Differences 0.2 and 0: mean 0.1, standard error 0.1, and Student's t of one degree of freedom is 12.706.
    assert (b["difference"], b["won"], b["lost"]) == (pytest.approx(0.1), 1, 0)
    assert (b["low"], b["high"]) == (pytest.approx(0.1 - 1.2706, abs=1e-3), pytest.approx(0.1 + 1.2706, abs=1e-3))
    assert (c["difference"], c["low"], c["seeds"]) == (pytest.approx(-0.4), None, 1)


def test_a_sweep_runs_once_resumes_and_tells_what_failed(tmp_path, capsys):
    model = save_small_model(tmp_path / "model")
    words = small_run(model, tmp_path / "unused", steps=2)
    options = dict(zip((w.removeprefix("--") for w in words[::2]), words[1::2], strict=True))
    options.pop("output_dir")
    path = write(
        tmp_path / "s.yaml",
        arms={"apo": {"objective": "apo"}, "grpo": {"objective": "grpo"}},
        seeds=[0],
        options=options,
        logged=["push_hard"],
    )
    command = [sys.executable, "full/sweep.py", str(path), "--out", str(tmp_path / "out"), "--jobs", "1"]

    def start(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *more], cwd=ROOT, capture_output=True, text=True, timeout=300)

    one = start("--row", "1")
    assert one.returncode == 0, one.stderr
    runs = tmp_path / "out" / "s"
    assert (runs / "grpo-s0" / "summary.json").exists() and not (runs / "apo-s0").exists()
    before = (runs / "grpo-s0" / "summary.json").stat().st_mtime_ns
    rest = start()
    assert rest.returncode == 0, rest.stderr
    assert "2 runs, 1 of them done already" in rest.stdout
    assert (runs / "grpo-s0" / "summary.json").stat().st_mtime_ns == before
    assert "push_hard first,push_hard last" in (runs / "results.csv").read_text()
    assert [line.split(",")[:2] for line in (runs / "results.csv").read_text().splitlines()[1:]] == [
        ["apo", "0"],
        ["grpo", "0"],
    ]
    assert "difference to the first" in rest.stdout and re.search(r"1 of 1 runs, about .+ left", rest.stdout)
    sweep.main([str(path), "--out", str(tmp_path / "out"), "--dry-run"])
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["done", "done"]

    (runs / "apo-s0" / "summary.json").unlink()  # as if it had been killed in its last evaluation
    (runs / "grpo-s0" / "summary.json").unlink()
    (runs / "grpo-s0" / "config.yaml").write_text("steps: none\n")
    failed = start()
    assert json.loads((runs / "apo-s0" / "summary.json").read_text())["steps"] == 2
    assert failed.returncode != 0 and "1 of 2 runs failed" in failed.stderr and "Traceback" not in failed.stderr


def test_the_sweep_files_named_in_helps_and_scripts_exist():
    for path in (ROOT / "full" / "sweep.py", ROOT / "full" / "configs" / "cluster" / "slurm.sh", ROOT / "README.md"):
        for name in re.findall(r"full/configs/experiments/(\w+)\.yaml", path.read_text()):
            assert name == "NAME" or (ROOT / "full" / "configs" / "experiments" / f"{name}.yaml").exists(), (path, name)


def test_the_array_of_the_example_is_the_rows_of_its_sweep():
    for path in (ROOT / "full" / "configs" / "cluster" / "slurm.sh", ROOT / "README.md"):
        (found,) = re.findall(
            r"sbatch --array 0-(\d+) .*--sweep (full/configs/experiments/\w+\.yaml)", path.read_text()
        )
        assert int(found[0]) == len(sweep.read_sweep(ROOT / found[1]).runs) - 1, path


def test_the_examples_of_runs_on_a_cluster_keep_groups_whole():
    text = (ROOT / "full" / "configs" / "cluster" / "slurm.sh").read_text()
    per_node = int(re.search(r"#SBATCH --gpus-per-node=(\d+)", text)[1])
    found = re.findall(r"sbatch (?:--nodes (\d+) )?full\S+slurm.sh --config (full/configs/\S+\.yaml)", text)
    assert [nodes for nodes, _ in found] == ["", "3"]
    for nodes, path in found:
        config, _ = parse_config(["--config", str(ROOT / path)])
        assert BatchPlan(config, processes=per_node * int(nodes or 1)).splits_evenly, (nodes, path)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "full" / "configs" / "experiments").glob("*.yaml")), ids=lambda p: p.stem
)
def test_the_shipped_sweeps_can_be_read(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    read = sweep.read_sweep(path)
    sweep.check_options(read)
    assert read.question and len(read.runs) >= 2


def test_what_a_run_logged_is_averaged_over_its_first_and_last_quarter(tmp_path):
    lines = [
        {"step": step, "token_entropy": value} for step, value in enumerate((4.0, 2.0, 9.0, 9.0, 9.0, 9.0, 1.0, 0.0), 1)
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    assert sweep.logged(tmp_path, ["token_entropy"]) == {"token_entropy first": 3.0, "token_entropy last": 0.5}
    assert sweep.logged(tmp_path, []) == {}
    with pytest.raises(
        UserError, match=r"'entropy' is not in .*, which has step, token_entropy\. A run of an older version"
    ):
        sweep.logged(tmp_path, ["entropy"])
