"""The page of a run: it says what the numbers support, needs no network, and cannot be taken over by a model's text."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from full import page
from full.errors import UserError
from full.report import html as run_page
from tests import browser

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "notebooks" / "data" / "run-08"
HOSTILE = '\n  </script></div><img src=x onerror="window.hacked=1"> &lt;b&gt; {{ 7*7 }} <!-- \t\u202e\'end\\boxed{1}\n'


def copy_run(folder: Path, *, samples=None, rows=None, **changes) -> Path:
    """A copy of the example run, with other completions, metrics or options."""
    shutil.copytree(EXAMPLE, folder)
    config = yaml.safe_load((folder / "config.yaml").read_text()) | changes
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    for name, lines in (("completions.jsonl", samples), ("metrics.jsonl", rows)):
        if lines is not None:
            (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def sample(step: int, completion: str, *, reward: float = 0.0, truncated: bool = False, **changes) -> dict:
    record = {
        "step": step,
        "problem": f"Problem {step}",
        "prompt": f"user {step}",
        "completion": completion,
        "answer": "7",
    }
    return record | {"reward": reward, "truncated": truncated, "reward/accuracy": reward} | changes


class Document(HTMLParser):
    """The tags of a page, its whole text, and the texts of its elements by class."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text, self.by_class, self._open = "", {}, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "input", "wbr"):
            box = []
            self._open.append((tag, box))
            self.text += " " if tag in ("td", "th", "li") else ""
            for name in (dict(attrs).get("class") or "").split():
                self.by_class.setdefault(name, []).append(box)

    def handle_endtag(self, tag):
        if self._open and self._open[-1][0] == tag:
            self._open.pop()

    def handle_data(self, data):
        if not any(tag in ("script", "style") for tag, _ in self._open):
            self.text += data
            for _, box in self._open:
                box.append(data)

    def texts(self, name: str) -> list[str]:
        return ["".join(box) for box in self.by_class.get(name, [])]

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


def read(path: Path) -> Document:
    return Document(path.read_text(encoding="utf-8"))


@pytest.fixture
def no_curves(monkeypatch):
    """Drawing takes nearly all of the time of a page, and most tests look at something else."""
    monkeypatch.setattr(run_page, "curves", lambda record: [])


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    return run_page.write_report(copy_run(tmp_path_factory.mktemp("runs") / "run-08"))


def test_the_page_of_the_example_run(example):
    words = read(example).words
    assert example.name == "report.html" and example.stat().st_size < 1_000_000
    # By hand from summary.json: 0.7516 - 0.3688, and sqrt(0.01719^2 + 0.01539^2).
    assert "Sampled pass@1 rose by +0.383 ± 0.023: more than noise" in words
    assert "Greedy accuracy rose by +0.346 ± 0.019" in words
    assert "Greedy accuracy rose too, which sharpening alone would hardly explain." in words
    for told in (
        "seed 0",
        "apo",
        "schedule guarded",
        "150 of 150",
        "2 min 33 s",
        "795 MB",
        "Nothing found in 150 steps",
    ):
        assert told in words, told
    assert "2.13.0+cpu" in words and "arithmetic (generated), level all, split test" in words


def test_the_page_tells_what_clipping_means(example, tmp_path):
    means = "A clipped gradient has the length max_grad_norm"
    often = read(run_page.write_report(copy_run(tmp_path / "often", max_grad_norm=1.0))).words
    assert f"150 of 150 steps were clipped to max_grad_norm 1. {means}" in often
    seldom = read(example).words
    assert "1 of 150 steps were clipped to max_grad_norm 10." in seldom
    assert seldom.count(means) == often.count(means) - 1  # it is in the glossary too


def test_every_curve_has_a_description_and_a_caption(example):
    text = example.read_text(encoding="utf-8")
    described = [attrs["aria-label"] for tag, attrs in read(example).tags if attrs.get("role") == "img"]
    assert text.count("<svg") == text.count("<figcaption>") == len(described) == 10
    # The first and the last tenth of the steps, by hand.
    rewards = [json.loads(line)["reward_mean"] for line in (EXAMPLE / "metrics.jsonl").read_text().splitlines()]
    first, last = sum(rewards[:15]) / 15, sum(rewards[-15:]) / 15
    assert (
        f"reward_mean from {first:.3f} to {last:.3f}, between {min(rewards):.3f} and {max(rewards):.3f}" in described[0]
    )
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))  # each figure has ids of its own
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    assert used <= set(ids)


def test_equal_runs_give_equal_pages_without_a_date(example, tmp_path):
    again = run_page.write_report(copy_run(tmp_path / "run-08"))
    assert again.read_bytes() == example.read_bytes()
    assert not re.search(r"20[2-9]\d-\d\d-\d\d", again.read_text(encoding="utf-8"))


