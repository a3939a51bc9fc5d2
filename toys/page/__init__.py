"""The former place of `toys.strips`, kept importable."""

from ..strips import *  # noqa: F403
