"""Shapley effects against values known by integration, and what an analysis of a constrained study says."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from scipy import integrate

from sweep.analysis.notebook import indices_table
from sweep.analysis.sensitivity import analyse
from sweep.analysis.sensitivity_text import as_data, interpretation
from sweep.analysis.shapley import shapley_effects
from sweep.analysis.sobol import sobol_indices
from sweep.analysis.surrogates import Input, Inputs
from sweep.config.conditional import condition_of
from sweep.config.settings import Settings
from sweep.study.dataframe import read_tables
from sweep.study.storages.storage import open_storage
from sweep.study.study import Study

from ..conftest import MakeConfig

UNIT = FloatDistribution(0.0, 1.0)
F = Callable[[float, float], float]


def in_triangle(f: F) -> tuple[float, float]:
    """The effects of a and b, uniform within a + b <= 1, by their definition for two inputs, with quadrature.

    The effect of a is half of Var(E[f | a]) and half of what it adds to b, Var(f) - Var(E[f | b]).
    """
    mean = 2 * integrate.dblquad(lambda b, a: f(a, b), 0, 1, 0, lambda a: 1 - a)[0]
    variance = 2 * integrate.dblquad(lambda b, a: (f(a, b) - mean) ** 2, 0, 1, 0, lambda a: 1 - a)[0]

    def explained(f: F) -> float:
        """Var(E[f | a]): a has the density 2 (1 - a), and b is uniform below 1 - a."""

        def density(a: float) -> float:
            given = integrate.quad(lambda b: f(a, b), 0, 1 - a)[0] / (1 - a)
            return float(2 * (1 - a) * (given - mean) ** 2)

        return float(integrate.quad(density, 0, 1 - 1e-9)[0])

    a, b = explained(f) / variance, explained(lambda b, a: f(a, b)) / variance
    return (a + 1 - b) / 2, (b + 1 - a) / 2


FUNCTIONS: dict[str, F] = {
    "sum": lambda a, b: a + 2 * b,
    "one alone": lambda a, b: a + 0 * b,
    "product": lambda a, b: a * b,
    "curved": lambda a, b: math.sin(3 * a) + b * b,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_effects_within_a_constraint_are_those_of_quadrature(name: str) -> None:
    f = np.vectorize(FUNCTIONS[name])
    inputs = Inputs([Input("a", UNIT), Input("b", UNIT)])
    found = shapley_effects(lambda x: f(x[:, 0], x[:, 1])[None], inputs, lambda v: v["a"] + v["b"] <= 1)[0]
    assert found == pytest.approx(in_triangle(FUNCTIONS[name]), abs=0.03)
    assert found.sum() == pytest.approx(1)


def test_of_independent_inputs_they_divide_interactions_evenly() -> None:
    """Sobol' indices of y = a + b c + d: the effect is the first order and half of each interaction of two."""
    inputs = Inputs([Input(name, UNIT) for name in "abcd"])

    def f(x: Any) -> Any:
        return (x[:, 0] + 4 * (x[:, 1] - 0.5) * (x[:, 2] - 0.5) + 0.5 * x[:, 3])[None]

    d, indices = 4, sobol_indices(f, inputs, points=8192)[0]
    pairs = dict(zip(itertools.combinations(range(d), 2), indices[2 * d :], strict=True))
    expected = [indices[i] + sum(v for pair, v in pairs.items() if i in pair) / 2 for i in range(d)]
    found = shapley_effects(f, inputs, lambda v: np.ones(v["a"].shape, bool))[0]
    assert found == pytest.approx(expected, abs=0.03)


