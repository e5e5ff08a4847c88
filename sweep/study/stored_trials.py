"""Reads the trials of a study from its storage as `TrialRecord`, and finds those whose driver is dead."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState
from pydantic import TypeAdapter

from .records import TrialRecord
from .storages.leases import LeaseMonitor
from .storages.storage import damage_told

_RECORD = TypeAdapter(TrialRecord)
Leases = Callable[[str], object]  # the value of a `lease_key`


def read_rows(name: str, storage: BaseStorage, *, retried: bool = False) -> list[TrialRecord]:
    """Reads the trials of a study that count, by number, or with ``retried`` all of them, without opening it.

    Returns no trial if there is no study.
    """
    if name not in optuna.get_all_study_names(storage):
        return []
    with damage_told(f"study {name}"):
        leases, monitor = read_leases(optuna.load_study(study_name=name, storage=storage)), LeaseMonitor()
        trials = storage.get_all_trials(storage.get_study_id_from_name(name), deepcopy=False)
        shown = trials if retried else counting(trials)
    return [to_record(t, monitor, leases) for t in shown]


def counting(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Returns the trials that count: those that were retried (see `Study.retry`) are left out."""
    retried = {t.user_attrs.get("retry_of") for t in trials}
    return [t for t in trials if t.number not in retried]


def read_leases(study: optuna.Study) -> Leases:
    """Returns a look-up that reads all leases once, when first called: most owners are of this machine."""
    read = functools.cache(lambda: study.user_attrs)
    return lambda name: read().get(name)


def is_orphan(frozen: FrozenTrial, monitor: LeaseMonitor, leases: Leases) -> bool:
    """Returns True for a running trial whose driver is dead."""
    owner = frozen.user_attrs.get("owner")
    if frozen.state != TrialState.RUNNING or owner is None:  # without an owner, a driver may just be claiming it
        return False
    return not monitor.is_alive(owner, leases)


def to_record(frozen: FrozenTrial, monitor: LeaseMonitor, leases: Leases) -> TrialRecord:
    """Returns the record of Optuna's trial; raises `StorageError` if the storage holds a damaged one."""
    with damage_told(f"trial {frozen.number}"):
        record = _read(frozen, orphan=is_orphan(frozen, monitor, leases))
        _RECORD.validate_python(vars(record))
    return record


def _read(frozen: FrozenTrial, *, orphan: bool) -> TrialRecord:
    """Reads a trial; attributes that an older version did not write are None."""
    attrs = frozen.user_attrs
    owner, start, end = attrs.get("owner"), frozen.datetime_start, frozen.datetime_complete
    names = (
        "trained",
        "seconds",
        "of",
        "checkpoint",
        "error",
        "pruned_at",
        "pruned_by",
        "retry_of",
        "twin",
        "repeat_of",
    )
    stored: dict[str, Any] = {name: attrs.get(name) for name in names}
    state = {"WAITING": "waiting", "RUNNING": "running"}.get(frozen.state.name, "finished")
    outcome = attrs.get("outcome")
    if state == "finished" and outcome is None:
        outcome = {"COMPLETE": "completed", "PRUNED": "pruned"}.get(frozen.state.name, "failed")
    return TrialRecord(
        number=frozen.number,
        kind=attrs.get("kind", "trial"),
        state=state,  # type: ignore[arg-type]
        outcome=outcome if state == "finished" else None,
        value=frozen.value if frozen.values else None,
        hyperparameters={**frozen.params, **attrs.get("hyperparameters", {})},
        seed=attrs.get("seed", 0),
        epochs=attrs.get("epochs", max(frozen.intermediate_values, default=0)),
        design=bool(attrs.get("design")),
        owner=f"{owner['host']} pid {owner['pid']}" if owner else None,
        orphan=orphan,
        started=start.timestamp() if start else None,
        ended=end.timestamp() if end else None,
        tags=attrs.get("tags") or {},
        reported=dict(frozen.intermediate_values),
        **stored,
    )
