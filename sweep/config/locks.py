"""A file lock for short waits on a hot path, and a check if a process of this machine still runs."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil


class FileLock:
    """An advisory lock that the kernel releases when its holder dies; its methods are those of Optuna's journal locks.

    The journal is locked for milliseconds at each write: waiters must wake at once, where `filelock.FileLock` polls.
    """

    def __init__(self, path: Path):
        self._path = path
        self._local = threading.local()

    def acquire(self) -> bool:
        """Waits for the lock; threads of one process exclude each other too."""
        import fcntl  # here, since Windows has none

        self._local.file = self._path.open("ab")
        fcntl.flock(self._local.file, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        """Releases the lock."""
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
    """Returns True if a process of this machine is alive; its start time excludes a later process with the same id."""
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - started) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
