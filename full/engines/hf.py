"""Sampling with transformers, reproducibly: the same (seed, batch, prompt, sample) gives the same completion."""

import inspect
import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import DynamicCache, GenerationConfig, GenerationMixin, LogitsProcessor, LogitsProcessorList
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from full.engines.base import Samples, end_ids, up_to_end
from full.engines.graphs import SHORTEST, UNSHARDED, GraphDecoding, takes_fixed_room
from full.errors import UserError
from full.halving import Halving, ran_out_of_memory
from full.logprobs.packing import to_device
from full.logprobs.scoring import own_logps
from full.models.attention import one_token_attention

# Share of a batch that has ended at which its ended rows leave it. The cache is copied then, as it is for every token
# anyway; a quarter was as fast as a tenth and a half on short and on long-tailed completions.
LEAVE_AT = 0.25
# Set on a model, by `check_sampling`, whose own code lets padding on the left change what follows.
TAKES_PADDING_FOR_TEXT = "takes_padding_for_text"


def sample_uniforms(seed: int, keys: Sequence[tuple[int, int, int]], count: int) -> Tensor:
    """[len(keys), count] uniforms in [0, 1), float64: a pure function of the seed and each (batch, prompt, sample).

    Philox is a counter-based generator: the key and the counter are the state, so no row depends on another.
    """
    rows = [np.random.Generator(np.random.Philox(key=[seed, 0], counter=[0, *key])).random(count) for key in keys]
    return torch.from_numpy(np.stack(rows))


