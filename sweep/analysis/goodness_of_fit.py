"""Measures how well a surrogate predicts trials that it never saw, noise, and the influence of single trials."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .surrogates import Array, Mask, Trials

CONFIDENCE = 0.9  # of one-sided bounds
SHARED = 1.3  # factor of the standard error of R2, since folds share trials: without it, 0.85 of the bounds hold
MIN_REPEATS = 8  # degrees of freedom of a measured noise
FEW, MUCH = 0.02, 0.25  # the share of the trials that may carry at most that share of the variance


@dataclass(frozen=True)
class Fit:
    """Shares of the variance of the tested trials.

    Attributes:
        r2: predicted by a surrogate that never saw the trial.
        low: lower bound of ``r2``, one-sided, with confidence 0.9.
        noise: owed to the seed alone, by repeated points; None if too few points are repeated.
        noise_low: its lower bound, one-sided, with confidence 0.9; 0 if unknown.
    """

    r2: float
    low: float
    noise: float | None
    noise_low: float

    @property
    def known(self) -> float:
        """Returns the share that the surrogate predicts, or that is noise, by their lower bounds."""
        return min(1.0, self.low + self.noise_low)

    @property
    def hidden(self) -> float:
        """Returns the largest share that may depend on the hyperparameters without the surrogate's knowledge."""
        return min(1.0, 1 - self.known)


def goodness_of_fit(trials: Trials, held_out: Array) -> Fit:
    """Compares held-out predictions [n], NaN for trials that were not tested, with the values.

    The bound takes the logarithm of the ratio of mean squared error and variance as normal.
    """
    from scipy.stats import norm

    tested = np.isfinite(held_out)
    y = trials.y[tested]
    missed, spread = (y - held_out[tested]) ** 2, (y - y.mean()) ** 2
    ratio = missed.mean() / spread.mean()
    error = np.std(missed / max(missed.mean(), 1e-300) - spread / spread.mean(), ddof=1) / math.sqrt(len(y))
    noise, noise_low = _noise(trials, float(spread.mean()))
    return Fit(float(1 - ratio), float(1 - ratio * math.exp(SHARED * norm.ppf(CONFIDENCE) * error)), noise, noise_low)


def _noise(trials: Trials, variance: float) -> tuple[float | None, float]:
    """Returns the share of the variance between trials of one point, and its lower bound."""
    from scipy.stats import chi2

    _, point, count = np.unique(trials.points, return_inverse=True, return_counts=True)
    freedom = len(trials.y) - len(count)
    if freedom < MIN_REPEATS:
        return None, 0.0
    within = float(((trials.y - (np.bincount(point, trials.y) / count)[point]) ** 2).sum()) / variance
    return min(1.0, within / freedom), min(1.0, within / float(chi2.ppf(CONFIDENCE, freedom)))


def influential(y: Array) -> tuple[Mask, float] | None:
    """Masks the 2 % of values farthest from the mean; returns the mask and their share of the variance.

    Returns None if they carry at most a quarter of it.
    """
    spread = (y - y.mean()) ** 2
    largest = np.argsort(-spread)[: math.ceil(FEW * len(y))]
    share = float(spread[largest].sum() / spread.sum())
    return (np.isin(np.arange(len(y)), largest), share) if share > MUCH else None
