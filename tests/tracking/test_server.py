"""A real MLflow server, started once by the command: with a password, on loopback, known again by its process."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import psutil
import pytest

from sweep.config.errors import SweepError
from sweep.config.settings import Settings
from sweep.tracking.server import down, environment_file, status, up

from ..support.processes import environment, free_port

API = "/api/2.0/mlflow/experiments/search?max_results=1"


@dataclasses.dataclass
class Up:
    """The server of this file's tests."""

    settings: Settings
    url: str
    port: int
    variables: dict[str, str]
    said: str

    def get(self, path: str, *, password: str | None = None, host: str = "") -> int:
        request = urllib.request.Request(self.url + path, headers={"Host": host} if host else {})
        manager = urllib.request.HTTPPasswordMgrWithDefaultRealm()
        manager.add_password(None, self.url, "admin", password or "")
        login = [urllib.request.HTTPBasicAuthHandler(manager)] if password else []
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), *login)
        try:
            with opener.open(request, timeout=30) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code


def sweep(workspace: Path, *words: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "sweep", *words], env=environment(workspace), capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    workspace, port = tmp_path_factory.mktemp("services") / "results", free_port()
    settings = Settings(workspace=workspace)
    try:
        said = sweep(workspace, "services", "up", "--port", str(port), "--name", "tracking.example")
        lines = environment_file(settings).read_text().splitlines()
        variables = dict(line.split("=", 1) for line in lines)
        yield Up(settings, f"http://127.0.0.1:{port}", port, variables, said)
    finally:
        down(settings)


def processes(server: Up) -> list[psutil.Process]:
    (service,) = status(server.settings)
    root = psutil.Process(service.pid)
    return [root, *root.children(recursive=True)]


def test_it_runs_when_the_command_returns_and_says_where(server: Up) -> None:
    (service,) = status(server.settings)
    assert (service.name, service.state, service.url) == ("mlflow", "running", server.url)
    assert server.url in server.said
    assert str(environment_file(server.settings)) in server.said
    assert server.variables["MLFLOW_TRACKING_PASSWORD"] not in server.said
    (shown,) = json.loads(sweep(server.settings.workspace, "services", "status", "--json"))
    assert shown == dataclasses.asdict(service)


def test_it_asks_for_the_password_and_for_a_name_it_knows(server: Up) -> None:
    password = server.variables["MLFLOW_TRACKING_PASSWORD"]
    assert server.get(API) == 401
    assert server.get(API, password="wrong" * 4) == 401
    assert server.get(API, password=password) == 200
    assert server.get(API, password=password, host=f"tracking.example:{server.port}") == 200
    assert server.get(API, password=password, host="elsewhere.example") == 403


def test_passwords_are_in_files_of_the_user_alone_and_in_no_process_list(server: Up) -> None:
    folder = server.settings.workspace / "services"
    assert folder.stat().st_mode & 0o077 == 0
    assert environment_file(server.settings).stat().st_mode & 0o077 == 0
    secret = server.variables["MLFLOW_TRACKING_PASSWORD"]
    assert len(secret) >= 12
    family = processes(server)
    assert all(secret not in " ".join(process.cmdline()) for process in family)
    for file in ("mlflow.log", "services.json", "users.ini"):
        assert secret not in (folder / file).read_text()


def test_it_listens_on_loopback_alone_and_starts_no_job_processes(server: Up) -> None:
    family = processes(server)
    listening = {c.laddr for process in family for c in process.net_connections("inet") if c.status == "LISTEN"}
    assert {(address.ip, address.port) for address in listening} == {("127.0.0.1", server.port)}
    assert len(family) <= 4  # with the job processes there are seven more


def test_it_takes_artifacts_from_who_has_no_access_to_their_place(
    server: Up, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in server.variables.items():
        monkeypatch.setenv(name, value)
    client = mlflow.MlflowClient(server.url)
    experiment = client.get_experiment(client.create_experiment("proxied"))
    assert experiment.artifact_location.startswith("mlflow-artifacts:/")
    run = client.create_run(experiment.experiment_id)
    (tmp_path / "note.txt").write_text("kept")
    client.log_artifact(run.info.run_id, str(tmp_path / "note.txt"))
    (kept,) = server.settings.artifacts.rglob("note.txt")
    assert kept.read_text() == "kept"


def test_started_again_it_is_the_same_server(server: Up) -> None:
    before = status(server.settings)
    sweep(server.settings.workspace, "services", "up", "--port", str(server.port))
    assert status(server.settings) == before


def test_a_port_that_is_taken_is_refused(server: Up, tmp_path: Path) -> None:
    with pytest.raises(SweepError, match=rf"127.0.0.1:{server.port}.*--port"):
        up(Settings(workspace=tmp_path / "other"), port=server.port)
    assert status(Settings(workspace=tmp_path / "other")) == []


def test_a_database_that_is_not_there_is_told_with_the_end_of_the_log(tmp_path: Path) -> None:
    settings = Settings(workspace=tmp_path / "other")
    with pytest.raises(SweepError, match=r"did not start(.|\n)*nosuch") as caught:
        up(settings, port=free_port(), backend="nosuch://user:hidden@127.0.0.1/mlflow")
    assert "hidden" not in str(caught.value)
    assert status(settings) == []


def test_optuna_and_mlflow_do_not_share_a_database(tmp_path: Path) -> None:
    url = "postgresql+psycopg://me@127.0.0.1/one"
    with pytest.raises(SweepError, match="one of its own"):
        up(Settings(workspace=tmp_path, storage=url), backend=url)


def test_postgres_needs_docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SweepError, match="no docker here; give the URL of a database with --backend"):
        up(Settings(workspace=tmp_path / "other"), postgres=True)


def test_down_ends_nothing_that_it_did_not_start(tmp_path: Path) -> None:
    settings = Settings(workspace=tmp_path / "results")
    folder = settings.workspace / "services"
    folder.mkdir(parents=True)
    with subprocess.Popen(["sleep", "600"]) as stranger:  # has the process id of a server that ended long ago
        record: dict[str, Any] = {"pid": stranger.pid, "started": time.time() - 3600, "url": "http://x", "log": ""}
        (folder / "services.json").write_text(json.dumps({"mlflow": record}))
        assert [service.state for service in status(settings)] == ["ended"]
        assert "had ended by itself" in sweep(settings.workspace, "services", "down")
        assert stranger.poll() is None
        stranger.kill()
    assert "Nothing was started here." in sweep(settings.workspace, "services", "down")


def test_down_ends_all_of_it_and_up_has_the_data_again(server: Up) -> None:  # the last one: it ends the server
    family = processes(server)
    os.kill(family[0].pid, 0)
    assert "mlflow: ended" in sweep(server.settings.workspace, "services", "down")
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in family)
    assert status(server.settings) == []
    assert (server.settings.workspace / "mlflow.db").exists()
