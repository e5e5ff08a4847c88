"""Runs a `TrialSource` with Ray Tune, which calls four small adapters: a searcher, workers, a scheduler, a stopper.

Tune keeps no state that matters: another run on the same source goes on.
"""

import contextlib
import json
import logging
import os
import pkgutil
import sys
import tempfile
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

# Read by Tune at import: its CSV, JSON and TensorBoard loggers cost milliseconds a result, and stay off.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from ..cluster.connect import quiet
from ..config.filesystem import parse_path
from ..config.resources import Resources
from ..config.section import STORED
from ..config.trial_config import TrialConfig
from ..config.user_code import search_folders, search_in
from ..training.reports import TrialPaths, TrialReport
from .dispatcher import Dispatcher
from .executor import TrialRequest, TrialSource
from .out_of_memory import limit_gpu_memory
from .slots import Slots
from .tune_patches import patched_tune, worker_of
from .worker import RUN_TRIAL, end_trial, next_report

SWITCH_INTERVAL = 5e-4  # seconds; the sampler's thread waits for a database many times a trial
_ENVIRONMENT = {
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",  # no snapshots: the storage is the truth
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the caller's handler stops gracefully
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_MAX_PENDING_TRIALS_PG": "10000",  # the dispatcher limits them; by default workers start one after the other
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}

logger = logging.getLogger(__name__)


def execute(source: TrialSource, resources: Resources, *, stop: threading.Event, run_trial: str = RUN_TRIAL) -> None:
    """Runs the source's trials, see `Executor.execute`; only workers import the generator function ``run_trial``."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    slots = Slots(resources, n_waiting=source.n_waiting, on_message=source.on_message)
    dispatcher = Dispatcher(source, limit=slots.count, stop=stop, retry_oom=resources.retry_oom)
    with (
        slots,
        tempfile.TemporaryDirectory(prefix="sweep-tune-") as scratch,  # what Tune writes is not kept
        quiet("ray.tune", "ray.air", "ray.train"),
        dispatcher,
        contextlib.ExitStack() as stack,
        patched_tune(scratch),
    ):
        stack.callback(sys.setswitchinterval, sys.getswitchinterval())
        sys.setswitchinterval(SWITCH_INTERVAL)
        tune.run(
            Worker,
            name="study",
            num_samples=-1,
            search_alg=_Searcher(dispatcher, slots, run_trial),
            scheduler=_Scheduler(dispatcher, slots),
            stop=_StopAll(dispatcher),
            reuse_actors=True,
            max_failures=0,  # the dispatcher retries: Tune gives a trial up that dies between two trials of a worker
            storage_path=scratch,
            trial_dirname_creator=lambda trial: trial.trial_id,
            trial_name_creator=lambda trial: trial.trial_id,
            raise_on_failed_trial=False,
            verbose=0,
            _remote=False,  # over ray:// Tune would run on the head, which cannot reach the study's storage
        )
    if dispatcher.error is not None:
        raise dispatcher.error


class Worker(tune.Trainable):
    """A warm process that trains one trial after the other; it talks to Tune alone."""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """Returns the resources of a trial. Tune calls it on the driver, before the worker exists."""
        return tune.PlacementGroupFactory([json.loads(config["job"])["demand"]])

    def setup(self, config: dict[str, Any]) -> None:
        """Starts the first trial. Tune calls it once."""
        self._reports: Generator[TrialReport] = (report for report in list[TrialReport]())
        self._unfit: str | None = None  # the reason why this process is fit for no further trial
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Starts the next trial. Tune calls it for every trial after the first."""
        self.end_trial()
        job = json.loads(new_config["job"])
        search_in(*map(Path, job["folders"]))  # for the script of a command, which is not imported
        place = job["place"]
        limit_gpu_memory(place["gpus"])
        run_trial: Callable[..., Generator[TrialReport]] = pkgutil.resolve_name(job["run_trial"])
        folder, data, cache = (parse_path(place[name]) for name in ("folder", "data", "cache"))
        self._reports = run_trial(
            TrialConfig.model_validate(job["config"], context=STORED),
            TrialPaths(folder, data, cache, place["gpus"]),
            attempt=job["attempt"],
            moves=job["moves"],
            pruning_epochs=job["pruning_epochs"],
        )
        return True

    def step(self) -> dict[str, Any]:
        """Trains until the next report is due, and returns it to the scheduler."""
        report = TrialReport([], relocate=self._unfit) if self._unfit else next_report(self._reports)
        return {"report": report.to_json()}

    def end_trial(self) -> None:
        """Ends the processes and threads of a trial that was stopped, so that none waits for the next trial."""
        self._unfit = self._unfit or end_trial(self._reports)


