"""A database as Optuna's storage, whose trials are cached in memory.

A trial of ten epochs takes 60 round trips to PostgreSQL, 360 with Optuna's cache (`tests/benchmarks/round_trips.py`).
No other module uses private names of Optuna. They were read in 5.0.0; `test_optuna_internals.py` fails when one moves:

- ``_CachedStorage`` and its ``_backend``, ``_lock``, ``_studies``, ``_trial_id_to_study_id_and_number``,
  ``_add_trials_to_cache``, ``_read_trials_from_remote_storage``; ``_StudyInfo``: the cache of finished trials that this
  one extends to all trials. Optuna has no public cache.
- ``RDBStorage._get_trials``: reads some trials of a study; the public method reads all.
- ``optuna.storages._rdb.models``: the tables, for one statement where the public methods send several.
- ``FrozenTrial._trial_id``, ``Trial._trial_id``: every method of a storage wants it.
- ``Study._thread_local.cached_all_trials``: reset by `Study.ask`, which cannot be used since it chooses the trial.
"""

import contextlib
import copy
import json
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

from optuna.distributions import BaseDistribution, check_distribution_compatibility, distribution_to_json
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.storages._cached_storage import _CachedStorage, _StudyInfo
from optuna.storages._rdb import models
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

logger = logging.getLogger(__name__)

REFRESH_EVERY = 5.0  # seconds between two refreshes in the background
MANY = 1000  # largest number of trials that are read by their ids
OWNER = "owner"  # attribute with the owner of a running trial

_Times = tuple[datetime | None, datetime | None]  # start and end of a trial

_KEYS = {  # key column of each table that holds a trial's rows
    models.TrialParamModel: "param_name",
    models.TrialIntermediateValueModel: "step",
    models.TrialUserAttributeModel: "key",
    models.TrialSystemAttributeModel: "key",
}
_OF_TRIAL: list[Any] = [models.TrialValueModel, *_KEYS]  # tables
_INSERTS: dict[str, Callable[..., Any]] = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}


class _Write(NamedTuple):
    """A row for a trial, and the items that it adds to dictionaries of the trial in memory."""

    trial_id: int
    model: type[Any]
    row: dict[str, Any]
    items: Mapping[str, Mapping[Any, Any]]


