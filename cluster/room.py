"""What the nodes of the connected cluster have, whether it adds nodes, and how to ask it for more."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import ray
from ray.experimental.internal_kv import _internal_kv_get, internal_kv_get_gcs_client
from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group

GIB = 2**30
_ACCELERATOR = "accelerator_type:"  # Ray's prefix of a resource that a node has one of, and a task takes a little of
_REPORT = b"__autoscaling_status"  # key of what an autoscaler of the first version says of itself
_MOST = 64  # placeholders at once; more come when these have room


@dataclass(frozen=True)
class Node:
    """A node that lives.

    Attributes:
        address: its IP address.
        memory: GiB that Ray gives to tasks, some 70 % of the machine's.
        accelerators: Ray's names of the kinds it has.
        leaving: it is being drained, takes nothing more, and will go.
    """

    address: str
    cpus: float
    gpus: float
    memory: float
    accelerators: tuple[str, ...]
    leaving: bool


def nodes() -> list[Node]:
    """The nodes that live, the head included."""
    leaving = {} if ray.util.client.ray.is_connected() else ray._private.state.state.get_draining_nodes()
    return [_node(found, leaving=found["NodeID"] in leaving) for found in ray.nodes() if found["Alive"]]


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


def can_grow() -> bool | None:
    """Whether an autoscaler adds nodes; None where none has said anything yet. Not known of a cluster by ``ray://``.

    Every head has an autoscaler, which without a configuration only watches. The first version reports the type of each
    node, which to one that watches is the node's id. To the second (KubeRay) a head has to name its type itself.
    """
    if ray.util.client.ray.is_connected():
        return False
    report = json.loads(_internal_kv_get(_REPORT) or b"{}").get("autoscaler_report")
    if report is not None:
        kinds = (report["node_type_mapping"] or {}).values()
        return any(not re.fullmatch("node_[0-9a-f]{56}", kind) for kind in kinds)
    from ray.autoscaler.v2.sdk import get_cluster_resource_state
    from ray.autoscaler.v2.utils import is_autoscaler_v2, is_head_node

    gcs = internal_kv_get_gcs_client()
    if not is_autoscaler_v2(fetch_from_server=True, gcs_client=gcs):
        return None
    return any(is_head_node(n) and n.ray_node_type_name for n in get_cluster_resource_state(gcs).node_states)


class Placeholders:
    """Placement groups in which nothing runs: to an autoscaler a demand for nodes. They end with the driver."""

    def __init__(self) -> None:
        self._bundle: dict[str, float] = {}
        self._groups: list[Any] = []

    def hold(self, bundle: dict[str, float], count: int, *, more: bool = True) -> None:
        """Keeps up to ``count`` of them waiting; one that has got room gives it up, to a trial.

        Args:
            more: add those that are missing. Not while a trial may still look for room: it would find less.
        """
        waiting = [group for group in self._groups if placement_group_table(group).get("state") == "PENDING"]
        kept = waiting[: max(0, count)] if bundle == self._bundle else []
        for group in self._groups:
            if group not in kept:
                remove_placement_group(group)
        missing = min(count, _MOST) - len(kept) if more else 0
        self._bundle, self._groups = bundle, [*kept, *(placement_group([bundle]) for _ in range(missing))]


def _node(found: dict[str, Any], *, leaving: bool) -> Node:
    has = found["Resources"]
    return Node(
        address=found["NodeManagerAddress"],
        cpus=has.get("CPU", 0.0),
        gpus=has.get("GPU", 0.0),
        memory=has.get("memory", 0.0) / GIB,
        accelerators=tuple(sorted(n.removeprefix(_ACCELERATOR) for n in has if n.startswith(_ACCELERATOR))),
        leaving=leaving,
    )
