"""What a trial asks of the connected cluster, and how many trials it runs at once."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from typing import Any

from ..cluster.room import Node, Placeholders, bundle, can_grow, nodes
from ..config.errors import SweepError
from ..config.sections import Resources

LOOK_EVERY = 2.0  # seconds
PATIENCE = 900.0  # seconds without a node that has room for a trial
FIRST_WORD = 15.0  # seconds that the autoscaler of a head which has just been started may take to say something


def require_fit(resources: Resources, *, private: bool = False) -> None:
    """Looks whether a trial fits a node.

    Args:
        private: a Ray of this process's own, which no autoscaler adds nodes to.

    Raises:
        SweepError: it fits none, and the cluster adds no nodes; says what there is.
    """
    found = nodes()
    gpus = _gpus_per_trial(resources, found)
    deadline = time.monotonic() + (0.0 if private else FIRST_WORD)
    while not _at_once(resources, gpus, found) and not (grows := can_grow()):
        if grows is False or time.monotonic() > deadline:
            raise SweepError(_does_not_fit(resources, gpus, found))
        time.sleep(0.2)


class Slots:
    """How many trials the connected cluster runs at once; it is looked at every two seconds, as nodes come and go.

    A cluster that adds nodes is shown how many trials wait, and none is taken from the study before there is room.
    """

    def __init__(self, resources: Resources, *, waiting: Callable[[], int], notice: Callable[[str], None]):
        require_fit(resources)
        self._resources, self._waiting, self._notice = resources, waiting, notice
        self._placeholders = Placeholders()
        self._gpus, self._settled = 0.0, False
        self._slots, self._looked = 0, -math.inf
        self._lacking_since: float | None = None
        self.leaving: set[str] = set()  # addresses of nodes that will go

    def __enter__(self) -> Slots:
        return self

    def __exit__(self, *exc: object) -> None:
        self._placeholders.hold({}, 0)

    def __getstate__(self) -> dict[str, Any]:
        """Empty: Tune pickles what has this into a snapshot, which must hold nothing of the study."""
        return {}

    def slots(self, out: int) -> int:
        """Trials at once.

        Args:
            out: trials that run, or look for their place.

        Raises:
            SweepError: for a quarter of an hour there has been no node with room for a single one.
        """
        if time.monotonic() - self._looked >= LOOK_EVERY:
            self._looked = time.monotonic()
            self._look(out)
        return self._slots

    def resource_request(self, *, exclusive: bool = False) -> dict[str, float]:
        """What one trial asks for, in Ray's words.

        Args:
            exclusive: a whole GPU in place of a share.
        """
        asked, gpus = self._resources, self._gpus
        gpus = 1.0 if exclusive and 0 < gpus < 1 else gpus
        return bundle(cpus=asked.cpus, gpus=gpus, memory=asked.memory, accelerator=asked.accelerator_type)

    def _look(self, out: int) -> None:
        found, most = nodes(), self._resources.max_concurrent or sys.maxsize
        self.leaving = {node.address for node in found if node.leaving}
        if not self._settled:  # what `auto` is, by the first nodes with room
            self._gpus = _gpus_per_trial(self._resources, found)
        self._slots = _at_once(self._resources, self._gpus, found)
        if self._slots:
            self._settled, self._lacking_since = True, None
        else:
            self._wait(_does_not_fit(self._resources, self._gpus, found))
        if can_grow():
            wanted = min(out + self._waiting(), most) - self._slots
            self._placeholders.hold(self.resource_request(), wanted, more=out >= self._slots)

    def _wait(self, why: str) -> None:
        now = time.monotonic()
        if self._lacking_since is None:
            self._lacking_since = now
            self._notice(f"{why} Waiting for a node, for {PATIENCE / 60:g} minutes at most.")
        elif now - self._lacking_since > PATIENCE:
            raise SweepError(f"{why} No node has come in {PATIENCE / 60:g} minutes; nothing is lost: resume the study.")


def _at_once(resources: Resources, gpus: float, found: list[Node]) -> int:
    """Trials that nodes run at once, each with so many GPUs."""
    return min(sum(_fits(resources, gpus, node) for node in found), resources.max_concurrent or sys.maxsize)


def _gpus_per_trial(resources: Resources, found: list[Node]) -> float:
    """GPUs of one trial; ``auto`` is one where the cluster has any."""
    if resources.gpus != "auto":
        return float(resources.gpus)
    return 1.0 if any(node.gpus for node in found) else 0.0


def _fits(resources: Resources, gpus: float, node: Node) -> int:
    """Trials that a node has room for."""
    if node.leaving or resources.accelerator_type not in (None, *node.accelerators):
        return 0
    return resources.room(node.cpus, node.gpus, gpus, node.memory)


def _does_not_fit(resources: Resources, gpus: float, found: list[Node]) -> str:
    """Why no node has room for a trial: what it asks for, and what there is."""
    kind, kinds = resources.accelerator_type, sorted({kind for node in found for kind in node.accelerators})
    if kind not in (None, *kinds):
        there = f"there are: {', '.join(kinds)}" if kinds else "Ray knows of no accelerator on any"
        return f"resources.accelerator_type: no node has {kind}; {there}."
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
