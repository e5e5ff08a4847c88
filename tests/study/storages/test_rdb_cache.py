"""A database whose trials lie in memory too: by Optuna's own contract, and beside another driver."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.testing.pytest_storages import StorageTestCase
from optuna.trial import TrialState
from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import OperationalError

from sweep.config.study_config import StudyConfig
from sweep.study.storages import rdb_cache as database
from sweep.study.storages.rdb_cache import CachedDatabase
from sweep.study.storages.storage import open_storage
from sweep.study.study import Study

from ...conftest import MakeConfig, connections_closed
from ...support.absent import postgres_url
from ...support.processes import wait_for


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path, empty_sqlite: bytes, study_name: str) -> Iterator[str]:
    """An empty database of each kind: a file, or a schema of its own on the server."""
    if request.param == "sqlite":
        (tmp_path / "optuna.db").write_bytes(empty_sqlite)
        with connections_closed():
            yield f"sqlite:///{tmp_path}/optuna.db"
        return
    server = postgres_url()
    engine = create_engine(server)
    with engine.begin() as connection:
        connection.execute(text(f'CREATE SCHEMA "{study_name}"'))
    with connections_closed():
        yield f"{server}?options=-csearch_path%3D{study_name}"
    with engine.begin() as connection:
        connection.execute(text(f'DROP SCHEMA "{study_name}" CASCADE'))
    engine.dispose()


@pytest.fixture
def storage(url: str) -> CachedDatabase:
    """A driver's storage."""
    return opened(url)


def opened(url: str) -> CachedDatabase:
    found = open_storage(url)
    assert isinstance(found, CachedDatabase)
    return found


class TestContract(StorageTestCase):
    """Optuna's own tests of every storage."""

    test_pickle_storage = None  # type: ignore[assignment]  # a storage is opened where it is used


def one_trial(storage: CachedDatabase, **attrs: Any) -> tuple[int, int]:
    """A study with a trial that runs; their ids."""
    study = storage.create_new_study([StudyDirection.MINIMIZE], "study")
    trial = storage.create_new_trial(study)
    for key, value in attrs.items():
        storage.set_trial_user_attr(trial, key, value)
    return study, trial


