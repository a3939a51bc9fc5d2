"""Scoring: equal to the plain computation, indifferent to padding and cutting, and with a gradient on the last token."""

import math
from itertools import product

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import (
    CohereConfig,
    Gemma2Config,
    GraniteConfig,
    GraniteForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MptConfig,
    MptForCausalLM,
    Qwen3Config,
)

from full.logprobs import lm_head
from full.logprobs.lm_head import head_logps
from full.logprobs.packing import PackedRows, attention_pair_cost, micro_batches, pack
from full.logprobs.scoring import score, scoring_error
from full.logprobs.tokens import Policy, predecessors, token_logps, tree_mask
from full.models.loading import logit_options
from full.trainer.rollout import Rollout
from tests.helpers import small_model

CPU = torch.device("cpu")
PROMPTS = [[5, 6, 7], [8, 9], [10, 11, 12, 13, 14], [15, 16]]
COMPLETIONS = [[20, 21, 2], [22, 2], [23, 24, 25, 26], [2]]  # 2 ends a sequence; the third is truncated


def plain(model, prompt, completion, temperature=1.0):
    """One row at a time, no padding, the full softmax: what the log-probabilities are by definition."""
    ids = torch.tensor([[*prompt, *completion]])
    logits = model(input_ids=ids).logits[0] / temperature
    logps = logits.log_softmax(-1)
    return torch.stack([logps[len(prompt) + t - 1, token] for t, token in enumerate(completion)])


