"""Ray's door, and the executor without Ray: runs the trials of a `TrialSource` wherever there are resources."""

from .executor import EXECUTORS, Executor, TrialRequest, TrialSource, get_executor

__all__ = ["EXECUTORS", "Executor", "TrialRequest", "TrialSource", "get_executor"]
