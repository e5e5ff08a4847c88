"""Ray's door: runs trials where there is room, and moves them when a machine is lost.

Three small adapters sit between Ray Tune and a `Source` of trials: a Searcher that asks it, a TrialScheduler that hands
it results and stops what it stops, a Trainable that runs a trial on a worker.
Tune keeps no state that matters: a new Tuner on the same source goes on.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pkgutil
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

# Read by Tune at import: its CSV, JSON and TensorBoard loggers cost milliseconds a result, and stay off.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")

import ray
from ray import tune
from ray.tune.execution.tune_controller import TuneController
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper
from ray.tune.utils.object_cache import _ObjectCache

from ..cluster.connect import quiet
from ..config.filesystem import ObjectStoreUnavailableError, parse_path
from ..config.sections import Resources
from ..config.study_config import TrialConfig
from ..training.reports import TrialPaths, TrialReport
from .dispatcher import Dispatcher
from .out_of_memory import hint, limit_gpu_memory, oom_kind
from .slots import Slots
from .trial_source import TrialRequest, TrialSource

RUN_TRIAL = "sweep.training.trial:run_trial"
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
SWITCH = 5e-4  # seconds after which Python's threads take turns: the sampler's waits for a database many times a trial
ANSWER = 1.0  # seconds in which an idle worker that lives has answered
IDLE_AT_MOST = 10.0  # seconds that a worker waits for its next trial; a new one takes as long to start

_ENVIRONMENT = {
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",  # no snapshots: the storage is the truth
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the caller's handler stops gracefully
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_MAX_PENDING_TRIALS_PG": "10000",  # the bridge has the limit; by default workers start one after the other
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}


def execute(source: TrialSource, resources: Resources, *, stop: threading.Event, run_trial: str = RUN_TRIAL) -> None:
    """Runs the source's trials until it is finished; with ``stop`` set, until the running ones have checkpointed.

    Args:
        run_trial: what runs a trial on a worker, ``module:function``; only there it is imported.

    Raises:
        Exception: whatever the source raised.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    room = Slots(resources, waiting=source.n_waiting, notice=source.on_message)
    bridge = Dispatcher(source, limit=room.slots, stop=stop, retry_oom=resources.retry_oom)
    # What Tune writes is not kept.
    with (
        room,
        tempfile.TemporaryDirectory(prefix="sweep-tune-") as scratch,
        quiet("ray.tune", "ray.air", "ray.train"),
        bridge,
        _turns_of(SWITCH),
        mock.patch.object(tune.tune, "TuneController", _Controller),
    ):
        if ray.util.client.ray.is_connected():  # by ray://: Tune looks for the folder of a Ray on this machine
            ray.train._internal.storage._get_ray_train_session_dir = lambda: scratch
        tune.run(
            Worker,
            name="study",
            num_samples=-1,
            search_alg=_Searcher(bridge, room, run_trial),
            scheduler=_Scheduler(bridge, room),
            stop=_StopAll(bridge),
            reuse_actors=True,
            max_failures=0,  # the bridge retries, since Tune gives a trial up that dies between two trials of a worker
            storage_path=scratch,
            trial_dirname_creator=lambda trial: trial.trial_id,
            trial_name_creator=lambda trial: trial.trial_id,
            raise_on_failed_trial=False,
            verbose=0,
            _remote=False,  # through ray:// it would be sent to the head, where the study's storage is not
        )
    if bridge.error is not None:
        raise bridge.error


@contextlib.contextmanager
def _turns_of(seconds: float) -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(seconds)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def next_report(reports: Iterator[TrialReport]) -> TrialReport:
    """Trains until the next report is due. An error of the trial's own is a report too."""
    tags = {"sweep.host": socket.gethostname(), "sweep.device": _device()}
    try:
        return replace(next(reports), tags=tags)
    except Exception as problem:  # noqa: BLE001 (a trial must not take the worker, or the study, with it)
        error, oom, halt = traceback.format_exc(), oom_kind(problem), None
        if oom is not None:
            error = f"{error}{hint(oom)}"
        if isinstance(problem, ObjectStoreUnavailableError):
            halt = f"{socket.gethostname()}: {problem}. Nothing is lost: mend that"
        elif isinstance(problem, OSError) and problem.errno in NO_ROOM:
            halt = f"{socket.gethostname()}: {problem}. Nothing is lost: make room"
        return TrialReport([], outcome="failed", error=error, tags=tags, oom=oom, halt=halt)


