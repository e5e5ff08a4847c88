"""Owners of trials, and the leases that show which drivers are alive."""

import contextlib
import functools
import logging
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from ...config.locks import is_running

logger = logging.getLogger(__name__)

RENEW_EVERY = 15.0  # seconds between two renewals of a driver's lease
DEAD_AFTER = 60.0  # seconds without a renewal, after which a driver on another host is dead
LEASE_ENDED = "over"  # value of a lease whose driver has ended


def this_process(attempt: int) -> dict[str, Any]:
    """Returns this process as the owner of a trial; ``attempt`` counts the claims of the trial."""
    me, host = psutil.Process(), socket.gethostname()
    return {"host": host, "boot": _boot(), "pid": me.pid, "started": me.create_time(), "attempt": attempt}


def release_owner(owner: Mapping[str, Any]) -> dict[str, Any]:
    """Returns an owner that has released its trial: any driver may adopt it, though the process may be alive."""
    return {**owner, "started": 0.0}


def lease_key(owner: Mapping[str, Any]) -> str:
    """Returns the study attribute under which an owner's process renews its lease."""
    return f"lease {owner['host']} {owner['pid']} {owner['started']:.0f}"


class _Lease(NamedTuple):
    value: object
    unchanged: float  # seconds
    polled: float  # monotonic time of the last poll
    renewed: bool  # True if it has ever changed


class LeaseMonitor:
    """Finds out which owners are alive.

    A process of this machine is looked up by its id. A process of another machine is alive while it renews its lease:
    it is dead when the lease has not changed for ``DEAD_AFTER`` seconds of this process' own clock, so that the clocks
    of two machines are never compared. Between two polls at most ``RENEW_EVERY`` seconds count: during a storage
    outage no driver can renew its lease, and none is dead because of that.
    """

    def __init__(self) -> None:
        self._me = this_process(0)
        self._observed: dict[str, _Lease] = {}

    def is_alive(self, owner: Mapping[str, Any], read_lease: Callable[[str], object]) -> bool:
        """Returns True if an owner's process is alive and has not released the trial."""
        if self.is_this_process(owner):
            return True
        if owner["started"] == 0:
            return False
        if owner["host"] == socket.gethostname() and owner.get("boot", _boot()) == _boot():
            return is_running(owner["pid"], owner["started"])
        lease = self._poll(lease_key(owner), read_lease)
        return lease.value != LEASE_ENDED and lease.unchanged < DEAD_AFTER

    def is_this_process(self, owner: Mapping[str, Any]) -> bool:
        """Returns True for an owner that is this process, and has not released the trial."""
        return {**owner, "attempt": 0} == self._me

    def is_confirmed(self, owner: Mapping[str, Any]) -> bool:
        """Returns True if the answer of `is_alive` is certain: a lease observed only briefly may be a dead driver's."""
        lease = self._observed.get(lease_key(owner))
        return lease is None or lease.renewed or lease.value == LEASE_ENDED or lease.unchanged >= DEAD_AFTER

    def poll(self, read_lease: Callable[[str], object]) -> None:
        """Reads the leases that were asked for before; to be called every ``RENEW_EVERY`` seconds."""
        for name in list(self._observed):
            self._poll(name, read_lease)

    def _poll(self, name: str, read_lease: Callable[[str], object]) -> _Lease:
        value, now = read_lease(name), time.monotonic()
        before = self._observed.get(name, _Lease(value, 0.0, now, renewed=False))
        if value == before.value:
            unchanged = before.unchanged + min(now - before.polled, RENEW_EVERY)
            self._observed[name] = _Lease(value, unchanged, now, before.renewed)
            if before.unchanged < DEAD_AFTER <= unchanged:
                logger.info("%s: not renewed for %.0f s: its driver is dead", name, unchanged)
        else:
            self._observed[name] = _Lease(value, 0.0, now, renewed=True)
        return self._observed[name]


@functools.cache
def _boot() -> str:
    """Returns the scope of process ids: this boot of this machine and, on Linux, this container."""
    with contextlib.suppress(OSError):
        boot, namespace = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
        return f"{boot.read_text().strip()} {namespace.readlink()}"
    return f"{psutil.boot_time():.0f}"
