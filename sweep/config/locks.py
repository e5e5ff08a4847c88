"""File locks that the kernel releases when their holder exits, and whether a process of this machine runs."""

from __future__ import annotations

import contextlib
import fcntl
import threading
from collections.abc import Iterator
from pathlib import Path

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


def is_running(pid: int, started: float) -> bool:
    """Whether a process of this machine lives; its start time tells it from a later one of the same id."""
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - started) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
