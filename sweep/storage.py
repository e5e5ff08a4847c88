"""Where a study's truth lives: a journal file or a database, opened by URL, and the lock that drivers take turns by."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._cached_storage import _CachedStorage
from optuna.trial import FrozenTrial, TrialState
from pydantic import ValidationError
from sqlalchemy import NullPool, create_engine
from sqlalchemy.exc import OperationalError

from .config import StudyConfig
from .errors import StorageError, reason, sentences, without_password
from .journal import open_journal
from .lease import FileLock, released
from .settings import NO_DATABASE

Storage = BaseStorage
UNREACHABLE = (StorageInternalError, OperationalError, OSError)
"""What a storage raises that is away for a while: a server that restarts, a locked file, a full disk."""

FORMAT = 1
"""Of what a study leaves in its storage and its workspace; larger where an older version would misread it."""

OF_ITS_PLACE = ("own_code", "recorded_best", "copied_from")  # facts about a study that hold where it is, alone

LOOK_EVERY = 5.0  # seconds between two looks at what other drivers have done, where nobody asks for the latest

AWAY_AT_MOST = 900.0  # seconds; then the run ends, resumable

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
        options = {"connect_args": {"connect_timeout": 10} if url.startswith("postgresql") else {}}
        with _alone(url, options):
            return Mirror(RDBStorage(url, engine_kwargs={"pool_pre_ping": True, **options}))
    except StorageError:
        raise
    except Exception as error:  # noqa: BLE001 (every driver has its own errors; all of them mean the same to the user)
        raise StorageError(
            f"storage {without_password(url)}: out of reach ({_hide(reason(error), url)}). Start it, or set "
            "SWEEP_STORAGE to another URL (journal:///path, sqlite:///path, postgresql+psycopg://user@host/db)."
        ) from None


class Mirror(_CachedStorage):
    """A database whose trials lie in memory too: what this process writes at once, what others write when it looks.

    Optuna's own cache holds finished trials alone and reads all others, the waiting ones too, whenever a sampler or a
    pruner asks for the trials of a study: 0.1 s and more for some hundred of them, several times a trial.
    """

    def __init__(self, backend: RDBStorage):
        super().__init__(backend)
        self._looked: dict[int, float] = {}  # when each study was last read

    def look(self, study_id: int) -> None:
        """Sees to it that `get_all_trials` next reads what others have written."""
        self._looked.pop(study_id, None)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """A trial as this process knows it, a copy."""
        with self._lock:
            study_id, number = self._trial_id_to_study_id_and_number.get(trial_id, (-1, -1))
            known = self._studies[study_id].trials.get(number) if study_id in self._studies else None
        return self.latest(trial_id) if known is None else copy.deepcopy(known)

    def latest(self, trial_id: int) -> FrozenTrial:
        """A trial as all drivers have left it."""
        frozen = self._backend.get_trial(trial_id)
        self._change(trial_id, lambda trial: trial.__dict__.update(copy.deepcopy(frozen).__dict__))
        return frozen

    def _read_trials_from_remote_storage(self, study_id: int) -> None:
        now = time.monotonic()
        if now - self._looked.get(study_id, -math.inf) >= LOOK_EVERY:
            super()._read_trials_from_remote_storage(study_id)
            self._looked[study_id] = now

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """Chooses a value."""
        super().set_trial_param(trial_id, param_name, param_value_internal, distribution)
        value = distribution.to_external_repr(param_value_internal)

        def change(trial: FrozenTrial) -> None:
            trial.params = {**trial.params, param_name: value}
            trial.distributions = {**trial.distributions, param_name: distribution}

        self._change(trial_id, change)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Takes a trial, which may fail where another driver was faster, or ends one."""
        try:
            done = super().set_trial_state_values(trial_id, state, values)
        except UpdateFinishedTrialError:
            if state != TrialState.RUNNING:
                raise
            done = False  # it waits in memory alone

        def change(trial: FrozenTrial) -> None:
            trial.state = state
            trial.values = None if values is None else list(values)
            if state == TrialState.RUNNING:
                trial.datetime_start = datetime.now()
            elif state.is_finished():
                trial.datetime_complete = datetime.now()

        if done:
            self._change(trial_id, change)
        elif trial_id in self._trial_id_to_study_id_and_number:
            self.look(self._trial_id_to_study_id_and_number[trial_id][0])
        return done

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """Reports a value."""
        super().set_trial_intermediate_value(trial_id, step, intermediate_value)

        def change(trial: FrozenTrial) -> None:
            trial.intermediate_values = {**trial.intermediate_values, step: intermediate_value}

        self._change(trial_id, change)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Writes an attribute."""
        super().set_trial_user_attr(trial_id, key, value)
        self._change(trial_id, lambda trial: setattr(trial, "user_attrs", {**trial.user_attrs, key: value}))

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Writes an attribute of Optuna's."""
        super().set_trial_system_attr(trial_id, key, value)
        self._change(trial_id, lambda trial: setattr(trial, "system_attrs", {**trial.system_attrs, key: value}))

    def _change(self, trial_id: int, change: Callable[[FrozenTrial], object]) -> None:
        """Puts a changed copy in a trial's place: whoever was given the old one keeps it as it was."""
        with self._lock:
            study_id, number = self._trial_id_to_study_id_and_number.get(trial_id, (-1, -1))
            if study_id in self._studies and number in self._studies[study_id].trials:
                trials = self._studies[study_id].trials
                trial = copy.copy(trials[number])
                change(trial)
                trials[number] = trial


def look_again(storage: BaseStorage, study_id: int) -> None:
    """Sees to it that a study's trials are next read as all drivers have left them."""
    if isinstance(storage, Mirror):
        storage.look(study_id)


def latest_trial(storage: BaseStorage, trial_id: int) -> FrozenTrial:
    """A trial as all drivers have left it."""
    return storage.latest(trial_id) if isinstance(storage, Mirror) else storage.get_trial(trial_id)


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


class Patience:
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
        if now - self.since > AWAY_AT_MOST:
            raise StorageError(
                f"the storage has been away for {AWAY_AT_MOST / 60:.0f} minutes ({reason(error)}). Nothing is lost: "
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


def stored_config(name: str, storage: BaseStorage) -> StudyConfig | None:
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


def noted(name: str, fact: str, storage: BaseStorage) -> Any:
    """A fact that was noted about a study (see `Study.note`), or None."""
    return optuna.load_study(study_name=name, storage=storage).user_attrs.get(fact)


def copy_study(
    name: str, source: BaseStorage, target: BaseStorage, *, checkpoints: Mapping[tuple[str, int], Path], origin: str
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
                facts["owner"] = released(facts["owner"])
            copy.add_trial(trial)
        for fact, value in original.user_attrs.items():
            its_own = fact in OF_ITS_PLACE or fact.startswith("lease ") or (fact == "config" and each == name)
            if not its_own:
                copy.set_user_attr(fact, value)


def finish_copy(name: str, source: BaseStorage, target: BaseStorage) -> None:
    """Gives a copy its config: from now on it is a study."""
    config = optuna.load_study(study_name=name, storage=source).user_attrs["config"]
    optuna.load_study(study_name=name, storage=target).set_user_attr("config", config)


def make_room(name: str, storage: BaseStorage) -> bool:
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