def everything(trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    """All that a trial has, its times too."""
    return {name: value for name, value in vars(trial).items() if name != "_trial_id"}


def test_what_one_driver_writes_is_what_another_and_optuna_itself_read(url: str, storage: CachedDatabase) -> None:
    study, trial = one_trial(storage, owner={"pid": 1})
    depth = CategoricalDistribution((1, 2, 4))
    with storage.write_batch():
        storage.set_trial_param(trial, "lambda1", 0.25, FloatDistribution(1e-3, 1.0, log=True))
        storage.set_trial_param(trial, "depth", 2, depth)
        storage.set_trial_user_attr(trial, "facts", {"a": [1, None, "ü"]})
        storage.set_trial_system_attr(trial, "constraints", [1.0])
    for step, value in enumerate((1.5, float("inf"), float("-inf"), 1e-300)):
        storage.set_trial_intermediate_value(trial, step, value)
    storage.set_trial_intermediate_value(trial, 0, 0.5)  # an epoch that is reported again
    storage.set_trial_user_attr(trial, "owner", {"pid": 2})
    storage.set_trial_state_values(trial, TrialState.COMPLETE, [0.125])
    storage.invalidate(study)
    (here,) = storage.get_all_trials(study)
    for other in (opened(url), RDBStorage(url)):
        (there,) = other.get_all_trials(study)
        assert everything(there) == everything(here)
    assert here.params == {"lambda1": 0.25, "depth": 4}
    assert here.intermediate_values == {0: 0.5, 1: float("inf"), 2: float("-inf"), 3: 1e-300}
    assert here.user_attrs == {"owner": {"pid": 2}, "facts": {"a": [1, None, "ü"]}}


def test_writes_that_belong_together_are_stored_together_or_not_at_all(url: str, storage: CachedDatabase) -> None:
    study, trial = one_trial(storage)
    with contextlib.suppress(ZeroDivisionError), storage.write_batch():
        storage.set_trial_user_attr(trial, "first", 1)
        _ = 1 / 0
    with storage.write_batch():
        storage.set_trial_user_attr(trial, "second", 2)
        assert opened(url).get_trial(trial).user_attrs == {}
        storage.set_trial_param(trial, "x", 0.5, FloatDistribution(0, 1))
    for each in (storage, opened(url)):
        (found,) = each.get_all_trials(study)
        assert (found.user_attrs, found.params) == ({"second": 2}, {"x": 0.5})
    with storage.write_batch():
        storage.set_trial_user_attr(trial, "third", 3)
        storage.set_trial_state_values(trial, TrialState.COMPLETE, [1.0])  # ends it, so the attribute comes first
    assert opened(url).get_trial(trial).user_attrs == {"second": 2, "third": 3}
    with pytest.raises(UpdateFinishedTrialError), storage.write_batch():
        storage.set_trial_user_attr(trial, "late", 4)


def test_a_database_that_goes_away_while_it_is_written_to_leaves_memory_as_it_was(
    url: str, storage: CachedDatabase
) -> None:
    study, trial = one_trial(storage)

    def away(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("INSERT"):
            raise OperationalError(statement, {}, ConnectionResetError("gone"))

    engine = storage._backend.engine
    event.listen(engine, "before_cursor_execute", away)

    def write(x: float) -> None:
        with storage.write_batch():
            storage.set_trial_param(trial, "x", x, FloatDistribution(0, 1))
            storage.set_trial_user_attr(trial, "a", 1)

    with pytest.raises(StorageInternalError):
        write(0.5)
    event.remove(engine, "before_cursor_execute", away)
    (found,) = storage.get_all_trials(study)
    assert (found.params, found.user_attrs) == ({}, {})
    write(0.75)
    assert opened(url).get_trial(trial).params == storage.get_trial(trial).params == {"x": 0.75}


def test_rows_of_an_attempt_whose_answer_was_lost_are_replaced(url: str, storage: CachedDatabase) -> None:
    study, trial = one_trial(storage)
    twin = opened(url)  # knows nothing of what the first has written, as after a lost answer
    twin.get_all_trials(study)
    storage.set_trial_param(trial, "x", 0.25, FloatDistribution(0, 1))
    storage.set_trial_intermediate_value(trial, 1, 9.0)
    with twin.write_batch():
        twin.set_trial_param(trial, "x", 0.75, FloatDistribution(0, 1))
        twin.set_trial_intermediate_value(trial, 1, 3.0)
        twin.set_trial_intermediate_value(trial, 2, 4.0)
    for each in (twin.get_trial(trial), opened(url).get_trial(trial)):
        assert (each.params, each.intermediate_values) == ({"x": 0.75}, {1: 3.0, 2: 4.0})


def test_two_drivers_that_write_the_same_row_at_once_both_get_an_answer(url: str, storage: CachedDatabase) -> None:
    study = storage.create_new_study([StudyDirection.MINIMIZE], "both")
    trial, start, failed = storage.create_new_trial(study), threading.Barrier(2), []

    def write(driver: CachedDatabase, value: str) -> None:
        start.wait()
        for _ in range(40):
            try:
                driver.set_trial_user_attr(trial, "owner", value)
            except Exception as error:  # noqa: BLE001 (whatever it is)
                failed.append(error)

    writers = [threading.Thread(target=write, args=each) for each in ((storage, "a"), (opened(url), "b"))]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert failed == []
    assert opened(url).get_trial(trial).user_attrs["owner"] in ("a", "b")


def test_a_running_trial_that_another_driver_takes_over_is_seen_as_theirs(url: str, storage: CachedDatabase) -> None:
    study, trial = one_trial(storage, owner={"pid": 1})
    storage.get_all_trials(study)
    other = opened(url)
    other.set_trial_user_attr(trial, "owner", {"pid": 2})
    other.set_trial_intermediate_value(trial, 1, 0.5)
    assert storage.get_trial(trial).user_attrs == {"owner": {"pid": 1}}, "it is in memory until somebody looks"
    assert storage.get_owner(trial) == {"pid": 2}
    storage.invalidate(study)
    (found,) = storage.get_all_trials(study)
    assert (found.user_attrs, found.intermediate_values) == ({"owner": {"pid": 2}}, {1: 0.5})
    other.set_trial_intermediate_value(trial, 2, 0.25)
    other.set_trial_state_values(trial, TrialState.COMPLETE, [0.25])
    storage.invalidate(study)
    (found,) = storage.get_all_trials(study)
    assert (found.state, found.value) == (TrialState.COMPLETE, 0.25)
    assert found.intermediate_values == {1: 0.5, 2: 0.25}


def test_what_others_write_is_seen_after_a_while_without_anybody_waiting_for_it(
    url: str, storage: CachedDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, trial = one_trial(storage)
    storage.get_all_trials(study)
    other = opened(url)
    other.set_trial_intermediate_value(trial, 1, 0.5)
    second = other.create_new_trial(study)
    assert len(storage.get_all_trials(study)) == 1
    monkeypatch.setattr(database, "REFRESH_EVERY", 0.0)
    reader = threading.current_thread()
    readers: list[threading.Thread] = []
    read = storage._refresh
    monkeypatch.setattr(storage, "_refresh", lambda study: (readers.append(threading.current_thread()), read(study)))
    wait_for(lambda: len(storage.get_all_trials(study)) == 2, "the other driver's trial")
    assert reader not in readers
    assert storage.get_trial(trial).intermediate_values == {1: 0.5}
    assert storage.get_trial(second).state == TrialState.RUNNING
    for thread in readers:
        thread.join()


def test_what_is_written_while_a_look_is_under_way_is_not_undone_by_it(
    storage: CachedDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, trial = one_trial(storage)
    storage.get_all_trials(study)
    read = storage._backend._get_trials

    def slowly(*words: Any) -> Any:
        found = read(*words)
        storage.set_trial_intermediate_value(trial, 1, 0.5)  # after the read, before its result is kept
        return found

    monkeypatch.setattr(storage._backend, "_get_trials", slowly)
    storage.invalidate(study)
    (found,) = storage.get_all_trials(study)
    assert found.intermediate_values == {1: 0.5}


def test_a_waiting_trial_is_taken_by_one_of_two_drivers(url: str, storage: CachedDatabase) -> None:
    study = storage.create_new_study([StudyDirection.MINIMIZE], "study")
    optuna.load_study(study_name="study", storage=storage).enqueue_trial({})
    other = opened(url)
    (waiting,) = (trial._trial_id for trial in storage.get_all_trials(study))
    other.get_all_trials(study)
    taken = [each.set_trial_state_values(waiting, TrialState.RUNNING) for each in (storage, other)]
    assert taken == [True, False]
    other.set_trial_state_values(waiting, TrialState.COMPLETE, [1.0])
    assert storage.get_all_trials(study)[0].state == TrialState.RUNNING, "not looked again"
    with pytest.raises(UpdateFinishedTrialError):
        storage.set_trial_state_values(waiting, TrialState.RUNNING)
    assert storage.get_all_trials(study)[0].state == TrialState.COMPLETE, "a refusal makes it look"


def test_a_decision_rests_on_what_others_wrote_just_now(
    url: str, study_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "REFRESH_EVERY", 1e9)
    config: StudyConfig = study_config(search={"trials": 3})
    ours, theirs = (Study(config, open_storage(url), workspace=tmp_path) for _ in range(2))
    ours.enqueue_budget()
    assert ours.n_waiting() == 3
    taken = [theirs.ask(), theirs.ask()]
    assert [trial.number for trial in taken if trial] == [0, 1]
    assert taken[1] is not None
    theirs.tell(taken[1], "failed", checkpoint=None, error=None)
    assert ours.n_waiting() == 3, "memory alone"
    mine = ours.ask()
    assert mine is not None
    assert mine.number == 2, "neither one that runs elsewhere nor one that has ended"
    assert ours.ask() is None
    assert [row.state for row in ours.rows()] == ["running", "finished", "running"]
    theirs.enqueue({"lambda1": 1e-3})
    added = ours.ask()
    assert added is not None, "looked again before saying that there is none"
    assert added.number == 3


def test_writing_takes_few_statements(storage: CachedDatabase) -> None:
    """One driver has many slots: a statement costs a millisecond, and the turns of its threads beside."""
    _, trial = one_trial(storage)
    statements: list[str] = []
    event.listen(storage._backend.engine, "before_cursor_execute", lambda *words: statements.append(words[2]))
    with storage.write_batch():
        for number in range(6):
            storage.set_trial_param(trial, f"x{number}", 0.5, FloatDistribution(0, 1))
    assert [statement.split()[0] for statement in statements] == ["SELECT", "INSERT"]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2), st.floats(allow_nan=False)), max_size=8))
def test_any_order_of_writes_leaves_memory_as_the_database(
    tmp_path_factory: pytest.TempPathFactory, empty_sqlite: bytes, writes: list[tuple[str, int, float]]
) -> None:
    path = tmp_path_factory.mktemp("any") / "optuna.db"
    path.write_bytes(empty_sqlite)
    with connections_closed():
        storage = opened(f"sqlite:///{path}")
        study, trial = one_trial(storage)
        storage.get_all_trials(study)
        with storage.write_batch():
            for kind, key, value in writes:
                if kind == "a":
                    storage.set_trial_user_attr(trial, str(key), value)
                elif kind == "b":
                    storage.set_trial_intermediate_value(trial, key, value)
                else:
                    storage.set_trial_system_attr(trial, str(key), value)
        here, there = storage.get_trial(trial), RDBStorage(f"sqlite:///{path}").get_trial(trial)
        assert here.user_attrs == there.user_attrs
        assert here.system_attrs == there.system_attrs
        assert here.intermediate_values == there.intermediate_values
