"""Private names of Optuna that `rdb_cache` uses: a new version that moves one fails here, with a sentence."""

from __future__ import annotations

import ast
import inspect
import math
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import create_trial

import sweep.study
from sweep.study.storages.rdb_cache import CachedDatabase, forget_cached_trials, trial_id

READ_IN = "5.0"  # the version whose sources were read; pyproject.toml allows no other minor version


def cached_storage() -> type:
    from optuna.storages._cached_storage import _CachedStorage

    return _CachedStorage


def parameters(function: Callable[..., object]) -> list[str]:
    return list(inspect.signature(function).parameters)


def moved(name: str, reason: str) -> str:
    return (
        f"Optuna {optuna.__version__} has moved {name}, which sweep/study/storages/rdb_cache.py uses {reason} (read in "
        f"{READ_IN}): read its sources, adapt the module, then raise the bound in pyproject.toml"
    )


def test_optuna_is_the_version_that_was_read() -> None:
    assert optuna.__version__.startswith(f"{READ_IN}."), moved("perhaps something", "by private names")


@pytest.mark.parametrize(
    ("name", "expected", "reason"),
    [
        ("_read_trials_from_remote_storage", ["self", "study_id"], "as the hook before every read of trials"),
        ("_add_trials_to_cache", ["self", "study_id", "trials"], "to add trials that were read"),
    ],
)
def test_the_methods_of_optunas_cache(name: str, expected: list[str], reason: str) -> None:
    method = getattr(cached_storage(), name, None)
    assert method is not None, moved(f"_CachedStorage.{name}", reason)
    assert parameters(method) == expected, moved(f"the parameters of _CachedStorage.{name}", reason)


def test_every_read_of_trials_passes_the_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = CachedDatabase(RDBStorage("sqlite://"))
    study = storage.create_new_study([StudyDirection.MINIMIZE], "study")
    called: list[int] = []
    monkeypatch.setattr(storage, "_read_trials_from_remote_storage", called.append)
    storage._studies[study] = type(storage._studies[study])() if study in storage._studies else _empty()
    storage.get_all_trials(study, deepcopy=False)
    assert called == [study], moved("the call of _read_trials_from_remote_storage", "to refresh before a read")


def _empty() -> object:
    from optuna.storages._cached_storage import _StudyInfo

    return _StudyInfo()


def test_the_attributes_of_optunas_cache() -> None:
    storage = CachedDatabase(RDBStorage("sqlite://"))
    study = storage.create_new_study([StudyDirection.MINIMIZE], "study")
    trial = storage.create_new_trial(study)
    assert isinstance(storage._backend, RDBStorage), moved("_CachedStorage._backend", "for the database behind it")
    assert storage.engine is storage._backend.engine
    with storage._lock:
        assert storage._trial_id_to_study_id_and_number[trial] == (study, 0), moved(
            "_CachedStorage._trial_id_to_study_id_and_number", "to find a trial in the cache"
        )
    storage.get_all_trials(study)
    info = storage._studies[study]
    assert info.trials[0]._trial_id == trial, moved("_StudyInfo.trials", "as the cache: trials by number")
    assert info.param_distribution == {}, moved("_StudyInfo.param_distribution", "to check a new distribution")


def test_some_trials_of_a_study_are_read() -> None:
    reason = "to read the trials that have changed, not all of them"
    assert parameters(RDBStorage._get_trials) == [
        "self", "study_id", "states", "included_trial_ids", "trial_id_greater_than"
    ], moved("the parameters of RDBStorage._get_trials", reason)  # fmt: skip
    backend = RDBStorage("sqlite://")
    study = backend.create_new_study([StudyDirection.MINIMIZE], "study")
    ids = [backend.create_new_trial(study) for _ in range(4)]
    found = backend._get_trials(study, None, {ids[0]}, ids[2])
    assert {trial._trial_id for trial in found} == {ids[0], ids[3]}, moved("what RDBStorage._get_trials reads", reason)


