"""Foreign model families: scored as the model itself computes, sampled as scored, or refused in one line."""

import json
import math

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from full.config import TrainConfig
from full.engines import graphs, hf
from full.engines.hf import Sampler, check_sampling
from full.errors import UserError
from full.logprobs.packing import PackedRows, attention_pair_cost
from full.logprobs.tokens import token_logps
from full.models.loading import check_model, check_tokenizer, load_model, load_tokenizer
from full.models.tiny import make_tokenizer

TOKENIZER = make_tokenizer()
# Heads of their own: a random model with a tied one repeats its last token.
IDS = {
    "vocab_size": len(TOKENIZER),
    "eos_token_id": 2,
    "pad_token_id": 0,
    "bos_token_id": None,
    "tie_word_embeddings": False,
}
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 128}
USUAL = {**IDS, **SIZES, "intermediate_size": 48, "num_key_value_heads": 2}
HEADS = {**USUAL, "head_dim": 8}

# family: (prefix of its classes in transformers, options, whether completions can share a prompt in a row)
FAMILIES = {
    "llama": ("Llama", USUAL, True),
    "qwen2": ("Qwen2", USUAL, True),
    "qwen3": ("Qwen3", HEADS, True),
    "qwen3-moe": ("Qwen3Moe", {**HEADS, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
                               "experts_implementation": "eager"}, True),
    "mistral": ("Mistral", {**HEADS, "sliding_window": 4}, False),
    "gemma": ("Gemma", HEADS, True),
    "gemma3": ("Gemma3", {**HEADS, "sliding_window": 4, "query_pre_attn_scalar": 8}, False),
    "phi3": ("Phi3", {**USUAL, "sliding_window": None}, True),
    "olmo2": ("Olmo2", USUAL, True),
    "smollm3": ("SmolLM3", USUAL, True),
    "gpt2": ("GPT2LMHead", {**IDS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}, True),
    "gpt-neox": ("GPTNeoX", {**IDS, **SIZES, "intermediate_size": 48}, True),
    "falcon": ("Falcon", {**IDS, **SIZES}, True),
    "falcon-alibi": ("Falcon", {**IDS, **SIZES, "alibi": True}, False),
    "bloom": ("Bloom", {**IDS, "hidden_size": 32, "n_layer": 2, "n_head": 4}, False),
    "opt": ("OPT", {**IDS, **SIZES, "ffn_dim": 48, "word_embed_proj_dim": 32}, True),
    "mpt": ("Mpt", {**IDS, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 128}, False),
}  # fmt: skip
# Families that remember more of a prompt than keys and values.
HYBRIDS = {
    "lfm2": ("Lfm2", {**USUAL, "layer_types": ["conv", "full_attention"]}),
    "qwen3-next": ("Qwen3Next", {
        **HEADS, "layer_types": ["linear_attention", "full_attention"], "num_experts": 4, "num_experts_per_tok": 2,
        "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "linear_num_value_heads": 4,
        "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}),
    "falcon-h1": ("FalconH1", {
        **USUAL, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 4, "mamba_n_groups": 1}),
    "mamba": ("Mamba", {**IDS, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}),
    "mamba2": ("Mamba2", {**IDS, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "num_heads": 8, "head_dim": 8,
                          "n_groups": 1}),
}  # fmt: skip
PROMPTS = [[5, 9, 30, 7], [11, 12, 13, 14, 15, 16, 17]]
COMPLETIONS = [[40, 41, 2], [42, 43, 44, 45, 46], [50, 51, 52, 53, 54, 55], [60, 2]]
ROWS = [PROMPTS[0], PROMPTS[0], PROMPTS[1], PROMPTS[1]]
ALONE, TOGETHER = [[0], [1], [2], [3]], [[0, 1], [2, 3]]


def tiny(prefix: str, options: dict):
    """A random model in float32, its head scaled up so that the logits are far from uniform."""
    torch.manual_seed(0)
    options = dict(options)
    experts = options.pop("experts_implementation", None)
    name = {"Gemma3": "Gemma3Text"}.get(prefix, prefix.removesuffix("LMHead"))
    config = getattr(transformers, f"{name}Config")(**options)
    if experts:
        config._experts_implementation = experts  # the grouped product that is chosen otherwise knows no float64
    kind = f"{prefix}Model" if prefix.endswith("LMHead") else f"{prefix}ForCausalLM"
    model = getattr(transformers, kind)(config).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(20.0)
    return model


@torch.no_grad()
def by_its_own_forward(model, prompt: list[int], completion: list[int]) -> torch.Tensor:
    """Log-probabilities of a completion in nats, one row without padding."""
    logps = model(torch.tensor([[*prompt, *completion]])).logits[0].double().log_softmax(-1)
    return logps[len(prompt) - 1 : -1].gather(-1, torch.tensor(completion)[:, None]).squeeze(-1)


@torch.no_grad()
def worst_error(model, prompts, completions, rows: list[list[int]], **options) -> float:
    """Of `token_logps` on these rows of completions, against the model's own forward, in nats."""
    packed = PackedRows(rows, prompts, completions, device=torch.device("cpu"), **options)
    scored = torch.zeros(len(completions), max(map(len, completions)), dtype=next(model.parameters()).dtype)
    packed.collect(token_logps(model, *packed.inputs), scored)
    return max(
        (scores[: len(ids)] - by_its_own_forward(model, prompt, ids)).abs().max().item()
        for scores, prompt, ids in zip(scored, prompts, completions, strict=True)
    )


def sampling_error(model, prompts, **options) -> float:
    """Of the log-probabilities that the sampler reports, against the model's own forward pass, in nats."""
    sampler = Sampler(model, TOKENIZER, seed=3, temperature=1.0, max_new_tokens=8, rows_at_once=8, **options)
    got = sampler.sample(prompts, [(0, 0, i) for i in range(len(prompts))])
    assert len({tuple(ids) for ids in got.completions}) == len(prompts)
    return max(
        (logps[: len(ids)] - by_its_own_forward(model, prompt, ids)).abs().max().item()
        for logps, prompt, ids in zip(got.logps, prompts, got.completions, strict=True)
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_scored_and_sampled_as_the_model_itself_computes(family):
    prefix, options, shares = FAMILIES[family]
    model = tiny(prefix, options)
    assert (attention_pair_cost(model) < math.inf) == shares
    check_model(model, PROMPTS, TrainConfig(max_completion_tokens=8), attention_pair_cost(model))
    check_sampling(model, TOKENIZER, PROMPTS[0], family)
    assert sampling_error(model, ROWS) < 1e-5
    assert worst_error(model, ROWS, COMPLETIONS, ALONE, pad_left=True) < 1e-5  # float64 gives Bloom and MPT a NaN here
    # In float64, where 1e-6 leaves no room for a mistake; logits of 10 have a float32 rounding of as much.
    model = model.double()
    assert worst_error(model, ROWS, COMPLETIONS, ALONE) < 1e-6
    if shares:
        assert worst_error(model, ROWS, COMPLETIONS, TOGETHER) < 1e-6
    else:
        with pytest.raises(ValueError, match="segments were given"):
            worst_error(model, ROWS, COMPLETIONS, TOGETHER)


@pytest.mark.parametrize("family", [name for name, (*_, shares) in FAMILIES.items() if shares])
def test_room_for_coming_tokens_changes_nothing(family, monkeypatch):
    # As on a GPU, where the same kernels are started again for every token; here Python starts them.
    monkeypatch.setattr(hf, "SHORTEST", 2)
    monkeypatch.setattr(graphs, "ROOM", 3)
    monkeypatch.setattr(graphs, "capture", lambda step: seen.append(step) or step)
    seen: list = []
    model = tiny(*FAMILIES[family][:2])
    assert sampling_error(model, ROWS, graphs=True) < 1e-5
    assert bool(seen) == hf.decodes_plainly(model)


@pytest.mark.parametrize("family", HYBRIDS)
def test_hybrids_sample_without_a_shared_prompt(family):
    # With one they ended in an AttributeError, Falcon-H1 in a RuntimeError.
    model = tiny(*HYBRIDS[family])
    assert attention_pair_cost(model) == math.inf
    check_sampling(model, TOKENIZER, PROMPTS[0], family)
    assert sampling_error(model, ROWS) < 1e-5
    assert worst_error(model, ROWS, COMPLETIONS, ALONE) < 1e-5


# Families that count their positions by what is cached, padding on the left included.
PADDED = {
    "marian": ("Marian", {**IDS, "d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 48,
                          "max_position_embeddings": 64, "decoder_start_token_id": 3}),
    "blenderbot-small": ("BlenderbotSmall", {
        **IDS, "d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 48,
        "max_position_embeddings": 64}),
}  # fmt: skip


@pytest.mark.parametrize("family", PADDED)
def test_a_model_that_takes_padding_for_text_gets_prompts_of_one_length_at_a_time(family):
    # Both were refused. BlenderbotSmall is off by some hundredths of a nat, in padded rows alone.
    model = tiny(*PADDED[family])
    assert sampling_error(model, ROWS) > 1e-2
    check_sampling(model, TOKENIZER, PROMPTS[0], family)
    assert sampling_error(model, ROWS) < 1e-5
    assert worst_error(model, ROWS, COMPLETIONS, ALONE) < 1e-5


@pytest.mark.parametrize("family", ["bloom", "mpt"])
def test_alibi_in_float64_is_sampled_without_padding(family):
    # Their mask's lowest float64 becomes -inf in a softmax of float32: a row of padding is NaN, and so is what sees it.
    model = tiny(*FAMILIES[family][:2]).double()
    assert math.isnan(worst_error(model, ROWS, COMPLETIONS, [[0], [2]], pad_left=True))
    check_sampling(model, TOKENIZER, PROMPTS[0], family)
    assert sampling_error(model, ROWS) < 1e-6


def test_a_model_that_keeps_nothing_of_its_prompt_is_sampled():
    # It ended in an AttributeError.
    model = tiny("OpenAIGPTLMHead", {**IDS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128})
    check_sampling(model, TOKENIZER, PROMPTS[0], "gpt")
    assert sampling_error(model, ROWS) < 1e-5


@pytest.mark.parametrize(
    ("prefix", "options"),
    [
        # It looks ahead unless its configuration says is_decoder; a decoding loop of ours was not asked before.
        ("BertLMHead", {**USUAL, "is_decoder": False}),
        # It knows no mask, and goes on from another state than it computed.
        ("Rwkv", {"vocab_size": len(TOKENIZER), "hidden_size": 32, "num_hidden_layers": 2, "context_length": 128}),
    ],
)
def test_a_model_that_samples_otherwise_than_it_scores_is_refused(prefix, options):
    message = r"model 'it' cannot be sampled as it is trained: its sampler's log-probabilities differ by \d.* nats"
    with pytest.raises(UserError, match=message):
        check_sampling(tiny(prefix, options), TOKENIZER, PROMPTS[0], "it")


def test_nan_in_one_row_is_not_passed_over(monkeypatch):
    # max() of Python keeps the first of two numbers that cannot be compared.
    model = tiny("Llama", USUAL)
    assert check_sampling(model, TOKENIZER, PROMPTS[0], "llama") is None
    known = iter([None, None, math.nan])
    own = hf.own_logps
    monkeypatch.setattr(hf, "own_logps", lambda *args: own(*args) * (next(known) or 1.0))
    with pytest.raises(UserError, match="differ by nan nats"):
        check_sampling(model, TOKENIZER, PROMPTS[0], "llama")


def test_code_that_raises_is_told_in_one_line(monkeypatch):
    model = tiny("Llama", USUAL)
    monkeypatch.setattr(hf.Sampler, "sample", lambda *args, **options: [][0])
    with pytest.raises(UserError, match=r"its code raises IndexError \(list index out of range\); expected") as caught:
        check_sampling(model, TOKENIZER, PROMPTS[0], "llama")
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A folder with a Llama and the tokenizer."""
    folder = tmp_path_factory.mktemp("llama")
    tiny("Llama", USUAL).save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return folder


@pytest.fixture
def copy_of(llama, tmp_path):
    """A copy of it to damage."""
    for path in llama.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def load(folder):
    """As the trainer does before it trains."""
    config = TrainConfig(model=str(folder), max_completion_tokens=8)
    tokenizer, name = load_tokenizer(config, None, Sampler)
    model = load_model(name, config)
    check_tokenizer(model, tokenizer, name)
    check_model(model, PROMPTS, config, attention_pair_cost(model))
    return model


def refused(folder, message: str) -> None:
    """It is, by a UserError of one line that says this."""
    with pytest.raises(UserError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_what_is_whole_loads(llama):
    assert type(load(llama)).__name__ == "LlamaForCausalLM"


@pytest.mark.parametrize(
    ("prefix", "options", "message"),
    [
        ("T5", {"vocab_size": 300, "d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}, "T5Config"),
        ("Granite", {**USUAL, "logits_scaling": 1.001}, "changes its logits after the LM head .logits_scaling 1.001"),
        ("Cohere", USUAL, "changes its logits after the LM head .logit_scale 0.0625"),
        ("RecurrentGemma", {**HEADS, "num_hidden_layers": 3, "lru_width": 32}, "changes its logits .*logits_soft_cap 30.0"),
        ("FalconH1", {**HYBRIDS["falcon-h1"][1], "lm_head_multiplier": 0.5}, "changes its logits .*lm_head_multiplier 0.5"),
        ("Gemma2", HEADS, "changes its logits after the LM head .final_logit_softcapping 30.0"),
        ("Gemma3", {
            "text_config": HEADS,
            "vision_config": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 14,
                              "intermediate_size": 32, "image_size": 28}}, "reads more than text"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isalnum() else "",
)  # fmt: skip
def test_other_families_are_refused_in_one_line(prefix, options, message, tmp_path):
    kind = "ForConditionalGeneration" if prefix in ("T5", "Gemma3") else "ForCausalLM"
    config = getattr(transformers, f"{prefix}Config")(**options)
    getattr(transformers, prefix + kind)(config).save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    refused(tmp_path, message)


@pytest.mark.parametrize(
    "keep", [lambda b: b[: len(b) // 2], lambda b: b[:100], lambda b: b"", lambda b: b"version https://git-lfs"]
)
def test_damaged_weights_are_refused_in_one_line(keep, copy_of):
    weights = copy_of / "model.safetensors"
    weights.write_bytes(keep(weights.read_bytes()))
    refused(copy_of, "cannot be read: Error while deserializing header.*Download")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        # transformers warns, and draws what is missing at random: this trained.
        (
            lambda weights: {k: v for k, v in weights.items() if ".layers.1." not in k},
            r"lack 9 of the model's, model\.layers\.1\.input_layernorm\.weight first",
        ),
        (
            lambda weights: {k: v[:-1].clone() for k, v in weights.items()},
            "cannot be read: .*expected whole files that fit",
        ),
        (lambda weights: {k: v * math.nan for k, v in weights.items()}, "no numbers .NaN."),
    ],
    ids=["missing", "shapes", "nan"],
)
def test_weights_that_are_not_the_models_are_refused(change, message, copy_of):
    weights = copy_of / "model.safetensors"
    save_file(change(load_file(weights)), weights, metadata={"format": "pt"})
    refused(copy_of, message)


def test_a_configuration_of_other_types_is_refused(copy_of):
    path = copy_of / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"hidden_size": "large"}))
    refused(copy_of, "hidden_size")


def test_a_tokenizer_larger_than_the_embedding_is_refused(copy_of):
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["<extra>"])
    tokenizer.save_pretrained(copy_of)
    rows = len(TOKENIZER)
    refused(copy_of, rf"ids up to {rows} \('<extra>'\) and the model's embedding {rows} rows")


def test_a_tokenizer_without_an_end_of_sequence_is_refused(copy_of):
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    tokenizer.save_pretrained(copy_of)
    refused(copy_of, "has no end of sequence")


def test_a_tokenizer_file_of_another_kind_is_refused(copy_of):
    path = copy_of / "tokenizer.json"  # of a newer tokenizers, say: that library raises a bare Exception
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model": {"type": "Newer"}}))
    refused(copy_of, "cannot be loaded")
