"""A file lock for short waits on a hot path, and a check if a process of this machine still runs."""

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

POLL_EVERY = 0.01  # seconds between two attempts, where a wait has an end


class FileLock:
    """An advisory lock that the kernel releases when its holder dies; its methods are those of Optuna's journal locks.

    The journal is locked for milliseconds at each write: waiters must wake at once, where `filelock.FileLock` polls.
    """

    def __init__(self, path: Path):
        self._path = path
        self._local = threading.local()

    def acquire(self, *, seconds: float | None = None) -> bool:
        """Waits for the lock; threads of a process exclude each other too. Raises `TimeoutError` after ``seconds``."""
        import fcntl  # here, since Windows has none

        self._local.file = self._path.open("ab")
        if seconds is None:
            fcntl.flock(self._local.file, fcntl.LOCK_EX)
            return True
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(self._local.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            if time.monotonic() > deadline:
                self.release()
                raise TimeoutError(
                    f"{self._path} has been locked for {seconds:.0f} s: if the driver that has it is stopped, end it "
                    f"(fuser {self._path} prints its process id)"
                )
            time.sleep(POLL_EVERY)

    def release(self) -> None:
        """Releases the lock."""
        self._local.file.close()

    @contextlib.contextmanager
    def held(self, *, seconds: float | None = None) -> Iterator[None]:
        """Holds the lock for a ``with`` block; raises `TimeoutError` if others keep it for so long."""
        self.acquire(seconds=seconds)
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
