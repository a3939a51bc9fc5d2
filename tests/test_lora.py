"""Adapters: they start as nothing, train alone, give the same gradient however it is computed, and load elsewhere."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from full import train
from full.config import TrainConfig
from full.errors import UserError
from full.logprobs.tokens import token_logps
from full.models.adapters import keep_base_in
from full.models.loading import load_model, save_policy
from full.trainer import state
from tests.helpers import metrics_without_times, save_small_model, small_run

ROOT = Path(__file__).parents[1]
IDS = torch.tensor([[5, 9, 40, 7, 12, 2], [3, 8, 8, 21, 30, 2]])
MASK = torch.ones_like(IDS)
COMPLETION = torch.tensor([[0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 1, 1]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    """A run of four steps with adapters of rank 2."""
    path = tmp_path_factory.mktemp("lora") / "run"
    train.main(small_run(folder, path, lora_rank=2, steps=4))
    return path


def load(folder, *, seed: int = 0, **options):
    torch.manual_seed(seed)
    return load_model(str(folder), TrainConfig(**{"lora_rank": 2, "weights": "float64", **options}))


def moved(model, seed: int = 1):
    """The model with adapters that are no longer 0."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    return model


def logps(model):
    return token_logps(model, IDS, MASK, COMPLETION)


def test_only_adapters_on_every_linear_layer_but_the_head_are_trained(folder):
    model = load(folder)
    plain = load(folder, lora_rank=0)
    linear = [name for name, module in plain.named_modules() if isinstance(module, torch.nn.Linear)]
    expected = {f"{name}.lora_{side}.default.weight" for name in linear if name != "lm_head" for side in "AB"}
    assert len(expected) == 2 * 2 * 7  # A and B, two layers, and in each q, k, v, o, gate, up, down
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == expected
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
    assert all(parameter.requires_grad for parameter in plain.parameters())


def test_at_the_start_adapters_change_nothing_and_later_they_do(folder):
    model = load(folder)
    assert torch.equal(logps(model), logps(load(folder, lora_rank=0)))  # so KL to the anchor is exactly 0
    assert (logps(moved(model)) - logps(load(folder, lora_rank=0))).abs().max() > 0.1


def test_an_adapter_adds_two_b_a(folder):
    # rank r, alpha = 2 r: the scale is alpha / r = 2.
    layer = moved(load(folder)).model.layers[0].self_attn.q_proj
    x = torch.randn(3, layer.in_features, dtype=torch.float64)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    torch.testing.assert_close(layer(x), layer.base_layer(x) + 2.0 * x @ a.T @ b.T)


def test_the_same_seed_gives_the_same_adapters_and_another_others(folder):
    first, same, other = (
        {name: value for name, value in load(folder, seed=seed).state_dict().items() if "lora_A" in name}
        for seed in (0, 0, 1)
    )
    assert all(torch.equal(value, same[name]) for name, value in first.items())
    assert not any(torch.equal(value, other[name]) for name, value in first.items())


def test_generate_uses_the_adapters(folder):
    model, plain = moved(load(folder)), load(folder, lora_rank=0)
    prompt = IDS[:, :3]
    options = {"attention_mask": MASK[:, :3], "max_new_tokens": 4, "do_sample": False}
    out = model.generate(prompt, **options)
    assert not torch.equal(out, plain.generate(prompt, **options))
    for step in range(3, out.shape[1]):  # greedy by the adapted model's own logits
        on = (out[:, 3:step] != 2).all(-1)
        assert torch.equal(out[on, step], model(out[:, :step]).logits[on, -1].argmax(-1))


def test_checkpointing_gives_the_same_gradient(folder):
    gradients = []
    for checkpointing in (False, True):
        model = moved(load(folder, gradient_checkpointing=checkpointing)).train()
        assert model.is_activation_checkpointing == checkpointing
        logps(model).sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    plain, recomputed = gradients
    assert plain.keys() == recomputed.keys() and all("lora" in name for name in plain)
    for name, gradient in plain.items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(recomputed[name], gradient, rtol=1e-12, atol=0)