@pytest.mark.parametrize("pad_left", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_equals_the_plain_computation_whatever_the_padding(pad_left, temperature):
    model = small_model()
    rows = PackedRows([[0], [1], [2], [3]], PROMPTS, COMPLETIONS, device=CPU, pad_left=pad_left)
    got = token_logps(model, *rows.inputs, temperature=temperature)
    assert got.shape == rows.input_ids.shape
    assert bool((got[rows.segments <= 0] == 0).all())
    for row, (prompt, completion) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
        want = plain(model, prompt, completion, temperature)
        torch.testing.assert_close(got[row][rows.segments[row] > 0], want, rtol=1e-12, atol=1e-13)


def test_the_last_column_never_reaches_the_model():
    # It predicts nothing. Alone, with left and right padding, and in a row of several completions.
    model, widths = small_model(), []
    model.model.register_forward_pre_hook(
        lambda _, args, given: widths.append(given["input_ids"].shape), with_kwargs=True
    )
    for cut in ([[0], [1]], [[2]]):
        for pad_left in (False, True):
            rows = PackedRows(cut, PROMPTS, COMPLETIONS, device=CPU, pad_left=pad_left)
            token_logps(model, *rows.inputs)
    token_logps(model, *PackedRows([[0, 1]], [PROMPTS[0]] * 2, COMPLETIONS, device=CPU).inputs)
    assert widths == [(2, 5), (2, 5), (1, 8), (1, 8), (1, 7)]


def test_entropy_is_that_of_the_next_token():
    model = small_model()
    rows = PackedRows([[2]], PROMPTS, COMPLETIONS, device=CPU)
    _, entropy = token_logps(model, *rows.inputs, with_entropy=True)
    logps = model(input_ids=rows.input_ids).logits[0].log_softmax(-1)
    want = -(logps.exp() * logps).sum(-1)[4:-1]
    torch.testing.assert_close(entropy[0][rows.segments[0] > 0], want, rtol=1e-12, atol=1e-13)


def gradient(model, coef, max_tokens, pad_left=False):
    model.zero_grad()
    for rows in micro_batches(PROMPTS, COMPLETIONS, max_tokens, device=CPU, pad_left=pad_left):
        logps = token_logps(model, *rows.inputs)
        (rows.spread(coef) * logps).sum().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("pad_left", [False, True])
def test_gradient_does_not_depend_on_the_cut(dtype, tolerance, pad_left):
    model = small_model(dtype=dtype)
    coef = torch.randn(4, 4, dtype=dtype, generator=torch.Generator().manual_seed(0))
    want = gradient(model, coef, 1000)
    scale = want.abs().max()
    for max_tokens in (1, 6, 9, 12):
        assert (gradient(model, coef, max_tokens, pad_left) - want).abs().max() < tolerance * scale


def test_gradient_checkpointing_changes_nothing():
    model, coef = small_model(), torch.ones(4, 4, dtype=torch.float64)
    model.train()
    want = gradient(model, coef, 1000)
    model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    torch.testing.assert_close(gradient(model, coef, 9), want, rtol=1e-12, atol=1e-12 * want.abs().max().item())


def test_micro_batches_keep_to_the_budget_and_lose_nothing():
    seen = []
    for rows in micro_batches(PROMPTS, COMPLETIONS, 12, device=CPU, pair_cost=math.inf):
        assert rows.input_ids.numel() <= 12
        seen += [i for row in rows.rows for i in row]
    assert sorted(seen) == [0, 1, 2, 3]
    # A row longer than the budget goes alone.
    assert [rows.rows for rows in micro_batches(PROMPTS, COMPLETIONS, 1, device=CPU)] == [[[3]], [[1]], [[0]], [[2]]]


def test_the_end_of_sequence_carries_gradient_even_where_pad_is_eos():
    # The fault of masks made from ids (mask = ids != pad): with pad = eos the end is never trained.
    rollout = Rollout(
        prompts=PROMPTS,
        completions=COMPLETIONS,
        rewards=torch.zeros(4),
        valid=torch.ones(4).bool(),
        truncated=torch.zeros(4).bool(),
        answers=torch.zeros(4),
        old_logps=torch.zeros(4, 4),
        entropies=torch.zeros(4, 4),
        engine_logps=torch.zeros(4, 4),
        seconds=0.0,
    )
    assert rollout.mask().tolist() == [[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]
    model = small_model(pad_token_id=2)
    rows = PackedRows([[3]], PROMPTS, COMPLETIONS, device=CPU)  # this completion is nothing but the end
    token_logps(model, *rows.inputs).sum().backward()
    assert model.model.embed_tokens.weight.grad[2].abs().max() > 0


def test_score_returns_rows_in_order():
    model = small_model()
    logps, entropies = score(Policy(model), PROMPTS, COMPLETIONS, width=4, temperature=1.0, max_tokens=9, device=CPU)
    for row, (prompt, completion) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
        want = plain(model, prompt, completion).detach()
        torch.testing.assert_close(logps[row, : len(completion)], want, rtol=1e-12, atol=1e-13)
        assert bool((logps[row, len(completion) :] == 0).all())
    assert bool((entropies[:, 0] > 0).all())


def test_bad_input():
    model, ids = small_model(), torch.ones(1, 3, dtype=torch.long)
    with pytest.raises(ValueError, match=r"have shapes \(1, 3\), \(1, 2\), \(1, 3\); expected \[batch, tokens\]"):
        token_logps(model, ids, ids[:, :2], ids)
    with pytest.raises(ValueError, match="completion_mask is 1 at position 0"):
        token_logps(model, ids, ids, ids)
    with pytest.raises(ValueError, match="temperature is 0"):
        token_logps(model, ids, ids, ids, temperature=0)


# Groups of one prompt: three, two and one completions.
GROUP_PROMPTS = [[5, 6, 7]] * 3 + [[8, 9]] * 2 + [[10, 11, 12, 13, 14]]
GROUP_COMPLETIONS = [[20, 21, 2], [22, 2], [23, 24, 25, 26], [20, 2], [27, 28, 2], [29]]


def test_segments_by_hand():
    rows = PackedRows([[1, 0], [5]], GROUP_PROMPTS, GROUP_COMPLETIONS, device=CPU)
    assert rows.input_ids.tolist() == [[5, 6, 7, 22, 2, 20, 21, 2], [10, 11, 12, 13, 14, 29, 0, 0]]
    assert rows.segments.tolist() == [[0, 0, 0, 1, 1, 2, 2, 2], [0, 0, 0, 0, 0, 1, -1, -1]]
    assert rows.num_padding == 2
    # A completion's first token is predicted by the prompt's last, wherever it stands in the row.
    assert predecessors(rows.segments)[0].tolist()[3:] == [2, 3, 2, 5, 6]
    assert predecessors(rows.segments)[1].tolist()[5] == 8 + 4
    mask = tree_mask(rows.segments)
    assert mask[0, 7].tolist() == [True, True, True, False, False, True, True, True]  # the prompt and itself
    assert mask[0, 4].tolist() == [True, True, True, True, True, False, False, False]
    assert bool(mask.any(-1).all())  # a row of the mask without any True would be NaN


@pytest.mark.parametrize("backend", [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION])
@pytest.mark.parametrize("pad_left", [False, True])
def test_a_shared_prompt_changes_no_log_probability(pad_left, backend):
    model = small_model()
    rows = PackedRows([[0, 1, 2], [3, 4], [5]], GROUP_PROMPTS, GROUP_COMPLETIONS, device=CPU, pad_left=pad_left)
    with sdpa_kernel(backend):
        got = token_logps(model, *rows.inputs, temperature=0.7)
    collected = torch.zeros(6, 4, dtype=torch.float64)
    rows.collect(got, collected)
    for i, (prompt, completion) in enumerate(zip(GROUP_PROMPTS, GROUP_COMPLETIONS, strict=True)):
        want = plain(model, prompt, completion, 0.7)
        torch.testing.assert_close(collected[i, : len(completion)], want, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_a_shared_prompt_changes_no_gradient(dtype, tolerance):
    model = small_model(dtype=dtype)
    coef = torch.randn(6, 4, dtype=dtype, generator=torch.Generator().manual_seed(0))

    def gradient_of(**options):
        model.zero_grad()
        sizes = set()
        for rows in micro_batches(GROUP_PROMPTS, GROUP_COMPLETIONS, device=CPU, **options):
            sizes |= {len(row) for row in rows.rows}
            (rows.spread(coef) * token_logps(model, *rows.inputs)).sum().backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()]), sizes

    want, alone = gradient_of(max_tokens=1000, pair_cost=math.inf)
    assert alone == {1}
    for max_tokens, pad_left in product((8, 13, 1000), (False, True)):
        got, together = gradient_of(max_tokens=max_tokens, pair_cost=0.0, pad_left=pad_left)
        assert max(together) == {8: 2, 13: 3, 1000: 3}[max_tokens]
        assert (got - want).abs().max() < tolerance * want.abs().max()


def test_completions_without_coefficients_leave_the_gradient():
    model = small_model()
    coef = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    coef[[0, 3, 4]] = 0.0
    gradients = []
    for keep in (None, [1, 2, 5]):
        model.zero_grad()
        batches = micro_batches(GROUP_PROMPTS, GROUP_COMPLETIONS, 1000, device=CPU, keep=keep)
        assert sorted(i for rows in batches for row in rows.rows for i in row) == (keep or [0, 1, 2, 3, 4, 5])
        for rows in batches:
            (rows.spread(coef) * token_logps(model, *rows.inputs)).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


def test_short_completions_share_a_prompt_and_long_ones_do_not():
    prompts = [[1] * 10] * 4
    # With a token costing 1 and a pair 0.01: together 10 + 4 c + 0.01 (10 + 4 c)^2, alone 4 (10 + c + 0.01 (10 + c)^2).
    assert pack(range(4), prompts, [[2] * 2] * 4, 10_000, 0.01) == [[0, 1, 2, 3]]  # 21.2 against 53.8
    assert pack(range(4), prompts, [[2] * 100] * 4, 10_000, 0.01) == [[0], [1], [2], [3]]  # 2091 against 924
    assert pack(range(4), prompts, [[2] * 2] * 4, 14, 0.01) == [[0, 1], [2, 3]]  # no longer than the budget
    assert pack(range(4), [[1], [1], [3], [1]], [[2]] * 4, 100, 0.0) == [[0, 1], [2], [3]]  # neighbours only


def test_pair_cost_by_hand():
    model = small_model()
    # Per layer q 16x16, k and v 8x16, o 16x16, three of 32x16; two layers; no head of its own. 4 x 2 layers x 16 wide.
    matrices = 2 * (256 + 128 + 128 + 256 + 3 * 512)
    assert attention_pair_cost(model) == pytest.approx(4 * 2 * 16 / (2 * matrices))
    assert attention_pair_cost(small_model(tie_word_embeddings=False)) == attention_pair_cost(model)
    model.set_attn_implementation("eager")
    assert attention_pair_cost(model) == math.inf


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_head_in_chunks_equals_the_plain_one(monkeypatch, bias, temperature):
    torch.manual_seed(0)
    head = torch.nn.Linear(12, 50, bias=bias, dtype=torch.float64)
    hidden = torch.randn(33, 12, dtype=torch.float64, requires_grad=True)
    targets, weights = torch.randint(50, (33,)), torch.randn(33, dtype=torch.float64)
    inputs = [hidden, *head.parameters()]
    all_logps = torch.log_softmax(head(hidden) / temperature, -1)
    want = all_logps.gather(-1, targets[:, None]).squeeze(-1)
    want_gradients = torch.autograd.grad((weights * want).sum(), inputs)
    for elements in (1, 50 * 7, 10**6):  # a token at a time, chunks with a shorter last one, all at once
        monkeypatch.setattr(lm_head, "CHUNK_ELEMENTS", elements)
        logps, entropies = head_logps(head, hidden, targets, temperature=temperature, with_entropy=True)
        torch.testing.assert_close(logps, want, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(entropies, -(all_logps.exp() * all_logps).sum(-1), rtol=1e-12, atol=1e-13)
        gradients = torch.autograd.grad((weights * logps).sum(), inputs)
        torch.testing.assert_close(gradients, want_gradients, rtol=1e-11, atol=1e-12)
        logps, _ = head_logps(head, hidden, targets, temperature=temperature)  # in place, and a single chunk is kept
        torch.testing.assert_close(logps, want, rtol=1e-12, atol=1e-13)
        for keep in (True, False):  # what is kept is used up by the first
            gradients = torch.autograd.grad((weights * logps).sum(), inputs, retain_graph=keep)
            torch.testing.assert_close(gradients, want_gradients, rtol=1e-11, atol=1e-12)
    assert "forward" not in head.__dict__  # the head is itself again
    assert head_logps(head, hidden, targets)[1] is None


def test_one_chunk_is_computed_once_and_several_twice(monkeypatch):
    calls, real = [], lm_head._logits
    monkeypatch.setattr(lm_head, "_logits", lambda *args: calls.append(1) or real(*args))
    head, hidden, targets = torch.nn.Linear(4, 9), torch.randn(6, 4, requires_grad=True), torch.randint(9, (6,))
    for elements, expected in ((9 * 6, 1), (9 * 5, 4)):
        monkeypatch.setattr(lm_head, "CHUNK_ELEMENTS", elements)
        calls.clear()
        head_logps(head, hidden, targets)[0].sum().backward()
        assert len(calls) == expected


def test_a_frozen_head_gets_no_gradient():
    head = torch.nn.Linear(4, 9, bias=False).requires_grad_(False)
    hidden = torch.randn(3, 4, requires_grad=True)
    head_logps(head, hidden, torch.tensor([1, 2, 3]))[0].sum().backward()
    assert head.weight.grad is None
    assert hidden.grad.abs().max() > 0


def test_the_head_must_be_linear():
    with pytest.raises(ValueError, match="the LM head is a Identity; expected nn.Linear. Put no adapter on"):
        head_logps(torch.nn.Identity(), torch.zeros(1, 2), torch.tensor([0]))


def test_half_precision_is_promoted_after_the_product():
    # As autocast on a GPU: weights in float32, products in bfloat16, log-probabilities and gradients in float32.
    model = small_model(dtype=torch.float32)
    rows = PackedRows([[0, 1, 2], [3, 4], [5]], GROUP_PROMPTS, GROUP_COMPLETIONS, device=CPU)
    exact = token_logps(model, *rows.inputs)
    with torch.autocast("cpu", torch.bfloat16):
        rounded, entropies = token_logps(model, *rows.inputs, with_entropy=True)
    rounded.sum().backward()
    assert rounded.dtype == entropies.dtype == model.model.embed_tokens.weight.grad.dtype == torch.float32
    assert 0 < (rounded - exact).abs().max() < 0.2


@pytest.mark.parametrize("shared", [False, True])
def test_a_model_that_scales_its_logits_is_found_out(shared):
    assert scoring_error(small_model(), [5, 6, 7, 8, 9], shared=shared) < 1e-5
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "pad_token_id": 0}
    scaled = GraniteForCausalLM(GraniteConfig(**sizes, **heads, logits_scaling=8.0))
    with torch.no_grad():
        scaled.model.embed_tokens.weight.mul_(20.0)
    assert scoring_error(scaled, [5, 6, 7, 8, 9], shared=shared) > 0.01
    as_others = GraniteForCausalLM(GraniteConfig(**sizes, **heads, logits_scaling=1.0))
    assert scoring_error(as_others, [5, 6, 7, 8, 9], shared=shared) < 1e-5


def test_models_with_windows_do_not_share_rows():
    # Their window would be replaced by the tree mask; some say so by layer_types, some by sliding_window alone.
    sizes = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "pad_token_id": 0}
    window = MistralForCausalLM(MistralConfig(**sizes, **heads, sliding_window=8))
    assert attention_pair_cost(window) == math.inf
    assert attention_pair_cost(MistralForCausalLM(MistralConfig(**sizes, **heads, sliding_window=None))) < 1
    # Asked directly it refuses, where it was off by about one nat.
    rows = PackedRows([[0, 1]], [[5, 6]] * 2, [[7, 8], [9]], device=CPU)
    with pytest.raises(ValueError, match="segments were given for a mistral model"):
        token_logps(window, *rows.inputs)
    mpt = MptForCausalLM(MptConfig(vocab_size=40, d_model=16, n_heads=2, n_layers=1))
    with pytest.raises(ValueError, match="segments were given for a mpt model"):
        token_logps(mpt, *rows.inputs)


