"""What studies live on beside files: an MLflow server with passwords, and PostgreSQL where it is asked for.

Started here, on this machine; known again by process id and start time. Log, users and passwords are in the workspace.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from ..config.errors import SweepError, without_password
from ..config.locks import is_running
from ..config.settings import Settings
from .tracker import serve

START_SECONDS = 300.0  # MLflow needs 10 to 20 on a machine with nothing else to do
STOP_SECONDS = 15.0
LOOPBACK = ("127.0.0.1", "localhost")
ANY = ("0.0.0.0", "::")  # noqa: S104 (only where the user asks for it)
USERS = """\
[mlflow]
default_permission = READ
database_uri = sqlite:///{folder}/users.db
admin_username = admin
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = 60
"""


@dataclass(frozen=True)
class Service:
    """A service that was started here.

    Attributes:
        state: ``running``, ``not answering`` or ``ended``.
        pid: of the server; None of what runs in a container.
    """

    name: str
    url: str
    state: str
    pid: int | None
    log: str


def up(
    settings: Settings,
    *,
    host: str = "127.0.0.1",
    port: int = 5000,
    names: Sequence[str] = (),
    backend: str = "",
    postgres: bool = False,
) -> list[Service]:
    """Starts what does not run yet, and returns when it answers.

    Args:
        host: address that MLflow listens on.
        names: under which it may be called, beside those of this machine.
        backend: a database for MLflow; by default the workspace's own file, or PostgreSQL's where that is started.
        postgres: start PostgreSQL too, by docker compose.

    Raises:
        SweepError: a service that does not start, and why.
    """
    folder = _folder(settings)
    if postgres:
        backend = _start_postgres(folder)
    if backend and backend == settings.storage:
        raise SweepError("--backend: Optuna's tables are in this database; make one of its own for MLflow.")
    known = {service.name: service for service in status(settings)}
    if "mlflow" not in known or known["mlflow"].state == "ended":
        _start_mlflow(settings, folder, host, port, names, backend)
    return status(settings)


def status(settings: Settings) -> list[Service]:
    """What was started here and has not been taken down."""
    folder, found = settings.local_dir / "services", []
    for name, record in _records(folder).items():
        pid, url = record.get("pid"), record["url"]
        if pid is not None and not is_running(pid, record["started"]):
            state = "ended"
        else:
            state = "running" if (_answers(url) if url.startswith("http") else _listens(url)) else "not answering"
        found.append(Service(name, url, state, pid, record["log"]))
    return found


def down(settings: Settings) -> list[Service]:
    """Ends what was started here, and nothing else; its data stays. Returns what there was."""
    folder = settings.local_dir / "services"
    there = status(settings)
    for service in there:
        if service.pid is None:
            _compose(folder, "stop", "postgres")
        elif service.state != "ended":
            _end(service.pid)
        _record(folder, service.name, None)
    return there


def environment_file(settings: Settings) -> Path:
    """Where the addresses and passwords are, as lines ``NAME=value``."""
    return settings.local_dir / "services" / "services.env"


# -- MLflow ------------------------------------------------------------------------------------------------------------


def _start_mlflow(settings: Settings, folder: Path, host: str, port: int, names: Sequence[str], backend: str) -> None:
    _check_port(host, port)
    url = f"http://{'127.0.0.1' if host in ANY else host}:{port}"
    file = environment_file(settings)
    password = _variables(file).get("MLFLOW_TRACKING_PASSWORD") or secrets.token_hex(16)
    login = {"MLFLOW_TRACKING_URI": url, "MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": password}
    _write(file, {**_variables(file), **login})
    users, log = folder / "users.ini", folder / "mlflow.log"
    users.write_text(USERS.format(folder=folder))
    store = backend or f"sqlite:///{settings.local_dir / 'mlflow.db'}"
    command, environment = serve(store, settings.artifacts, host=host, port=port)
    command += ["--app-name", "basic-auth", "--allowed-hosts", ",".join(_hosts(host, port, names))]
    environment |= {
        "MLFLOW_AUTH_CONFIG_PATH": str(users),
        "MLFLOW_AUTH_ADMIN_PASSWORD": password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(32),
    }
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603
            command, env=environment, cwd=folder, stdout=output, stderr=output, start_new_session=True
        )
    started = psutil.Process(process.pid).create_time()
    _record(folder, "mlflow", {"pid": process.pid, "started": started, "url": url, "log": str(log)})
    try:
        _wait(process, url, password, log, store)
    except BaseException:
        _end(process.pid)
        _record(folder, "mlflow", None)
        raise


def _wait(process: subprocess.Popen[bytes], url: str, password: str, log: Path, store: str) -> None:
    """Returns when the server answers, and asks for the password.

    Raises:
        SweepError: it does not.
    """
    deadline = time.monotonic() + START_SECONDS
    while not _answers(url):
        if process.poll() is not None or time.monotonic() > deadline:
            last = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
            raise SweepError(
                f"mlflow: did not start; the end of {log}:\n{last.replace(store, without_password(store))}"
            )
        time.sleep(0.2)
    if (_code(f"{url}/version"), _code(f"{url}/version", password)) != (401, 200):
        raise SweepError(f"mlflow: does not take the password in services.env, or asks for none; see {log}")


def _check_port(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise SweepError(
                f"mlflow: cannot listen on {host}:{port} ({error.strerror}); choose with --host, --port."
            ) from None


def _hosts(host: str, port: int, names: Sequence[str]) -> list[str]:
    """Names that a browser or a driver may call the server by; others are refused (DNS rebinding)."""
    mine = {host, *names} - set(ANY)
    if host not in LOOPBACK:
        addresses = [a.address for found in psutil.net_if_addrs().values() for a in found if a.family == socket.AF_INET]
        mine |= {socket.gethostname(), socket.getfqdn(), *addresses}
    return ["localhost:*", "127.0.0.1:*", *(f"{name}:{port}" for name in sorted(mine - set(LOOPBACK)))]


def _answers(url: str) -> bool:
    return _code(f"{url}/health") == 200


def _code(url: str, password: str | None = None) -> int | None:
    """The status of a GET; None where nobody answers."""
    headers = {}
    if password is not None:
        headers["Authorization"] = "Basic " + base64.b64encode(f"admin:{password}".encode()).decode()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=10) as answer:  # noqa: S310
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except OSError:
        return None


def _end(pid: int) -> None:
    """Ends a server and its workers, which share a session of their own."""
    with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
        server = psutil.Process(pid)
        family = [server, *server.children(recursive=True)]
        os.killpg(pid, signal.SIGTERM)
        _, alive = psutil.wait_procs(family, timeout=STOP_SECONDS)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


# -- PostgreSQL --------------------------------------------------------------------------------------------------------


def _start_postgres(folder: Path) -> str:
    """Starts the one of the compose recipe; returns MLflow's database in it."""
    from ..cluster.recipes import RecipeValues, render_recipe
    from ..cluster.recipes import make_secrets as passwords

    variables = folder / "compose.env"
    if not variables.exists():
        _write(variables, dict(line.split("=", 1) for line in passwords().splitlines()))
    (folder / "compose.yaml").write_text(render_recipe("compose", RecipeValues()))
    _compose(folder, "up", "--detach", "--wait", "postgres")
    local = {k: v.replace("@postgres:", "@127.0.0.1:") for k, v in _variables(variables).items()}
    file = folder / "services.env"
    _write(file, {**_variables(file), "SWEEP_STORAGE": local["SWEEP_STORAGE"]})
    _record(folder, "postgres", {"url": "127.0.0.1:5432", "log": "docker compose logs postgres"})
    return local["MLFLOW_BACKEND_STORE_URI"]


