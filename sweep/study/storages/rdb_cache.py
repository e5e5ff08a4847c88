"""A database as Optuna's storage, whose trials lie in memory too."""

from __future__ import annotations

import contextlib
import copy
import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from optuna.distributions import BaseDistribution, check_distribution_compatibility, distribution_to_json
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._cached_storage import _CachedStorage, _StudyInfo
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import bindparam, select
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

if TYPE_CHECKING:
    from sqlalchemy import Connection

LOOK_EVERY = 5.0  # seconds between two looks at what other drivers have done, where nobody asks for the latest
MANY = 1000  # trials that are asked for one by one, at most
OWNER = "owner"  # the attribute that says whose a running trial is
ATTEMPTS = 10  # at rows that another driver writes at the same moment

Times = tuple[datetime | None, datetime | None]
"""When a trial began and ended."""

_KEYS = {  # of the tables that hold a trial's rows
    models.TrialParamModel: "param_name",
    models.TrialIntermediateValueModel: "step",
    models.TrialUserAttributeModel: "key",
    models.TrialSystemAttributeModel: "key",
}


@dataclass(frozen=True)
class _Write:
    """A row for a trial.

    Attributes:
        change: the same, done to a copy of the trial in memory.
    """

    trial_id: int
    model: type[Any]
    row: dict[str, Any]
    change: Callable[[FrozenTrial], object]


