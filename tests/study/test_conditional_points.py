"""Points of a conditional space: from every sampler, in every storage, and as analyses see them."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from sweep.analysis.conditions import parse_conditions
from sweep.analysis.sensitivity import analyse
from sweep.config.errors import ConfigError, SweepError
from sweep.config.search_methods import SAMPLERS
from sweep.config.section import STORED
from sweep.config.settings import Settings
from sweep.config.study_config import StudyConfig
from sweep.service.single_trial import enqueue
from sweep.study.baselines import baseline_study
from sweep.study.dataframe import read_tables
from sweep.study.storages.storage import open_storage
from sweep.study.study import Study
from sweep.training.reports import EpochMetrics

from ..conftest import MakeConfig

FORMS = ("reciprocal", "target")
SPACE: dict[str, Any] = {
    "epsilon": {"low": 1e-3, "high": 10.0, "log": True, "when": {"guidance.form": "reciprocal"}},
    "guidance.target": {"low": -4.0, "high": 1.0, "when": {"guidance.form": "target"}},
    "guidance.form": {"choices": list(FORMS)},
    "depth": {"low": 1, "high": 4},
    "training.batch_size": {"choices": [64, 16, 32], "when": "depth >= 3"},
    "width": 8,
}
STEPS: dict[str, Any] = {
    **SPACE,
    "epsilon": {"choices": [0.1, 1.0], "when": {"guidance.form": "reciprocal"}},
    "guidance.target": {"low": -2.0, "high": 0.0, "step": 1.0, "when": {"guidance.form": "target"}},
}
CONSTRAINT = "epsilon * depth <= 8"  # holds where there is no epsilon


def belongs(point: dict[str, Any]) -> bool:
    """True if a point has exactly what its values ask for, by hand."""
    own = "epsilon" if point["guidance.form"] == "reciprocal" else "guidance.target"
    return point.keys() == {"guidance.form", "depth", own} | ({"training.batch_size"} if point["depth"] >= 3 else set())


def value(point: dict[str, Any]) -> float:
    return float(point["depth"] + point.get("epsilon", 2.0) - point.get("guidance.target", 0.0))


def tried(config: StudyConfig, url: str, workspace: Path, count: int = 1000) -> list[dict[str, Any]]:
    """Takes trials of a study to their end, as one driver does; returns their points."""
    study, points = Study(config, open_storage(url), workspace=workspace), []
    study.enqueue_budget()
    while len(points) < count and (trial := study.ask()) is not None:
        points.append(dict(trial.hyperparameters))
        study.report(trial, [EpochMetrics(1, {"val_loss": value(points[-1])}, 0)])
        study.tell(trial, "completed", checkpoint=None, error=None)
    return points


def stored(name: str, url: str) -> list[dict[str, Any]]:
    trials = optuna.load_study(study_name=name, storage=open_storage(url)).trials
    assert all(trial.params.keys() == trial.distributions.keys() for trial in trials)
    return [trial.params for trial in trials]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("constraints", [(), (CONSTRAINT,)], ids=["free", "constrained"])
def test_every_sampler_gives_a_point_what_it_asks_for_and_the_same_after_an_interruption(
    study_config: MakeConfig, tmp_path: Path, sampler: str, constraints: tuple[str, ...]
) -> None:
    search = {"sampler": sampler, "trials": 16, "design": 0 if sampler == "grid" else 4}
    space = STEPS if sampler == "grid" else SPACE
    config = study_config(space=space, search=search, constraints=constraints, training={"max_epochs": 1})
    whole = tried(config, f"sqlite:///{tmp_path}/whole.db", tmp_path / "whole")
    url = f"sqlite:///{tmp_path}/parts.db"
    parts = [tried(config, url, tmp_path / "parts", count) for count in (3, 6, 1000)]
    assert whole == list(itertools.chain(*parts))
    assert stored(config.name, url) == whole
    assert len(whole) == config.search.trials
    assert all(map(belongs, whole))
    assert {point["guidance.form"] for point in whole} == set(FORMS)
    if constraints:
        assert all(point.get("epsilon", 0.0) * point["depth"] <= 8 for point in whole)


def test_a_conditional_study_is_the_same_in_every_storage(
    study_config: MakeConfig, tmp_path: Path, storage_url: str
) -> None:
    search = {"sampler": "tpe", "trials": 14, "design": 4}
    config = study_config(space=SPACE, search=search, training={"max_epochs": 1})
    points = tried(config, storage_url, tmp_path / "results")
    assert all(map(belongs, points))
    assert stored(config.name, storage_url) == points
    assert points == tried(config, f"journal:///{tmp_path}/other.journal", tmp_path / "other")


def test_a_grid_has_each_point_once(study_config: MakeConfig, tmp_path: Path) -> None:
    config = study_config(space=STEPS, search={"sampler": "grid", "trials": 100}, training={"max_epochs": 1})
    points = tried(config, f"sqlite:///{tmp_path}/studies.db", tmp_path / "results")
    forms, depths = 2 + 3, 2 + 2 * 3
    assert config.search.trials == len({repr(sorted(point.items())) for point in points}) == forms * depths


def test_the_design_fills_each_branch_evenly(study_config: MakeConfig, tmp_path: Path) -> None:
    config = study_config(space=SPACE, search={"trials": 400, "design": 400}, training={"max_epochs": 1})
    study = Study(config, open_storage(f"sqlite:///{tmp_path}/studies.db"), workspace=tmp_path / "results")
    study.enqueue_budget()
    points = stored(config.name, f"sqlite:///{tmp_path}/studies.db")
    assert all(map(belongs, points))
    count = Counter((point["guidance.form"], point["depth"]) for point in points)
    assert min(count.values()) > 50 - 4 * np.sqrt(50)  # 400 points in 8 branches
    sizes = Counter(point["training.batch_size"] for point in points if point["depth"] >= 3)
    assert min(sizes.values()) > 66 - 4 * np.sqrt(66)


def test_tpe_finds_the_best_of_a_branch(study_config: MakeConfig, tmp_path: Path) -> None:
    search = {"sampler": "tpe", "trials": 80}
    config = study_config(space=SPACE, search=search, training={"max_epochs": 1})
    late = tried(config, f"sqlite:///{tmp_path}/studies.db", tmp_path / "results")[60:]
    assert np.median([value(point) for point in late]) < 1.6  # of values from 1.001 to 14


def test_values_that_no_point_has_together_are_not_enqueued(study_config: MakeConfig, tmp_path: Path) -> None:
    settings = Settings(workspace=tmp_path)
    config = study_config(space=SPACE, search={"trials": 2}, training={"max_epochs": 1})
    Study(config, open_storage(settings.storage), workspace=tmp_path).enqueue_budget()
    with pytest.raises(ConfigError) as raised:
        enqueue(config.name, settings, ["guidance.form=target", "epsilon=0.1"])
    assert raised.value.problems == ["epsilon: only where guidance.form == 'reciprocal'"]
    number, values = enqueue(config.name, settings, ["epsilon=0.1", "guidance.form=reciprocal"])
    points = tried(config, settings.storage, tmp_path)
    assert belongs(points[number])
    assert values.items() <= points[number].items()


def test_a_baseline_keeps_conditions_also_on_what_is_constant_there(study_config: MakeConfig) -> None:
    space = {
        **SPACE,
        "training.init": {"choices": ["default", "he"]},
        "training.momentum": {"low": 0.1, "high": 0.9, "when": {"training.init": "he"}},
        "training.grad_clip": {"low": 0.5, "high": 5.0, "when": {"training.init": "default"}},
    }
    baseline = baseline_study(study_config(space=space), "he", 40)
    again = StudyConfig.model_validate(baseline.model_dump(mode="json"), context=STORED)
    assert list(again.searched) == list(baseline.searched)
    assert "epsilon" not in again.searched
    assert again.is_point({"depth": 3, "training.batch_size": 16, "training.momentum": 0.5})
    assert not again.is_point({"depth": 3, "training.batch_size": 16, "training.grad_clip": 1.0})


def test_an_analysis_leaves_out_what_only_some_trials_have_and_a_branch_has_it(
    study_config: MakeConfig, tmp_path: Path
) -> None:
    settings = Settings(workspace=tmp_path)
    config = study_config(space=SPACE, search={"trials": 160, "design": 160}, training={"max_epochs": 1})
    tried(config, settings.storage, tmp_path)
    [table] = read_tables(config.name, open_storage(settings.storage), settings)
    whole = analyse(table)
    assert whole.left_out.keys() == {"epsilon", "guidance.target", "training.batch_size"}
    assert "only trials with guidance.form == 'target' have it" in whole.left_out["guidance.target"]
    for where in ("guidance.form == 'target'", "guidance.target > -5"):
        branch = analyse(table, where=parse_conditions(where, table.space))
        assert branch.strength == "quantitative"
        assert branch.n_uniform == sum(table.trials["params_guidance.form"] == "target")
        # Of depth - target, both uniform: the variance of 1 to 4 is 15 / 12, that of 5 units 25 / 12.
        assert branch.parameters["guidance.target"].first == pytest.approx(25 / 40, abs=0.05)
        assert branch.parameters["depth"].first == pytest.approx(15 / 40, abs=0.05)
        assert branch.left_out["guidance.form"] == "its only value is target"


def test_a_branch_by_several_hyperparameters_at_once_is_named_by_the_user(
    study_config: MakeConfig, tmp_path: Path
) -> None:
    space = {**SPACE, "epsilon": {"low": 1e-3, "high": 10.0, "when": "depth * guidance.every > 4"}}
    space["guidance.every"] = {"low": 1, "high": 4}
    settings = Settings(workspace=tmp_path)
    config = study_config(space=space, search={"trials": 40, "design": 40}, training={"max_epochs": 1})
    tried(config, settings.storage, tmp_path)
    [table] = read_tables(config.name, open_storage(settings.storage), settings)
    with pytest.raises(SweepError, match="depends on several hyperparameters at once: name them without it"):
        analyse(table, where=parse_conditions("epsilon < 1", table.space))
