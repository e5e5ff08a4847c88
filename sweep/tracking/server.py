"""MLflow servers in the foreground: the workspace's UI, or one with a password, and PostgreSQL beside it on demand."""

import contextlib
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from ..config.errors import SweepError
from ..config.filesystem import AnyPath, write_atomically
from ..config.secrets import hide
from ..config.settings import Settings
from ..config.sqlite import sqlite_url
from .client import create_store
from .mlflow_internals import ENVIRONMENT

logger = logging.getLogger(__name__)

START_SECONDS = 300.0  # MLflow needs 10 to 20 on an idle machine
STOP_SECONDS = 15.0
LOOPBACK = ("127.0.0.1", "localhost")
ANY = ("0.0.0.0", "::")  # noqa: S104 (only if the user asks for it)
USERS = """\
[mlflow]
default_permission = READ
database_uri = {database}
admin_username = admin
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = 60
"""


@dataclass(frozen=True)
class Server:
    """A server that asks for a password; ``variables`` is a file of addresses and passwords, ``NAME=value``."""

    url: str
    log: Path
    variables: Path
    process: subprocess.Popen[bytes] = field(repr=False)


def serve(
    uri: str, artifacts: AnyPath, *, host: str = "127.0.0.1", port: int = 5000
) -> tuple[list[str], dict[str, str]]:
    """Returns the command and the environment of an MLflow server, whose store's URI may hold a password.

    Example:
        >>> command, environment = serve("sqlite:////tmp/mlflow.db", Path("/tmp/artifacts"), port=5050)
        >>> command[-4:], environment["MLFLOW_BACKEND_STORE_URI"]
        (['--port', '5050', '--workers', '1'], 'sqlite:////tmp/mlflow.db')
    """
    options = ["--artifacts-destination", artifacts.absolute().as_uri(), "--host", host, "--port", str(port)]
    command = [sys.executable, "-m", "mlflow", "server", *options, "--workers", "1"]
    # Job execution would start 7 more processes.
    own = {"MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    return command, {**os.environ, **ENVIRONMENT, **own}


@contextlib.contextmanager
def running(
    command: Sequence[str], environment: dict[str, str], log: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a server for a ``with`` block, and ends it and its workers at the block's end; SIGTERM ends the block."""
    with log.open("wb") if log is not None else contextlib.nullcontext() as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)  # noqa: S603
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield process
    finally:
        _end(process)
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def password_server(
    settings: Settings,
    *,
    host: str = "127.0.0.1",
    port: int = 5000,
    names: Sequence[str] = (),
    backend: str = "",
    password: str = "",
    postgres: bool = False,
) -> Iterator[Server]:
    """Runs an MLflow server that asks for a password, for a ``with`` block that begins when the server answers.

    Args:
        settings: the workspace's; its database and artifacts are served.
        names: host names that clients may use, beside those of this machine.
        backend: a database for MLflow; by default the workspace's own file, or PostgreSQL's with `postgres`.
        password: the user admin's; by default the one of the last server, or a random one.
        postgres: run PostgreSQL too, by docker compose.

    Raises:
        SweepError: the server does not start.
    """
    folder = settings.local_dir / "services"
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    _check_port(host, port)
    with _postgres(folder) if postgres else contextlib.nullcontext(backend) as backend:
        if backend and backend == settings.storage:
            raise SweepError("--backend: Optuna's tables are in this database; make one of its own for MLflow.")
        store = backend or sqlite_url(settings.local_dir / "mlflow.db")
        url = f"http://{_own_address() if host in ANY else host}:{port}"
        create_store(store, settings.artifacts)
        variables, users, log = folder / "services.env", folder / "users.ini", folder / "mlflow.log"
        known = _read(variables)
        password = password or known.get("MLFLOW_TRACKING_PASSWORD") or secrets.token_hex(16)
        login = {"MLFLOW_TRACKING_URI": url, "MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": password}
        users.write_text(USERS.format(database=sqlite_url(folder / "users.db").replace("%", "%%")))
        command, environment = serve(store, settings.artifacts, host=host, port=port)
        command += ["--app-name", "basic-auth", "--allowed-hosts", ",".join(_hosts(host, port, names))]
        environment |= {"MLFLOW_AUTH_CONFIG_PATH": str(users), "MLFLOW_AUTH_ADMIN_PASSWORD": password}
        environment["MLFLOW_FLASK_SERVER_SECRET_KEY"] = secrets.token_hex(32)
        _write(variables, {**login, **known})  # before the server stores the password, and whatever becomes of it
        with running(command, environment, log) as process:
            _wait(process, url, password, log, store)
            _write(variables, {**known, **login})
            logger.info("%s answers, process %d", url, process.pid)
            yield Server(url, log, variables, process)


def _wait(process: subprocess.Popen[bytes], url: str, password: str, log: Path, store: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while _status(f"{url}/health") != 200:
        if process.poll() is not None or time.monotonic() > deadline:
            last = hide("\n".join(log.read_text(errors="replace").splitlines()[-5:]), store)
            raise SweepError(f"mlflow: did not start; the end of {log}:\n{last}")
        time.sleep(0.2)
    if (_status(f"{url}/version"), _status(f"{url}/version", password)) != (401, 200):
        raise SweepError(
            f"mlflow: the user admin has another password, or needs none; see {log}. To set a new one, remove "
            f"{log.parent / 'users.db'}"
        )


def _status(url: str, password: str | None = None) -> int | None:
    """Returns the status of a GET; None without an answer."""
    import requests

    login = ("admin", password) if password is not None else None
    with requests.Session() as session, contextlib.suppress(requests.RequestException):
        session.trust_env = False  # no proxy, no .netrc
        return session.get(url, auth=login, timeout=10).status_code
    return None


def _check_port(host: str, port: int) -> None:
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise SweepError(f"mlflow: cannot listen on {host}:{port} ({why}); choose with --host, --port.") from None


def _own_address() -> str:
    """Returns the address by which other machines reach this one; the loopback one if it has no other."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as route:
        route.connect(("192.0.2.1", 9))  # sends nothing: it asks which way a packet would go
        return str(route.getsockname()[0])
    return "127.0.0.1"


def _hosts(host: str, port: int, names: Sequence[str]) -> list[str]:
    """Returns the names that clients may use for the server; others are refused (DNS rebinding)."""
    mine = {host, *names} - set(ANY)
    if host not in LOOPBACK:
        addresses = [a.address for found in psutil.net_if_addrs().values() for a in found if a.family == socket.AF_INET]
        mine |= {socket.gethostname(), socket.getfqdn(), *addresses}
    return ["localhost:*", "127.0.0.1:*", *(f"{name}:{port}" for name in sorted(mine - set(LOOPBACK)))]


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a server and its workers, which share a session of their own."""
    with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
        family = [root := psutil.Process(process.pid), *root.children(recursive=True)]
        os.killpg(process.pid, signal.SIGTERM)
        _, alive = psutil.wait_procs(family, timeout=STOP_SECONDS)
        for each in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
    process.wait()


@contextlib.contextmanager
def _postgres(folder: Path) -> Iterator[str]:
    """Runs the compose recipe's PostgreSQL for a ``with`` block; gives MLflow's database in it."""
    from ..cluster.recipes import RecipeValues, make_secrets, render_recipe

    variables, file = folder / "compose.env", folder / "services.env"
    if not variables.exists():
        _write(variables, dict(line.split("=", 1) for line in make_secrets().splitlines()))
    (folder / "compose.yaml").write_text(render_recipe("compose", RecipeValues()))
    _compose(folder, "up", "--detach", "--wait", "postgres")
    try:
        local = {name: value.replace("@postgres:", "@127.0.0.1:") for name, value in _read(variables).items()}
        _write(file, {**_read(file), "SWEEP_STORAGE": local["SWEEP_STORAGE"]})
        yield local["MLFLOW_BACKEND_STORE_URI"]
    finally:
        _compose(folder, "stop", "postgres")


def _compose(folder: Path, *words: str) -> None:
    options = ["--env-file", str(folder / "compose.env"), "--file", str(folder / "compose.yaml")]
    try:
        done = subprocess.run(["docker", "compose", *options, *words], capture_output=True, text=True, check=False)  # noqa: S603, S607
    except FileNotFoundError:
        raise SweepError("postgres: there is no docker here; give the URL of a database with --backend.") from None
    if done.returncode:
        raise SweepError(f"postgres: docker compose {words[0]} failed:\n{done.stderr.strip()}")


def _write(path: Path, variables: dict[str, str]) -> None:
    """Writes a file of variables that the user alone may read."""
    with write_atomically(path) as beside:
        beside.touch(mode=0o600)
        beside.write_text("".join(f"{name}={value}\n" for name, value in variables.items()))


def _read(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    return dict(line.split("=", 1) for line in path.read_text().splitlines() if "=" in line)