def test_nothing_is_loaded_from_elsewhere(example):
    text = example.read_text(encoding="utf-8")
    for value in re.findall(r'\b(?:src|href|srcset|data|action)="([^"]*)"', text):
        assert value.startswith(("#", "data:")), value
    for address in re.findall(r"https?://[^\s\"'<)]+", text):
        assert address.startswith("http://www.w3.org/"), address  # names of namespaces
    assert "@import" not in text and "url(http" not in text
    policy = next(a["content"] for tag, a in read(example).tags if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and "unsafe-inline'; script" not in policy


def accuracies(sampled: float, greedy: float, error: float = 0.01, **more: float) -> dict:
    values = {"pass@1": sampled, "greedy": greedy, **more}
    return {**values, **{f"{key}_se": error for key in values}, "n": 100}


@pytest.mark.parametrize(
    ("before", "after", "said", "unsaid"),
    [
        # The error of a difference is 0.01 sqrt(2) = 0.0141, twice that 0.0283.
        ((0.30, 0.50), (0.325, 0.49), ["Sampled pass@1 moved by +0.025 ± 0.014: within noise"], ["sharpening"]),
        ((0.30, 0.50), (0.335, 0.52), ["Sampled pass@1 rose by +0.035", "This is sharpening"], ["hardly explain"]),
        ((0.30, 0.50), (0.40, 0.60), ["Greedy accuracy rose too, which sharpening alone"], ["This is", "that part"]),
        ((0.30, 0.50), (0.60, 0.60), ["hardly explain", "Still, 0.200 of the sampled gain"], ["This is sharpening"]),
        ((0.30, 0.50), (0.20, 0.60), ["Sampled pass@1 fell by -0.100 ± 0.014: more than noise"], ["sharpen"]),
    ],
)
def test_the_verdict_tells_noise_from_sharpening_from_more(before, after, said, unsaid):
    told = " ".join(run_page.verdict(accuracies(*before), accuracies(*after)))
    assert all(part in told for part in said) and not any(part in told for part in unsaid), told


def test_more_solved_within_several_tries_is_more_than_sharpening():
    before = accuracies(0.30, 0.50, **{"pass@2": 0.5, "pass@8": 0.70, "maj@8": 0.5})
    better = accuracies(0.40, 0.50, **{"pass@2": 0.5, "pass@8": 0.80, "maj@8": 0.5})
    same = accuracies(0.40, 0.50, **{"pass@2": 0.6, "pass@8": 0.71, "maj@8": 0.6})
    assert "Accuracy within 8 tries rose too" in " ".join(run_page.verdict(before, better))
    assert "This is sharpening" in " ".join(run_page.verdict(before, same))
    table = {row[0]: row[1:] for row in run_page.accuracy_table(before, better)}
    assert table["pass@8"] == ("0.700 ± 0.010", "0.800 ± 0.010", "+0.100 ± 0.014")
    assert list(table) == ["sampled pass@1", "greedy", "pass@2", "pass@8", "maj@8"]


def flat_rows(count: int, **changes) -> list[dict]:
    row = json.loads((EXAMPLE / "metrics.jsonl").read_text().splitlines()[0])
    rewards = {"reward_mean": 0.4, "alpha": 0.6, "improvement": 0.0}
    return [{**row, **rewards, **changes, "step": step} for step in range(1, count + 1)]


def test_what_the_failure_monitor_saw_is_told_with_its_remedy(tmp_path, no_curves):
    rows = flat_rows(60)
    rows[50]["grad_norm"] = 1e4
    document = read(run_page.write_report(copy_run(tmp_path / "run", rows=rows)))
    assert "Step 51. Gradient instability: the gradient norm is 1e+04" in document.words
    assert "What to do: Clip the gradient (max_grad_norm), lower lr" in document.words
    assert "Nothing found" not in document.words


def test_the_monitor_knows_the_top_of_the_schedule_as_the_trainer_does(tmp_path):
    rows = flat_rows(60, alpha=0.9)
    guarded = run_page.read_run(copy_run(tmp_path / "guarded", rows=rows))
    fixed = run_page.read_run(copy_run(tmp_path / "fixed", rows=rows, schedule="fixed", alpha=0.9))
    assert [finding.signature for finding in run_page.findings(guarded)] == ["stagnant_exploration"]
    assert run_page.findings(fixed) == []  # an alpha that is meant to be constant is no finding


def test_a_run_that_was_killed_has_a_page_too(tmp_path, no_curves):
    run = copy_run(tmp_path / "killed")
    (run / "summary.json").unlink()
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:75]) + lines[75][:40])  # cut off within a line
    words = read(run_page.write_report(run)).words
    assert "Unfinished: 75 of 150 steps are logged" in words and f"--resume {run}" in words
    # The evaluations after steps 30 and 60 are compared; what was before is not known yet.
    assert "after step 30 after step 60 gain" in words and "before after" not in words


