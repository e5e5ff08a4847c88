"""A script that runs as a trial: `ScriptProcess`, which starts it, copies what it prints, and ends all of it."""

import contextlib
import re
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

from ..config.errors import FunctionError, ScriptError
from . import script_guard
from .attempt_files import LogStream

LAST_LINES = 20  # of what it printed, for the message about its failure
DRAIN_WITHIN = 2.0  # seconds in which what it has printed is read after its end, unless a process has detached itself


class ScriptProcess:
    """A script from its start to the end of a ``with`` block, at which it gets SIGTERM, and later SIGKILL."""

    def __init__(self, words: Sequence[str], *, folder: Path, variables: Mapping[str, str], log: Path):
        self.code: int | None = None  # negative for a signal; None while it runs
        self._lines = deque[str](maxlen=LAST_LINES)
        self._guard, theirs = socket.socketpair()
        command = [sys.executable, "-I", "-S", script_guard.__file__, *words]
        with theirs:
            started = subprocess.Popen(  # noqa: S603
                command,
                stdin=theirs.fileno(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=dict(variables),
                encoding="utf-8",
                errors="backslashreplace",
            )
        started.wait()  # it goes on as no child of this process
        self._copying = threading.Thread(target=self._copy, args=[started.stdout, log, sys.stderr], daemon=True)
        self._copying.start()

    def __enter__(self) -> "ScriptProcess":
        return self

    def __exit__(self, *exc: object) -> None:
        if self.code is None:
            with contextlib.suppress(OSError, FunctionError, ScriptError):
                self._guard.sendall(b"s")
                self.wait(script_guard.STOP_WITHIN + DRAIN_WITHIN)
        self._guard.close()
        self._copying.join(DRAIN_WITHIN)

    def wait(self, seconds: float) -> int | None:
        """Returns the exit code once the script has ended; None if it still runs after so many seconds.

        Raises:
            FunctionError: It cannot be started.
            ScriptError: The process that guards it was killed.
        """
        if self.code is None:
            self._guard.settimeout(seconds)
            try:
                said = self._guard.recv(4096).decode(errors="replace")
            except TimeoutError:
                return None
            if not said:
                raise ScriptError("the process that guards the script was killed")
            if not re.fullmatch(r"-?\d+", said):
                raise FunctionError(f"{socket.gethostname()}: {said}")
            self.code = int(said)
        return self.code

    def last_lines(self) -> str:
        """Returns the end of what it has printed."""
        self._copying.join(DRAIN_WITHIN)
        return "".join(self._lines)

    def _copy(self, output: TextIO, log: Path, stream: TextIO) -> None:
        """Copies what it prints to the log and to a stream: standard error, since standard output is for results."""
        with output, log.open("a", encoding="utf-8") as file:
            shown = LogStream(stream, file)
            for line in output:
                self._lines.append(line)
                shown.write(line)
                shown.flush()
