"""A thread for calls that may never return, such as those to a storage that stays silent."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any


class DaemonThread:
    """Makes calls one after the other; unlike a `ThreadPoolExecutor`'s thread, it keeps no process alive."""

    def __init__(self, name: str):
        self._calls = SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None]()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def submit(self, call: Callable[[], Any]) -> Future[Any]:
        """Returns the future result of a call."""
        future = Future[Any]()
        self._calls.put((call, future))
        return future

    def close(self) -> None:
        """Ends the thread after the calls that were submitted, and does not wait for it."""
        self._calls.put(None)

    def _run(self) -> None:
        for call, future in iter(self._calls.get, None):
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except BaseException as error:  # noqa: BLE001 (raised where the result is wanted)
                    future.set_exception(error)
