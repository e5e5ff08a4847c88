"""Pools gains of several studies or searches, and estimates the share of a gain that a placebo has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t

TAIL = 0.025


@dataclass(frozen=True)
class Pooled:
    """A mean over studies whose true effects differ.

    Attributes:
        value: the mean.
        low, high: ends of its 95 % interval.
        tau: standard deviation of the true effects.
        n: number of studies.
    """

    value: float
    low: float
    high: float
    tau: float
    n: int


def random_effects(effects: Sequence[float], variances: Sequence[float]) -> Pooled:
    """Pools effects by a random-effects model: tau by DerSimonian and Laird, the interval by Hartung and Knapp.

    Where all variances are equal this is the mixed model of a balanced design: the interval is Student's.

    Args:
        effects: effect of each study, two or more.
        variances: squared standard error of each effect.

    Source: DerSimonian, Laird, Control. Clin. Trials 7 (1986); Hartung, Knapp, Statist. Med. 20 (2001).

    Example:
        Thirteen trials of a vaccine against tuberculosis, see ``test_pooling.py``: -0.714 [-1.109, -0.320], tau 0.556.
    """
    y, v, n = np.asarray(effects, float), np.asarray(variances, float), len(effects)
    w = 1 / v
    excess = float(w @ (y - w @ y / w.sum()) ** 2) - (n - 1)
    tau2 = max(0.0, excess / float(w.sum() - w @ w / w.sum()))
    w = 1 / (v + tau2)
    mean = float(w @ y / w.sum())
    error = math.sqrt(float(w @ (y - mean) ** 2) / (n - 1) / float(w.sum()))
    reach = float(t.ppf(1 - TAIL, n - 1)) * error
    return Pooled(mean, mean - reach, mean + reach, math.sqrt(tau2), n)


def fieller(numerators: Sequence[float], denominators: Sequence[float]) -> tuple[float, float, float]:
    """Returns the ratio of two paired means and its 95 % interval.

    Raises:
        ValueError: The mean of the denominators does not differ from 0, so that the interval has no ends.

    Source: Fieller, Some problems in interval estimation, J. R. Statist. Soc. B 16 (1954).
    """
    n = len(numerators)
    a, b = float(np.mean(numerators)), float(np.mean(denominators))
    (aa, ab), (_, bb) = np.cov(numerators, denominators) / n * float(t.ppf(1 - TAIL, n - 1)) ** 2
    lead = b * b - bb
    if lead <= 0:
        raise ValueError(f"the denominators' mean, {b:.3g}, does not differ from 0: the ratio has no finite interval")
    middle, root = a * b - ab, math.sqrt((a * b - ab) ** 2 - lead * (a * a - aa))
    return a / b, (middle - root) / lead, (middle + root) / lead
