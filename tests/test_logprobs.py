"""Scoring: equal to the plain computation, indifferent to padding and cutting, and with a gradient on the last token."""

import pytest
import torch

from full.logprobs import PaddedRows, Policy, micro_batches, score, token_logps
from full.rollouts import Rollout
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
    rows = PaddedRows([0, 1, 2, 3], PROMPTS, COMPLETIONS, device=CPU, pad_left=pad_left)
    got = token_logps(model, rows.input_ids, rows.attention_mask, rows.completion_mask, temperature=temperature)
    assert got.shape == rows.input_ids.shape
    assert bool((got[rows.completion_mask == 0] == 0).all())
    for row, (prompt, completion) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
        want = plain(model, prompt, completion, temperature)
        torch.testing.assert_close(got[row][rows.completion_mask[row].bool()], want, rtol=1e-12, atol=1e-13)


def test_entropy_is_that_of_the_next_token():
    model = small_model()
    rows = PaddedRows([2], PROMPTS, COMPLETIONS, device=CPU)
    _, entropy = token_logps(model, rows.input_ids, rows.attention_mask, rows.completion_mask, with_entropy=True)
    logps = model(input_ids=rows.input_ids).logits[0].log_softmax(-1)
    want = -(logps.exp() * logps).sum(-1)[4:-1]
    torch.testing.assert_close(entropy[0][rows.completion_mask[0].bool()], want, rtol=1e-12, atol=1e-13)


def gradient(model, coef, max_tokens, pad_left=False):
    model.zero_grad()
    for rows in micro_batches(PROMPTS, COMPLETIONS, max_tokens, device=CPU, pad_left=pad_left):
        logps = token_logps(model, rows.input_ids, rows.attention_mask, rows.completion_mask)
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
    for rows in micro_batches(PROMPTS, COMPLETIONS, 12, device=CPU):
        assert rows.input_ids.numel() <= 12
        seen += rows.indices
    assert sorted(seen) == [0, 1, 2, 3]
    # A row longer than the budget goes alone.
    assert [rows.indices for rows in micro_batches(PROMPTS, COMPLETIONS, 1, device=CPU)] == [[3], [1], [0], [2]]


def test_the_end_of_sequence_carries_gradient_even_where_pad_is_eos():
    # The fault of masks made from ids (mask = ids != pad): with pad = eos the end is never trained.
    rollout = Rollout(
        prompts=PROMPTS,
        completions=COMPLETIONS,
        rewards=torch.zeros(4),
        valid=torch.ones(4).bool(),
        truncated=torch.zeros(4).bool(),
        old_logps=torch.zeros(4, 4),
        entropies=torch.zeros(4, 4),
        seconds=0.0,
    )
    assert rollout.mask().tolist() == [[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]
    model = small_model(pad_token_id=2)
    rows = PaddedRows([3], PROMPTS, COMPLETIONS, device=CPU)  # this completion is nothing but the end
    token_logps(model, rows.input_ids, rows.attention_mask, rows.completion_mask).sum().backward()
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
