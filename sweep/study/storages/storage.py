"""Where a study's truth lives: a journal file or a database, opened by URL, and the lock that drivers take turns by."""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from pydantic import ValidationError
from sqlalchemy import NullPool, create_engine
from sqlalchemy.exc import OperationalError

from ...config.errors import StorageError, reason, sentences, without_password
from ...config.filesystem import AnyPath
from ...config.locks import FileLock
from ...config.settings import NO_DATABASE
from ...config.study_config import StudyConfig
from .journal import open_journal
from .leases import release_owner
from .rdb_cache import CachedDatabase

Storage = BaseStorage
# Of libpq: a server that vanishes, its host included, is an error within half a minute and not after hours.
LIBPQ_TIMEOUTS = {
    "connect_timeout": 10,  # seconds, as those below
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30_000,  # milliseconds
}
UNREACHABLE = (StorageInternalError, OperationalError, OSError)
"""What a storage raises that is away for a while: a server that restarts, a locked file, a full disk."""

FORMAT = 1
"""Of what a study leaves in its storage and its workspace; larger where an older version would misread it."""

LOCAL_ATTRS = ("own_code", "recorded_best", "copied_from")  # facts about a study that hold where it is, alone

LONGEST_OUTAGE = 900.0  # seconds; then the run ends, resumable

optuna.logging.set_verbosity(optuna.logging.WARNING)


def open_storage(url: str) -> BaseStorage:
    """Opens an Optuna storage by URL; ``journal:///path`` is a journal file.

    Raises:
        StorageError: out of reach, damaged, or not a storage URL; the message has no password in it.
    """
    if not url:
        raise StorageError(NO_DATABASE)
    try:
        if url.startswith("journal://"):
            if not re.fullmatch("journal:///.+", url):
                raise ValueError("a journal's URL is journal:///path")  # noqa: TRY301
            return open_journal(Path(url.removeprefix("journal:///")))
        options = {"connect_args": LIBPQ_TIMEOUTS if url.startswith("postgresql") else {}}
        with _alone(url, options):
            return CachedDatabase(RDBStorage(url, engine_kwargs={"pool_pre_ping": True, **options}))
    except StorageError:
        raise
    except ImportError as error:
        raise StorageError(
            f"storage {without_password(url)}: {error}; for PostgreSQL: pip install 'entropy-sweep[postgres]'"
        ) from None
    except Exception as error:  # noqa: BLE001 (every driver has its own errors; all of them mean the same to the user)
        raise StorageError(
            f"storage {without_password(url)}: out of reach ({_hide(reason(error), url)}). Start it, or set "
            "SWEEP_STORAGE to another URL (journal:///path, sqlite:///path, postgresql+psycopg://user@host/db)."
        ) from None


@contextlib.contextmanager
def _alone(url: str, options: dict[str, Any]) -> Iterator[None]:
    """One process at a time opens a database: two that meet an empty one would both create its tables, and fail."""
    with contextlib.ExitStack() as stack:
        if url.startswith("sqlite:///"):
            path = Path(url.removeprefix("sqlite:///"))
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(path.with_name(path.name + ".lock")).held())
        elif url.startswith("postgresql"):
            connection = stack.enter_context(create_engine(url, poolclass=NullPool, **options).begin())
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7241)")
        yield


class Backoff:
    """When to try a storage again that is away: after a second at first, at last after half a minute.

    Attributes:
        since: when it went away, by the monotonic clock; None while it answers.
    """

    def __init__(self) -> None:
        self.since: float | None = None
        self._pause = self._next = 0.0

    @property
    def waiting(self) -> bool:
        """Whether it is too early to try again."""
        return time.monotonic() < self._next

    def failed(self, error: BaseException) -> None:
        """Notes an attempt that failed.

        Raises:
            StorageError: it has been away for ``AWAY_AT_MOST`` seconds.
        """
        now = time.monotonic()
        self.since = now if self.since is None else self.since
        if now - self.since > LONGEST_OUTAGE:
            raise StorageError(
                f"the storage has been away for {LONGEST_OUTAGE / 60:.0f} minutes ({reason(error)}). Nothing is lost: "
                "resume the study when it is back"
            )
        self._pause = min(2 * self._pause or 1.0, 30.0)
        self._next = now + self._pause

    def answered(self) -> float:
        """Notes an attempt that went well; returns for how long it was away."""
        away = 0.0 if self.since is None else time.monotonic() - self.since
        self.since, self._pause, self._next = None, 0.0, 0.0
        return away


