"""What the nodes of the connected cluster have."""

from __future__ import annotations

from dataclasses import dataclass

import ray

GIB = 2**30
_ACCELERATOR = "accelerator_type:"  # Ray's prefix of a resource that a node has one of, and a task takes a little of


@dataclass(frozen=True)
class Node:
    """A node that lives.

    Attributes:
        address: its IP address.
        memory: GiB that Ray gives to tasks, some 70 % of the machine's.
        accelerators: Ray's names of the kinds it has.
    """

    address: str
    cpus: float
    gpus: float
    memory: float
    accelerators: tuple[str, ...]


def nodes() -> list[Node]:
    """The nodes that live, the head included."""
    return [_node(found["NodeManagerAddress"], found["Resources"]) for found in ray.nodes() if found["Alive"]]


def bundle(*, cpus: float, gpus: float, memory: float | None, accelerator: str | None) -> dict[str, float]:
    """A demand in Ray's words.

    Args:
        memory: GiB.
        accelerator: Ray's name of the kind that the node must have.
    """
    asked = {"CPU": cpus, "GPU": gpus, "memory": int((memory or 0) * GIB)}
    if accelerator is not None:
        asked[_ACCELERATOR + accelerator] = 0.001
    return {name: amount for name, amount in asked.items() if amount}


def _node(address: str, has: dict[str, float]) -> Node:
    kinds = sorted(name.removeprefix(_ACCELERATOR) for name in has if name.startswith(_ACCELERATOR))
    return Node(address, has.get("CPU", 0.0), has.get("GPU", 0.0), has.get("memory", 0.0) / GIB, tuple(kinds))
