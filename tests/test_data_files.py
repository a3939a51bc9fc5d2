"""Whatever a file is and holds: its rows are the ones that are trained, or one line says why not."""

import bz2
import codecs
import gzip
import json
import lzma
import math
import os
import re
from decimal import Decimal

import pandas
import pyarrow as pa
import pyarrow.parquet
import pytest
from datasets import Dataset, DatasetDict
from hypothesis import given
from hypothesis import strategies as st

from full.config import TrainConfig
from full.data.files import read_path
from full.data.rows import Unusable, level_name, number_text, same_level, stated_answer
from full.data.sources import INSTRUCTION, load_problems, load_splits
from full.data.splits import is_held_out
from full.errors import UserError
from full.eval import choose_problems, parse_arguments, resolve

N = 40  # of the problems "p0" .. "p39" both splits have some


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def rows_with(**columns):
    """N rows; each column is one value for all, or a list that is repeated."""
    return [
        {"problem": f"p{i}", **{k: v[i % len(v)] if isinstance(v, list) else v for k, v in columns.items()}}
        for i in range(N)
    ]


def answers(source, **options):
    """Problem -> answer of both splits."""
    splits = [load_problems(str(source), split=split, **options) for split in ("train", "test")]
    return {row["problem"]: row["answer"] for part in splits for row in part}


def refusal(source, **options):
    """The one line."""
    with pytest.raises(UserError) as caught:
        load_splits(str(source), **{"level": None, "seed": 0, **options})
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What is read is what the file holds now.


