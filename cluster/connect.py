"""Connecting to Ray: a private one on this machine, or a cluster that exists.

Imports Ray alone, so that it can start while the rest is still being imported.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import platform
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

from .shadowing import import_hook

_ENVIRONMENT = {
    "RAY_prestart_worker_first_driver": "0",  # trials start processes of their own; idle ones only cost start-up
    "RAY_enable_worker_prestart": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}
_connected: list[str] = []  # the address of the block that this process is in
_AS_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set for a driver that was submitted: its code is on the workers already
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", ".*", "RESULTS*")
TOKEN_HINT = "RAY_AUTH_TOKEN, or a file that RAY_AUTH_TOKEN_PATH names, or ~/.ray/auth_token"  # noqa: S105
# Of the process that the head starts for a client, and of a node of our own.
NOT_STARTED = ("Initialization failure", "timed out during startup")


class ClusterError(ConnectionError):
    """A cluster that is not there, or that cannot be used from here.

    Attributes:
        problems: one sentence each, beginning with what is wrong.
    """

    def __init__(self, problems: list[str]):
        self.problems = problems
        super().__init__("; ".join(problems))


@contextlib.contextmanager
def connected(address: str, modules: Sequence[str] = (), cpus: int | None = None) -> Iterator[None]:
    """Connects to Ray for a ``with`` block; ``local`` starts a private one on this machine and ends it after.

    Within another such block of the same address nothing happens: the outer one's connection serves.

    Args:
        address: ``local``, ``auto``, ``host:port`` or ``ray://host:port``.
        modules: package folders and single files that are copied to the workers as they are now; costs the better part
            of a second, each on this machine, all together on a cluster.
        cpus: that ``local`` takes itself to have; by default those of this machine.

    Raises:
        ClusterError: nothing answers at the address, it refuses the token, or has other versions of Ray or Python.
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
                options |= {"include_dashboard": False, "num_cpus": cpus}
                hook = import_hook()
                options["runtime_env"] = {
                    **({"py_modules": list(modules)} if modules else {}),
                    **({"worker_process_setup_hook": hook} if hook else {}),
                } or None
            else:
                check_access(address)
                if modules and _AS_A_JOB not in os.environ:
                    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="sweep-code-"))
                    try:
                        collect(modules, Path(folder))
                    except OSError as error:
                        raise ClusterError([f"code: cannot be copied to {folder} to be sent: {error}"]) from None
                    options["runtime_env"] = {"working_dir": folder}
            _init(address, options)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray has put handlers of its own in its place
    except ClusterError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        raise _no_answer(address, error) from None
    _connected.append(address)
    try:
        yield
    finally:
        _connected.clear()
        gc.collect()  # Tune leaves references in cycles: one that another thread frees during shutdown ends the process
        ray.shutdown()


def _init(address: str, options: dict[str, Any]) -> None:
    """Starts Ray, or connects to it; once more where one of its processes did not start, as on a busy machine."""
    try:
        ray.init(address=address, **options)
    except Exception as error:  # Ray raises plain ones
        if not any(said in str(error) for said in NOT_STARTED):
            raise
        ray.shutdown()
        try:
            ray.init(address=address, **options)
        except Exception as again:  # noqa: BLE001
            raise RuntimeError(str(again)) from None


def collect(modules: Sequence[str], folder: Path) -> Path:
    """Copies packages and single files into one folder, which Ray sends to the workers at once."""
    for module in map(Path, modules):
        if module.is_dir():
            shutil.copytree(module, folder / module.name, ignore=_LEFT_OUT, dirs_exist_ok=True)
        else:
            shutil.copy(module, folder)
    return folder


def check_access(address: str) -> None:
    """Asks whether the cluster is there, takes our token, and has our versions: Ray itself would retry for 20 s.

    Raises:
        ClusterError: all that is wrong.
    """
    _take_token(address)
    if address.startswith("ray://"):
        host, _, port = address.removeprefix("ray://").rpartition(":")
        _reach(address, host, port)
        return  # its dashboard, and so its versions, may be anywhere: the client compares them
    try:
        bootstrap = ray._private.services.canonicalize_bootstrap_address_or_die(address)
    except (OSError, ValueError) as error:
        raise _no_answer(address, error) from None
    host, _, port = bootstrap.rpartition(":")
    _reach(address, host, port)
    try:
        answer = ray._raylet.GcsClient(address=bootstrap).internal_kv_get(b"CLUSTER_METADATA", b"cluster", timeout=10)
    except ray.exceptions.AuthenticationError:
        raise ClusterError([f"address {address}: {_token_problem()}"]) from None
    except ray.exceptions.RayError as error:
        raise _no_answer(address, error) from None
    if problems := _versions(json.loads(answer or b"{}")):
        raise ClusterError([f"address {address}: {problem}" for problem in problems])


def check_dashboard(url: str) -> None:
    """Asks a head's HTTP address, that of jobs, whether it is there and takes our token.

    Raises:
        ClusterError: it does not.
    """
    from ray._private.authentication.http_token_authentication import get_auth_headers_if_auth_enabled

    _take_token(url)
    request = urllib.request.Request(f"{url.rstrip('/')}/api/version", headers=get_auth_headers_if_auth_enabled({}))  # noqa: S310
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


def _take_token(address: str) -> None:
    """Uses the token where there is one, which not all of Ray's ways to connect do by themselves.

    Raises:
        ClusterError: RAY_AUTH_MODE=token and no token: Ray would abort the process.
    """
    from ray._private.authentication import authentication_token_setup as setup

    ray._raylet.AuthenticationTokenLoader.instance().reset_cache()
    with quiet("ray"):
        used = setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    if used and not _has_token():
        raise ClusterError([f"address {address}: {_token_problem()}"])


def _has_token() -> bool:
    return bool(ray._raylet.AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True))


def _token_problem() -> str:
    if _has_token():
        return f"the cluster refuses the token: it has another one than {TOKEN_HINT}"
    return f"the cluster asks for a token, and there is none in {TOKEN_HINT}"


def _versions(cluster: dict[str, str]) -> list[str]:
    """In what a cluster differs from this process: Ray takes no difference, be it in the last part."""
    ours = {"ray": ray.__version__, "python": platform.python_version()}
    return [
        f"the cluster has {what.capitalize()} {theirs}, this process {mine}: they must be the same"
        for what, mine in ours.items()
        if (theirs := cluster.get(f"{what}_version", mine)) != mine
    ]


def _reach(address: str, host: str, port: str) -> None:
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise _no_answer(address, error) from None


def _no_answer(address: str, error: Exception) -> ClusterError:
    if address == "local":
        return ClusterError([f"address local: Ray did not start ({first_line(error)}); try again. Nothing is lost"])
    return ClusterError(
        [
            f"address {address}: no Ray cluster answers ({first_line(error)}). Start one there, or use --address "
            "local; from a machine that is none of its nodes, sweep submit, or ray://HOST:10001."
        ]
    )


def first_line(error: Exception) -> str:
    """What an error says first, or its name where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@contextlib.contextmanager
def quiet(*names: str) -> Iterator[None]:
    """Silences loggers for a ``with`` block: Ray speaks of files nobody wrote and of settings nobody asked about."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
