"""Problems: every source gives the same columns, splits never meet, and what is wrong is said in one line."""

import json
from pathlib import Path

import pytest
from datasets import Dataset

from full.config import TrainConfig, parse_config
from full.data.order import ProblemOrder
from full.data.sources import INSTRUCTION, load_problems, load_splits
from full.data.splits import is_held_out
from full.data.tasks.arithmetic import arithmetic_rows
from full.errors import UserError
from full.models.loading import render_prompts, without_long_prompts
from full.models.tiny import make_tokenizer
from full.train import main

SHARED = Path(__file__).parents[2] / "shared" / "data"
ROWS = [
    {
        "problem": f"What is {i}?",
        "level": f"Level {i % 5 + 1}",
        "type": "Algebra",
        "solution": f"It is $\\boxed{{{i}}}$.",
    }
    for i in range(200)
]


@pytest.fixture(params=["jsonl", "json", "parquet"])
def file(request, tmp_path):
    path = tmp_path / f"math.{request.param}"
    if request.param == "parquet":
        Dataset.from_list(ROWS).to_parquet(path)
    elif request.param == "json":
        path.write_text(json.dumps(ROWS))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(path)


def test_columns_prompt_and_answer(file):
    problems = load_problems(file, level=3)
    assert set(problems.column_names) == {"prompt", "problem", "answer", "level"}
    row = problems[0]
    assert row["prompt"] == [{"role": "user", "content": f"{row['problem']} {INSTRUCTION}"}]
    assert row["problem"] == f"What is {row['answer']}?"  # the answer is the solution's last box
    assert set(problems["level"]) == {"Level 3"}
    assert "level 3" in problems.info.description
    assert "sha256" in problems.info.description


def test_levels(file):
    assert load_problems(file, level="Level 2")["problem"][:] == load_problems(file, level=2)["problem"][:]
    total = sum(len(load_problems(file, level=level)) for level in range(1, 6))
    assert total == len(load_problems(file)) == len(load_problems(file, level="all"))


def test_splits_are_by_problem_and_disjoint(file):
    train, test = load_splits(file, level=None, seed=0)
    assert not set(train["problem"]) & set(test["problem"])
    assert len(train) + len(test) == len(ROWS)
    assert all(is_held_out(problem) for problem in test["problem"])
    assert load_splits(file, level=None, seed=9)[1]["problem"][:] == test["problem"][:]  # one test set for all seeds


def test_the_seed_sets_the_order(file):
    first = load_problems(file, seed=1)["problem"][:]
    assert load_problems(file, seed=1)["problem"][:] == first
    assert load_problems(file, seed=2)["problem"][:] != first
    assert sorted(load_problems(file, seed=2)["problem"]) == sorted(first)


def test_an_answer_column_comes_first(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [{"problem": f"p{i}", "answer": str(i), "solution": "\\boxed{wrong}"} for i in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert all(row["problem"] == f"p{row['answer']}" for row in load_problems(str(path)))


def test_generated_additions_are_right():
    train, test = load_splits("arithmetic", level="all", seed=0)
    assert len(train) + len(test) == len(arithmetic_rows(2)) == 8100
    for row in test:
        left, right = row["problem"].removeprefix("Compute $").removesuffix("$.").split("+")
        assert int(left) + int(right) == int(row["answer"])


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (
            [{"text": "x", "solution": "y"}],
            {},
            r"has no column 'problem', only \['text', 'solution'\].*--columns problem",
        ),
        ([{"problem": "x"}], {}, "has no column 'solution'"),
        (ROWS[:40], {"level": 7}, "has no problem of Level 7, only Level 1, Level 2"),
        ([{"problem": "x", "answer": "1"}], {"split": "test"}, "has no problem in split 'test'"),
        ([{"problem": str(i), "answer": "1"} for i in range(50)], {"level": 3}, "has no column 'level'.*--level all"),
        (ROWS, {"split": "dev"}, "split is 'dev'; expected 'train' or 'test'"),
    ],
)
def test_bad_data_gets_one_line(tmp_path, rows, options, message):
    path = tmp_path / "bad.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=message) as caught:
        load_problems(str(path), **options)
    assert "\n" not in str(caught.value)


def test_files_that_are_not_there_or_not_json(tmp_path):
    with pytest.raises(UserError, match="does not exist; expected a .jsonl, .json or .parquet"):
        load_problems(str(tmp_path / "no.jsonl"))
    bad = tmp_path / "bad.jsonl"
    bad.write_text("not json\n")
    with pytest.raises(UserError, match="cannot be read as json"):
        load_problems(str(bad))


def test_overlapping_splits_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    monkeypatch.setattr("full.data.sources.is_held_out", lambda problem: True)
    monkeypatch.setattr("full.data.sources.load_problems", lambda source, **options: Dataset.from_list(ROWS))
    with pytest.raises(UserError, match="200 problems are in both splits, e.g. 'What is 0"):
        load_splits(str(path), level=None, seed=0)


def test_a_missing_hub_names_the_local_option(monkeypatch):
    def unreachable(*args, **kwargs):
        raise ConnectionError("no route to the hub")

    monkeypatch.setattr("full.data.sources.load_dataset", unreachable)
    with pytest.raises(
        UserError, match="EleutherAI/hendrycks_math: no route.*nlile.*Give a local file, --data"
    ) as caught:
        load_problems("math", level=3)
    assert "\n" not in str(caught.value)