class CachedDatabase(_CachedStorage):
    """Write-through cache of a study's trials; other drivers' changes appear at the next refresh.

    Optuna's own cache holds finished trials only. It reads all others, the waiting ones too, whenever a sampler or a
    pruner asks for the trials of a study: 0.1 s and more for some hundred of them, several times a trial.
    """

    def __init__(self, backend: RDBStorage):
        super().__init__(backend)
        self.engine: Engine = backend.engine
        self._autocommit = self.engine.execution_options(isolation_level="AUTOCOMMIT")  # saves two round trips
        self._insert = _INSERTS[self.engine.dialect.name]
        self._read_at: dict[int, float] = {}  # monotonic time of each study's last refresh
        self._read_lock = threading.Lock()  # one refresh at a time: an older one must not overwrite a later one
        self._written = defaultdict[int, set[int]](set)  # by study: trials written since its last refresh began
        self._own_trials: dict[int, Any] = {}  # owner that this process has written to each trial
        self._per_thread = threading.local()  # per thread: studies to refresh, writes of a `write_batch`

    def invalidate(self, study_id: int) -> None:
        """Makes this thread's next `get_all_trials` read what other drivers have written."""
        self._per_thread.__dict__.setdefault("stale", set()).add(study_id)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """Returns a copy of a trial as it is cached."""
        with self._lock:
            study_id, number = self._trial_id_to_study_id_and_number.get(trial_id, (-1, -1))
            known = self._studies[study_id].trials.get(number) if study_id in self._studies else None
        return self.refresh_trial(trial_id) if known is None else copy.deepcopy(known)

    def refresh_trial(self, trial_id: int) -> FrozenTrial:
        """Reads a trial from the database."""
        frozen = self._backend.get_trial(trial_id)
        self._change(trial_id, lambda trial: trial.__dict__.update(copy.deepcopy(frozen).__dict__))
        return frozen

    def get_owner(self, trial_id: int) -> object:
        """Reads a trial's owner from the database, or None; cheaper than the whole trial."""
        table = models.TrialUserAttributeModel.__table__
        owner = select(table.c.value_json).where((table.c.trial_id == trial_id) & (table.c.key == OWNER))
        with self._connection(self._autocommit) as connection:
            found = connection.scalar(owner)
        return None if found is None else json.loads(found)

    def _read_trials_from_remote_storage(self, study_id: int) -> None:
        """Refreshes in the background unless the caller asked for current data; called by every read of trials."""
        now, stale = time.monotonic(), self._per_thread.__dict__.setdefault("stale", set())
        if study_id not in self._read_at or study_id in stale:
            stale.discard(study_id)  # first: if the database is unreachable, the cache can be read
            self._refresh(study_id)
        elif now - self._read_at[study_id] >= REFRESH_EVERY:
            self._read_at[study_id] = now
            if self._read_lock.locked():  # a refresh is running, and may wait for a database that is silent
                return
            threading.Thread(target=self._refresh_quietly, args=(study_id,), name="refresh", daemon=True).start()

    def _refresh_quietly(self, study_id: int) -> None:
        try:
            self._refresh(study_id)
        except Exception as error:  # noqa: BLE001 (the next write reports a database that is unreachable)
            logger.debug("refresh of study %d failed: %s", study_id, error)

    def _refresh(self, study_id: int) -> None:
        """Reads the trials whose state has changed, and those that other drivers train."""
        with self._read_lock:
            now = time.monotonic()
            with self._lock:
                study = self._studies.setdefault(study_id, _StudyInfo())
                known = {trial._trial_id: trial for trial in study.trials.values()}
                self._written[study_id].clear()
            wanted, times, last = self._find_changes(study_id, known)
            trials = []
            if wanted:
                ids, after = (wanted, last) if len(wanted) <= MANY else (set(), min(wanted) - 1)
                trials = self._backend._get_trials(study_id, None, ids, after)  # these ids, and all after
            with self._lock:
                newer = self._written[study_id]  # written during the read
                self._add_trials_to_cache(study_id, [t for t in trials if t._trial_id not in newer])
                still = times.keys() - newer
            for trial_id in still:
                self._change(trial_id, partial(_set_times, *times[trial_id]))
            self._read_at[study_id] = now

    def _find_changes(self, study_id: int, known: Mapping[int, FrozenTrial]) -> tuple[set[int], dict[int, _Times], int]:
        """Returns the trials to read, the times to correct in cached ones, and the id of the last trial."""
        trials, attributes = models.TrialModel.__table__, models.TrialUserAttributeModel.__table__
        of_study = trials.c.study_id == study_id
        with self._connection(self._autocommit) as connection:
            columns = (trials.c.trial_id, trials.c.state, trials.c.datetime_start, trials.c.datetime_complete)
            found = connection.execute(select(*columns).where(of_study)).all()
            owners_of = select(attributes.c.trial_id, attributes.c.value_json).join(trials)
            running = of_study & (trials.c.state == TrialState.RUNNING) & (attributes.c.key == OWNER)
            owners = {row[0]: json.loads(row[1]) for row in connection.execute(owners_of.where(running))}
        if not found and (known or study_id not in self._read_at):
            self._backend.get_study_name_from_id(study_id)  # KeyError if there is no such study
        wanted: set[int] = set()
        times: dict[int, _Times] = {}
        for trial_id, state, start, end in found:
            trial = known.get(trial_id)
            ours = trial_id in self._own_trials and owners.get(trial_id) == self._own_trials[trial_id]
            if trial is None or trial.state != state or (state == TrialState.RUNNING and not ours):
                wanted.add(trial_id)
            elif (trial.datetime_start, trial.datetime_complete) != (start, end):
                times[trial_id] = start, end
        return wanted, times, max((trial_id for trial_id, *_ in found), default=0)

    def add_trials(self, study_id: int, trials: Sequence[FrozenTrial], first: int) -> None:
        """Adds trials with the numbers from ``first`` on, in one transaction; leaves those out that the study has.

        A caller that does not know whether its last attempt succeeded repeats it. Other drivers are to be kept out.
        """
        table, studies = models.TrialModel.__table__, models.StudyModel.__table__
        with self._connection(self.engine) as connection:  # as Optuna creates a trial: one at a time in a study
            connection.execute(select(studies).where(studies.c.study_id == study_id).with_for_update())
            present = connection.scalar(select(func.count()).where(table.c.study_id == study_id)) or 0
            new = list(enumerate(trials, first))[max(0, present - first) :]
            columns = ("state", "datetime_start", "datetime_complete")
            own = [{"study_id": study_id, "number": n, **{c: getattr(t, c) for c in columns}} for n, t in new]
            insert = self._insert(table).returning(table.c.trial_id, sort_by_parameter_order=True)
            ids = connection.scalars(insert, own).all() if own else []
            for model in _OF_TRIAL:
                if found := [row for i, (_, t) in zip(ids, new, strict=True) for row in _rows_of(model, i, t)]:
                    connection.execute(self._insert(model.__table__), found)
        self._refresh(study_id)

    @contextlib.contextmanager
    def write_batch(self) -> Iterator[None]:
        """Sends what this thread writes to trials within the block in one transaction: all of it or nothing."""
        self._per_thread.writes = []
        try:
            yield
            self._flush()
        finally:
            self._per_thread.writes = None

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """Writes the value of a hyperparameter; raises `ValueError` if the study has another distribution of it."""
        with self._lock:
            study_id, number = self._trial_id_to_study_id_and_number[trial_id]
            study = self._studies[study_id]
            self._backend.check_trial_is_updatable(trial_id, study.trials[number].state)
            cached = (t.distributions[param_name] for t in study.trials.values() if param_name in t.distributions)
            before = study.param_distribution.get(param_name) or next(cached, distribution)
            check_distribution_compatibility(before, distribution)
            study.param_distribution[param_name] = distribution
        value = distribution.to_external_repr(param_value_internal)
        items = {"params": {param_name: value}, "distributions": {param_name: distribution}}
        row = {"param_value": param_value_internal, "distribution_json": distribution_to_json(distribution)}
        self._write(_Write(trial_id, models.TrialParamModel, {"param_name": param_name, **row}, items))

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Claims a trial (False if another driver was faster), or ends one."""
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
        """Writes a reported value."""
        row, items = _intermediate(step, intermediate_value), {"intermediate_values": {step: intermediate_value}}
        self._write(_Write(trial_id, models.TrialIntermediateValueModel, row, items))

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Writes an attribute."""
        self._set_attr("user_attrs", models.TrialUserAttributeModel, trial_id, key, value)
        if key == OWNER:
            self._own_trials[trial_id] = value

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Writes an attribute that Optuna uses."""
        self._set_attr("system_attrs", models.TrialSystemAttributeModel, trial_id, key, value)

    def _set_attr(self, kind: str, model: type[Any], trial_id: int, key: str, value: Any) -> None:
        row = {"key": key, "value_json": json.dumps(value)}
        self._write(_Write(trial_id, model, row, {kind: {key: value}}))

    def _write(self, write: _Write) -> None:
        waiting: list[_Write] | None = getattr(self._per_thread, "writes", None)
        if waiting is None:
            self._commit([write])
        else:
            waiting.append(write)

    def _flush(self) -> None:
        if waiting := getattr(self._per_thread, "writes", None):
            self._commit(waiting)
            waiting.clear()

    def _commit(self, writes: Sequence[_Write]) -> None:
        """Writes rows with few statements, several of them in one transaction; Optuna sends several for each row."""
        rows = defaultdict[type[Any], dict[Any, dict[str, Any]]](dict)
        for write in writes:
            rows[write.model][write.trial_id, write.row[_KEYS[write.model]]] = {"trial_id": write.trial_id, **write.row}
        trials = models.TrialModel.__table__
        with self._connection(self._autocommit if len(writes) == 1 else self.engine) as connection:
            for trial_id in {write.trial_id for write in writes}:
                state = connection.scalar(select(trials.c.state).where(trials.c.trial_id == trial_id))
                if state is None:
                    raise KeyError(f"No trial {trial_id}")
                self._backend.check_trial_is_updatable(trial_id, state)
            for model, by_key in rows.items():
                values, insert = list(by_key.values()), self._insert(model.__table__)
                present, new = ["trial_id", _KEYS[model]], {name: insert.excluded[name] for name in values[0]}
                connection.execute(insert.on_conflict_do_update(index_elements=present, set_=new), values)
        for write in writes:
            self._change(write.trial_id, partial(_add_items, write.items))

    @contextlib.contextmanager
    def _connection(self, engine: Engine) -> Iterator[Connection]:
        """Opens a connection, for one transaction or with a commit for each statement; raises Optuna's errors."""
        try:
            with engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise StorageInternalError("An exception is raised during the commit.") from error

    def _change(self, trial_id: int, change: Callable[[FrozenTrial], object]) -> None:
        """Replaces a cached trial by a changed copy: a caller that holds the old one keeps it unchanged."""
        with self._lock:
            study_id, number = self._trial_id_to_study_id_and_number.get(trial_id, (-1, -1))
            self._written[study_id].add(trial_id)
            if study_id in self._studies and number in self._studies[study_id].trials:
                trials = self._studies[study_id].trials
                trial = copy.copy(trials[number])
                change(trial)
                trials[number] = trial


