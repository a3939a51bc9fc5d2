"""Sampling with transformers, reproducibly: the same (seed, batch, prompt, sample) gives the same completion."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from full.engines.base import Samples, end_ids, up_to_end


def sample_uniforms(seed: int, keys: Sequence[tuple[int, int, int]], count: int) -> Tensor:
    """[len(keys), count] uniforms in [0, 1), float64: a pure function of the seed and each (batch, prompt, sample).

    Philox is a counter-based generator: the key and the counter are the state, so no row depends on another.
    """
    rows = [np.random.Generator(np.random.Philox(key=[seed, 0], counter=[0, *key])).random(count) for key in keys]
    return torch.from_numpy(np.stack(rows))


class InverseTransformSampling(LogitsProcessor):
    """Turns greedy decoding into sampling from softmax(logits / temperature) with given uniforms, one per token.

    The token is the first whose cumulative probability exceeds the uniform; all others get -inf. Sampling that way needs
    one random number a token, known before the batch is put together. Log-probabilities and entropies are kept on the
    way: the policy need not be run again to know them.
    """

    def __init__(self, uniforms: Tensor, prompt_length: int, temperature: float) -> None:
        self.uniforms, self.prompt_length, self.temperature = uniforms, prompt_length, temperature
        self.logps: list[Tensor] = []
        self.entropies: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        exact = torch.float64 if scores.device.type != "mps" else torch.float32
        logps = torch.log_softmax(scores.to(exact) / self.temperature, dim=-1)
        p = logps.exp()
        cumulative = p.cumsum(-1)
        position = input_ids.shape[1] - self.prompt_length
        threshold = self.uniforms[:, position, None].to(cumulative) * cumulative[:, -1:]
        token = torch.searchsorted(cumulative, threshold, right=True).clamp(max=scores.shape[-1] - 1)
        self.logps.append(logps.gather(-1, token).squeeze(-1))
        self.entropies.append(torch.special.entr(p).sum(-1))
        return torch.full_like(scores, -torch.inf).scatter(-1, token, 0.0)


class Sampler:
    """Samples completions with transformers' own generate; the engine `hf`.

    The model's generation_config (Qwen3's has its own temperature, top-p and top-k) is set aside: what is sampled is
    softmax(logits / temperature) and nothing else, because that is what is scored and trained. A prompt is computed once
    for all its completions that are sampled together.

    Args:
        model: a causal language model; its generation_config is replaced by a neutral one.
        tokenizer: its eos and pad ids; further eos ids come from the model's generation_config.
        seed: of `sample_uniforms`.
        temperature: > 0.
        max_new_tokens: longest completion, tokens.
        rows_at_once: completions generated together: memory, never the result.
        exact: False where scoring computes in other numerics than sampling, as autocast does.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        seed: int,
        temperature: float,
        max_new_tokens: int,
        rows_at_once: int,
        *,
        exact: bool = True,
    ) -> None:
        self.model, self.tokenizer, self.seed, self.exact = model, tokenizer, seed, exact
        self.temperature, self.max_new_tokens, self.rows_at_once = temperature, max_new_tokens, rows_at_once
        self.eos_ids = end_ids(model, tokenizer)
        self.pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.eos_ids[0]
        # generate() fills whatever a GenerationConfig leaves open from the model's own, so that one must be neutral too.
        model.generation_config = GenerationConfig(eos_token_id=self.eos_ids, pad_token_id=self.pad_id)

    def refresh(self, model: nn.Module) -> None:
        """Nothing to do: it samples from the policy itself."""

    def close(self) -> None:
        """Nothing to do."""

    @torch.no_grad()
    def sample(
        self, prompts: Sequence[Sequence[int]], keys: Sequence[tuple[int, int, int]], *, greedy: bool = False
    ) -> Samples:
        """One completion per prompt: token ids up to and including the end of sequence.

        Args:
            prompts: token ids; repeat a prompt for several completions, best as neighbours.
            keys: (batch, prompt, sample) of each row, all that its randomness depends on.
            greedy: take the likeliest token instead.
        """
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # little padding
        completions: list[list[int]] = [[] for _ in prompts]
        known: list[Tensor] = []  # [2, rows, tokens] of each piece: log-probabilities and entropies
        was_training = self.model.training
        self.model.eval()
        for start in range(0, len(order), self.rows_at_once):
            rows = order[start : start + self.rows_at_once]
            found, values = self._generate([prompts[i] for i in rows], [keys[i] for i in rows], greedy)
            for i, ids in zip(rows, found, strict=True):
                completions[i] = ids
            known.append(values)
        self.model.train(was_training)
        if greedy:
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

    def _generate(
        self, prompts: list[Sequence[int]], keys: list[tuple[int, int, int]], greedy: bool
    ) -> tuple[list[list[int]], Tensor]:
        device = next(self.model.parameters()).device
        width = max(map(len, prompts))
        ids = torch.full((len(prompts), width), self.pad_id)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        ids, mask = ids.to(device), mask.to(device)
        processors = LogitsProcessorList()
        if not greedy:
            uniforms = sample_uniforms(self.seed, keys, self.max_new_tokens).to(device)
            processors.append(InverseTransformSampling(uniforms, width, self.temperature))
        config = GenerationConfig(
            do_sample=False, max_new_tokens=self.max_new_tokens, eos_token_id=self.eos_ids, pad_token_id=self.pad_id
        )
        out = self.model.generate(
            ids,
            attention_mask=mask,
            past_key_values=self._shared_prefix(prompts, ids, mask),
            generation_config=config,
            logits_processor=processors,
            synced_gpus=False,  # sharded or not, every process has all weights here and samples by itself
        )
        found = [up_to_end(row, self.eos_ids) for row in out[:, width:].tolist()]
        if greedy:
            return found, torch.empty(0)
        steps = torch.stack([torch.stack(processors[0].logps, -1), torch.stack(processors[0].entropies, -1)])
        return found, steps.cpu()

    def _shared_prefix(self, prompts: list[Sequence[int]], ids: Tensor, mask: Tensor) -> Any:
        """Cached keys and values of all prompts but their last tokens, each prompt computed once; None if none repeats."""
        first: dict[tuple[int, ...], int] = {}
        owners = [first.setdefault(tuple(prompt), len(first)) for prompt in prompts]
        if len(first) == len(prompts) or ids.shape[1] < 2:
            return None
        rows = torch.tensor([owners.index(i) for i in range(len(first))], device=ids.device)
        some_mask = mask[rows, :-1]
        # Padding on the left gets position 0 too; nothing looks at it.
        positions = (some_mask.cumsum(-1) - 1).clamp(min=0)
        backbone = getattr(self.model, self.model.base_model_prefix)
        cache = backbone(
            input_ids=ids[rows, :-1], attention_mask=some_mask, position_ids=positions, use_cache=True
        ).past_key_values
        cache.batch_select_indices(torch.tensor(owners, device=ids.device))
        return cache


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
    )
