"""What an engine is, and what it returns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from full.rewards.answers import thinking_opened_by


@dataclass(frozen=True)
class Samples:
    """What an engine returns: one completion a row, and what it knows of their probabilities.

    completions: token ids, the end of sequence included.
    logps: [rows, longest] log-probabilities of the sampled tokens at the sampling temperature, as the engine computed
        them, 0 beyond each end; None where any row is greedy.
    entropies: [rows, longest] of the next-token distributions, nats; None where the engine does not know them.
    """

    completions: list[list[int]]
    logps: Tensor | None = None
    entropies: Tensor | None = None


class Engine(Protocol):
    """What samples completions for the trainer.

    exact: whether its log-probabilities are the policy's up to rounding, so that nothing needs to be scored again.
    eos_ids: what ends a sequence.
    max_new_tokens: longest completion, tokens.
    halvings: how often memory ran out and the rows sampled at once were halved.
    """

    exact: bool
    tokenizer: Any
    eos_ids: list[int]
    max_new_tokens: int

    @property
    def halvings(self) -> int:
        """See above."""

    def refresh(self, model: nn.Module) -> None:
        """Take over the policy's present weights; called before every batch of samples and every evaluation."""

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        keys: Sequence[tuple[int, int, int]],
        *,
        greedy: bool | Sequence[bool] = False,
        limit: int | None = None,
    ) -> Samples:
        """One completion per prompt, each a function of its key (batch, prompt, sample) alone.

        greedy: whether to take the likeliest tokens instead, for all rows or for each.
        limit: tokens at most; None is max_new_tokens.
        """

    def rest(self) -> None:
        """Leave the memory to the policy, as far as it can: nothing is sampled for a while."""

    def texts(self, completions: Sequence[Sequence[int]]) -> list[str]:
        """The completions as text, without special tokens."""

    def ended(self, completion: Sequence[int]) -> bool:
        """Whether a completion came to its own end; otherwise it was truncated."""

    def close(self) -> None:
        """Let go of what the engine holds."""


def answer_texts(engine: Engine, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> list[str]:
    """The completions as text, each after the mark of thinking that its prompt's end opens, if it does.

    The prompt's end is read as the completions are: where the marks of thinking are special tokens, they vanish from both.
    """
    tails = [tuple(prompt[-16:]) for prompt in prompts]
    distinct = list(dict.fromkeys(tails))
    marks = dict(zip(distinct, map(thinking_opened_by, engine.texts(distinct)), strict=True)) if distinct else {}
    return [marks[tail] + text for tail, text in zip(tails, engine.texts(completions), strict=True)]


def end_ids(model: nn.Module, tokenizer: Any) -> list[int]:
    """All ids that end a sequence: the tokenizer's, and those of the model's generation_config (Qwen3 has two)."""
    own = getattr(model.generation_config, "eos_token_id", None)
    own = own if isinstance(own, list) else [own]
    return sorted({i for i in [*own, tokenizer.eos_token_id] if i is not None})


def up_to_end(ids: list[int], eos_ids: Sequence[int]) -> list[int]:
    """Cut after the first end of sequence. By position: what follows is padding, even where pad = eos."""
    for position, token in enumerate(ids):
        if token in eos_ids:
            return ids[: position + 1]
    return ids
