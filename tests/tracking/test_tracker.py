"""The tracker against real MLflow stores and a real server; what it wrote is read back with MLflow's own client."""

from __future__ import annotations

import contextlib
import http.server
import math
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import mlflow
import numpy as np
import pytest
import requests
import torch
from click.testing import CliRunner
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.experiments import commands
from mlflow.protos.databricks_pb2 import BAD_REQUEST, INVALID_PARAMETER_VALUE
from optuna.exceptions import StorageInternalError

from sweep.config.errors import TrackingError
from sweep.tracking.client import MlflowStore
from sweep.tracking.server import serve
from sweep.tracking.tracker import RunKey, Tracker
from sweep.training.program import Program
from sweep.training.reports import EpochMetrics

from ..support.empty_store import with_store
from ..support.relay import Relay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlflow.entities import Run

pytestmark = pytest.mark.filterwarnings("default")  # MLflow's and torch.export's own deprecations are not ours


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return f"sqlite:///{with_store(tmp_path)}/mlflow.db"


class Checkpoints:
    """The checkpoints of a test's trials, and the repair that sends them again."""

    def __init__(self, tracker: Tracker):
        self.tracker = tracker
        self._calls: list[Callable[[], None]] = []
        tracker.repair = self.repair

    def repair(self) -> None:
        for call in self._calls:
            call()

    def _log(self, call: Callable[[], None]) -> None:
        self._calls.append(call)
        call()

    def start(self, key: RunKey, **params: object) -> None:
        tags, begin = {"sweep.design": "true"}, self.tracker.start_trial
        begin(key, params=params, tags=tags, start_time=1_000_000)
        self._calls.append(lambda: begin(key, params=params, tags=tags, start_time=1_000_000, resumed=True))

    def log_epochs(self, key: RunKey, made: list[EpochMetrics]) -> None:
        self._log(lambda: self.tracker.log_epochs(key, made))

    def end(self, key: RunKey, **metrics: float) -> None:
        self._log(lambda: end(self.tracker, key, **metrics))


def opened(uri: str, experiment: str = "digits", artifacts: Path = Path("artifacts")) -> Tracker:
    tracker = Tracker(uri, experiment, artifacts=artifacts)
    tracker.open(description="a study", params={"trials": 2}, tags={"sweep.version": "1"})
    return tracker


def epochs(first: int, last: int, names: tuple[str, ...] = ("val_loss", "val_accuracy")) -> list[EpochMetrics]:
    return [
        EpochMetrics(epoch, {name: epoch + 0.5 * i for i, name in enumerate(names)}, 1_000_000 + epoch)
        for epoch in range(first, last + 1)
    ]


def start(tracker: Tracker, key: RunKey, **params: object) -> None:
    tracker.start_trial(key, params=params, tags={"sweep.design": "true"}, start_time=1_000_000)


def end(tracker: Tracker, key: RunKey, outcome: str | None = "completed", **metrics: float) -> None:
    tracker.end_trial(key, outcome=outcome, metrics=metrics, tags={}, end_time=2_000_000)


def runs(uri: str, experiment: str = "digits", kind: str = "trial") -> list[Run]:
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return list(client.search_runs([found.experiment_id], f"tags.`sweep.kind` = '{kind}'"))


def history(uri: str, run: Run, name: str) -> list[tuple[int, float]]:
    return sorted((m.step, m.value) for m in MlflowClient(uri).get_metric_history(run.info.run_id, name))


TRIAL = RunKey("digits", "trial", 17)


def test_a_trial_is_one_whole_run(uri: str, tmp_path: Path) -> None:
    tracker = opened(uri, artifacts=tmp_path / "artifacts")
    start(tracker, TRIAL, lambda1=1.2862475661952542e-05, depth=4, optimizer="adam", guided=True)
    tracker.log_epochs(TRIAL, epochs(1, 3))
    end(tracker, TRIAL, objective=0.25)
    assert tracker.close(status="FINISHED")
    assert tracker.error is None

    [parent], [run] = runs(uri, kind="study"), runs(uri)
    assert run.info.run_name == "digits-0017"
    assert run.info.status == "FINISHED"
    assert run.info.start_time == 1_000_000
    assert run.info.end_time == 2_000_000
    # 17 digits would be cut before their exponent by a column of the UI.
    assert run.data.params == {"lambda1": "1.28625e-05", "depth": "4", "optimizer": "adam", "guided": "True"}
    # Hyperparameters that are numbers are metrics too, exact, to sort by; a bool is none.
    numbers = {"lambda1": 1.2862475661952542e-05, "depth": 4}
    assert run.data.metrics == {"val_loss": 3, "val_accuracy": 3.5, "objective": 0.25, **numbers}
    assert history(uri, run, "val_accuracy") == [(1, 1.5), (2, 2.5), (3, 3.5)]
    tags = run.data.tags
    assert tags["sweep.study"] == "digits"
    assert (tags["sweep.kind"], tags["sweep.trial"], tags["sweep.outcome"]) == ("trial", "17", "completed")
    assert tags["sweep.design"] == "true"
    assert tags["mlflow.parentRunId"] == parent.info.run_id
    assert parent.info.status == "FINISHED"
    assert parent.data.params == {"trials": "2"}
    assert parent.data.tags["mlflow.note.content"] == "a study"
    experiment = MlflowClient(uri).get_experiment_by_name("digits")
    assert experiment is not None
    assert experiment.artifact_location == (tmp_path / "artifacts").as_uri()
    late = Tracker(uri, "digits", artifacts=tmp_path)
    assert experiment.experiment_id == tracker.store.experiment_id == late.store.find_experiment()


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        ("completed", "FINISHED"),
        ("pruned", "FINISHED"),
        ("diverged", "FINISHED"),
        ("failed", "FAILED"),
        (None, "KILLED"),
    ],
)
def test_outcome_decides_the_status(uri: str, outcome: str | None, status: str) -> None:
    tracker = opened(uri)
    start(tracker, TRIAL)
    end(tracker, TRIAL, outcome)
    tracker.close(status="FINISHED")
    [run] = runs(uri)
    assert run.info.status == status
    assert run.data.tags.get("sweep.outcome") == outcome
    assert "objective" not in run.data.metrics


