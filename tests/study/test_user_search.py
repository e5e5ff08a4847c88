"""A sampler and a pruner of the user's own, which a study file names by import path."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweep.config.study_file import parse_study, read_yaml, to_yaml
from sweep.config.user_code import modules_to_send
from sweep.service.preflight.name_checks import check_names
from sweep.study.storages.storage import open_storage
from sweep.study.study import Study
from sweep.study.user_search import check_own
from sweep.training.reports import EpochMetrics

from ..conftest import MakeConfig, Package

CODE = """
    import optuna

    class Middle(optuna.samplers.BaseSampler):
        def __init__(self, space, seed):
            self.space, self.seed = space, seed
        def infer_relative_search_space(self, study, trial):
            return {}
        def sample_relative(self, study, trial, search_space):
            return {}
        def sample_independent(self, study, trial, param_name, param_distribution):
            assert self.space[param_name] == param_distribution
            return (param_distribution.low * param_distribution.high) ** 0.5

    class Above(optuna.pruners.BasePruner):
        def __init__(self, space, seed):
            pass
        def prune(self, study, trial):
            return trial.intermediate_values[trial.last_step] > 0.5

    class Broken(Middle):
        def sample_independent(self, *_):
            return 1 / 0

    def none(space, seed):
        return None

    def one(space):
        return Middle(space, 0)

    def failing(space, seed):
        raise KeyError("no such thing")

    three = 3
"""


def test_they_choose_the_points_and_end_trials(
    study_config: MakeConfig, write_package: Package, storage_url: str, tmp_path: Path
) -> None:
    package = write_package(mine=CODE)
    search = {"trials": 2, "sampler": f"{package}.mine:Middle", "pruner": f"{package}.mine:Above"}
    config = study_config(search=search, training={"max_epochs": 4})
    assert parse_study(read_yaml(to_yaml(config), "again")) == (config, [])
    assert check_names(config.model_dump()) + check_own(config) == []
    assert [Path(place).name for place in modules_to_send()].count(package) == 1
    assert list(config.import_paths) == ["search.sampler", "search.pruner"]
    study = Study(config, open_storage(storage_url), workspace=tmp_path)
    study.enqueue_budget()
    found = []
    for curve in ([0.4, 0.4, 0.6, 0.6], [0.4, 0.4, 0.4, 0.6]):
        trial = study.ask()
        assert trial is not None
        found.append(study.report(trial, [EpochMetrics(i + 1, {"val_loss": v}, 0) for i, v in enumerate(curve)]))
        study.tell(trial, "pruned" if found[-1] else "completed", checkpoint=None, error=None)
    assert found == [3, None]  # asked at every epoch, and not at the last one
    rows = study.rows()
    assert [row.hyperparameters["lambda1"] for row in rows] == pytest.approx([1e-3, 1e-3])
    assert rows[0].pruned_by == f"{search['pruner']}: val_loss 0.6 at epoch 3"


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("none", "must return an optuna BaseSampler, not a NoneType"),
        ("one", "must be a function of two arguments, the space and a seed"),
        ("failing", "mine.py, line 31: KeyError: 'no such thing'"),
        ("Broken", "mine.py, line 22: ZeroDivisionError: division by zero"),
        ("Above", "must return an optuna BaseSampler, not a Above"),
    ],
)
def test_what_is_wrong_is_said_before_any_trial(
    study_config: MakeConfig, write_package: Package, name: str, problem: str
) -> None:
    path = f"{write_package(mine=CODE)}.mine:{name}"
    config = study_config(search={"sampler": path})
    assert check_names(config.model_dump()) == []
    [said] = check_own(config)
    assert said.startswith(f"search.sampler: {path}")
    assert said.endswith(problem)


def test_what_is_not_there_is_said_for_both(study_config: MakeConfig, write_package: Package) -> None:
    package = write_package(mine=CODE)
    search = {"sampler": f"{package}.mine:three", "pruner": f"{package}.mine:Abov"}
    sampler, pruner = check_names(study_config(search=search).model_dump())
    assert sampler == f"search.sampler: {package}.mine:three must be a class or a function, not of the type int"
    assert pruner.startswith("search.pruner: ")
    assert pruner.endswith("has no Abov (did you mean Above?)")
