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

from .errors import TrackingError
from .logged_model import log_model
from .places import at_hand
from .runs import ENVIRONMENT, RunKey, Runs, RunState, Work, may_pass
from .settings import NO_DATABASE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    import torch
    from mlflow import MlflowClient

    from .metrics import EpochMetrics
    from .runs import Taken
    from .settings import Settings

__all__ = ["RunKey", "RunState", "Tracker", "serve"]

ROUND_SECONDS = 1.0  # between two looks at the queue: trials that end gather for this long
RUNNING_SECONDS = 5.0  # between two calls for a trial that still runs: a call costs 10 ms whatever it holds
RETRY_SECONDS = 30.0  # the longest pause while the server is gone


class Tracker:
    """Records a study in one MLflow experiment: a parent run, and one child run per trial.

    `check`, `open`, `flush` and `close` talk to the server or wait for it. All other methods only queue; they may be
    called before `open` has returned, and from any thread.

    Attributes:
        problem: what keeps the recorder from sending, or made it drop something; None while all is well, and again
            when a server that was gone is back.
        notices: what else the user should know, when all is sent.
    """

    def __init__(self, uri: str, study: str, *, artifacts: Path, experiment: str | None = None):
        self.problem: str | None = None
        self.notices: list[str] = []
        self._runs = Runs(uri, study, artifacts, experiment or study)
        self._queue: list[Work] = []
        self._pending: dict[RunKey | None, Work] = {}  # the recorder's; read and changed under the lock of _changed
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
    def away(self) -> bool:
        """Whether the server is out of reach, or refuses."""
        return self.problem is not None and not self.problem.startswith("dropped")

    @property
    def was_over(self) -> bool:
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
            experiment_tags: of the experiment, likewise (see `sweep.links`).
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
            self.problem = str(error)
        else:
            self._begin = None
        self._start_recorder()

    def attach(self) -> bool:
        """Instead of `open`, to add to a study that is over or that another process runs: its own run stays as it is.

        Returns:
            Whether MLflow has it.

        Raises:
            TrackingError: as for `check`.
        """
        found = self._runs.attach()
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
        self._put(Work(key, start_time, resumed, params=dict(params), tags=dict(tags), metrics=numbers))

    def log_epochs(self, key: RunKey | None, epochs: Sequence[EpochMetrics]) -> None:
        """Adds a run's metrics, each epoch with its own timestamp; epochs sent before are not stored again.

        Args:
            key: of the run; None is the parent run, here and below.
            epochs: of the parent run, whatever counts its steps.
        """
        self._put(Work(key, epochs=list(epochs)))

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
        self._put(Work(key, metrics=dict(metrics), end=(status, end_time), end_tags=end_tags))

    def set_tags(self, key: RunKey | None, tags: Mapping[str, str]) -> None:
        """Writes tags of a run."""
        self._put(Work(key, tags=dict(tags)))

    def log_files(self, key: RunKey | None, files: Sequence[Path], folder: str = "") -> None:
        """Uploads files, which must stay as they are until then, to a folder of the run's artifacts."""
        self._put(Work(key, jobs=[partial(_upload, path, folder) for path in files]))

    def log_text(self, key: RunKey | None, text: str, file: str) -> None:
        """Stores a text as the artifact `file` ("study.yaml", "figures/curves.html")."""
        self._put(Work(key, jobs=[lambda client, run_id: client.log_text(run_id, text, file)]))

    def log_model(self, key: RunKey, model: torch.nn.Module, example: np.ndarray) -> None:
        """Stores an MLflow model ``runs:/<run_id>/model`` that loads without this project and without unpickling.

        Where it cannot be exported, its state dict, and a notice that says why.

        Args:
            key: of the run.
            model: on the CPU; it is the recorder's from now on and put in eval mode.
            example: an input batch [N, ...]; the stored model takes any N.
        """
        self._put(Work(key, jobs=[partial(log_model, model, example, self.notices.append)]))

    def flush(self, timeout: float) -> bool:
        """Sends all that is queued; False if the server has not taken it within `timeout` seconds."""
        with self._changed:
            self._hurry = True
            self._changed.notify_all()
            sent = self._changed.wait_for(lambda: not self._queue and not self._pending, timeout)
            self._hurry = False
        return sent

    def close(self, *, status: Literal["FINISHED", "KILLED", "FAILED"] | None, timeout: float = 30.0) -> bool:
        """Ends trials that still run as KILLED, then the parent run with `status`, if any, and stops the recorder.

        Returns:
            Whether the server has everything. If not, `problem` says why, and the study's next run has to send it.
        """
        if self._thread is None:
            self._runs.close()
            return not self._queue
        now = time.time_ns() // 1_000_000
        for key in sorted(self._running, key=lambda key: key.name):
            self.end_trial(key, outcome=None, metrics={}, tags={}, end_time=now)
        deadline = time.monotonic() + timeout
        sent = self.flush(timeout)
        if status is not None:
            self._put(Work(None, end=(status, now)))
        sent = self.flush(max(0.1, deadline - time.monotonic())) and sent
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(timeout=1.0)
        self._runs.close()
        return sent

    def _put(self, work: Work) -> None:
        with self._changed:
            self._queue.append(work)

    def _record(self) -> None:
        """The recorder's thread."""
        pause = ROUND_SECONDS
        while not self._closed:
            with self._changed:
                if pause > ROUND_SECONDS:  # the server is gone: a flush shortens the pause, but does not skip it
                    self._changed.wait(ROUND_SECONDS if self._hurry else pause)
                else:
                    self._changed.wait_for(self._wanted, ROUND_SECONDS)
                for work in self._queue:
                    if work.key in self._pending:
                        self._pending[work.key].add(work)
                    else:
                        self._pending[work.key] = work
                self._queue.clear()
                due = [work for work in self._pending.values() if self._hurry or _due(work)]
            pause = ROUND_SECONDS if self._send(due) else min(2 * pause, RETRY_SECONDS)

    def _wanted(self) -> bool:
        """Whether somebody waits for the recorder."""
        return self._closed or (self._hurry and bool(self._queue or self._pending))

    def _send(self, due: Sequence[Work]) -> bool:
        """Sends what is due; False if the server is gone, with all that it did not take kept."""
        if self._begin is not None:
            try:
                self._begin()
            except TrackingError as error:
                self.problem = str(error)
                return False
            self._begin = None
        for work in due:
            try:
                self._runs.send(work)
            except Exception as error:  # noqa: BLE001  the recorder must outlive whatever one run's data raise
                if may_pass(error):
                    self.problem = self._runs.explain(error)
                    with self._changed:  # last in the next round, lest one run's trouble hold up all others
                        self._pending[work.key] = self._pending.pop(work.key)
                    return False
                self.problem = self._runs.explain(error, dropped=work.key.name if work.key else "the study")
            else:
                if self.away:
                    self.problem = None
            with self._changed:
                del self._pending[work.key]
                self._changed.notify_all()
        return True


def serve(uri: str, artifacts: Path, *, host: str = "127.0.0.1", port: int = 5000) -> tuple[list[str], dict[str, str]]:
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


def _due(work: Work) -> bool:
    """Whether to send now rather than gather more."""
    return bool(work.end or work.jobs) or time.monotonic() - work.since >= RUNNING_SECONDS


def _upload(path: Path, folder: str, client: MlflowClient, run_id: str) -> None:
    with at_hand(path) as file:
        client.log_artifact(run_id, str(file), folder or None)
