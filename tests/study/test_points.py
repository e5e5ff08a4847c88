"""The points that a search tries: in each storage those that the study file allows, by its seed, whatever ends it."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from sweep.config.search_methods import SAMPLERS
from sweep.config.settings import Settings
from sweep.config.study_config import StudyConfig
from sweep.config.study_file import parse_study, read_yaml, to_yaml
from sweep.service.preflight.load import load_study
from sweep.study.constrained import check_constraints
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


# -- constraints -------------------------------------------------------------------------------------------------------

SPACE = {
    "lambda1": {"low": 1e-4, "high": 1e-1, "log": True},
    "depth": {"low": 1, "high": 8},
    "width": {"choices": [4, 8, 16, 32]},
    "training.batch_size": 32,
}
CONSTRAINTS = ["depth * width <= 64", "lambda1 * training.batch_size < 1 and -lambda1 + 1 > depth / 100"]


def inside(point: dict[str, Any]) -> bool:
    """The same conditions, by Python."""
    lambda1, depth = point["lambda1"], point["depth"]
    return bool(depth * point["width"] <= 64 and lambda1 * 32 < 1 and -lambda1 + 1 > depth / 100)


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "grid"])
def test_every_point_fulfils_the_constraints_and_a_seed_repeats_it(
    opened: Opened, study_config: MakeConfig, tmp_path: Path, sampler: str
) -> None:
    def points(name: str, *budgets: int) -> list[dict[str, Any]]:
        found = []
        for trials in budgets:
            search = {"sampler": sampler, "trials": trials, "design": 4}
            config = study_config(space=SPACE, constraints=CONSTRAINTS, search=search, training={"max_epochs": 1})
            found += tried(opened(config, f"journal:///{tmp_path}/{name}"))
        return found

    whole = points("whole", 16)
    assert [inside(point) for point in whole] == [True] * 16
    assert points("again", 5, 16) == whole


def test_points_within_constraints_are_uniform_there_in_every_storage(
    opened: Opened, study_config: MakeConfig, storage_url: str
) -> None:
    space = {"lambda1": 0.0, "depth": {"low": 1, "high": 4}, "width": {"choices": [1, 2, 3, 4]}}
    search = {"sampler": "random", "trials": 300, "design": 150}
    config = study_config(space=space, constraints=["depth + width <= 5"], search=search)
    rows = opened(config, storage_url).rows(latest=True)
    counts = Counter((row.hyperparameters["depth"], row.hyperparameters["width"]) for row in rows)
    assert set(counts) == {(a, b) for a, b in itertools.product(range(1, 5), repeat=2) if a + b <= 5}
    assert stats.chisquare(list(counts.values())).pvalue > 0.001


def test_a_given_value_is_kept_and_the_rest_fits(opened: Opened, study_config: MakeConfig, journal_url: str) -> None:
    space = {**SPACE, "depth": {"low": 1, "high": 8, "default": 8}}
    config = study_config(space=space, constraints=CONSTRAINTS, search={"sampler": "tpe", "trials": 1})
    [point] = tried(opened(config, journal_url))
    assert point["depth"] == 8
    assert inside(point)


def test_a_grid_has_the_points_that_fulfil_the_constraints(
    opened: Opened, study_config: MakeConfig, journal_url: str
) -> None:
    limited = {"constraints": ["depth * width < 64"], "training": {"max_epochs": 1}}
    config = study_config(space=GRID, search={"sampler": "grid", "trials": 50}, **limited)
    kept = [point for point in POINTS if point["depth"] * point["width"] < 64]
    assert config.search.trials == len(kept)
    points = tried(opened(config, journal_url))
    assert sorted(points, key=key) == sorted(kept, key=key)


@pytest.mark.parametrize(
    ("constraint", "problem"),
    [
        ("depth * heigth < 3", "names what is not in the space: heigth"),
        ("training.lrr < 3", "names what is not in the space: training.lrr; there are lambda1, depth"),
        ("depth * width", "is not a constraint; compare sums"),
        ("depth <", "is not a constraint; compare sums"),
        ("__import__('os').getpid() > 0", "is not a constraint; compare sums"),
        ("depth ** width < 9", "is not a constraint; compare sums"),
        ("depth / 0 < 3", "divides by zero"),
        ("3 < 4", "names no hyperparameter"),
    ],
)
def test_what_is_no_constraint_is_refused(study_config: MakeConfig, constraint: str, problem: str) -> None:
    raw = study_config(space=SPACE).model_dump(mode="json")
    config, problems = parse_study({**raw, "constraints": ["depth < 99", constraint]})
    assert config is None
    assert len(problems) == 1
    assert problems[0].startswith(f"constraints: {constraint!r} {problem}")


@pytest.mark.parametrize(
    ("constraint", "problem"),
    [
        ("depth * width > 999", "they leave nothing of the space: narrow its ranges, or loosen depth * width > 999"),
        ("lambda1 > 0.0995", "% of the space, 0.5% are needed"),
        ("depth / (width - 8) < 3", "divides by zero, for example at {'depth': "),
        ("depth < 3", "the default values do not fulfil them: depth < 3"),
    ],
)
def test_constraints_that_leave_too_little_are_refused(study_config: MakeConfig, constraint: str, problem: str) -> None:
    space = {**SPACE, "depth": {"low": 1, "high": 8, "default": 4}}
    [said] = check_constraints(study_config(space=space, constraints=[constraint]))
    assert said.startswith("constraints: ")
    assert problem in said


def test_constraints_are_part_of_a_study(study_config: MakeConfig) -> None:
    search = {"sampler": "random", "trials": 40, "design": 40}
    config = study_config(space=SPACE, constraints=CONSTRAINTS, search=search, training={"max_epochs": 1})
    assert check_constraints(config) == []
    assert parse_study(read_yaml(to_yaml(config), "again")) == (config, [])
    without = study_config(space=SPACE, search=search, training={"max_epochs": 1})
    assert config.changes(without) == ["constraints"]
    assert "constraints" not in without.identity()  # as of studies of older versions
