"""Memory that runs out: half as much at once, the same samples, the same gradient; or one line that says what to try."""

import functools
import itertools
import os

import pytest
import torch
from safetensors.torch import load_file
from transformers import Qwen3ForCausalLM

from full import train
from full.config import TrainConfig
from full.engines import hf
from full.errors import NoRoomError
from full.halving import Halving, NothingToHalveError, ran_out_of_memory, room_or_advice
from full.logprobs import tokens
from full.logprobs.tokens import Policy
from full.trainer import state
from tests.helpers import metrics_without_times, save_small_model, small_run
from tests.test_training import launch

# Several micro-batches an update and several calls of the sampler a batch; everything in float64, so that rounding is 1e-16.
CUTS = {
    "weights": "float64",
    "micro_batch_tokens": 150,
    "generation_rows": 12,
    "steps": 3,
    "eval_problems": 4,
    "save_every": 0,
}
TEXT = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB."


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def reference(model, tmp_path_factory):
    run = tmp_path_factory.mktemp("reference") / "run"
    train.main(small_run(model, run, **CUTS))
    return run


class Failing:
    """Runs out of memory at some of its calls, counted from 1."""

    def __init__(self, *failing: int, every: bool = False) -> None:
        self.failing, self.every, self.calls = failing, every, itertools.count(1)

    def __call__(self, *_: object) -> None:
        if self.every or next(self.calls) in self.failing:
            raise torch.OutOfMemoryError(TEXT)


def inject(monkeypatch, where: str, fail: Failing) -> None:
    """Let `fail` be called in each pass of this kind."""
    if where == "sampling":  # prefill or decoding; updates and scores go to the backbone directly
        forward = Qwen3ForCausalLM.forward

        @functools.wraps(forward)  # its signature says how the sampler may use it
        def counted(*args, **options):
            if "past_key_values" in options:
                fail()
            return forward(*args, **options)

        monkeypatch.setattr(Qwen3ForCausalLM, "forward", counted)
        monkeypatch.setattr(state, "check_sampling", lambda *args: None)  # the first call is the run's
    elif where == "backward":  # at the first layer, when the gradients of the later ones have been added
        init = Policy.__init__

        def hooked(self, model):
            init(self, model)
            model.model.layers[0].register_full_backward_hook(lambda *_: fail())

        monkeypatch.setattr(Policy, "__init__", hooked)
    else:
        original, with_graph = tokens.token_logps, where == "forward"

        def scored(*args, **options):
            logps = original(*args, **options)
            if torch.is_grad_enabled() == with_graph:
                fail()
            return logps

        monkeypatch.setattr(tokens, "token_logps", scored)


def equal_up_to_rounding(run, reference) -> None:
    differ = ("padding_fraction", "out_of_memory")  # how it was cut, and that it was cut otherwise
    for a, b in zip(metrics_without_times(run), metrics_without_times(reference), strict=True):
        for row in (a, b):
            assert {row.pop(name) is not None for name in differ} == {True}
        assert a == pytest.approx(b, rel=1e-9, abs=1e-12)
    assert (run / "completions.jsonl").read_text() == (reference / "completions.jsonl").read_text()
    ours, theirs = (load_file(folder / "model" / "model.safetensors") for folder in (run, reference))
    assert max((ours[name] - theirs[name]).abs().max().item() for name in theirs) < 1e-12


@pytest.mark.parametrize(
    ("where", "failing", "option", "sizes"),
    [
        ("sampling", (1,), "generation_rows", [4]),  # reading the prompts of the first evaluation: 8 rows
        ("sampling", (9, 10), "generation_rows", [6, 3]),  # in the middle of completions, and again at once
        ("scoring", (2,), "micro_batch_tokens", [75]),
        ("forward", (3, 4), "micro_batch_tokens", [75, 37]),
        ("backward", (4,), "micro_batch_tokens", [75]),
    ],
)
def test_the_run_goes_on_to_the_same_numbers(
    model, reference, tmp_path, monkeypatch, capsys, where, failing, option, sizes
):
    inject(monkeypatch, where, Failing(*failing))
    train.main(small_run(model, tmp_path / "run", **CUTS))
    said = [line for line in capsys.readouterr().out.splitlines() if "memory ran out" in line]
    assert len(said) == len(sizes)
    for line, size in zip(said, sizes, strict=True):
        found = int(line.split(f"{option} is ")[1].split()[0])
        assert 1 <= found <= size  # half of what was tried, which may be less than the option
        assert f"Start the next run with --{option} {found}." in line
        assert "CUDA out of memory" in line and "79.11" not in line
    counts = [row["out_of_memory"] for row in metrics_without_times(tmp_path / "run")]
    assert counts == sorted(counts) and counts[-1] == len(sizes)
    assert metrics_without_times(reference)[-1]["out_of_memory"] == 0
    equal_up_to_rounding(tmp_path / "run", reference)