@pytest.mark.parametrize("weights", ["float32", "float64"])
def test_an_adapter_folder_is_loaded_by_transformers_and_by_peft(folder, tmp_path, monkeypatch, weights):
    from peft import PeftModel

    monkeypatch.chdir(folder.parent)  # the base is named so that it is found from elsewhere too
    model = moved(load(folder.name, weights=weights))
    monkeypatch.chdir(tmp_path)
    save_policy(model, AutoTokenizer.from_pretrained(folder), tmp_path, merge=False)
    assert not (tmp_path / "model.safetensors").exists()
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == str(folder)
    wanted, dtype = model(IDS).logits, getattr(torch, weights)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    for other in (
        AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype),
        PeftModel.from_pretrained(base, tmp_path),
    ):
        torch.testing.assert_close(other(IDS).logits, wanted, rtol=1e-5, atol=1e-5)
    merged = load(tmp_path, lora_rank=0, weights=weights)  # as the evaluation reads it
    torch.testing.assert_close(merged(IDS).logits, wanted, rtol=1e-5, atol=1e-5)
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template


@pytest.mark.parametrize("tied", [True, False])
def test_a_merged_folder_is_an_ordinary_one(tmp_path, tied):
    folder = save_small_model(tmp_path / "base", tie_word_embeddings=tied)
    model = moved(load(folder, weights="float32"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    save_policy(model, AutoTokenizer.from_pretrained(folder), tmp_path / "merged", merge=True)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert load_file(tmp_path / "merged" / "model.safetensors").keys() == load_file(folder / "model.safetensors").keys()
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert not hasattr(merged, "peft_config")
    torch.testing.assert_close(merged(IDS).logits, model(IDS).logits, rtol=1e-5, atol=1e-5)


def test_peft_is_needed_for_adapters_only(folder, tmp_path):
    save_policy(moved(load(folder)), AutoTokenizer.from_pretrained(folder), tmp_path, merge=True)
    code = (
        "import sys; sys.modules['peft'] = None  # importing it would fail\n"
        "from full.config import TrainConfig; from full.models.loading import load_model\n"
        f"load_model({str(tmp_path)!r}, TrainConfig())"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ.copy(), check=True, timeout=120)


def test_without_adapters_the_folder_holds_the_weights(folder, tmp_path):
    model = load(folder, lora_rank=0, weights="float32")
    save_policy(model, AutoTokenizer.from_pretrained(folder), tmp_path, merge=False)
    saved, original = load_file(tmp_path / "model.safetensors"), load_file(folder / "model.safetensors")
    assert saved.keys() == original.keys() and all(torch.equal(saved[name], original[name]) for name in saved)


def test_adapters_on_adapters_are_refused(folder, tmp_path):
    save_policy(load(folder), AutoTokenizer.from_pretrained(folder), tmp_path, merge=False)
    with pytest.raises(
        UserError, match=r"holds adapters and lora_rank is 4; expected whole weights.*--merge_lora true"
    ):
        load(tmp_path, lora_rank=4)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("checkpointing", [True, False])
def test_a_base_kept_in_half_precision_computes_what_autocast_computes(tmp_path, tied, checkpointing):
    folder = save_small_model(tmp_path / "base", tie_word_embeddings=tied)
    options = {"weights": "float32", "gradient_checkpointing": checkpointing}
    cast, kept = (moved(load(folder, **options)) for _ in range(2))
    keep_base_in(kept, torch.bfloat16)
    half = {name for name, parameter in kept.named_parameters() if parameter.dtype == torch.bfloat16}
    layers = {name for name in half if name.endswith("base_layer.weight")}
    assert len(layers) == 14 and half - layers == (set() if tied else {"lm_head.weight"})
    found = []
    for model in (cast, kept):
        with torch.autocast("cpu", torch.bfloat16):
            values, entropies = token_logps(model, IDS, MASK, COMPLETION, with_entropy=True)
            values.sum().backward()
            own = model(IDS).logits
        found.append([values, entropies, own, *[p.grad for p in model.parameters() if p.requires_grad]])
    assert len(found[0]) == 3 + 28
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert (found[0][0] - logps(cast).detach()).abs().max() > 1e-4  # it was half precision


def test_a_run_with_its_base_in_half_precision_is_the_run_under_autocast(folder, tmp_path, monkeypatch):
    def half_precision(*args, **options):
        return Accelerator(cpu=True, mixed_precision="bf16")

    AcceleratorState._reset_state(reset_partial_state=True)  # accelerate keeps the precision of a process's first one
    monkeypatch.setattr(train, "start_accelerator", half_precision)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(state, "keep_base_in", lambda *args: None)
            train.main(small_run(folder, tmp_path / "cast", lora_rank=2, steps=4))
        for name, merge in (("kept", False), ("merged", True)):
            train.main(small_run(folder, tmp_path / name, lora_rank=2, steps=4, merge_lora=merge))
        shutil.copytree(tmp_path / "kept", tmp_path / "resumed")
        shutil.rmtree(tmp_path / "resumed" / "checkpoints" / "step-4")
        train.main(["--resume", str(tmp_path / "resumed")])
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    runs = [metrics_without_times(tmp_path / name) for name in ("cast", "kept", "merged", "resumed")]
    assert runs[0] == runs[1] == runs[2] == runs[3]
    assert runs[0][0]["mismatch_max"] > 0  # half precision
    ours, theirs = (
        load_file(tmp_path / name / "checkpoints" / "step-4" / "model.safetensors") for name in ("kept", "cast")
    )
    assert {ours[name].dtype for name in ours if ".base_layer." in name} == {torch.bfloat16}
    assert all(torch.equal(ours[name], theirs[name].to(ours[name].dtype)) for name in theirs)
    adapters = [
        load_file(tmp_path / name / "model" / "adapter_model.safetensors") for name in ("cast", "kept", "resumed")
    ]
    assert all(torch.equal(adapters[0][name], other[name]) for other in adapters[1:] for name in adapters[0])
    merged = load_file(tmp_path / "merged" / "model" / "model.safetensors")
    assert {tensor.dtype for tensor in merged.values()} == {torch.float32}
    base = load_file(folder / "model.safetensors")["model.layers.0.mlp.up_proj.weight"]
    of_layer = "base_model.model.model.layers.0.mlp.up_proj.lora_{}.weight"
    delta = 2.0 * adapters[1][of_layer.format("B")] @ adapters[1][of_layer.format("A")]
    # What was trained: the base as autocast rounds it, and the adapters unrounded on top.
    torch.testing.assert_close(
        merged["model.layers.0.mlp.up_proj.weight"], base.bfloat16().float() + delta, rtol=0, atol=1e-7
    )


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("merge", [True, False])
def test_a_model_is_written_in_half_the_size(tmp_path, tied, merge):
    folder = save_small_model(tmp_path / "base", tie_word_embeddings=tied)
    model = moved(load(folder, weights="float32")) if merge else load(folder, weights="float32", lora_rank=0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for name, dtype in (("whole", None), ("half", torch.bfloat16)):
        save_policy(model, tokenizer, tmp_path / name, merge=merge, dtype=dtype)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    whole, half = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "half"))
    assert half.keys() == whole.keys()
    assert all(
        value.dtype == torch.bfloat16 and torch.equal(value, whole[name].bfloat16()) for name, value in half.items()
    )
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "half", dtype="auto").dtype == torch.bfloat16


