"""Trials with the same hyperparameters, seed and code: one is trained, the others take its numbers, whatever dies."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

import sweep
from sweep import service
from sweep.analysis.report.cost import cost
from sweep.config.settings import Settings
from sweep.config.study_config import StudyConfig
from sweep.service.preflight.load import few_points
from sweep.service.twins import Twins
from sweep.study.dataframe import read_tables
from sweep.study.storages.storage import open_storage
from sweep.study.study import Study
from sweep.tracking.client import MlflowStore

from ..support import rayless
from ..support.empty_store import with_store
from ..support.invariants import Curves, Left, assert_whole, left_by, strange_curves
from ..support.processes import PATIENCE
from ..support.studies import config_of

pytestmark = pytest.mark.filterwarnings("default")  # MLflow's own deprecations are not ours

SIX = """
name: NAME
model: {name: mlp}
data: {name: digits, train_size: 200}
objective: {metric: val_loss, direction: minimize}
space:
  lambda1: 1e-3
  depth: {low: 1, high: 2}
  width: {choices: [4, 8, 16]}
training: {max_epochs: 2, batch_size: 64, lr: 3e-2}
search: {trials: 64, sampler: random, pruner: none, finalists: {top: 0}}
"""


def trained(left: Left) -> list[int]:
    return [t.number for t in left.trials if "twin" not in t.user_attrs]


def assert_copied(left: Left) -> None:
    """Holds for each trial that was not trained: it has the numbers of the twin that its tag names."""
    for copy in left.trials:
        twin = copy.user_attrs.get("twin")
        run = left.runs[f"{left.name}-{copy.number:04d}"]
        assert run.tags.get("sweep.twin") == (None if twin is None else str(twin))
        if twin is not None:
            first = left.trials[twin]
            assert (copy.params, copy.value, copy.state) == (first.params, first.value, first.state)
            assert copy.user_attrs["outcome"] == first.user_attrs["outcome"]
            assert (copy.user_attrs["trained"], copy.user_attrs["seconds"]) == (0, 0)
            assert copy.intermediate_values == first.intermediate_values


def test_64_trials_of_six_configurations_are_six_trainings_and_64_whole_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rayless.without_models(monkeypatch)
    config, workspace = config_of(SIX), with_store(tmp_path / "results")
    listener = rayless.Listener()
    summary = service.run(config, Settings(workspace=workspace), listener, service.RunOptions(executor="local"))
    left = left_by(workspace, "NAME")
    assert_whole(left, "NAME", trials=64, controls=0)
    assert len(trained(left)) == 6
    assert_copied(left)
    assert summary.counted.endswith("; 58 took the numbers of an equal one")
    assert strange_curves(left, Curves(config, workspace, tmp_path)) == []
    assert [row.number for row in summary.best] == sorted(trained(left), key=lambda n: left.trials[n].value or 0)
    settings = Settings(workspace=workspace)
    [table] = read_tables("NAME", open_storage(settings.storage), settings)
    assert sorted(table.trials["value"]) == [row.value for row in summary.best]  # six points, not 64
    assert cost(config, summary.rows, []).epochs == 12


def test_a_space_of_few_configurations_is_told_before_the_first_trial() -> None:
    assert few_points(config_of(SIX)) == [
        "the space holds 6 configurations, fewer than the 64 trials; search.duplicates is reuse: each is trained once, "
        "and further trials take its numbers"
    ]
    assert few_points(config_of(SIX.replace("trials: 64", "trials: 6"))) == []
    assert few_points(config_of(SIX.replace("lambda1: 1e-3", "lambda1: {low: 1e-4, high: 1e-2}"))) == []


ALSO_ON = [pytest.param(kind, marks=pytest.mark.exhaustive) for kind in ("journal", "sqlite")]
MOMENTS: list[rayless.Moment] = [
    (Twins, "take", 2, "after"),  # a checkpoint was copied, and nothing else was written
    (Study, "report", 13, "after"),  # the storage has the epochs of a copy, and not its end
    (Study, "tell", 5, "after"),  # it has ended in Optuna, and runs in MLflow
    (MlflowStore, "_open_run", 2, "after"),  # MLflow has a run, and nothing of it
]


@pytest.mark.parametrize("storage_url", ["postgresql", *ALSO_ON], indirect=True)
def test_drivers_killed_between_any_two_writes_train_nothing_twice(
    study_name: str, storage_url: str, tmp_path: Path
) -> None:
    config = config_of(SIX.replace("NAME", study_name).replace("trials: 64", "trials: 20"))
    workspace = tmp_path / "results"
    for moment in MOMENTS:
        driver = rayless.start(config, workspace, storage_url, moment=moment)
        driver.join(PATIENCE)
        assert driver.exitcode == -signal.SIGKILL, f"the study was over before {moment}"
    driver = rayless.start(config, workspace, storage_url)
    driver.join(PATIENCE)
    assert driver.exitcode == 0
    left = left_by(workspace, study_name, open_storage(storage_url))
    assert_whole(left, study_name, trials=20, controls=0)
    assert len(trained(left)) == len({tuple(t.params.items()) for t in left.trials})
    assert_copied(left)
    assert strange_curves(left, Curves(config, workspace, tmp_path)) == []


calls: list[str] = []


def steady(trial: sweep.TrialContext) -> Iterator[dict[str, float]]:
    calls.append("steady")
    for epoch in trial.epochs():
        yield {"mse": trial["a"] / epoch}


def unseeded(trial: sweep.TrialContext) -> Iterator[dict[str, float]]:
    calls.append("unseeded")
    value = float.fromhex(uuid4().hex[:8])
    for _ in trial.epochs():
        yield {"mse": value}


def run(function: str, workspace: Path, **search: Any) -> service.Summary:
    config = StudyConfig.model_validate(
        {
            "name": "own",
            "function": f"{__name__}:{function}",
            "objective": {"metric": "mse", "direction": "minimize"},
            "space": {"a": {"choices": [1, 2, 3]}},
            "training": {"max_epochs": 2},
            "search": {"trials": 12, "sampler": "random", "pruner": "none", "finalists": {"top": 0}, **search},
        }
    )
    calls.clear()
    settings = Settings(workspace=with_store(workspace))
    return service.run(config, settings, rayless.Listener(), service.RunOptions(executor="local"))


def test_of_a_function_that_repeats_its_numbers_one_twin_more_is_trained(tmp_path: Path) -> None:
    summary = run("steady", tmp_path)
    assert len(calls) == 4
    assert sum(row.twin is None for row in summary.rows) == 4
    assert {row.value for row in summary.rows if row.hyperparameters["a"] == 3} == {1.5}
    assert [row.outcome for row in summary.rows] == ["completed"] * 12


def test_a_function_whose_numbers_differ_is_trained_each_time(tmp_path: Path) -> None:
    summary = run("unseeded", tmp_path)
    assert len(calls) == 12
    assert len({row.value for row in summary.rows}) == 12


def test_resample_trains_twins_on_seeds_of_their_own_and_train_trains_them_again(tmp_path: Path) -> None:
    rows = run("steady", tmp_path / "resample", duplicates="resample").rows
    assert len(calls) == 12
    assert len({(row.hyperparameters["a"], row.seed) for row in rows}) == 12
    assert sorted(row.seed for row in rows)[:3] == [0, 0, 0]
    rows = run("steady", tmp_path / "train", duplicates="train").rows
    assert len(calls) == 12
    assert {row.seed for row in rows} == {0}
    assert {row.twin for row in rows} == {None}
