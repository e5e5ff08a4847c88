"""Functions on the unit cube with known sensitivity, some of them built to mislead; and tables of uniform trials."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from optuna.distributions import FloatDistribution
from scipy.stats import qmc

from sweep.study.dataframe import Table


@dataclass(frozen=True)
class UnitFunction:
    """A function of d independent uniform inputs; ``noise`` is a trial's, in standard deviations of the function."""

    name: str
    d: int
    f: Callable[[np.ndarray], np.ndarray]
    noise: float = 0.0

    @cached_property
    def truth(self) -> tuple[np.ndarray, np.ndarray, float]:
        """First-order and total indices [d] and the standard deviation, without noise, by pick-freeze at 2^17 points.

        First order by covariance (Sobol' 1993) and total by Jansen (1999), at other points than the product's.
        """
        unit = qmc.Sobol(2 * self.d, rng=np.random.default_rng(12345)).random(2**17)
        a, b = unit[:, : self.d], unit[:, self.d :]
        fa, fb, first, total = self.f(a), self.f(b), [], []
        mean, variance = fa.mean(), fa.var()
        for i in range(self.d):
            only = b.copy()
            only[:, i] = a[:, i]
            fo = self.f(only)
            first.append(((fa - mean) * (fo - mean)).mean() / variance)
            total.append(((fb - fo) ** 2).mean() / 2 / variance)
        return np.array(first), np.array(total), float(np.sqrt(variance))

    def values(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Values [n] of trials at points [n, d], noise included."""
        spread = self.truth[2] if self.noise and np.ptp(self.f(x)) else 1.0
        return np.asarray(self.f(x) + self.noise * spread * rng.standard_normal(len(x)))


def unit_table(x: np.ndarray, y: np.ndarray, *, independent: bool = True, repeat: object = False) -> Table:
    """Uniform trials at points [n, d] of the unit cube with values [n]; those without a value have diverged."""
    names = [f"x{i}" for i in range(x.shape[1])]
    trials = pd.DataFrame(
        {
            "outcome": np.where(np.isfinite(y), "completed", "diverged"),
            "design": True,
            "independent": independent,
            "repeat": repeat,
            "epochs": 9,
            "value": y,
            **{f"params_{name}": pd.Series(x[:, i], dtype=object) for i, name in enumerate(names)},
        }
    )
    space = {name: FloatDistribution(0.0, 1.0) for name in names}
    return Table("study", "val_loss", 9, trials, space, {}, "sweep run study --design 64")


def drawn(function: UnitFunction, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Independent uniform points and the values there."""
    rng = np.random.default_rng([seed, n, len(function.name)])
    x = rng.random((n, function.d))
    return x, function.values(x, rng)


def _z(x: np.ndarray) -> np.ndarray:
    """Inputs of mean 0 and variance 1."""
    return np.asarray(3**0.5 * (2 * x - 1))


def _g(*a: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda x: np.prod((np.abs(4 * x - 2) + np.array(a)) / (1 + np.array(a)), axis=1)


def _ishigami(x: np.ndarray) -> np.ndarray:
    t = np.pi * (2 * x - 1)
    return np.asarray(np.sin(t[:, 0]) + 7 * np.sin(t[:, 1]) ** 2 + 0.1 * t[:, 2] ** 4 * np.sin(t[:, 0]))


def _pairs(x: np.ndarray) -> np.ndarray:
    z = _z(x)
    return np.asarray(z[:, 0] * z[:, 1] + z[:, 2] * z[:, 3] + 0.7 * z[:, 4] * z[:, 5] + 0.5 * z[:, 6] * z[:, 7])


def _additive(x: np.ndarray) -> np.ndarray:
    z = _z(x)
    return np.asarray(z[:, 0] + 0.7 * z[:, 1] + 0.5 * z[:, 2] ** 2 + 0.3 * z[:, 3])


def _slow_start(x: np.ndarray) -> np.ndarray:
    z = 2 * x - 1
    return np.asarray(
        1.6 * (z[:, 0] - 0.3) ** 2 + 0.5 * z[:, 1] + 0.8 * z[:, 0] * z[:, 1] - 0.35 * z[:, 2] - 0.15 * z[:, 3]
    )


def _cliff(x: np.ndarray) -> np.ndarray:
    z = 2 * x - 1
    broken = 2 / (1 + np.exp(-8 * (z[:, 0] - 0.4 + 0.3 * z[:, 1])))
    return np.asarray(broken + 0.8 * (z[:, 0] - 0.1) ** 2 - 0.3 * z[:, 2] + 0.2 * z[:, 3])


def _friedman(x: np.ndarray) -> np.ndarray:
    return np.asarray(10 * np.sin(np.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4])


def _six(x: np.ndarray) -> np.ndarray:
    a, b, c, d, e, f = (2 * x[:, :6] - 1).T
    return np.asarray(a + 0.7 * b * c + 0.5 * np.cos(np.pi * d) + 0.3 * e**3 + 0.2 * a * f)


def _three_way(x: np.ndarray) -> np.ndarray:
    a, b, c = (2 * x[:, :3] - 1).T
    return np.asarray(3 * a * b * c + a + 0.5 * c)


def _signs(x: np.ndarray, *axes: int) -> np.ndarray:
    return np.asarray(np.prod(np.sign(x[:, list(axes)] - 0.5), axis=1))


SMOOTH = (
    UnitFunction("ishigami", 4, _ishigami),
    UnitFunction("g", 4, _g(0, 1, 4.5, 9)),
    UnitFunction("g, d 10", 10, _g(0, 0, 1, 1, 3, 3, 9, 9, 99, 99)),
    UnitFunction("pairs, d 12", 12, _pairs),
    UnitFunction("additive, d 12", 12, _additive, 0.2),
    UnitFunction("additive, noise 0.5", 6, _additive, 0.5),
    UnitFunction("slow start", 5, _slow_start, 0.15),
    UnitFunction("cliff", 4, _cliff, 0.1),
    UnitFunction("friedman, d 10", 10, _friedman, 0.1),
    UnitFunction("six, d 8", 8, _six, 0.15),
    UnitFunction("noise, d 6", 6, lambda x: np.zeros(len(x)), 1.0),
    UnitFunction("noise, d 12", 12, lambda x: np.zeros(len(x)), 1.0),
)
HIGH_FREQUENCY = UnitFunction("high frequency", 4, lambda x: 0.91 * _z(x[:, 0]) + 0.6 * np.sin(18 * np.pi * x[:, 1]))
TRIPLE = UnitFunction("triple product", 5, lambda x: 0.91 * _z(x[:, 0]) + 0.42 * _signs(x, 1, 2, 3))
ADVERSARIAL = (
    HIGH_FREQUENCY,
    TRIPLE,
    UnitFunction(
        "checkerboard", 4, lambda x: 0.91 * _z(x[:, 0]) + 0.42 * np.sign(np.prod(np.sin(6 * np.pi * x[:, 1:3]), axis=1))
    ),
    UnitFunction("four signs", 6, lambda x: 0.91 * _z(x[:, 0]) + 0.42 * _signs(x, 1, 2, 3, 4)),
    UnitFunction("three-way", 5, _three_way),
    UnitFunction("oblique step", 4, lambda x: 1.0 * (x[:, 0] + x[:, 1] + 0.5 * x[:, 2] > 1.25) + 0.2 * x[:, 3]),
    UnitFunction("spike", 4, lambda x: 0.5 * _z(x[:, 0]) + 0.3 * _z(x[:, 1]) + 6 * np.all(x[:, 2:] > 0.8, axis=1)),
    UnitFunction("fast wave", 5, lambda x: _z(x[:, 0]) + 0.75 * np.sin(14 * np.pi * x[:, 1]) + 0.5 * _z(x[:, 2])),
    UnitFunction(
        "rough pair",
        4,
        lambda x: _z(x[:, 0]) + 0.6 * np.sign(np.sin(8 * np.pi * x[:, 1])) * np.sign(x[:, 2] - 0.5),
    ),
    UnitFunction("steep", 5, lambda x: np.exp(3 * x[:, 0] + 2 * x[:, 1] * x[:, 2] + x[:, 3]) - 60),
)
FUNCTIONS = {function.name: function for function in (*SMOOTH, *ADVERSARIAL)}