def _compose(folder: Path, *words: str) -> None:
    options = ["--env-file", str(folder / "compose.env"), "--file", str(folder / "compose.yaml")]
    try:
        done = subprocess.run(["docker", "compose", *options, *words], capture_output=True, text=True, check=False)  # noqa: S603, S607
    except FileNotFoundError:
        raise SweepError("postgres: there is no docker here; give the URL of a database with --backend.") from None
    if done.returncode:
        raise SweepError(f"postgres: docker compose {words[0]} failed:\n{done.stderr.strip()}")


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=2):
        return True
    return False


# -- files that nobody else may read -----------------------------------------------------------------------------------


def _folder(settings: Settings) -> Path:
    folder = settings.local_dir / "services"
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    return folder


def _write(path: Path, variables: dict[str, str]) -> None:
    _replace(path, "".join(f"{name}={value}\n" for name, value in variables.items()))


def _replace(path: Path, text: str) -> None:
    beside = path.with_suffix(".tmp")
    beside.touch(mode=0o600)
    beside.write_text(text)
    beside.replace(path)


def _variables(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    return dict(line.split("=", 1) for line in path.read_text().splitlines() if "=" in line)


def _records(folder: Path) -> dict[str, Any]:
    path = folder / "services.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def _record(folder: Path, name: str, record: dict[str, Any] | None) -> None:
    """Keeps what was started; None: it was taken down."""
    records = {k: v for k, v in _records(folder).items() if k != name} | ({name: record} if record else {})
    _replace(folder / "services.json", json.dumps(records, indent=2))