def test_whole_numbers_and_choices_by_enumeration() -> None:
    """Depth 1 to 4 and width 8, 16, 32 within depth * width <= 48, and a choice that is free: 2 x 9 points, by hand."""
    depth, width = IntDistribution(1, 4), CategoricalDistribution([32, 8, 16])
    inputs = Inputs([Input("depth", depth), Input("width", width), Input("form", CategoricalDistribution(["x", "y"]))])
    points = [p for p in itertools.product(range(1, 5), (8, 16, 32), "xy") if p[0] * p[1] <= 48]

    def y(depth: float, width: float, form: str) -> float:
        return depth + math.log2(width) * (form == "x")

    values = {p: y(*p) for p in points}
    mean = sum(values.values()) / len(points)

    def explained(known: tuple[int, ...]) -> float:
        groups: dict[Any, list[float]] = {}
        for p, value in values.items():
            groups.setdefault(tuple(p[i] for i in known), []).append(value)
        return sum(len(g) * (sum(g) / len(g) - mean) ** 2 for g in groups.values()) / len(points)

    expected = np.zeros(3)
    for order in itertools.permutations(range(3)):
        for place, i in enumerate(order):
            expected[i] += (explained(order[: place + 1]) - explained(order[:place])) / 6
    table = {
        (tuple(np.round(inputs.encode({"depth": [a], "width": [b], "form": [c]})[0], 6))): values[a, b, c]
        for a, b, c in points
    }
    found = shapley_effects(
        lambda x: np.array([[table[tuple(row)] for row in np.round(x, 6)]]),
        inputs,
        lambda v: v["depth"] * v["width"] <= 48,
        points=2048,
    )[0]
    assert found == pytest.approx(expected / explained((0, 1, 2)), abs=0.03)


def constrained(study_config: MakeConfig, tmp_path: Path, **changes: Any) -> Any:
    """The table of a study of 80 design trials within lambda1 + epsilon <= 1.1; its value is 2 lambda1 + epsilon."""
    space = {"lambda1": {"low": 0.0, "high": 1.0}, "epsilon": {"low": 0.1, "high": 1.1}, "lambda2": 0.0}
    space |= {"depth": 2, "width": 8, **changes.pop("space", {})}
    constraints = changes.pop("constraints", ["lambda1 + epsilon <= 1.1"])
    search = {"trials": 80, "design": 80, "sampler": "random"}
    config = study_config(space=space, constraints=constraints, search=search, training={"max_epochs": 1}, **changes)
    url = f"journal:///{tmp_path}/journal"
    study = Study(config, open_storage(url), workspace=tmp_path)
    study.enqueue_budget()
    while (trial := study.ask()) is not None:
        trial.best = 2 * trial.hyperparameters["lambda1"] + trial.hyperparameters["epsilon"]
        trial.epochs = 1
        study.tell(trial, "completed", checkpoint=None, error=None)
    [table] = read_tables(config.name, open_storage(url), Settings(workspace=tmp_path, storage=url))
    return table


def test_a_constrained_study_has_shapley_effects(study_config: MakeConfig, tmp_path: Path) -> None:
    """lambda1 is a, and epsilon is b + 0.1, of the triangle."""
    found = analyse(constrained(study_config, tmp_path))
    assert found.trusted, found.reason
    assert found.dependent
    a, b = in_triangle(lambda a, b: 2 * a + b)
    assert {n: i.total for n, i in found.parameters.items()} == pytest.approx({"lambda1": a, "epsilon": b}, abs=0.05)
    for index, true in zip(found.parameters.values(), (a, b), strict=True):
        assert index.total_ci[0] - 0.03 <= true <= index.total_ci[1] + 0.03
    assert found.pairs == {}
    assert found.fitted is None, "effects would be averaged over points outside"
    assert "Shapley effects, since constraints make hyperparameters depend" in interpretation(found)
    data = as_data(found)["parameters"]["lambda1"]
    assert data.keys() == {"shapley", "shapley_ci"}
    assert list(indices_table(found).columns) == ["shapley", "shapley_low", "shapley_high"]


def test_a_constraint_on_what_only_some_trials_have_is_refused(study_config: MakeConfig, tmp_path: Path) -> None:
    space: dict[str, Any] = {
        "guidance.form": {"choices": ["reciprocal", "target"]},
        "epsilon": {"low": 0.1, "high": 1.1, "when": {"guidance.form": "reciprocal"}},
        "depth": {"low": 1, "high": 3},
    }
    config = study_config(
        space={"lambda1": 0.1, "lambda2": 0.0, "width": 8, **space}, constraints=["epsilon * depth <= 2"]
    )
    assert condition_of(config.searched["epsilon"]) is not None
    url = f"journal:///{tmp_path}/journal"
    Study(config, open_storage(url), workspace=tmp_path)
    [table] = read_tables(config.name, open_storage(url), Settings(workspace=tmp_path, storage=url))
    found = analyse(table)
    assert not found.trusted
    assert found.reason is not None
    assert "a constraint names a hyperparameter that only some trials have" in found.reason
