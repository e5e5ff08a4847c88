"""Calls a function on every node of the connected cluster."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from .ray_internals import requires_token

TIMEOUT = 120.0  # seconds; a node's first process starts in a few, and imports a large library in some more
SLOW_AFTER = 5.0  # seconds after which `on_slow` is called with the nodes that have not answered
DOWNLOAD_TIMEOUT = 3600.0  # seconds, for a function that may download something


class Answer(NamedTuple):
    """The result of one node."""

    node: str  # address
    secure: bool  # its Ray requires a token
    value: Any = None  # the function's result; None if it failed
    error: str | None = None
    ahead: float = 0.0  # seconds that its clock is ahead of this process's, apart from what the call took


def ask_nodes(
    function: Callable[..., Any],
    *arguments: object,
    timeout: float = TIMEOUT,
    on_slow: Callable[[list[str]], None] = lambda _: None,
) -> list[Answer]:
    """Calls a function of a module that the workers have, once on each node with CPUs, or on every node if none has.

    A node that is lost meanwhile gives no answer; if all are, the others are asked.
    """
    alive = [node for node in ray.nodes() if node["Alive"]]
    asked, began = {}, time.time()
    for node in [node for node in alive if node["Resources"].get("CPU")] or alive:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        task = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=there)(_call)
        asked[task.remote(function, arguments)] = node
    _, late = ray.wait(list(asked), num_returns=len(asked), timeout=min(SLOW_AFTER, timeout))
    if late:
        on_slow([asked[reference]["NodeManagerAddress"] for reference in late])
    _, late = ray.wait(list(asked), num_returns=len(asked), timeout=max(0.0, timeout - SLOW_AFTER))
    ended, living = time.time(), {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    answers = []
    for reference, node in asked.items():
        address = node["NodeManagerAddress"]
        if reference not in late:
            answers += _answer(address, reference, began, ended)
        elif node["NodeID"] in living:
            answers.append(Answer(address, True, error=f"no answer within {timeout:g} s"))
    if answers:
        return answers
    time.sleep(1)  # until Ray knows that the nodes are lost
    return ask_nodes(function, *arguments, timeout=timeout, on_slow=on_slow)


def _call(function: Callable[..., Any], arguments: tuple[object, ...]) -> tuple[bool, float, Any]:
    return requires_token(), time.time(), function(*arguments)


def _answer(node: str, reference: Any, began: float, ended: float) -> list[Answer]:
    """Returns a node's answer, or nothing if the node was lost."""
    try:
        secure, clock, value = ray.get(reference)
    except ray.exceptions.RuntimeEnvSetupError as error:
        hint = "if that node has joined the cluster again, restart Ray on it, or wait ten minutes"
        return [Answer(node, True, error=f"code: cannot be installed ({_last_line(error)}); {hint}")]
    except (ray.exceptions.NodeDiedError, ray.exceptions.TaskUnschedulableError):
        return []
    except ray.exceptions.RayError as error:
        return [Answer(node, True, error=_last_line(error))]
    return [Answer(node, secure, value, ahead=clock - min(max(clock, began), ended))]


def _last_line(error: Exception) -> str:
    return str(getattr(error, "cause", None) or error).strip().splitlines()[-1]