def test_a_file_of_the_same_size_and_time_is_read_anew(tmp_path):
    path = tmp_path / "a.jsonl"
    write(path, rows_with(answer="1"))
    stat = path.stat()
    first = load_problems(str(path)).info.description
    write(path, rows_with(answer="2"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size
    assert set(answers(path).values()) == {"2"}
    assert load_problems(str(path)).info.description != first  # another hash


def test_a_change_of_our_functions_reaches_the_rows(tmp_path, monkeypatch):
    path = write(tmp_path / "a.jsonl", rows_with(answer="1"))
    load_problems(path)
    monkeypatch.setattr("full.data.sources.INSTRUCTION", "Box it.")
    monkeypatch.setattr("full.data.sources.answer_text", lambda value: f"<{value}>")
    assert set(answers(path).values()) == {"<1>"}


def test_no_cache_is_written(tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", cache)
    load_splits(write(tmp_path / "a.jsonl", rows_with(answer="1")), level=None, seed=0)
    assert not cache.exists()


# Formats.


def as_csv(path, **options):
    pandas.DataFrame(rows_with(answer=["1", "x+1"], note='a, "quoted"\nline')).to_csv(path, index=False, **options)


FORMATS = {
    "a.jsonl": lambda path: write(path, rows_with(answer=["1", "x+1"])),
    "A.JSONL": lambda path: write(path, rows_with(answer=["1", "x+1"])),
    "a.ndjson": lambda path: write(path, rows_with(answer=["1", "x+1"])),
    "a.json": lambda path: path.write_text(json.dumps(rows_with(answer=["1", "x+1"]), indent=1)),
    "lines.json": lambda path: write(path, rows_with(answer=["1", "x+1"])),
    "inside.json": lambda path: path.write_text(json.dumps({"v": 1, "data": rows_with(answer=["1", "x+1"])})),
    "bom.jsonl": lambda path: path.write_bytes(
        codecs.BOM_UTF8 + "".join(json.dumps(row) + "\r\n" for row in rows_with(answer=["1", "x+1"])).encode()
    ),
    "a.csv": as_csv,
    "semicolons.csv": lambda path: as_csv(path, sep=";"),
    "a.tsv": lambda path: as_csv(path, sep="\t"),
    "a.parquet": lambda path: Dataset.from_list(rows_with(answer=["1", "x+1"])).to_parquet(path),
    "a.jsonl.gz": lambda path: path.write_bytes(
        gzip.compress("\n".join(map(json.dumps, rows_with(answer=["1", "x+1"]))).encode())
    ),
    "a.Json.BZ2": lambda path: path.write_bytes(bz2.compress(json.dumps(rows_with(answer=["1", "x+1"])).encode())),
    "a.csv.xz": lambda path: path.write_bytes(
        lzma.compress(pandas.DataFrame(rows_with(answer=["1", "x+1"])).to_csv(index=False).encode())
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_problems(tmp_path, name):
    FORMATS[name](tmp_path / name)
    assert answers(tmp_path / name) == {f"p{i}": "x+1" if i % 2 else "1" for i in range(N)}


def test_a_long_solution_fits_into_csv(tmp_path):
    long = "so " * 100_000 + "\\boxed{5}"  # more than the csv module's own limit
    pandas.DataFrame(rows_with(solution=long)).to_csv(tmp_path / "a.csv", index=False)
    assert set(answers(tmp_path / "a.csv").values()) == {"5"}


def test_a_folder_is_all_its_files(tmp_path):
    folder = tmp_path / "data"
    (folder / "deeper").mkdir(parents=True)
    (folder / ".cache").mkdir()
    rows = rows_with(answer=["1", "2", "3"])
    Dataset.from_list(rows[:10]).to_parquet(folder / "0.parquet")
    write(folder / "deeper" / "1.jsonl", rows[10:])
    write(folder / ".cache" / "2.jsonl", [{"problem": "hidden", "answer": "1"}])
    (folder / "README.md").write_text("# Read me")
    (folder / "dataset_infos.json").write_text("{}")
    assert answers(folder) == {row["problem"]: row["answer"] for row in rows}
    before = load_problems(str(folder)).info.description
    assert "folder of 2 files, sha256" in before
    write(folder / "deeper" / "1.jsonl", rows[11:])
    assert load_problems(str(folder)).info.description.split(",")[1] != before.split(",")[1]


def test_a_folder_may_have_splits_of_its_own(tmp_path):
    rows = rows_with(answer="1")
    for split, part in (("train", rows[:30]), ("test", rows[30:])):
        (tmp_path / "math" / split).mkdir(parents=True)
        for i, row in enumerate(part):  # as MATH itself is laid out: one object a file
            (tmp_path / "math" / split / f"{i}.json").write_text(json.dumps(row, indent=1))
    train, test = load_splits(str(tmp_path / "math"), level=None, seed=0)
    assert sorted(train["problem"]) == sorted(row["problem"] for row in rows[:30])
    assert sorted(test["problem"]) == sorted(row["problem"] for row in rows[30:])


@pytest.mark.parametrize("splits", [False, True])
def test_a_data_set_that_was_saved_to_disk(tmp_path, splits):
    rows = rows_with(answer=["1", "2"])
    saved = Dataset.from_list(rows)
    if splits:
        saved = DatasetDict(train=saved.select(range(30)), test=saved.select(range(30, N)))
    saved.save_to_disk(tmp_path / "saved")
    assert answers(tmp_path / "saved") == {row["problem"]: row["answer"] for row in rows}
    assert len(load_problems(str(tmp_path / "saved"), split="test")) == (
        10 if splits else sum(is_held_out(row["problem"]) for row in rows)
    )


def test_home_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "a.jsonl", rows_with(answer="1"))
    assert len(answers("~/a.jsonl")) == N


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"x", r"a.txt is no file that can be loaded; expected .jsonl, .json, .csv, .tsv or .parquet"),
        (
            "a.jsonl",
            '{"problem": "caf\xe9", "answer": "1"}'.encode("latin-1"),
            "not UTF-8 .line 1 has the byte 0xe9.*iconv",
        ),
        ("a.csv", "problem,answer\np,1\ncaf\xe9,2\n".encode("latin-1"), "not UTF-8 .line 3"),
        ("a.jsonl", '{"problem": "p", "answer": "1"}'.encode("utf-16"), "is UTF-16; expected UTF-8"),
        ("a.jsonl", b'{"problem": "p", "answer": "1"}\n{"problem": "q"\n', "cannot be read as json: line 2: Expecting"),
        ("a.json", b'[{"problem": "p"},', "cannot be read as json: Expecting"),
        ("a.jsonl", b'["p", "1"]\n', "row 1 holds a text; expected an object"),
        ("a.jsonl", b"5\n6\n", "row 1 holds a number; expected an object"),
        ("a.jsonl", b"", "holds no rows"),
        ("a.csv", b"problem,answer\n", "holds no rows"),
        ("a.csv", b'problem,answer\n"p,1\n', "cannot be read as csv: unexpected end of data"),
        ("a.csv", b"problem,answer\np, q,1\n", "line 2 has 3 cells for 2 columns. Put texts"),
        ("a.parquet", b"PAR1 no more", "cannot be read as parquet"),
        ("a.jsonl.gz", b"no gzip", "cannot be unpacked: Not a gzipped file"),
        ("a.jsonl", b"[" * 100_000, "cannot be read as json"),
        ("a.jsonl", b'{"problem": "\\ud800", "answer": "1"}', "row 1 is a text with half a surrogate pair"),
        ("a.json", b'{"problem": ["p", "q"], "answer": ["1", "2"]}', r"row 1 is \['p', 'q'\], a list"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    assert re.search(message, refusal(tmp_path / name))


def test_a_folder_without_data_says_what_is_there(tmp_path):
    (tmp_path / "a.xlsx").write_bytes(b"x")
    assert "holds .xlsx; expected .jsonl, .json, .csv, .tsv or .parquet" in refusal(tmp_path)


# Columns.


def test_gsm8k_as_it_is(tmp_path):
    rows = [{"question": f"p{i}", "answer": f"He has {i}+1 = <<{i}+1={i + 1}>>\n#### {i + 1},080"} for i in range(N)]
    path = write(tmp_path / "gsm8k.jsonl", rows)
    assert answers(path) == {f"p{i}": f"{i + 1}080" for i in range(N)}
    solutions = [{"problem": row["question"], "solution": row["answer"]} for row in rows]
    assert answers(write(tmp_path / "b.jsonl", solutions)) == answers(path)


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        ("It is 5.\n#### 5", "5"),
        ("#### -1,234.5  \n", "-1234.5"),
        ("#### 1,2", "1,2"),  # no thousands: kept
        ("It is \\boxed{4}.\n#### 5", "4"),
        ("#### Step 1\nAdd.\nThe end.", None),  # a heading
        ("five", None),
    ],
)
def test_what_a_solution_ends_in(solution, answer):
    assert stated_answer(solution) == answer


def test_columns_can_be_named(tmp_path):
    rows = [{"q": f"p{i}", "reward_model": {"truth": i}, "difficulty": "easy"} for i in range(N)]
    path = write(tmp_path / "a.jsonl", rows)
    columns = {"problem": "q", "answer": "reward_model.truth", "level": "difficulty"}
    assert answers(path, columns=columns, level="Easy") == {f"p{i}": str(i) for i in range(N)}
    assert "has no column 'problem', only ['q', 'reward_model', 'difficulty']" in refusal(path)
    assert "has no column 'solution' or 'answer'" in refusal(path, columns={"problem": "q"})
    assert "columns says problem=question but" in refusal(path, columns={"problem": "question"})
    assert "columns names 'gold'='q'" not in refusal(path, columns={"gold": "q"})
    assert "expected one of problem, answer, solution, level, prompt" in refusal(path, columns={"gold": "q"})


CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say p."}]


@pytest.mark.parametrize("column", ["prompt", "messages"])
def test_chat_messages_beside_the_problem_are_the_prompt(tmp_path, column):
    path = write(tmp_path / "a.jsonl", rows_with(answer="1", **{column: [CHAT]}))
    problems = load_problems(path)
    assert problems["prompt"][:] == [CHAT] * len(problems)
    assert f"prompts as in column {column!r}" in problems.info.description
    assert "20" not in problems["problem"][:]


def test_a_text_beside_the_problem_is_the_prompt(tmp_path):
    path = write(tmp_path / "a.jsonl", rows_with(answer="1", prompt="Say p."))
    assert load_problems(path)["prompt"][0] == [{"role": "user", "content": "Say p."}]


def test_prompts_without_a_problem(tmp_path):
    turns = [{"problem": None, "messages": [*CHAT[:1], {"role": "user", "content": f"p{i}"}]} for i in range(N)]
    for row in turns:
        del row["problem"]
        row["messages"].append({"role": "assistant", "content": f"It is \\boxed{{{row['messages'][1]['content']}}}."})
    path = write(tmp_path / "chat.jsonl", turns)
    assert answers(path) == {f"p{i}": f"p{i}" for i in range(N)}  # the assistant's last turn is the solution
    assert [m["role"] for m in load_problems(path)["prompt"][0]] == ["system", "user"]
    for row in turns:
        row["solution"] = "\\boxed{7}"  # a column of that name comes first
    assert set(answers(write(tmp_path / "both.jsonl", turns)).values()) == {"7"}
    plain = write(tmp_path / "plain.jsonl", [{"prompt": f"p{i}", "answer": i} for i in range(N)])
    row = load_problems(plain)[0]
    assert row["prompt"] == [{"role": "user", "content": f"{row['problem']} {INSTRUCTION}"}]


def test_the_system_prompt_comes_first(tmp_path):
    path = write(tmp_path / "a.jsonl", rows_with(answer="1"))
    row = load_problems(path, system_prompt="Be brief.")[0]
    assert [m["role"] for m in row["prompt"]] == ["system", "user"]
    assert row["prompt"][0]["content"] == "Be brief."
    generated = load_problems("word_sums", level=1, system_prompt="Be brief.")[0]["prompt"]
    assert [m["role"] for m in generated] == ["system", "user", "assistant", "user", "assistant", "user"]
    own = write(tmp_path / "own.jsonl", rows_with(answer="1", prompt=[CHAT]))
    assert "a system message of its own beside --system_prompt" in refusal(own, system_prompt="Be long.")


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (None, "is null"),
        (5, "is a int"),
        ([], "is empty"),
        (["Say p."], "a list whose members are no messages with role and content"),
        ([{"from": "human", "value": "p"}], "no messages with role and content"),
        ([{"role": "user", "content": [{"type": "image"}]}], "a message of 'user' whose content is no text"),
        ([{"role": "assistant", "content": "p"}], "does not end with the user's words"),
    ],
)
def test_prompts_that_are_none(tmp_path, prompt, message):
    rows = [{"problem": f"p{i}", "answer": "1", "prompt": prompt} for i in range(N)]
    said = refusal(write(tmp_path / "a.jsonl", rows))
    assert message in said
    assert f"{N} of {N} rows" in said


