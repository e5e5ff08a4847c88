"""A real MLflow server, run by the command in the foreground: with a password, on loopback, ended by a signal."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import mlflow
import psutil
import pytest

from sweep.config.errors import SweepError
from sweep.config.settings import Settings
from sweep.tracking.server import password_server

from ..support.processes import Command, environment, free_port, wait_for

API = "/api/2.0/mlflow/experiments/search?max_results=1"


@dataclasses.dataclass
class Up:
    """The server of this file's tests."""

    settings: Settings
    url: str
    port: int
    variables: dict[str, str]
    command: Command

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


def start(workspace: Path, port: int, *words: str) -> Command:
    """Runs the command until it says that the server answers."""
    command = Command(workspace, "services", "up", "--port", str(port), *words)
    wait_for(lambda: command.over or "The password of" in command.out, "the server")
    assert not command.over, command.out
    return command


def variables(workspace: Path) -> dict[str, str]:
    lines = (workspace / "services" / "services.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    workspace, port = tmp_path_factory.mktemp("services") / "results", free_port()
    command = start(workspace, port, "--name", "tracking.example")
    try:
        url, settings = f"http://127.0.0.1:{port}", Settings(workspace=workspace)
        yield Up(settings, url, port, variables(workspace), command)
    finally:
        command.close()


def processes(command: Command) -> list[psutil.Process]:
    """The server and its workers."""
    return psutil.Process(command.process.pid).children(recursive=True)


def test_it_answers_when_it_says_where_it_is(server: Up) -> None:
    assert f"MLflow is at {server.url}, " in server.command.out
    assert str(server.settings.workspace / "services" / "services.env") in server.command.out
    assert server.variables["MLFLOW_TRACKING_URI"] == server.url
    assert server.variables["MLFLOW_TRACKING_PASSWORD"] not in server.command.out


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
    assert (folder / "services.env").stat().st_mode & 0o077 == 0
    secret = server.variables["MLFLOW_TRACKING_PASSWORD"]
    assert len(secret) >= 12
    family = processes(server.command)
    assert all(secret not in " ".join(process.cmdline()) for process in family)
    for file in ("mlflow.log", "users.ini"):
        assert secret not in (folder / file).read_text()


def test_it_listens_on_loopback_alone_and_starts_no_job_processes(server: Up) -> None:
    family = processes(server.command)
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


def test_a_port_that_is_taken_is_refused(server: Up, tmp_path: Path) -> None:
    taken = password_server(Settings(workspace=tmp_path / "other"), port=server.port)
    with pytest.raises(SweepError, match=rf"127.0.0.1:{server.port}.*--port"), taken:
        pass


def test_a_database_that_is_not_there_is_told_with_the_end_of_the_log(tmp_path: Path) -> None:
    settings = Settings(workspace=tmp_path / "other")
    absent = password_server(settings, port=free_port(), backend="nosuch://user:hidden@127.0.0.1/mlflow")
    with pytest.raises(SweepError, match=r"did not start(.|\n)*nosuch") as caught, absent:
        pass
    assert "hidden" not in str(caught.value)


def test_optuna_and_mlflow_do_not_share_a_database(tmp_path: Path) -> None:
    url = "postgresql+psycopg://me@127.0.0.1/one"
    shared = password_server(Settings(workspace=tmp_path, storage=url), backend=url, port=free_port())
    with pytest.raises(SweepError, match="one of its own"), shared:
        pass


def test_postgres_needs_docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    without = password_server(Settings(workspace=tmp_path / "other"), postgres=True, port=free_port())
    with pytest.raises(SweepError, match="no docker here; give the URL of a database with --backend"), without:
        pass


def test_postgres_is_ended_with_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without docker: a script in its place writes down what it is asked, so that MLflow finds no database."""
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{docker.parent}:{os.environ['PATH']}")
    monkeypatch.setattr("sweep.tracking.server.START_SECONDS", 5.0)
    without = password_server(Settings(workspace=tmp_path / "other"), postgres=True, port=free_port())
    with pytest.raises(SweepError, match="did not start"), without:
        pass
    asked = [line.partition("compose.yaml ")[2] for line in (tmp_path / "asked").read_text().splitlines()]
    assert asked == ["up --detach --wait postgres", "stop postgres"]
    assert variables(tmp_path / "other")["SWEEP_STORAGE"].startswith("postgresql")


@pytest.mark.parametrize("word", ["down", "status"])
def test_what_needed_a_daemon_is_gone(tmp_path: Path, word: str) -> None:
    command = [sys.executable, "-m", "sweep", "services", word]
    done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "No such command" in done.stderr


def test_a_signal_ends_all_of_it_and_the_next_one_has_the_data_and_the_password(server: Up) -> None:
    """The last test, since it ends the server."""
    family, password = processes(server.command), server.variables["MLFLOW_TRACKING_PASSWORD"]
    workspace = server.settings.workspace
    assert family
    server.command.signal(signal.SIGTERM)
    assert server.command.end() == 143
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in family)
    assert (workspace / "mlflow.db").exists()

    again = start(workspace, server.port, "--json")
    try:
        told = re.search(r"\{.*?\}", again.out, re.DOTALL)
        assert told is not None
        assert json.loads(told[0])["url"] == server.url
        assert server.get(API, password=password) == 200
        again.signal(signal.SIGINT)
        assert again.end() == 0
        assert "Traceback" not in again.out
    finally:
        again.close()
    other = password_server(server.settings, port=server.port, password="quite another one")
    with pytest.raises(SweepError, match=r"another password(.|\n)*users.db"), other:
        pass
    assert variables(workspace)["MLFLOW_TRACKING_PASSWORD"] == password
