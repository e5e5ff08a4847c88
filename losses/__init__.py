"""The losses of a training loop, on torch alone: entropy guidance, its measures, task losses and their metrics.

README.md explains them. Importing this package imports no torch, so that `losses.options` loads in an instant.
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
