"""Connects to Ray; imports nothing else, so that Ray can start while the rest is still being imported."""

import contextlib
import gc
import logging
import os
import platform
import secrets
import shutil
import signal
import socket
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ray

from .ray_internals import (
    bootstrap_address,
    cluster_metadata,
    enable_token,
    has_token,
    living_addresses,
    private_ray,
    redirected_errors,
    temporary_folder,
    token_headers,
)
from .shadowing import import_hook

_ENVIRONMENT = {
    "RAY_prestart_worker_first_driver": "0",  # trials start their own processes; idle ones cost start-up time
    "RAY_enable_worker_prestart": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}
_connected: list[str] = []  # the address of the `connected` block that this process is in
_SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set for a driver that was submitted: the workers have its code already
_NEVER_SENT = shutil.ignore_patterns("__pycache__", "*.pyc", ".*", "README.md", "RESULTS*", "*.ipynb")
TOKEN_HINT = "RAY_AUTH_TOKEN, or a file that RAY_AUTH_TOKEN_PATH names, or ~/.ray/auth_token"  # noqa: S105
# In the message about a process that the head starts for a client, and about a node of a private Ray.
START_FAILURES = ("Initialization failure", "timed out during startup")
_ELSEWHERE = (
    "from a machine that is not one of its nodes use sweep submit, or ray://HOST:10001, or make it a node without "
    "trials: RAY_AUTH_MODE=token ray start --address=HOST:6379 --num-cpus=0"
)
logger = logging.getLogger(__name__)


class ClusterError(ConnectionError):
    """A cluster that does not answer, or that cannot be used from here; each problem begins with the one at fault."""

    def __init__(self, problems: list[str]):
        self.problems = problems
        super().__init__("; ".join(problems))


@contextlib.contextmanager
def connected(address: str, modules: Sequence[str] = (), cpus: int | None = None) -> Iterator[None]:
    """Connects to Ray for a ``with`` block, unless it is within another such block of the same address.

    Raises ClusterError if nothing answers, the token is refused, or the cluster has another version of Ray or Python.

    Args:
        address: ``local`` (a private Ray, which ends after the block), ``auto``, ``host:port`` or ``ray://host:port``.
        modules: package folders and single files that are copied to the workers; takes almost a second, each for
            ``local``, all together for a cluster.
        cpus: CPUs that ``local`` offers; None: those of this machine.
    """
    if _connected == [address]:
        yield
        return
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(quiet("ray"))
            if address == "local":
                stack.enter_context(private_ray())
                stack.enter_context(_odd_machine())
                options |= {"include_dashboard": False, "num_cpus": cpus}
                found = {"py_modules": list(modules), "worker_process_setup_hook": import_hook()}
                options["runtime_env"] = {name: value for name, value in found.items() if value} or None
            else:
                check_access(address)
                if modules and _SUBMITTED not in os.environ:
                    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="sweep-code-"))
                    try:
                        collect(modules, Path(folder))
                    except OSError as error:
                        raise ClusterError([f"code: cannot be copied to {folder} to be sent: {error}"]) from None
                    # Not eager: a node that joins would fetch the code of jobs that are over, and keep the failure.
                    options["runtime_env"] = {"working_dir": folder, "config": {"eager_install": False}}
            _init(address, options)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray has replaced it
    except ClusterError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        raise _no_answer(address, error) from None
    _connected.append(address)
    with redirected_errors(logger.info):  # the executor says in a sentence what it means for trials
        try:
            yield
        finally:
            _connected.clear()
            gc.collect()  # Tune leaves reference cycles: if another thread frees one during shutdown, the process dies
            ray.shutdown()