def test_a_resumed_study_continues_its_runs(uri: str) -> None:
    first = opened(uri)
    start(first, TRIAL, lambda1=1e-3)
    first.log_epochs(TRIAL, epochs(1, 3))
    assert first.flush(20)  # and then the driver is killed: nothing is closed

    second = opened(uri)
    state = second.store.found[TRIAL]
    assert (state.outcome, state.status) == (None, "RUNNING")
    second.start_trial(TRIAL, params={"lambda1": 1e-3, "lambda2": 0.0}, tags={}, start_time=1_500_000)
    second.log_epochs(TRIAL, epochs(2, 6))  # 2 and 3 were sent before
    second.close(status="KILLED")
    [run] = runs(uri)
    assert run.info.status == "KILLED"
    assert runs(uri, kind="study")[0].info.status == "KILLED"

    third = opened(uri)
    assert third.store.found[TRIAL].run_id == state.run_id == run.info.run_id
    assert runs(uri, kind="study")[0].info.status == "RUNNING"
    third.start_trial(TRIAL, params={"lambda1": 0.5}, tags={}, start_time=1_700_000)  # what a run has, it keeps
    third.flush(20)
    assert runs(uri)[0].info.status == "RUNNING"
    end(third, TRIAL, objective=6.0)
    third.close(status="FINISHED")
    fourth = Tracker(uri, "digits", artifacts=Path("artifacts"))
    fourth.open(description="extended", params={"trials": 100}, tags={})
    end(fourth, TRIAL, objective=7.0)  # told again by a driver that did not know
    assert fourth.close(status="FINISHED")
    assert fourth.error is None

    [run] = runs(uri)
    assert run.info.status == "FINISHED"
    assert len(runs(uri, kind="study")) == 1
    assert run.data.params == {"lambda1": "0.001", "lambda2": "0.0"}
    assert history(uri, run, "val_loss") == [(epoch, float(epoch)) for epoch in range(1, 7)]
    assert history(uri, run, "lambda1") == [(0, 1e-3)]
    assert history(uri, run, "objective") == [(0, 6.0)]
    assert runs(uri, kind="study")[0].data.params == {"trials": "2"}
    # A value of a run that died before its answer came is sent again: the time it carries must not move.
    assert [m.timestamp for m in MlflowClient(uri).get_metric_history(run.info.run_id, "objective")] == [1_000_000]
    assert opened(uri).store.found[TRIAL].outcome == "completed"


def test_a_trial_adopted_from_another_driver_keeps_its_run(uri: str) -> None:
    ours, theirs = opened(uri), opened(uri)
    start(theirs, TRIAL)
    theirs.log_epochs(TRIAL, epochs(1, 2))
    assert theirs.flush(20)
    ours.start_trial(TRIAL, params={}, tags={}, start_time=1_500_000, resumed=True)
    ours.log_epochs(TRIAL, epochs(1, 4))
    end(ours, TRIAL)
    ours.close(status="FINISHED")
    [run] = runs(uri)
    assert [step for step, _ in history(uri, run, "val_loss")] == [1, 2, 3, 4]


def test_epochs_that_were_trained_again_are_logged_once(uri: str) -> None:
    """As after a damaged checkpoint: the epochs since the one before it come again, with other timestamps."""

    def later(first: int, last: int) -> list[EpochMetrics]:
        return [EpochMetrics(e.epoch, e.values, e.timestamp + 500) for e in epochs(first, last)]

    tracker = opened(uri)
    start(tracker, TRIAL)
    tracker.log_epochs(TRIAL, epochs(1, 2))
    tracker.log_epochs(TRIAL, epochs(1, 1) + later(2, 3))  # a worker was lost before anything was sent
    assert tracker.flush(20)
    tracker.log_epochs(TRIAL, later(3, 4))  # and another one, after it was
    assert tracker.flush(20)
    heir = opened(uri)
    heir.start_trial(TRIAL, params={}, tags={}, start_time=1_500_000, resumed=True)
    heir.log_epochs(TRIAL, epochs(1, 6))
    end(heir, TRIAL)
    heir.close(status="FINISHED")
    [run] = runs(uri)
    for name in ("val_loss", "val_accuracy"):
        assert [step for step, _ in history(uri, run, name)] == [1, 2, 3, 4, 5, 6]
    logged = MlflowClient(uri).get_metric_history(run.info.run_id, "val_loss")
    ended = {metric.step: metric.timestamp - 1_000_000 for metric in logged}
    assert ended == {1: 1, 2: 2, 3: 503, 4: 504, 5: 5, 6: 6}  # the first word counts


def test_kinds_and_studies_do_not_mix(uri: str) -> None:
    tracker = opened(uri)
    keys = [TRIAL, RunKey("digits.controls", "control", 17), RunKey("digits.controls", "finalist", 17)]
    for key in keys:
        start(tracker, key)
        end(tracker, key)
    tracker.close(status="FINISHED")
    assert opened(uri).store.found.keys() == set(keys)
    assert [len(runs(uri, kind=kind)) for kind in ("trial", "control", "finalist")] == [1, 1, 1]


