"""The driver's background recorder of a study and its trials: plain data in, MLflow runs out, without waiting.

A value sent twice is stored once, by its timestamp. On the first failure the queue is dropped, so that memory stays
bounded; when the server answers again, `Tracker.repair` sends from the checkpoints what MLflow lacks.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal

from ..config.errors import TrackingError
from ..config.filesystem import AnyPath, local_copy
from ..config.settings import Settings
from ..training.reports import EpochMetrics
from .client import MlflowStore, StartedTrials
from .errors import classify_error, innermost_reason
from .model import save_model
from .runs import PendingRun, RunKey, Tags

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from ..training.program import Program

logger = logging.getLogger(__name__)

ROUND_SECONDS = 1.0  # between two rounds of sending: trials that end gather for this long
RUNNING_SECONDS = 5.0  # between two calls for a trial that still runs: a call costs 10 ms whatever it holds
RETRY_SECONDS = 30.0  # the longest pause during an outage
JOB_SECONDS = 30.0  # an upload that fails for so long while other calls succeed is dropped
QUEUED = 1000  # runs, 25 MB for 20 epochs each; a longer queue counts as an outage
REPAIRED = 100  # queued runs at which a repair waits until they are sent


class Tracker:
    """Records a study in one MLflow experiment: a parent run, and one child run per trial.

    `open`, `flush` and `close` talk to the server or wait for it. All other methods only queue; they may be called
    before `open` has returned, and from any thread.

    Attributes:
        repair: called in the thread when the server answers after an outage. It must start, log and end again all
            trials whose runs MLflow lacks or has incomplete, running ones first; see `make_room`.
        dropped: messages about what MLflow refused, run by run.
        notices: messages for the user when all is sent.
    """

    def __init__(self, uri: str, study: str, *, artifacts: AnyPath, experiment: str = "", study_id: str | None = None):
        self.store = MlflowStore(uri, study, artifacts, experiment, study_id)
        self.repair: Callable[[], object] | None = None
        self.dropped: list[str] = []
        self.notices: list[str] = []
        self._connect: Callable[[], object] = self.store.open_existing
        self._state: Literal["sending", "unreachable", "catching up"] = "sending"
        self._failure: str | None = None  # the reason why something has to be sent again
        self._pending: dict[RunKey | None, PendingRun] = {}
        self._running: set[RunKey] = set()
        self._sending = self._hurry = self._closing = self._stopped = False
        self._progress = self._outages = 0  # counts of signs that the server answers, and of outages
        self.outage_began = 0.0  # monotonic time at which the last one was noticed
        self._changed = threading.Condition()  # its lock is that of all the above
        self._thread = threading.Thread(target=self._run, name="mlflow-recorder", daemon=True)

    @classmethod
    def of(cls, study: str, settings: Settings, study_id: str | None = None) -> Tracker:
        """Returns a study's tracker with the user's settings; raises `TrackingError` if they name no store."""
        place = settings.tracking_uri, study
        return cls(*place, artifacts=settings.artifacts, experiment=settings.experiment(study), study_id=study_id)

    def open(
        self,
        *,
        description: str,
        params: Mapping[str, object],
        tags: Tags,
        experiment_tags: Tags | None = None,
        started_trials: StartedTrials | None = None,
        offline_ok: bool = False,
    ) -> None:
        """Finds or creates the experiment and its parent run, lists its runs, and starts the recorder.

        Takes some seconds (importing MLflow 2 s, a new SQLite store 1 s), which another thread may spend. Raises
        `TrackingError` as `MlflowStore.find_experiment` does.

        Args:
            description: shown on top of the parent run (Markdown).
            params: written to the parent run; existing ones stay.
            started_trials: returns the trials of the storage; an experiment with runs of others is refused.
            offline_ok: go on without an unreachable server; the recorder tries it again now and then.
        """
        self._connect = partial(self.store.begin, description, params, tags, experiment_tags or {}, started_trials)
        try:
            self._connect()
        except TrackingError as error:
            if not offline_ok:
                raise
            self._fall_behind(str(error))
        self._thread.start()

    def open_existing(self) -> bool:
        """Opens a study that is over or that another process runs, to add to it; returns False if MLflow lacks it."""
        if found := self.store.open_existing():
            self._thread.start()
        return found

    def start_trial(
        self, key: RunKey, *, params: Mapping[str, object], tags: Tags, start_time: int, resumed: bool = False
    ) -> None:
        """Begins a trial's run, or opens its existing one again, which keeps its ``start_time`` (milliseconds).

        Numeric params become metrics too, since MLflow compares params as strings only. A ``resumed`` trial was begun
        before, perhaps by another driver: the server is searched for its run (4 ms) before one is created.
        """
        self._running.add(key)
        numbers = {n: float(v) for n, v in params.items() if isinstance(v, int | float) and not isinstance(v, bool)}
        self._put(PendingRun(key, start_time, resumed, params=dict(params), tags=dict(tags), metrics=numbers))

    def log_epochs(self, key: RunKey | None, epochs: Sequence[EpochMetrics]) -> None:
        """Adds a run's metrics, each epoch with its own timestamp. The key None is the parent run, here and below."""
        self._put(PendingRun(key, epochs=list(epochs)))

    def end_trial(
        self, key: RunKey, *, outcome: str | None, metrics: Mapping[str, float], tags: Tags, end_time: int
    ) -> None:
        """Ends a trial's run: FINISHED; FAILED if it failed; KILLED without an outcome.

        All metrics and files are sent first, then the tag ``sweep.outcome``, then the status: a FINISHED run is whole.
        The ``end_time`` is in milliseconds since the Unix epoch.
        """
        self._running.discard(key)
        status = {None: "KILLED", "failed": "FAILED"}.get(outcome, "FINISHED")
        end_tags = {**tags, "sweep.outcome": outcome} if outcome else dict(tags)
        self._put(PendingRun(key, metrics=dict(metrics), end=(status, end_time), end_tags=end_tags))

    def delete_trial(self, key: RunKey) -> None:
        """Deletes a trial's run, in whose place another one is to start."""
        self._put(PendingRun(key, deleted=True))

    def leave_trial(self, key: RunKey) -> None:
        """Leaves a trial's run to another driver, which has adopted the trial."""
        self._running.discard(key)

    def set_tags(self, key: RunKey | None, tags: Tags) -> None:
        """Writes tags of a run."""
        self._put(PendingRun(key, tags=dict(tags)))

    def log_files(self, key: RunKey | None, files: Sequence[AnyPath], folder: str = "") -> None:
        """Uploads files, which must stay as they are until then, to a folder of the run's artifacts."""
        self._put(PendingRun(key, jobs=[partial(_upload, path, folder) for path in files]))

    def log_text(self, key: RunKey | None, text: str, file: str) -> None:
        """Stores a text as the artifact `file` ("study.yaml", "figures/curves.html")."""
        self._put(PendingRun(key, jobs=[lambda client, run_id: client.log_text(run_id, text, file)]))

    def log_model(self, key: RunKey, program: Program) -> None:
        """Stores an MLflow model ``runs:/<run_id>/model`` that loads without this project and without unpickling.

        The program is the tracker's from now on. The stored model takes any number of images. A network that cannot be
        exported is stored as its state dict, with a notice that gives the reason.
        """
        self._put(PendingRun(key, jobs=[partial(save_model, program, self.notices.append)]))

    def close(self, *, status: Literal["FINISHED", "KILLED", "FAILED"] | None, timeout: float = 30.0) -> bool:
        """Ends trials that still run as KILLED, then the parent run with `status`, if any, and stops the recorder.

        Returns False, with the reason as `error`, if the study's next run has to send something.
        """
        if not self._thread.is_alive():
            self.store.close()
            return not self._pending
        self._closing = True
        self._end_running()
        sent = self._drain(timeout)
        if status is not None:
            self._put(PendingRun(None, end=(status, time.time_ns() // 1_000_000)))
            sent = self.flush(timeout if sent else 1.0) and sent
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join(timeout=1.0)
        self.store.close()
        if not sent and self.error is None:
            self._failure = f"{self.store.name} has not received everything in time"
        return sent

    def _end_running(self) -> None:
        for key in sorted(self._running, key=lambda key: key.name):
            self.end_trial(key, outcome=None, metrics={}, tags={}, end_time=time.time_ns() // 1_000_000)

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
        if len(self._pending) < REPAIRED or not self._thread.is_alive():
            return
        if threading.current_thread() is not self._thread:
            self._wait_until(lambda: len(self._pending) < REPAIRED or self.behind or self._stopped)
        elif not self._send_due() and self._state == "unreachable":
            raise TrackingError(self._failure or "")

    def _drain(self, timeout: float) -> bool:
        """Sends all, as long as the server answers a call every `timeout` seconds and does not fail repeatedly."""
        outages, before = self._outages, -1
        while self._progress > before and self._outages <= outages + 2:
            before = self._progress
            if self.flush(timeout):
                return True
        return False

    def _put(self, work: PendingRun) -> None:
        with self._changed:
            if (kept := work.without_checkpointed() if self._state == "unreachable" else work) is None:
                return
            if kept.key in self._pending and not kept.deleted:
                self._pending[kept.key].add(kept)
            else:
                self._pending[kept.key] = kept
            if self._state != "unreachable" and len(self._pending) > QUEUED:
                self._fall_behind(f"{self.store.name} is too slow: {QUEUED} runs wait for it")

    def _fall_behind(self, reason: str) -> None:
        """Begins or prolongs an outage; drops what can be repaired from the checkpoints."""
        with self._changed:
            if self._state != "unreachable":
                self._outages, self.outage_began = self._outages + 1, time.monotonic()
                logger.info("outage, the queue of %d runs is dropped: %s", len(self._pending), reason)
            self._state, self._failure = "unreachable", reason
            self._pending = {k: left for k, work in self._pending.items() if (left := work.without_checkpointed())}

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
                if sent and self._state != "unreachable":
                    if self.behind:
                        logger.info("the outage is repaired")
                    self._state, self._failure = "sending", None
                self._changed.notify_all()
            pause = ROUND_SECONDS if sent else min(2 * pause, RETRY_SECONDS)

    def _catch_up(self) -> bool:
        """After an outage, lists the runs that the server has and repairs the others. Returns True if it answers."""
        if self._state != "unreachable":
            return True
        try:
            self._connect()
            with self._changed:
                self._state, self._progress = "catching up", self._progress + 1  # from now on the queue takes all
            logger.info("the server answers, its runs are repaired")
            if self.repair is not None:
                self.repair()
            if self._closing:  # the repair has started them again
                self._end_running()
        except Exception as error:  # noqa: BLE001  the thread must outlive an unreachable storage, too
            self._fall_behind(str(error))
            return False
        return True

    def _send_due(self) -> bool:
        """Sends the work that is due. Returns True if nothing has to be sent again."""
        with self._changed:
            everything, since = self._hurry or self.behind, time.monotonic() - RUNNING_SECONDS
            due = [w for w in self._pending.values() if everything or w.end or w.jobs or w.since <= since]
            for work in due:
                del self._pending[work.key]
            self._sending = bool(due)
        unsent: list[PendingRun] = []
        for position, work in enumerate(due):
            try:
                for refusal in self.store.send(work):
                    self._drop(work, refusal)
                self._progress += 1
            except Exception as error:  # noqa: BLE001  the thread must outlive whatever one run's data raise
                if classify_error(error) == "unavailable":
                    self._fall_behind(self.store.explain(error))
                    unsent = [*due[position:], *unsent]
                    break
                self._postpone(work, error)
                unsent.append(work)
        with self._changed:
            for work in unsent:
                later = self._pending.pop(work.key, None)
                for each in filter(None, (work, later)):
                    self._put(each)  # as the last: one run must not hold up all others
            self._sending = False
            self._changed.notify_all()
        return not unsent

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


def _upload(path: AnyPath, folder: str, client: MlflowClient, run_id: str) -> None:
    with local_copy(path) as file:
        client.log_artifact(run_id, str(file), folder or None)
