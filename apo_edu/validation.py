"""The one place that checks what enters the core: dtypes, shapes, and the values that mathematics depends on.

Every message has three parts: what was given, what was expected, and the remedy.
"""

import math

import torch
from torch import Tensor


def require_log_probs(*, normalized: bool = True, **named: Tensor) -> tuple[Tensor, ...]:
    """Check tensors of log-probabilities over the last dimension and return them, half precision promoted.

    Args:
        normalized: whether each must sum to one over its last dimension.
        named: the tensors by argument name; [..., n] with n >= 2, finite, mutually broadcastable.

    Returns:
        The tensors in the order given. float16 and bfloat16 become float32, which is exact.

    Raises:
        ValueError: naming the argument, what was given, what is allowed and how to mend it.
    """
    tensors = tuple(_floating(name, value) for name, value in named.items())
    for (name, given), value in zip(named.items(), tensors, strict=True):
        require_group(name, value)
        require_finite(name, value, kind="log-probabilities")
        if normalized:
            _require_normalized(name, value, _NORMALIZATION[given.dtype])
    require_broadcastable(**dict(zip(named, tensors, strict=True)))
    return tensors


def require_group(name: str, value: Tensor) -> None:
    """Raise unless the last dimension, the group, has at least two members."""
    if value.dim() == 0 or value.shape[-1] < 2:
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}; expected [..., group] with a group of at least 2: a group of "
            "size 1 has nothing to be compared with. Sample more completions per prompt."
        )


def require_finite(name: str, value: Tensor, *, kind: str) -> None:
    """Raise if any entry is NaN or infinite, naming the first index."""
    finite = torch.isfinite(value)
    if not bool(finite.all()):
        index = tuple((~finite).nonzero()[0].tolist())
        raise ValueError(
            f"{name} holds {value[index].item()} at index {list(index)} ({int((~finite).sum())} non-finite of "
            f"{value.numel()}); expected finite {kind}. Look for a zero probability, an overflow or a bad reward there."
        )


def require_broadcastable(**named: Tensor) -> torch.Size:
    """Return the shape that the tensors broadcast to; raise if there is none."""
    try:
        return torch.broadcast_shapes(*(value.shape for value in named.values()))  # type: ignore[no-untyped-call]
    except RuntimeError:
        shapes = ", ".join(f"{name} has shape {tuple(value.shape)}" for name, value in named.items())
        raise ValueError(f"{shapes}; expected shapes that broadcast. Use [prompts, group] for each.") from None


def require_positive(name: str, value: float | Tensor, *, remedy: str) -> None:
    """Raise unless a scalar or every entry of a tensor is finite and > 0."""
    values = torch.as_tensor(value)
    if not bool((torch.isfinite(values) & (values > 0)).all()):
        raise ValueError(f"{name} is {_show(value)}; expected a finite number > 0. {remedy}")


def require_orders(alpha: float | Tensor, like: Tensor) -> Tensor:
    """Return alpha as a float64 tensor on the device of `like`; raise unless it is finite and broadcasts to the batch.

    float64 because 1 - alpha must not be rounded away: in float32, 1 - 1e-12 is 1.
    """
    exact = torch.float64 if like.device.type != "mps" else torch.float32  # MPS has no float64
    orders = torch.as_tensor(alpha, dtype=exact, device=like.device)
    if not bool(torch.isfinite(orders).all()):
        raise ValueError(f"alpha is {_show(alpha)}; expected a finite order. Use 0.0 or 1.0 for the KL limits.")
    try:
        torch.broadcast_shapes(orders.shape, like.shape[:-1])  # type: ignore[no-untyped-call]
    except RuntimeError:
        raise ValueError(
            f"alpha has shape {tuple(orders.shape)}; expected a number or a shape that broadcasts to the batch "
            f"dimensions {tuple(like.shape[:-1])}. For a sweep use alphas[:, None]."
        ) from None
    return orders


def require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise unless value is one of the choices."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(map(repr, choices))}.")


def _floating(name: str, value: Tensor) -> Tensor:
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} is a {type(value).__name__}; expected a torch.Tensor. Wrap it in torch.tensor(...).")
    if not value.is_floating_point():
        raise ValueError(f"{name} has dtype {value.dtype}; expected a floating dtype. Convert it with .float().")
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


# How far the sum may be from 1 (in logs): what rounding to each dtype can do to honest log-probabilities.
_NORMALIZATION = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 1e-1}


def _require_normalized(name: str, value: Tensor, tolerance: float) -> None:
    total = value.detach().logsumexp(-1)
    off = total.abs() > tolerance
    if bool(off.any()):
        index = tuple(off.nonzero()[0].tolist()) if off.dim() else ()
        raise ValueError(
            f"{name} sums to {math.exp(min(total[index].item(), 700.0)):.6g} over its last dimension at index "
            f"{list(index)}; expected log-probabilities that sum to 1. Apply .log_softmax(-1) first."
        )


def _show(value: float | Tensor) -> str:
    if not isinstance(value, Tensor):
        return f"{value}"
    if value.numel() == 1:
        return f"{value.item()}"
    return f"a tensor of shape {tuple(value.shape)} with values in [{value.min().item()}, {value.max().item()}]"
