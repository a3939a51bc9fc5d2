"""What the pages about the experiments say stands in the experiments' tables, and every table can be made again."""

import math
import re
import shlex
from dataclasses import replace
from functools import cache
from pathlib import Path

import nbformat
import pytest
import torch

from toys import experiments
from toys.experiments import claims, schedules
from toys.experiments.__main__ import main
from toys.experiments.show import overview, section
from toys.experiments.table import Table
from toys.questions import lesson_12

ROOT = Path(__file__).parents[1]
RESULTS = claims.RESULTS
TABLES = {path.stem: Table.read(path) for path in sorted(RESULTS.glob("*.csv"))}
ALL = experiments.load()
PAGES = ("README.md", "SETTINGS.md", "NEGATIVE.md")
NUMBER = r"[+-]?\d[\d,]*\.?\d*(?:e-?\d+)?"
INTERVAL = re.compile(rf"({NUMBER}) \[({NUMBER}), ({NUMBER})\]")
# Numbers of pilot runs and of runs for looking around, which NEGATIVE.md tells as such; no table holds them.
TOLD_ONLY = {
    "NEGATIVE.md": {"0.065", "0.031", "0.022", "0.018", "+0.10 [0.09, 0.12]"},
}  # fmt: skip


def plain(text: str) -> str:
    return text.replace("\N{MINUS SIGN}", "-")


def shown(number: str, value: float) -> bool:
    """Whether a printed number is this value, rounded to the digits printed."""
    digits = len(number.partition("e")[0].partition(".")[2])
    power = int(number.partition("e")[2] or 0)
    return abs(float(number.replace(",", "")) - value) <= 0.5000001 * 10 ** (power - digits) + 1e-6 * abs(value)


def blocks(text: str) -> list[str]:
    """Paragraphs, items and table rows, each on one line."""
    parts = re.split(r"\n\s*\n|\n(?=\s*(?:- |\||#))", plain(text))
    return [" ".join(part.split()) for part in parts if part.strip()]


def named(block: str) -> list[str]:
    """The experiments whose tables a block points at, by file or by name in backticks."""
    return [name for name in TABLES if re.search(rf"(\b{name}\.csv|`{name}`)", block)]


@cache
def values_of(name: str) -> list[tuple[float, float, float]]:
    return [(row.mean, row.low, row.high) for row in TABLES[name]]


@cache
def numbers_of(name: str) -> list[float]:
    """Every number of a table, and those in the experiment's own words and verdict."""
    rows = [value for row in TABLES[name] for value in (row.mean, row.low, row.high, row.median)]
    places = [value for row in TABLES[name] for value in (row.alpha, row.x, float(row.seeds))]
    experiment, about = ALL[name], TABLES[name].about
    words = " ".join((*about.values(), experiment.theory, experiment.settings, experiment.controls, experiment.rule))
    words += " ".join(row.rule + " " + row.part + " " + row.metric for row in TABLES[name])
    return rows + places + [float(found.replace(",", "")) for found in re.findall(NUMBER, words)]


@cache
def rounded(name: str, digits: int) -> set[int]:
    """The sizes of the numbers of a table, in units of the last digit printed; a tie may go either way."""
    scaled = [abs(value) * 10**digits for value in numbers_of(name) if math.isfinite(value)]
    return {math.floor(value + 0.5 + tie * (1e-6 + 1e-6 * value)) for value in scaled for tie in (-1, 1)}


def strange(text: str, tables: list[str], told: set[str] = frozenset()) -> list[str]:
    """What a text says that its tables do not: intervals that are no row, and decimals that are no number of theirs."""
    found = []
    for whole, *triple in ((m.group(0), *m.groups()) for m in INTERVAL.finditer(text)):
        rows = (row for name in tables for row in values_of(name))
        if whole not in told and not any(all(map(shown, triple, row)) for row in rows):
            found.append(whole)
    for number in re.findall(r"[+-]?(?<![\w.])\d[\d,]*\.\d+(?:e-?\d+)?", INTERVAL.sub(" ", text)):
        size, digits = number.lstrip("+-"), len(number.partition("e")[0].partition(".")[2])
        digits -= int(number.partition("e")[2] or 0)
        units = round(float(size.replace(",", "")) * 10**digits)
        if size not in told and not any(units in rounded(name, digits) for name in tables):
            found.append(number)
    return found