def test_hub_sources_are_tried_in_turn_and_recorded(monkeypatch):
    asked = []

    def fake(hub_id, name=None):
        asked.append((hub_id, name))
        if hub_id.startswith("EleutherAI"):
            raise FileNotFoundError("gone")
        return {"train": Dataset.from_list(ROWS), "test": Dataset.from_list(ROWS[:5])}

    monkeypatch.setattr("full.data.sources.load_dataset", fake)
    monkeypatch.setattr("full.data.sources._revision", lambda hub_id: "abc123")
    problems = load_problems("math", level=3)
    assert asked == [("EleutherAI/hendrycks_math", "algebra"), ("DigitalLearningGmbH/MATH-lighteval", "default")]
    assert "DigitalLearningGmbH/MATH-lighteval at revision abc123" in problems.info.description
    assert len(problems) == 40  # the source's own split, not ours


def test_every_pass_is_a_permutation_and_any_batch_can_be_had():
    order = ProblemOrder(10, 4, seed=0)
    positions = [p for b in range(5) for p in order.batch(b)]  # 20 positions: two passes
    assert sorted(positions[:10]) == sorted(positions[10:]) == list(range(10))
    assert positions[:10] != positions[10:]
    assert ProblemOrder(10, 4, seed=0).batch(3) == positions[12:16]
    assert ProblemOrder(10, 4, seed=1).batch(0) != order.batch(0)


def test_prompts_over_the_limit_say_what_would_fit():
    problems = Dataset.from_list([{"prompt": [{"role": "user", "content": "x" * n}]} for n in (5, 50)])
    prompts, first = render_prompts(make_tokenizer(), problems, TrainConfig())
    assert first == "<|im_start|>user\nxxxxx<|im_end|>\n<|im_start|>assistant\n"
    longest = len(prompts[1])
    with pytest.raises(UserError, match=f"1 of 2 prompts are longer than max_prompt_tokens 40.*{longest} tokens"):
        render_prompts(make_tokenizer(), problems, TrainConfig(max_prompt_tokens=40))


def test_long_prompts_can_be_left_out_and_are_counted():
    problems = Dataset.from_list([{"prompt": [{"role": "user", "content": "x" * n}]} for n in (5, 50, 6, 60)])
    problems.info.description = "some"
    tokenizer, config = make_tokenizer(), TrainConfig(max_prompt_tokens=40, long_prompts="drop")
    fitting = without_long_prompts(tokenizer, problems, config)
    assert [len(row["prompt"][0]["content"]) for row in fitting] == [5, 6]
    assert fitting.info.description == "some; 2 prompts longer than 40 tokens left out"
    assert problems.info.description == "some"
    assert len(render_prompts(tokenizer, fitting, config)[0]) == 2
    assert without_long_prompts(tokenizer, problems, TrainConfig(max_prompt_tokens=40)) is problems
    with pytest.raises(UserError, match="all 4 prompts are longer than max_prompt_tokens 9; the shortest has 1"):
        without_long_prompts(tokenizer, problems, TrainConfig(max_prompt_tokens=9, long_prompts="drop"))


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('System role not supported') }}", "raised an error: System role not supported; .*user"),
        ("{% for message in messages %}{{ message.text.strip() }}{% endfor %}", "raised an error: "),
        (" {% if false %}{{ messages }}{% endif %}\n", "gives no text for 1 of 1 prompts"),
    ],
)
def test_a_template_that_gives_no_prompt(template, message):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    problems = Dataset.from_list([{"prompt": [{"role": "user", "content": "x"}]}])
    with pytest.raises(UserError, match=message) as caught:
        render_prompts(tokenizer, problems, TrainConfig(model="some"))
    assert "\n" not in str(caught.value)


def test_data_are_checked_before_the_warm_start(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # where no warm start is cached
    (tmp_path / "bad.jsonl").write_text('{"problem": 5, "answer": "1"}\n')
    words = ["--config", str(Path(__file__).parents[1] / "full/configs/tiny.yaml"), "--data", "bad.jsonl"]
    with pytest.raises(UserError, match="row 1 is 5, a int"):
        main(words)
    assert "warm start" not in capsys.readouterr().out


def test_options_of_the_data_reach_the_problems(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"q": f"p{i}", "gold": i}) + "\n" for i in range(40)))
    words = [f"--data={path}", "--columns", "problem=q,answer=gold", "--system_prompt", "Be brief.", "--level", "all"]
    config, _ = parse_config(words)
    again, _ = parse_config([*words, "--columns", "problem=q", "answer=gold"])
    assert config == again
    (tmp_path / "a.yaml").write_text(config.to_yaml())
    assert parse_config(["--config", str(tmp_path / "a.yaml")])[0] == config
    train, _ = load_splits(config.data, seed=0, **config.problem_options)
    assert train[0]["prompt"][0] == {"role": "system", "content": "Be brief."}
    assert train[0]["problem"] == f"p{train[0]['answer']}"


def test_thinking_reaches_the_template():
    tokenizer = make_tokenizer()
    tokenizer.chat_template += "{% if enable_thinking %}<think>{% endif %}"
    problems = Dataset.from_list([{"prompt": [{"role": "user", "content": "x"}]}])
    assert render_prompts(tokenizer, problems, TrainConfig(thinking=True))[1].endswith("<think>")
    assert not render_prompts(tokenizer, problems, TrainConfig())[1].endswith("<think>")


@pytest.mark.skipif(not SHARED.exists(), reason="the MATH sample is not here")
@pytest.mark.parametrize(("name", "count"), [("math_level3.jsonl", 566), ("math_other_levels.jsonl", 194)])
def test_every_real_problem_loads_and_renders(name, count):
    train, test = load_splits(str(SHARED / name), level=None, seed=0)
    assert len(train) + len(test) == count
    tokenizer = make_tokenizer()
    for part in (train, test):
        assert all(part["answer"])
        prompts, _ = render_prompts(tokenizer, part, TrainConfig(max_prompt_tokens=4096))
        texts = tokenizer.batch_decode(prompts)
        assert all(row["problem"].strip() in text for row, text in zip(part, texts, strict=True))
