"""Losses of a training loop, on torch alone: entropy guidance, its measures, and the task losses."""

from .guidance import EntropyGuidance, GuidanceWarning

__all__ = ["EntropyGuidance", "GuidanceWarning"]
