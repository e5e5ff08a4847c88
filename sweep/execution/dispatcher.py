"""Decides between Tune's loop and a `TrialSource`: the next trial, the end of a trial, the retry of a lost one."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, Final, Self

from ..config.daemon_thread import DaemonThread
from ..training.reports import TrialReport
from .executor import Key, TrialRequest, TrialSource
from .out_of_memory import hint, is_machine_fault, ray_oom_kind
from .worker import halted

ASK_AGAIN = 1.0  # seconds; a source without a trial may have one when a trial ends, or after this long
LAST_ASK = 20.0  # seconds that a source has at the end for the trials that were asked for
SLOTS_PER_ASK = 4  # slots for each trial that is asked for ahead, so that several free slots need not wait
MAX_LOSSES = 3  # workers lost in the same epoch; then the trial fails
MAX_MACHINE_LOSSES = 20  # of workers that were lost by the machine's fault
PAUSE, LONGEST_PAUSE = 10.0, 60.0  # seconds before the first retry after such a loss, doubled each time; the longest
FINISHED: Final = "FINISHED"  # equals Tune's `Searcher.FINISHED`

logger = logging.getLogger(__name__)


class Dispatcher:
    """The state that the adapters of Tune share; they call it from Tune's loop.

    Args:
        limit: returns the number of trials at once, for a number of trials on workers.
        stop: once set, no trial begins, and running ones end at their next report.
        retry_oom: leave the retry of a trial whose worker ran out of memory to the source.
    """

    def __init__(
        self, source: TrialSource, *, limit: Callable[[int], int], stop: threading.Event, retry_oom: bool = False
    ):
        self.source, self.stop, self._limit, self._retry_oom = source, stop, limit, retry_oom
        self.requests: dict[str, TrialRequest] = {}  # on workers, by Tune's trial id
        self.error: BaseException | None = None  # the source's first, or a reason why no trial can go on
        self.relocations: dict[Key, int] = {}  # number of workers that each trial has lost
        self._epochs: dict[Key, int] = {}  # last epoch reported
        # Last epoch when a worker was lost, and losses since that epoch; True: those by the machine's fault.
        self._losses: dict[tuple[Key, bool], tuple[int, int]] = {}
        self._retry_queue: list[tuple[float, TrialRequest]] = []  # have lost their worker; with the time of the retry
        self._exclusive_queue: list[TrialRequest] = []  # wait until no other trial runs
        self._told_unfit = False
        self._asker = DaemonThread("ask")
        self._next: deque[Future[TrialRequest | None]] = deque()  # asked for ahead of need
        self._quiet_until = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        """Waits until the source has recorded the trials that were asked for ahead, unless the user stops at once."""
        self._asker.close()
        asked = [future for future in self._next if not future.cancel()]
        if wait(asked, timeout=0 if exc[0] is KeyboardInterrupt else LAST_ASK).not_done:
            self.source.on_message("no answer from the storage at the end: its last trial is left to the next run")

    def __getstate__(self) -> dict[str, Any]:
        """Returns nothing: Tune pickles its adapters into a snapshot, which must hold nothing of the study."""
        return {}

    @property
    def ended(self) -> bool:
        """True if no more trials are to begin."""
        return self.stop.is_set() or self.error is not None

    def next_trial(self) -> TrialRequest | str | None:
        """Returns the next trial, None if there is none now, or `FINISHED`; asks for the following ones in a thread."""
        if self.ended:
            return FINISHED
        limit = self._limit(len(self.requests))
        if due := self._due():
            self._retry_queue.remove(due)
            return due[1]
        if len(self.requests) >= limit or (self.requests and time.monotonic() < self._quiet_until):
            return None
        if any(request.exclusive for request in self.requests.values()):
            return None
        if not self._next:
            if self.source.is_finished() and not self._exclusive_queue:
                return None if self.requests or self._retry_queue else FINISHED  # a running one may lose its worker
            self._next.append(self._asker.submit(self.source.ask))
        while not self._next[0].done():
            if self.requests:
                return None  # a result may come while the sampler thinks
            if self.ended:
                return FINISHED
            wait(list(self._next)[:1], timeout=ASK_AGAIN)
        request = self._next.popleft().result()
        if request is not None and request.exclusive:
            self._exclusive_queue.append(request)
            return None
        if request is None:
            if not self.requests and self._exclusive_queue:
                return self._exclusive_queue.pop(0)
            if not self.requests and not self._retry_queue and self.source.is_finished():
                return FINISHED  # Tune would sleep a second before it asks again
            self._quiet_until = time.monotonic() + ASK_AGAIN
        elif not self.source.is_finished():
            while len(self._next) < max(1, limit // SLOTS_PER_ASK):
                self._next.append(self._asker.submit(self.source.ask))
        return request

    def has_more(self) -> bool:
        """Returns True if another trial is about to start, beside those on workers."""
        free = not self.ended and len(self.requests) < self._limit(len(self.requests))
        return free and bool(self._due() or self._next)

    def _due(self) -> tuple[float, TrialRequest] | None:
        return next((each for each in self._retry_queue if each[0] <= time.monotonic()), None)

    def guard(self, call: Callable[[], Any], default: Any = None) -> Any:
        """Calls a function; its exception ends the run, where Tune's loop would swallow it."""
        try:
            return call()
        except Exception as error:  # noqa: BLE001 (execute() raises it)
            self.error = self.error or error
            return default

    def on_report(self, trial_id: str, report: TrialReport) -> bool:
        """Passes a worker's report to the source; returns True if the trial must stop."""
        request = self.requests.get(trial_id)
        if request is None:
            return True
        if report.relocate:
            if not self._told_unfit:
                self.guard(lambda: self.source.on_message(str(report.relocate)))
            self._told_unfit = True
            self._retry_queue.append((time.monotonic(), self.requests.pop(trial_id)))
            return False
        if error := halted(report):  # the next trial would fare no better
            self.error = self.error or error
            return True
        stop = bool(self.guard(lambda: self.source.report(request.key, report), default=True))
        stop = stop or report.outcome is not None
        if report.oom:
            logger.info("trial %d of %s: out of memory on the %s", request.key[1], request.key[0], report.oom)
        if report.epochs:
            self._epochs[request.key] = report.epochs[-1].epoch
        if stop:
            self.requests.pop(trial_id)
            self._quiet_until = 0.0
        return stop or self.ended

    def on_worker_lost(self, trial_id: str, error: str) -> None:
        """Retries a trial that has lost its worker, from its checkpoint, as long as it progresses between losses.

        By the machine's fault it may lose more of them, and waits before each retry.
        """
        request = self.requests.pop(trial_id, None)
        if request is None:
            return
        key, oom, machine = request.key, ray_oom_kind(error), is_machine_fault(error)
        self.relocations[key] = self.relocations.get(key, 0) + 1
        epoch = self._epochs.get(key, 0)
        before, count = self._losses.get((key, machine), (epoch, 0))
        count = count + 1 if epoch == before else 1
        self._losses[key, machine] = epoch, count
        if count < (MAX_MACHINE_LOSSES if machine else MAX_LOSSES) and (machine or not (oom and self._retry_oom)):
            logger.info("trial %d of %s lost its worker after epoch %d: relocating it", key[1], key[0], epoch)
            pause = min(PAUSE * 2 ** (count - 1), LONGEST_PAUSE) if machine and oom else 0.0
            if pause and count == 1:
                held = f"trial {key[1]} of {key[0]} lost its worker: other programs fill the memory of its node"
                self.guard(lambda: self.source.on_message(f"{held}. It waits, and goes on from its checkpoint"))
            self._retry_queue.append((time.monotonic() + pause, request))
            return
        last_line = f"the worker died {count} times in the same epoch" if count > 1 else "the worker died"
        last_line = f"{last_line}, {hint(oom)}" if oom else last_line
        last_line = f"{last_line} (other programs fill the memory of its node)" if machine and oom else last_line
        logger.info("trial %d of %s is given up: %s", key[1], key[0], last_line)
        self.guard(lambda: self.source.on_trial_lost(key, f"{error.strip()}\n{last_line}".strip(), oom))
