"""The files of one attempt at a trial of the user's own code: its own ones, artifacts, and what it printed.

They are in the attempt's folder of the workspace. Where that is in object storage, they are made in this machine's
cache, and copied with every checkpoint.
"""

import contextlib
import io
import shutil
from collections.abc import Iterator
from typing import Any, TextIO

from ..config.filesystem import AnyPath, glob_files, is_remote, list_objects, local_copy, local_path, write_bytes
from ..config.secrets import redact, secrets_here

OWN, ARTIFACTS, LOG, METRICS = "files", "artifacts", "log.txt", "metrics.jsonl"
MOST_LOGGED = 10_000_000  # bytes of a log


class AttemptFiles:
    """The files of an attempt, which begin as those that the attempt before left at its last checkpoint.

    Attributes:
        own: Folder of what only the trial itself reads.
        artifacts: Folder of what MLflow gets at the trial's end.
        log: File of what it prints.
        metrics: File of what a script reports.
    """

    def __init__(self, attempt: AnyPath, before: AnyPath | None):
        self._attempt, self._folder = attempt, local_path(attempt)
        self.own, self.artifacts = self._folder / OWN, self._folder / ARTIFACTS
        self.log, self.metrics = self._folder / LOG, self._folder / METRICS
        self._copied: dict[str, int] = {}  # time of the last change of what is in object storage, in ns
        if is_remote(attempt) and before != attempt:  # this machine may have had a study of this name before
            shutil.rmtree(self._folder, ignore_errors=True)
        for name in names(before) if before not in (None, attempt) else ():
            target = self._folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            # A script that nobody has stopped yet, on a machine that hangs, may rename a file meanwhile.
            with contextlib.suppress(FileNotFoundError), local_copy(before / name) as file:  # type: ignore[operator]
                shutil.copy2(file, target)
        for folder in (self.own, self.artifacts):
            folder.mkdir(parents=True, exist_ok=True)

    def copy(self) -> None:
        """Copies what has changed to the workspace, if that is in object storage.

        A script goes on meanwhile, and this machine may die at any moment: its own files are read before its metrics
        and written after them, so that they are never ahead of them.
        """
        changed = dict[str, tuple[int, bytes]]()
        for name in names(self._folder) if is_remote(self._attempt) else ():
            with contextlib.suppress(FileNotFoundError):  # it was renamed
                time = (self._folder / name).stat().st_mtime_ns
                if self._copied.get(name) != time:
                    changed[name] = time, (self._folder / name).read_bytes()
        for name, (time, content) in reversed(changed.items()):
            write_bytes(self._attempt / name, content)
            self._copied[name] = time


class LogStream(io.TextIOBase):
    """A stream that also writes to a log: put in the place of ``sys.stdout``, it is used as that is."""

    def __init__(self, stream: TextIO, log: TextIO):
        self._stream, self._log = stream, log
        self._secrets = secrets_here()

    def write(self, text: str) -> int:
        """Writes to both, without the secrets of the environment; the log ends at `MOST_LOGGED`."""
        shown = redact(text, self._secrets)
        if (room := MOST_LOGGED - self._log.tell()) > 0:
            self._log.write(shown if len(shown) < room else f"{shown[:room]}\n{LOG} ends here\n")
        self._stream.write(shown)
        return len(text)

    def flush(self) -> None:
        """Flushes both."""
        self._log.flush()
        self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def logged(trial: AnyPath) -> Iterator[tuple[AnyPath, str]]:
    """Yields the artifacts and the log of a trial's last attempt, each with its folder among the run's artifacts."""
    attempts = sorted({path.parent for path in glob_files(trial, f"*/{LOG}")}, key=age)
    for name in names(attempts[-1]) if attempts else ():
        if not name.startswith(f"{OWN}/") and name != METRICS:
            yield attempts[-1] / name, name.rpartition("/")[0]


def own(trial: AnyPath) -> list[AnyPath]:
    """Returns the files that only the trial itself reads, of all its attempts."""
    attempts = {path.parent for path in glob_files(trial, f"*/{LOG}")}
    return [attempt / name for attempt in attempts for name in names(attempt) if name.startswith(f"{OWN}/")]


def age(attempt: AnyPath) -> tuple[int, int]:
    """Returns the number of an attempt, and the workers that it had lost, from its folder's name."""
    number, _, moves = attempt.name.removeprefix("attempt-").partition(".")
    return int(number), int(moves or 0)


def names(attempt: AnyPath) -> list[str]:
    """Returns all files of an attempt but its checkpoints, by their paths below it; its own ones before the metrics."""
    if is_remote(attempt):
        found = [each.name for each in list_objects(attempt)]
    else:
        found = [path.relative_to(attempt).as_posix() for path in attempt.rglob("*") if path.is_file()]
    return [name for name in sorted(found) if not (name.endswith((".pt", ".tmp")) and "/" not in name)]
