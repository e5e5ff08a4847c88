"""The resources of one trial on the connected cluster, and the number of trials that fit at once."""

import logging
import math
import sys
import time
from collections.abc import Callable
from typing import Any, Self

from ..cluster.nodes import Node, Placeholders, list_nodes, resource_bundle
from ..cluster.ray_internals import can_grow
from ..config.errors import SweepError
from ..config.resources import Resources

REFRESH_EVERY = 2.0  # seconds between two counts of the nodes
NODE_TIMEOUT = 900.0  # seconds without a node that has the resources of a trial
AUTOSCALER_TIMEOUT = 15.0  # seconds that the autoscaler of a new head may need for its first report

logger = logging.getLogger(__name__)


def require_fit(resources: Resources, *, private: bool = False) -> None:
    """Raises SweepError if a trial fits no node and the cluster adds none; a ``private`` Ray adds none."""
    found = list_nodes()
    gpus = _gpus_per_trial(resources, found)
    deadline = time.monotonic() + (0.0 if private else AUTOSCALER_TIMEOUT)
    while not _slots_of(resources, gpus, found) and not (grows := can_grow()):
        if grows is False or time.monotonic() > deadline:
            raise SweepError(_does_not_fit(resources, gpus, found))
        time.sleep(0.2)


class Slots:
    """Counts the trials that the connected cluster runs at once, and shows a cluster that adds nodes how many wait."""

    def __init__(self, resources: Resources, *, n_waiting: Callable[[], int], on_message: Callable[[str], None]):
        require_fit(resources)
        self._resources, self._n_waiting, self._on_message = resources, n_waiting, on_message
        self._placeholders = Placeholders()
        self._gpus, self._gpus_settled = 0.0, False
        self._slots, self._refreshed = 0, -math.inf
        self._addresses: set[str] | None = None  # of the nodes at the last refresh
        self._left: dict[str, float] = {}  # monotonic time at which each node that is gone was missed
        self._missing_since: float | None = None  # when the last node that fits was lost
        self.draining: set[str] = set()  # addresses of nodes that will end

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._placeholders.hold({}, 0)

    def __getstate__(self) -> dict[str, Any]:
        """Returns nothing: Tune pickles what refers to this into a snapshot, which must hold nothing of the study."""
        return {}

    def count(self, running: int) -> int:
        """Returns the trials that run at once, of which ``running`` do; raises SweepError after 15 minutes of none."""
        if time.monotonic() - self._refreshed >= REFRESH_EVERY:
            self._refreshed = time.monotonic()
            self._refresh(running)
        return self._slots

    def resource_request(self, *, exclusive: bool = False) -> dict[str, float]:
        """Returns the resources of one trial as Ray expects them; ``exclusive`` replaces a share of a GPU by one."""
        asked, gpus = self._resources, self._gpus
        gpus = 1.0 if exclusive and 0 < gpus < 1 else gpus
        return resource_bundle(
            cpus=asked.total_cpus, gpus=gpus, memory=asked.memory, accelerator=asked.accelerator_type
        )

    def _refresh(self, running: int) -> None:
        found, most = list_nodes(), self._resources.max_concurrent or sys.maxsize
        self._tell_changes({node.address for node in found})
        self.draining = {node.address for node in found if node.draining}
        if not self._gpus_settled:  # `auto` is decided by the first nodes that fit
            self._gpus = _gpus_per_trial(self._resources, found)
        before, self._slots = self._slots, _slots_of(self._resources, self._gpus, found)
        if self._slots != before:
            logger.info("slots: %d on %d nodes, %d before", self._slots, len(found), before)
        if self._slots:
            self._gpus_settled, self._missing_since = True, None
        else:
            self._wait(_does_not_fit(self._resources, self._gpus, found))
        if can_grow():
            missing = min(running + self._n_waiting(), most) - self._slots
            self._placeholders.hold(self.resource_request(), missing, more=running >= self._slots)

    def _tell_changes(self, addresses: set[str]) -> None:
        """Reports the nodes that have left since the last refresh, and those that have joined."""
        before, self._addresses = self._addresses, addresses
        if before is not None:
            for address in sorted(before - addresses):
                self._left[address] = time.monotonic()
                self._on_message(f"node {address} has left the cluster: its trials continue elsewhere")
            for address in sorted(addresses - before):
                left = self._left.pop(address, None)
                again = "" if left is None else f" again after {time.monotonic() - left:.0f} s"
                self._on_message(f"node {address} has joined the cluster{again}")

    def _wait(self, why: str) -> None:
        now, minutes = time.monotonic(), f"{NODE_TIMEOUT / 60:g} minutes"
        if self._missing_since is None:
            self._missing_since = now
            self._on_message(f"{why} Waiting for a node, for {minutes} at most.")
        elif now - self._missing_since > NODE_TIMEOUT:
            raise SweepError(f"{why} No node has joined in {minutes}; nothing is lost: resume the study.")


def _slots_of(resources: Resources, gpus: float, found: list[Node]) -> int:
    """Returns the number of trials that the nodes run at once, each with ``gpus`` GPUs."""
    usable = [n for n in found if not n.draining and resources.accelerator_type in (None, *n.accelerators)]
    fit = sum(resources.room(node.cpus, node.gpus, gpus, node.memory) for node in usable)
    return min(fit, resources.max_concurrent or sys.maxsize)


def _gpus_per_trial(resources: Resources, found: list[Node]) -> float:
    return resources.gpus_per_trial(max((node.gpus for node in found), default=0))


def _does_not_fit(resources: Resources, gpus: float, found: list[Node]) -> str:
    """Returns a message: the resources that a trial asks for, and those of the nodes."""
    kind, kinds = resources.accelerator_type, sorted({kind for node in found for kind in node.accelerators})
    if kind not in (None, *kinds):
        there = f"there are: {', '.join(kinds)}" if kinds else "Ray has found no accelerator on any"
        return f"resources.accelerator_type: no node has {kind}; {there}."
    asked = _amounts(resources.total_cpus, gpus, resources.memory, (kind,) if kind else ())
    has = [
        _amounts(node.cpus, node.gpus, node.memory if resources.memory else None, node.accelerators if kind else ())
        for node in found
    ]
    several = "" if resources.processes == 1 else f" in its {resources.processes} processes"
    names = ["resources.cpus", "resources.gpus" if resources.workers == 1 else "resources.workers"]
    names += ["resources.memory"] if resources.memory else []
    return (
        f"resources: a trial asks for {asked}{several}, but no node has that; there is: {'; '.join(has) or 'no node'}. "
        f"Lower {', '.join(names[:-1])} or {names[-1]}, or connect to a larger cluster."
    )


def _amounts(cpus: float, gpus: float, memory: float | None, kinds: tuple[str, ...]) -> str:
    """Returns resources in words, ``1 CPU and 2 GPUs (A10G)``; no GPUs are left out."""
    parts = [f"{cpus:g} CPU{'' if cpus == 1 else 's'}"]
    if gpus:
        parts.append(f"{gpus:g} GPU{'' if gpus == 1 else 's'}" + (f" ({', '.join(kinds)})" if kinds else ""))
    parts += [] if memory is None else [f"{memory:.3g} GiB of memory"]
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