def test_a_run_writes_its_model_in_half_the_size(folder, tmp_path):
    train.main(small_run(folder, tmp_path / "run", steps=1, model_dtype="bfloat16"))
    saved = load_file(tmp_path / "run" / "model" / "model.safetensors")
    (checkpoint,) = (tmp_path / "run" / "checkpoints").glob("step-1")
    trained = load_file(checkpoint / "model.safetensors")
    assert saved and all(torch.equal(value, trained[f"model.{name}"].bfloat16()) for name, value in saved.items())
    assert {value.dtype for value in trained.values()} == {torch.float32}


def test_a_run_moves_the_adapters_and_nothing_else(folder, run):
    (checkpoint,) = (run / "checkpoints").glob("step-4")
    after = load_file(checkpoint / "model.safetensors")
    start = {f"model.{name}": value for name, value in load(folder, weights="float32").state_dict().items()}
    assert all(torch.equal(value, start[name]) for name, value in after.items() if "lora" not in name)
    trained = {name: value for name, value in after.items() if "lora" in name}
    assert len(trained) == 28 and not any(torch.equal(value, start[name]) for name, value in trained.items())
    rows = metrics_without_times(run)
    assert rows[0]["kl_old"] == 0.0 and rows[0]["grad_norm"] > 0


def test_a_run_is_written_as_adapters_or_merged(folder, run, tmp_path):
    adapters = AutoModelForCausalLM.from_pretrained(run / "model")
    train.main(small_run(folder, tmp_path / "run", lora_rank=2, steps=4, merge_lora=True))
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    assert not hasattr(merged, "peft_config")
    torch.testing.assert_close(merged(IDS).logits, adapters(IDS).logits, rtol=1e-5, atol=1e-5)


def test_a_run_with_adapters_resumes_exactly(run, tmp_path):
    stopped = shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(stopped / "checkpoints" / "step-4")
    train.main(["--resume", str(stopped)])
    assert metrics_without_times(stopped) == metrics_without_times(run)
    expected, got = (load_file(folder / "model" / "adapter_model.safetensors") for folder in (run, stopped))
    assert expected.keys() == got.keys() and all(torch.equal(got[name], expected[name]) for name in got)
