"""PostgreSQL for drivers that a network cuts off: timeouts at both ends, and the lock that drivers take turns by."""

import contextlib
import hashlib
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError, DisconnectionError, OperationalError

# libpq: a server that vanishes with its host is an error within half a minute, not after hours.
CLIENT_TIMEOUTS = {
    "connect_timeout": 10,  # seconds, as those below
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30_000,  # milliseconds
}
# The server: by default it keeps the locks of a driver that vanished for two hours, and of a stopped one for ever.
SERVER_TIMEOUTS = {
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "4",
    "tcp_user_timeout": "30s",
    "idle_in_transaction_session_timeout": "10min",  # a driver that is stopped within a transaction
    "lock_timeout": "60s",
}
PING_AFTER = 60.0  # seconds without use, after which a connection is tried before it is used
_LOCK_TIMEOUT = "55P03"  # PostgreSQL's code
_HOLDER = text("""
    SELECT pid, application_name, extract(epoch FROM clock_timestamp() - xact_start)::int
    FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE locktype = 'advisory' AND granted AND (classid::bigint << 32) + objid::bigint = :number
""")


def engine_options() -> dict[str, Any]:
    """Returns the options of SQLAlchemy's `create_engine`; sessions have the application name ``sweep PID HOST``."""
    name = f"sweep {os.getpid()} {socket.gethostname()}"[:63]
    return {
        "connect_args": {**CLIENT_TIMEOUTS, "application_name": name},
        "pool_events": [(_set_timeouts, "connect"), (_ping, "checkout")],
    }


def _set_timeouts(connection: Any, _record: object) -> None:
    # Not by libpq's `options`, which a URL may have and connection poolers refuse.
    calls = ", ".join(f"set_config('{name}', '{value}', false)" for name, value in SERVER_TIMEOUTS.items())
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {calls}")
    connection.commit()


def _ping(connection: Any, record: Any, _proxy: object) -> None:
    """Has the pool replace a connection that broke while nobody used it; SQLAlchemy's own ping is one at each use."""
    now = time.monotonic()
    if now - record.info.get("used", now) > PING_AFTER:
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
            connection.rollback()
        except Exception as error:
            raise DisconnectionError from error
    record.info["used"] = now


@contextlib.contextmanager
def advisory_lock(engine: Engine, name: str) -> Iterator[None]:
    """Holds a lock of the server for a ``with`` block; it ends with the transaction, and with its holder.

    Raises `TimeoutError`, with the name of the session that has the lock, after a minute; `ConnectionError` if the
    server has ended the lock before the block.
    """
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
    with engine.connect() as connection:
        try:
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({number})")
        except OperationalError as error:
            if getattr(error.orig, "sqlstate", None) != _LOCK_TIMEOUT:
                raise
            raise TimeoutError(f"{name} is locked by {_holder(engine, number)}") from None
        yield
        try:
            connection.commit()
        except DBAPIError as error:
            raise ConnectionError(f"PostgreSQL has ended the lock of {name}") from error


def _holder(engine: Engine, number: int) -> str:
    with engine.connect() as connection:
        found = connection.execute(_HOLDER, {"number": number}).first()
    if found is None:
        return "drivers that take long turns"
    pid, driver, seconds = found
    return (
        f"session {pid} of PostgreSQL ({driver}), for {seconds} s: if that driver is stopped, end it, or end its "
        f"session: SELECT pg_terminate_backend({pid})"
    )
