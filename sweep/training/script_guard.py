"""Runs a script in a process group of its own, which ends with the worker that wants it, however that dies.

A program: its arguments are the script's words, its standard input is a socket. At the other end is the worker: a byte
from it asks the script to end, its death ends the script at once. It gets the exit code, or why nothing could start.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading

STOP_WITHIN = 10.0  # seconds from SIGTERM to SIGKILL


def main() -> None:
    """Runs the script, and ends with it."""
    if os.fork():  # Ray kills the children of a worker that it ends, but not theirs
        os._exit(0)
    os.setsid()
    worker = socket.socket(fileno=0)
    try:
        script = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, process_group=0)  # noqa: S603
    except OSError as error:
        worker.sendall(f"{sys.argv[1]} cannot be started: {error.strerror}".encode())
        return
    threading.Thread(target=_watch, args=[worker, script.pid], daemon=True).start()
    code = script.wait()
    _kill(script.pid, signal.SIGKILL)  # what it has left in the background
    with contextlib.suppress(OSError):
        worker.sendall(str(code).encode())


def _watch(worker: socket.socket, group: int) -> None:
    """Ends the script when the worker asks for it, or has died."""
    if worker.recv(1):
        _kill(group, signal.SIGTERM)
        worker.settimeout(STOP_WITHIN)
        with contextlib.suppress(TimeoutError):
            worker.recv(1)
    _kill(group, signal.SIGKILL)


def _kill(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(OSError):
        os.killpg(group, number)


if __name__ == "__main__":
    main()