def test_caps_and_scales_of_logits_are_read_off_the_configuration():
    # However small: by a sample Gemma2's cap shows only where logits are large, and a scale of 1.001 not at all.
    assert logit_options(Gemma2Config()) == ["final_logit_softcapping 30.0"]
    assert logit_options(GraniteConfig(logits_scaling=1.001)) == ["logits_scaling 1.001"]
    assert logit_options(CohereConfig()) == ["logit_scale 0.0625"]
    plain = [
        Gemma2Config(final_logit_softcapping=None),
        GraniteConfig(logits_scaling=1.0),
        MistralConfig(),
        Qwen3Config(),
    ]
    assert [logit_options(config) for config in plain] == [[]] * 4


def test_nothing_to_score_is_no_error():
    model = small_model()
    rows = PackedRows([[0]], [[5, 6]], [[]], device=CPU)
    logps = token_logps(model, *rows.inputs)
    (rows.spread(torch.zeros(1, 3, dtype=torch.float64)) * logps).sum().backward()
    assert logps.tolist() == [[0.0, 0.0]]


def test_the_heads_gradient_is_summed_in_float32(monkeypatch):
    # FSDP2 computes in bfloat16 with a bfloat16 weight: rounding once a chunk would add up.
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 30, bias=False)
    hidden, targets = torch.randn(512, 8), torch.randint(30, (512,))
    (exact,) = torch.autograd.grad(head_logps(head, hidden, targets)[0].sum(), head.weight)
    half = torch.nn.Linear(8, 30, bias=False, dtype=torch.bfloat16)
    half.weight.data.copy_(head.weight.data)
    errors = {}
    for elements in (30, 10**6):  # a token a chunk, one chunk
        monkeypatch.setattr(lm_head, "CHUNK_ELEMENTS", elements)
        (got,) = torch.autograd.grad(head_logps(half, hidden.bfloat16(), targets)[0].sum(), half.weight)
        errors[elements] = ((got.float() - exact).norm() / exact.norm()).item()
    assert errors[30] < 2 * errors[10**6]
