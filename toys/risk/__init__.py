"""alpha as a risk attitude, kappa = alpha / beta_r (this project's derivation): theory and pictures of lesson 10."""

from .pictures import crossing, curriculum, dial, immunity, lucky_arms, remedies, switches
from .theory import (
    PAIR,
    certainty_equivalents,
    curriculum_ratio,
    group_push,
    learned,
    switching_kappa,
    worked_example_attitudes,
)

__all__ = [
    "PAIR",
    "certainty_equivalents",
    "crossing",
    "curriculum",
    "curriculum_ratio",
    "dial",
    "group_push",
    "immunity",
    "learned",
    "lucky_arms",
    "remedies",
    "switches",
    "switching_kappa",
    "worked_example_attitudes",
]