def test_columns_that_are_not_used_are_named(tmp_path):
    path = write(tmp_path / "a.jsonl", rows_with(answer="1", id=["x"], source="y"))
    assert load_problems(path).info.description.endswith("; columns not used: id, source")


# Problems.


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (None, "null"),
        (5, "5, a int"),
        (["p"], "['p'], a list"),
        ("  ", "empty"),
        (2.5, "2.5, a float"),
        ({"a": 1}, "a dict"),
    ],
)
def test_a_problem_that_is_no_text_is_refused_before_anything(tmp_path, problem, message):
    rows = rows_with(answer="1")
    rows[3]["problem"] = problem
    said = refusal(write(tmp_path / "a.jsonl", rows))
    assert f"1 of {N} rows have no text for a 'problem': row 4 is" in said
    assert message in said


@pytest.mark.parametrize("problem", ["p0", "p1", "p2", "p3", "p4", "p5", "p6", "p7", "p8", "p9", "p10", "p11"])
def test_a_file_with_one_problem(tmp_path, problem):
    said = refusal(write(tmp_path / "a.jsonl", [{"problem": problem, "answer": "1"}]))
    missing = "train" if is_held_out(problem) else "test"
    assert f"has no problem in split '{missing}', but 1 in the other" in said
    assert "Give a file with more problems" in said


