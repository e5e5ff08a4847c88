"""SIGINT and SIGTERM during a run: the first lets trials write checkpoints, the second ends at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.console import Console


def exit_code(caught: Sequence[int]) -> int:
    """Returns the exit code of a run that was stopped by the signals ``caught``."""
    return 128 + (caught[0] if caught else signal.SIGINT)


@contextlib.contextmanager
def graceful(console: Console) -> Iterator[tuple[threading.Event, list[int]]]:
    """Catches SIGINT and SIGTERM; yields the event that asks trials to write checkpoints, and the caught signals."""
    stop, caught = threading.Event(), list[int]()

    def handle(number: int, _frame: object) -> None:
        caught.append(number)
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        if not console.is_terminal:  # a live view shows it, and would be torn by a line in its middle
            # Not through Rich: a handler may interrupt whatever holds its lock.
            os.write(2, b"\nStopping: waiting for the running trials' checkpoints; once more stops at once.\n")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop, caught
    except KeyboardInterrupt:
        console.print("Stopped at once; epochs after the last checkpoint of a trial will be trained again.")
        raise typer.Exit(128 + caught[-1]) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
