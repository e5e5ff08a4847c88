"""The driver between a real storage and a real tracker, without Ray: what workers report is made here."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow.entities import Run
from sqlalchemy.engine import make_url

from sweep import service
from sweep.config.settings import Settings
from sweep.service.driver import Driver
from sweep.service.recorder import Recorder
from sweep.study.finalists import wanted_rows
from sweep.study.storages.storage import Backoff, open_storage
from sweep.study.study import Study
from sweep.tracking.tracker import Tracker
from sweep.training import checkpoint
from sweep.training.reports import EpochMetrics, OomKind, TrialReport

from ..conftest import MakeConfig, connections_closed
from ..support import rayless
from ..support.absent import postgres_url
from ..support.empty_store import with_store
from ..support.processes import wait_for

WHERE = {"sweep.host": "here", "sweep.device": "cpu"}


class Notices(service.RunCallback):
    """A listener that keeps what the user is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def on_message(self, message: str) -> None:
        self.said.append(message)


class Stage:
    """A driver with all that it needs, over a storage that can be taken away."""

    def __init__(self, config: Any, url: str, workspace: Path):
        storage = open_storage(url)
        settings = Settings(workspace=workspace, storage=url)
        self.search, self.controls = (Study(config, storage, workspace=workspace, sister=s) for s in (False, True))
        self.search.enqueue_budget()
        self.notices, self.config = Notices(), config
        self.tracker = Tracker(settings.tracking_uri, config.name, artifacts=settings.artifacts)
        self.tracker.open(description="", params={}, tags={})
        self.driver = Driver(Recorder(settings, self.search, self.controls, self.tracker, self.notices))

    def job(self) -> tuple[str, int]:
        """Asks, and starts what came."""
        job = self.driver.ask()
        assert job is not None
        self.driver.on_trial_start(job.key)
        return job.key

    def report(
        self,
        key: tuple[str, int],
        *epochs: int,
        outcome: str | None = None,
        error: str | None = None,
        oom: OomKind | None = None,
    ) -> bool:
        values = {"val_accuracy": 0.5, "seconds": 0.25}
        made = [EpochMetrics(e, {"val_loss": 1 / e, **values}, 1000 * e) for e in epochs]
        return self.driver.report(key, TrialReport(made, None, outcome, error, tags=WHERE, oom=oom))

    def run(self, number: int) -> Run:
        """Returns what MLflow has of a trial."""
        assert self.tracker.flush(timeout=120)
        client = self.tracker.store._connection
        assert client is not None
        [run] = client.search_runs([self.tracker.store.experiment_id], f"tags.`sweep.trial` = '{number}'")
        return run

    def curve(self, number: int) -> list[int]:
        """The epochs that MLflow has of a trial."""
        client, run = self.tracker.store._connection, self.run(number)
        assert client is not None
        return [m.step for m in client.get_metric_history(run.info.run_id, "val_loss")]


@pytest.fixture
def stage(tmp_path: Path, study_config: MakeConfig) -> Iterator[Callable[..., Stage]]:
    stages: list[Stage] = []

    def make(url: str, resources: Any = None, **search: Any) -> Stage:
        search = {"trials": 2, "finalists": {"top": 0}, **search}
        config = study_config(search=search, training={"max_epochs": 3}, resources=resources or {})
        stages.append(Stage(config, url, with_store(tmp_path)))
        return stages[-1]

    with connections_closed():
        yield make
        for each in stages:
            each.tracker.close(status="FINISHED", timeout=120)


