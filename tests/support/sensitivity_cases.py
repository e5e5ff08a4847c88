"""Objectives with known sensitivity, each a learning curve: what a sensitivity estimator must recover.

Standalone (numpy only) and deterministic. ``case.value(params, epoch)`` is the noise-free curve, ``case.curve(params,
seed)`` the whole curve as a trial would report it, noise included. All are to be minimised. The truth is that of the
noise-free value at the last epoch, with every parameter drawn independently and uniformly over its range: in log for
``log``, over the levels for ``int`` (Optuna's convention for log ints: round a log-uniform draw from low - 1/2 to
high + 1/2) and for ``choices``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations

import numpy as np

MAX_EPOCHS = 27

Params = Mapping[str, object]


@dataclass(frozen=True)
class Case:
    """A learning-curve objective over a search space, and its true Sobol indices at the last epoch.

    Attributes:
        space: name -> ``{low, high[, log][, int]}`` or ``{choices}``.
        final: value at the last epoch, from params (scalars or equally long arrays).
        excess: amplitude and decay rate of what is above ``final`` at earlier epochs; it is 0 at the last epoch.
        noise: standard deviation, in units of ``final``'s own, of the trial (its seed) and of each single epoch.
        analytic: closed-form ``(first_order, total, second_order)``; without it a tensor quadrature is used.
    """

    name: str
    space: dict[str, dict]
    final: Callable[[Params], np.ndarray]
    excess: Callable[[Params], tuple[np.ndarray, np.ndarray]]
    noise: tuple[float, float] = (0.15, 0.05)
    analytic: tuple[dict, dict, dict] | None = field(default=None, repr=False)
    max_epochs: int = MAX_EPOCHS

    def value(self, params: Params, epoch: int | np.ndarray) -> np.ndarray:
        """Noise-free value after ``epoch`` epochs, counted from 1; vectorised over params."""
        amplitude, rate = self.excess(params)
        progress = (np.asarray(epoch, float) - 1) / (self.max_epochs - 1)
        return self.final(params) + amplitude * (np.exp(-rate * progress) - np.exp(-rate))

    def curve(self, params: Params, seed: int) -> np.ndarray:
        """The noisy curve [max_epochs] of one trial; the same for the same params and seed."""
        rng = np.random.default_rng(seed)
        trial, epoch = self.noise
        epochs = np.arange(1, self.max_epochs + 1)
        noise = trial * rng.standard_normal() + epoch * rng.standard_normal(self.max_epochs)
        return np.array([float(self.value(params, e)) for e in epochs]) + self.scale * noise

    def sample(self, unit: np.ndarray) -> dict[str, np.ndarray]:
        """Maps points of the unit cube [n, d] to params, one array [n] each."""
        return {name: _quantile(spec, unit[:, i]) for i, (name, spec) in enumerate(self.space.items())}

    @cached_property
    def scale(self) -> float:
        """Standard deviation of ``final`` over the space."""
        return float(self._truth[3])

    @property
    def first_order(self) -> dict[str, float]:
        return self._truth[0]

    @property
    def total(self) -> dict[str, float]:
        return self._truth[1]

    @property
    def second_order(self) -> dict[tuple[str, str], float]:
        """Pure interaction of each pair (closed index minus both first-order ones)."""
        return self._truth[2]

    @property
    def source(self) -> str:
        return (
            "analytic"
            if self.analytic
            else "tensor quadrature: 32 Gauss-Legendre nodes, or every level (exact to 1e-4)"
        )

    @cached_property
    def _truth(self) -> tuple[dict, dict, dict, float]:
        quadrature = _quadrature(self)
        return (*self.analytic, quadrature[3]) if self.analytic else quadrature


def _quantile(spec: dict, u: np.ndarray) -> np.ndarray:
    if "choices" in spec:
        choices = np.asarray(spec["choices"])
        return choices[np.minimum((u * len(choices)).astype(int), len(choices) - 1)]
    low, high = spec["low"], spec["high"]
    if not spec.get("int"):
        return np.exp(np.log(low) + u * np.log(high / low)) if spec.get("log") else low + u * (high - low)
    low, high = low - 0.5, high + 0.5
    value = np.exp(np.log(low) + u * np.log(high / low)) if spec.get("log") else low + u * (high - low)
    return np.clip(np.rint(value), spec["low"], spec["high"]).astype(int)


def _nodes(spec: dict, count: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Values and weights that integrate over one parameter."""
    if "choices" in spec:
        return np.asarray(spec["choices"]), np.full(len(spec["choices"]), 1 / len(spec["choices"]))
    if spec.get("int") and spec["high"] - spec["low"] < 32:
        levels = np.arange(spec["low"], spec["high"] + 1)
        edges = np.append(levels - 0.5, spec["high"] + 0.5)
        mass = np.diff(np.log(edges)) if spec.get("log") else np.diff(edges)
        return levels, mass / mass.sum()
    x, w = np.polynomial.legendre.leggauss(count)
    return _quantile({**spec, "int": False}, (x + 1) / 2), w / 2


