"""Decides between Tune's loop and a `TrialSource`: the next trial, the end of a trial, the retry of a lost one."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, Self

from ..training.reports import TrialReport
from .executor import Key, TrialRequest, TrialSource
from .out_of_memory import hint, ray_oom_kind
from .worker import halted

ASK_AGAIN = 1.0  # seconds; a source without a trial may have one when a trial ends, or after this long
SLOTS_PER_ASK = 4  # slots for each trial that is asked for ahead, so that several free slots need not wait
MAX_LOSSES = 3  # workers lost in the same epoch; then the trial fails
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
        self._losses: dict[Key, tuple[int, int]] = {}  # last epoch when a worker was lost, and losses since that epoch
        self._retry_queue: list[TrialRequest] = []  # have lost their worker
        self._exclusive_queue: list[TrialRequest] = []  # wait until no other trial runs
        self._asker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ask")
        self._next: deque[Future[TrialRequest | None]] = deque()  # asked for ahead of need
        self._quiet_until = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._asker.shutdown()  # waits: the source has recorded the trials that were asked for ahead

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
        if self._retry_queue:
            return self._retry_queue.pop(0)
        if len(self.requests) >= limit or (self.requests and time.monotonic() < self._quiet_until):
            return None
        if any(request.exclusive for request in self.requests.values()):
            return None
        if not self._next:
            if self.source.is_finished() and not self._exclusive_queue:
                return None if self.requests else FINISHED  # a running one may lose its worker
            self._next.append(self._asker.submit(self.source.ask))
        if self.requests and not self._next[0].done():
            return None  # a result may come while the sampler thinks
        request = self._next.popleft().result()
        if request is not None and request.exclusive:
            self._exclusive_queue.append(request)
            return None
        if request is None:
            if not self.requests and self._exclusive_queue:
                return self._exclusive_queue.pop(0)
            if not self.requests and self.source.is_finished():
                return FINISHED  # Tune would sleep a second before it asks again
            self._quiet_until = time.monotonic() + ASK_AGAIN
        elif not self.source.is_finished():
            while len(self._next) < max(1, limit // SLOTS_PER_ASK):
                self._next.append(self._asker.submit(self.source.ask))
        return request

    def has_more(self) -> bool:
        """Returns True if another trial is about to start, beside those on workers."""
        free = not self.ended and len(self.requests) < self._limit(len(self.requests))
        return free and bool(self._retry_queue or self._next)

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
        """Retries a trial that has lost its worker, from its checkpoint, as long as it progresses between losses."""
        request = self.requests.pop(trial_id, None)
        if request is None:
            return
        key, oom = request.key, ray_oom_kind(error)
        self.relocations[key] = self.relocations.get(key, 0) + 1
        epoch = self._epochs.get(key, 0)
        before, count = self._losses.get(key, (epoch, 0))
        count = count + 1 if epoch == before else 1
        self._losses[key] = epoch, count
        if count < MAX_LOSSES and not (oom and self._retry_oom):
            logger.info("trial %d of %s lost its worker after epoch %d: relocating it", key[1], key[0], epoch)
            self._retry_queue.append(request)
            return
        last_line = f"the worker died {count} times in the same epoch" if count > 1 else "the worker died"
        last_line = f"{last_line}, {hint(oom)}" if oom else last_line
        logger.info("trial %d of %s is given up: %s", key[1], key[0], last_line)
        self.guard(lambda: self.source.on_trial_lost(key, f"{error.strip()}\n{last_line}".strip(), oom))