@contextlib.contextmanager
def _odd_machine() -> Iterator[None]:
    """Gives a private Ray, while it starts, a token where the home folder cannot be written, and a short TMPDIR."""
    own = {} if has_token() else {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
    if "RAY_TMPDIR" not in os.environ:
        own["RAY_TMPDIR"] = temporary_folder()
    os.environ.update(own)
    try:
        yield
    finally:
        for name in own:
            del os.environ[name]


def _init(address: str, options: dict[str, Any]) -> None:
    """Starts Ray, or connects to it; retries once if one of its processes did not start, as on a busy machine."""
    for attempt in (1, 2):
        try:
            ray.init(address=address, **options)
            return
        except Exception as error:  # Ray raises plain ones
            if attempt == 2:
                raise RuntimeError(str(error)) from None
            if not any(words in str(error) for words in START_FAILURES):
                raise
            logger.info("Ray did not start (%s): trying once more", first_line(error))
        ray.shutdown()


def collect(modules: Sequence[str], folder: Path) -> Path:
    """Copies packages and single files into one folder, which Ray sends to the workers as a whole."""
    for module in map(Path, modules):
        if module.is_dir():
            shutil.copytree(module, folder / module.name, ignore=_not_sent, dirs_exist_ok=True)
        else:
            shutil.copy(module, folder)
    return folder


def _not_sent(folder: str, names: list[str]) -> set[str]:
    """Returns what no worker reads: notes, compiled files, and the recipes, which are rendered where the user is."""
    here = Path(folder).resolve() == Path(__file__).resolve().parent
    recipes = {name for name in names if here and not name.endswith(".py")}
    return recipes | _NEVER_SENT(folder, names)


def check_access(address: str) -> None:
    """Raises ClusterError unless the cluster answers, accepts our token and has our versions; Ray would retry 20 s."""
    _use_token(address)
    client = address.startswith("ray://")
    try:
        head = address.removeprefix("ray://") if client else bootstrap_address(address)
        host, _, port = head.rpartition(":")
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise _no_answer(address, error) from None
    if client:
        return  # Ray's client itself compares the versions
    try:
        metadata = cluster_metadata(head)
    except ray.exceptions.AuthenticationError:
        raise ClusterError([f"address {address}: {_token_problem()}"]) from None
    except ray.exceptions.RayError as error:
        raise _no_answer(address, error) from None
    ours = {"Ray": ray.__version__, "Python": platform.python_version()}
    if not any(map(is_local, living_addresses(head))):  # Ray would look for its files here for a minute
        raise ClusterError([f"address {address}: this machine is no node of that cluster; {_ELSEWHERE}"])
    problems = [  # Ray accepts no difference, not even in the last part of a version
        f"address {address}: the cluster has {what} {theirs}, this process {mine}: they must be the same"
        for what, mine in ours.items()
        if (theirs := metadata.get(f"{what.lower()}_version", mine)) != mine
    ]
    if problems:
        raise ClusterError(problems)


def is_local(address: str) -> bool:
    """Returns True if an address is one of this machine's."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.bind((address, 0))
        return True
    return False


def check_dashboard(url: str) -> None:
    """Raises ClusterError unless a head's HTTP address, to which jobs are submitted, answers and accepts our token."""
    _use_token(url)
    request = urllib.request.Request(f"{url.rstrip('/')}/api/version", headers=token_headers())  # noqa: S310
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener.open(request, timeout=10).close()
    except urllib.error.HTTPError as error:
        error.close()
        what = _token_problem() if error.code in (401, 403) else f"answers {error.code}: is this Ray's dashboard?"
        raise ClusterError([f"address {url}: {what}"]) from None
    except (OSError, ValueError) as error:
        hint = "a head has one where ray[default] is installed: pip install 'entropy-sweep[cluster]'"
        raise ClusterError([f"address {url}: no Ray dashboard answers ({first_line(error)}); {hint}"]) from None


def _use_token(address: str) -> None:
    """Makes Ray use our token if there is one; raises ClusterError if it lacks one: Ray would abort the process."""
    with quiet("ray"):
        required = enable_token()
    if required and not has_token():
        raise ClusterError([f"address {address}: {_token_problem()}"])


def _token_problem() -> str:
    if has_token():
        return f"the cluster refuses the token: it is not the one in {TOKEN_HINT}"
    return f"the cluster asks for a token, and there is none in {TOKEN_HINT}"


def _no_answer(address: str, error: Exception) -> ClusterError:
    if address == "local":
        again = "; try again" if any(words in str(error) for words in START_FAILURES) else ""
        return ClusterError([f"address local: Ray did not start ({first_line(error)}){again}. Nothing is lost"])
    problem = f"address {address}: no Ray cluster answers ({first_line(error)})."
    return ClusterError([f"{problem} Start one there, or use --address local; {_ELSEWHERE}"])


def first_line(error: Exception) -> str:
    """Returns the first line of an error's message, or the error's name if the message is empty."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@contextlib.contextmanager
def quiet(*names: str) -> Iterator[None]:
    """Silences loggers for a ``with`` block: Ray warns of missing files and settings that do not matter here."""
    levels = {logger: logger.level for logger in map(logging.getLogger, names)}
    for logger in levels:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
