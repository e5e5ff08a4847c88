"""The driver's background recorder of a study and its trials: plain data in, MLflow runs out; nobody waits for it.

Every value carries the caller's own timestamp, so that a value sent twice is stored once.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Literal

from ..config.errors import TrackingError
from ..config.filesystem import AnyPath, local_copy
from .client import MlflowStore
from .model import save_model
from .runs import PendingRun, RunKey
from .sender import Sender

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import torch
    from mlflow import MlflowClient

    from ..config.settings import Settings
    from ..training.reports import EpochMetrics
    from .client import StartedTrials


class Tracker(Sender):
    """Records a study in one MLflow experiment: a parent run, and one child run per trial.

    `open`, `flush` and `close` talk to the server or wait for it. All other methods only queue; they may be called
    before `open` has returned, and from any thread. The user should see the `notices` when all is sent.
    """

    def __init__(self, uri: str, study: str, *, artifacts: AnyPath, experiment: str | None = None):
        super().__init__(MlflowStore(uri, study, artifacts, experiment))
        self.notices: list[str] = []
        self._running: set[RunKey] = set()
        self._closing = False

    @classmethod
    def of(cls, study: str, settings: Settings) -> Tracker:
        """Returns a study's tracker with the user's settings; raises `TrackingError` if they name no store."""
        store = MlflowStore.of(study, settings)
        return cls(store.uri, study, artifacts=settings.artifacts, experiment=store.experiment)

    def open(
        self,
        *,
        description: str,
        params: Mapping[str, object],
        tags: Mapping[str, str],
        experiment_tags: Mapping[str, str] | None = None,
        started_trials: StartedTrials | None = None,
        offline_ok: bool = False,
    ) -> None:
        """Finds or creates the experiment and its parent run, lists its runs, and starts the recorder.

        Takes some seconds (importing MLflow 2 s, a new SQLite store 1 s), which another thread may spend.

        Args:
            description: shown on top of the parent run (Markdown).
            params: written to the parent run; existing ones stay.
            started_trials: returns the trials of the storage; an experiment with runs of others is refused.
            offline_ok: go on without an unreachable server; the recorder tries it again now and then.

        Raises:
            TrackingError: as for `MlflowStore.find_experiment`.
        """
        self._connect = partial(self.store.begin, description, params, tags, experiment_tags or {}, started_trials)
        try:
            self._connect()
        except TrackingError as error:
            if not offline_ok:
                raise
            self._fall_behind(str(error))
        self._start_thread()

    def open_existing(self) -> bool:
        """Opens a study that is over or that another process runs, to add to it; returns False if MLflow lacks it."""
        found = self.store.open_existing()
        if found:
            self._start_thread()
        return found

    def start_trial(
        self,
        key: RunKey,
        *,
        params: Mapping[str, object],
        tags: Mapping[str, str],
        start_time: int,
        resumed: bool = False,
    ) -> None:
        """Begins a trial's run, or opens its existing one again, which keeps its ``start_time`` (milliseconds).

        Numeric params become metrics too, since MLflow compares params as strings only. A ``resumed`` trial was begun
        before, perhaps by another driver: the server is searched for its run (4 ms) before one is created.
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

        The key None is the parent run, here and below; its steps may be any other count.
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
        The ``end_time`` is in milliseconds since the Unix epoch.
        """
        self._running.discard(key)
        status = {None: "KILLED", "failed": "FAILED"}.get(outcome, "FINISHED")
        end_tags = {**tags, "sweep.outcome": outcome} if outcome else dict(tags)
        self._put(PendingRun(key, metrics=dict(metrics), end=(status, end_time), end_tags=end_tags))

    def leave_trial(self, key: RunKey) -> None:
        """Leaves a trial's run to another driver, which has adopted the trial."""
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

        The model, on the CPU, is the recorder's from now on. The example is an input batch [N, ...]; the stored model
        takes any N. One that cannot be exported is stored as its state dict, with a notice that gives the reason.
        """
        self._put(PendingRun(key, jobs=[partial(save_model, model, example, self.notices.append)]))

    def close(self, *, status: Literal["FINISHED", "KILLED", "FAILED"] | None, timeout: float = 30.0) -> bool:
        """Ends trials that still run as KILLED, then the parent run with `status`, if any, and stops the recorder.

        Returns False, with the reason as `error`, if the study's next run has to send something.
        """
        if self._thread is None:
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

    def _after_repair(self) -> None:
        if self._closing:  # the repair has started them again
            self._end_running()

    def _end_running(self) -> None:
        now = time.time_ns() // 1_000_000
        for key in sorted(self._running, key=lambda key: key.name):
            self.end_trial(key, outcome=None, metrics={}, tags={}, end_time=now)


def _upload(path: AnyPath, folder: str, client: MlflowClient, run_id: str) -> None:
    with local_copy(path) as file:
        client.log_artifact(run_id, str(file), folder or None)
