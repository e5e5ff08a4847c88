"""Calls a function on every node of the connected cluster."""

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


def ask_nodes(
    function: Callable[..., Any],
    *arguments: object,
    timeout: float = TIMEOUT,
    on_slow: Callable[[list[str]], None] = lambda _: None,
) -> list[Answer]:
    """Calls a function of a module that the workers have, once on each node with CPUs, or on every node if none has."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    workers = [node for node in alive if node["Resources"].get("CPU")] or alive
    asked = {}
    for node in workers:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        task = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=there)(_call)
        asked[task.remote(function, arguments)] = node["NodeManagerAddress"]
    _, late = ray.wait(list(asked), num_returns=len(asked), timeout=min(SLOW_AFTER, timeout))
    if late:
        on_slow([asked[reference] for reference in late])
    done, late = ray.wait(list(asked), num_returns=len(asked), timeout=max(0.0, timeout - SLOW_AFTER))
    return [
        *(_answer(asked[reference], reference) for reference in done),
        *(Answer(asked[reference], True, error=f"no answer within {timeout:g} s") for reference in late),
    ]


def _call(function: Callable[..., Any], arguments: tuple[object, ...]) -> tuple[bool, Any]:
    return requires_token(), function(*arguments)


def _answer(node: str, reference: Any) -> Answer:
    try:
        secure, value = ray.get(reference)
    except ray.exceptions.RayError as error:
        return Answer(node, True, error=str(getattr(error, "cause", None) or error).strip().splitlines()[-1])
    return Answer(node, secure, value)