class _Searcher(Searcher):
    """Gets trials from the dispatcher."""

    def __init__(self, dispatcher: Dispatcher, slots: Slots, run_trial: str):
        super().__init__()
        self._dispatcher, self._slots, self._run_trial = dispatcher, slots, run_trial

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Returns the next trial as the config of a `Worker`. Tune calls it whenever it could start a trial."""
        request = self._dispatcher.guard(self._dispatcher.next_trial, default=Searcher.FINISHED)
        if not isinstance(request, TrialRequest):
            return request
        self._dispatcher.requests[trial_id] = request
        self._dispatcher.guard(lambda: self._dispatcher.source.on_trial_start(request.key))
        demand = self._slots.resource_request(exclusive=request.exclusive)
        paths = {name: str(getattr(request.paths, name)) for name in ("folder", "data", "cache")}
        job = {
            "config": request.config.model_dump(mode="json"),
            "place": {**paths, "gpus": demand.get("GPU", 0.0)},
            "attempt": request.attempt,
            "moves": self._dispatcher.relocations.get(request.key, 0),
            "folders": search_folders(),
            "pruning_epochs": None if request.pruning_epochs is None else sorted(request.pruning_epochs),
            "demand": demand,
            "run_trial": self._run_trial,
        }
        return {"job": json.dumps(job)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Forgets the trial. Tune calls it when a trial has stopped, for whatever reason."""
        self._dispatcher.requests.pop(trial_id, None)

    def save(self, checkpoint_path: str) -> None: ...  # the storage has everything
    def restore(self, checkpoint_path: str) -> None: ...


class _StopAll(Stopper):
    """Ends Tune's loop at once if the driver itself has failed."""

    def __init__(self, dispatcher: Dispatcher):
        self._dispatcher = dispatcher

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._dispatcher.error is not None


class _Scheduler(FIFOScheduler):
    """Passes each report to the source, which decides if the trial stops; trials start in the order of `suggest`."""

    def __init__(self, dispatcher: Dispatcher, slots: Slots):
        super().__init__()
        self.dispatcher, self._slots = dispatcher, slots

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Returns the source's decision; relocates a trial whose node is being drained. Tune calls it per report."""
        report = TrialReport.from_json(result["report"])
        stop = self.dispatcher.on_report(trial.trial_id, report)
        if report.relocate:
            ray.kill(worker_of(trial))
        elif not stop and result["node_ip"] in self._slots.draining:
            logger.info("node %s is being drained: relocating its trial at this checkpoint", result["node_ip"])
            ray.kill(worker_of(trial))  # handled as a lost worker
        if stop:
            worker_of(trial).end_trial.remote()
        return str(TrialScheduler.STOP if stop else TrialScheduler.CONTINUE)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """Returns None: Tune then starts those that wait, in order, and need not search all trials there have been."""

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Reports a lost worker. Tune calls it when a worker died; the trial's own exceptions are reports."""
        tune_controller.end_lost_workers()
        # trial.get_error() reads a copy that Tune has not made yet.
        self.dispatcher.on_worker_lost(trial.trial_id, Path(trial.error_file).read_text() if trial.error_file else "")
