"""The plan for larger models: sizes from outside, what fits, and the page that quotes it."""

from pathlib import Path

import pytest

from full.config import TrainConfig
from full.doctor import plan
from full.doctor.plan import GPUS, Setup, estimate, memory_of_shape
from full.trainer.batches import BatchPlan

README = Path(__file__).parents[1] / "README.md"
PAGE = Path(__file__).parents[1] / "notebooks" / "results" / "PLAN_7B.md"


@pytest.mark.parametrize(("shape", "parameters"), [("1.7B", 1.72e9), ("8B", 8.19e9), ("32B", 32.8e9)])
def test_layers_are_extended_to_the_published_number_of_parameters(shape, parameters):
    memory, found = memory_of_shape(Setup(model=shape, gpus=1))
    assert found == pytest.approx(parameters, rel=2e-3)
    # float32: weights 4 bytes a parameter, as many for the gradient, twice as many for AdamW's moments.
    assert (memory.weights, memory.gradients, memory.moments) == pytest.approx((4 * found, 4 * found, 8 * found))


def test_sharing_and_adapters_make_it_fit():
    alone = estimate(Setup(model="8B", gpus=1), GPUS["H100"])
    shared = estimate(Setup(model="8B", gpus=8), GPUS["H100"])
    assert (alone.fits, shared.fits) == (False, True)
    assert alone.updating > 16 * 8.19e9 > 5 * shared.updating / 3  # 16 bytes a parameter, an eighth of it shared
    assert shared.sampling > 2 * 8.19e9  # all weights in bfloat16, gathered
    assert shared.sample > shared.update > 0


def test_the_readmes_hours_of_8b_on_four_gpus_are_those_of_the_plan():
    found = estimate(Setup(model="8B", gpus=4), GPUS["H100"])
    # 100 batches are 200 steps.
    assert found.fits and 100 * (found.sample + found.update) / 3600 == pytest.approx(3.5, abs=0.05)
    row = next(line for line in README.read_text(encoding="utf-8").splitlines() if line.startswith("| Qwen3-8B"))
    assert "3.5 hours for 200 steps on four H100s, by arithmetic" in row


@pytest.mark.parametrize("setup", plan.SETUPS, ids=str)
def test_the_options_of_a_setup_make_a_run_that_keeps_groups_whole(setup):
    words = dict(part.split() for part in setup.words.split(", ") if part.startswith(("prompts", "mini", "lora")))
    config = TrainConfig(**{name: int(value) for name, value in words.items()})
    batch = BatchPlan(config, processes=setup.gpus)
    assert batch.splits_evenly and batch.updates == plan.Work().updates and batch.prompts == setup.prompts


def test_the_page_quotes_the_command():
    row = next(line for line in plan.table("H100", plan.PRICE, [Setup(model="8B", gpus=8)]) if line.startswith("| 8B"))
    assert row in PAGE.read_text(encoding="utf-8"), "write it anew: python -m full.doctor.plan --page PLAN_7B.md"


@pytest.mark.slow
def test_the_page_has_the_whole_table():
    page = PAGE.read_text(encoding="utf-8")
    assert plan.with_table(page) == page