def test_the_outcome_comes_last(uri: str) -> None:
    """A run seen with its outcome has all its metrics, files and params, also when they fill many calls."""
    tracker = opened(uri)
    params = {f"p{i:03}": i for i in range(130)}
    start(tracker, TRIAL, **params)
    tracker.log_epochs(TRIAL, epochs(1, 200, tuple(f"entropy/{i}" for i in range(12))))
    tracker.log_text(TRIAL, "x: 1", "config.yaml")
    end(tracker, TRIAL, objective=1.0)
    seen = None
    flushing = threading.Thread(target=tracker.flush, args=(60,))
    flushing.start()
    while seen is None or "sweep.outcome" not in seen.data.tags:
        for seen in runs(uri):
            assert seen.info.status == "RUNNING" or "sweep.outcome" in seen.data.tags
    assert len(seen.data.params) == 130
    assert seen.data.metrics["entropy/11"] == 200 + 5.5
    assert [file.path for file in MlflowClient(uri).list_artifacts(seen.info.run_id)] == ["config.yaml"]
    flushing.join()
    assert len(history(uri, seen, "entropy/0")) == 200
    tracker.close(status="FINISHED")


def test_a_new_start_takes_an_end_back(uri: str) -> None:
    tracker = opened(uri)
    start(tracker, TRIAL)
    end(tracker, TRIAL, None)  # a lost machine, and the trial goes on elsewhere before anything was sent
    start(tracker, TRIAL)
    assert tracker.flush(20)
    assert runs(uri)[0].info.status == "RUNNING"
    end(tracker, TRIAL, "pruned", last_objective=3.0)
    tracker.close(status="FINISHED")
    assert runs(uri)[0].info.status == "FINISHED"


def test_not_a_number_and_infinity_are_stored(uri: str) -> None:
    tracker = opened(uri)
    start(tracker, TRIAL)
    bad = [EpochMetrics(1, {"val_loss": math.nan, "train_loss": math.inf, "ok": 1.0}, 1_000_001)]
    tracker.log_epochs(TRIAL, bad)
    assert tracker.flush(20)
    tracker.log_epochs(TRIAL, bad)
    end(tracker, TRIAL, "diverged")
    tracker.close(status="FINISHED")
    [run] = runs(uri)
    assert run.data.metrics["ok"] == 1.0
    for name in ("val_loss", "train_loss"):
        [(step, value)] = history(uri, run, name)
        assert step == 1
        assert math.isnan(value)


def test_a_run_is_found_by_its_tags(uri: str, tmp_path: Path) -> None:
    tracker = opened(uri)
    control = RunKey("digits.controls", "control", 17)
    for key in (TRIAL, control):
        start(tracker, key)
        end(tracker, key)
    tracker.close(status="FINISHED")
    late = Tracker(uri, "digits", artifacts=tmp_path / "artifacts")
    experiment = late.store.find_experiment()
    assert experiment is not None
    missing = RunKey("digits", "trial", 18)
    found = late.store.find_runs(experiment, [TRIAL, control, missing])
    assert found == {TRIAL: runs(uri)[0].info.run_id, control: runs(uri, kind="control")[0].info.run_id}
    with pytest.raises(TrackingError, match="unreachable"):
        Tracker("http://127.0.0.1:1", "digits", artifacts=tmp_path).store.find_runs("1", [TRIAL])


def test_the_experiment_is_described_at_every_opening(uri: str) -> None:
    for text in ("first", "second"):
        tracker = Tracker(uri, "digits", artifacts=Path("artifacts"))
        tracker.open(description="", params={}, tags={}, experiment_tags={"mlflow.note.content": text})
        tracker.close(status="FINISHED")
        late = Tracker(uri, "digits", artifacts=Path("artifacts"))
        late.store.find_experiment()
        assert late.store.experiment_tags["mlflow.note.content"] == text


def test_long_values_and_strange_layer_names_are_taken(uri: str) -> None:
    tracker = opened(uri)
    tracker.start_trial(TRIAL, params={"long": "é" * 9_000}, tags={"trace": "x" * 9_000}, start_time=1)
    tracker.log_epochs(TRIAL, [EpochMetrics(1, {"entropy/block[0]": 2.0}, 1_000_001)])
    end(tracker, TRIAL)
    tracker.close(status="FINISHED")
    assert tracker.error is None
    [run] = runs(uri)
    assert run.data.params["long"].startswith("éé")
    assert run.data.params["long"].endswith("...")
    assert run.data.tags["trace"].startswith("xxx")
    assert run.data.metrics == {"entropy/block_0_": 2.0}


def test_what_mlflow_refuses_is_told_and_stops_nothing_else(uri: str, tmp_path: Path) -> None:
    tracker = opened(uri)
    start(tracker, TRIAL)
    tracker.log_files(TRIAL, [tmp_path / "missing.pt"])
    other = RunKey("digits", "trial", 18)
    start(tracker, other)
    end(tracker, other)
    assert tracker.flush(20)
    assert tracker.error is not None
    assert "digits-0017" in tracker.error
    assert "missing.pt" in tracker.error
    assert {run.info.run_name: run.info.status for run in runs(uri)}["digits-0018"] == "FINISHED"
    tracker.close(status="FINISHED")


