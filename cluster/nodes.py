"""The nodes of the connected cluster: their resources, and placeholders by which an autoscaler adds more."""

from typing import Any, NamedTuple

import ray
from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group

from .ray_internals import draining_nodes

GIB = 2**30
_ACCELERATOR = "accelerator_type:"  # prefix of a resource that a node has one of, and a task asks for a little of
_MAX_PLACEHOLDERS = 64  # at once; more come when these have been given resources


class Node(NamedTuple):
    """A living node."""

    address: str
    cpus: float
    gpus: float
    memory: float  # GiB that Ray offers to tasks, some 70 % of the machine's
    accelerators: tuple[str, ...]  # Ray's names
    draining: bool  # it accepts nothing new, and will end


def list_nodes() -> list[Node]:
    """Returns the living nodes, the head included."""
    draining = draining_nodes()
    return [
        Node(
            address=node["NodeManagerAddress"],
            cpus=has.get("CPU", 0.0),
            gpus=has.get("GPU", 0.0),
            memory=has.get("memory", 0.0) / GIB,
            accelerators=tuple(sorted(n.removeprefix(_ACCELERATOR) for n in has if n.startswith(_ACCELERATOR))),
            draining=node["NodeID"] in draining,
        )
        for node, has in ((node, node["Resources"]) for node in ray.nodes() if node["Alive"])
    ]


def resource_bundle(*, cpus: float, gpus: float, memory: float | None, accelerator: str | None) -> dict[str, float]:
    """Returns a demand for resources as Ray expects it; ``memory`` is in GiB, ``accelerator`` Ray's name of one.

    Example:
        >>> resource_bundle(cpus=1, gpus=0.5, memory=None, accelerator="A10G")
        {'CPU': 1, 'GPU': 0.5, 'accelerator_type:A10G': 0.001}
    """
    demand = {"CPU": cpus, "GPU": gpus, "memory": int((memory or 0) * GIB)}
    if accelerator is not None:
        demand[_ACCELERATOR + accelerator] = 0.001
    return {name: amount for name, amount in demand.items() if amount}


class Placeholders:
    """Placement groups in which nothing runs: an autoscaler adds nodes for them. They end with the driver."""

    def __init__(self) -> None:
        self._bundle: dict[str, float] = {}
        self._groups: list[Any] = []

    def hold(self, bundle: dict[str, float], count: int, *, more: bool = True) -> None:
        """Keeps up to ``count`` pending; adds none unless ``more``: a trial that waits would find fewer resources."""
        pending = [group for group in self._groups if placement_group_table(group).get("state") == "PENDING"]
        kept = pending[: max(0, count)] if bundle == self._bundle else []
        for group in self._groups:
            if group not in kept:
                remove_placement_group(group)
        missing = min(count, _MAX_PLACEHOLDERS) - len(kept) if more else 0
        self._bundle, self._groups = bundle, [*kept, *(placement_group([bundle]) for _ in range(missing))]
