"""MLflow's door: the driver's background recorder of a study and its trials.

Callers hand over plain data and never wait; one daemon thread sends what has gathered in few calls. Every value carries
the caller's own timestamp, so that what is sent twice is stored once.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Literal

from ..config.errors import TrackingError
from ..config.filesystem import AnyPath, local_copy
from ..config.settings import NO_DATABASE
from .client import ENVIRONMENT, MlflowStore, PendingRun, RunKey, RunState, classify_error
from .model import log_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import numpy as np
    import torch
    from mlflow import MlflowClient

    from ..config.settings import Settings
    from ..training.reports import EpochMetrics
    from .client import Taken


__all__ = ["RunKey", "RunState", "Tracker", "serve"]

ROUND_SECONDS = 1.0  # between two looks at the queue: trials that end gather for this long
RUNNING_SECONDS = 5.0  # between two calls for a trial that still runs: a call costs 10 ms whatever it holds
RETRY_SECONDS = 30.0  # the longest pause while the server is gone
MOST_KEPT = 4000  # runs that are kept for a server that is away: 100 MB for 20 epochs each
JOB_SECONDS = 30.0  # for so long an upload may fail while other things get through; then it is dropped


class Tracker:
    """Records a study in one MLflow experiment: a parent run, and one child run per trial.

    `check`, `open`, `flush` and `close` talk to the server or wait for it. All other methods only queue; they may be
    called before `open` has returned, and from any thread.

    Attributes:
        away: why the server is out of reach, or refuses us; None while it is not.
        dropped: what it does not take, run by run, and why.
        notices: what else the user should know, when all is sent.
    """

    def __init__(self, uri: str, study: str, *, artifacts: AnyPath, experiment: str | None = None):
        self.away: str | None = None
        self.dropped: list[str] = []
        self.notices: list[str] = []
        self._runs = MlflowStore(uri, study, artifacts, experiment or study)
        self._pending: dict[
            RunKey | None, PendingRun
        ] = {}  # what is not being sent; under the lock of _changed, as the next
        self._sending: list[PendingRun] = []
        self._sent = 0  # works
        self._doubtful: dict[RunKey | None, str] = {}  # why a run's work is tried again while others are sent
        self._partial: set[RunKey | None] = set()  # runs of which something was dropped: they are not whole
        self._left: set[RunKey] = set()  # runs left to the study's next run, for want of room
        self._running: set[RunKey] = set()
        self._changed = threading.Condition()
        self._hurry = False
        self._closed = False
        self._thread: threading.Thread | None = None
        self._begin: Callable[[], None] | None = None  # what is still to be done before anything can be sent

    @classmethod
    def of(cls, study: str, settings: Settings) -> Tracker:
        """The recorder of a study, by the user's settings.

        Raises:
            TrackingError: none was given, and the workspace can hold none.
        """
        if not settings.tracking_uri:
            raise TrackingError(NO_DATABASE)
        place = settings.artifacts
        return cls(settings.tracking_uri, study, artifacts=place, experiment=settings.experiment(study))

    @property
    def experiment_id(self) -> str:
        """MLflow's id of the experiment; known after `open`."""
        return self._runs.experiment_id

    @property
    def trouble(self) -> str | None:
        """Why something was not taken that is sent again."""
        return self.away or next(iter([*self._doubtful.values()]), None)

    @property
    def problem(self) -> str | None:
        """What keeps the recorder from sending, or made it drop something; None while all is well."""
        return self.trouble or next(iter(self.dropped[-1:]), None)

    @property
    def was_finished(self) -> bool:
        """Whether the study's own run was FINISHED when the tracker was opened."""
        return self._runs.status == "FINISHED"

    def check(self, *, create: bool = False) -> str | None:
        """Connects and looks for the experiment.

        Args:
            create: make an SQLite store that is not there yet, empty, so that `open` finds it.

        Returns:
            The id of the experiment, None if there is none yet.

        Raises:
            TrackingError: the server is out of reach or refuses, or the experiment was deleted.
        """
        return self._runs.find_experiment(create=create)

    @property
    def experiment_tags(self) -> dict[str, str]:
        """The experiment's tags, as `check` found them."""
        return self._runs.experiment_tags

    def find_runs(self, experiment_id: str, keys: Iterable[RunKey]) -> dict[RunKey, str]:
        """Ids of the runs that MLflow holds, found by their tags; creates nothing.

        Raises:
            TrackingError: as for `check`.
        """
        return self._runs.find_runs(experiment_id, keys)

    def open(
        self,
        *,
        description: str,
        params: Mapping[str, object],
        tags: Mapping[str, str],
        experiment_tags: Mapping[str, str] | None = None,
        taken: Taken | None = None,
        offline_ok: bool = False,
    ) -> None:
        """Finds or creates the experiment and its parent run, learns which runs exist, and starts the recorder.

        Takes some seconds (importing MLflow 2 s, a new SQLite store 1 s), which another thread may spend.

        Args:
            description: shown on top of the parent run (Markdown).
            params: of the parent run; those it already has are left as they are.
            tags: of the parent run, written at every opening.
            experiment_tags: of the experiment, likewise (see `sweep.tracking.ui_links`).
            taken: the trials that have been begun, by study and number; an experiment with runs of others is refused.
            offline_ok: go on without a server that is out of reach; the recorder looks for it now and then.

        Raises:
            TrackingError: as for `check`.
        """
        self._begin = partial(self._runs.begin, description, params, tags, experiment_tags or {}, taken)
        try:
            self._begin()
        except TrackingError as error:
            if not offline_ok:
                raise
            self.away = str(error)
        else:
            self._begin = None
        self._start_recorder()

    def open_existing(self) -> bool:
        """Instead of `open`, to add to a study that is over or that another process runs: its own run stays as it is.

        Returns:
            Whether MLflow has it.

        Raises:
            TrackingError: as for `check`.
        """
        found = self._runs.open_existing()
        if found:
            self._start_recorder()
        return found

    def _start_recorder(self) -> None:
        self._thread = threading.Thread(target=self._record, name="mlflow-recorder", daemon=True)
        self._thread.start()

    def runs(self) -> dict[RunKey, RunState]:
        """The trials' runs that MLflow held when the tracker was opened."""
        return dict(self._runs.found)

    def start_trial(
        self,
        key: RunKey,
        *,
        params: Mapping[str, object],
        tags: Mapping[str, str],
        start_time: int,
        resumed: bool = False,
    ) -> None:
        """Begins a trial's run, or opens its old one again.

        Args:
            key: of the run.
            params: hyperparameters, constants included; the numeric ones become metrics too, since MLflow compares
                params as strings only.
            tags: of the run.
            start_time: milliseconds since the Unix epoch; an existing run keeps its own.
            resumed: the trial was begun before, perhaps by another driver after this tracker was opened: its run is
                looked for on the server (4 ms) before one is created.
        """
        self._running.add(key)
        numbers = {
            name: float(value)
            for name, value in params.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        self._put(PendingRun(key, start_time, resumed, params=dict(params), tags=dict(tags), metrics=numbers))

    def log_epochs(self, key: RunKey | None, epochs: Sequence[EpochMetrics]) -> None:
        """Adds a run's metrics, each epoch with its own timestamp; epochs sent before are not stored again.

        Args:
            key: of the run; None is the parent run, here and below.
            epochs: of the parent run, whatever counts its steps.
        """
        self._put(PendingRun(key, epochs=list(epochs)))

    def end_trial(
        self,
        key: RunKey,
        *,
        outcome: str | None,
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        end_time: int,
    ) -> None:
        """Ends a trial's run: FINISHED; FAILED if it failed; KILLED without an outcome.

        All metrics and files are sent first, then the tag ``sweep.outcome``, then the status: a FINISHED run is whole.

        Args:
            key: of the run.
            outcome: ``completed``, ``pruned``, ``diverged``, ``failed``; None for an interrupted trial.
            metrics: one value a run, such as ``objective``; one that the run already has is left as it is.
            tags: written with the outcome.
            end_time: milliseconds since the Unix epoch.
        """
        self._running.discard(key)
        status = {None: "KILLED", "failed": "FAILED"}.get(outcome, "FINISHED")
        end_tags = {**tags, "sweep.outcome": outcome} if outcome else dict(tags)
        self._put(PendingRun(key, metrics=dict(metrics), end=(status, end_time), end_tags=end_tags))

    def leave_trial(self, key: RunKey) -> None:
        """Leaves a trial's run to another driver, who has taken it over."""
        self._running.discard(key)

    def set_tags(self, key: RunKey | None, tags: Mapping[str, str]) -> None:
        """Writes tags of a run."""
        self._put(PendingRun(key, tags=dict(tags)))

    def log_files(self, key: RunKey | None, files: Sequence[AnyPath], folder: str = "") -> None:
        """Uploads files, which must stay as they are until then, to a folder of the run's artifacts."""
        self._put(PendingRun(key, jobs=[partial(_upload, path, folder) for path in files]))

    def log_text(self, key: RunKey | None, text: str, file: str) -> None:
        """Stores a text as the artifact `file` ("study.yaml", "figures/curves.html")."""
        self._put(PendingRun(key, jobs=[lambda client, run_id: client.log_text(run_id, text, file)]))

    def log_model(self, key: RunKey, model: torch.nn.Module, example: np.ndarray) -> None:
        """Stores an MLflow model ``runs:/<run_id>/model`` that loads without this project and without unpickling.

        Where it cannot be exported, its state dict, and a notice that says why.

        Args:
            key: of the run.
            model: on the CPU; it is the recorder's from now on and put in eval mode.
            example: an input batch [N, ...]; the stored model takes any N.
        """
        self._put(PendingRun(key, jobs=[partial(log_model, model, example, self.notices.append)]))

    def flush(self, timeout: float) -> bool:
        """Sends all that is queued; False if the server has not taken it within `timeout` seconds."""
        with self._changed:
            self._hurry = True
            self._changed.notify_all()
            sent = self._changed.wait_for(lambda: not self._pending and not self._sending, timeout)
            self._hurry = False
        return sent

    def _drain(self, timeout: float) -> bool:
        """Sends all, however long it takes, as long as the server takes something every `timeout` seconds."""
        while True:
            before = self._sent
            if self.flush(timeout):
                return True
            if self._sent == before:
                return False

    def close(self, *, status: Literal["FINISHED", "KILLED", "FAILED"] | None, timeout: float = 30.0) -> bool:
        """Ends trials that still run as KILLED, then the parent run with `status`, if any, and stops the recorder.

        Returns:
            Whether the server has everything but what was dropped. If not, `problem` says why, and the study's next
            run has to send it.
        """
        if self._thread is None:
            self._runs.close()
            return not self._pending
        now = time.time_ns() // 1_000_000
        for key in sorted(self._running, key=lambda key: key.name):
            self.end_trial(key, outcome=None, metrics={}, tags={}, end_time=now)
        sent = self._drain(timeout)
        if status is not None:
            self._put(PendingRun(None, end=(status, now)))
            sent = self.flush(timeout if sent else 1.0) and sent
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(timeout=1.0)
        self._runs.close()
        if not sent and self.problem is None:
            self.away = f"{self._runs.where} has not taken all in time"
        return sent

    def _put(self, work: PendingRun) -> None:
        with self._changed:
            if work.key in self._pending:
                self._pending[work.key].add(work)
            elif self._has_room(work.key):
                self._pending[work.key] = work

    def _has_room(self, key: RunKey | None) -> bool:
        """Whether work for one more run is kept; not for one of which something was not: it would not be whole."""
        if key in self._left:
            return False
        if key is None or self.away is None or len(self._pending) + len(self._sending) < MOST_KEPT:
            return True
        if any(work.key == key for work in self._sending):
            return True
        if not self._left:
            self.dropped.append(
                f"{self._runs.where} is away for too long: {MOST_KEPT} trials wait for it, those that follow are left "
                "to the study's next run"
            )
        self._left.add(key)
        return False

    def _record(self) -> None:
        """The recorder's thread."""
        pause = ROUND_SECONDS
        while not self._closed:
            with self._changed:
                if pause > ROUND_SECONDS:  # the server is gone: a flush shortens the pause, but does not skip it
                    self._changed.wait(ROUND_SECONDS if self._hurry else pause)
                else:
                    self._changed.wait_for(self._wanted, ROUND_SECONDS)
                self._sending = [work for work in self._pending.values() if self._hurry or _due(work)]
                for work in self._sending:
                    del self._pending[work.key]
            kept = self._send_all()
            with self._changed:
                for work in kept:
                    if later := self._pending.pop(work.key, None):
                        work.add(later)
                    self._pending[work.key] = work
                self._sending = []
                self._changed.notify_all()
            pause = min(2 * pause, RETRY_SECONDS) if kept else ROUND_SECONDS

    def _wanted(self) -> bool:
        """Whether somebody waits for the recorder."""
        return self._closed or (self._hurry and bool(self._pending))

    def _send_all(self) -> list[PendingRun]:
        """Sends what is due; returns what was not taken, the troublesome last, lest one run hold up all others."""
        if self._begin is not None:
            try:
                self._begin()
            except Exception as error:  # noqa: BLE001  the recorder must outlive a storage that is away, too
                self.away = str(error)
                return self._sending
            self._begin = None
        kept: list[PendingRun] = []
        for number, work in enumerate(self._sending):
            try:
                self._send(work)
            except Exception as error:  # noqa: BLE001  the recorder must outlive whatever one run's data raise
                if classify_error(error) == "away":
                    self.away = self._runs.explain(error)
                    return [*self._sending[number + 1 :], *kept, work]
                if self._is_kept(work, error):
                    kept.append(work)
            else:
                self._doubtful.pop(work.key, None)
                self._sent += 1
            self.away = None
        return kept

    def _send(self, work: PendingRun) -> None:
        if work.key in self._partial:
            work.end_tags.pop("sweep.outcome", None)  # the next run of the study sends what is missing
        self._runs.send(work)

    def _is_kept(self, work: PendingRun, error: Exception) -> bool:
        """Whether anything of a work is left to be sent again after an error that is its own."""
        name, now = work.key.name if work.key else "the study", time.monotonic()
        if classify_error(error) == "doubtful":
            if work.is_down_to_jobs() and work.failing is None:
                work.failing = now
            if work.failing is None or now - work.failing < JOB_SECONDS:
                self._doubtful[work.key] = self._runs.explain(error, doubtful=name)
                return True
        if not work.is_down_to_jobs():
            self._partial.add(work.key)
        self._doubtful.pop(work.key, None)
        self.dropped.append(self._runs.explain(error, dropped=name))
        return work.give_up()


def serve(
    uri: str, artifacts: AnyPath, *, host: str = "127.0.0.1", port: int = 5000
) -> tuple[list[str], dict[str, str]]:
    """The command and the environment that serve the MLflow UI of a store, whose URI may hold a password."""
    options = {
        "--artifacts-destination": artifacts.absolute().as_uri(),
        "--host": host,
        "--port": str(port),
        "--workers": "1",
    }
    command = [sys.executable, "-m", "mlflow", "server", *(word for option in options.items() for word in option)]
    # Job execution would start 7 more processes.
    own = {"MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    return command, {**os.environ, **ENVIRONMENT, **own}


def _due(work: PendingRun) -> bool:
    """Whether to send now rather than gather more."""
    return bool(work.end or work.jobs) or time.monotonic() - work.since >= RUNNING_SECONDS


def _upload(path: AnyPath, folder: str, client: MlflowClient, run_id: str) -> None:
    with local_copy(path) as file:
        client.log_artifact(run_id, str(file), folder or None)