def test_a_run_that_fails_again_and_again_does_not_hold_up_the_others(uri: str, tmp_path: Path) -> None:
    (tmp_path / "artifacts").touch()  # where a folder should be made
    tracker = opened(uri, artifacts=tmp_path / "artifacts")
    (tmp_path / "weights.pt").touch()
    tracker.log_files(None, [tmp_path / "weights.pt"])
    start(tracker, TRIAL)
    end(tracker, TRIAL)
    assert not tracker.flush(4)
    assert tracker.error is not None
    assert runs(uri)[0].info.status == "FINISHED"
    (tmp_path / "artifacts").unlink()
    assert tracker.flush(20)
    assert tracker.error is None
    assert tracker.close(status="FINISHED")


def test_files_land_in_the_artifacts_folder(uri: str, tmp_path: Path) -> None:
    tracker = opened(uri, artifacts=tmp_path / "artifacts")
    (tmp_path / "weights.pt").write_bytes(b"weights")
    tracker.log_files(None, [tmp_path / "weights.pt"], "best")
    tracker.close(status="FINISHED")
    [parent] = runs(uri, kind="study")
    assert [file.path for file in MlflowClient(uri).list_artifacts(parent.info.run_id, "best")] == ["best/weights.pt"]
    assert len(list((tmp_path / "artifacts").rglob("weights.pt"))) == 1


def test_work_queued_before_opening_is_kept(uri: str) -> None:
    tracker = Tracker(uri, "digits", artifacts=Path("artifacts"))
    start(tracker, TRIAL)
    tracker.log_epochs(TRIAL, epochs(1, 2))
    tracker.open(description="", params={}, tags={})
    end(tracker, TRIAL)
    assert tracker.close(status="FINISHED")
    assert len(history(uri, runs(uri)[0], "val_loss")) == 2


def test_deleted_experiment_is_refused_with_the_way_back(uri: str) -> None:
    opened(uri).close(status="FINISHED")
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("digits")
    assert experiment is not None
    client.delete_experiment(experiment.experiment_id)
    with pytest.raises(TrackingError, match="'digits' was deleted") as error:
        opened(uri)
    restore = next(line for line in str(error.value).splitlines() if " restore " in line)
    variable, *command, name, option, value = shlex.split(restore)
    assert [variable, *command] == [f"MLFLOW_TRACKING_URI={uri}", "mlflow", "experiments"]
    done = CliRunner().invoke(commands, [name, option, value], env={"MLFLOW_TRACKING_URI": uri})
    assert done.exit_code == 0, done.output
    opened(uri).close(status="FINISHED")


def test_a_store_that_cannot_be_written_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    started = time.monotonic()
    with pytest.raises(TrackingError, match="unreachable"):
        Tracker(f"sqlite:///{tmp_path}/file/mlflow.db", "digits", artifacts=tmp_path).store.find_experiment(create=True)
    assert time.monotonic() - started < 60


def test_whoever_only_looks_creates_no_store(tmp_path: Path) -> None:
    tracker = Tracker(f"sqlite:///{tmp_path}/results/mlflow.db", "digits", artifacts=tmp_path / "results" / "artifacts")
    assert (tracker.store.find_experiment(), tracker.open_existing()) == (None, False)
    assert list(tmp_path.iterdir()) == []


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_an_unreachable_server_is_told_soon_and_without_its_password() -> None:
    uri = f"http://ann:s3cret@127.0.0.1:{free_port()}"
    tracker = Tracker(uri, "digits", artifacts=Path("artifacts"))
    started = time.monotonic()
    with pytest.raises(TrackingError, match=r"http://ann:\*\*\*@127\.0\.0\.1") as error:
        tracker.open(description="", params={}, tags={})
    assert time.monotonic() - started < 60
    assert "refused" in str(error.value)
    assert "s3cret" not in str(error.value)
    assert not tracker.close(status="FAILED", timeout=1) or tracker.error is None


def test_a_silent_server_is_told_soon() -> None:
    with socket.socket() as listener:  # takes connections and never answers
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        url, started = f"http://127.0.0.1:{listener.getsockname()[1]}", time.monotonic()
        with pytest.raises(TrackingError, match="unreachable"):
            Tracker(url, "digits", artifacts=Path("artifacts")).store.find_experiment()
    assert time.monotonic() - started < 60


def test_import_does_not_load_mlflow() -> None:
    code = "import sys, sweep.tracking.tracker; print('mlflow' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False"]


def test_mlflow_is_silent(uri: str) -> None:
    path = uri.removeprefix("sqlite:///")
    code = f"""
from pathlib import Path
from sweep.tracking.tracker import RunKey, Tracker
Path({path!r}).unlink()  # so that the migrations run and may talk
tracker = Tracker({uri!r}, "digits", artifacts=Path("artifacts"))
tracker.open(description="", params={{}}, tags={{}})
key = RunKey("digits", "trial", 0)
tracker.start_trial(key, params={{}}, tags={{}}, start_time=1)
tracker.end_trial(key, outcome="completed", metrics={{}}, tags={{}}, end_time=2)
assert tracker.close(status="FINISHED")
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout + done.stderr == ""


class Scaled(torch.nn.Module):
    """A class that only this file knows."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(64, 10)
        self.dropout = torch.nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.dropout(self.linear(x.flatten(1))))


