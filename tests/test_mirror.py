"""The copy of a database's trials in memory: as the database has them, whoever wrote them."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from sweep import storage as storages
from sweep.config import StudyConfig
from sweep.storage import open_storage
from sweep.study import Study

from .conftest import MakeConfig

SPACE = {"x": FloatDistribution(1e-3, 1.0, log=True), "kind": CategoricalDistribution(("a", "b"))}


def of_database(url: str, name: str) -> list[FrozenTrial]:
    """Read by another process, as it were."""
    return optuna.load_study(study_name=name, storage=open_storage(url)).trials


def without_times(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """The database rounds them."""
    for trial in trials:
        trial.datetime_start = trial.datetime_complete = None
    return trials


@pytest.mark.parametrize("storage_url", ["sqlite", "postgresql"], indirect=True)
def test_memory_has_what_this_process_wrote(storage_url: str, study_name: str) -> None:
    study = optuna.create_study(study_name=study_name, storage=open_storage(storage_url))
    study.add_trial(create_trial(state=TrialState.WAITING, user_attrs={"seed": 1}))
    study.trials  # noqa: B018 (a look)
    first, second = study.ask(), study.ask()
    before = study.get_trials(deepcopy=False)[0]
    for trial, values in ((first, (0.5, 0.25)), (second, (0.5, 0.75))):
        assert trial.suggest_float("x", 1e-3, 1.0, log=True) > 0
        trial.suggest_categorical("kind", ["a", "b"])
        trial.set_user_attr("owner", {"pid": 1})
        trial.set_constraint("diverged", -1.0)
        for step, value in enumerate(values):
            trial.report(value, step)
    assert before.intermediate_values == {}, "what was handed out does not change"
    assert without_times(study.trials) == without_times(of_database(storage_url, study_name))
    study.tell(first, 0.25)
    study.tell(second, state=TrialState.PRUNED)
    assert [trial.value for trial in study.trials] == [0.25, 0.75]
    assert without_times(study.trials) == without_times(of_database(storage_url, study_name))


@pytest.mark.parametrize("storage_url", ["sqlite", "postgresql"], indirect=True)
def test_a_decision_rests_on_what_others_wrote_just_now(
    storage_url: str, study_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storages, "LOOK_EVERY", 1e9)
    config: StudyConfig = study_config(search={"trials": 3})
    ours, theirs = (Study(config, open_storage(storage_url), workspace=tmp_path) for _ in range(2))
    ours.fill()
    assert ours.waiting() == 3
    taken = [theirs.ask(), theirs.ask()]
    assert [trial.number for trial in taken if trial] == [0, 1]
    assert taken[1] is not None
    theirs.tell(taken[1], "failed", checkpoint=None, error=None)
    assert ours.waiting() == 3, "memory alone"
    mine = ours.ask()
    assert mine is not None
    assert mine.number == 2, "neither one that runs elsewhere nor one that has ended"
    assert ours.ask() is None
    assert [row.state for row in ours.rows()] == ["running", "finished", "running"]
    theirs.enqueue({"lambda1": 1e-3})
    added = ours.ask()
    assert added is not None, "looked again before saying that there is none"
    assert added.number == 3


def test_the_sampler_that_is_told_the_space_draws_the_points_of_optunas() -> None:
    from sweep.study import _TPE

    def points(sampler: optuna.samplers.BaseSampler) -> list[dict[str, object]]:
        study = optuna.create_study(sampler=sampler)
        for number in range(30):
            trial = study.ask(SPACE)
            study.tell(trial, trial.params["x"] + (number % 3))
        return [trial.params for trial in study.trials]

    assert points(_TPE(SPACE, seed=7)) == points(optuna.samplers.TPESampler(seed=7))