def _quadrature(case: Case) -> tuple[dict, dict, dict, float]:
    names = list(case.space)
    nodes = [_nodes(spec, 32 if len(names) < 6 else 10) for spec in case.space.values()]
    d = len(names)
    # Inputs the function ignores add nothing; skipping them keeps the grid small.
    mesh = np.meshgrid(*[v for v, _ in nodes], indexing="ij", sparse=True)
    f = np.asarray(case.final(dict(zip(names, mesh, strict=True))), float)
    f = np.broadcast_to(f, np.broadcast_shapes(f.shape, *[(1,) * d]))
    weights = [w if f.shape[i] > 1 else np.ones(1) for i, (_, w) in enumerate(nodes)]

    def mean_over(array: np.ndarray, axes: list[int]) -> np.ndarray:
        for axis in axes:
            shape = [1] * d
            shape[axis] = -1
            array = (array * weights[axis].reshape(shape)).sum(axis=axis, keepdims=True)
        return array

    def variance_of(keep: tuple[int, ...]) -> float:
        g = mean_over(f, [i for i in range(d) if i not in keep])
        return float(mean_over((g - mean) ** 2, list(range(d))).item())

    mean = mean_over(f, list(range(d)))
    everything = tuple(range(d))
    variance = variance_of(everything)
    first = {names[i]: variance_of((i,)) / variance for i in range(d)}
    total = {names[i]: 1 - variance_of(tuple(j for j in everything if j != i)) / variance for i in range(d)}
    second = {
        (names[i], names[j]): variance_of((i, j)) / variance - first[names[i]] - first[names[j]]
        for i, j in combinations(range(d), 2)
    }
    return first, total, second, variance**0.5


def _z(params: Params, name: str, spec: dict) -> np.ndarray:
    """A numeric parameter on [-1, 1], in log where the space says so."""
    x, low, high = np.asarray(params[name], float), spec["low"], spec["high"]
    if spec.get("log"):
        x, low, high = np.log(x), np.log(low), np.log(high)
    return 2 * (x - low) / (high - low) - 1


# --- Ishigami: strong nonlinearity, an input that acts through an interaction alone -----------------------------------

_PI = float(np.pi)
_ISHIGAMI_SPACE = {name: {"low": -_PI, "high": _PI} for name in ("x1", "x2", "x3")}


def _ishigami(p: Params) -> np.ndarray:
    return np.sin(p["x1"]) + 7 * np.sin(p["x2"]) ** 2 + 0.1 * np.asarray(p["x3"]) ** 4 * np.sin(p["x1"])