# Answers.


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (6, "6"),
        (-6, "-6"),
        (2**70, "1180591620717411303424"),
        (2.0**70, "1180591620717411303424"),
        (1e23, "1" + 23 * "0"),
        (6.0, "6"),
        (-0.0, "0"),
        (1e-05, "0.00001"),
        (0.1 + 0.2, "0.30000000000000004"),
        (Decimal("1.50"), "1.5"),
        (Decimal("1E+3"), "1000"),
        (10**399, "1" + 399 * "0"),
    ],
)
def test_numbers_are_exact_texts(number, text):
    assert number_text(number) == text


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**60), 10**60))
def test_a_number_survives_its_text(number):
    text = number_text(number)
    assert "e" not in text.lower()
    assert (int(text) if isinstance(number, int) else float(text)) == number


@pytest.mark.parametrize("number", [math.nan, math.inf, 10**401, Decimal("1e999999999")])
def test_what_is_no_number_or_too_long(number):
    with pytest.raises(Unusable):
        number_text(number)


MIXED = [6, 1e-05, 2**70, "6", "x+1", 0.5, True]
MIXED_TEXTS = ["6", "0.00001", "1180591620717411303424", "6", "x+1", "0.5", "True"]


def test_numbers_in_a_mixed_column_of_json(tmp_path):
    path = write(tmp_path / "a.jsonl", rows_with(answer=MIXED))
    assert answers(path) == {f"p{i}": MIXED_TEXTS[i % 7] for i in range(N)}
    (tmp_path / "b.jsonl").write_text(
        "".join(
            f'{{"problem": "p{i}", "answer": {text}}}\n'
            for i, text in enumerate(["0.10", "1E400", "0.12345678901234567890"] * 20)
        )
    )
    # As written, where a float would lose digits; 1E400 is left out.
    assert set(answers(tmp_path / "b.jsonl").values()) == {"0.1", "0.1234567890123456789"}


