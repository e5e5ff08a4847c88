"""Ray's door, and the executor without Ray: runs the trials of a `TrialSource` wherever there are resources."""

from typing import TYPE_CHECKING, Literal

from ..config.lazy_face import lazy_face

EXECUTORS = {  # imported when chosen: Ray alone takes a second
    "ray": "sweep.execution.ray_executor:RayExecutor",
    "local": "sweep.execution.local:LocalExecutor",
}

if TYPE_CHECKING:
    ExecutorName = str
else:
    ExecutorName = Literal[tuple(EXECUTORS)]  # the command line lists the names from here

_FACE = dict.fromkeys(("Executor", "TrialRequest", "TrialSource", "get_executor"), ".executor")
__all__ = [*_FACE, "EXECUTORS", "ExecutorName"]
__getattr__ = lazy_face(__name__, _FACE)
