"""Samples that go stale (lesson 11): what a clip and an anchor do once the policy has left the one that drew the samples."""

from .pictures import anchor_lengths, clip_cases, inner_loop, loop_table, pushes_strip, reward_table
from .theory import BETA_R, STYLES, TAU_ANC, Style, inner_loops, push, rest_log_ratio, surrogate, worked_example_pushes

__all__ = [
    "BETA_R",
    "STYLES",
    "TAU_ANC",
    "Style",
    "anchor_lengths",
    "clip_cases",
    "inner_loop",
    "inner_loops",
    "loop_table",
    "push",
    "pushes_strip",
    "rest_log_ratio",
    "reward_table",
    "surrogate",
    "worked_example_pushes",
]
