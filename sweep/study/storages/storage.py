"""Opens the storage of studies, a journal file or a database, by its URL; and the lock that drivers take turns by."""

import contextlib
import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial
from pydantic import ValidationError
from sqlalchemy import NullPool, create_engine
from sqlalchemy.exc import OperationalError

from ...config.errors import StorageError, reason, sentences
from ...config.filesystem import AnyPath, is_remote, local_path
from ...config.locks import FileLock
from ...config.secrets import hide, without_secrets
from ...config.section import STORED
from ...config.settings import NO_DATABASE
from ...config.sqlite import sqlite_file
from ...config.study_config import StudyConfig
from .journal import JournalFile, open_journal
from .leases import release_owner
from .postgresql import advisory_lock, engine_options
from .rdb_cache import OWNER, CachedDatabase

logger = logging.getLogger(__name__)

Storage = BaseStorage
# Errors of a storage that is unreachable for a while: a server that restarts, a locked file, a full disk.
UNREACHABLE = (StorageInternalError, OperationalError, OSError)
FORMAT = 1  # of what a study writes to storage and workspace; raised when an older program would misread it
LOCAL_ATTRS = ("own_code", "recorded_best", "copied_from")  # attributes of a study that a copy must not have
LOCK_SECONDS = 60.0  # in which the drivers of a workspace take their turns
LONGEST_OUTAGE = 900.0  # seconds; then the run ends, resumable

optuna.logging.set_verbosity(optuna.logging.WARNING)


def open_storage(url: str) -> BaseStorage:
    """Opens an Optuna storage by URL; ``journal:///path`` is a journal file.

    Raises:
        StorageError: the storage is unreachable or damaged, or the URL is none; the message has no password in it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     type(open_storage(f"sqlite:///{folder}/studies.db")).__name__
        'CachedDatabase'
    """
    if not url:
        raise StorageError(NO_DATABASE)
    try:
        if url.startswith("journal://"):
            if not re.fullmatch("journal:///.+", url):
                raise ValueError("a journal's URL is journal:///path")  # noqa: TRY301
            return open_journal(Path(url.removeprefix("journal:///")))
        options = engine_options() if url.startswith("postgresql") else {"pool_pre_ping": True}
        with _one_process_at_a_time(url, options):
            return CachedDatabase(RDBStorage(url, engine_kwargs=options))
    except StorageError:
        raise
    except ImportError as error:
        raise StorageError(
            f"storage {without_secrets(url)}: {error}; for PostgreSQL: pip install 'entropy-sweep[postgres]'"
        ) from None
    except Exception as error:  # noqa: BLE001 (every driver has its own errors; the user can do the same about each)
        raise StorageError(
            f"storage {without_secrets(url)}: unreachable ({hide(reason(error), url)}). Start it, or set "
            "SWEEP_STORAGE to another URL (journal:///path, sqlite:///path, postgresql+psycopg://user@host/db)."
        ) from None


def storage_file(url: str) -> Path | None:
    """Returns the file of a storage; None for a server. Raises `StorageError` for a database in memory."""
    path = url.removeprefix("journal:///")
    return Path(path) if path != url else sqlite_file(url)


def empty_storage() -> BaseStorage:
    """Returns a storage without studies, which is gone with the process: to read in place of a missing file."""
    return optuna.storages.InMemoryStorage()


@contextlib.contextmanager
def _one_process_at_a_time(url: str, options: dict[str, Any]) -> Iterator[None]:
    """Keeps other processes out while a database is opened: two that create its tables at once would fail."""
    with contextlib.ExitStack() as stack:
        if (path := sqlite_file(url)) is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(path.with_name(path.name + ".lock")).held())
        elif url.startswith("postgresql"):
            connection = stack.enter_context(create_engine(url, poolclass=NullPool, **options).begin())
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7241)")
        yield