def _ishigami_truth() -> tuple[dict, dict, dict]:
    a, b = 7.0, 0.1
    v1, v2, v13 = 0.5 * (1 + b * _PI**4 / 5) ** 2, a**2 / 8, b**2 * _PI**8 * (1 / 18 - 1 / 50)
    v = v1 + v2 + v13
    return (
        {"x1": v1 / v, "x2": v2 / v, "x3": 0.0},
        {"x1": (v1 + v13) / v, "x2": v2 / v, "x3": v13 / v},
        {("x1", "x2"): 0.0, ("x1", "x3"): v13 / v, ("x2", "x3"): 0.0},
    )


# --- Slow start: wide nets are far behind for most of training and a little ahead at its end --------------------------

_SWEEP = {
    "lambda1": {"low": 1e-8, "high": 1e-2, "log": True},
    "lambda2": {"low": 1e-8, "high": 1e-2, "log": True},
    "epsilon": {"low": 1e-6, "high": 1.0, "log": True},
    "depth": {"low": 2, "high": 6, "int": True},
    "width": {"low": 16, "high": 512, "int": True, "log": True},
}


def _sweep_z(p: Params) -> list[np.ndarray]:
    return [_z(p, name, spec) for name, spec in _SWEEP.items()]


def _slow_start(p: Params) -> np.ndarray:
    z1, z2, ze, zd, zw = _sweep_z(p)
    return 1.6 * (z1 - 0.3) ** 2 + 0.5 * z2 + 0.8 * z1 * z2 - 0.35 * zd + 0.15 * ze - 0.15 * zw


def _slow_start_excess(p: Params) -> tuple[np.ndarray, np.ndarray]:
    z1, _, _, _, zw = _sweep_z(p)
    return 2.0 + 1.8 * zw - 0.4 * z1, 4.5 - 1.5 * zw


# --- Mixed: integers, ordered and unordered choices, an interaction between them --------------------------------------

_MIXED_SPACE = {
    "lr": {"low": 1e-4, "high": 1e-1, "log": True},
    "lambda1": {"low": 1e-8, "high": 1e-2, "log": True},
    "depth": {"low": 1, "high": 6, "int": True},
    "width": {"choices": [64, 128, 256]},
    "activation": {"choices": ["relu", "tanh", "gelu", "selu"]},
}
_ACTIVATION = {"relu": (0.0, -0.5), "tanh": (0.7, 0.8), "gelu": (-0.5, -0.3), "selu": (0.3, 0.0)}


def _activation(p: Params) -> tuple[np.ndarray, np.ndarray]:
    name = np.asarray(p["activation"])
    level = sum((name == k) * v[0] for k, v in _ACTIVATION.items())
    slope = sum((name == k) * v[1] for k, v in _ACTIVATION.items())
    return level, slope


def _mixed(p: Params) -> np.ndarray:
    zlr, z1, zd = (_z(p, n, _MIXED_SPACE[n]) for n in ("lr", "lambda1", "depth"))
    zw = np.log2(np.asarray(p["width"], float) / 128)
    level, slope = _activation(p)
    return 1.5 * (zlr + 0.2) ** 2 + level + slope * zd - 0.2 * zw + 0.25 * z1 * zd + 0.15 * z1


def _mixed_excess(p: Params) -> tuple[np.ndarray, np.ndarray]:
    zlr = _z(p, "lr", _MIXED_SPACE["lr"])
    zw = np.log2(np.asarray(p["width"], float) / 128)
    level, _ = _activation(p)
    return 2.0 + 0.9 * zw + 0.8 * level, 4.0 + 1.5 * zlr


CASES: dict[str, Case] = {
    case.name: case
    for case in (
        Case(
            "ishigami", _ISHIGAMI_SPACE, _ishigami,
            lambda p: (8.0 + 4.0 * np.cos(p["x3"]), 4.0 + np.cos(p["x2"])), analytic=_ishigami_truth(),
        ),
        Case("slow_start", _SWEEP, _slow_start, _slow_start_excess),
        Case("mixed", _MIXED_SPACE, _mixed, _mixed_excess),
    )
}  # fmt: skip
