"""The half precision that a run computes its products in, and the scale that float16 needs.

float16 has three binary digits more than bfloat16 and a far smaller range: gradients below 6e-8 become 0, products above
65,504 infinite. So the loss is multiplied by a large scale before the backward pass and the gradient divided by it after
(torch's GradScaler, which accelerate applies): small gradients survive, and a gradient that is infinite asks for a smaller
scale. Weights that are trained, their gradients, AdamW, losses and log-probabilities are in float32 either way.
"""

from typing import Any

import torch
from torch import nn

from full.errors import UserError
from full.logprobs.scoring import own_logps

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
# Compute capability from which a GPU has bfloat16 (Ampere). Before it torch emulates it, and has no kernel for attention.
BFLOAT16_FROM = (8, 0)


def half_type(accelerator: Any) -> torch.dtype | None:
    """What autocast computes products in; None without autocast."""
    return HALF.get(accelerator.mixed_precision)


def best_precision(*, sharded: bool) -> str:
    """The mixed precision for the GPU of this process where nobody asked for one: bf16 if it has that, else fp16.

    Args:
        sharded: by FSDP2 or DeepSpeed, under which fp16 is not supported here.
    """
    return "bf16" if sharded or torch.cuda.get_device_capability() >= BFLOAT16_FROM else "fp16"


def precision_line(accelerator: Any) -> str:
    """Which precision a run on a GPU has, and why."""
    major, minor = torch.cuda.get_device_capability(accelerator.device)
    gpu = f"{torch.cuda.get_device_name(accelerator.device)}, compute capability {major}.{minor}"
    has = (major, minor) >= BFLOAT16_FROM
    if accelerator.mixed_precision == "bf16":
        told = "products in bfloat16" + ("" if has else ", which this GPU emulates slowly: --mixed_precision fp16")
    elif accelerator.mixed_precision == "fp16":
        told = "products in float16, the gradient scaled" + ("" if has else ", since this GPU has no bfloat16")
    else:
        told = "float32"
    return f"precision: {told} ({gpu})"


def scale_down(accelerator: Any) -> float:
    """After a gradient that is not finite: halve float16's scale. The new scale; 0.0 where there is none to halve.

    Below 1 an infinite gradient has another cause than the scale. All processes have the same gradient, so all do the same.
    """
    scaler = getattr(accelerator, "scaler", None)
    if scaler is None or scaler.get_scale() <= 1:
        return 0.0
    scale = scaler.get_scale() / 2
    scaler.update(scale)  # which also forgets that this gradient has been divided by the scale
    return scale


def check_range(model: nn.Module, prompt: list[int], accelerator: Any, name: str) -> None:
    """Raise unless the model's activations stay within float16, on one prompt.

    Raises:
        UserError: names the model and the precisions that are left.
    """
    if accelerator.mixed_precision != "fp16":
        return
    with accelerator.autocast():
        finite = bool(own_logps(model, prompt[:-1], prompt[-1:]).isfinite().all())
    if not finite:
        raise UserError(
            f"model {name!r} gives log-probabilities that are no numbers (NaN) in float16, whose range ends at 65,504; "
            "expected numbers. Use --mixed_precision bf16 (slow where the GPU has to emulate it), or --mixed_precision no"
        )
