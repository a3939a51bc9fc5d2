"""Sliders of the kernel's own: for live canvases and for questions that are answered with a number."""

from typing import Any

import ipywidgets


def as_control(name: str, control: Any) -> ipywidgets.Widget:
    if isinstance(control, ipywidgets.Widget):
        if not hasattr(control, "value") or not getattr(control, "description", "").strip():
            raise ValueError(
                f"control {name!r} is a {type(control).__name__} without a value or a description; expected both. Give "
                "it description='...', which is its visible label."
            )
        return control
    try:
        label, low, high, step, start = control
    except (TypeError, ValueError):
        raise ValueError(
            f"control {name!r} is {control!r}; expected (label, low, high, step, start) or an ipywidgets control, e.g. "
            "('alpha', 0.0, 1.0, 0.02, 0.5)."
        ) from None
    if not (low < high and step > 0 and low <= start <= high):
        raise ValueError(
            f"control {name!r} has low {low}, high {high}, step {step}, start {start}; expected low < high, step > 0 "
            "and the start between them. Check the order: (label, low, high, step, start)."
        )
    whole = all(isinstance(number, int) for number in (low, high, step, start))
    kind = ipywidgets.IntSlider if whole else ipywidgets.FloatSlider
    return kind(
        value=start,
        min=low,
        max=high,
        step=step,
        description=label,
        style={"description_width": "9em"},
        layout={"width": "560px", "max_width": "100%"},
    )
