"""PostgreSQL and a driver that vanishes or stands still: whose lock it is, for how long, and what is said of it."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from sqlalchemy import Engine, text

from sweep.config.locks import FileLock
from sweep.study.storages import postgresql, storage
from sweep.study.storages.rdb_cache import CachedDatabase
from sweep.study.storages.storage import exclusive, open_storage
from sweep.study.study import Study

from ...conftest import MakeConfig, connections_closed
from ...support.absent import postgres_url
from ...support.relay import Relay


@pytest.fixture
def database() -> Iterator[CachedDatabase]:
    """A driver's storage."""
    with connections_closed():
        yield opened(postgres_url())


def opened(url: str) -> CachedDatabase:
    found = open_storage(url)
    assert isinstance(found, CachedDatabase)
    return found


def value(engine: Engine, query: str) -> str:
    with engine.connect() as connection:
        return str(connection.scalar(text(query)))


def end_lock(name: str) -> None:
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
    holder = f"locktype = 'advisory' AND granted AND (classid::bigint << 32) + objid::bigint = {number}"
    assert value(opened(postgres_url()).engine, f"SELECT pg_terminate_backend(pid) FROM pg_locks WHERE {holder}")


def test_the_server_ends_the_session_of_a_driver_that_vanished(database: CachedDatabase) -> None:
    with database.engine.connect():  # the second connection of the pool is as the first
        shown = {name: value(database.engine, f"SHOW {name}") for name in postgresql.SERVER_TIMEOUTS}
    silence = int(shown["tcp_keepalives_idle"])
    silence += int(shown["tcp_keepalives_interval"]) * int(shown["tcp_keepalives_count"])
    assert silence <= 30
    assert shown["tcp_user_timeout"] == "30000"


def test_a_driver_that_stands_still_with_the_lock_loses_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, study_name: str
) -> None:
    monkeypatch.setitem(postgresql.SERVER_TIMEOUTS, "idle_in_transaction_session_timeout", "1s")
    waited = 0.0

    def stand_still() -> None:
        nonlocal waited
        with exclusive(opened(postgres_url()), study_name, FileLock(tmp_path / "one")):
            began = time.monotonic()
            with exclusive(opened(postgres_url()), study_name, FileLock(tmp_path / "other")):
                waited = time.monotonic() - began

    with connections_closed(), pytest.raises(ConnectionError):  # it learns of it when it goes on
        stand_still()
    assert 0.5 < waited < 10


def test_who_waits_for_the_lock_is_told_who_has_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database: CachedDatabase, study_name: str
) -> None:
    monkeypatch.setitem(postgresql.SERVER_TIMEOUTS, "lock_timeout", "2s")  # opening waits for the other lane too
    ours, theirs = FileLock(tmp_path / "ours"), FileLock(tmp_path / "theirs")

    def be_ended_as_it_is_said() -> None:
        with exclusive(database, study_name, theirs):
            with pytest.raises(storage.UNREACHABLE) as raised, exclusive(opened(postgres_url()), study_name, ours):
                pass
            (session,) = re.findall(r"SELECT pg_terminate_backend\((\d+)\)", str(raised.value))
            said = value(database.engine, f"SELECT application_name FROM pg_stat_activity WHERE pid = {session}")
            assert f"({said})" in str(raised.value)
            assert said.startswith(f"sweep {os.getpid()} ")
            value(database.engine, f"SELECT pg_terminate_backend({session})")

    with connections_closed(), pytest.raises(ConnectionError):
        be_ended_as_it_is_said()


def test_a_connection_is_tried_before_its_use_only_if_nobody_used_it_for_a_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with connections_closed(), Relay(postgres_url()) as relay:
        engine = opened(relay.url).engine
        assert value(engine, "SELECT 1") == "1"
        before = relay.sent
        assert value(engine, "SELECT 2") == "2"
        assert relay.sent - before == 3, "BEGIN, the query, ROLLBACK"
        monkeypatch.setattr(postgresql, "PING_AFTER", 0.0)
        relay.drop()
        assert value(engine, "SELECT 3") == "3", "a connection that broke was used"


def test_a_report_takes_two_round_trips_and_the_question_whose_a_trial_is_one(
    study_config: MakeConfig, tmp_path: Path
) -> None:
    with connections_closed(), Relay(postgres_url()) as relay:
        there = open_storage(relay.url)
        study = Study(study_config(), there, workspace=tmp_path)
        study.enqueue({"lambda1": 1e-4})
        trial = study.ask()
        assert trial is not None
        before = relay.sent
        assert study.owns(trial)
        assert relay.sent - before == 1
        trial.handle.report(0.5, 1)
        assert relay.sent - before == 1 + 2, "its state, and the row"
        optuna.delete_study(study_name=study.name, storage=open_storage(postgres_url()))


def test_a_row_whose_creation_was_not_answered_is_in_the_budget_once(study_config: MakeConfig, tmp_path: Path) -> None:
    with connections_closed(), Relay(postgres_url()) as relay:
        study = Study(study_config(), open_storage(relay.url), workspace=tmp_path)
        assert study.enqueue({"lambda1": 1e-4}) == 0
        relay.loses_answer = [b"INSERT INTO trials ", b"COMMIT"]
        study.enqueue_budget()
        assert relay.loses_answer == [], "no answer was lost"
        relay.loses_answer = [b"INSERT INTO trials ", b"COMMIT"]
        assert study.enqueue({"lambda1": 1e-1}) == 6
        assert relay.loses_answer == [], "no answer was lost"
        there = optuna.load_study(study_name=study.name, storage=open_storage(postgres_url())).trials
        assert [trial.number for trial in there] == list(range(7))
        assert len({trial.number for trial in iter(study.ask, None)}) == 7
        optuna.delete_study(study_name=study.name, storage=open_storage(postgres_url()))


def test_a_driver_that_has_lost_the_lock_adds_no_row_to_those_of_the_next(
    study_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connections_closed():
        ours, theirs = (
            Study(study_config(), opened(postgres_url()), workspace=tmp_path / driver) for driver in ("one", "other")
        )
        create = CachedDatabase.add_trials

        def interrupted(database: CachedDatabase, *arguments: Any) -> None:
            monkeypatch.undo()
            end_lock(theirs.name)  # by the server: the next driver gets it
            theirs.enqueue_budget()
            create(database, *arguments)

        monkeypatch.setattr(CachedDatabase, "add_trials", interrupted)
        with pytest.raises(ConnectionError):
            ours.enqueue_budget()
        there = optuna.load_study(study_name=ours.name, storage=open_storage(postgres_url())).trials
        assert [trial.number for trial in there] == list(range(6))
        optuna.delete_study(study_name=ours.name, storage=open_storage(postgres_url()))


def test_trials_that_are_known_can_be_read_when_the_latest_cannot(study_config: MakeConfig, tmp_path: Path) -> None:
    with connections_closed():
        with Relay(postgres_url()) as relay:
            study = Study(study_config(), open_storage(relay.url), workspace=tmp_path)
            study.enqueue_budget()
        with pytest.raises(storage.UNREACHABLE):
            study.rows()
        assert len(study.rows(latest=False)) == 6
        optuna.delete_study(study_name=study.name, storage=open_storage(postgres_url()))