def test_numbers_in_csv(tmp_path):
    rows = rows_with(answer=["6", "1e-05", "1180591620717411303424", "1.00E-05", "007", "2e-3", "6.0", "1e+20", "1/2"])
    pandas.DataFrame(rows).to_csv(tmp_path / "a.csv", index=False)
    texts = ["6", "0.00001", "1180591620717411303424", "0.00001", "007", "2e-3", "6", "1" + 20 * "0", "1/2"]
    assert answers(tmp_path / "a.csv") == {
        f"p{i}": texts[i % 9] for i in range(N)
    }  # 2e-3: Euler's number, no float's text


@pytest.mark.parametrize(
    ("column", "texts"),
    [
        (pa.array([6, 2**62] * 20), ["6", str(2**62)]),
        (pa.array([6.0, 1e-05] * 20), ["6", "0.00001"]),
        (pa.array([0.1, 6.0] * 20, pa.float32()), ["0.1", "6"]),
        (pa.array([Decimal("1.50"), Decimal("2")] * 20, pa.decimal128(10, 2)), ["1.5", "2"]),
        (pa.array([2.0**70, 7.0] * 20), ["1180591620717411303424", "7"]),
    ],
)
def test_numbers_in_parquet(tmp_path, column, texts):
    table = pa.table({"problem": [f"p{i}" for i in range(N)], "answer": column})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert answers(tmp_path / "a.parquet") == {f"p{i}": texts[i % 2] for i in range(N)}


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_floats_beside_nan(tmp_path, suffix):
    frame = pandas.DataFrame({"problem": [f"p{i}" for i in range(N)], "answer": [6.0, math.nan] * 20})
    path = tmp_path / f"a.{suffix}"
    if suffix == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in frame.to_dict("records")))  # NaN, as Python writes it
    else:
        frame.to_csv(path, index=False) if suffix == "csv" else frame.to_parquet(path)
    assert answers(path) == {f"p{i}": "6" for i in range(0, N, 2)}
    counted = sum(i % 2 and not is_held_out(f"p{i}") for i in range(N))
    assert f"{counted} rows without an answer left out ({counted} " in load_problems(str(path)).info.description


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (None, "null"),
        ("", "empty"),
        (" ", "empty"),
        (math.nan, "NaN"),
        (math.inf, "infinite"),
        ({"a": 1}, "an object"),
        ([], "an empty list"),
        ([["6"]], "a list of lists"),
        ([None], "null"),
    ],
)
def test_what_is_no_answer_is_left_out_and_counted(tmp_path, answer, reason):
    rows = rows_with(answer=["6"])
    train = [i for i, row in enumerate(rows) if not is_held_out(row["problem"])]
    rows[train[0]]["answer"] = answer
    problems = load_problems(write(tmp_path / "a.jsonl", rows))
    assert len(problems) == len(train) - 1
    assert f"1 rows without an answer left out (1 {reason})" in problems.info.description
    for row in rows:
        row["solution"] = "\\boxed{7}"  # where there is one, it holds the answer
    assert answers(write(tmp_path / "b.jsonl", rows))[f"p{train[0]}"] == "7"


