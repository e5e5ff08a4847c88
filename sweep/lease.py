"""Who holds what: a file lock that dies with its holder, and the mark that a driver leaves on the trials it takes."""

from __future__ import annotations

import contextlib
import fcntl
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil


class FileLock:
    """An advisory lock that the kernel releases when its holder dies, so that a resume after kill -9 never waits.

    Its methods are those that Optuna's journal asks of a lock.
    """

    def __init__(self, path: Path):
        self._path = path
        self._local = threading.local()

    def acquire(self) -> bool:
        """Waits for the lock; threads of one process exclude each other too."""
        self._local.file = self._path.open("ab")
        fcntl.flock(self._local.file, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        """Lets the next one in."""
        self._local.file.close()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Holds the lock for a ``with`` block."""
        self.acquire()
        try:
            yield
        finally:
            self.release()


def owner(attempt: int) -> dict[str, Any]:
    """The mark of this process on a trial; ``attempt`` counts how often the trial was taken up."""
    me = psutil.Process()
    return {"host": socket.gethostname(), "pid": me.pid, "started": me.create_time(), "attempt": attempt}


def is_alive(mark: Mapping[str, Any]) -> bool:
    """Whether the process that left a mark still lives. One on another host is believed to."""
    if mark["started"] == 0:
        return False  # it has let go
    if mark["host"] != socket.gethostname():
        return True
    try:
        process = psutil.Process(mark["pid"])
        return abs(process.create_time() - mark["started"]) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