class Door:
    """A way to PostgreSQL that can be shut: connections that are open break, new ones are refused."""

    def __init__(self, host: str, port: int):
        self._target = (host, port)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._pipes: list[socket.socket] = []
        self._listen()

    def _listen(self) -> None:
        threading.Thread(target=self._accept, args=(self._server,), daemon=True).start()

    def _accept(self, server: socket.socket) -> None:
        while True:
            try:
                here, _ = server.accept()
                there = socket.create_connection(self._target)
            except OSError:
                return
            self._pipes += [here, there]
            for source, target in ((here, there), (there, here)):
                threading.Thread(target=self._carry, args=(source, target), daemon=True).start()

    @staticmethod
    def _carry(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)

    def shut(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for pipe in self._pipes:
            with contextlib.suppress(OSError):  # the other end may have gone
                pipe.shutdown(socket.SHUT_RDWR)
            pipe.close()
        self._pipes.clear()

    def open(self) -> None:
        self._server = socket.create_server(("127.0.0.1", self.port))
        self._listen()


@pytest.fixture(params=["sqlite", "postgresql"])
def breakable(
    request: pytest.FixtureRequest, tmp_path: Path, empty_sqlite: bytes, study_name: str
) -> Iterator[tuple[str, Callable[[], None], Callable[[], None]]]:
    """A storage's URL, how to take it away, and how to bring it back: a lock on the file, or an unreachable server."""
    if request.param == "sqlite":
        path = tmp_path / "optuna.db"
        path.write_bytes(empty_sqlite)
        holder = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        yield f"sqlite:///{path}?timeout=0.1", lambda: holder.execute("BEGIN EXCLUSIVE"), lambda: holder.execute("END")  # type: ignore[misc]
        holder.close()
        return
    there = postgres_url()
    url = make_url(there)
    door = Door(url.host or "127.0.0.1", url.port or 5432)
    yield url.set(host="127.0.0.1", port=door.port).render_as_string(hide_password=False), door.shut, door.open
    door.shut()
    storage = open_storage(there)
    for name in optuna.get_all_study_names(storage):
        if name.startswith(study_name):
            optuna.delete_study(study_name=name, storage=storage)


def test_while_the_storage_is_away_trials_go_on_and_nothing_is_lost(
    stage: Callable[..., Stage], breakable: tuple[str, Callable[[], None], Callable[[], None]]
) -> None:
    url, take_away, bring_back = breakable
    there = stage(url)
    first, second = there.job(), there.job()
    assert not there.report(first, 1)
    take_away()
    there.driver._confirmed.clear()
    assert not there.report(first, 2)  # goes on
    assert there.report(second, 1, 2, 3, outcome="completed")  # its worker is done
    assert there.driver.ask() is None
    assert not there.driver.is_finished()
    assert [row.state for row in there.search.rows(latest=False)] == ["running"] * 2  # for whoever stops it now
    assert len([said for said in there.notices.said if "cannot reach the storage" in said]) == 1
    bring_back()

    def told() -> bool:
        assert there.driver.ask() is None
        return any("reachable again" in said for said in there.notices.said)

    wait_for(told, "the message that the storage is back")
    assert there.report(first, 3, outcome="completed")
    assert there.driver.ask() is None
    assert there.driver.is_finished()
    rows = there.search.rows()
    assert [(r.outcome, r.epochs, r.value) for r in rows] == [("completed", 3, 1 / 3)] * 2
    assert [there.curve(n) for n in (0, 1)] == [[1, 2, 3]] * 2


def test_a_storage_that_answers_late_is_reported_once_with_the_time_of_its_silence(
    stage: Callable[..., Stage], tmp_path: Path, empty_sqlite: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweep.service.driver.LATE", 2.0)
    path = tmp_path / "optuna.db"
    path.write_bytes(empty_sqlite)
    there = stage(f"sqlite:///{path}?timeout=300")
    key = there.job()
    there.notices.said.clear()
    there.driver._confirmed.clear()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        release = threading.Timer(3.0, lambda: holder.execute("END"))
        release.start()
        assert there.report(key, 1, outcome="completed")
        release.join()
    (said,) = there.notices.said
    assert int(re.fullmatch(r"the storage is reachable again after (\d+) s", said)[1]) >= 3  # type: ignore[index]


def test_an_outage_lasts_from_the_beginning_of_the_first_call_that_failed() -> None:
    backoff, now = Backoff(), time.monotonic()
    backoff.failed(ConnectionError(), now - 30)
    backoff.failed(ConnectionError(), now)
    assert backoff.answered(now) >= 30
    assert backoff.answered(now - 30) < 30  # it has answered meanwhile


def test_after_an_outage_mlflow_has_all_of_running_and_ended_trials(
    stage: Callable[..., Stage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweep.tracking.tracker.ROUND_SECONDS", 0.1)
    there = stage(f"journal:///{tmp_path}/optuna.journal", trials=3)
    client, away, recording = there.tracker.store._connection, threading.Event(), there.driver._recorder
    assert client is not None
    log_batch = client.log_batch

    def logging(*words: Any, **more: Any) -> None:
        if away.is_set():
            raise ConnectionError("refused")
        log_batch(*words, **more)

    def report(key: tuple[str, int], *epochs: int, **ending: Any) -> None:
        """After the checkpoint, as a worker does."""
        history = [EpochMetrics(e, {"val_loss": 1 / e}, 1000 * e) for e in range(1, epochs[-1] + 1)]
        checkpoint.save(tmp_path / there.config.name / f"{key[1]:04d}" / "attempt-01", history, {})
        there.report(key, *epochs, **ending)

    monkeypatch.setattr(client, "log_batch", logging)
    first, second = there.job(), there.job()
    report(first, 1)
    report(second, 1)
    assert there.tracker.flush(30)
    away.set()
    report(first, 2)
    report(second, 2, 3, outcome="completed")
    third = there.job()
    assert not there.tracker.flush(0.5)
    report(third, 1, 2)
    for _ in range(2):
        recording.report_problems()
    assert ["refused" in said and "Training goes on" in said for said in there.notices.said] == [True]
    there.tracker.outage_began -= 60
    away.clear()
    assert there.tracker.flush(30)
    for _ in range(2):
        recording.report_problems()
    assert ["is reachable again after 6" in said for said in there.notices.said] == [False, True]
    assert [there.run(n).info.status for n in range(3)] == ["RUNNING", "FINISHED", "RUNNING"]
    assert [there.curve(n) for n in range(3)] == [[1, 2], [1, 2, 3], [1, 2]]
    assert there.run(1).data.tags["sweep.outcome"] == "completed"
    for key in (first, third):
        report(key, 3, outcome="completed")
    assert [there.curve(n) for n in range(3)] == [[1, 2, 3]] * 3
    assert there.driver.ask() is None
    assert there.driver.is_finished()


def test_a_trial_that_was_taken_over_is_given_up(stage: Callable[..., Stage], tmp_path: Path) -> None:
    there = stage(f"journal:///{tmp_path}/optuna.journal")
    key = there.job()
    assert not there.report(key, 1)
    heir = {**there.driver._trials[key].owner, "host": "elsewhere", "attempt": 2}
    there.driver._trials[key].handle.set_user_attr("owner", heir)
    there.driver._confirmed.clear()  # ten seconds later
    assert there.report(key, 2)
    assert any("trial 0" in said and "adopted by another driver" in said for said in there.notices.said)
    assert there.search.rows()[0].state == "running"
    assert there.search.rows()[0].owner == f"elsewhere pid {os.getpid()}"
    assert there.report(key, 3)  # whatever comes later of its worker
    assert there.curve(0) == [1]
    assert there.tracker.close(status="KILLED")
    assert there.run(0).info.status == "RUNNING"  # as the other one has it


def test_a_trial_that_ended_while_it_waited_for_another_worker_is_stopped_there(
    stage: Callable[..., Stage], tmp_path: Path
) -> None:
    there = stage(f"journal:///{tmp_path}/optuna.journal")
    key = there.job()
    assert there.report(key, 1, 2, 3, outcome="completed")
    there.driver.on_trial_start(key)
    assert there.report(key, 3)
    assert there.run(0).info.status == "FINISHED"


def test_a_trial_is_interrupted_in_mlflow_before_another_driver_can_take_it(
    stage: Callable[..., Stage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = stage(f"journal:///{tmp_path}/optuna.journal")
    key, seen = there.job(), []
    assert not there.report(key, 1)
    release = there.search.release

    def released(trial: Any) -> None:
        seen.append(there.run(0).info.status)
        release(trial)

    monkeypatch.setattr(there.search, "release", released)
    there.driver.__exit__(None, None, None)
    assert seen == ["KILLED"]
    assert there.search.rows()[0].orphan


def test_a_trial_that_was_asked_for_and_never_begun_is_no_alarm(stage: Callable[..., Stage], tmp_path: Path) -> None:
    there = stage(f"journal:///{tmp_path}/optuna.journal")
    assert there.driver.ask() is not None
    there.driver.__exit__(None, None, None)
    assert there.tracker.close(status="KILLED")
    assert there.tracker.dropped == there.notices.said == []


@pytest.mark.parametrize("left", [False, True])
def test_what_a_driver_of_another_host_has_not_recorded_is_recorded_when_it_is_known_to_be_dead(
    stage: Callable[..., Stage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: bool
) -> None:
    url = f"journal:///{tmp_path}/optuna.journal"
    dead = stage(url, trials=1).search
    with monkeypatch.context() as there:
        there.setattr("socket.gethostname", lambda: "elsewhere")
        trial = dead.ask()
        assert trial is not None
        dead.heartbeat(1)
        dead.report(trial, [EpochMetrics(e, {"val_loss": 1 / e}, 1000 * e) for e in (1, 2, 3)])
        dead.tell(trial, "completed", checkpoint=None, error=None)
        if left:
            dead.end_lease()
    heir = stage(url, trials=1)
    recording = heir.driver._recorder
    assert recording.repair() is left
    stopped = threading.Event()
    stopped.set()
    assert recording.complete(stopped) is left  # it is not for ever that one waits
    monkeypatch.setattr("sweep.study.storages.leases.DEAD_AFTER", 0.5)
    monkeypatch.setattr("sweep.service.recorder.REPAIR_EVERY", 0.1)
    assert recording.complete(threading.Event())
    assert heir.run(0).info.status == "FINISHED"
    assert heir.run(0).data.tags["sweep.outcome"] == "completed"
    assert any("another host" in said for said in heir.notices.said) is not left


def test_a_trial_whose_checkpoints_are_elsewhere_begins_anew_and_it_is_said(
    stage: Callable[..., Stage], tmp_path: Path
) -> None:
    there = stage(f"journal:///{tmp_path}/optuna.journal", trials=1)
    key = there.job()
    assert not there.report(key, 1, 2)
    there.search.release(there.driver._trials[key])  # as by a driver with another workspace
    assert there.notices.said == []
    assert there.job() == key
    [said] = there.notices.said
    folder = tmp_path / there.config.name / "0000"
    assert said.startswith(f"trial 0 of {there.config.name} had reached epoch 2, but {folder} holds no checkpoint of")


def test_a_trial_whose_workers_died_again_and_again_has_failed_for_good(
    stage: Callable[..., Stage], tmp_path: Path
) -> None:
    there = stage(f"journal:///{tmp_path}/optuna.journal", trials=1, max_failures=3)
    key = there.job()
    assert not there.report(key, 1)
    there.driver.on_trial_lost(key, "some details\nout of memory: the worker died 3 times in the same epoch")
    assert there.driver.ask() is None
    assert there.driver.is_finished()
    [row] = there.search.rows()
    assert (row.outcome, row.epochs) == ("failed", 1)
    assert row.error == "some details\nout of memory: the worker died 3 times in the same epoch"
    assert there.curve(0) == [1]


@pytest.mark.parametrize(
    ("max_failures", "errors", "outcome"), [(0, 1, "failed"), (1, 1, "completed"), (1, 2, "failed")]
)
def test_errors_of_a_trial_are_tried_again(
    stage: Callable[..., Stage], tmp_path: Path, max_failures: int, errors: int, outcome: str
) -> None:
    there = stage(f"journal:///{tmp_path}/optuna.journal", trials=1, max_failures=max_failures)
    for _ in range(errors):
        key = there.job()
        assert not there.report(key, 1)
        assert there.report(key, outcome="failed", error="Traceback: no such luck")
    if outcome == "completed":
        assert there.report(there.job(), 1, 2, 3, outcome="completed")
    assert there.driver.ask() is None
    assert there.driver.is_finished()
    [row] = there.search.rows()
    assert (row.outcome, row.error) == (outcome, "Traceback: no such luck")
    assert there.run(0).data.tags["sweep.error"] == "Traceback: no such luck"
    assert there.curve(0) == ([1, 2, 3] if outcome == "completed" else [1])


def test_out_of_memory_is_tried_once_more_alone_also_by_the_next_driver(
    stage: Callable[..., Stage], tmp_path: Path
) -> None:
    url, resources = f"journal:///{tmp_path}/optuna.journal", {"gpus": 0.5, "retry_oom": True}
    first = stage(url, resources, trials=1)
    with first.driver:
        key = first.job()
        assert not first.report(key, 1)
        assert first.report(key, outcome="failed", error="out of memory on the GPU", oom="GPU")
        again = first.driver.ask()
        assert again is not None
        assert (again.key, again.exclusive, again.attempt) == (key, True, 1)
        first.driver.on_trial_start(key)
        assert not first.report(key, 2)
    # That one was stopped in the middle.
    second = stage(url, resources, trials=1)
    with second.driver:
        adopted = second.driver.ask()
        assert adopted is not None
        assert (adopted.key, adopted.exclusive, adopted.attempt) == (key, True, 2)
        second.driver.on_trial_start(key)
        assert not second.report(key, 1, 2)
        assert second.report(key, outcome="failed", error="out of memory on the GPU", oom="GPU")
        assert second.driver.ask() is None
        assert second.driver.is_finished()
    [row] = second.search.rows()
    assert (row.outcome, row.error, row.epochs) == ("failed", "out of memory on the GPU", 2)
    assert row.tags["sweep.reason"] == "out of memory"
    assert second.curve(0) == [1, 2]


def test_a_storage_that_is_set_back_to_a_backup_is_settled(stage: Callable[..., Stage], tmp_path: Path) -> None:
    """A trial that it has as running is taken up again; one that it has as waiting, and MLflow has, is trained anew."""
    live, backup = tmp_path / "optuna.db", tmp_path / "backup.db"
    there = stage(f"sqlite:///{live}", trials=3)

    def copy(source: Path, target: Path) -> None:
        with contextlib.closing(sqlite3.connect(source)) as a, contextlib.closing(sqlite3.connect(target)) as b:
            a.backup(b)

    first = there.job()
    assert not there.report(first, 1)
    copy(live, backup)
    assert there.report(first, 2, outcome="completed")
    second = there.job()
    assert there.report(second, 1, 2, 3, outcome="completed")
    before = there.run(1).info.run_id
    copy(backup, live)
    assert [row.state for row in there.search.rows()] == ["running", "waiting", "waiting"]
    again = there.driver.ask()
    assert again is not None
    assert (again.key, again.attempt) == (first, 2)
    there.driver.on_trial_start(again.key)
    assert there.report(first, 1, 2, outcome="completed")
    assert there.job() == second
    assert there.report(second, 1, 2, outcome="completed")
    said = [message for message in there.notices.said if "set back" in message]
    assert said == [
        f"the storage was set back: trial 0 of {first[0]} had ended, and ends again by its checkpoint",
        f"the storage was set back: trial 1 of {first[0]}, which MLflow has, is trained anew",
    ]
    assert there.curve(0) == [1, 2]
    assert there.curve(1) == [1, 2]
    assert there.run(1).info.run_id != before
    assert there.report(there.job(), 1, outcome="completed")
    assert there.driver.ask() is None
    assert [row.outcome for row in there.search.rows()] == ["completed"] * 3


@pytest.mark.parametrize("before", [True, False])
def test_finalists_beside_those_of_an_earlier_run_are_announced(
    stage: Callable[..., Stage], tmp_path: Path, before: bool
) -> None:
    """An older version may have taken one configuration twice."""
    finalists = {"top": 2, "seeds": 1, "tuned": 0}
    there = stage(f"journal:///{tmp_path}/optuna.journal", trials=2, finalists=finalists)
    for _ in range(2):
        there.report(there.job(), 1, 2, 3, outcome="completed")
    if before:
        there.controls.add([row for row in wanted_rows(there.config, there.search.rows()) if row.of == 0])
    assert there.driver.ask() is not None
    line = "finalists are now also trial 1; they and their controls are trained"
    assert there.notices.said == [f"{there.config.name}: {line}"] * before
    assert sorted(row.of or 0 for row in there.controls.rows() if row.kind == "finalist") == [0, 1]


def test_out_of_memory_is_final_unless_it_is_to_be_tried_again(stage: Callable[..., Stage], tmp_path: Path) -> None:
    there = stage(f"journal:///{tmp_path}/optuna.journal", {"gpus": 0.5}, trials=1)
    key = there.job()
    there.driver.on_trial_lost(key, "the worker died: out of memory on the host", "host")
    assert there.driver.ask() is None
    assert there.driver.is_finished()
    [row] = there.search.rows()
    assert (row.outcome, row.tags) == ("failed", {"sweep.reason": "out of memory"})


def test_a_worker_is_told_at_which_epochs_its_trial_is_judged(stage: Callable[..., Stage], tmp_path: Path) -> None:
    there = stage(f"journal:///{tmp_path}/optuna.journal", trials=1, design=1, pruner="successive_halving")
    job = there.driver.ask()
    assert job is not None
    assert job.pruning_epochs == {1, 3}  # a design trial too: the others are compared with it
    there.driver.report(job.key, TrialReport([], None, "failed", "no reason", tags=WHERE))
    never = there.search.config.model_copy(
        update={"search": there.search.config.search.model_copy(update={"pruner": "none"})}
    )
    study = Study(never, open_storage(f"journal:///{tmp_path}/optuna.journal"), workspace=tmp_path)
    study.enqueue({})
    taken = study.ask()
    assert taken is not None
    assert study.pruning_epochs(taken) is None


@pytest.mark.exhaustive
@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_the_pruner_decides_alike_whether_epochs_come_one_by_one_or_all_at_once(
    study_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pruner: str
) -> None:
    config = study_config(
        space={"lambda1": 0.0, "depth": 2, "width": 8, "training.lr": {"low": 1e-5, "high": 1, "log": True}},
        search={"trials": 16, "pruner": pruner, "finalists": {"top": 0}},
    )
    ends = []
    for every_epoch in (True, False):  # nine epochs take less than the half second between two reports
        with monkeypatch.context() as patch:
            rayless.without_models(patch)
            settings = Settings(workspace=tmp_path / str(every_epoch), report=False)
            executor = rayless.EVERY_EPOCH if every_epoch else "local"
            rows = service.run(config, settings, rayless.Listener(), service.RunOptions(executor=executor)).rows
        ends.append([(row.outcome, row.value, row.epochs) for row in rows])
    assert ends[0] == ends[1]
    assert {outcome for outcome, *_ in ends[0]} >= {"completed", "pruned"}


def test_the_seconds_of_a_trial_are_those_of_its_epochs_each_once(stage: Callable[..., Stage], tmp_path: Path) -> None:
    there = stage(f"journal:///{tmp_path}/optuna.journal", trials=1)
    key = there.job()
    there.report(key, 1, 2)
    there.report(key, 1, 2)  # the history, of a worker that has taken it up
    there.report(key, 3, outcome="completed")
    assert [row.seconds for row in there.search.rows()] == [0.75]