def test_a_list_is_a_set_of_accepted_answers(tmp_path):
    rows = rows_with(answer=[["1/2", 0.5, "1/2"], "3", 4])
    assert answers(write(tmp_path / "a.jsonl", rows)) == {
        f"p{i}": [["1/2", "0.5"], ["3"], ["4"]][i % 3] for i in range(N)
    }
    train, test = load_splits(str(tmp_path / "a.jsonl"), level=None, seed=0)
    assert train.features == test.features


def test_no_answer_at_all(tmp_path):
    said = refusal(write(tmp_path / "a.jsonl", rows_with(solution="It is 5.")))
    assert "problems of split 'train' has an answer (" in said
    assert "solution without \\boxed{} or ####" in said
    assert "--columns answer=NAME" in said


def test_held_out_rows_without_an_answer(tmp_path):
    rows = rows_with(answer="1")
    for row in rows:
        row["answer"] = "" if is_held_out(row["problem"]) else "1"
    said = refusal(write(tmp_path / "a.jsonl", rows))
    held = sum(is_held_out(row["problem"]) for row in rows)
    assert f"none of the {held} problems of split 'test' has an answer ({held} empty)" in said


# Levels.


SAME = ["Level 3", 3, "3", "level 3", 3.0, "3.0", " LEVEL 3 ", "Level: 3"]


def test_a_level_has_one_name(tmp_path):
    assert {level_name(level) for level in SAME} == {"Level 3"}
    assert [level_name(level) for level in ("Easy", "Level ?", None, math.nan, 2.5)] == [
        "Easy",
        "Level ?",
        "",
        "",
        "Level 2.5",
    ]
    assert same_level("Hard", "level hard") and not same_level("Level 3", "Level 33")
    path = write(tmp_path / "a.jsonl", rows_with(answer="1", level=[*SAME, 4, "Easy", None]))
    for level in SAME:
        problems = load_problems(path, level=level)
        assert len(problems) + len(load_problems(path, level=level, split="test")) == sum(i % 11 < 8 for i in range(N))
        assert set(problems["level"]) == {"Level 3"}
    assert set(load_problems(path, level="ALL")["level"]) == {"Level 3", "Level 4", "Easy", ""}