@pytest.mark.parametrize("page", PAGES)
def test_every_number_of_a_page_is_in_the_table_it_points_at(page):
    tables: list[str] = []
    wrong = []
    for block in blocks((RESULTS / page).read_text(encoding="utf-8")):
        # A block without a table of its own may sum up what stands before it, but has no interval of its own.
        tables = named(block) or ([] if INTERVAL.search(block) else list(TABLES))
        wrong += [f"{number} in: {block[:90]}" for number in strange(block, tables, TOLD_ONLY.get(page, set()))]
    assert not wrong, "\n".join(wrong)


def test_the_check_sees_a_changed_digit_a_swapped_end_and_a_foreign_table():
    good = "guard -0.208 [-0.244, -0.166]"
    assert not strange(good, ["schedules"])
    assert strange(good.replace("0.208", "0.209"), ["schedules"])
    assert strange("guard -0.208 [-0.166, -0.244]", ["schedules"])
    assert strange(good.replace("guard -", "guard "), ["schedules"])
    assert strange(good, ["anchor"])
    assert strange("late alpha 0.687 here", ["reward_noise"]) and not strange("late alpha 0.672", ["reward_noise"])


def test_the_readme_has_the_table_of_claims_that_the_tables_give():
    page = (RESULTS / "README.md").read_text(encoding="utf-8")
    assert claims.with_claims(page) == page, "write it anew: python -m toys.experiments --claims"
    with pytest.raises(ValueError, match=r"the page has 0 of '<!-- claims.*expected one each"):
        claims.with_claims("# no marks")


@pytest.mark.parametrize("claim", claims.CLAIMS, ids=lambda claim: claim.text[:40])
def test_a_claim_has_an_experiment_and_a_verdict_with_a_number(claim):
    assert claim.experiment in ALL
    table = claims.table_of(claim.experiment)
    if table is not None:
        sentence = claim.judge(table).sentence
        assert re.search(r"\d\.\d", sentence) and not strange(sentence, [claim.experiment])
    else:
        assert f"| {claim.text} | {claim.whose} | not run yet" in "\n".join(claims.lines(lambda _: ""))


def test_verdicts_follow_the_numbers():
    table = TABLES["schedules"]
    judge = next(claim.judge for claim in claims.CLAIMS if claim.text.startswith("a cap on alpha"))
    assert judge(table).answer == "holds with a condition"
    below = Table([*table.rows])
    place = below.rows.index(below.one(part="lucky", rule="variance cap (ours)", metric="minus best fixed"))
    below.rows[place] = replace(below.rows[place], mean=-0.03, low=-0.04, high=-0.02)
    assert judge(below).answer == "does not hold"


def test_the_number_of_seeds_stands_beside_every_number():
    """Each row of claims and of settings says how many seeds, or problems, are behind its intervals."""
    rows = [
        plain(line).strip("| ").split(" | ")
        for page, columns in (("README.md", 7), ("SETTINGS.md", 5))
        for line in (RESULTS / page).read_text(encoding="utf-8").splitlines()
        if line.startswith("| ") and line.count(" | ") == columns - 1
    ]
    told = 0
    for cells in rows:
        if "](" not in (line := " | ".join(cells)):
            continue  # the head of a table
        expected = sorted({count for name in named(line) for count in TABLES[name].behind(line)})
        seeds = cells[5] if len(cells) == 7 else cells[3]
        assert seeds == ", ".join(map(str, expected)) or not (expected or INTERVAL.search(line)), line
        told += bool(expected)
    assert told >= 40


