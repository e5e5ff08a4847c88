"""What a trial asks of the connected cluster, and how many trials it runs at once."""

from __future__ import annotations

from cluster.room import Node, bundle, nodes

from .config import Resources
from .errors import SweepError


def parallelism(resources: Resources) -> int:
    """Trials that the connected cluster runs at once.

    Raises:
        SweepError: no node has room for one trial; says what there is.
    """
    found = nodes()
    gpus = gpus_per_trial(resources, found)
    slots = sum(_fits(resources, gpus, node) for node in found)
    if not slots:
        raise SweepError(_too_much(resources, gpus, found))
    return min(slots, resources.max_concurrent or slots)


def gpus_per_trial(resources: Resources, found: list[Node]) -> float:
    """GPUs of one trial; ``auto`` is one where the cluster has any."""
    if resources.gpus != "auto":
        return float(resources.gpus)
    return 1.0 if any(node.gpus for node in found) else 0.0


def demand(resources: Resources, *, alone: bool = False) -> dict[str, float]:
    """What one trial asks for, in Ray's words.

    Args:
        alone: a whole GPU in place of a share.
    """
    gpus = gpus_per_trial(resources, nodes())
    gpus = 1.0 if alone and 0 < gpus < 1 else gpus
    return bundle(cpus=resources.cpus, gpus=gpus, memory=resources.memory, accelerator=resources.accelerator_type)


def _fits(resources: Resources, gpus: float, node: Node) -> int:
    """Trials that a node has room for."""
    if resources.accelerator_type not in (None, *node.accelerators):
        return 0
    return resources.room(node.cpus, node.gpus, gpus, node.memory)


def _too_much(resources: Resources, gpus: float, found: list[Node]) -> str:
    """Why no node has room for a trial: what it asks for, and what there is."""
    kind, kinds = resources.accelerator_type, sorted({kind for node in found for kind in node.accelerators})
    if kind not in (None, *kinds):
        there = f"there are: {', '.join(kinds)}" if kinds else "no node has an accelerator that Ray knows"
        return f"resources.accelerator_type: no node has {kind}; {there}"
    asked = _amounts(resources.cpus, gpus, resources.memory, (kind,) if kind else ())
    has = (
        _amounts(node.cpus, node.gpus, node.memory if resources.memory else None, node.accelerators if kind else ())
        for node in found
    )
    lower = ", resources.gpus or resources.memory" if resources.memory else " or resources.gpus"
    return (
        f"resources: a trial asks for {asked}, but no node has them; there is: {'; '.join(has)}. "
        f"Lower resources.cpus{lower}, or connect to a larger cluster."
    )


def _amounts(cpus: float, gpus: float, memory: float | None, kinds: tuple[str, ...]) -> str:
    of = f" ({', '.join(kinds)})" if kinds else ""
    gib = "" if memory is None else f" and {memory:.3g} GiB of memory"
    return f"{cpus:g} CPUs{',' if gib else ' and'} {gpus:g} GPUs{of}{gib}"
