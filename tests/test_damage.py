"""Whatever has happened to a run's folder, page.py and compare.py say so in one line and show the rest."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from full import compare, page, train
from full.report.comparison import read_finished_run
from full.report.html import write_report
from full.runs import read_run
from tests.helpers import save_small_model, small_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    model = save_small_model(tmp_path_factory.mktemp("model"))
    run = tmp_path_factory.mktemp("finished") / "run"
    train.main(small_run(model, run, steps=3, eval_every=2))
    samples = [{"problem": f"p{i}", "right": i, "majority": 0.0} for i in range(2)]
    (run / "eval.json").write_text(json.dumps({"k": 2, "data": "arithmetic", "problems": samples}))
    return run


def edit(name: str, change):
    """A damage: change the text of a file."""

    def damage(run: Path) -> None:
        path = run / name
        path.write_text(change(path.read_text()))

    return damage


def config(**values):
    return edit("config.yaml", lambda text: yaml.safe_dump(yaml.safe_load(text) | values))


def line(number: int, **values):
    """Change one line of metrics.jsonl."""

    def change(text: str) -> str:
        rows = [json.loads(row) for row in text.splitlines()]
        rows[number] |= values
        return "".join(json.dumps(row) + "\n" for row in rows)

    return edit("metrics.jsonl", change)


def summary(**values):
    return edit("summary.json", lambda text: json.dumps(json.loads(text) | values))


def replace(name: str, content: bytes | None):
    """Another content, or a folder of that name."""

    def damage(run: Path) -> None:
        path = run / name
        path.unlink()
        if content is None:
            path.mkdir()
        else:
            path.write_bytes(content)

    return damage


def loop(name: str):
    def damage(run: Path) -> None:
        (run / name).unlink()
        (run / name).symlink_to(run / name)

    return damage


# What happened, and the file that both commands must name. Of what is "no run" nothing can be shown.
NO_RUN = {
    "config.yaml removed": lambda run: (run / "config.yaml").unlink(),
    "config.yaml empty": replace("config.yaml", b""),
    "config.yaml a list": replace("config.yaml", b"[1, 2]"),
    "config.yaml no YAML": replace("config.yaml", b"a: [\n"),
    "config.yaml not UTF-8": replace("config.yaml", b"name: \xff\xfe"),
    "config.yaml NUL bytes": replace("config.yaml", bytes(100)),
    "config.yaml too deep": replace("config.yaml", b"[" * 2000),
    "config.yaml a folder": replace("config.yaml", None),
    "config.yaml a loop": loop("config.yaml"),
    "config.yaml keys no text": replace("config.yaml", b"1: 2\n"),
}
BROKEN = {
    "a number a text": (config(group_size="many"), "config.yaml"),
    "a number null": (config(alpha_max=None, max_grad_norm=None), "config.yaml"),
    "an option a table": (config(objective={"a": 1}, seed=[1]), "config.yaml"),
    "a size of zero": (config(group_size=0, mini_batch_prompts=0), "config.yaml"),
    "provenance a text": (config(provenance="lost"), "config.yaml"),
    "metrics cut within a line": (edit("metrics.jsonl", lambda text: text[: len(text) // 2] + "\n"), "metrics.jsonl"),
    "metrics with a broken line": (
        edit("metrics.jsonl", lambda text: text.replace("\n", "\n{broken\n", 1)),
        "metrics.jsonl",
    ),
    "metrics with other JSON": (edit("metrics.jsonl", lambda text: '[1]\nnull\n3\n"x"\n' + text), "metrics.jsonl"),
    "metrics without a step": (line(1, step="two"), "metrics.jsonl"),
    "metrics a text": (line(1, reward_mean="high", grad_norm={"a": 1}), "metrics.jsonl"),
    "metrics a number too large": (line(1, loss=10**400), "metrics.jsonl"),
    "metrics an evaluation in part": (line(1, **{"eval_pass@1": None, "eval_n": "8"}), "metrics.jsonl"),
    "metrics bytes": (replace("metrics.jsonl", bytes(range(256)) * 3 + b"\n"), "metrics.jsonl"),
    "metrics a folder": (replace("metrics.jsonl", None), "metrics.jsonl"),
    "metrics a loop": (loop("metrics.jsonl"), "metrics.jsonl"),
    "summary no JSON": (replace("summary.json", b"{"), "summary.json"),
    "summary a list": (replace("summary.json", b"[]"), "summary.json"),
    "summary too deep": (replace("summary.json", b"[" * 2000), "summary.json"),
    "summary empty": (replace("summary.json", b""), "summary.json"),
    "summary not UTF-8": (replace("summary.json", b"\xff\xfe{}"), "summary.json"),
    "summary without an evaluation": (summary(eval_after=None), "summary.json"),
    "summary with an evaluation of texts": (summary(eval_before={"pass@1": "0.5"}), "summary.json"),
    "summary with a time of text": (summary(seconds="long", peak_memory_bytes=None), "summary.json"),
    "summary without steps": (summary(steps=None), "summary.json"),
    "summary a folder": (replace("summary.json", None), "summary.json"),
}
SAMPLES = {
    "completions with a broken line": edit("completions.jsonl", lambda text: "{\n" + text),
    "completions with rewards of text": edit(
        "completions.jsonl", lambda text: text.replace('"reward": ', '"reward": "x", "y": ')
    ),
    "completions of other types": edit(
        "completions.jsonl",
        lambda text: '{"step": 0, "prompt": 1, "completion": null, "answer": [], "problem": {}}\n' + text,
    ),
    "completions a folder": replace("completions.jsonl", None),
}
EVALUATIONS = {
    "eval.json no JSON": replace("eval.json", b"{"),
    "eval.json a list": replace("eval.json", b"[]"),
    "eval.json without problems": replace("eval.json", b'{"k": 1}'),
    "eval.json with a k of text": replace("eval.json", b'{"k": "x", "problems": []}'),
    "eval.json with other problems": replace("eval.json", b'{"k": 1, "problems": [1]}'),
}


@pytest.fixture
def damaged(finished, tmp_path):
    """Damage a copy of the run."""

    def damage(what) -> Path:
        run = Path(shutil.copytree(finished, tmp_path / "run"))
        (run / "report.html").unlink()
        what(run)
        return run

    return damage


@pytest.fixture
def no_figure(monkeypatch):
    """compare.py without its figure: seconds, and of whole runs."""
    monkeypatch.setattr(compare, "draw", lambda groups, out: out.touch())


def compared(finished: Path, run: Path, capsys) -> str:
    """What compare.py says of a damaged run beside a whole one."""
    out = run.parent / "compare.png"
    compare.main([str(finished), str(run), "--out", str(out)])
    assert out.exists()
    said = capsys.readouterr().out
    assert "Traceback" not in said
    return said


@pytest.mark.parametrize("name", NO_RUN)
def test_without_a_configuration_there_is_no_run(damaged, finished, name, capsys, no_figure):
    run = damaged(NO_RUN[name])
    with pytest.raises(SystemExit) as caught:
        page.main([str(run), str(finished)])
    assert (
        str(caught.value)
        == f"error: {run} holds no readable config.yaml; expected the folder of a run, e.g. runs/apo-guarded-s0."
    )
    assert "report.html" in capsys.readouterr().out  # the other one is written all the same
    assert f"left out: {run} holds no r" in compared(finished, run, capsys)


@pytest.mark.parametrize("name", BROKEN)
def test_a_damaged_file_is_named_and_the_rest_is_shown(damaged, finished, name, capsys, no_figure):
    damage, file = BROKEN[name]
    run = damaged(damage)
    assert file in {where for where, _ in read_run(run).damage}
    text = write_report(run).read_text()
    assert "<strong>Damaged:</strong>" in text and f"<code>{file}</code>" in text
    assert f"left out: {run} is damaged ({file}: " in compared(finished, run, capsys)


@pytest.mark.parametrize("name", SAMPLES)
def test_damaged_completions_do_not_keep_a_run_from_being_compared(damaged, finished, name, capsys, no_figure):
    run = damaged(SAMPLES[name])
    text = write_report(run).read_text()
    assert ("<strong>Damaged:</strong>" in text) == ("other types" not in name)  # they are shown as text
    assert "repeats seed 0" in compared(finished, run, capsys)  # it was read


@pytest.mark.parametrize("name", EVALUATIONS)
def test_a_damaged_evaluation_is_named(damaged, finished, name, capsys, no_figure):
    run = damaged(EVALUATIONS[name])
    assert f"left out: {run} is damaged (eval.json: " in compared(finished, run, capsys)


def test_a_last_line_cut_off_by_a_kill_is_no_damage(damaged):
    run = damaged(edit("metrics.jsonl", lambda text: text + '{"step": 4, "rew'))
    assert read_run(run).damage == ()
    assert read_finished_run(run).record.rows[-1]["step"] == 3


def test_a_whole_run_has_no_damage(finished):
    assert read_run(finished).damage == ()
    assert "Damaged" not in write_report(finished).read_text()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(damaged):
    run = damaged(lambda run: (run / "metrics.jsonl").chmod(0))
    assert ("metrics.jsonl", "line 1") in read_run(run).damage


# Labels


def test_labels_are_shown_and_not_obeyed(finished, tmp_path, capsys):
    label = "./models[/red]/100$\\frac$[bold]x[/bold]:smile:\x1b[31mred\x07"
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    config(model=label)(run)
    said = compared(finished, run, capsys)
    assert "\x1b" not in said and "\x07" not in said
    assert label.replace("\x1b", "\u241b").replace("\x07", "\u2407") in "".join(
        said.replace("│", "").split("\n")
    ).replace(" ", "")
    write_report(run)


def test_what_a_prompt_or_an_error_says_is_shown_and_not_obeyed(capsys):
    from full.report.console import Console

    Console(main=True).line("\x1b[2Jgone\x9b", "tab\tand\nline")
    assert capsys.readouterr().out == "\u241b[2Jgone\ufffd\ntab\tand\nline\n"


def test_a_reader_that_is_gone_does_not_end_the_run():
    readable, writable = os.pipe()
    os.close(readable)
    code = (
        "import sys; from full.report.console import Console; console = Console(True)\n"
        "for _ in range(3): console.line('x' * 70000)\n"
        "print('end', file=sys.stderr)"
    )
    command = [sys.executable, "-c", code]
    out = subprocess.run(command, stdout=writable, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
    os.close(writable)
    assert (out.returncode, out.stderr) == (0, "end\n")


def test_the_page_of_a_whole_run_is_written_beside_one_that_is_none(finished, capsys):
    with pytest.raises(SystemExit, match="^error: /nowhere\u241b\\[31m holds no readable config.yaml"):
        page.main(["/nowhere\x1b[31m", str(finished)])
    assert capsys.readouterr().out.startswith(f"{finished / 'report.html'}: ")
