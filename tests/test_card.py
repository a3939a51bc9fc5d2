"""The model card: the hub can read its metadata, its numbers are the summary's, its code loads the model."""

import json
import re
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from full.models.card import is_hub_id, write_card

RUN = Path(__file__).parents[1] / "notebooks" / "data" / "run-08"


@pytest.fixture
def card(tmp_path) -> ModelCard:
    options = yaml.safe_load((RUN / "config.yaml").read_text())
    provenance = options.pop("provenance")
    summary = json.loads((RUN / "summary.json").read_text())
    for when in ("eval_before", "eval_after"):  # a run recorded before there were intervals
        summary[when] |= {"pass@1_ci": [0.5, 0.7], "k": 1}
    (tmp_path / "my-run" / "model").mkdir(parents=True)
    return ModelCard.load(write_card(tmp_path / "my-run" / "model", options, provenance, summary))


def test_metadata_and_numbers(card):
    summary = json.loads((RUN / "summary.json").read_text())
    assert card.data.eval_results is not None
    results = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert results == {metric: summary["eval_after"][metric] for metric in ("pass@1", "greedy")}
    assert card.data.model_name == "my-run" and card.data.library_name == "transformers" and "apo" in card.data.tags
    before, after = (summary[f"eval_{when}"]["pass@1"] for when in ("before", "after"))
    assert f"| pass@1 | {before:.3f} | {after:.3f} | 0.500 to 0.700 |" in card.text
    assert "schedule of alpha: guarded" in card.text and "seed 0" in card.text


def test_its_code_is_python(card):
    (code,) = re.findall(r"```python\n(.*?)```", card.text, re.S)
    compile(code, "card", "exec")
    assert "AutoModelForCausalLM" in code


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Qwen/Qwen3-1.7B", True), ("tiny", False), ("./model", False), ("a/b/c", False), ("~/model", False)],
)
def test_hub_ids(name, expected):
    assert is_hub_id(name) == expected
