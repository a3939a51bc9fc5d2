"""Sampling: from the right distribution, reproducible row by row, and deaf to the model's own generation_config."""

import contextlib
import math
from itertools import product

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    DynamicCache,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3ForCausalLM,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from full.engines import graphs, hf
from full.engines.hf import (
    ComputeTypeCache,
    InverseTransformSampling,
    Sampler,
    decodes_plainly,
    draw,
    even_parts,
    sample_uniforms,
)
from full.logprobs.scoring import score
from full.logprobs.tokens import Policy
from full.models import attention
from full.models.attention import attend_with_products, one_token_attention
from full.models.tiny import make_tokenizer
from tests.helpers import small_model

CPU = torch.device("cpu")
PROMPTS = [[5, 6, 7], [8, 9], [10, 11, 12, 13, 14], [15, 16]]


def sampler(model=None, **changes):
    options = {"seed": 0, "temperature": 1.0, "max_new_tokens": 8, "rows_at_once": 64} | changes
    return Sampler(model or small_model(dtype=torch.float32), make_tokenizer(), **options)


def completions(it, prompts, keys, **options):
    return it.sample(prompts, keys, **options).completions


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
    want = completions(sampler(), prompts, keys)
    assert completions(sampler(rows_at_once=1), prompts, keys) == want
    assert completions(sampler(rows_at_once=5), prompts[::-1], keys[::-1])[::-1] == want
    assert completions(sampler(seed=1), prompts, keys) != want
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
    want = completions(sampler(), PROMPTS, keys)
    model = small_model(dtype=torch.float32)
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=0.1, top_k=1, top_p=0.1, repetition_penalty=5.0, no_repeat_ngram_size=1,
        min_new_tokens=7, max_new_tokens=2, bad_words_ids=[[i] for i in range(20, 60)], eos_token_id=2,
    )  # fmt: skip
    assert completions(sampler(model), PROMPTS, keys) == want


def test_several_ends_of_sequence_and_pad_equal_to_one():
    model = small_model(dtype=torch.float32)
    model.generation_config = GenerationConfig(eos_token_id=[2, 30, 31])
    tokenizer = make_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    it = Sampler(model, tokenizer, seed=0, temperature=3.0, max_new_tokens=40, rows_at_once=64)
    assert it.eos_ids == [2, 30, 31]
    assert it.pad_id == 2
    rows = completions(it, [PROMPTS[0]] * 200, [(0, 0, s) for s in range(200)])
    ended = [ids for ids in rows if it.ended(ids)]
    assert {ids[-1] for ids in ended} == {2, 30, 31}
    for ids in rows:
        assert not set(ids[:-1]) & {2, 30, 31}  # it stopped at the first
        assert it.ended(ids) or len(ids) == 40


def test_greedy_takes_the_likeliest_token():
    model = small_model(dtype=torch.float32)
    (ids,) = completions(sampler(model, max_new_tokens=1), [PROMPTS[0]], [(0, 0, 0)], greedy=True)
    assert ids == [model(input_ids=torch.tensor([PROMPTS[0]])).logits[0, -1].argmax().item()]


def test_scored_log_probabilities_are_those_sampled_from():
    # Sampled at temperature 0.8 and scored at 0.8: the mean log-probability of the samples is minus their entropy.
    model = small_model(dtype=torch.float32)
    keys = [(0, 0, s) for s in range(4000)]
    it = sampler(model, temperature=0.8, max_new_tokens=1, rows_at_once=4000)
    rows = completions(it, [PROMPTS[0]] * 4000, keys)
    logps, entropies = score(
        Policy(model), [PROMPTS[0]] * 4000, rows, width=1, temperature=0.8, max_tokens=10**6, device=CPU
    )
    error = logps.std().item() / 4000**0.5
    assert abs(logps.mean().item() + entropies.mean().item()) < 4 * error