def draw(
    logits: Tensor, uniforms: Tensor, temperature: float, likeliest: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Sample from softmax(logits / temperature) by inverse transform; what was drawn, its log-probability, the entropy.

    The token is the first whose cumulative probability exceeds the uniform, so a row needs one random number a token,
    known before the batch is put together. The cumulative sum decides and is taken in float64: in float32 it would lose
    the rare tokens of a large vocabulary. Nothing else needs it: float32 is the precision of the logits.

    Args:
        logits: [rows, vocabulary], float32.
        uniforms: [rows], in [0, 1).
        temperature: > 0.
        likeliest: [rows] booleans: rows that take the likeliest token instead; None is no row.

    Returns:
        (tokens, logps, entropies): [rows] each, logps and entropies in nats.
    """
    logps = torch.log_softmax(logits if temperature == 1.0 else logits / temperature, dim=-1)
    p = logps.exp()
    cumulative = p.cumsum(-1, dtype=torch.float64 if logits.device.type != "mps" else torch.float32)
    threshold = uniforms[:, None].to(cumulative) * cumulative[:, -1:]
    tokens = torch.searchsorted(cumulative, threshold, right=True).clamp(max=logits.shape[-1] - 1)
    if likeliest is not None:
        tokens = torch.where(likeliest[:, None], logits.argmax(-1, keepdim=True), tokens)
    known = logps.gather(-1, tokens)
    # -p log p in place, where torch.special.entr takes each logarithm again: the call 0.08 instead of 0.14 ms for 128 rows
    # of 289. The clamp makes 0 of 0 * -inf.
    entropies = -logps.clamp_(min=torch.finfo(logps.dtype).min).mul_(p).sum(-1)
    return tokens.squeeze(-1), known.squeeze(-1), entropies


class InverseTransformSampling(LogitsProcessor):
    """Turns greedy decoding by transformers' generate into `draw`, with given uniforms [rows, tokens] and likeliest [rows].

    The token drawn gets 0 and all others -inf. Log-probabilities and entropies are kept on the way: the policy need not be
    run again to know them.
    """

    def __init__(
        self, uniforms: Tensor, prompt_length: int, temperature: float, likeliest: Tensor | None = None
    ) -> None:
        self.uniforms, self.prompt_length, self.temperature = uniforms, prompt_length, temperature
        self.likeliest = likeliest
        self.logps: list[Tensor] = []
        self.entropies: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        uniforms = self.uniforms[:, input_ids.shape[1] - self.prompt_length]
        tokens, logps, entropies = draw(scores, uniforms, self.temperature, self.likeliest)
        self.logps.append(logps)
        self.entropies.append(entropies)
        return torch.full_like(scores, -torch.inf).scatter(-1, tokens[:, None], 0.0)


def even_parts(items: Sequence[int], most: int) -> list[Sequence[int]]:
    """The items in as few runs of at most `most` as possible, equally long up to one."""
    count = -(-len(items) // most)
    ends = [len(items) * i // max(count, 1) for i in range(count + 1)]
    return [items[start:end] for start, end in itertools.pairwise(ends)]


class ComputeTypeCache(DynamicCache):
    """Keys and values in the type that attention computes in.

    Under autocast a float32 norm of the keys (Qwen3's) promotes them, and transformers then the values: twice the memory for
    numbers that attention rounds to half precision all the same.
    """

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Cast, then append; see `DynamicCache.update`."""
        device = key_states.device.type
        if torch.is_autocast_enabled(device) and key_states.dtype == torch.float32:
            compute = torch.get_autocast_dtype(device)
            key_states, value_states = key_states.to(compute), value_states.to(compute)
        return super().update(key_states, value_states, *args, **kwargs)


def decodes_plainly(model: Any) -> bool:
    """Whether the next token needs nothing but ids, mask, positions and a cache whose rows can be selected.

    Then the sampler has a loop of its own; a model that prepares more for its forward pass goes through generate.
    """
    hooks = ("prepare_inputs_for_generation", "_prepare_cache_for_generation", "_sample", "generate")
    usual = all(getattr(type(model), name, None) is getattr(GenerationMixin, name) for name in hooks)
    wanted = {"input_ids", "attention_mask", "position_ids", "past_key_values", "logits_to_keep"}
    if not usual or model.config.is_encoder_decoder:
        return False
    return wanted <= set(inspect.signature(model.forward).parameters) and caches_only_keys_and_values(model)


def caches_only_keys_and_values(model: Any) -> bool:
    """Whether all that a model remembers of a prompt are keys and values, which can be given to several completions.

    Not so with the states of recurrent and convolutional layers (LFM2, Qwen3-Next, Mamba, Falcon-H1): their layers in the
    cache cannot select rows, or select only some of what they hold.
    """
    if not model._supports_default_dynamic_cache():
        return False
    kinds = {type(layer) for layer in DynamicCache(config=model.config).layers}
    return kinds <= {DynamicLayer, DynamicSlidingWindowLayer}


class Sampler:
    """Samples completions with a model of transformers; the engine `hf`.

    The model's generation_config (Qwen3's has its own temperature, top-p and top-k) is set aside: what is sampled is
    softmax(logits / temperature) and nothing else, because that is what is scored and trained. A prompt is computed once
    for all its completions that are sampled together. Rows that have ended leave the batch, so that a few long completions
    do not hold up the rest; that changes a log-probability by the rounding of a product of another size, and nothing else.
    Prompts of several lengths are padded on the left; a model that takes padding for text gets those of one length at a time.

    Args:
        model: a causal language model; its generation_config is replaced by a neutral one.
        tokenizer: its eos and pad ids; further eos ids come from the model's generation_config.
        seed: of `sample_uniforms`.
        temperature: > 0.
        max_new_tokens: longest completion, tokens.
        rows_at_once: completions generated together: memory, never the result. Where they do not fit, half of them.
        exact: False where scoring computes in other numerics than sampling, as autocast does.
        graphs: whether a token may be one CUDA graph, see full/engines/graphs.py.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        seed: int,
        temperature: float,
        max_new_tokens: int,
        rows_at_once: int,
        *,
        exact: bool = True,
        graphs: bool = False,
    ) -> None:
        self.model, self.tokenizer, self.seed, self.exact, self.graphs = model, tokenizer, seed, exact, graphs
        self.temperature, self.max_new_tokens = temperature, max_new_tokens
        self.rows = Halving("generation_rows", rows_at_once)
        self.eos_ids, self.plain = end_ids(model, tokenizer), decodes_plainly(model)
        self.shares = caches_only_keys_and_values(model)
        self.pads = not getattr(model, TAKES_PADDING_FOR_TEXT, False)
        self.pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.eos_ids[0]
        # generate() fills whatever a GenerationConfig leaves open from the model's own, so that one must be neutral too.
        model.generation_config = GenerationConfig(eos_token_id=self.eos_ids, pad_token_id=self.pad_id)

    @property
    def halvings(self) -> int:
        """How often memory ran out and the rows sampled at once were halved."""
        return self.rows.count

    def refresh(self, model: nn.Module) -> None:
        """Nothing to do: it samples from the policy itself."""

    def rest(self) -> None:
        """Nothing to do: keys and values are gone when a call ends."""

    def close(self) -> None:
        """Nothing to do."""

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        keys: Sequence[tuple[int, int, int]],
        *,
        greedy: bool | Sequence[bool] = False,
        limit: int | None = None,
    ) -> Samples:
        """One completion per prompt: token ids up to and including the end of sequence.

        Args:
            prompts: token ids; repeat a prompt for several completions, best as neighbours.
            keys: (batch, prompt, sample) of each row, all that its randomness depends on.
            greedy: take the likeliest token instead; one answer for all rows or one a row.
            limit: tokens at most, None is max_new_tokens.
        """
        likeliest = [greedy] * len(prompts) if isinstance(greedy, bool) else list(greedy)
        # Prompts of one length are neighbours: little padding. The longest go first: what they need is enough for all.
        order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
        completions: list[list[int]] = [[] for _ in prompts]
        known: list[Tensor] = []  # [2, rows, tokens] of each piece: log-probabilities and entropies
        complete, device = self._decode if self.plain else self._generate, next(self.model.parameters()).device
        was_training = self.model.training
        self.model.eval()
        parts, done = self._parts(order, prompts), 0
        while parts:
            rows = parts.pop(0)
            chosen = [prompts[i] for i in rows], [keys[i] for i in rows], [likeliest[i] for i in rows]
            with one_token_attention(device):
                answer, why = self.rows.attempt(partial(complete, *chosen, limit or self.max_new_tokens))
            if answer is None:
                self.rows.halve(why, tried=len(rows), whole=len(rows) == 1)
                parts = self._parts(order[done:], prompts)
                continue
            for i, ids in zip(rows, answer[0], strict=True):
                completions[i] = ids
            known.append(answer[1])
            done += len(rows)
        self.model.train(was_training)
        if any(likeliest):
            return Samples(completions)
        width = max(map(len, completions))
        logps, entropies = torch.cat([pad(values, (0, width))[..., :width] for values in known], 1)[
            :, torch.tensor(order).argsort()
        ]
        beyond = torch.arange(width) >= torch.tensor([len(ids) for ids in completions])[:, None]
        return Samples(completions, logps.masked_fill(beyond, 0.0), entropies.masked_fill(beyond, 0.0))

    def texts(self, completions: Sequence[Sequence[int]]) -> list[str]:
        """The completions as text, without special tokens."""
        return self.tokenizer.batch_decode([list(ids) for ids in completions], skip_special_tokens=True)

    def ended(self, completion: Sequence[int]) -> bool:
        """Whether a completion came to its own end; otherwise it was truncated."""
        return bool(completion) and completion[-1] in self.eos_ids

    def _parts(self, order: Sequence[int], prompts: Sequence[Sequence[int]]) -> list[Sequence[int]]:
        """The rows, in this order, as those that are sampled together."""
        runs = [order] if self.pads else [list(run) for _, run in itertools.groupby(order, lambda i: len(prompts[i]))]
        return [part for run in runs for part in even_parts(run, self.rows.size)]

    def _left_padded(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """(ids, mask), [rows, longest prompt] each, on the model's device."""
        device = next(self.model.parameters()).device
        width = max(map(len, prompts))
        ids = torch.tensor([[self.pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts])
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        return to_device(ids, device), to_device((torch.arange(width) >= width - lengths[:, None]).long(), device)

    def _draws(
        self, keys: list[tuple[int, int, int]], greedy: list[bool], limit: int, device: torch.device
    ) -> tuple[Tensor, Tensor | None]:
        """(uniforms [rows, tokens], likeliest [rows] or None), as `draw` takes them for each token."""
        uniforms = to_device(sample_uniforms(self.seed, keys, limit), device)
        return uniforms, to_device(torch.tensor(greedy), device) if any(greedy) else None

    def _decode(
        self, prompts: list[Sequence[int]], keys: list[tuple[int, int, int]], greedy: list[bool], limit: int
    ) -> tuple[list[list[int]], Tensor]:
        """Completions, and [2, rows, tokens] log-probabilities and entropies; ended rows leave the batch.

        Each distinct prompt is computed once, its last token included.
        """
        distinct: dict[tuple[int, ...], int] = {}
        owners = [distinct.setdefault(tuple(prompt), len(distinct)) for prompt in prompts]
        inputs, mask = self._left_padded(list(distinct))
        device, rows = inputs.device, len(prompts)
        uniforms, likeliest = self._draws(keys, greedy, limit, device)
        eos = to_device(torch.tensor(self.eos_ids), device)
        out = torch.zeros(rows, limit, dtype=torch.long, device=device)
        values = torch.zeros(2, rows, limit, device=device)
        here, ended = torch.arange(rows, device=device), torch.zeros(rows, dtype=torch.bool, device=device)
        padded = len(set(map(len, distinct))) > 1  # without padding attention needs no mask
        positions = (mask.cumsum(-1) - 1).clamp(min=0)  # padding on the left gets 0 too; nothing looks at it
        mask = torch.cat([mask, mask.new_ones(len(distinct), limit)], -1)
        cache = ComputeTypeCache(config=self.model.config)
        stay = to_device(torch.tensor(owners), device)
        for step in range(limit):
            so_far = mask[:, : mask.shape[1] - limit + step] if padded else None
            logits = self.model(
                input_ids=inputs,
                attention_mask=so_far,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
            if step == 0:  # every completion gets its prompt's row
                cache.batch_select_indices(stay)
                logits, positions, mask = logits[stay], positions[stay], mask[stay]
            tokens, *known = draw(logits.float(), uniforms[:, step], self.temperature, likeliest)
            values[:, here, step] = torch.stack(known)
            out[here, step] = tokens
            ended = ended | torch.isin(tokens, eos)
            inputs, positions = tokens[:, None], positions[:, -1:] + 1
            gone = int(ended.sum())
            if gone == len(ended):
                break
            if step == 0 and self.graphs and limit >= SHORTEST and takes_fixed_room(self.model, cache):
                rest = GraphDecoding(
                    self.model,
                    cache,
                    tokens=tokens,
                    positions=positions[:, 0],
                    padding=(mask == 0).sum(-1),
                    uniforms=uniforms,
                    likeliest=likeliest,
                    start=1,
                    eos=eos,
                    draw=partial(draw, temperature=self.temperature),
                )
                del logits  # of all rows, not needed any more
                later, known_later = rest.finish()
                out, values, step = out + later, values + known_later, rest.done - 1
                break
            if gone >= max(1, LEAVE_AT * len(ended)):
                stay = (~ended).nonzero().squeeze(-1)
                cache.batch_select_indices(stay)
                here, ended, inputs, positions = here[stay], ended[stay], inputs[stay], positions[stay]
                mask, uniforms = mask[stay], uniforms[stay]
                likeliest = None if likeliest is None else likeliest[stay]
        found = [up_to_end(row, self.eos_ids) for row in out[:, : step + 1].tolist()]
        return found, values[..., : step + 1].cpu()

    def _generate(
        self, prompts: list[Sequence[int]], keys: list[tuple[int, int, int]], greedy: list[bool], limit: int
    ) -> tuple[list[list[int]], Tensor]:
        """The same as `_decode` with transformers' generate, where every row stays to the end of the longest."""
        ids, mask = self._left_padded(prompts)
        width = ids.shape[1]
        uniforms, likeliest = self._draws(keys, greedy, limit, ids.device)
        processor = InverseTransformSampling(uniforms, width, self.temperature, likeliest)
        config = GenerationConfig(
            do_sample=False, max_new_tokens=limit, eos_token_id=self.eos_ids, pad_token_id=self.pad_id
        )
        out = self.model.generate(
            ids,
            attention_mask=mask,
            past_key_values=self._shared_prefix(prompts, ids, mask),
            generation_config=config,
            logits_processor=LogitsProcessorList([processor]),
            synced_gpus=False,  # sharded or not, every process has all weights here and samples by itself
        )
        found = [up_to_end(row, self.eos_ids) for row in out[:, width:].tolist()]
        return found, torch.stack([torch.stack(processor.logps, -1), torch.stack(processor.entropies, -1)]).cpu()

    def _shared_prefix(self, prompts: list[Sequence[int]], ids: Tensor, mask: Tensor) -> Any:
        """Cached keys and values of all prompts but their last tokens, each prompt computed once.

        None if none repeats, or if the model remembers more of a prompt than keys and values.
        """
        first: dict[tuple[int, ...], int] = {}
        owners = [first.setdefault(tuple(prompt), len(first)) for prompt in prompts]
        if len(first) == len(prompts) or ids.shape[1] < 2 or not self.shares:
            return None
        rows = torch.tensor([owners.index(i) for i in range(len(first))], device=ids.device)
        some_mask = mask[rows, :-1]
        # Padding on the left gets position 0 too; nothing looks at it.
        positions = (some_mask.cumsum(-1) - 1).clamp(min=0)
        backbone = getattr(self.model, self.model.base_model_prefix)
        outputs = backbone(input_ids=ids[rows, :-1], attention_mask=some_mask, position_ids=positions, use_cache=True)
        cache = getattr(outputs, "past_key_values", None)
        if cache is not None:  # GPT and XLM keep none
            cache.batch_select_indices(torch.tensor(owners, device=ids.device))
        return cache


def check_sampling(model: nn.Module, tokenizer: Any, prompt: Sequence[int], name: str) -> None:
    """Raise unless completions get the probabilities of the model's own forward pass.

    Tried with prompts of two lengths, one of them twice. A model's code may count its positions by what is cached, padding
    included (BART's and Marian's decoders): its prompts are sampled apart, by their lengths, from then on. It may go on from
    another state than it computed (RWKV) or look ahead (BERT): nothing helps then.

    Args:
        prompt: at least two token ids; a few are used.
        name: of the model, for the message.

    Raises:
        UserError: says by how much they differ, or what the model's code raised.
    """
    fault = _sampling_fault(model, tokenizer, prompt)
    if fault and not decodes_plainly(model):
        setattr(model, TAKES_PADDING_FOR_TEXT, True)
        fault = _sampling_fault(model, tokenizer, prompt)
    if fault:
        raise UserError(
            f"model {name!r} cannot be sampled as it is trained: {fault}; expected the log-probabilities of its forward pass. "
            "Take another family, or another engine (--engine vllm)."
        )


def _sampling_fault(model: nn.Module, tokenizer: Any, prompt: Sequence[int]) -> str:
    """What is wrong with the log-probabilities of a few completions, or ""."""
    sampler = Sampler(model, tokenizer, seed=0, temperature=1.0, max_new_tokens=4, rows_at_once=3)
    prompts = [list(prompt[:5])] * 2 + [list(prompt[:2])]
    try:
        samples = sampler.sample(prompts, [(0, 0, 0), (0, 0, 1), (0, 1, 0)])
    except Exception as error:  # the code of any model
        if ran_out_of_memory(error):
            raise
        return f"its code raises {type(error).__name__} ({' '.join(str(error).split())[:200].rstrip('.')})"
    assert samples.logps is not None
    known = zip(prompts, samples.completions, samples.logps, strict=True)
    errors = [(own_logps(model, start, ids) - logps[: len(ids)]).abs().max() for start, ids, logps in known]
    worst = torch.stack(errors).max().item()  # NaN, where any is
    return "" if worst <= 1e-3 else f"its sampler's log-probabilities differ by {worst:.2g} nats"


def require() -> None:
    """Nothing more than the trainer itself needs."""


def make(config: Any, model: nn.Module, tokenizer: Any, model_name: str, accelerator: Any) -> Sampler:
    """The engine of a run's configuration; see `make_engine`."""
    return Sampler(
        model,
        tokenizer,
        config.seed,
        config.temperature,
        config.max_completion_tokens,
        config.generation_rows,
        # generate computes its logits in float32, without autocast the scorer does too.
        exact=config.weights == "float32" and accelerator.mixed_precision == "no",
        graphs=config.cuda_graphs and accelerator.device.type == "cuda" and accelerator.distributed_type in UNSHARDED,
    )