class CachedDatabase(_CachedStorage):
    """A database whose trials lie in memory too: what this process writes at once, what others write when it looks.

    Optuna's own cache holds finished trials alone and reads all others, the waiting ones too, whenever a sampler or a
    pruner asks for the trials of a study: 0.1 s and more for some hundred of them, several times a trial.
    """

    def __init__(self, backend: RDBStorage):
        super().__init__(backend)
        self._read_at: dict[int, float] = {}  # when each study was last read
        self._read_lock = threading.Lock()  # one at a time: an older look must not overwrite a later one
        self._written = defaultdict[int, set[int]](set)  # by study: trials written to since the last look at it began
        self._own_marks: dict[int, Any] = {}  # marks that this process has left on trials
        self._of_thread = threading.local()  # of each thread: studies to look at anew, writes that wait for `together`

    # -- reading -------------------------------------------------------------------------------------------------

    def invalidate(self, study_id: int) -> None:
        """Sees to it that this thread's next `get_all_trials` reads what others have written."""
        self._of_thread.__dict__.setdefault("anew", set()).add(study_id)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """A trial as this process knows it, a copy."""
        with self._lock:
            study_id, number = self._trial_id_to_study_id_and_number.get(trial_id, (-1, -1))
            known = self._studies[study_id].trials.get(number) if study_id in self._studies else None
        return self.refresh_trial(trial_id) if known is None else copy.deepcopy(known)

    def refresh_trial(self, trial_id: int) -> FrozenTrial:
        """A trial as all drivers have left it."""
        frozen = self._backend.get_trial(trial_id)
        self._change(trial_id, lambda trial: trial.__dict__.update(copy.deepcopy(frozen).__dict__))
        return frozen

    def get_owner(self, trial_id: int) -> object:
        """The mark of a trial's owner as all drivers have left it, or None; cheaper than the whole trial."""
        table = models.TrialUserAttributeModel.__table__
        mark = select(table.c.value_json).where((table.c.trial_id == trial_id) & (table.c.key == OWNER))
        with self._transaction() as connection:
            found = connection.scalar(mark)
        return None if found is None else json.loads(found)

    def _read_trials_from_remote_storage(self, study_id: int) -> None:
        """Called before the trials of a study are given out; nobody waits for what need not be the latest."""
        now, anew = time.monotonic(), self._of_thread.__dict__.setdefault("anew", set())
        if study_id not in self._read_at or study_id in anew:
            self._read(study_id)
            anew.discard(study_id)
        elif now - self._read_at[study_id] >= LOOK_EVERY:
            self._read_at[study_id] = now
            if self._read_lock.locked():  # a look is under way, and may wait for a database that is silent
                return
            threading.Thread(target=self._read_quietly, args=(study_id,), name="look", daemon=True).start()

    def _read_quietly(self, study_id: int) -> None:
        with contextlib.suppress(Exception):  # a database that is away is told of by whoever writes
            self._read(study_id)

    def _read(self, study_id: int) -> None:
        """Reads the trials whose state has changed, and those that run for others."""
        with self._read_lock:
            now = time.monotonic()
            with self._lock:
                study = self._studies.setdefault(study_id, _StudyInfo())
                known = {trial._trial_id: trial for trial in study.trials.values()}
                self._written[study_id].clear()
            wanted, times, last = self._news(study_id, known)
            trials = []
            if wanted:
                those, after = (wanted, last) if len(wanted) <= MANY else (set(), min(wanted) - 1)
                trials = self._backend._get_trials(study_id, None, those, after)  # those, and all after
            with self._lock:
                newer = self._written[study_id]  # written while they were read
                self._add_trials_to_cache(study_id, [t for t in trials if t._trial_id not in newer])
                still = times.keys() - newer
            for trial_id in still:
                self._change(trial_id, partial(_set_times, *times[trial_id]))
            self._read_at[study_id] = now

    def _news(self, study_id: int, known: Mapping[int, FrozenTrial]) -> tuple[set[int], dict[int, Times], int]:
        """The trials to be read, of those that are known the times which the database has otherwise, the last trial."""
        trials, attributes = models.TrialModel.__table__, models.TrialUserAttributeModel.__table__
        of_study = trials.c.study_id == study_id
        with self._transaction() as connection:
            columns = (trials.c.trial_id, trials.c.state, trials.c.datetime_start, trials.c.datetime_complete)
            found = connection.execute(select(*columns).where(of_study)).all()
            marks = select(attributes.c.trial_id, attributes.c.value_json).join(trials)
            running = of_study & (trials.c.state == TrialState.RUNNING) & (attributes.c.key == OWNER)
            owners = {row[0]: json.loads(row[1]) for row in connection.execute(marks.where(running))}
        if not found:
            self._backend.get_study_name_from_id(study_id)  # KeyError where there is no such study
        wanted: set[int] = set()
        times: dict[int, Times] = {}
        for trial_id, state, start, end in found:
            trial = known.get(trial_id)
            ours = trial_id in self._own_marks and owners.get(trial_id) == self._own_marks[trial_id]
            if trial is None or trial.state != state or (state == TrialState.RUNNING and not ours):
                wanted.add(trial_id)
            elif (trial.datetime_start, trial.datetime_complete) != (start, end):
                times[trial_id] = start, end
        return wanted, times, max((trial_id for trial_id, *_ in found), default=0)

    # -- writing -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def write_batch(self) -> Iterator[None]:
        """What this thread writes to trials within goes to the database in one transaction, all of it or nothing."""
        self._of_thread.writes = []
        try:
            yield
            self._flush()
        finally:
            self._of_thread.writes = None

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """Chooses a value.

        Raises:
            ValueError: the study has another distribution of that name.
        """
        with self._lock:
            study_id, number = self._trial_id_to_study_id_and_number[trial_id]
            study = self._studies[study_id]
            self._backend.check_trial_is_updatable(trial_id, study.trials[number].state)
            there = (t.distributions[param_name] for t in study.trials.values() if param_name in t.distributions)
            before = study.param_distribution.get(param_name) or next(there, distribution)
            check_distribution_compatibility(before, distribution)
            study.param_distribution[param_name] = distribution
        value = distribution.to_external_repr(param_value_internal)

        def change(trial: FrozenTrial) -> None:
            trial.params = {**trial.params, param_name: value}
            trial.distributions = {**trial.distributions, param_name: distribution}

        row = {"param_value": param_value_internal, "distribution_json": distribution_to_json(distribution)}
        self._write(_Write(trial_id, models.TrialParamModel, {"param_name": param_name, **row}, change))

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Takes a trial, which may fail where another driver was faster, or ends one."""
        self._flush()
        done = False
        try:
            done = super().set_trial_state_values(trial_id, state, values)
        finally:
            if not done and trial_id in self._trial_id_to_study_id_and_number:
                self.invalidate(self._trial_id_to_study_id_and_number[trial_id][0])

        def change(trial: FrozenTrial) -> None:
            trial.state = state
            trial.values = None if values is None else list(values)
            if state == TrialState.RUNNING:
                trial.datetime_start = datetime.now()
            elif state.is_finished():
                trial.datetime_complete = datetime.now()

        if done:
            self._change(trial_id, change)
        return done

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """Reports a value."""

        def change(trial: FrozenTrial) -> None:
            trial.intermediate_values = {**trial.intermediate_values, step: intermediate_value}

        model = models.TrialIntermediateValueModel
        value, kind = model.intermediate_value_to_stored_repr(intermediate_value)
        row = {"step": step, "intermediate_value": value, "intermediate_value_type": kind}
        self._write(_Write(trial_id, model, row, change))

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Writes an attribute."""
        self._set_attr("user_attrs", models.TrialUserAttributeModel, trial_id, key, value)
        if key == OWNER:
            self._own_marks[trial_id] = value

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Writes an attribute of Optuna's."""
        self._set_attr("system_attrs", models.TrialSystemAttributeModel, trial_id, key, value)

    def _set_attr(self, kind: str, model: type[Any], trial_id: int, key: str, value: Any) -> None:
        def change(trial: FrozenTrial) -> None:
            setattr(trial, kind, {**getattr(trial, kind), key: value})

        self._write(_Write(trial_id, model, {"key": key, "value_json": json.dumps(value)}, change))

    def _write(self, write: _Write) -> None:
        waiting: list[_Write] | None = getattr(self._of_thread, "writes", None)
        if waiting is None:
            self._commit([write])
        else:
            waiting.append(write)

    def _flush(self) -> None:
        waiting: list[_Write] | None = getattr(self._of_thread, "writes", None)
        if waiting:
            self._commit(waiting)
            waiting.clear()

    def _commit(self, writes: Sequence[_Write]) -> None:
        for attempt in range(ATTEMPTS):
            try:
                self._send(writes, replace=attempt > 0)
                break
            except IntegrityError as error:  # a row is there: of an attempt whose answer was lost; or another writes it
                if attempt == ATTEMPTS - 1:
                    raise StorageInternalError("The same rows are written by others again and again.") from error
        for write in writes:
            self._change(write.trial_id, write.change)

    def _send(self, writes: Sequence[_Write], *, replace: bool = False) -> None:
        """Writes rows in one transaction, by few statements: Optuna's own take several for each."""
        rows = defaultdict[type[Any], dict[Any, dict[str, Any]]](dict)
        for write in writes:
            rows[write.model][write.trial_id, write.row[_KEYS[write.model]]] = {"trial_id": write.trial_id, **write.row}
        trials = models.TrialModel.__table__
        with self._transaction() as connection:
            for trial_id in {write.trial_id for write in writes}:
                state = connection.scalar(select(trials.c.state).where(trials.c.trial_id == trial_id))
                if state is None:
                    raise KeyError(f"No trial {trial_id}")
                self._backend.check_trial_is_updatable(trial_id, state)
            for model, those in rows.items():
                table, key = model.__table__, _KEYS[model]
                if replace:
                    same = (table.c.trial_id == bindparam("trial")) & (table.c[key] == bindparam("name"))
                    connection.execute(
                        table.delete().where(same), [{"trial": trial_id, "name": name} for trial_id, name in those]
                    )
                connection.execute(table.insert(), list(those.values()))

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Connection]:
        """A connection for one transaction; its errors are what Optuna makes of them."""
        try:
            with self._backend.engine.begin() as connection:
                yield connection
        except IntegrityError:
            raise
        except SQLAlchemyError as error:
            raise StorageInternalError("An exception is raised during the commit.") from error

    def _change(self, trial_id: int, change: Callable[[FrozenTrial], object]) -> None:
        """Puts a changed copy in a trial's place: whoever was given the old one keeps it as it was."""
        with self._lock:
            study_id, number = self._trial_id_to_study_id_and_number.get(trial_id, (-1, -1))
            self._written[study_id].add(trial_id)
            if study_id in self._studies and number in self._studies[study_id].trials:
                trials = self._studies[study_id].trials
                trial = copy.copy(trials[number])
                change(trial)
                trials[number] = trial


def _set_times(start: datetime | None, end: datetime | None, trial: FrozenTrial) -> None:
    trial.datetime_start, trial.datetime_complete = start, end


def invalidate(storage: BaseStorage, study_id: int) -> None:
    """Sees to it that a study's trials are next read as all drivers have left them."""
    if isinstance(storage, CachedDatabase):
        storage.invalidate(study_id)


def refresh_trial(storage: BaseStorage, trial_id: int) -> FrozenTrial:
    """A trial as all drivers have left it."""
    return storage.refresh_trial(trial_id) if isinstance(storage, CachedDatabase) else storage.get_trial(trial_id)


def get_owner(storage: BaseStorage, trial_id: int) -> object:
    """The mark of a trial's owner as all drivers have left it, or None."""
    return (
        storage.get_owner(trial_id)
        if isinstance(storage, CachedDatabase)
        else storage.get_trial(trial_id).user_attrs.get(OWNER)
    )


def write_batch(storage: BaseStorage) -> contextlib.AbstractContextManager[None]:
    """Where the storage is a database: what this thread writes to trials within goes there at once."""
    return storage.write_batch() if isinstance(storage, CachedDatabase) else contextlib.nullcontext()
