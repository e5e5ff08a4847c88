"""The private names of Ray Tune that this program uses, all of them, read in Ray 2.60.

A new Ray may move them, so pyproject.toml allows one minor version, and tests/execution/test_tune_patches.py says which
name has moved. The four patches and their reasons:

- `WorkerCache`: Tune keeps one idle actor and ends the others before their next trial comes (ray-project/ray#33045,
  #33593). A new worker takes seconds to import torch.
- `Controller`: Tune gives a trial whose actor is starting any actor that becomes free, and ends the starting one
  (ray-project/ray#42951 describes it). If starting takes longer than a trial, the number of actors never grows.
- a worker's environment: Tune copies the driver's AWS keys into it, in clear in Ray's logs and in `ps`, on every node.
  Here it copies none, and empties the driver's passwords, which a private Ray inherits.
- the session folder: over ``ray://`` there is no Ray node on this machine, but Tune looks for its session folder.
"""

import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Any

import ray
from ray import tune
from ray.train._internal import storage
from ray.tune.execution import class_cache
from ray.tune.execution.tune_controller import TuneController
from ray.tune.utils.object_cache import _ObjectCache

from ..cluster.ray_internals import is_ray_client
from ..config.secrets import DRIVER_VARIABLES

ANSWER_WITHIN = 1.0  # seconds in which an idle worker that is alive has answered
MAX_IDLE = 10.0  # seconds that a worker waits for its next trial; a new one takes as long to start

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def patched_tune(scratch: str) -> Iterator[None]:
    """Applies all patches for a ``with`` block; ``scratch`` is the session folder over ``ray://``."""
    patches: list[tuple[Any, str, Any]] = [
        (tune.tune, "TuneController", Controller),
        (class_cache, "ENV_VARS_TO_PROPAGATE", ()),
        (class_cache, "DEFAULT_ENV_VARS", {**class_cache.DEFAULT_ENV_VARS, **dict.fromkeys(DRIVER_VARIABLES, "")}),
        *([(storage, "_get_ray_train_session_dir", lambda: scratch)] if is_ray_client() else []),
    ]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in patches]
    try:
        for owner, name, value in patches:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


class WorkerCache(_ObjectCache):
    """Idle workers by the resources they hold; keeps all of them for `MAX_IDLE` seconds, and one for longer."""

    def __init__(self) -> None:
        super().__init__()
        self.idle_since: dict[Any, float] = {}
        self.lost: set[Any] = set()  # idle workers that have died

    def cache_object(self, key: Any, obj: Any) -> bool:
        """Keeps a worker. Tune calls it when a worker's trial has ended."""
        self.idle_since[obj] = time.monotonic()
        self._cached_objects[key].append(obj)
        self._num_cached_objects += 1
        return True

    def pop_cached_object(self, key: Any) -> Any:
        """Returns an idle worker, which is no longer idle, or None. Tune calls it when a trial waits."""
        worker = super().pop_cached_object(key)
        self.idle_since.pop(worker, None)
        return worker

    def flush_cached_objects(self, force_all: bool = False) -> Iterator[Any]:
        """Yields the workers to end: dead, idle for too long, or in the way of a trial with other resources."""
        now = time.monotonic()
        for key, workers in self._cached_objects.items():
            needed = any(count > 0 for other, count in self._max_num_objects.items() if other != key)
            for worker in list(workers):
                idle = now - self.idle_since[worker] > MAX_IDLE and self._num_cached_objects > 1
                if force_all or needed or idle or worker in self.lost:
                    workers.remove(worker)
                    del self.idle_since[worker]
                    self._num_cached_objects -= 1
                    yield worker


class Controller(TuneController):
    """Tune's loop, with a `WorkerCache`, that lets a starting worker finish starting if another trial needs it."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self._actor_cache = WorkerCache()

    def _maybe_reuse_cached_actor(self, trial: Any) -> bool:
        starting = trial in self._trial_to_actor and trial not in self._resetting_trials
        waiting = any(other not in self._trial_to_actor for other in self._pending_trials)
        if starting and (waiting or self._scheduler_alg.dispatcher.has_more()):
            return False  # that trial gets the idle worker
        return bool(super()._maybe_reuse_cached_actor(trial))

    def end_lost_workers(self) -> None:
        """Ends the idle workers that do not answer, as on a lost node: a trial would get one after the other."""
        actors = self._actor_manager._live_actors_to_ray_actors_resources
        asked = {actors[worker][0].__ray_ready__.remote(): worker for worker in list(self._actor_cache.idle_since)}
        answered = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_WITHIN)[0] if asked else []
        self._actor_cache.lost = {worker for answer, worker in asked.items() if not _is_alive(answer, answered)}
        if self._actor_cache.lost:
            logger.info("%d idle workers are dead, too: ending them", len(self._actor_cache.lost))
        self._cleanup_cached_actors()


def worker_of(trial: Any) -> Any:
    """Returns the actor handle on which a Tune trial runs."""
    return trial.temporary_state.ray_actor


def _is_alive(answer: Any, answered: list[Any]) -> bool:
    """Returns True if the worker itself answered; False if Ray answered for it, or no answer came."""
    with contextlib.suppress(ray.exceptions.RayError):
        return answer in answered and bool(ray.get(answer))
    return False