@pytest.mark.parametrize("steps", [0, 1])
def test_a_run_killed_at_once_has_a_page_too(tmp_path, steps):
    rows = flat_rows(steps)
    run = copy_run(tmp_path / "killed", rows=rows, samples=[])
    (run / "summary.json").unlink()
    if not steps:
        (run / "metrics.jsonl").unlink()
        (run / "completions.jsonl").unlink()
    document = read(run_page.write_report(run))
    assert f"{steps} of 150 steps are logged" in document.words and "None were logged." in document.words
    assert len([tag for tag, _ in document.tags if tag == "figure"]) == (9 if steps else 0)  # all but the accuracy


def test_text_of_a_model_stays_text(tmp_path, no_curves):
    hostile = sample(0, HOSTILE, problem=HOSTILE, prompt=HOSTILE, answer=HOSTILE, **{f"reward/{HOSTILE}": 0.0})
    run = copy_run(tmp_path / "run", samples=[hostile], data=HOSTILE, model=HOSTILE, other=HOSTILE)
    document = read(run_page.write_report(run))
    tags = [tag for tag, _ in document.tags]
    assert "img" not in tags and "b" not in tags and tags.count("script") == 1
    assert document.texts("completion") == [HOSTILE, HOSTILE]  # to the last space: the completion and the prompt
    assert document.texts("problem") == [HOSTILE]


def test_characters_that_no_file_can_hold_are_shown_as_what_they_are(tmp_path, no_curves):
    run = copy_run(tmp_path / "run", samples=[sample(0, "a\x00b\rc\ud83dd\x1b[31m\u2028e")])
    assert read(run_page.write_report(run)).texts("completion")[0] == "a\u2400b\u240dc\ufffdd\u241b[31m\u2028e"


def test_completions_are_shown_by_prompt_with_what_they_earned(tmp_path, no_curves):
    samples = [sample(0, "one", reward=1.0), sample(0, "two", truncated=True), sample(2, "three", answer="9")]
    samples += [sample(2, "four", answer="9", **{"reward": 0.5, "reward/accuracy": 0.0, "reward/format": 0.5})]
    document = read(run_page.write_report(copy_run(tmp_path / "run", samples=samples)))
    assert len(document.texts("group")) == 2
    assert "After 0 steps: 1 of 2 solved" in document.words and "After 2 steps: 0 of 2 solved" in document.words
    marks = [" ".join(text.split()) for text in document.texts("marks")]
    assert marks == [
        "solved reward 1", "not solved reward 0 truncated", "not solved reward 0",
        "not solved reward 0.500 accuracy 0 format 0.500",
    ]  # fmt: skip
    assert "all (4)" in document.words and "not solved (3)" in document.words and "truncated (1)" in document.words


def test_a_reward_of_ones_own_counts_as_solved_from_1(tmp_path, no_curves):
    samples = [{k: v for k, v in sample(0, "x", reward=r).items() if k != "reward/accuracy"} for r in (0.9, 1.0)]
    document = read(run_page.write_report(copy_run(tmp_path / "run", samples=samples)))
    assert "Solved means a reward of 1 or more." in document.words and "After 0 steps: 1 of 2 solved" in document.words


def test_a_huge_run_is_thinned_and_says_so(tmp_path, no_curves):
    samples = [sample(step, "x" * 30_000, problem="p") for step in range(400)]  # 12 MB of text
    out = run_page.write_report(copy_run(tmp_path / "run", samples=samples))
    document = read(out)
    # Each is cut to 20,000 characters: 8 MB, so every sixth stays.
    assert "Every 6th prompt is shown" in document.words and len(document.texts("group")) == 67
    assert "10000 more characters are in completions.jsonl." in document.words
    assert out.stat().st_size < 2_000_000


def test_options_are_compared_with_their_defaults(tmp_path, no_curves):
    run = copy_run(tmp_path / "run", no_such_option="from another version", lr=1e-6)
    older = yaml.safe_load((run / "config.yaml").read_text())
    del older["lora_rank"]
    (run / "config.yaml").write_text(yaml.safe_dump(older))
    rows = {row["name"]: row for row in run_page.option_rows(run_page.read_run(run))}
    assert rows["group_size"]["changed"] and (rows["group_size"]["value"], rows["group_size"]["default"]) == (8, 6)
    assert "Completions per prompt" in rows["group_size"]["help"]
    assert not rows["lr"]["changed"] and not rows["tau_anc"]["changed"] and not rows["reward_weights"]["changed"]
    assert rows["reward"]["changed"] and rows["reward"]["default"] == ["accuracy_or_repetition"]
    assert rows["no_such_option"]["changed"] and "No option" in rows["no_such_option"]["help"]
    assert "Not recorded" in rows["lora_rank"]["help"]
    text = " ".join(read(run_page.write_report(run)).texts("changed"))
    assert "group_size" in text and "no_such_option" in text and "tau_anc" not in text