@contextlib.contextmanager
def exclusive(storage: BaseStorage, name: str, lock: FileLock) -> Iterator[None]:
    """One driver of a study at a time: by the workspace's lock and, on PostgreSQL, by the server's, for other hosts."""
    with lock.held():
        engine = getattr(getattr(storage, "_backend", storage), "engine", None)  # behind Optuna's cache
        if engine is None or engine.dialect.name != "postgresql":
            yield
            return
        number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
        with engine.begin() as connection:  # ends with the transaction, and with its holder
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({number})")
            yield


def _hide(text: str, url: str) -> str:
    login = (url.partition("://")[2] or url).rpartition("@")[0]
    for password in [login.partition(":")[2], *re.findall("password=([^&]*)", url)]:
        for form in filter(None, (password, unquote(password))):
            text = text.replace(form, "***")
    return text


def study_names(storage: BaseStorage) -> list[str]:
    """Names of the studies in a storage, sister studies left out."""
    return sorted(n for n in optuna.get_all_study_names(storage) if not n.endswith(".controls"))


def read_config(name: str, storage: BaseStorage) -> StudyConfig | None:
    """The config that a study was started with, or None where there is no such study of ours.

    Raises:
        StorageError: a study of a newer version, or a config that this one does not read.
    """
    if name not in optuna.get_all_study_names(storage):
        return None
    facts = optuna.load_study(study_name=name, storage=storage).user_attrs
    if (found := facts.get("format", FORMAT)) > FORMAT:
        raise StorageError(
            f"study {name}: a newer version has written it (format {found}, this one reads up to {FORMAT}); use that "
            "version, or choose another name"
        )
    raw = facts.get("config")
    try:
        return None if raw is None else StudyConfig.model_validate(raw)
    except ValidationError as error:
        problems = "; ".join(sentences(error, StudyConfig))
        raise StorageError(
            f"study {name}: this version cannot read its config ({problems}); choose another name"
        ) from None


def get_user_attr(name: str, fact: str, storage: BaseStorage) -> Any:
    """A fact that was noted about a study, or None."""
    return optuna.load_study(study_name=name, storage=storage).user_attrs.get(fact)


def set_user_attr(name: str, fact: str, value: object, storage: BaseStorage) -> None:
    """Notes a fact about a study, JSON; without opening it, as `Study.note` does."""
    optuna.load_study(study_name=name, storage=storage).set_user_attr(fact, value)


def copy_study(
    name: str, source: BaseStorage, target: BaseStorage, *, checkpoints: Mapping[tuple[str, int], AnyPath], origin: str
) -> None:
    """Copies a study and its sister to another storage, as one that nobody works on: a run takes its trials up.

    Until `finish_copy` it is no study of ours, for want of a config, and `make_room` removes it.

    Args:
        checkpoints: where those of the copy are, by study and number.
        origin: where it comes from, in words.
    """
    names = [each for each in (f"{name}.controls", name) if each in optuna.get_all_study_names(source)]
    for each in names:
        original = optuna.load_study(study_name=each, storage=source)
        copy = optuna.create_study(study_name=each, storage=target, directions=original.directions)
        copy.set_user_attr("copied_from", origin)
        for trial in original.get_trials():  # copies
            facts = trial.user_attrs
            facts.pop("checkpoint", None)
            if (each, trial.number) in checkpoints:
                facts["checkpoint"] = str(checkpoints[each, trial.number])
            if "owner" in facts:
                facts["owner"] = release_owner(facts["owner"])
            copy.add_trial(trial)
        for fact, value in original.user_attrs.items():
            its_own = fact in LOCAL_ATTRS or fact.startswith("lease ") or (fact == "config" and each == name)
            if not its_own:
                copy.set_user_attr(fact, value)


def finish_copy(name: str, source: BaseStorage, target: BaseStorage) -> None:
    """Gives a copy its config: from now on it is a study."""
    config = optuna.load_study(study_name=name, storage=source).user_attrs["config"]
    optuna.load_study(study_name=name, storage=target).set_user_attr("config", config)


def clear_partial_import(name: str, storage: BaseStorage) -> bool:
    """Sees that there is no study of a name; removes what `copy_study` has left of one where its process died.

    Returns:
        Whether it has removed anything.

    Raises:
        StorageError: there is such a study.
    """
    there = [each for each in (name, f"{name}.controls") if each in optuna.get_all_study_names(storage)]
    facts = {each: optuna.load_study(study_name=each, storage=storage).user_attrs for each in there}
    if there and ("config" in facts.get(name, {}) or not any("copied_from" in each for each in facts.values())):
        raise StorageError(f"study {name}: the storage has one of this name; choose another workspace or storage")
    for each in there:
        optuna.delete_study(study_name=each, storage=storage)
    return bool(there)
