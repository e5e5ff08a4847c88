"""Asking every node of the connected cluster the same question."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

PATIENCE = 120.0  # seconds; a node's first process takes a few, with a large library to import some more
SOON = 5.0  # seconds, after which it is said who has not answered
LONG_PATIENCE = 3600.0  # seconds, for a question that may bring a download with it


@dataclass(frozen=True)
class Answer:
    """What a node said.

    Attributes:
        node: its address.
        secure: whether its Ray asks for a token.
        value: what the question returned; None where it failed.
        error: why it failed.
    """

    node: str
    secure: bool
    value: Any = None
    error: str | None = None


def count_nodes() -> int:
    """Nodes of the cluster that live, the head included."""
    return sum(node["Alive"] for node in ray.nodes())


def ask_nodes(
    question: Callable[..., Any],
    *arguments: object,
    patience: float = PATIENCE,
    slow: Callable[[list[str]], None] = lambda _: None,
) -> list[Answer]:
    """Calls a function once on each node that has room for trials; where there is none, on all.

    Args:
        question: a function of a module that the workers have.
        patience: seconds for all of them.
        slow: is told, once, which nodes have not answered within ``SOON`` seconds.
    """
    alive = [node for node in ray.nodes() if node["Alive"]]
    workers = [node for node in alive if node["Resources"].get("CPU")] or alive
    asked = {}
    for node in workers:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        task = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=there)(_answer)
        asked[task.remote(question, arguments)] = node["NodeManagerAddress"]
    _, late = ray.wait(list(asked), num_returns=len(asked), timeout=min(SOON, patience))
    if late:
        slow([asked[reference] for reference in late])
    done, late = ray.wait(list(asked), num_returns=len(asked), timeout=max(0.0, patience - SOON))
    return [
        *(_taken(asked[reference], reference) for reference in done),
        *(Answer(asked[reference], True, error=f"no answer within {patience:g} s") for reference in late),
    ]


def _answer(question: Callable[..., Any], arguments: tuple[object, ...]) -> tuple[bool, Any]:
    """Runs on the node."""
    mode = ray._raylet.get_authentication_mode()
    return mode == ray._raylet.AuthenticationMode.TOKEN, question(*arguments)


def _taken(node: str, reference: Any) -> Answer:
    try:
        secure, value = ray.get(reference)
    except ray.exceptions.RayError as error:
        return Answer(node, True, error=str(getattr(error, "cause", None) or error).strip().splitlines()[-1])
    return Answer(node, secure, value)
