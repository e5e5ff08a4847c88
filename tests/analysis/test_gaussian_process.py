"""The Gaussian process against scikit-learn's, and against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import check_grad
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from sweep.analysis.gaussian_process import Posterior, covariance, fit_kernel, negative_log_likelihood, weights_of


@pytest.fixture
def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.random((40, 3))
    return x, np.sin(5 * x[:, 0]) + x[:, 1] ** 2 + x[:, 2] * x[:, 1] + 0.1 * rng.standard_normal(40)


KERNEL = np.log([1.7, 0.05, 0.4, 1.2, 9.0])


def theirs(kernel: np.ndarray) -> GaussianProcessRegressor:
    amplitude, noise, *scales = np.exp(kernel)
    parts = ConstantKernel(amplitude) * Matern(scales, nu=2.5) + WhiteKernel(noise)
    return GaussianProcessRegressor(parts, optimizer=None)


def test_likelihood_and_prediction_are_those_of_scikit_learn(data: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = data
    fitted = theirs(KERNEL).fit(x, y)
    ours = -negative_log_likelihood(KERNEL, x, y)[0] - 20 * np.log(2 * np.pi)
    assert ours == pytest.approx(fitted.log_marginal_likelihood_value_)
    fresh = np.random.default_rng(1).random((20, 3))
    assert covariance(KERNEL, fresh, x) @ weights_of(KERNEL, x, y) == pytest.approx(fitted.predict(fresh), abs=1e-8)


def test_the_gradient_is_that_of_finite_differences(data: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = data

    def value(kernel: np.ndarray) -> float:
        return negative_log_likelihood(kernel, x, y)[0]

    def gradient(kernel: np.ndarray) -> np.ndarray:
        return negative_log_likelihood(kernel, x, y)[1]

    assert check_grad(value, gradient, KERNEL) < 1e-4 * np.linalg.norm(gradient(KERNEL))


def test_the_kernel_is_at_least_as_likely_as_scikit_learns(data: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = data
    parts = ConstantKernel(1.0, (1e-2, 1e3)) * Matern(np.ones(3), (0.05, 1e6), nu=2.5) + WhiteKernel(0.1, (1e-6, 10))
    best = GaussianProcessRegressor(parts, n_restarts_optimizer=4, random_state=0).fit(x, y)
    found = fit_kernel(x, y, [np.log([1.0, 0.1, 1.0, 1.0, 1.0])])
    ours = -negative_log_likelihood(found, x, y)[0] - 20 * np.log(2 * np.pi)
    assert ours >= best.log_marginal_likelihood_value_ - 0.01


def test_draws_have_the_mean_and_the_variance_of_the_posterior(data: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = data
    rng, fresh = np.random.default_rng(2), np.random.default_rng(1).random((20, 3))
    draws = np.vstack([Posterior(KERNEL, x, y, 64, rng).draws(fresh) for _ in range(20)])
    mean, covariances = theirs(KERNEL).fit(x, y).predict(fresh, return_cov=True)
    spread = np.sqrt(np.maximum(np.diag(covariances) - np.exp(KERNEL[1]), 0))  # without the noise of a trial
    assert draws.mean(0) == pytest.approx(mean, abs=0.05)
    assert draws.std(0) == pytest.approx(spread, rel=0.15)
