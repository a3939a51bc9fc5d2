"""How completions are judged. Pure strings in, floats out; nothing here imports torch."""

from full.rewards.answers import final_answer, last_boxed
from full.rewards.graded import closeness, digits
from full.rewards.rewards import Rewarder, accuracies, accuracy, repetition

__all__ = ["Rewarder", "accuracies", "accuracy", "closeness", "digits", "final_answer", "last_boxed", "repetition"]
