"""Between Tune's loop and a `Source` of trials: which trial is next, what a report means, what a lost worker means.

It knows nothing of Ray; the adapters of `sweep.execution.executor` call it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

from ..config.errors import SweepError
from ..training.reports import TrialReport
from .out_of_memory import hint, ray_oom_kind
from .trial_source import Key, TrialRequest, TrialSource

ASK_AGAIN = 1.0  # seconds; a source that has nothing now may have something when a trial ends, or after this long
SLOTS_PER_ASK = 4  # so that many slots wait for no sampler when several become free at once
LOST_AT_MOST = 3  # times in the same epoch; then the trial is failed
FINISHED: Final = "FINISHED"  # Tune's word for it, too


class Dispatcher:
    """What the adapters share: the source, the trials that are out, and an error to be raised at the end."""

    def __init__(
        self, source: TrialSource, *, limit: Callable[[int], int], stop: threading.Event, retry_oom: bool = False
    ):
        self.source, self.stop, self._limit, self._retry_oom = source, stop, limit, retry_oom
        self.requests: dict[str, TrialRequest] = {}  # Tune's id -> job, of the trials that are out
        self.error: BaseException | None = None
        self.relocations: dict[Key, int] = {}  # workers lost
        self._epochs: dict[Key, int] = {}  # last epoch reported
        self._losses: dict[Key, tuple[int, int]] = {}  # last epoch at the last loss of a worker, losses in that epoch
        self._retry_queue: list[TrialRequest] = []  # trials that have lost their worker
        self._exclusive_queue: list[TrialRequest] = []  # trials that wait until no other runs
        self._asker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ask")
        self._next: deque[Future[TrialRequest | None]] = deque()  # asked ahead of need
        self._quiet_until = 0.0

    def __enter__(self) -> Dispatcher:
        return self

    def __exit__(self, *exc: object) -> None:
        self._asker.shutdown()  # a trial that was asked ahead is known to the source when this returns

    def __getstate__(self) -> dict[str, Any]:
        """Empty: Tune pickles its adapters into a snapshot, which must hold nothing of the study."""
        return {}

    @property
    def ended(self) -> bool:
        """Whether no more trials are to begin."""
        return self.stop.is_set() or self.error is not None

    def next_trial(self) -> TrialRequest | str | None:
        """The next job; None: not now; `FINISHED`. Those after it are asked for at once, in a thread."""
        if self.ended:
            return FINISHED
        limit = self._limit(len(self.requests))
        if self._retry_queue:
            return self._retry_queue.pop(0)
        if len(self.requests) >= limit or (self.requests and time.monotonic() < self._quiet_until):
            return None
        if any(job.exclusive for job in self.requests.values()):
            return None
        if not self._next:
            if self.source.is_finished() and not self._exclusive_queue:
                return None if self.requests else FINISHED  # one that is out may lose its worker
            self._next.append(self._asker.submit(self.source.ask))
        if self.requests and not self._next[0].done():
            return None  # a result may come while the sampler thinks
        job = self._next.popleft().result()
        if job is not None and job.exclusive:
            self._exclusive_queue.append(job)
            return None
        if job is None:
            if not self.requests and self._exclusive_queue:
                return self._exclusive_queue.pop(0)
            if not self.requests and self.source.is_finished():
                return FINISHED  # Tune would sleep a second before it asks again
            self._quiet_until = time.monotonic() + ASK_AGAIN
        elif not self.source.is_finished():
            while len(self._next) < max(1, limit // SLOTS_PER_ASK):
                self._next.append(self._asker.submit(self.source.ask))
        return job

    def has_more(self) -> bool:
        """Whether one more trial is on its way, beside those that are out."""
        room = not self.ended and len(self.requests) < self._limit(len(self.requests))
        return room and bool(self._retry_queue or self._next)

    def guard(self, call: Callable[[], Any], default: Any = None) -> Any:
        """Calls; an exception ends the run instead of being swallowed by Tune's loop."""
        try:
            return call()
        except Exception as error:  # noqa: BLE001 (raised again by execute())
            self.error = self.error or error
            return default

    def on_report(self, trial_id: str, report: TrialReport) -> bool:
        """Hands a worker's report to the source; returns whether the trial must stop."""
        job = self.requests.get(trial_id)
        if job is None:
            return True
        if report.halt is not None:  # the next trial would fare no better
            self.error = self.error or SweepError(f"{report.halt}, then resume the study.")
            return True
        stop = bool(self.guard(lambda: self.source.report(job.key, report), default=True)) or report.outcome is not None
        if report.epochs:
            self._epochs[job.key] = report.epochs[-1].epoch
        if stop:
            self.requests.pop(trial_id)
            self._quiet_until = 0.0
        return stop or self.ended

    def on_worker_lost(self, trial_id: str, error: str) -> None:
        """Runs a trial that has lost its worker again, from its checkpoint, while there is progress between losses."""
        job = self.requests.pop(trial_id, None)
        if job is None:
            return
        self.relocations[job.key] = self.relocations.get(job.key, 0) + 1
        epoch = self._epochs.get(job.key, 0)
        before, count = self._losses.get(job.key, (epoch, 0))
        count = count + 1 if epoch == before else 1
        self._losses[job.key] = epoch, count
        lack = ray_oom_kind(error)
        if count < LOST_AT_MOST and not (lack and self._retry_oom):
            self._retry_queue.append(job)
            return
        often = f"the worker died {count} times in the same epoch" if count > 1 else "the worker died"
        last_line = f"{often}, {hint(lack)}" if lack else often
        self.guard(lambda: self.source.on_trial_lost(job.key, f"{error.strip()}\n{last_line}".strip(), lack))
