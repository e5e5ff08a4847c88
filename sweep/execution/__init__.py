"""Ray's door, and the executor without Ray: runs the trials of a `TrialSource` wherever there are resources."""

from .executor import EXECUTORS, Executor, get_executor
from .trial_source import TrialRequest, TrialSource

__all__ = ["EXECUTORS", "Executor", "TrialRequest", "TrialSource", "get_executor"]