def test_a_logged_model_predicts_without_this_project_and_without_unpickling(uri: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Scaled()
    batch = np.random.default_rng(0).random((5, 1, 8, 8), dtype=np.float32)
    expected = model.eval()(torch.from_numpy(batch)).detach().numpy()
    tracker = opened(uri, artifacts=tmp_path / "artifacts")
    start(tracker, TRIAL, lambda1=0.1)
    end(tracker, TRIAL)
    program = Program(model.train(), torch.nn.Identity(), torch.from_numpy(batch[:1]), {"classes": ["0", "1"]})
    tracker.log_model(TRIAL, program)
    tracker.log_model(TRIAL, program)  # a resumed study logs it again: it is there
    assert tracker.close(status="FINISHED", timeout=120)
    assert tracker.error is None
    [run] = runs(uri)
    assert len(MlflowClient(uri).search_logged_models([run.info.experiment_id])) == 1

    np.save(tmp_path / "batch.npy", batch)
    (tmp_path / "predict.py").write_text(f"""
import mlflow, numpy as np
mlflow.set_tracking_uri({uri!r})
model = mlflow.pyfunc.load_model("runs:/{run.info.run_id}/model")
assert model.metadata.metadata == {{"classes": ["0", "1"]}}
assert model.metadata.signature is not None and model.input_example.shape[1:] == (1, 8, 8)
np.save("predicted.npy", model.predict(np.load("batch.npy")))
try:
    import sweep
except ImportError:
    print("without")
""")
    # -S leaves out the editable install of this project; the other packages come by their path.
    packages = str(Path(mlflow.__file__).parents[1])
    environment = {**os.environ, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "PYTHONPATH": packages}
    command = [sys.executable, "-S", "predict.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "without"
    np.testing.assert_allclose(np.load(tmp_path / "predicted.npy"), expected, rtol=1e-5, atol=1e-6)


def served(uri: str, artifacts: Path, port: int) -> subprocess.Popen[bytes]:
    command, environment = serve(uri, artifacts, port=port)
    log = artifacts.with_name("server.log")
    with log.open("ab") as output:
        server = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    for _ in range(2400):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
        except OSError:
            assert server.poll() is None, log.read_text()
            time.sleep(0.1)
        else:
            return server
    raise TimeoutError(f"{command}\n{log.read_text()}")


def stopped(server: subprocess.Popen[bytes]) -> None:
    os.killpg(server.pid, signal.SIGKILL)  # its own session: only what this test started
    server.wait()


class Server(NamedTuple):
    url: str
    store: str
    folder: Path
    processes: list[subprocess.Popen[bytes]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    with_store(folder)
    store = f"sqlite:///{folder}/mlflow.db"
    running = Server(f"http://127.0.0.1:{port}", store, folder, [served(store, folder / "artifacts", port)])
    yield running
    stopped(running.processes[-1])


class Proxy(http.server.BaseHTTPRequestHandler):
    """Passes requests on to a server, but loses the answer to the first creation of a run."""

    protocol_version = "HTTP/1.1"
    target: ClassVar[str]
    creations: ClassVar[int] = 0

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {"Content-Type": self.headers.get("Content-Type", "")}
        request = urllib.request.Request(self.target + self.path, body or None, headers, method=self.command)
        try:
            with urllib.request.urlopen(request) as response:
                status, answer = response.status, response.read()
        except urllib.error.HTTPError as error:
            status, answer = error.code, error.read()
        if self.path.endswith("runs/create") and b"sweep.trial" in body:
            type(self).creations += 1
            if self.creations == 1:
                self.close_connection = True
                return
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_PATCH = do_POST  # noqa: N815  http.server's names

    def log_message(self, *args: object) -> None:
        pass


class Refusing(Proxy):
    """Refuses everything."""

    def do_GET(self) -> None:
        self.send_response(401)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextlib.contextmanager
def listening(handler: type[Proxy]) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{proxy.server_address[1]}"
        proxy.shutdown()


def test_a_creation_whose_answer_is_lost_is_not_repeated(server: Server) -> None:
    Proxy.target = server.url
    with listening(Proxy) as url:
        tracker = opened(url, "lost")
        trials = Checkpoints(tracker)
        trials.start(TRIAL)
        trials.log_epochs(TRIAL, epochs(1, 2))
        trials.end(TRIAL)
        assert tracker.close(status="FINISHED")
    assert Proxy.creations == 1
    [run] = runs(server.store, "lost")
    assert run.info.status == "FINISHED"
    assert len(history(server.store, run, "val_loss")) == 2


def test_a_connection_that_the_server_has_closed_is_no_outage(server: Server) -> None:
    with Relay(server.url) as relay:
        tracker = opened(relay.url, "closed")
        trials = Checkpoints(tracker)
        trials.start(TRIAL)
        assert tracker.flush(30)
        relay.closes_next = True
        trials.end(TRIAL)
        assert tracker.flush(30)
        assert not relay.closes_next
        assert not tracker._outages
        assert tracker.close(status="FINISHED")
    [run] = runs(server.store, "closed")
    assert run.info.status == "FINISHED"


def test_a_host_name_that_the_server_does_not_know_says_how_it_learns_it(server: Server) -> None:
    strange = server.url.replace("127.0.0.1", "127.0.0.1.nip.example")
    with pytest.MonkeyPatch.context() as names:
        resolve = socket.getaddrinfo
        names.setattr(socket, "getaddrinfo", lambda _host, *a, **k: resolve("127.0.0.1", *a, **k))
        with pytest.raises(TrackingError, match=r"host name.*--name NAME"):
            opened(strange)


def test_a_refused_login_says_which_variables() -> None:
    with listening(Refusing) as url, pytest.raises(TrackingError, match=r"refuses access.*MLFLOW_TRACKING_USERNAME"):
        opened(url)


def test_a_server_that_dies_and_comes_back_loses_and_doubles_nothing(server: Server) -> None:
    tracker = opened(server.url, "dies")
    trials = Checkpoints(tracker)
    keys = [RunKey("dies", "trial", number) for number in range(6)]
    bad = EpochMetrics(3, {"val_loss": math.nan}, 1_000_003)
    for key in keys[:3]:
        trials.start(key, lambda1=0.5)
        trials.log_epochs(key, [*epochs(1, 2), bad])
    tracker.log_text(None, "x: 1", "study.yaml")
    assert tracker.flush(20)

    stopped(server.processes[-1])
    for key in keys[3:]:
        trials.start(key, lambda1=0.5)
    for key in keys:
        trials.log_epochs(key, [*epochs(1, 2), bad, *epochs(4, 5)])
        trials.end(key, objective=0.1)
    assert not tracker.flush(3)
    assert tracker.error is not None
    assert "refused" in tracker.error
    assert server.url in tracker.error
    late, key = Tracker(server.url, "late", artifacts=server.folder / "artifacts"), RunKey("late", "trial", 0)
    with pytest.raises(TrackingError, match="refused"):
        late.open(description="", params={}, tags={})
    late.open(description="", params={}, tags={}, offline_ok=True)
    assert late.error is not None
    assert "refused" in late.error
    late_trials = Checkpoints(late)
    late_trials.start(key, lambda1=0.5)
    late_trials.log_epochs(key, epochs(1, 2))
    late_trials.end(key, objective=0.1)
    assert not late._pending  # no queue grows while the server is away

    server.processes.append(served(server.store, server.folder / "artifacts", int(server.url.rpartition(":")[2])))
    for each in (tracker, late):
        assert each.flush(60)
        assert each.error is None
        assert each.close(status="FINISHED")

    [run] = runs(server.store, "late")
    assert (run.info.status, [step for step, _ in history(server.store, run, "val_loss")]) == ("FINISHED", [1, 2])
    found = runs(server.store, "dies")
    assert sorted(run.info.run_name for run in found) == [f"dies-{number:04d}" for number in range(6)]
    for run in found:
        assert run.info.status == "FINISHED"
        assert run.data.tags["sweep.outcome"] == "completed"
        assert [step for step, _ in history(server.store, run, "val_loss")] == [1, 2, 3, 4, 5]
        assert [step for step, _ in history(server.store, run, "val_accuracy")] == [1, 2, 4, 5]
        assert history(server.store, run, "objective") == [(0, 0.1)]
    [parent] = runs(server.store, "dies", kind="study")
    assert parent.info.status == "FINISHED"
    assert len(list((server.folder / "artifacts").rglob("study.yaml"))) == 1


def test_an_experiment_belongs_to_one_study_and_to_whoever_began_it(uri: str, tmp_path: Path) -> None:
    def begin(**tags: str) -> Tracker:
        tracker = Tracker(uri, "digits", artifacts=tmp_path, experiment="vision/digits")
        tracker.open(description="", params={}, tags={}, experiment_tags=tags)
        return tracker

    begin(**{"sweep.id": "one", "sweep.owner": "ann"}).close(status="FINISHED")
    begin(**{"sweep.id": "one", "sweep.owner": "bob"}).close(status="FINISHED")
    found = MlflowClient(uri).get_experiment_by_name("vision/digits")
    assert found is not None
    assert (found.tags["sweep.id"], found.tags["sweep.owner"]) == ("one", "ann")
    [parent] = MlflowClient(uri).search_runs([found.experiment_id])
    assert (parent.info.run_name, parent.data.tags["sweep.study"]) == ("digits", "digits")
    with pytest.raises(TrackingError, match="'vision/digits' is another study's of this name, which ann owns") as error:
        begin(**{"sweep.id": "two"})
    assert "SWEEP_EXPERIMENT_PREFIX" in str(error.value)


def test_an_experiment_that_was_renamed_is_the_studys_still(uri: str, tmp_path: Path) -> None:
    def store(study_id: str | None = "one") -> MlflowStore:
        return MlflowStore(uri, "digits", tmp_path, study_id=study_id)

    tags = {"sweep.id": "one"}
    store().begin("", {}, {}, tags, None)
    client = MlflowClient(uri)
    before = client.get_experiment_by_name("digits")
    assert before is not None
    client.rename_experiment(before.experiment_id, "my nice name")
    store().begin("", {}, {}, tags, None)
    assert {each.name for each in client.search_experiments()} == {"Default", "my nice name"}
    assert len(client.search_runs([before.experiment_id])) == 1
    assert store().find_experiment() == before.experiment_id
    assert store("of a study that began anew").find_experiment() is None
    store(None).begin("", {}, {}, {"sweep.id": "another"}, None)  # the name is free
    assert store().find_experiment() == before.experiment_id


# -- a server that stumbles, two drivers -------------------------------------------------------------------------------


def failing(monkeypatch: pytest.MonkeyPatch, tracker: Tracker, call: str, *errors: Exception, of: str = "") -> None:
    """The next calls of a kind raise errors, those about one run alone where ``of`` is its name."""
    client, left = tracker.store._client(), list(errors)
    real = getattr(client, call)

    def stumbles(run_id: str, *words: Any, **more: Any) -> Any:
        if left and (not of or client.get_run(run_id).info.run_name == of):
            raise left.pop(0)
        return real(run_id, *words, **more)

    monkeypatch.setattr(client, call, stumbles)


def test_what_the_servers_database_refuses_for_a_while_is_not_lost_and_holds_nobody_up(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker, other = opened(uri), RunKey("digits", "trial", 18)
    busy = MlflowException("QueuePool limit of size 5 overflow 10 reached", error_code=BAD_REQUEST)
    failing(monkeypatch, tracker, "log_batch", *[busy] * 3, of=TRIAL.name)
    trials = Checkpoints(tracker)
    trials.start(TRIAL, lambda1=0.5)
    trials.log_epochs(TRIAL, epochs(1, 5))
    trials.start(other)
    trials.end(other)
    assert not tracker.flush(2)
    assert "QueuePool" in (tracker.error or "")
    assert {run.info.run_name: run.info.status for run in runs(uri)}[other.name] == "FINISHED"
    trials.log_epochs(TRIAL, epochs(6, 8))
    trials.end(TRIAL)
    assert tracker.close(status="FINISHED")
    assert (tracker.error, tracker.dropped) == (None, [])
    whole = next(run for run in runs(uri) if run.info.run_name == TRIAL.name)
    assert whole.data.params == {"lambda1": "0.5"}
    assert [step for step, _ in history(uri, whole, "val_loss")] == [*range(1, 9)]


def test_a_run_that_lacks_what_was_refused_has_no_outcome_and_is_sent_again_by_the_next_driver(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = opened(uri)
    refused = MlflowException("not a parameter", error_code=INVALID_PARAMETER_VALUE)
    failing(monkeypatch, tracker, "log_batch", refused, of=TRIAL.name)
    start(tracker, TRIAL, lambda1=0.5)
    assert tracker.flush(10)
    assert "not a parameter" in tracker.dropped[0]
    end(tracker, TRIAL)
    tracker.close(status="FINISHED")
    late = opened(uri)
    assert late.store.found[TRIAL].outcome is None
    start(late, TRIAL, lambda1=0.5)
    end(late, TRIAL)
    assert late.close(status="FINISHED")
    assert (runs(uri)[0].data.params, runs(uri)[0].data.tags["sweep.outcome"]) == ({"lambda1": "0.5"}, "completed")


def test_an_upload_that_is_refused_is_dropped_after_a_while_and_nothing_else(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweep.tracking.tracker.JOB_SECONDS", 1.0)
    response = requests.Response()
    response.status_code = 413
    tracker = opened(uri, artifacts=tmp_path / "artifacts")
    client = tracker.store._client()
    log = client.log_artifact

    def small_ones(run_id: str, path: str, folder: str | None = None) -> None:
        if path.endswith(".pt"):
            raise requests.HTTPError("too large", response=response)
        log(run_id, path, folder)

    monkeypatch.setattr(client, "log_artifact", small_ones)
    (tmp_path / "weights.pt").touch()
    start(tracker, TRIAL)
    tracker.log_files(TRIAL, [tmp_path / "weights.pt"])
    tracker.log_text(TRIAL, "seed: 1", "study.yaml")
    end(tracker, TRIAL)
    assert tracker.close(status="FINISHED")
    assert not tracker.behind
    assert [("too large" in each, TRIAL.name in each) for each in tracker.dropped] == [(True, True)]
    [run] = runs(uri)
    assert (run.info.status, run.data.tags["sweep.outcome"]) == ("FINISHED", "completed")
    assert [each.path for each in MlflowClient(uri).list_artifacts(run.info.run_id)] == ["study.yaml"]


def test_a_trial_that_another_driver_has_ended_stays_ended(uri: str) -> None:
    asleep = opened(uri)
    start(asleep, TRIAL)
    assert asleep.flush(10)
    heir = opened(uri)
    heir.start_trial(TRIAL, params={}, tags={}, start_time=1_000_000, resumed=True)
    end(heir, TRIAL)
    assert heir.close(status="FINISHED")
    asleep.close(status="KILLED")
    [run] = runs(uri)
    assert (run.info.status, run.data.tags["sweep.outcome"]) == ("FINISHED", "completed")


@pytest.mark.parametrize("whole", [False, True])
def test_a_second_run_of_a_trial_goes_when_one_is_whole(uri: str, monkeypatch: pytest.MonkeyPatch, whole: bool) -> None:
    """Its creation took longer than its driver waited, and no search found it; or two drivers created it at once."""
    tracker = opened(uri)
    client, late = tracker.store._client(), []
    create = client.create_run

    def slowly(*words: Any, **more: Any) -> Any:
        late.append(1)
        if len(late) == 1:
            raise requests.Timeout("no answer")
        create(*words, **more)  # that which was late
        return create(*words, **more)

    monkeypatch.setattr(client, "create_run", slowly)
    Checkpoints(tracker).start(TRIAL, lambda1=0.5)
    assert tracker.flush(20)
    first, second = runs(uri)
    if whole:  # by another driver, at the same time
        for run in (first, second):
            client.set_tag(run.info.run_id, "sweep.outcome", "completed")
    end(tracker, TRIAL)
    assert tracker.close(status="FINISHED")
    assert len(runs(uri)) == 1 + whole
    late_one = opened(uri)
    assert late_one.close(status="FINISHED")
    assert [run.info.run_id for run in runs(uri)] == [late_one.store.found[TRIAL].run_id]
    assert runs(uri)[0].data.tags["sweep.outcome"] == "completed"


def test_files_for_a_trial_that_another_driver_has_run_reach_its_run(uri: str, tmp_path: Path) -> None:
    ours = opened(uri, artifacts=tmp_path / "artifacts")
    other = opened(uri, artifacts=tmp_path / "artifacts")
    start(other, TRIAL)
    end(other, TRIAL)
    assert other.close(status=None)
    ours.log_text(TRIAL, "seed: 1", "study.yaml")
    assert ours.close(status="FINISHED")
    assert ours.dropped == []
    assert [each.path for each in MlflowClient(uri).list_artifacts(runs(uri)[0].info.run_id)] == ["study.yaml"]


def test_a_storage_that_is_away_when_the_server_is_back_does_not_end_the_recorder(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(uri).close(status="FINISHED")  # so that there is something to compare with what was taken
    monkeypatch.setattr("sweep.tracking.tracker.ROUND_SECONDS", 0.1)
    tracker = Tracker(uri, "digits", artifacts=Path("artifacts"))
    answers = iter([TrackingError("away"), StorageInternalError("away, too"), set()])
    begin = tracker.store.begin

    def beginning(*words: Any) -> None:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        begin(*words)

    monkeypatch.setattr(tracker.store, "begin", beginning)
    tracker.open(description="", params={}, tags={}, offline_ok=True)
    trials = Checkpoints(tracker)
    trials.start(TRIAL)
    trials.end(TRIAL)
    assert tracker.close(status="FINISHED", timeout=120)
    assert runs(uri)[0].info.status == "FINISHED"


@pytest.mark.parametrize("slow", [False, True])
def test_a_server_that_is_away_or_slow_for_long_does_not_fill_the_memory(
    uri: str, monkeypatch: pytest.MonkeyPatch, slow: bool
) -> None:
    monkeypatch.setattr("sweep.tracking.tracker.ROUND_SECONDS", 0.1)
    monkeypatch.setattr("sweep.tracking.tracker.QUEUED", 3)
    monkeypatch.setattr("sweep.tracking.tracker.REPAIRED", 2)
    tracker, answers, most = opened(uri), threading.Event(), 0
    client, trials = tracker.store._client(), Checkpoints(tracker)
    create = client.create_run

    def creating(*words: Any, **more: Any) -> Any:
        if not answers.is_set() and not slow:
            raise requests.ConnectionError("refused")
        answers.wait()
        return create(*words, **more)

    def repair() -> None:
        nonlocal most
        for call in trials._calls:
            call()
            tracker.make_room()
            most = max(most, len(tracker._pending))

    monkeypatch.setattr(client, "create_run", creating)
    tracker.repair = repair
    keys = [RunKey("digits", "trial", number) for number in range(20)]
    for key in keys:
        trials.start(key)
        trials.log_epochs(key, epochs(1, 2))
        trials.end(key)
        assert len(tracker._pending) <= 3
        time.sleep(0.05)
    assert tracker.behind
    assert ("is too slow: 3 runs wait" if slow else "refused") in (tracker.error or "")
    answers.set()
    assert tracker.close(status="FINISHED", timeout=120)
    assert tracker.error is None
    assert 1 <= most <= 2
    found = runs(uri)
    assert sorted(run.info.run_name for run in found) == [key.name for key in keys]
    for run in found:
        assert (run.info.status, [step for step, _ in history(uri, run, "val_loss")]) == ("FINISHED", [1, 2])


def test_a_running_trial_is_sent_whole_after_an_outage_and_ended_by_who_closes_in_it(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweep.tracking.tracker.ROUND_SECONDS", 0.1)
    tracker = opened(uri)
    trials, other, away = Checkpoints(tracker), RunKey("digits", "trial", 18), threading.Event()
    client = tracker.store._client()
    log_batch = client.log_batch

    def logging(*words: Any, **more: Any) -> None:
        if away.is_set():
            raise requests.ConnectionError("refused")
        log_batch(*words, **more)

    monkeypatch.setattr(client, "log_batch", logging)
    trials.start(TRIAL)
    trials.log_epochs(TRIAL, epochs(1, 2))
    assert tracker.flush(20)
    away.set()
    trials.log_epochs(TRIAL, epochs(3, 4))
    trials.start(other)
    assert not tracker.flush(0.5)
    trials.log_epochs(TRIAL, epochs(5, 6))
    away.clear()
    assert tracker.flush(20)
    assert not tracker.behind
    trials.log_epochs(TRIAL, epochs(7, 8))
    assert tracker.flush(20)
    away.set()
    trials.log_epochs(TRIAL, epochs(9, 9))
    assert not tracker.flush(0.5)
    threading.Timer(1.0, away.clear).start()
    assert tracker.close(status="KILLED")
    found = {run.info.run_name: run for run in runs(uri)}
    assert {name: run.info.status for name, run in found.items()} == {TRIAL.name: "KILLED", other.name: "KILLED"}
    assert [step for step, _ in history(uri, found[TRIAL.name], "val_loss")] == [*range(1, 10)]


def test_a_trial_that_was_claimed_and_never_started_has_nothing_to_end(uri: str) -> None:
    tracker = opened(uri)
    end(tracker, TRIAL, None)
    assert tracker.close(status="KILLED")
    assert (tracker.error, runs(uri)) == (None, [])


def test_a_run_that_is_never_accepted_does_not_keep_the_tracker_from_ending(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweep.tracking.tracker.ROUND_SECONDS", 0.1)
    tracker, other = opened(uri), RunKey("digits", "trial", 18)
    busy = MlflowException("database is locked", error_code=BAD_REQUEST)
    failing(monkeypatch, tracker, "log_batch", *[busy] * 1000, of=TRIAL.name)
    trials = Checkpoints(tracker)
    for key in (TRIAL, other):
        trials.start(key, lambda1=0.5)
        trials.end(key)
    assert not tracker.close(status="FINISHED", timeout=2)
    assert "database is locked" in (tracker.error or "")
    found = {run.info.run_name: run for run in runs(uri)}
    assert found[other.name].data.tags["sweep.outcome"] == "completed"
    assert "sweep.outcome" not in found[TRIAL.name].data.tags  # so that the next run of the study sends it
