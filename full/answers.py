r"""A supervised warm start on a task's own answers: `python -m full.answers --config FILE --output_dir DIR`.

A small model that never puts an answer into a box gets reward 0 for everything it samples, and reinforcement learning has
nothing to prefer. This teaches it the form: the cross-entropy of "\boxed{answer}" and the end, after the very prompts of
the run, on problems of the training split, all weights trained. What it writes is an ordinary Hugging Face folder for --model.

Of a run's options it reads model (smollm2 or a folder), data, level, columns, system_prompt, max_prompt_tokens, seed, and,
with their usual meaning, steps, mini_batch_prompts, lr, warmup_steps and lr_schedule. Ours; the paper starts from a model
that answers already.
"""

import os
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

from full.config import TrainConfig, parse_config
from full.data.sources import load_splits
from full.errors import UserError
from full.models.loading import render_prompts
from full.models.smollm2 import smollm2_folder
from full.models.tiny import padded_pairs
from full.trainer.launch import quiet_exit


def learn_answers(config: TrainConfig, folder: Path) -> list[float]:
    """Train the model on answers and write it to `folder`; return the loss of each step, in nats per token.

    Raises:
        UserError: the folder exists, or the data have fewer problems than the steps take.
    """
    if folder.exists():
        raise UserError(f"{folder} exists; expected a new folder. Remove it, or name another one with --output_dir.")
    torch.manual_seed(config.seed)
    torch.set_num_threads(config.cpu_threads or torch.get_num_threads())
    name = str(smollm2_folder()) if config.model == "smollm2" else os.path.expanduser(config.model)
    tokenizer = AutoTokenizer.from_pretrained(name)
    model: Any = AutoModelForCausalLM.from_pretrained(name, dtype=getattr(torch, config.weights))
    problems, _ = load_splits(config.data, seed=config.seed, **config.problem_options)
    needed = config.steps * config.mini_batch_prompts
    if needed > len(problems):
        raise UserError(
            f"{config.steps} steps of {config.mini_batch_prompts} problems take {needed}, and {config.data} has "
            f"{len(problems)} to train on; expected enough, so that none is learned by heart. Lower --steps."
        )
    prompts, _ = render_prompts(tokenizer, problems.select(range(needed)), config)
    answers = [f"\\boxed{{{answer}}}" for answer in problems["answer"][:needed]]
    pairs = [
        (prompt, [*tokenizer.encode(answer, add_special_tokens=False), tokenizer.eos_token_id])
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, betas=(0.9, config.adam_beta2), weight_decay=0.0)
    losses = []
    for step in range(config.steps):
        for group in optimizer.param_groups:
            group["lr"] = config.lr * config.lr_factor(step)
        loss = answer_loss(model, pairs[step * config.mini_batch_prompts :][: config.mini_batch_prompts])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        print(f"step {step + 1}/{config.steps}: {losses[-1]:.3f} nats a token", flush=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return losses


def answer_loss(model: Any, pairs: list[tuple[list[int], list[int]]]) -> torch.Tensor:
    """Cross-entropy of the answers' tokens after their prompts, in nats per token.

    pairs: ids of a prompt and of its answer. Rows are padded on the right, which causal attention never looks at.
    """
    ids, wanted = padded_pairs(pairs, pad_id=0)
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    # The LM head at the answers' places alone: it is a fifth of this model's work.
    logits = model.get_output_embeddings()(hidden[:, :-1][wanted[:, 1:]])
    return cross_entropy(logits, ids[:, 1:][wanted[:, 1:]])


def main(argv: list[str] | None = None) -> None:
    """Read the options of a run, teach, write the folder."""
    config, _ = parse_config(argv)
    if config.output_dir is None:
        raise UserError("output_dir is not given; expected the folder to write, e.g. --output_dir runs/primed.")
    learn_answers(config, config.run_dir)
    print(f"written to {config.run_dir}; train it with --model {config.run_dir}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        quiet_exit(f"error: {error}", 2)
