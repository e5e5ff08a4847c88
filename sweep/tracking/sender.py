"""The queue of work for MLflow, and the daemon thread that sends it in few calls.

On the first failure the queue is dropped; when the server answers again, `Sender.repair` sends from the checkpoints
what MLflow lacks. So nothing waits for the server, and memory stays bounded.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Literal

from ..config.errors import TrackingError
from .errors import classify_error, innermost_reason
from .runs import PendingRun, RunKey

if TYPE_CHECKING:
    from collections.abc import Callable

    from .client import MlflowStore

logger = logging.getLogger(__name__)

ROUND_SECONDS = 1.0  # between two rounds of sending: trials that end gather for this long
RUNNING_SECONDS = 5.0  # between two calls for a trial that still runs: a call costs 10 ms whatever it holds
RETRY_SECONDS = 30.0  # the longest pause during an outage
JOB_SECONDS = 30.0  # an upload that fails for so long while other calls succeed is dropped
QUEUED = 1000  # runs, 25 MB for 20 epochs each; a longer queue counts as an outage
REPAIRED = 100  # queued runs at which a repair waits until they are sent


class Sender:
    """Sends the work of runs to a store.

    Attributes:
        repair: called in the thread when the server answers after an outage. It must start, log and end again all
            trials whose runs MLflow lacks or has incomplete, running ones first; see `make_room`.
        dropped: messages about what MLflow refused, run by run.
    """

    def __init__(self, store: MlflowStore):
        self.store = store
        self.repair: Callable[[], object] | None = None
        self.dropped: list[str] = []
        self._connect: Callable[[], object] = store.open_existing
        self._state: Literal["sending", "away", "catching up"] = "sending"
        self._failure: str | None = None  # the reason why something has to be sent again
        self._pending: dict[RunKey | None, PendingRun] = {}
        self._sending = False
        self._progress = 0  # a count of signs that the server answers
        self._outages = 0
        self._changed = threading.Condition()  # its lock is that of all the above
        self._hurry = False
        self._stopped = False
        self._thread: threading.Thread | None = None

    @property
    def behind(self) -> bool:
        """True from a failure of the server until it has received everything that the outage kept back."""
        return self._state != "sending"

    @property
    def error(self) -> str | None:
        """The reason why something is not sent, else the last thing that MLflow refused; None if all is well."""
        return self._failure or next(iter(self.dropped[-1:]), None)

    def flush(self, timeout: float) -> bool:
        """Sends all that is queued; returns False if that takes longer than `timeout` seconds."""
        return self._wait_until(lambda: not (self._pending or self._sending or self.behind), timeout)

    def make_room(self) -> None:
        """Waits until few runs are queued; called by a repair after each trial, so that memory stays bounded.

        Raises `TrackingError` if the server fails again, in the thread's own repair.
        """
        self._progress += 1
        if len(self._pending) < REPAIRED or self._thread is None:
            return
        if threading.current_thread() is not self._thread:
            self._wait_until(lambda: len(self._pending) < REPAIRED or self.behind or self._stopped)
        elif not self._send_due() and self._state == "away":
            raise TrackingError(self._failure or "")

    def _start_thread(self) -> None:
        self._thread = threading.Thread(target=self._run, name="mlflow-recorder", daemon=True)
        self._thread.start()

    def _drain(self, timeout: float) -> bool:
        """Sends all, as long as the server answers a call every `timeout` seconds and does not fail repeatedly."""
        outages = self._outages
        while True:
            before = self._progress
            if self.flush(timeout):
                return True
            if self._progress == before or self._outages > outages + 2:
                return False

    def _put(self, work: PendingRun) -> None:
        with self._changed:
            kept = work.without_checkpointed() if self._state == "away" else work
            if kept is None:
                return
            if kept.key in self._pending:
                self._pending[kept.key].add(kept)
            else:
                self._pending[kept.key] = kept
            if self._state != "away" and len(self._pending) > QUEUED:
                self._fall_behind(f"{self.store.name} is too slow: {QUEUED} runs wait for it")

    def _fall_behind(self, reason: str) -> None:
        """Begins an outage, or prolongs it: drops what the checkpoints hold."""
        with self._changed:
            if self._state != "away":
                self._outages += 1
                logger.info("outage, the queue of %d runs is dropped: %s", len(self._pending), reason)
            self._state, self._failure = "away", reason
            left = (work.without_checkpointed() for work in self._pending.values())
            self._pending = {work.key: work for work in left if work is not None}

    def _wait_until(self, condition: Callable[[], bool], timeout: float | None = None) -> bool:
        """Waits, while the thread sends without pauses."""
        with self._changed:
            self._hurry = True
            self._changed.notify_all()
            met = self._changed.wait_for(condition, timeout)
            self._hurry = False
        return met

    def _run(self) -> None:
        pause = ROUND_SECONDS
        while not self._stopped:
            with self._changed:
                if pause > ROUND_SECONDS:  # a flush shortens the pause, but does not skip it
                    self._changed.wait(ROUND_SECONDS if self._hurry else pause)
                else:
                    self._changed.wait_for(
                        lambda: self._stopped or (self._hurry and bool(self._pending or self.behind)), ROUND_SECONDS
                    )
            sent = self._catch_up() and self._send_due()
            with self._changed:
                if sent and self._state != "away":
                    if self.behind:
                        logger.info("the outage is repaired")
                    self._state, self._failure = "sending", None
                self._changed.notify_all()
            pause = ROUND_SECONDS if sent else min(2 * pause, RETRY_SECONDS)

    def _catch_up(self) -> bool:
        """After an outage, lists the runs that the server has and repairs the others; returns whether it answers."""
        if self._state != "away":
            return True
        try:
            self._connect()
            with self._changed:
                self._state, self._progress = "catching up", self._progress + 1  # from now on the queue takes all
            logger.info("the server answers, its runs are repaired")
            if self.repair is not None:
                self.repair()
            self._after_repair()
        except Exception as error:  # noqa: BLE001  the thread must outlive an unreachable storage, too
            self._fall_behind(str(error))
            return False
        return True

    def _after_repair(self) -> None:
        """Completes a repair."""

    def _send_due(self) -> bool:
        """Sends what is due; returns whether nothing has to be sent again."""
        with self._changed:
            everything, since = self._hurry or self.behind, time.monotonic() - RUNNING_SECONDS
            due = [w for w in self._pending.values() if everything or w.end or w.jobs or w.since <= since]
            for work in due:
                del self._pending[work.key]
            self._sending = bool(due)
        unsent = self._send(due)
        with self._changed:
            for work in unsent:
                later = self._pending.pop(work.key, None)
                self._put(work)  # the last, lest one run hold up all others
                if later is not None:
                    self._put(later)
            self._sending = False
            self._changed.notify_all()
        return not unsent

    def _send(self, due: list[PendingRun]) -> list[PendingRun]:
        """Sends work; returns what has to be sent again."""
        unsent: list[PendingRun] = []
        for position, work in enumerate(due):
            try:
                for refusal in self.store.send(work):
                    self._drop(work, refusal)
                self._progress += 1
            except Exception as error:  # noqa: BLE001  the thread must outlive whatever one run's data raise
                if classify_error(error) == "unavailable":
                    self._fall_behind(self.store.explain(error))
                    return [*due[position:], *unsent]
                self._postpone(work, error)
                unsent.append(work)
        return unsent

    def _postpone(self, work: PendingRun, error: Exception) -> None:
        """Leaves values that were not accepted to the repair, and an upload to the next round."""
        why = innermost_reason(error, self.store.uri)
        reason = f"{self.store.name} does not accept data of {work.name} ({why}); they are sent again"
        logger.info("%s", reason)
        if not work.jobs or work.params or work.tags or work.epochs or work.metrics:
            self._fall_behind(reason)
            return
        self._failure, now = reason, time.monotonic()
        work.failing_since = work.failing_since or now
        if now - work.failing_since >= JOB_SECONDS:
            del work.jobs[0]
            work.failing_since = None
            self._drop(work, error)

    def _drop(self, work: PendingRun, error: Exception) -> None:
        reason = innermost_reason(error, self.store.uri)
        self.dropped.append(f"{self.store.name} refused data of {work.name}, they were dropped ({reason})")
        logger.info("%s", self.dropped[-1])
