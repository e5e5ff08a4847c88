"""The end of a search before its budget: patience, counted by hand, and over a storage."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest
from pydantic import ValidationError

from sweep.config.sections import Objective
from sweep.service.budget import Budget, measured_noise, trials_without_improvement
from sweep.study.storages.storage import open_storage
from sweep.study.study import Study

from ..conftest import MakeConfig
from ..support.records import row

LESS = Objective(metric="val_loss", direction="minimize")
MORE = Objective(metric="val_accuracy", direction="maximize")


@pytest.mark.parametrize(
    ("values", "noise", "skipped", "count"),
    [
        ([5, 4, 3], 0.0, 0, 0),
        ([5, 4, 3, 3, 6], 0.0, 0, 2),
        ([5, 4, 3, 3, 6, 2], 0.0, 0, 0),
        ([5, 4.5, 4.2, 3.9], 1.0, 0, 0),  # in small steps, more than the noise at last
        ([5, 4.5, 4.2, 4.1], 1.0, 0, 3),
        ([5, 6, 6, 6, 6], 0.0, 3, 2),
    ],
)
def test_trials_are_counted_from_the_last_improvement_beyond_noise(
    values: list[float], noise: float, skipped: int, count: int
) -> None:
    ended = [row(number, value, {"lambda1": 1e-3}) for number, value in enumerate(values)]
    assert trials_without_improvement(LESS, ended, noise=noise, skipped=skipped) == count
    ended = [row(number, -value, {"lambda1": 1e-3}) for number, value in enumerate(values)]
    assert trials_without_improvement(MORE, ended, noise=noise, skipped=skipped) == count


def test_design_trials_set_the_best_and_are_not_counted_and_others_without_a_value_are() -> None:
    design = [row(number, 1.0 + number, {}, design=True) for number in range(9)]
    assert trials_without_improvement(LESS, design, noise=0.0, skipped=0) == 0
    lost = [row(9, None, {}, outcome="pruned"), row(10, 0.5, {}, outcome="collapsed"), row(11, 1.5, {})]
    assert trials_without_improvement(LESS, [*design, *lost], noise=0.0, skipped=0) == 3


def test_noise_is_the_deviation_between_seeds_of_one_configuration() -> None:
    values = [[1.0, 1.5, 0.7, 1.1, 0.4], [5.0, 5.5, 4.1, 5.2, 6.0]]
    rows = [
        row(10 * i + seed, value, {"depth": i}, seed=seed)
        for i, each in enumerate(values)
        for seed, value in enumerate(each)
    ]
    expected = statistics.fmean(statistics.variance(each) for each in values) ** 0.5
    assert measured_noise(rows) == pytest.approx(expected)
    assert measured_noise(rows[:-1]) == 0.0  # seven degrees of freedom
    assert measured_noise([row(i, float(i), {"depth": i}) for i in range(20)]) == 0.0


def test_patience_ends_a_search_says_what_it_saved_and_a_larger_budget_goes_on(
    tmp_path: Path, study_config: MakeConfig
) -> None:
    said: list[str] = []
    storage = open_storage(f"journal:///{tmp_path}/optuna.journal")

    def run(trials: int, values: list[float]) -> int:
        config = study_config(search={"trials": trials, "patience": 3})
        study = Study(config, storage, workspace=tmp_path)
        study.enqueue_budget()
        budget, trained, left = Budget(config, study, said.append), 0, iter(values)
        while not budget.check() and (trial := study.ask()) is not None:
            trial.best, trial.epochs, trained = next(left), 9, trained + 1
            study.tell(trial, "completed", checkpoint=None, error=None)
        assert budget.check() == budget.is_spent
        return trained

    assert run(8, [5.0, 4.0, 4.0, 4.5, 6.0, 1.0]) == 5
    assert len(said) == 1
    assert said[0].startswith("the last 3 trials have not improved on the best: no new trials, 3 of 8 are not run; ")
    assert run(8, [1.0]) == 0
    assert run(12, [4.5, 3.0, 5.0, 5.0, 5.0, 1.0]) == 5
    assert "2 of 12 are not run" in said[-1]
    assert run(12, [1.0]) == 0
    assert run(13, [1.0, 1.0, 1.0]) == 3


def test_a_search_ends_when_little_is_to_be_gained_and_a_larger_budget_goes_on(
    tmp_path: Path, study_config: MakeConfig
) -> None:
    said: list[str] = []
    storage = open_storage(f"journal:///{tmp_path}/optuna.journal")

    def run(trials: int) -> int:
        search = {"trials": trials, "design": 32, "until": {"improvement_below": 0.05}}
        config = study_config(
            search=search, space={"training.momentum": {"low": 0.0, "high": 0.9}, "depth": 2, "width": 8}
        )
        study, trained = Study(config, storage, workspace=tmp_path), 0
        study.enqueue_budget()
        budget = Budget(config, study, said.append)
        while not budget.check() and (trial := study.ask()) is not None:
            trial.best, trial.epochs, trained = float(trial.hyperparameters["training.momentum"]) ** 2, 9, trained + 1  # type: ignore[arg-type]
            study.tell(trial, "completed", checkpoint=None, error=None)
        return trained

    assert run(40) == 32
    assert len(said) == 1
    assert "less than 0.05: no new trials, 8 of 40 are not run; " in said[0]
    assert run(40) == 0
    assert run(60) == 8
    assert "20 of 60 are not run" in said[-1]


@pytest.mark.parametrize(
    ("search", "space", "problem"),
    [
        ({"design": 31}, {}, "until: a surrogate needs 32 design trials, and design is 31"),
        ({"design": 32}, {"epsilon": {"low": 0.1, "high": 1.0, "when": "lambda1 > 0.01"}}, "the space has conditions"),
    ],
)
def test_where_no_surrogate_can_tell_it_is_refused(
    study_config: MakeConfig, search: dict[str, int], space: dict[str, object], problem: str
) -> None:
    lambda1 = {"lambda1": {"low": 1e-5, "high": 1e-1, "log": True}, "depth": 2, "width": 8}
    with pytest.raises(ValidationError, match=problem):
        study_config(space={**lambda1, **space}, search={"trials": 64, "until": {"improvement_below": 0.1}, **search})