class Backoff:
    """The pauses between retries of an unreachable storage: one second at first, then up to half a minute."""

    def __init__(self) -> None:
        self.since: float | None = None  # monotonic time since which nothing has been heard
        self._pause = self._next = self._heard = 0.0

    @property
    def waiting(self) -> bool:
        """Returns True if it is too early for a retry."""
        return time.monotonic() < self._next

    def failed(self, error: BaseException, began: float) -> None:
        """Records that an attempt begun at ``began`` failed; raises `StorageError` after ``LONGEST_OUTAGE`` seconds."""
        now = time.monotonic()
        self.since = max(began, self._heard) if self.since is None else self.since
        if now - self.since > LONGEST_OUTAGE:
            raise StorageError(
                f"the storage has been unreachable for {LONGEST_OUTAGE / 60:.0f} minutes ({reason(error)}). Nothing is "
                "lost: resume the study when it is back"
            )
        self._pause = min(2 * self._pause or 1.0, 30.0)
        self._next = now + self._pause
        logger.debug("storage unreachable (%s): retry in %.0f s", reason(error), self._pause)

    def answered(self, began: float) -> float:
        """Records that an attempt begun at ``began`` succeeded; returns the seconds of silence before."""
        now = time.monotonic()
        silence = now - (max(began, self._heard) if self.since is None else self.since)
        self.since, self._pause, self._next, self._heard = None, 0.0, 0.0, now
        return silence


def study_lock(name: str, storage: BaseStorage, workspace: AnyPath) -> FileLock:
    """Returns a study's lock, in a folder that its drivers share: the workspace, else that of the storage's file."""
    folder = local_path(workspace) / name
    folder.mkdir(parents=True, exist_ok=True)
    if is_remote(workspace):  # its local path is of one host
        if isinstance(storage, JournalFile):
            return FileLock(storage.path.with_name(f"{storage.path.name}.{name}.lock"))
        if isinstance(storage, CachedDatabase) and (file := sqlite_file(str(storage.engine.url))) is not None:
            return FileLock(file.with_name(f"{file.name}.{name}.lock"))
    return FileLock(folder / "lock")


@contextlib.contextmanager
def exclusive(storage: BaseStorage, name: str, lock: FileLock) -> Iterator[None]:
    """Keeps the other drivers of a study out: by its `study_lock`, and by one of PostgreSQL.

    Raises `TimeoutError`, which says who has the lock, after a minute.
    """
    with lock.held(seconds=LOCK_SECONDS):
        engine = storage.engine if isinstance(storage, CachedDatabase) else None
        if engine is None or engine.dialect.name != "postgresql":
            yield
            return
        with advisory_lock(engine, name):
            yield


@contextlib.contextmanager
def damage_told(what: str) -> Iterator[None]:
    """Raises `StorageError` for the errors of reading a damaged storage, for which Optuna has none of its own."""
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError, RuntimeError) as error:
        raise StorageError(
            f"{what} is damaged in the storage ({type(error).__name__}: {reason(error)}); restore the storage from a "
            "copy, or import an export"
        ) from None


def study_names(storage: BaseStorage) -> list[str]:
    """Returns the names of the studies in a storage, without sister studies."""
    return sorted(n for n in optuna.get_all_study_names(storage) if not n.endswith(".controls"))


def read_config(name: str, storage: BaseStorage) -> StudyConfig | None:
    """Returns the config that a study was started with, or None if sweep started no study of this name.

    Raises `StorageError` if a newer version wrote the study, or this one cannot read its config.
    """
    if name not in optuna.get_all_study_names(storage):
        return None
    attrs = optuna.load_study(study_name=name, storage=storage).user_attrs
    if not isinstance(found := attrs.get("format", FORMAT), int):
        raise StorageError(f"study {name}: its format is damaged ({found!r}); restore the storage from a copy")
    if found > FORMAT:
        raise StorageError(
            f"study {name}: a newer version has written it (format {found}, this one reads up to {FORMAT}); use that "
            "version, or choose another name"
        )
    raw = attrs.get("config")
    try:
        return None if raw is None else StudyConfig.model_validate(raw, context=STORED)
    except ValidationError as error:
        problems = "; ".join(sentences(error, StudyConfig))
        said = f"study {name}: this version cannot read its config ({problems}); choose another name"
        raise StorageError(said) from None


def get_user_attr(name: str, attr: str, storage: BaseStorage) -> Any:
    """Reads an attribute of a study, or None, without opening it for writing."""
    return optuna.load_study(study_name=name, storage=storage).user_attrs.get(attr)


def set_user_attr(name: str, attr: str, value: object, storage: BaseStorage) -> None:
    """Writes an attribute of a study, JSON, without opening it as `sweep.study.study.Study` does."""
    optuna.load_study(study_name=name, storage=storage).set_user_attr(attr, value)


