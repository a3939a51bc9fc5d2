"""What checks of several assignments look at."""

from typing import Any

import torch
from torch import Tensor


def is_the_limit(given: Any, limit: Tensor, exact: Tensor) -> bool:
    """Whether an answer gives the limit itself close to it, where limit and exact value can already be told apart."""
    try:
        value = torch.as_tensor(given, dtype=torch.float64).detach()
    except (TypeError, ValueError, RuntimeError):
        return False
    gap = (exact - limit).abs().max()
    if value.shape != limit.shape or gap < 1e-8 * limit.abs().max():
        return False
    return bool((value - limit).abs().max() < 0.01 * gap)
