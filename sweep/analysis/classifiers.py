"""Surrogates of a probability, of diverging for example: logistic polynomial chaos, Gaussian process classifier.

The outcome of a trial is 0 or 1, which carries less information than a number. R2 compares outcomes with predicted
probabilities (a Brier skill score), so it stays far below 1 even if the probability is known exactly. Replicates are
fits to bootstrap samples.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from .surrogates import Array, Basis, Rows, Trials, nested

REPLICATES = 32
PENALTIES = 10.0 ** np.arange(-3, 2.1, 0.5)  # inverse penalties, scikit-learn's C
MAX_TRIALS = 128  # a Gaussian process takes time cubic in the trials, for each replicate


class _Classifier:
    _features: Callable[[Array], Array]
    _fit: Any
    _replicates: list[Any]

    def mean(self, x: Array) -> Array:
        return np.asarray(self._fit.predict_proba(self._features(x))[:, 1])

    def replicates(self, x: Array) -> Array:
        z = self._features(x)
        return np.array([each.predict_proba(z)[:, 1] for each in self._replicates])


class LogisticChaos(_Classifier):
    """Logistic regression on polynomials of one and two inputs, up to the second degree. See `PolynomialChaos`."""

    name = "logistic polynomial chaos"

    def __init__(self, trials: Trials, seed: int):
        from sklearn.linear_model import LogisticRegression

        self._features, rng = Basis(trials.inputs, 2, seed), np.random.default_rng(seed)
        z, y = self._features(trials.x), trials.y

        def fit(penalty: float, rows: Any) -> Any:
            return LogisticRegression(C=penalty, max_iter=500).fit(z[rows], y[rows])

        def predicted(train: Rows, test: Rows) -> Array:
            return np.array([fit(penalty, train).predict_proba(z[test])[:, 1] for penalty in PENALTIES])

        self.held_out, best = nested(trials, rng, predicted)
        self._fit = fit(PENALTIES[best], slice(None))
        self._replicates = [fit(PENALTIES[best], rows) for rows in _bootstrap(y, rng)]


class ProcessClassifier(_Classifier):
    """Gaussian process classifier with a Matern-5/2 kernel (ARD), by Laplace's approximation. See `GaussianProcess`."""

    name = "Gaussian process classifier"

    def __init__(self, trials: Trials, seed: int):
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.gaussian_process import GaussianProcessClassifier
        from sklearn.gaussian_process.kernels import ConstantKernel, Matern

        x, y, rng = trials.x, trials.y, np.random.default_rng(seed)
        self._features = np.asarray
        kernel = ConstantKernel(10.0, (1e-1, 1e3)) * Matern(np.ones(x.shape[1]), (0.1, 1e2), nu=2.5)
        self.held_out, kernels = np.full(len(y), np.nan), []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            self._fit = GaussianProcessClassifier(kernel, n_restarts_optimizer=2, random_state=seed).fit(x, y)
            for train, test in trials.folds(rng):
                fold = GaussianProcessClassifier(self._fit.kernel_).fit(x[train], y[train])
                self.held_out[test] = fold.predict_proba(x[test])[:, 1]
                kernels.append(fold.kernel_)
        self._replicates = [
            GaussianProcessClassifier(each, optimizer=None).fit(x[rows], y[rows])
            for each, rows in zip(itertools.cycle(kernels), _bootstrap(y, rng), strict=False)
        ]


def _bootstrap(y: Array, rng: np.random.Generator) -> list[Any]:
    """Returns rows of stratified bootstrap samples: each has as many rows of each class as ``y``."""
    classes = [np.flatnonzero(y == value) for value in np.unique(y)]
    return [np.concatenate([rng.choice(rows, len(rows)) for rows in classes]) for _ in range(REPLICATES)]
