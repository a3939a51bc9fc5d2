"""Whole groups of a run, token by token: `--callback full.trainer.microscope:groups`.

At two stages of the run, after its first step and at its middle, the groups of a few held-out problems are sampled; LATER
optimiser steps on, the same completions are scored again, so that one sees where the policy has gone. groups.jsonl in the
run's folder then holds one line a problem and stage. Lesson 13 reads it.
"""

import json
from collections.abc import Mapping
from typing import Any

from full.trainer.probes import draw
from full.trainer.rollout import score_now
from full.trainer.state import Trainer

FILE = "groups.jsonl"
KEPT = 16  # problems sampled at a stage
LATER = 4  # optimiser steps until they are scored again
END = "<end>"  # a token without a text: the end of the sequence


def groups(trainer: Trainer, metrics: Mapping[str, Any]) -> None:
    """Sample at a stage, or score again what was sampled LATER steps ago.

    A line: step, step_later, problem, answer, and completions, each with tokens (texts), logps (nats, when sampled),
    later (nats, LATER steps on) and reward.
    """
    step, stages = metrics["step"], (1, max(2, trainer.config.steps // 2))
    path = trainer.run.path / f"groups-{step - LATER}.sampled"
    if step in stages:
        _sample(trainer, step)
    if path.exists():  # in a run of ten or eleven steps the middle is also when the first groups are scored again
        _score_again(trainer, step, path)


def _sample(trainer: Trainer, step: int) -> None:
    size = trainer.config.group_size
    prompts, completions, _, rewards = draw(trainer, size, KEPT)
    logps = _logps(trainer, prompts, completions)
    state = {"prompts": prompts, "completions": completions, "rewards": rewards.tolist(), "logps": logps}
    (trainer.run.path / f"groups-{step}.sampled").write_text(json.dumps(state), encoding="utf-8")


def _score_again(trainer: Trainer, step: int, path: Any) -> None:
    state = json.loads(path.read_text(encoding="utf-8"))
    later = _logps(trainer, state["prompts"], state["completions"])
    size = trainer.config.group_size
    with open(trainer.run.path / FILE, "a", encoding="utf-8") as file:
        for problem, rewards in enumerate(state["rewards"]):
            rows = range(problem * size, (problem + 1) * size)
            about = trainer.held_out[problem]
            line = {
                "step": step - LATER,
                "step_later": step,
                "problem": about["problem"],
                "answer": about["answer"],
                "completions": [
                    {
                        "tokens": [
                            text or END
                            for text in trainer.engine.texts([[token] for token in state["completions"][row]])
                        ],
                        "logps": state["logps"][row],
                        "later": later[row],
                        "reward": reward,
                    }
                    for row, reward in zip(rows, rewards, strict=True)
                ],
            }
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    path.unlink()


def _logps(trainer: Trainer, prompts: list[list[int]], completions: list[list[int]]) -> list[list[float]]:
    """Log-probability of each token, nats, to five digits."""
    logps, _ = score_now(trainer, prompts, completions, width=max(map(len, completions)))
    return [
        [round(value, 5) for value in row[: len(ids)].tolist()] for row, ids in zip(logps, completions, strict=True)
    ]
