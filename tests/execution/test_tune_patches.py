"""The private names of Ray Tune that `tune_patches` uses are where they were: a new Ray that moves one fails here."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest
import ray
from ray import tune
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.train._internal import storage
from ray.tune.execution import class_cache
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment.trial import Trial
from ray.tune.search import Searcher
from ray.tune.utils.object_cache import _ObjectCache

from sweep.execution import dispatcher
from sweep.execution.tune_patches import Controller, WorkerCache, patched_tune

pytestmark = pytest.mark.filterwarnings("default")  # Ray's own deprecations are not ours

READ_IN = "2.60."


def moved(name: str) -> str:
    return (
        f"Ray {ray.__version__} has no {name} any more, or uses it otherwise: sweep/execution/tune_patches.py "
        f"was written for Ray {READ_IN}x; read it anew, and mend it, before the bound in pyproject.toml is raised"
    )


def test_the_version_is_the_one_that_was_read() -> None:
    assert ray.__version__.startswith(READ_IN), moved("promise to be as it was read")


@pytest.mark.parametrize(
    ("owner", "attributes"),
    [
        (
            TuneController,
            ["_actor_cache", "_actor_manager", "_trial_to_actor", "_resetting_trials", "_pending_trials"],
        ),
        (RayActorManager, ["_live_actors_to_ray_actors_resources"]),
        (_ObjectCache, ["_cached_objects", "_num_cached_objects", "_max_num_objects"]),
        (Trial, ["temporary_state"]),
    ],
)
def test_the_attributes_are_set_where_an_object_is_made(owner: type, attributes: list[str]) -> None:
    made = "".join(inspect.getsource(each) for each in owner.__mro__ if each is not object)
    for name in attributes:
        assert re.search(rf"self[.]{name}(:| =)", made), moved(f"{owner.__name__}.{name}")


@pytest.mark.parametrize(
    ("owner", "method", "parameters"),
    [
        (TuneController, "_maybe_reuse_cached_actor", ["self", "trial"]),
        (TuneController, "_cleanup_cached_actors", ["self", "force_all"]),
        (_ObjectCache, "cache_object", ["self", "key", "obj"]),
        (_ObjectCache, "pop_cached_object", ["self", "key"]),
        (_ObjectCache, "flush_cached_objects", ["self", "force_all"]),
        (Trial, "error_file", None),
    ],
)
def test_the_methods_are_there_and_take_what_they_took(owner: type, method: str, parameters: list[str] | None) -> None:
    found: Any = getattr(owner, method, None)
    assert found is not None, moved(f"{owner.__name__}.{method}")
    assert parameters is None or [*inspect.signature(found).parameters] == parameters, moved(
        f"{owner.__name__}.{method}"
    )


def test_tune_still_calls_what_is_overridden() -> None:
    source = inspect.getsource(TuneController)
    for call in (
        "self._maybe_reuse_cached_actor(",
        "self._cleanup_cached_actors(",
        "self._actor_cache.cache_object(",
        "self._actor_cache.pop_cached_object(",
        "self._actor_cache.flush_cached_objects(",
        "self._scheduler_alg",
    ):
        assert call in source, moved(f"call {call}...) in TuneController")
    assert "TuneController(" in inspect.getsource(tune.run), moved("tune.run that makes a TuneController")
    assert "_remote" in inspect.signature(tune.run).parameters, moved("parameter _remote of tune.run")
    assert "_get_ray_train_session_dir()" in inspect.getsource(storage), moved("use of _get_ray_train_session_dir")


def test_the_dispatchers_word_is_tunes() -> None:
    assert dispatcher.FINISHED == Searcher.FINISHED, moved(f"Searcher.FINISHED == {dispatcher.FINISHED!r}")


def test_a_worker_gets_none_of_the_drivers_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    variables: list[dict[str, str]] = []
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted")
    monkeypatch.setenv("SWEEP_STORAGE", "planted")
    monkeypatch.setattr(ray, "remote", lambda runtime_env: variables.append(runtime_env["env_vars"]) or (lambda it: it))
    with patched_tune("/tmp"):
        class_cache._ActorClassCache().get(object)
    assert "planted" not in variables[0].values(), moved("ENV_VARS_TO_PROPAGATE, which are copied")
    assert variables[0].items() >= {"SWEEP_STORAGE": "", "PL_DISABLE_FORK": "1"}.items(), moved("DEFAULT_ENV_VARS")
    class_cache._ActorClassCache().get(object)
    assert variables[1]["AWS_SECRET_ACCESS_KEY"] == "planted", "Tune no longer copies it: the patch can go"


def test_the_patches_last_as_long_as_their_block() -> None:
    before = tune.tune.TuneController
    with patched_tune("/tmp"):
        assert tune.tune.TuneController is Controller
    assert tune.tune.TuneController is before is TuneController
    assert issubclass(WorkerCache, _ObjectCache)
