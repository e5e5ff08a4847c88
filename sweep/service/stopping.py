"""Signals that stop a run: the first one after its checkpoints, the second one at once."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence


@contextlib.contextmanager
def stopped_by(
    numbers: Sequence[signal.Signals], stop: threading.Event, on_stop: Callable[[], object] = lambda: None
) -> Iterator[list[int]]:
    """Lets the first of some signals set ``stop`` and call ``on_stop``, and each later one raise KeyboardInterrupt.

    Yields the list of the signals that were caught. Only the main thread can catch signals.
    """
    caught = list[int]()

    def handle(number: int, _frame: object) -> None:
        caught.append(number)
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        on_stop()

    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
