"""Sampling, reproducibly: the same (seed, batch, prompt, sample) gives the same completion on any number of processes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList


def sample_uniforms(seed: int, keys: Sequence[tuple[int, int, int]], count: int) -> Tensor:
    """[len(keys), count] uniforms in [0, 1), float64: a pure function of the seed and each (batch, prompt, sample).

    Philox is a counter-based generator: the key and the counter are the state, so no row depends on another.
    """
    rows = [np.random.Generator(np.random.Philox(key=[seed, 0], counter=[0, *key])).random(count) for key in keys]
    return torch.from_numpy(np.stack(rows))


class InverseTransformSampling(LogitsProcessor):
    """Turns greedy decoding into sampling from softmax(logits / temperature) with given uniforms, one per token.

    The token is the first whose cumulative probability exceeds the uniform; all others get -inf. Sampling that way needs
    one random number a token, known before the batch is put together.
    """

    def __init__(self, uniforms: Tensor, prompt_length: int, temperature: float) -> None:
        self.uniforms, self.prompt_length, self.temperature = uniforms, prompt_length, temperature

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        exact = torch.float64 if scores.device.type != "mps" else torch.float32
        cumulative = torch.softmax(scores.to(exact) / self.temperature, dim=-1).cumsum(-1)
        position = input_ids.shape[1] - self.prompt_length
        threshold = self.uniforms[:, position, None].to(cumulative) * cumulative[:, -1:]
        token = torch.searchsorted(cumulative, threshold, right=True).clamp(max=scores.shape[-1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(-1, token, 0.0)


class Sampler:
    """Samples completions with transformers' own generate.

    The model's generation_config (Qwen3's has its own temperature, top-p and top-k) is set aside: what is sampled is
    softmax(logits / temperature) and nothing else, because that is what is scored and trained.

    Args:
        model: a causal language model; its generation_config is replaced by a neutral one.
        tokenizer: its eos and pad ids; further eos ids come from the model's generation_config.
        seed: of `sample_uniforms`.
        temperature: > 0.
        max_new_tokens: longest completion, tokens.
        rows_at_once: completions generated together: memory, never the result.
    """

    def __init__(
        self, model: nn.Module, tokenizer: Any, seed: int, temperature: float, max_new_tokens: int, rows_at_once: int
    ) -> None:
        self.model, self.tokenizer, self.seed = model, tokenizer, seed
        self.temperature, self.max_new_tokens, self.rows_at_once = temperature, max_new_tokens, rows_at_once
        own = getattr(model.generation_config, "eos_token_id", None)
        own = own if isinstance(own, list) else [own]
        self.eos_ids = sorted({i for i in [*own, tokenizer.eos_token_id] if i is not None})
        self.pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.eos_ids[0]
        # generate() fills whatever a GenerationConfig leaves open from the model's own, so that one must be neutral too.
        model.generation_config = GenerationConfig(eos_token_id=self.eos_ids, pad_token_id=self.pad_id)

    @torch.no_grad()
    def sample(
        self, prompts: Sequence[Sequence[int]], keys: Sequence[tuple[int, int, int]], *, greedy: bool = False
    ) -> list[list[int]]:
        """One completion per prompt: token ids up to and including the end of sequence.

        Args:
            prompts: token ids; repeat a prompt for several completions.
            keys: (batch, prompt, sample) of each row, all that its randomness depends on.
            greedy: take the likeliest token instead.
        """
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # little padding
        completions: list[list[int]] = [[] for _ in prompts]
        was_training = self.model.training
        self.model.eval()
        for start in range(0, len(order), self.rows_at_once):
            rows = order[start : start + self.rows_at_once]
            for i, ids in zip(
                rows, self._generate([prompts[i] for i in rows], [keys[i] for i in rows], greedy), strict=True
            ):
                completions[i] = ids
        self.model.train(was_training)
        return completions

    def texts(self, completions: Sequence[Sequence[int]]) -> list[str]:
        """The completions as text, without special tokens."""
        return self.tokenizer.batch_decode([list(ids) for ids in completions], skip_special_tokens=True)

    def ended(self, completion: Sequence[int]) -> bool:
        """Whether a completion came to its own end; otherwise it was truncated."""
        return bool(completion) and completion[-1] in self.eos_ids

    def _generate(
        self, prompts: list[Sequence[int]], keys: list[tuple[int, int, int]], greedy: bool
    ) -> list[list[int]]:
        device = next(self.model.parameters()).device
        width = max(map(len, prompts))
        ids = torch.full((len(prompts), width), self.pad_id)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        processors = LogitsProcessorList()
        if not greedy:
            uniforms = sample_uniforms(self.seed, keys, self.max_new_tokens).to(device)
            processors.append(InverseTransformSampling(uniforms, width, self.temperature))
        config = GenerationConfig(
            do_sample=False, max_new_tokens=self.max_new_tokens, eos_token_id=self.eos_ids, pad_token_id=self.pad_id
        )
        out = self.model.generate(
            ids.to(device), attention_mask=mask.to(device), generation_config=config, logits_processor=processors
        )
        return [self._up_to_end(row) for row in out[:, width:].tolist()]

    def _up_to_end(self, ids: list[int]) -> list[int]:
        """Cut after the first end of sequence. By position: what follows is padding, even where pad = eos."""
        for position, token in enumerate(ids):
            if token in self.eos_ids:
                return ids[: position + 1]
        return ids


@dataclass
class Rollout:
    """One batch of samples, this process's share: all that its updates need, and all that a checkpoint must hold.

    prompts: token ids per completion (the same list `group` times).  completions: token ids, end of sequence included.
    rewards, valid: [rows].  old_logps, entropies: [rows, width] under the policy that sampled, 0 beyond the end.
    seconds: spent on sampling and scoring.
    """

    prompts: list[list[int]]
    completions: list[list[int]]
    rewards: Tensor
    valid: Tensor
    truncated: Tensor
    old_logps: Tensor
    entropies: Tensor
    seconds: float

    def mask(self) -> Tensor:
        """[rows, width]: 1 on the completions' tokens. By position, so the end-of-sequence token is trained."""
        lengths = torch.tensor([len(ids) for ids in self.completions])
        return (torch.arange(self.old_logps.shape[1]) < lengths[:, None]).long()

    def select(self, rows: slice) -> "Rollout":
        """The rollout of some rows."""
        tensors = (self.rewards, self.valid, self.truncated, self.old_logps, self.entropies)
        return Rollout(self.prompts[rows], self.completions[rows], *(t[rows] for t in tensors), seconds=self.seconds)
