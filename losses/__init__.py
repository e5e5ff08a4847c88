"""Losses of a training loop, on torch alone: entropy guidance, its measures, and the task losses.

Importing this package imports no torch, so that whoever reads settings has `losses.options` at once.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .guidance import EntropyGuidance, GuidanceWarning

__all__ = ["EntropyGuidance", "GuidanceWarning"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import guidance

    return getattr(guidance, name)