def test_values_outside_their_range_are_pointed_at(tmp_path, no_curves):
    rows = flat_rows(5)
    rows[1]["clip_fraction"], rows[2]["ess"], rows[3]["loss"], rows[4]["own"] = 1.5, 8.1, float("nan"), 3.0
    document = read(run_page.write_report(copy_run(tmp_path / "run", rows=rows)))
    assert sorted(document.texts("alarm")) == ["1 not finite", "1 outside the range", "1 outside the range"]
    assert "Not in this version's glossary." in document.words  # of the metric "own"


def test_the_table_of_steps_has_both_ends():
    assert run_page.thin(list(range(150)), 25)[::24] == [0, 149] and len(run_page.thin(list(range(150)), 25)) == 25
    assert run_page.thin([1, 2], 25) == [1, 2]


def test_the_command_line(tmp_path):
    run = copy_run(tmp_path / "run-08")
    out = subprocess.run(
        [sys.executable, "full/page.py", str(run)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert out.returncode == 0, out.stderr
    assert out.stdout.startswith(f"{run / 'report.html'}: 0.") and (run / "report.html").exists()
    with pytest.raises(
        SystemExit, match="error: .*nowhere holds no readable config.yaml; expected the folder of a run"
    ):
        page.main([str(tmp_path / "nowhere")])
    with pytest.raises(UserError):
        run_page.write_report(tmp_path)


@pytest.mark.browser
@pytest.mark.timeout(120)
@pytest.mark.skipif(
    importlib.util.find_spec("playwright") is None or browser.chromium() is None, reason="no Playwright or no Chromium"
)
def test_the_viewer_in_a_browser(tmp_path):
    samples = [sample(0, HOSTILE, reward=1.0, problem=HOSTILE, prompt=HOSTILE, answer=HOSTILE)]
    for step in range(2, 42, 2):
        samples += [
            sample(step, f"Needle {step}", reward=float(step % 4 == 0)),
            sample(step, "hay", truncated=step > 30),
        ]
    out = run_page.write_report(copy_run(tmp_path / "run", samples=samples))
    with browser.browser() as page:
        page.context.set_offline(True)
        page.goto(out.as_uri())
        shown = page.locator(".sample:visible")
        status = page.locator("#status")

        # A model's text is text: the browser's own parser agrees, and keeps its white space.
        assert page.locator("img").count() == 0 and page.evaluate("window.hacked") is None
        assert page.locator(".completion").first.evaluate("(box) => box.textContent") == HOSTILE
        assert page.locator(".completion").first.evaluate("(box) => getComputedStyle(box).whiteSpace") == "pre-wrap"

        assert status.inner_text() == "41 completions of 21 prompts match."
        assert page.locator(".group:visible").count() == 5 and page.locator("#where").inner_text() == "Page 1 of 5"
        page.locator("#next").press("Enter")
        assert page.locator("#where").inner_text() == "Page 2 of 5"
        assert "After 10 steps" in page.locator(".group:visible h3").first.inner_text()

        # By keyboard: from "all" to "solved", "not solved", "truncated".
        page.locator("input[value=all]").focus()
        for kind, count in (("solved", 11), ("unsolved", 30), ("truncated", 5)):
            page.keyboard.press("ArrowRight")
            assert page.locator("input[name=show]:checked").get_attribute("value") == kind
            assert status.inner_text().startswith(f"{count} completions of ")
        assert all("truncated" in text for text in shown.all_inner_texts()) and shown.count() == 5

        page.locator("input[value=all]").check()
        page.get_by_label("Text").fill("NEEDLE 3")
        assert status.inner_text() == "5 completions of 5 prompts match."  # 30, 32, ..., 38
        page.get_by_label("From step").fill("32")
        page.get_by_label("to step", exact=True).fill("34")
        assert [text.split()[-1] for text in shown.all_inner_texts()] == ["32", "34"]
        page.get_by_label("Text").fill("<img")
        assert status.inner_text().startswith("No completion matches") and shown.count() == 0

        for width in (1280, 390):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.outside == [] and page.errors == []

        # Without scripts everything can be read.
        plain = page.context.browser.new_context(java_script_enabled=False).new_page()
        plain.goto(out.as_uri())
        assert plain.locator(".sample:visible").count() == 41 and not plain.locator("#filters").is_visible()


def test_the_trackers_address_is_shown(tmp_path):
    run = copy_run(tmp_path / "run")
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | {"tracker_url": "https://tracker.example/<run>"}))
    page = run_page.write_report(run).read_text()
    assert "<dt>tracker</dt><dd>https://tracker.example/&lt;run&gt;</dd>" in page
