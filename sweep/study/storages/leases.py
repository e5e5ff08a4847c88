"""Who holds what: a file lock that dies with its holder, and who of the drivers that took trials still lives."""

from __future__ import annotations

import contextlib
import functools
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from ...config.locks import is_running

RENEW_EVERY = 15.0  # seconds between two renewals of a driver's lease
DEAD_AFTER = 60.0  # seconds without one, after which another host takes the driver for dead
LEASE_ENDED = "over"  # what a lease says whose driver has ended


def this_process(attempt: int) -> dict[str, Any]:
    """The mark of this process on a trial; ``attempt`` counts how often the trial was taken up."""
    me = psutil.Process()
    return {
        "host": socket.gethostname(),
        "boot": _boot(),
        "pid": me.pid,
        "started": me.create_time(),
        "attempt": attempt,
    }


def release_owner(mark: Mapping[str, Any]) -> dict[str, Any]:
    """The mark of a process that has let go of its trial, alive as it may be."""
    return {**mark, "started": 0.0}


def lease_key(mark: Mapping[str, Any]) -> str:
    """What a mark's process renews its lease under."""
    return f"lease {mark['host']} {mark['pid']} {mark['started']:.0f}"


class _Seen(NamedTuple):
    """A lease, as far as it was looked at.

    Attributes:
        unchanged: for how many seconds.
        looked: when, at last.
        renewed: whether it has ever changed.
    """

    value: object
    unchanged: float
    looked: float
    renewed: bool


class LeaseMonitor:
    """Tells the living from the dead by their marks; remembers for how long a lease was seen unchanged.

    A process of this machine is known to live or not. One of another machine lives as long as it renews its lease: it
    is dead when the lease has not changed for ``DEAD_AFTER`` seconds of this process' own clock, so that the clocks of
    two machines are never compared. Between two looks at most ``RENEW_EVERY`` seconds count: while the storage is away
    for everybody, nobody can renew a lease, and nobody is dead for that.
    """

    def __init__(self) -> None:
        self._me = this_process(0)
        self._seen: dict[str, _Seen] = {}

    def is_alive(self, mark: Mapping[str, Any], renewed: Callable[[str], object]) -> bool:
        """Whether the process that left a mark still lives and has not let go; ``renewed`` reads a lease."""
        if {**mark, "attempt": 0} == self._me:
            return True
        if mark["started"] == 0:
            return False
        if mark["host"] == socket.gethostname() and mark.get("boot", _boot()) == _boot():
            return is_running(mark["pid"], mark["started"])
        seen = self._look(lease_key(mark), renewed)
        return seen.value != LEASE_ENDED and seen.unchanged < DEAD_AFTER

    def is_confirmed(self, mark: Mapping[str, Any]) -> bool:
        """Whether what `is_alive` said is known: a lease that was not seen for long may be a dead driver's."""
        seen = self._seen.get(lease_key(mark))
        return seen is None or seen.renewed or seen.value == LEASE_ENDED or seen.unchanged >= DEAD_AFTER

    def poll(self, renewed: Callable[[str], object]) -> None:
        """Looks at the leases that were asked for before; to be called every ``RENEW_EVERY`` seconds."""
        for name in list(self._seen):
            self._look(name, renewed)

    def _look(self, name: str, renewed: Callable[[str], object]) -> _Seen:
        value, now = renewed(name), time.monotonic()
        before = self._seen.get(name, _Seen(value, 0.0, now, renewed=False))
        if value == before.value:
            unchanged = before.unchanged + min(now - before.looked, RENEW_EVERY)
            self._seen[name] = _Seen(value, unchanged, now, before.renewed)
        else:
            self._seen[name] = _Seen(value, 0.0, now, renewed=True)
        return self._seen[name]


@functools.cache
def _boot() -> str:
    """Where process ids mean something: this boot of this machine and, on Linux, this container."""
    with contextlib.suppress(OSError):
        boot, namespace = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
        return f"{boot.read_text().strip()} {namespace.readlink()}"
    return f"{psutil.boot_time():.0f}"
