"""Ray's door, and the executor without Ray: runs the trials of a `TrialSource` wherever there are resources.

May import ``training``, ``data``, ``config`` and ``cluster``; only this folder and ``cluster`` import Ray.
Face: `get_executor` and `EXECUTORS`, the `Executor` they name, and `TrialSource` with its `TrialRequest`.
"""

from .executor import EXECUTORS, Executor, get_executor
from .trial_source import TrialRequest, TrialSource

__all__ = ["EXECUTORS", "Executor", "TrialRequest", "TrialSource", "get_executor"]