class Worker(tune.Trainable):
    """A warm process that runs one trial after the other; it talks to nobody but Tune."""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """What a trial asks of a node."""
        return tune.PlacementGroupFactory([json.loads(config["job"])["demand"]])

    def setup(self, config: dict[str, Any]) -> None:
        """Called once, with the first trial."""
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Takes on the next trial."""
        job = json.loads(new_config["job"])
        where = job["place"]
        limit_gpu_memory(where["gpus"])
        run_trial: Callable[..., Iterator[TrialReport]] = pkgutil.resolve_name(job["run_trial"])
        self._reports = run_trial(
            TrialConfig.model_validate(job["config"]),
            TrialPaths(
                parse_path(where["folder"]), parse_path(where["data"]), parse_path(where["cache"]), where["gpus"]
            ),
            attempt=job["attempt"],
            moves=job["moves"],
            pruning_epochs=job["pruning_epochs"],
        )
        return True

    def step(self) -> dict[str, Any]:
        """Trains until the next report is due. A trial's own error is a result too."""
        return {"report": next_report(self._reports).to_json()}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Not used: a trial writes its own checkpoints."""

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """Not used: a trial finds its own checkpoints."""


def _device() -> str:
    """What the trials of this process run on: no GPU where none has imported torch."""
    torch = sys.modules.get("torch")
    return torch.cuda.get_device_name() if torch is not None and torch.cuda.is_available() else "cpu"


class _Workers(_ObjectCache):
    """Workers without a trial, by what they ask of a node. Tune keeps one, and ends any other before the next trial."""

    def __init__(self) -> None:
        super().__init__()
        self._since: dict[Any, float] = {}
        self.lost: set[Any] = set()  # those that have died

    @property
    def idle(self) -> list[Any]:
        """All that are kept."""
        return list(self._since)

    def cache_object(self, key: Any, obj: Any) -> bool:
        """Keeps a worker."""
        self._since[obj] = time.monotonic()
        self._cached_objects[key].append(obj)
        self._num_cached_objects += 1
        return True

    def pop_cached_object(self, key: Any) -> Any:
        """One that is kept, or None."""
        worker = super().pop_cached_object(key)
        self._since.pop(worker, None)
        return worker

    def flush_cached_objects(self, force_all: bool = False) -> Iterator[Any]:
        """The workers to be ended: idle for too long, but for one, or in the way of a trial of another kind."""
        now = time.monotonic()
        for key, workers in self._cached_objects.items():
            wanted = any(count > 0 for other, count in self._max_num_objects.items() if other != key)
            for worker in list(workers):
                idle = now - self._since[worker] > IDLE_AT_MOST and self._num_cached_objects > 1
                if force_all or wanted or idle or worker in self.lost:
                    workers.remove(worker)
                    del self._since[worker]
                    self._num_cached_objects -= 1
                    yield worker


class _Controller(TuneController):
    """Tune's loop, in which workers outlive the moment without a trial, and one that starts may come to its end.

    Tune gives a trial that waits for its worker any other that is free, and ends the one that starts. Where a start
    takes longer than a trial, on a node that has joined say, there would never be more workers than there are.
    """

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self._actor_cache = _Workers()

    def _maybe_reuse_cached_actor(self, trial: Any) -> bool:
        starting = trial in self._trial_to_actor and trial not in self._resetting_trials
        if starting and (self._others_wait() or self._scheduler_alg.bridge.has_more()):  # for the free one
            return False
        return bool(super()._maybe_reuse_cached_actor(trial))

    def end_lost_workers(self) -> None:
        """Ends the idle workers that have died unnoticed, as those of a lost node: they do not answer.

        A trial would lose one of them after the other; those that live have it at once, where a new one takes seconds.
        """
        actors = self._actor_manager._live_actors_to_ray_actors_resources
        asked = {actors[worker][0].__ray_ready__.remote(): worker for worker in self._actor_cache.idle}
        answered = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER)[0] if asked else []
        self._actor_cache.lost = {worker for answer, worker in asked.items() if not _is_there(answer, answered)}
        self._cleanup_cached_actors()

    def _others_wait(self) -> bool:
        """Whether a trial waits for which no worker starts."""
        return any(trial not in self._trial_to_actor for trial in self._pending_trials)


def _is_there(answer: Any, answered: list[Any]) -> bool:
    """Whether a worker has answered, and not Ray for it."""
    if answer not in answered:
        return False
    try:
        ray.get(answer)
    except ray.exceptions.RayError:
        return False
    return True


class _Searcher(Searcher):
    """Asks the source. Tune calls `suggest` in its loop whenever it could start a trial."""

    def __init__(self, bridge: Dispatcher, room: Slots, run_trial: str):
        super().__init__()
        self._bridge, self._room, self._run_trial = bridge, room, run_trial

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        job = self._bridge.guard(self._bridge.next_trial, default=Searcher.FINISHED)
        if not isinstance(job, TrialRequest):
            return job
        self._bridge.requests[trial_id] = job
        self._bridge.guard(lambda: self._bridge.source.on_trial_start(job.key))
        asked = self._room.resource_request(exclusive=job.exclusive)
        where = {"folder": str(job.paths.folder), "data": str(job.paths.data), "cache": str(job.paths.cache)}
        config = {
            "config": job.config.model_dump(mode="json"),
            "place": {**where, "gpus": asked.get("GPU", 0.0)},
            "attempt": job.attempt,
            "moves": self._bridge.relocations.get(job.key, 0),
            "pruning_epochs": None if job.pruning_epochs is None else sorted(job.pruning_epochs),
            "demand": asked,
            "run_trial": self._run_trial,
        }
        return {"job": json.dumps(config)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self._bridge.requests.pop(trial_id, None)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the storage has it."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


class _StopAll(Stopper):
    """Ends Tune's loop at once where the driver itself has failed."""

    def __init__(self, bridge: Dispatcher):
        self._bridge = bridge

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._bridge.error is not None


class _Scheduler(TrialScheduler):
    """Hands each result to the source, which says whether to stop; trials start in the order they were asked."""

    def __init__(self, bridge: Dispatcher, room: Slots):
        super().__init__()
        self.bridge, self._room = bridge, room

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        stop = self.bridge.on_report(trial.trial_id, TrialReport.from_json(result["report"]))
        if not stop and result["node_ip"] in self._room.leaving:
            ray.kill(trial.temporary_state.ray_actor)  # as if the node were gone: its checkpoint is of this moment
        return str(TrialScheduler.STOP if stop else TrialScheduler.CONTINUE)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """None: Tune starts those that wait, in their order, without a look at all there have been."""

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None: ...
    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        tune_controller.end_lost_workers()
        # get_error() looks where Tune has not copied it yet.
        self.bridge.on_worker_lost(trial.trial_id, Path(trial.error_file).read_text() if trial.error_file else "")

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None: ...
    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None: ...
    def debug_string(self) -> str:
        return "the study decides"
