"""Trials of another search space: which of them fit, and that the sampler learns from them and from nothing else."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweep.config.errors import ConfigError
from sweep.config.settings import Settings
from sweep.config.study_config import StudyConfig
from sweep.study.storages.catalog import derive_study
from sweep.study.storages.storage import open_storage
from sweep.study.study import Study
from sweep.study.trial import Trial
from sweep.study.warm_start import fit_params, gather_prior_trials
from sweep.training.reports import EpochMetrics

from ..conftest import MakeConfig

SPACE = {
    "lambda1": {"low": 1e-5, "high": 1e-1, "log": True},
    "depth": {"low": 1, "high": 4},
    "width": {"choices": [4, 8]},
    "training.init": "he",
}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(workspace=tmp_path, storage=f"journal:///{tmp_path}/optuna.journal")


@pytest.fixture
def opened(settings: Settings) -> Callable[[StudyConfig], Study]:
    def make(config: StudyConfig) -> Study:
        study = Study(config, open_storage(settings.storage), workspace=settings.workspace)
        study.enqueue_budget()
        return study

    return make


def everything(study: Study, value: Callable[[Trial], float] = lambda _: 0.5) -> list[Trial]:
    """Trains all trials of a study: one epoch, with the values of a function."""
    trials = []
    while (trial := study.ask()) is not None:
        study.report(trial, [EpochMetrics(1, {"val_loss": value(trial)}, 0)])
        study.tell(trial, "completed", checkpoint=None, error=None)
        trials.append(trial)
    return trials


# -- what fits ---------------------------------------------------------------------------------------------------------

POINT = {"lambda1": 1e-3, "depth": 2, "width": 8}
NEW_SPACES: dict[str, tuple[dict[str, Any], dict[str, Any] | None]] = {
    "wider": ({"lambda1": {"low": 1e-7, "high": 1.0, "log": True}}, POINT),
    "narrower, and it is within": ({"lambda1": {"low": 1e-4, "high": 1e-2, "log": True}}, POINT),
    "narrower, and it is not": ({"depth": {"low": 3, "high": 4}}, None),
    "a choice more": ({"width": {"choices": [4, 8, 16]}}, POINT),
    "a choice less": ({"width": {"choices": [4, 16]}}, None),
    "a range for the choices": ({"width": {"low": 2, "high": 16}}, POINT),
    "held at its value": ({"depth": 2}, {"lambda1": 1e-3, "width": 8}),
    "held at another": ({"depth": 3}, None),
    "a constant that is searched now": (
        {"training.init": {"choices": ["default", "he"]}},
        {**POINT, "training.init": "he"},
    ),
    "a constant that has changed": ({"training.init": "default"}, None),
    "a constant that is gone": ({"training.init": ...}, None),
    "searched besides, its default in the space": (
        {"training.lr": {"low": 1e-4, "high": 1e-2}},
        {**POINT, "training.lr": 1e-3},
    ),
    "searched besides, its default not in it": ({"training.lr": {"low": 1e-2, "high": 1e-1}}, None),
    "steps that meet it": ({"depth": {"low": 2, "high": 4, "step": 2}}, POINT),
    "steps that miss it": ({"depth": {"low": 1, "high": 3, "step": 2}}, None),
}


@pytest.mark.parametrize(("changes", "expected"), NEW_SPACES.values(), ids=NEW_SPACES.keys())
def test_a_trial_fits_if_it_would_be_trained_to_the_same_numbers(
    study_config: MakeConfig, changes: dict[str, Any], expected: dict[str, Any] | None
) -> None:
    old = study_config(space=SPACE)
    new = study_config(space={n: d for n, d in {**SPACE, **changes}.items() if d is not ...})
    found = fit_params(new, old, POINT)
    assert found == expected
    if found is not None:
        assert new.trial(found, seed=7) == old.trial(POINT, seed=7)


# -- what is known -----------------------------------------------------------------------------------------------------


def test_what_is_gathered_is_every_outcome_that_a_sampler_learns_from(
    study_config: MakeConfig, settings: Settings, opened: Any
) -> None:
    old = study_config(space=SPACE, search={"trials": 6})
    study = opened(old)
    trials = [study.ask() for _ in range(5)]  # the sixth waits
    for trial, outcome in zip(trials[:4], ("completed", "pruned", "diverged", "failed"), strict=True):
        study.report(trial, [EpochMetrics(e, {"val_loss": 1 / e}, 0) for e in (1, 2)] if outcome != "diverged" else [])
        study.tell(trial, outcome, checkpoint=None, error=None)
    known = gather_prior_trials(old, old, open_storage(settings.storage))
    name = old.name
    assert [(k["trial"], k["outcome"], k["value"]) for k in known] == [
        (f"{name}-0000", "completed", 0.5),
        (f"{name}-0001", "pruned", None),
        (f"{name}-0002", "diverged", None),
    ]
    assert [k["params"] for k in known] == [{n: t.hyperparameters[n] for n in old.searched} for t in trials[:3]]
    assert known[1]["intermediate"] == {"1": 1.0, "2": 0.5}


def test_a_sampler_learns_from_what_it_is_shown(study_config: MakeConfig, settings: Settings, opened: Any) -> None:
    """Trials of a wider space say that the best lambda1 is 3e-3; of its own, TPE draws the first ten blindly."""

    def miss(trial: Trial) -> float:
        return abs(math.log10(trial.config.guidance.lambda1 / 3e-3))

    old = study_config(
        search={"trials": 60, "sampler": "random"}, space={**SPACE, "lambda1": {"low": 1e-9, "high": 10.0, "log": True}}
    )
    fitting = sum(1e-8 <= t.config.guidance.lambda1 <= 1 for t in everything(opened(old), miss))
    space = {**SPACE, "lambda1": {"low": 1e-8, "high": 1.0, "log": True}}
    misses: dict[str, list[float]] = {"shown": [], "not": []}
    for name, seed in itertools.product(misses, range(3)):
        new = study_config(
            name=f"{old.name}-{name}-{seed}",
            space=space,
            search={"trials": 9, "sampler": "tpe"},
            training={"seed": seed},
        )
        study = opened(new)
        if name == "shown":
            study.add_prior_trials(
                gather_prior_trials(
                    new, old.model_copy(update={"training": new.training}), open_storage(settings.storage)
                )
            )
            study = opened(new)  # as another driver finds it
            assert study.n_prior_trials == fitting > 40
        trials = everything(study, miss)
        assert [t.number for t in trials] == list(range(9))
        misses[name] += [miss(t) for t in trials]
    assert statistics.median(misses["shown"]) < 0.7 < 1.2 < statistics.median(misses["not"])  # decades, of eight


def test_what_is_known_is_no_trial(study_config: MakeConfig, settings: Settings, opened: Any) -> None:
    old = study_config(search={"trials": 12})
    everything(opened(old))
    new = study_config(name=f"{old.name}-2", search={"trials": 3, "sampler": "tpe", "pruner": "median"})
    study = opened(new)
    study.add_prior_trials(gather_prior_trials(new, old, open_storage(settings.storage)))
    queued = study.enqueue({"lambda1": 0.0123})
    everything(study)
    rows = study.rows()
    assert [(r.number, r.state) for r in rows] == [(n, "finished") for n in range(4)]
    assert rows[queued].hyperparameters["lambda1"] == 0.0123
    storage = open_storage(settings.storage)
    assert len(storage.get_all_trials(storage.get_study_id_from_name(new.name))) == 4


# -- which study goes on -----------------------------------------------------------------------------------------------


def test_each_new_space_is_the_next_study_and_one_that_is_there_goes_on(
    study_config: MakeConfig, settings: Settings, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, name = study_config(search={"trials": 2}), study_config().name

    def with_high(high: float) -> StudyConfig:
        return study_config(space={**SPACE, "lambda1": {"low": 1e-5, "high": high, "log": True}})

    assert derive_study(first, settings) == (first, [])  # nothing to go on from
    everything(opened(first))
    for high, expected in ((1.0, f"{name}-2"), (2.0, f"{name}-3"), (1.0, f"{name}-2")):
        config, before = derive_study(with_high(high), settings)
        assert config.name == expected
        assert [b.name for b in before] == [name, f"{name}-2"][: int(expected[-1]) - 1]
        opened(config)
    assert derive_study(first, settings) == (first, [])


def test_what_else_differs_is_refused(study_config: MakeConfig, settings: Settings, opened: Any) -> None:
    opened(study_config())
    changed = study_config(training={"lr": 0.1}, space={**SPACE, "depth": 3})
    with pytest.raises(ConfigError, match=r"training.lr: was 0.001, now 0.1") as refused:
        derive_study(changed, settings)
    assert "--new-space" not in str(refused.value)


def test_a_driver_that_lost_the_race_to_another_study_file_is_refused(study_config: MakeConfig, opened: Any) -> None:
    """Both looked before either had written; the one that comes second finds it under the lock."""
    opened(study_config())
    with pytest.raises(ConfigError, match="exists and differs"):
        opened(study_config(training={"lr": 0.1}))
    with pytest.raises(ConfigError, match="--new-space"):
        opened(study_config(space=SPACE))
    opened(study_config(search={"trials": 50}))  # a budget may change