def test_the_log_says_how_many_seeds_where_they_are_not_the_usual():
    """The head of NEGATIVE.md: 100 or 50 for bandits, five for the tiny model; other numbers are said in their entry."""
    for block in blocks((RESULTS / "NEGATIVE.md").read_text(encoding="utf-8")):
        usual = {5 if ALL[name].kind == "trainer" else 100 for name in named(block)} | {50}
        for count in {count for name in named(block) for count in TABLES[name].behind(block)} - usual:
            assert re.search(rf"\b{count}\b", INTERVAL.sub("", block)), (count, block[:90])


def test_pages_show_symbols_and_keep_the_names_in_links():
    assert claims.greek("alpha_min 0.2 -> -0.5, beta_r") == "α_min 0.2 → −0.5, β_r"  # noqa: RUF001
    assert claims.greek("alphas, 0.9 minus 0, x-1, 2.3e-16") == "alphas, 0.9 minus 0, x-1, 2.3e-16"
    assert "[alpha_min](alpha_min.csv)" in (RESULTS / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", TABLES)
def test_the_command_of_a_table_can_be_given(name, capsys):
    *before, last = TABLES[name].about["command"].split("; ")
    words = shlex.split(last)
    assert words[:3] == ["python", "-m", "toys.experiments"] and words[3] == name and name in ALL
    assert words[4:] in ([], ["--seeds", str(ALL[name].seeds)]) or words[4] == "--seeds"
    for command in before:
        assert command.startswith("python full/sweep.py ") and (ROOT / command.split()[2]).is_file()
    assert main([*words[3:], "--seeds", "1"]) == 2  # parsed, and refused before anything runs
    assert "expected at least 4" in capsys.readouterr().err


def sections_of_the_notebook() -> dict[str, str]:
    """{heading: the Markdown under it}; what stands before the first heading of an experiment is under ""."""
    book = nbformat.read(RESULTS.parent / "12_results.ipynb", as_version=4)
    found, heading = {"": ""}, ""
    for cell in book.cells:
        if cell.cell_type == "markdown":
            if cell.source.startswith("## "):
                heading = cell.source.partition("\n")[0][3:]
            found[heading] = found.get(heading, "") + "\n\n" + cell.source
    return found


def test_every_number_of_the_notebook_is_in_the_table_of_its_section():
    headings = {claims.heading(name): name for name in ALL}
    for heading, text in sections_of_the_notebook().items():
        name = headings.get(heading)
        tables = [name] if name in TABLES else list(TABLES)
        if name is None:
            assert not INTERVAL.search(plain(text)), f"{heading}: an interval outside its experiment's section"
        assert not strange(plain(text), tables, {"1.7", "2512.22953"}), heading


def test_the_notebook_has_a_section_for_every_experiment_and_every_link_of_the_claims():
    headings = {heading.replace(" ", "-") for heading in sections_of_the_notebook()}
    assert headings >= {claims.heading(name).replace(" ", "-") for name in ALL}
    for row in overview().data.splitlines()[2:]:
        (anchor,) = re.findall(r"\(#([^)]+)\) \|$", row)
        assert anchor in headings


def test_the_questions_quote_the_tables():
    for question in lesson_12.QUESTIONS.values():
        for text in (question.question, *question.choices, *(question.explain or question.choices).values()):
            assert not strange(str(text), list(TABLES)), text
    assert TABLES["risk_attitude"].one(
        part="lucky arms, own best lr", metric="expected reward", alpha=0.9
    ).mean == pytest.approx(lesson_12.QUESTIONS["lucky"].answer, abs=0.01)


def test_what_the_notebook_says_of_alpha_over_time():
    said = schedules.say_returned(schedules.over_time(range(1000, 1006))).splitlines()
    told = dict(re.fullmatch(r"- \*\*(.+?)\*\* (\w+ \w+).*", line).groups() for line in said)
    assert told == {
        "guard": "falls by", "guard, 2 standard errors": "falls by", "ESS": "starts low", "line 0.9 to 0.35": "falls by",
        "fixed 0.9": "does not", "variance cap (ours)": "does not",
    }  # fmt: skip
    back = [line.partition(" falls")[0][4:-2] for line in said if "and comes back" in line]
    assert back == ["guard", "guard, 2 standard errors"] and "does not come back" in said[3]
    # The executed cell says the same, with more seeds; where alpha ends is what the table has for the last 100 steps.
    book = nbformat.read(RESULTS.parent / "12_results.ipynb", as_version=4)
    (cell,) = [cell for cell in book.cells if cell.source.startswith("alpha_over_time(")]
    shown_there = "\n".join(output.data.get("text/markdown", "") for output in cell.outputs if "data" in output)
    for line in said:
        name = line.partition("** ")[0][4:]
        (there,) = [other for other in shown_there.splitlines() if other.startswith(f"- **{name}** {told[name]}")]
        for row in TABLES["schedules"].where(part="does alpha return", rule=name, x=250):
            last = float(re.findall(r"(?:to|at|from) (0\.\d{3})", there)[-1])
            assert last == pytest.approx(row.mean, abs=0.005)


def test_an_alpha_that_does_not_return_is_told_from_one_that_does():
    calm = schedules.over_time([1000, 1001])["fixed 0.9"]
    steps = torch.arange(300.0)[:, None].expand(300, 2)
    dips = 0.9 - 0.3 * (-((steps - 25) ** 2) / 50).exp()
    for alpha, words in (
        (dips, "falls by 0.2"), (dips.cummin(0).values, "does not come back"), (dips.flip(0), "does not move from 0.8"),
        (steps.clamp(max=90) / 100, "starts low and rises"),
    ):  # fmt: skip
        assert words in schedules.say_returned({"one": replace(calm, alpha=alpha)}), words


def test_what_the_notebook_says_of_partial_credit():
    table, spell = TABLES["graded_model"], TABLES["graded_smollm2"]
    for task in ("digits", "closeness"):  # "GRPO is like alpha 0", and alpha 0.9 is above both in risk
        like = table.one(part="last", rule=f"{task}-grpo", metric=f"risk minus {task}-0.0")
        above = [
            table.one(part="last", rule=f"{task}-0.9", metric=f"risk minus {task}-{other}") for other in ("0.0", "grpo")
        ]
        assert like.low < 0 < like.high and all(row.low > 0 for row in above)
    gaps = [
        spell.one(part="last", rule="spell-0.9", metric=f"{name} minus spell-0.0")
        for name in ("reward", "risk", "right")
    ]
    gaps += [spell.one(part="last", rule="spell-grpo", metric=f"{name} minus spell-0.0") for name in ("reward", "risk")]
    assert all(row.low < 0 < row.high and row.seeds == 3 for row in gaps)
    for arm in ("spell-0.0", "spell-0.9", "spell-grpo"):  # "did not rise": by less than its own half interval
        first, last = (spell.one(part=part, rule=arm, metric="reward_mean") for part in ("first", "last"))
        assert last.mean - first.mean < first.high - first.mean


def test_a_section_that_was_not_run_says_so(monkeypatch, capsys):
    shown = []
    monkeypatch.setattr("toys.experiments.show.display", lambda thing: shown.append(thing.data))
    monkeypatch.setattr(claims, "RESULTS", ROOT / "nowhere")
    section("sanity", alt="nothing")
    assert (
        shown[0].startswith("**Question.** Does APO")
        and "Not run yet" in shown[1]
        and "toys.experiments sanity" in shown[1]
    )


def test_links_of_the_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)", (RESULTS / page).read_text(encoding="utf-8")):
            assert (RESULTS / target).exists() or target.startswith("http"), (page, target)
