"""Connecting to Ray: a private one on this machine, or a cluster that exists.

Imports Ray alone, so that it can start while the rest is still being imported.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import ray

_ENVIRONMENT = {
    "RAY_prestart_worker_first_driver": "0",  # trials start processes of their own; idle ones only cost start-up
    "RAY_enable_worker_prestart": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


@contextlib.contextmanager
def connected(address: str, modules: Sequence[str] = ()) -> Iterator[None]:
    """Connects to Ray for a ``with`` block; ``local`` starts a private one on this machine and ends it after.

    Args:
        address: ``local``, ``host:port`` or ``ray://host:port``.
        modules: package folders and single files that are copied to the workers as they are now; costs each the better
            part of a second.

    Raises:
        ConnectionError: nothing answers at the address.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
    if modules:
        options["runtime_env"] = {"py_modules": list(modules)}
    if address == "local":
        options["include_dashboard"] = False
    handler = signal.getsignal(signal.SIGTERM)
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if port.isdigit():
            socket.create_connection((host, int(port)), timeout=10).close()  # Ray itself would try for minutes
        with quiet("ray"):
            ray.init(address=address, **options)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray has put handlers of its own in its place
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConnectionError(
            f"address {address}: no Ray cluster answers ({reason}). Start one there, or use --address local."
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


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