def _rows_of(model: type[Any], trial_id: int, trial: FrozenTrial) -> Iterator[dict[str, Any]]:
    """Yields the rows of one table that hold what a trial has."""
    if model is models.TrialValueModel:
        for objective, number in enumerate(trial.values or []):
            value, kind = model.value_to_stored_repr(number)
            yield {"trial_id": trial_id, "objective": objective, "value": value, "value_type": kind}
    elif model is models.TrialParamModel:
        for name, choice in trial.params.items():
            kind = trial.distributions[name]
            row = {"param_name": name, "distribution_json": distribution_to_json(kind)}
            yield {"trial_id": trial_id, "param_value": kind.to_internal_repr(choice), **row}
    elif model is models.TrialIntermediateValueModel:
        for step, number in trial.intermediate_values.items():
            yield {"trial_id": trial_id, **_intermediate(step, number)}
    else:
        attrs = trial.user_attrs if model is models.TrialUserAttributeModel else trial.system_attrs
        for key, value in attrs.items():
            yield {"trial_id": trial_id, "key": key, "value_json": json.dumps(value)}


def _intermediate(step: int, number: float) -> dict[str, Any]:
    value, kind = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(number)
    return {"step": step, "intermediate_value": value, "intermediate_value_type": kind}


def _add_items(items: Mapping[str, Mapping[Any, Any]], trial: FrozenTrial) -> None:
    for name, added in items.items():
        setattr(trial, name, {**getattr(trial, name), **added})


def _set_times(start: datetime | None, end: datetime | None, trial: FrozenTrial) -> None:
    trial.datetime_start, trial.datetime_complete = start, end


def trial_id(trial: FrozenTrial | Trial) -> int:
    """Returns a trial's id in its storage."""
    return trial._trial_id


def forget_cached_trials(study: Study) -> None:
    """Makes the sampler read the study's trials anew, as `Study.ask` does in the thread that it is called in."""
    study._thread_local.cached_all_trials = None