def test_a_missing_level_is_told_of_the_split_it_is_missing_in(tmp_path):
    rows = rows_with(answer="1")
    for row in rows:
        row["level"] = 1 if is_held_out(row["problem"]) else 2
    path = write(tmp_path / "a.jsonl", rows)
    train = sum(row["level"] == 2 for row in rows)
    assert f"has no problem of Level 2, only Level 1 in split 'test'; split 'train' has {train} of it" in refusal(
        path, level=2
    )
    assert "has no problem of Level 1, only Level 2 in split 'train'; split 'test'" in refusal(path, level=1)
    assert "has no problem of Level 9, only Level 2 in split 'train'. Change --level" in refusal(path, level="9")


# The hub's own splits.


def test_a_problem_of_both_official_splits_is_held_out_and_said(monkeypatch):
    rows = rows_with(answer="1", level=["Level 1", "Level 2"])
    parts = {
        "train": Dataset.from_list(rows[:31]),
        "test": Dataset.from_list([*rows[31:], {**rows[0], "problem": " p0"}]),
    }
    monkeypatch.setattr("full.data.sources.load_dataset", lambda hub_id, name=None: parts)
    monkeypatch.setattr("full.data.sources._revision", lambda hub_id: "abc")
    train, test = load_splits("some/math", level="all", seed=0)
    assert sorted(train["problem"]) == sorted(row["problem"] for row in rows[1:31])
    assert len(test) == 10
    assert train.info.description.endswith("; 1 left out that the test split has too")
    assert "left out that" not in load_splits("some/math", level=2, seed=0)[0].info.description


def test_an_evaluation_of_both_splits_sees_each_problem_once(monkeypatch):
    rows = rows_with(answer="1")
    parts = {"train": Dataset.from_list(rows[:31]), "test": Dataset.from_list([*rows[31:], rows[0]])}
    monkeypatch.setattr("full.data.sources.load_dataset", lambda hub_id, name=None: parts)
    monkeypatch.setattr("full.data.sources._revision", lambda hub_id: "abc")
    problems = choose_problems(TrainConfig(data="some/math", level="all"), "all")
    assert sorted(problems["problem"]) == sorted(row["problem"] for row in rows)


def test_an_evaluation_takes_other_columns_and_a_system_prompt(tmp_path):
    data = write(tmp_path / "a.jsonl", [{"q": f"p{i}", "a": i} for i in range(N)])
    words = ["--model", "m", "--data", data, "--columns", "problem=q,answer=a", "--system_prompt", "Be brief."]
    config, _ = resolve(parse_arguments(words))
    problems = choose_problems(config, "all")
    assert len(problems) == N
    assert problems[0]["prompt"][0] == {"role": "system", "content": "Be brief."}
    # A run's columns belong to its own data.
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").write_text(config.to_yaml())
    run = ["--model", str(tmp_path / "run")]
    assert resolve(parse_arguments(run))[0].columns == config.columns
    assert resolve(parse_arguments([*run, "--data", "other.jsonl"]))[0].columns == {}
    assert resolve(parse_arguments([*run, "--data", "other.jsonl"]))[0].system_prompt == "Be brief."


def test_a_configuration_of_the_hub_can_be_named(monkeypatch):
    asked = []

    def fake(hub_id, name=None):
        asked.append((hub_id, name))
        return {"train": Dataset.from_list(rows_with(answer=1))}

    monkeypatch.setattr("full.data.sources.load_dataset", fake)
    monkeypatch.setattr("full.data.sources._revision", lambda hub_id: "abc")
    for source in ("openai/gsm8k", "openai/gsm8k:socratic", "some/other"):
        load_problems(source)
    assert asked == [("openai/gsm8k", "main"), ("openai/gsm8k", "socratic"), ("some/other", None)]


def test_reading_keeps_lines_that_only_look_like_ends(tmp_path):
    write(tmp_path / "a.jsonl", [{"problem": "p\u2028q\x85r", "answer": "1"}])
    (tmp_path / "b.jsonl").write_text('{"problem": "p\u2028q", "answer": "1"}\n{"problem": "s", "answer": "2"}\n')
    assert [row["problem"] for row in read_path(tmp_path / "b.jsonl")[0]["all"]] == ["p\u2028q", "s"]