@pytest.mark.parametrize("where", ["sampling", "scoring", "forward", "backward"])
def test_what_never_fits_stops_with_advice(model, tmp_path, monkeypatch, where):
    inject(monkeypatch, where, Failing(every=True))
    cut = "--micro_batch_tokens 150 --generation_rows 12"
    with pytest.raises(
        NoRoomError,
        match=r"one completion alone. By the memory model one completion at a time needs about .* so it should fit: look for "
        rf".*Try --gradient_checkpointing true {cut} \(about [0-9.]+ .B\), or --lora_rank 16 {cut}.*FSDP",
    ):
        train.main(small_run(model, tmp_path / "run", **CUTS))


def test_what_cannot_be_halved_stops_with_advice(model, tmp_path, monkeypatch):
    # AdamW's moments are made in the first step; no micro-batch is in memory then.
    monkeypatch.setattr(torch.optim.AdamW, "step", Failing(every=True))
    with pytest.raises(NoRoomError, match=r"memory ran out: CUDA out of memory\. By the memory model .* Try "):
        train.main(small_run(model, tmp_path / "run", **CUTS))


def test_a_model_that_does_not_fit_is_not_taken_for_one_that_cannot_be_sampled(model, tmp_path, monkeypatch):
    monkeypatch.setattr(hf.Sampler, "sample", Failing(every=True))
    with pytest.raises(
        NoRoomError, match=r"CUDA out of memory\. Try --gradient_checkpointing true, or .* a smaller model; --"
    ):
        train.main(small_run(model, tmp_path / "run", **CUTS))


def test_advice_leaves_out_what_is_done_already():
    config = TrainConfig(gradient_checkpointing=True, lora_rank=8)
    with pytest.raises(NoRoomError, match="a smaller model; --doctor says"), room_or_advice(TrainConfig()):
        raise torch.OutOfMemoryError(TEXT)  # while the model is loaded, of which nothing is known yet
    with pytest.raises(NoRoomError, match="Try a smaller --max_completion_tokens"), room_or_advice(config):
        raise torch.OutOfMemoryError(TEXT)
    with pytest.raises(KeyError), room_or_advice(config):
        raise KeyError("another fault")


def test_what_counts_as_memory_that_ran_out():
    assert ran_out_of_memory(torch.OutOfMemoryError("anything"))
    assert ran_out_of_memory(
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate")
    )
    assert not ran_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not ran_out_of_memory(KeyboardInterrupt())


def test_sizes_halve_from_what_was_tried():
    room = Halving("micro_batch_tokens", 8192)
    room.halve("full", tried=3000, whole=False)
    room.halve("full", tried=1500, whole=False)
    assert (room.size, room.count) == (750, 2)
    with pytest.raises(NothingToHalveError, match="micro_batch_tokens cannot be smaller"):
        room.halve("full", tried=750, whole=True)


def test_tensors_of_a_failed_attempt_are_let_go():
    alive = []

    def use_much() -> None:
        large = torch.zeros(10)
        alive.append(torch._C._WeakTensorRef(large))
        raise torch.OutOfMemoryError(TEXT)

    assert Halving("generation_rows", 4).attempt(use_much) == (None, "CUDA out of memory")
    assert alive[0].expired()


def fail_on_one_process(trainer, metrics) -> None:
    """A callback: after step 1 the second of two processes runs out of memory in a pass, as the environment says."""
    if metrics["step"] == 1 and trainer.accelerator.process_index == 1:
        fail = Failing(int(os.environ["FAILING_PASS"]))
        trainer.model.model.layers[0].register_full_backward_hook(lambda *_: fail())


@pytest.mark.parametrize("failing", ["1", "2"])
def test_one_of_two_processes_tries_again_by_itself_unless_it_was_exchanging(
    model, reference, tmp_path, monkeypatch, failing
):
    # An update of a process takes two passes at 70 tokens; the second exchanges gradients.
    monkeypatch.setenv("FAILING_PASS", failing)
    changes = CUTS | {"micro_batch_tokens": 70, "callback": "tests.test_halving:fail_on_one_process"}
    out = launch(small_run(model, tmp_path / "run", **changes), processes=2)
    if failing == "1":
        assert out.returncode == 0, out.stderr[-3000:]
        assert "memory ran out (CUDA out of memory); micro_batch_tokens is 21" in out.stdout
        equal_up_to_rounding(tmp_path / "run", reference)
    else:
        assert out.returncode == 1
        assert f"--resume {tmp_path / 'run'} --micro_batch_tokens 21" in out.stderr
        assert "were exchanging gradients" in out.stderr
