"""The points that a search tries: in each storage those that the study file allows, by its seed, whatever ends it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweep.config.search_methods import SAMPLERS
from sweep.config.settings import Settings
from sweep.config.study_config import StudyConfig
from sweep.config.study_file import parse_study
from sweep.service.preflight.load import load_study
from sweep.study.storages.storage import open_storage
from sweep.study.study import Study
from sweep.training.reports import EpochMetrics

from ..conftest import MakeConfig

GRID = {
    "lambda1": 0.0,
    "depth": {"low": 1, "high": 3},
    "width": {"choices": [32, 8]},
    "training.momentum": {"low": 0.1, "high": 0.5, "step": 0.2},
}
POINTS = [
    {"depth": depth, "width": width, "training.momentum": momentum}
    for depth, width, momentum in itertools.product((1, 2, 3), (32, 8), (0.1, 0.3, 0.5))
]
LEARNING = [name for name, sampler in SAMPLERS.items() if sampler.learns]
Opened = Callable[..., Study]


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    """Opens a study as a driver does, and puts its budget there."""

    def make(config: StudyConfig, url: str) -> Study:
        study = Study(config, open_storage(url), workspace=tmp_path / "results")
        study.enqueue_budget()
        return study

    return make


def tried(study: Study, count: int = 100_000) -> list[dict[str, Any]]:
    """Takes trials to their end, best where the values are small; returns their points."""
    points = []
    while len(points) < count and (trial := study.ask()) is not None:
        points.append(dict(trial.hyperparameters))
        value = sum(float(v) for v in trial.hyperparameters.values())  # type: ignore[arg-type]
        study.report(trial, [EpochMetrics(1, {"val_loss": value}, 0)])
        study.tell(trial, "completed", checkpoint=None, error=None)
    return points


def key(point: dict[str, Any]) -> str:
    return repr(sorted(point.items()))


def test_a_grid_is_tried_whole_and_each_point_once(opened: Opened, study_config: MakeConfig, storage_url: str) -> None:
    config = study_config(space=GRID, search={"sampler": "grid", "trials": 50}, training={"max_epochs": 1})
    assert config.search.trials == len(POINTS)
    points = tried(opened(config, storage_url))
    assert points != POINTS
    assert sorted(points, key=key) == sorted(POINTS, key=key)
    assert tried(opened(config, storage_url)) == []


def test_the_order_of_a_grid_is_the_seeds_whatever_interrupts_it(
    opened: Opened, study_config: MakeConfig, tmp_path: Path
) -> None:
    def points(name: str, seed: int, *budgets: tuple[int, int]) -> list[dict[str, Any]]:
        found = []
        for trials, count in budgets:
            search, training = {"sampler": "grid", "trials": trials}, {"max_epochs": 1, "seed": seed}
            config = study_config(space=GRID, search=search, training=training)
            found += tried(opened(config, f"journal:///{tmp_path}/{name}"), count)
        return found

    whole = points("whole", 0, (18, 18))
    assert points("resumed", 0, (4, 2), (7, 1), (7, 4), (18, 11)) == whole
    assert points("again", 1, (18, 18)) != whole


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_defaults_are_tried_first_and_count(
    opened: Opened, study_config: MakeConfig, journal_url: str, sampler: str
) -> None:
    space = {**GRID, "depth": {"low": 1, "high": 3, "default": 3}, "width": {"choices": [32, 8], "default": 8}}
    design = 0 if sampler == "grid" else 2
    search = {"sampler": sampler, "trials": 5, "design": design}
    study = opened(study_config(space=space, search=search, training={"max_epochs": 1}), journal_url)
    points = tried(study)
    assert (points[0]["depth"], points[0]["width"], len(points)) == (3, 8, 5)
    assert round(points[0]["training.momentum"], 9) in (0.1, 0.3, 0.5)
    assert [row.design for row in study.rows()] == [False, *[True] * design, *[False] * (4 - design)]
    more = study_config(space=space, search={**search, "trials": 7}, training={"max_epochs": 1})
    study = opened(more, journal_url)
    assert len(tried(study)) == 2  # and not once more the defaults


@pytest.fixture
def journal_url(tmp_path: Path) -> str:
    return f"journal:///{tmp_path}/optuna.journal"


@pytest.mark.parametrize(
    ("space", "search", "problem"),
    [
        (
            {"lambda1": {"low": 0.1, "high": 0.2}},
            {},
            "search.sampler: a grid needs choices, whole numbers or a step; lambda1",
        ),
        ({}, {"design": 2}, "search.design: leave it out"),
        ({"width": {"low": 1, "high": 100_001}}, {}, "search.sampler: the grid has 900,009 points, 100,000 at most"),
    ],
)
def test_what_has_no_grid_is_refused(study_config: MakeConfig, space: dict, search: dict, problem: str) -> None:
    raw = study_config(space={**GRID, **space}).model_dump(mode="json")
    config, problems = parse_study({**raw, "search": {"sampler": "grid", "trials": 4, **search}})
    assert config is None
    assert len(problems) == 1
    assert problems[0].startswith(problem)


def test_a_budget_that_is_larger_than_the_grid_says_so(study_config: MakeConfig, tmp_path: Path) -> None:
    raw = study_config(space={"lambda1": 0.0, "depth": {"low": 1, "high": 3}, "width": 8}).model_dump(mode="json")
    raw["search"] = {"sampler": "grid", "trials": 50}
    config, notes = load_study(raw, Settings(workspace=tmp_path))
    assert config.search.trials == 3
    assert "search.trials: the grid has 3 points, so that there are 3 trials, not 50" in notes
