"""Opens the journal file, the default storage. Repairs a torn last line; reports other damage and what is readable."""

import itertools
import json
import logging
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from ...config.errors import StorageError, reason
from ...config.locks import FileLock

logger = logging.getLogger(__name__)


class JournalFile(JournalStorage):
    """A journal file as Optuna's storage; ``path`` is the file's."""

    def __init__(self, backend: JournalFileBackend, path: Path):
        super().__init__(backend)
        self.path = path


def open_journal(path: Path) -> JournalFile:
    """Opens a journal file, or creates it.

    Raises:
        StorageError: the file is damaged; names the line, and the commands that rescue what is readable.
        OSError: the file is unreachable.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(path.name + ".lock"))
    with lock.held():
        _cut_torn_line(path)
        journal = _Journal(str(path), lock)
        try:
            storage = JournalFile(journal, path)
            ", ".join(study.study_name for study in storage.get_all_studies())  # raises if a name is no text
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001 (Optuna has no error of its own for a damaged line)
            raise _damage(path, _unreadable_line(path) or journal.read, error) from None
        # Optuna ignores an unreadable last line, and fails at it once another line follows.
        if line := _unreadable_line(path, after=journal.read):
            raise _damage(path, line, ValueError("not JSON"))
    return storage


class _Journal(JournalFileBackend):
    """A journal file that stays readable when the disk is full; ``read`` counts the lines read so far."""

    def __init__(self, path: str, lock: FileLock):
        super().__init__(path, lock_obj=lock)  # type: ignore[arg-type]
        self._file, self._turn, self.read = Path(path), lock, 0

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        """Reads the entries from a number on."""
        for log in super().read_logs(log_number_from):
            self.read += 1
            yield log

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Appends all entries as whole lines; on an error, removes the line that was cut short."""
        try:
            super().append_logs(logs)
        except OSError:
            with self._turn.held():
                _cut_torn_line(self._file)
            raise


def _cut_torn_line(path: Path) -> None:
    """Removes an unfinished last line of a writer that died; the next line would make the journal unreadable."""
    if not path.exists() or path.stat().st_size == 0:
        return
    with path.open("rb+") as file:
        data = file.read()
        if not data.endswith(b"\n"):
            file.truncate(data.rfind(b"\n") + 1)
            logger.info("journal %s: removed an unfinished last line", path)


def _unreadable_line(path: Path, after: int = 0) -> int | None:
    """Returns the number, from 1, of the first line after line ``after`` that is no journal entry."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                if number > after and "op_code" not in json.loads(line):
                    return number
            except (TypeError, ValueError):
                return number
    return None


def _damage(path: Path, line: int, error: Exception) -> StorageError:
    try:
        found = _read_before(path, line)
    except Exception:  # noqa: BLE001 (then nothing is readable)
        found = {}
    cause = f"{type(error).__name__}: {reason(error)}"
    said = f"journal {path}: line {line} is damaged ({cause}); the file was not changed."
    if not found:
        return StorageError(f"{said} No study is readable before it: restore the file, or use another --workspace.")
    there = [f"{name} with {trials} trials, {done} of them finished" for name, (trials, done) in found.items()]
    readable = shlex.quote(str(path.with_name("readable.journal")))
    commands = [f"head -n {line - 1} {shlex.quote(str(path))} > {readable}"]
    for name in found:
        workspace = shlex.quote(str(path.parent)) if (path.parent / name).is_dir() else "WORKSPACE"
        commands += [
            f"sweep export {name} {name}.zip --workspace {workspace} --storage journal:///{readable}",
            f"sweep import {name}.zip --workspace {workspace}-2",
        ]
    how = "Continue with that in another workspace:\n  " + "\n  ".join(commands)
    return StorageError(f"{said} Readable before that line: {', '.join(there)}. {how}")


def _read_before(path: Path, line: int) -> dict[str, tuple[int, int]]:
    """Returns the numbers of trials, and of finished ones, of each study in a journal before a line."""
    with tempfile.TemporaryDirectory(prefix="sweep-journal-") as scratch, path.open("rb") as file:
        copy = Path(scratch, path.name)
        copy.write_bytes(b"".join(itertools.islice(file, line - 1)))
        storage = JournalStorage(_Journal(str(copy), FileLock(copy.with_name("lock"))))
        names = [name for name in optuna.get_all_study_names(storage) if not name.endswith(".controls")]
        trials = {name: optuna.load_study(study_name=name, storage=storage).trials for name in names}
    return {name: (len(each), sum(t.state.is_finished() for t in each)) for name, each in trials.items()}
