"""The expected improvement against quadrature and scikit-learn, and on functions whose best value is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from sweep.analysis.expected_improvement import expected_improvement, improvement
from sweep.analysis.gaussian_process import GaussianProcess
from sweep.analysis.surrogates import Input, Inputs, Trials
from sweep.config.study_config import StudyConfig
from sweep.study.distributions import distributions, random_point
from sweep.study.records import TrialRecord

from ..conftest import MakeConfig
from ..support.records import row

SPACE = {
    "training.momentum": {"low": 0.0, "high": 0.9},
    "training.lr": {"low": 1e-4, "high": 1e-2, "log": True},
    "training.init": {"choices": ["he", "default"]},
    "depth": 2,
    "width": 8,
}


def bowl(point: dict[str, float]) -> float:
    """0 at momentum 0.4 and lr 1e-3; he is 0.5 worse than default."""
    far = (point["training.momentum"] - 0.4) ** 2 + (np.log10(point["training.lr"]) + 3) ** 2
    return float(far + 0.5 * (point["training.init"] == "he"))


def trials(config: StudyConfig, count: int, sign: float = 1.0, noise: float = 0.0) -> list[TrialRecord]:
    space, rng = distributions(config.searched), np.random.default_rng(0)
    points = [random_point(space, seed=3, number=number) for number in range(count)]
    return [row(i, sign * bowl(p) + noise * rng.normal(), p, design=True) for i, p in enumerate(points)]  # type: ignore[arg-type]


@pytest.mark.parametrize(("mean", "deviation"), [(0.3, 1.0), (-0.5, 0.2), (2.0, 0.7)])
def test_it_is_the_mean_of_what_is_below_the_best(mean: float, deviation: float) -> None:
    by_hand, _ = quad(lambda y: (0.1 - y) * norm.pdf(y, mean, deviation), -12.0, 0.1)
    assert improvement(0.1, np.array([mean]), np.array([deviation])) == pytest.approx(by_hand, abs=1e-9)


def test_the_deviation_is_that_of_scikit_learns_posterior(study_config: MakeConfig) -> None:
    rng = np.random.default_rng(0)
    inputs = Inputs([Input(name, d) for name, d in distributions(study_config(space=SPACE).searched).items()])
    x = inputs.sample(rng.random((60, 3)))
    y = np.sin(5 * x[:, 0]) + x[:, 1] ** 2 + 0.1 * rng.standard_normal(60)
    process = GaussianProcess(Trials(inputs, x, y, np.ones(60, bool), np.arange(60)), seed=0)
    amplitude, noise, *scales = np.exp(process._kernel)
    kernel = ConstantKernel(amplitude) * Matern(scales, nu=2.5) + WhiteKernel(noise)
    theirs = GaussianProcessRegressor(kernel, optimizer=None, alpha=1e-10).fit(x, (y - y.mean()) / y.std())
    fresh = inputs.sample(rng.random((20, 3)))
    expected = y.std() * np.sqrt(theirs.predict(fresh, return_std=True)[1] ** 2 - noise)
    assert process.deviation(fresh) == pytest.approx(expected, rel=1e-3)


def test_it_falls_as_a_search_learns_and_is_in_units_of_the_objective(study_config: MakeConfig) -> None:
    config = study_config(space=SPACE)
    few, many = (expected_improvement(config, trials(config, count)) for count in (32, 150))
    assert few is not None
    assert many is not None
    assert 0 < many < few < 1.0
    assert many < 0.02  # of values from 0 to 1.7, whose least one is known within that
    more = study_config(space=SPACE, objective={"direction": "maximize"})
    assert expected_improvement(more, trials(more, 32, sign=-1.0)) == pytest.approx(few, rel=1e-3)


def test_a_better_region_that_no_trial_has_seen_is_expected_to_gain(study_config: MakeConfig) -> None:
    config = study_config(space=SPACE)
    seen = [each for each in trials(config, 120) if each.hyperparameters["training.momentum"] > 0.6]  # type: ignore[operator]
    assert len(seen) >= 32
    unseen = expected_improvement(config, seen)
    assert unseen is not None
    assert unseen > 0.02


def test_it_is_unknown_with_few_design_trials_or_where_the_surrogate_predicts_little(study_config: MakeConfig) -> None:
    config = study_config(space=SPACE)
    assert expected_improvement(config, trials(config, 31)) is None
    assert expected_improvement(config, trials(config, 64, sign=0.0, noise=1.0)) is None
    assert expected_improvement(config, trials(config, 40, sign=0.0)) is None


def test_points_outside_the_constraints_gain_nothing(study_config: MakeConfig) -> None:
    free = study_config(space=SPACE)
    bound = study_config(space=SPACE, constraints=["training.momentum > 0.6"])
    seen = [each for each in trials(free, 120) if each.hyperparameters["training.momentum"] > 0.6]  # type: ignore[operator]
    inside, everywhere = expected_improvement(bound, seen), expected_improvement(free, seen)
    assert inside is not None
    assert everywhere is not None
    assert inside < everywhere