def test_a_trial_that_is_written_into_the_tables_is_what_optuna_reads() -> None:
    space = {"x": FloatDistribution(1e-3, 1.0, log=True), "y": CategoricalDistribution(("a", None, 3))}
    begun = {"datetime_start": datetime(2026, 1, 2), "datetime_complete": datetime(2026, 1, 3)}
    state = optuna.trial.TrialState
    given = [
        create_trial(state=state.WAITING, user_attrs={"seed": 0}, system_attrs={"fixed_params": {"x": 0.1}}),
        create_trial(state=state.WAITING, params={"x": 0.1, "y": None}, distributions=space),
        create_trial(value=math.inf, params={"x": 1.0, "y": 3}, distributions=space, user_attrs={"code": ["a"]}),
        create_trial(state=state.PRUNED, params={"y": "a"}, distributions={"y": space["y"]}),
    ]
    for trial in given[2:]:
        trial.intermediate_values = {1: 0.5, 2: math.nan, 7: -math.inf}
        trial.datetime_start, trial.datetime_complete = begun.values()
    ours, theirs = (RDBStorage("sqlite://") for _ in range(2))
    study = ours.create_new_study([StudyDirection.MINIMIZE], "study")
    cache = CachedDatabase(ours)
    cache.add_trials(study, given, first=0)
    expected = theirs.create_new_study([StudyDirection.MINIMIZE], "study")
    for trial in given:
        theirs.create_new_trial(expected, trial)
    written = [str(vars(trial)) for trial in theirs.get_all_trials(expected)]  # as text: NaN is unequal to itself
    assert [str(vars(trial)) for trial in ours.get_all_trials(study)] == written, moved("the tables", "to add trials")
    assert [str(vars(trial)) for trial in cache.get_all_trials(study)] == written
    cache.add_trials(study, given[2:] * 2, first=2)
    assert [trial.number for trial in cache.get_all_trials(study)] == list(range(6)), "it added what the study had"


def test_the_tables() -> None:
    from optuna.storages._rdb import models

    expected = {
        "StudyModel": {"study_id"},
        "TrialValueModel": {"trial_id", "objective", "value", "value_type"},
        "TrialModel": {"trial_id", "study_id", "number", "state", "datetime_start", "datetime_complete"},
        "TrialParamModel": {"trial_id", "param_name", "param_value", "distribution_json"},
        "TrialIntermediateValueModel": {"trial_id", "step", "intermediate_value", "intermediate_value_type"},
        "TrialUserAttributeModel": {"trial_id", "key", "value_json"},
        "TrialSystemAttributeModel": {"trial_id", "key", "value_json"},
    }
    for name, columns in expected.items():
        present = {column.name for column in getattr(models, name).__table__.columns}
        assert columns <= present, moved(f"columns of {name}", "to write rows with few statements")
        # Another column that must be given would make every insert fail.
        required = {c.name for c in getattr(models, name).__table__.columns if not c.nullable and c.default is None}
        assert name in ("StudyModel", "TrialModel") or required - {f"{_prefix(name)}_id"} <= columns, moved(
            f"columns of {name}", "to write rows"
        )


def _prefix(model: str) -> str:
    return {
        "TrialValueModel": "trial_value",
        "TrialParamModel": "param",
        "TrialIntermediateValueModel": "trial_intermediate_value",
        "TrialUserAttributeModel": "trial_user_attribute",
        "TrialSystemAttributeModel": "trial_system_attribute",
    }.get(model, "")


def test_the_id_of_a_trial_and_the_trials_that_a_thread_keeps() -> None:
    study = optuna.create_study()
    trial = study.ask()
    study_id = study._storage.get_study_id_from_name(study.study_name)
    expected = study._storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)
    assert trial_id(trial) == trial_id(study.trials[0]) == expected, moved("_trial_id", "as a trial's id")
    sampler = optuna.samplers.TPESampler(n_startup_trials=0)
    study.sampler = sampler
    study.tell(trial, 1.0)
    study._get_trials(deepcopy=False, use_cache=True)
    assert study._thread_local.cached_all_trials is not None, moved(
        "Study._thread_local.cached_all_trials", "to make the sampler read the trials anew"
    )
    forget_cached_trials(study)
    assert study._thread_local.cached_all_trials is None


def test_no_other_module_uses_a_private_name_of_optuna() -> None:
    folder = Path(sweep.study.__file__).parent
    found = []
    for path in folder.rglob("*.py"):
        if path.name == "rdb_cache.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("optuna"):
                names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
                found += [f"{path.name}: {name}" for name in names if name.startswith("_")]
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
                own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
                found += [] if own else [f"{path.name}: {ast.unparse(node)}"]
    assert found == []
