"""The warm start on a task's own answers: its loss is the model's own, it learns, and only from problems to train on."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from full import answers
from full.config import TrainConfig
from full.data.splits import is_held_out
from full.errors import UserError
from full.models.tiny import make_model, make_tokenizer


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tokenizer = make_tokenizer()
    make_model(tokenizer, seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def config(model, **changes):
    options = {
        "model": str(model), "data": "word_sums", "level": "1", "steps": 8, "mini_batch_prompts": 2, "prompts_per_batch": 2,
        "lr": 3e-3, "cpu_threads": 1, "max_prompt_tokens": 900, "max_grad_norm": 10.0,
    }  # fmt: skip
    return TrainConfig(**options | changes)


def test_the_loss_is_the_models_own_on_the_answers_tokens():
    model = make_model(make_tokenizer(), seed=1)
    pairs = [([5, 6, 7], [8, 9]), ([10], [11, 12, 13, 2])]
    # transformers' own loss of one row at a time, labels -100 on the prompt; 2 and 4 answer tokens.
    rows = []
    for prompt, answer in pairs:
        ids = torch.tensor([prompt + answer])
        labels = torch.tensor([[-100] * len(prompt) + answer])
        rows.append(model(input_ids=ids, labels=labels).loss * len(answer))
    assert answers.answer_loss(model, pairs).item() == pytest.approx(sum(rows).item() / 6, rel=1e-5)


def test_it_learns_from_problems_to_train_on_and_writes_a_folder(untrained, tmp_path, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(answers, "load_splits", lambda *a, **k: seen.append(splits(*a, **k)) or seen[-1])
    losses = answers.learn_answers(config(untrained), tmp_path / "out")
    assert len(losses) == 8 and losses[0] > 5.0 and losses[-1] < 0.7 * losses[0]
    assert "step 8/8" in capsys.readouterr().out
    assert not any(is_held_out(problem) for problem in seen[0][0]["problem"][:16])
    before, after = (AutoModelForCausalLM.from_pretrained(folder) for folder in (untrained, tmp_path / "out"))
    assert not torch.equal(before.get_input_embeddings().weight, after.get_input_embeddings().weight)
    with pytest.raises(UserError, match="exists; expected a new folder"):
        answers.learn_answers(config(untrained), tmp_path / "out")


def test_more_problems_than_there_are_are_refused(untrained, tmp_path):
    with pytest.raises(
        UserError, match=r"1800 steps of 2 problems take 3600, and word_sums has \d+ to train on.*Lower --steps"
    ):
        answers.learn_answers(config(untrained, steps=1800), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_folder_must_be_named(untrained):
    with pytest.raises(UserError, match="output_dir is not given.*--output_dir runs/primed"):
        answers.main(["--model", str(untrained), "--data", "word_sums", "--level", "1"])


splits = answers.load_splits