def copy_study(
    name: str, source: BaseStorage, target: BaseStorage, *, checkpoints: Mapping[tuple[str, int], AnyPath], origin: str
) -> None:
    """Copies a study and its sister to another storage, without owners: the next run adopts unfinished trials.

    The copy has no config until `finish_copy`, and `clear_partial_import` removes it. The ``checkpoints`` are paths of
    the copy's, by study and number; ``origin`` is for messages.
    """
    names = [each for each in (f"{name}.controls", name) if each in optuna.get_all_study_names(source)]
    for each in names:
        original = optuna.load_study(study_name=each, storage=source)
        copy = optuna.create_study(study_name=each, storage=target, directions=original.directions)
        copy.set_user_attr("copied_from", origin)
        trials = original.get_trials()  # copies
        for trial in trials:
            attrs = trial.user_attrs
            attrs.pop("checkpoint", None)
            if (each, trial.number) in checkpoints:
                attrs["checkpoint"] = str(checkpoints[each, trial.number])
            if "owner" in attrs:
                attrs["owner"] = release_owner(attrs["owner"])
        add_trials(copy, target, trials, first=0)
        local = {*LOCAL_ATTRS, *(["config"] if each == name else [])}
        for attr, value in original.user_attrs.items():
            if attr not in local and not attr.startswith("lease "):
                copy.set_user_attr(attr, value)


def check_copy(name: str, source: BaseStorage) -> None:
    """Raises `StorageError` if a study or its sister cannot be copied: Optuna refuses values outside their ranges."""
    with damage_told(f"study {name}"):
        copy_study(name, source, optuna.storages.InMemoryStorage(), checkpoints={}, origin="")


def finish_copy(name: str, source: BaseStorage, target: BaseStorage) -> None:
    """Writes the config of a copy, which makes it a study that runs and reports read."""
    set_user_attr(name, "config", get_user_attr(name, "config", source), target)


def clear_partial_import(name: str, storage: BaseStorage) -> bool:
    """Removes what an interrupted `copy_study` has left under a name; raises `StorageError` if that is a study."""
    present = [each for each in (name, f"{name}.controls") if each in optuna.get_all_study_names(storage)]
    attrs = {each: optuna.load_study(study_name=each, storage=storage).user_attrs for each in present}
    if present and ("config" in attrs.get(name, {}) or not any("copied_from" in each for each in attrs.values())):
        raise StorageError(f"study {name}: the storage has a study of this name; choose another workspace or storage")
    for each in present:
        optuna.delete_study(study_name=each, storage=storage)
        logger.info("%s: removed the rest of an interrupted import", each)
    return bool(present)


def invalidate(storage: BaseStorage, study_id: int) -> None:
    """Makes the next read of a study's trials include what all drivers have written."""
    if isinstance(storage, CachedDatabase):
        storage.invalidate(study_id)


def refresh_trial(storage: BaseStorage, trial_id: int) -> FrozenTrial:
    """Returns a trial with what all drivers have written."""
    return storage.refresh_trial(trial_id) if isinstance(storage, CachedDatabase) else storage.get_trial(trial_id)


def get_owner(storage: BaseStorage, trial_id: int) -> object:
    """Returns a trial's present owner, or None."""
    if isinstance(storage, CachedDatabase):
        return storage.get_owner(trial_id)
    return storage.get_trial(trial_id).user_attrs.get(OWNER)


def add_trials(study: optuna.Study, storage: BaseStorage, trials: Sequence[FrozenTrial], first: int) -> None:
    """Adds trials whose numbers begin with ``first``, to a database in one transaction.

    A transaction whose answer was lost is repeated, and adds what the database lacks. Other drivers are to be kept out,
    see `exclusive`.
    """
    if not isinstance(storage, CachedDatabase):
        study.add_trials(trials)
        return
    for last in (False, True):
        try:
            storage.add_trials(storage.get_study_id_from_name(study.study_name), trials, first)
        except StorageInternalError:
            if last:
                raise
        else:
            return


def write_batch(storage: BaseStorage) -> contextlib.AbstractContextManager[None]:
    """Sends what this thread writes to trials within the block to a database in one transaction."""
    return storage.write_batch() if isinstance(storage, CachedDatabase) else contextlib.nullcontext()
