"""Sampling: from the right distribution, reproducible row by row, and deaf to the model's own generation_config."""

import torch
from transformers import GenerationConfig

from full.rollouts import InverseTransformSampling, Sampler, sample_uniforms
from full.tiny import make_tokenizer
from tests.helpers import small_model

PROMPTS = [[5, 6, 7], [8, 9], [10, 11, 12, 13, 14], [15, 16]]


def sampler(model=None, **changes):
    options = {"seed": 0, "temperature": 1.0, "max_new_tokens": 8, "rows_at_once": 64} | changes
    return Sampler(model or small_model(dtype=torch.float32), make_tokenizer(), **options)


def test_uniforms_are_a_function_of_the_key_alone():
    keys = [(3, 1, 0), (3, 1, 1), (4, 0, 0), (2**63, 5, 2)]
    together = sample_uniforms(7, keys, 20)
    for row, key in enumerate(keys):
        assert torch.equal(sample_uniforms(7, [key], 20)[0], together[row])
        assert torch.equal(sample_uniforms(7, [key], 9)[0], together[row, :9])
    assert len({tuple(row) for row in together.tolist()}) == 4
    assert not torch.equal(sample_uniforms(8, keys, 20), together)
    many = sample_uniforms(0, [(b, p, s) for b in range(10) for p in range(10) for s in range(10)], 100)
    assert abs(many.mean().item() - 0.5) < 0.004  # 100,000 draws: three standard errors are 0.003


def test_same_completion_whatever_the_batch():
    keys = [(0, i, s) for i in range(4) for s in range(3)]
    prompts = [PROMPTS[i] for _, i, _ in keys]
    want = sampler().sample(prompts, keys)
    assert sampler(rows_at_once=1).sample(prompts, keys) == want
    assert sampler(rows_at_once=5).sample(prompts[::-1], keys[::-1])[::-1] == want
    assert sampler(seed=1).sample(prompts, keys) != want
    assert len({tuple(ids) for ids in want[:3]}) > 1  # samples of one prompt differ


def test_samples_follow_the_softmax_at_the_temperature():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    for temperature in (1.0, 0.5):
        uniforms = (torch.arange(20_000, dtype=torch.float64)[:, None] + 0.5) / 20_000
        processor = InverseTransformSampling(uniforms, prompt_length=3, temperature=temperature)
        chosen = processor(torch.zeros(20_000, 3), logits.expand(20_000, -1)).argmax(-1)
        share = torch.bincount(chosen, minlength=4) / 20_000
        torch.testing.assert_close(share, torch.softmax(logits / temperature, -1), rtol=0, atol=1e-4)


def test_tokens_of_probability_zero_are_never_drawn():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]])
    for uniform in (0.0, 0.4999, 0.5, 0.9999999999999999):
        processor = InverseTransformSampling(torch.tensor([[uniform]], dtype=torch.float64), 1, 1.0)
        assert processor(torch.zeros(1, 1), logits).argmax(-1).item() in (1, 3)


def test_the_models_generation_config_cannot_change_sampling():
    keys = [(0, i, 0) for i in range(4)]
    want = sampler().sample(PROMPTS, keys)
    model = small_model(dtype=torch.float32)
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=0.1, top_k=1, top_p=0.1, repetition_penalty=5.0, no_repeat_ngram_size=1,
        min_new_tokens=7, max_new_tokens=2, bad_words_ids=[[i] for i in range(20, 60)], eos_token_id=2,
    )  # fmt: skip
    assert sampler(model).sample(PROMPTS, keys) == want


def test_several_ends_of_sequence_and_pad_equal_to_one():
    model = small_model(dtype=torch.float32)
    model.generation_config = GenerationConfig(eos_token_id=[2, 30, 31])
    tokenizer = make_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    it = Sampler(model, tokenizer, seed=0, temperature=3.0, max_new_tokens=40, rows_at_once=64)
    assert it.eos_ids == [2, 30, 31]
    assert it.pad_id == 2
    rows = it.sample([PROMPTS[0]] * 200, [(0, 0, s) for s in range(200)])
    ended = [ids for ids in rows if it.ended(ids)]
    assert {ids[-1] for ids in ended} == {2, 30, 31}
    for ids in rows:
        assert not set(ids[:-1]) & {2, 30, 31}  # it stopped at the first
        assert it.ended(ids) or len(ids) == 40


def test_greedy_takes_the_likeliest_token():
    model = small_model(dtype=torch.float32)
    (ids,) = sampler(model, max_new_tokens=1).sample([PROMPTS[0]], [(0, 0, 0)], greedy=True)
    assert ids == [model(input_ids=torch.tensor([PROMPTS[0]])).logits[0, -1].argmax().item()]


def test_scored_log_probabilities_are_those_sampled_from():
    # Sampled at temperature 0.8 and scored at 0.8: the mean log-probability of the samples is minus their entropy.
    from full.logprobs import Policy, score

    model = small_model(dtype=torch.float32)
    keys = [(0, 0, s) for s in range(4000)]
    rows = sampler(model, temperature=0.8, max_new_tokens=1, rows_at_once=4000).sample([PROMPTS[0]] * 4000, keys)
    logps, entropies = score(
        Policy(model), [PROMPTS[0]] * 4000, rows, width=1, temperature=0.8, max_tokens=10**6, device=torch.device("cpu")
    )
    error = logps.std().item() / 4000**0.5
    assert abs(logps.mean().item() + entropies.mean().item()) < 4 * error