def test_a_prompt_is_computed_once_for_its_completions():
    model = small_model(dtype=torch.float32)
    shapes = []
    model.model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    prompts = [prompt for prompt in [*PROMPTS, [17]] for _ in range(3)]
    keys = [(0, i // 3, i % 3) for i in range(15)]
    it = sampler(model)
    shared = it.sample(prompts, keys)
    assert shapes == [(5, 5), *[(15, 1)] * 7]  # five prompts give the first of eight tokens
    it.rows.size = 1
    alone = it.sample(prompts, keys)
    shapes.clear()
    it.plain, it.rows.size = False, 64
    by_generate = it.sample(prompts, keys)
    assert shapes[0] == (5, 4)  # generate wants the last token of each prompt for itself
    for other in (alone, by_generate):
        assert shared.completions == other.completions
        torch.testing.assert_close(shared.logps, other.logps, rtol=0, atol=1e-5)
        torch.testing.assert_close(shared.entropies, other.entropies, rtol=0, atol=1e-5)


def test_log_probabilities_from_sampling_are_the_scored_ones():
    # On policy nothing has to be scored again, whatever the order and the cut of the batch.
    model = small_model(dtype=torch.float32)
    prompts = [prompt for prompt in PROMPTS for _ in range(3)]
    keys = [(0, i // 3, i % 3) for i in range(12)]
    samples = sampler(model, temperature=0.7, rows_at_once=5).sample(prompts, keys)
    lengths = torch.tensor([len(ids) for ids in samples.completions])
    width = int(lengths.max())
    logps, entropies = score(
        Policy(model), prompts, samples.completions, width=width, temperature=0.7, max_tokens=100, device=CPU
    )
    torch.testing.assert_close(samples.logps.float(), logps, rtol=0, atol=1e-5)
    torch.testing.assert_close(samples.entropies.float(), entropies, rtol=0, atol=1e-5)
    beyond = torch.arange(width) >= lengths[:, None]
    assert bool((samples.logps[beyond] == 0).all())
    assert bool((samples.logps[~beyond] < 0).all())


# Rows that have ended leave the batch


def with_ends(model):
    """The model with several ends of sequence, so that completions of 40 tokens differ in length."""
    model.generation_config = GenerationConfig(eos_token_id=[2, *range(30, 45)])
    return model.eval()


def mistral():
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=len(make_tokenizer()), hidden_size=16, intermediate_size=32, num_hidden_layers=2, head_dim=8,
        num_attention_heads=2, num_key_value_heads=1, sliding_window=6, tie_word_embeddings=False,
    )  # fmt: skip
    return MistralForCausalLM(config)


def gpt2():
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=len(make_tokenizer()), n_embd=16, n_layer=2, n_head=2, n_positions=64))


def small():
    return small_model(dtype=torch.float32)


ROWS = [prompt for prompt in PROMPTS for _ in range(6)]
KEYS = [(0, i // 6, i % 6) for i in range(24)]


@pytest.mark.parametrize("make", [small, mistral, gpt2])
def test_leaving_rows_change_no_completion(make):
    it = sampler(with_ends(make()), max_new_tokens=40, temperature=1.5)
    assert it.plain
    sizes = []
    it.model.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    greedy = [i % 6 == 0 for i in range(24)]
    ours, mixed = it.sample(ROWS, KEYS), it.sample(ROWS, KEYS, greedy=greedy)
    assert sizes[:2] == [4, 24] and len(set(sizes)) > 4 and min(sizes) < 6  # they do leave
    assert len({len(ids) for ids in ours.completions}) > 6
    it.plain = False
    theirs = it.sample(ROWS, KEYS)
    assert ours.completions == theirs.completions
    assert mixed.completions == it.sample(ROWS, KEYS, greedy=greedy).completions
    likeliest = it.sample(ROWS, KEYS, greedy=True).completions
    assert [ids for ids, one in zip(mixed.completions, greedy, strict=True) if one] == likeliest[::6]
    torch.testing.assert_close(ours.logps, theirs.logps, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.entropies, theirs.entropies, rtol=0, atol=1e-5)


def test_without_leaving_rows_nothing_differs_from_generate(monkeypatch):
    # Prompts that differ and are not repeated: then generate computes the same products.
    monkeypatch.setattr(hf, "LEAVE_AT", 2.0)
    it = sampler(with_ends(small()), max_new_tokens=40)
    prompts = [[3 + i, *PROMPTS[i % 4]] for i in range(24)]
    ours, it.plain = it.sample(prompts, KEYS), False
    theirs = it.sample(prompts, KEYS)
    assert ours.completions == theirs.completions
    assert torch.equal(ours.logps, theirs.logps) and torch.equal(ours.entropies, theirs.entropies)


def test_models_that_prepare_more_go_through_generate(monkeypatch):
    vocabulary = len(make_tokenizer())
    bloom = BloomForCausalLM(BloomConfig(vocab_size=vocabulary, hidden_size=16, n_layer=1, n_head=2))
    mamba = MambaForCausalLM(MambaConfig(vocab_size=vocabulary, hidden_size=16, num_hidden_layers=1))
    assert [decodes_plainly(m) for m in (small(), mistral(), gpt2(), bloom, mamba)] == [True] * 3 + [False] * 2
    called, generate = [], BloomForCausalLM.generate
    monkeypatch.setattr(BloomForCausalLM, "generate", lambda *args, **kw: called.append(1) or generate(*args, **kw))
    assert len(completions(sampler(bloom), ROWS, KEYS)) == 24
    assert called
    assert not decodes_plainly(bloom)

    class Particular(Qwen3ForCausalLM):
        def prepare_inputs_for_generation(self, *args, **kwargs):
            return super().prepare_inputs_for_generation(*args, **kwargs)

    assert not decodes_plainly(Particular(small().config))


def test_under_autocast_the_cache_holds_half_precision(monkeypatch):
    # Qwen3's norm of the keys has a float32 weight, which promotes them; attention rounds them to bfloat16 anyway.
    caches, select = [], DynamicCache.batch_select_indices
    monkeypatch.setattr(DynamicCache, "batch_select_indices", lambda it, rows: caches.append(it) or select(it, rows))
    it = sampler(with_ends(small()), max_new_tokens=40)

    def sampled():
        caches.clear()
        with torch.autocast("cpu", torch.bfloat16):
            samples = it.sample(ROWS, KEYS)
        layers = [layer for cache in caches for layer in cache.layers]
        return samples, {states.dtype for layer in layers for states in (layer.keys, layer.values)}

    cast, types = sampled()
    assert types == {torch.bfloat16}
    monkeypatch.delattr(ComputeTypeCache, "update")
    promoted, types = sampled()
    assert types == {torch.float32}
    assert cast.completions == promoted.completions
    assert torch.equal(cast.logps, promoted.logps)
    assert sum(map(len, cast.completions)) > 200


def test_rare_tokens_of_a_large_vocabulary_are_drawn():
    # One token has all but 1e-5 of the probability, the others 5e-10 each. Between 1 - 1e-5 and 1 there are 168 float32
    # numbers, so a sum in float32 could draw 168 of them; uniforms 2e-8 apart draw another one each.
    vocabulary, tail = 20_000, 1e-5
    logits = torch.full((512, vocabulary), math.log(tail / (vocabulary - 1)))
    logits[:, 0] = math.log1p(-tail)
    uniforms = 1 - tail + tail * (torch.arange(512, dtype=torch.float64) + 0.5) / 512
    tokens, logps, _ = draw(logits, uniforms, 1.0)
    drawn = tokens[tokens > 0]  # rounding of the large one moves the border by a few per cent of the tail
    assert len(drawn.unique()) == len(drawn) > 480
    torch.testing.assert_close(logps[tokens > 0], logits[:, 1][tokens > 0], rtol=1e-6, atol=0)


def test_the_entropy_of_impossible_tokens_is_none():
    # Half and half: log 2, however impossible the others are.
    logits = torch.tensor([[0.0, 0.0, -torch.inf, -1e30], [1.0, 1.0, -torch.inf, -torch.inf]])
    _, logps, entropies = draw(logits, torch.tensor([0.3, 0.7], dtype=torch.float64), 1.0)
    torch.testing.assert_close(entropies, torch.full((2,), math.log(2)))
    torch.testing.assert_close(logps, torch.full((2,), -math.log(2)))


# Attention of one token on a CPU


@pytest.mark.parametrize("heads_of_cache", [1, 2, 4])
@pytest.mark.parametrize("scaling", [None, 0.3])
def test_attention_of_one_token_by_its_definition(heads_of_cache, scaling):
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(3, *shape, generator=generator, dtype=torch.float64)
        for shape in ((4, 1, 6), (heads_of_cache, 5, 6), (heads_of_cache, 5, 7))
    )
    seen = torch.tensor([[True] * 5, [False, True, True, False, True], [False] * 4 + [True]])
    got = attend_with_products(query, key, value, seen[:, None, None], scaling=scaling)
    assert got.shape == (3, 1, 4, 7)
    for row, head in product(range(3), range(4)):
        mine = head * heads_of_cache // 4
        weights = [
            math.exp((query[row, head, 0] @ key[row, mine, t]).item() * (scaling or 6**-0.5)) * seen[row, t].item()
            for t in range(5)
        ]
        want = sum(w * value[row, mine, t] for t, w in enumerate(weights)) / sum(weights)
        torch.testing.assert_close(got[row, 0, head], want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("make", [small, mistral, gpt2])
def test_sampling_on_a_cpu_attends_with_products_and_to_the_same(monkeypatch, make):
    it = sampler(with_ends(make()), max_new_tokens=12)
    calls, layers = [], it.model.config.num_hidden_layers

    def counted(*args, **options):
        calls.append(args)
        return attend_with_products(*args, **options)

    monkeypatch.setattr(attention, "attend_with_products", counted)
    samples = it.sample(ROWS, KEYS)
    expected = layers * (max(map(len, samples.completions)) - 1)  # all but the prompts
    assert len(calls) == expected
    assert any(args[3] is not None for args in calls)  # padding on the left
    monkeypatch.setattr(hf, "one_token_attention", lambda device: contextlib.nullcontext())
    theirs = it.sample(ROWS, KEYS)
    assert len(calls) == expected
    assert samples.completions == theirs.completions
    torch.testing.assert_close(samples.logps, theirs.logps, rtol=0, atol=1e-5)


def test_the_librarys_attention_comes_back():
    usual = ALL_ATTENTION_FUNCTIONS["sdpa"]
    with contextlib.suppress(KeyError), one_token_attention(CPU):
        assert ALL_ATTENTION_FUNCTIONS["sdpa"] is not usual
        raise KeyError
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is usual
    with one_token_attention(torch.device("cuda")):
        assert ALL_ATTENTION_FUNCTIONS["sdpa"] is usual
    with torch.autocast("cpu", torch.bfloat16), one_token_attention(CPU):
        assert ALL_ATTENTION_FUNCTIONS["sdpa"] is usual


def test_what_products_cannot_do_stays_with_the_library(monkeypatch):
    calls = []
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "sdpa", lambda *args, **options: calls.append(options))
    one, two = torch.randn(1, 2, 1, 4), torch.randn(1, 2, 2, 4)
    with one_token_attention(CPU):
        attend = ALL_ATTENTION_FUNCTIONS["sdpa"]
        assert attend(None, one, two, two, None)[0].shape == (1, 1, 2, 4)
        assert calls == []
        attend(None, two, two, two, None)  # several tokens
        attend(None, one.bfloat16(), two.bfloat16(), two.bfloat16(), None)
        attend(None, one, two, two, torch.zeros(1, 1, 1, 2))  # a mask that is added
        attend(None, one, two, two, torch.ones(1, 2, 1, 2, dtype=torch.bool))  # a mask for each head
        attend(None, one, two, two, None, position_bias=torch.zeros(1, 2, 1, 2))
    assert len(calls) == 5


def test_batches_are_few_and_even():
    assert even_parts(range(10), 4) == [range(3), range(3, 6), range(6, 10)]
    assert even_parts(range(8), 8) == [range(8)]
    assert even_parts([], 4) == []


def test_prompts_of_one_length_are_sampled_together_the_longest_first():
    it, shapes = sampler(rows_at_once=4, max_new_tokens=1), []
    it.model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    prompts = [[3 + i] * (9 if i % 2 else 2) for i in range(8)]
    completions(it, prompts, [(0, i, 0) for i in range(8)])
    assert shapes == [(4, 9), (4, 2)]  # no padding, and what memory the first takes is enough for all


@pytest.mark.parametrize("ends", [[2], list(range(0, 280, 9))])
def test_with_a_graph_the_same_is_sampled(ends, monkeypatch):
    # Greedy rows beside sampled ones, prompts of several lengths, rows that leave, room that is used up.
    monkeypatch.setattr(hf, "SHORTEST", 2)
    monkeypatch.setattr(graphs, "ROOM", 5)
    shapes = []

    def capture(step):
        rows = step.__self__.rows["tokens"].shape[0]
        shapes.append((rows, step.__self__.cache.layers[0].keys.shape[2]))
        return step

    monkeypatch.setattr(graphs, "capture", capture)
    model = small_model(dtype=torch.float32)
    model.generation_config.eos_token_id = ends
    keys = [(0, i, s) for i in range(4) for s in range(6)]
    prompts, greedy = [PROMPTS[i] for _, i, _ in keys], [s == 0 for _, _, s in keys]
    for some in (greedy, [False] * 24):
        plain = sampler(model, max_new_tokens=23).sample(prompts, keys, greedy=some)
        fixed = sampler(model, max_new_tokens=23, graphs=True).sample(prompts, keys, greedy=some)
        assert fixed.completions == plain.completions
        if not any(some):
            torch.testing.assert_close(fixed.logps, plain.logps, rtol=0, atol=1e-5)
            torch.testing.assert_close(fixed.entropies, plain.entropies, rtol=0, atol=1e-5)
    assert max(length for _, length in shapes) <= 5 + 23
    if len(ends) == 1:
        assert {(24, 10), (24, 15), (24, 20), (24, 25)} <= set(shapes)
    else:
        assert len({rows for rows, _ in shapes}) >= 3  # they left


def test_what_cannot_be_captured_goes_on_without_a_graph(monkeypatch):
    def capture(step):
        raise RuntimeError("operation not permitted when stream is capturing\nlong tail")

    monkeypatch.setattr(hf, "SHORTEST", 2)
    monkeypatch.setattr(graphs, "capture", capture)
    keys = [(0, i, 0) for i in range(4)]
    with pytest.warns(UserWarning, match="without a CUDA graph, several times slower: operation not permitted when"):
        got = completions(sampler(graphs=True), PROMPTS, keys)
    assert got == completions(sampler(), PROMPTS, keys)

    rows = []

    def short_of_memory(step):
        rows.append(len(step.__self__.rows["here"]))
        if rows[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step

    monkeypatch.setattr(graphs, "capture", short_of_memory)
    it = sampler(graphs=True)
    assert completions(it, PROMPTS, keys) == got and it.halvings == 1 and rows[0] == 4
