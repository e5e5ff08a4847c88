"""Runs a function of the user's own from one report to the next: `GeneratorCall` and `ThreadCall`.

A generator function runs in the caller's thread and is closed at its end. Any other function runs in a thread that
waits in its report while the caller saves and reports; where the trial ends, the report raises `TrialStopped`.
"""

import contextlib
import inspect
import queue
import sys
import threading
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from ..config.errors import StopIgnoredError

STOP_WITHIN = 20.0  # seconds that a function has to end after its report has raised TrialStopped


class TrialStopped(BaseException):
    """The trial ends at this report: it is pruned, interrupted, or at its last epoch. No Exception, nor an error."""


def yields(function: object) -> bool:
    """Returns True for a generator function, and for an object whose call is one."""
    return any(map(inspect.isgeneratorfunction, (function, type(function).__call__)))


class GeneratorCall:
    """The reports of a generator function."""

    def __init__(self, generator: "types.GeneratorType[object, None, object]"):
        self._generator = generator

    def __next__(self) -> object:
        return next(self._generator)

    def __iter__(self) -> "GeneratorCall":
        return self

    def where(self) -> str:
        """Returns the file and line at which the function waits."""
        frame = self._generator.gi_frame
        return f"{frame.f_code.co_filename}, line {frame.f_lineno}: " if frame else ""

    def close(self) -> None:
        """Ends the function: its `yield` raises GeneratorExit."""
        try:
            self._generator.close()
        except RuntimeError as error:
            if "ignored GeneratorExit" not in str(error):
                raise
            raise StopIgnoredError("yields after it was closed") from None


class ThreadCall:
    """The reports of a function in a thread, which runs while the caller waits for a report, and at no other time."""

    def __init__(self, call: Callable[[], object], threads: int):
        self._call, self._threads = call, threads
        self._reports = queue.SimpleQueue[tuple[str, Any]]()
        self._go_on = threading.Semaphore(0)
        self._stopping = False
        self._place = ""
        self._thread = threading.Thread(target=self._run, name="trial", daemon=True)

    def __iter__(self) -> "ThreadCall":
        return self

    def __next__(self) -> object:
        if self._thread.ident is None:
            self._thread.start()
        else:
            self._go_on.release()
        kind, value = self._reports.get()
        if kind == "report":
            return value
        self._thread.join()
        raise StopIteration if kind == "end" else value

    def where(self) -> str:
        """Returns the file and line at which the function waits."""
        return self._place

    def report(self, values: Mapping[str, Any]) -> None:
        """Hands a report over, and waits for the next epoch; called by the function."""
        if self._stopping:
            self._reports.put(("ignored", None))
            threading.Event().wait()  # for good: the function has swallowed TrialStopped
        caller = sys._getframe(2)  # `inspect.stack` takes a millisecond
        self._place = f"{caller.f_code.co_filename}, line {caller.f_lineno}: "
        self._reports.put(("report", values))
        self._go_on.acquire()
        if self._stopping:
            raise TrialStopped

    def close(self) -> None:
        """Ends the function at the report in which it waits; raises StopIgnoredError if it goes on."""
        if not self._thread.is_alive():
            return
        self._stopping = True
        self._go_on.release()
        with contextlib.suppress(queue.Empty):
            if self._reports.get(timeout=STOP_WITHIN)[0] != "ignored":
                self._thread.join()
                return
        raise StopIgnoredError("goes on after its report has raised TrialStopped")

    def _run(self) -> None:
        torch.set_num_threads(self._threads)  # of this thread
        try:
            found = self._call()
            for values in found if isinstance(found, Iterator) else ():  # of a function that returns a generator
                self.report(values)
        except TrialStopped:
            self._reports.put(("end", None))
        except BaseException as error:  # noqa: BLE001 (the caller's thread raises it)
            self._reports.put(("error", error))
        else:
            self._reports.put(("end", None))
