"""Further objectives with known sensitivity, of other shapes: what nothing in the estimator was chosen by."""

from __future__ import annotations

import numpy as np

from .sensitivity_cases import Case, Params, _z

UNIT = {"low": 0.0, "high": 1.0}
DECADES = {"low": 1e-4, "high": 1.0, "log": True}

_PRODUCT = {"a": UNIT, "b": DECADES}


def _product(p: Params) -> np.ndarray:
    a, b = (_z(p, name, spec) for name, spec in _PRODUCT.items())
    return a * b + 0.5 * a


_G = {f"x{i}": UNIT for i in range(4)}


def _g_function(p: Params) -> np.ndarray:
    """Sobol's g function: a kink in every input."""
    factors = [(np.abs(4 * np.asarray(p[f"x{i}"]) - 2) + a) / (1 + a) for i, a in enumerate((0, 1, 4.5, 9))]
    return factors[0] * factors[1] * factors[2] * factors[3]


_CLIFF = {
    "lr": {"low": 1e-5, "high": 1.0, "log": True},
    "decay": {"low": 1e-6, "high": 1e-1, "log": True},
    "depth": {"low": 1, "high": 12, "int": True},
    "width": {"choices": [16, 32, 64, 128, 256]},
}


def _cliff(p: Params) -> np.ndarray:
    """Training that breaks down beyond a learning rate that falls with the depth."""
    lr, decay, depth = (_z(p, name, _CLIFF[name]) for name in ("lr", "decay", "depth"))
    width = np.log2(np.asarray(p["width"], float) / 64) / 2
    return 2 / (1 + np.exp(-8 * (lr - 0.4 + 0.3 * depth))) + 0.8 * (lr - 0.1) ** 2 - 0.3 * width + 0.2 * decay


_OPTIMIZER = {
    "lambda1": {"low": 1e-6, "high": 1.0, "log": True},
    "epsilon": {"low": 1e-3, "high": 10.0, "log": True},
    "optimizer": {"choices": ["sgd", "adam", "rms"]},
}


def _optimizer(p: Params) -> np.ndarray:
    name = np.asarray(p["optimizer"])
    level = 1.0 * (name == "sgd") + 0.3 * (name == "rms")
    slope = 1.0 * (name == "sgd") - 1.0 * (name == "adam")
    waves = 0.4 * np.sin(3 * _z(p, "epsilon", _OPTIMIZER["epsilon"]))
    return level + slope * _z(p, "lambda1", _OPTIMIZER["lambda1"]) + waves


_SIX = {f"p{i}": DECADES if i % 2 else UNIT for i in range(6)}


def _six(p: Params) -> np.ndarray:
    a, b, c, d, e, f = (_z(p, name, spec) for name, spec in _SIX.items())
    return a + 0.7 * b * c + 0.5 * np.cos(np.pi * d) + 0.3 * e**3 + 0.2 * a * f


_SEVEN = {
    "lr": {"low": 1e-4, "high": 1e-1, "log": True},
    "lambda1": {"low": 1e-5, "high": 1e-1, "log": True},
    "lambda2": {"low": 1e-5, "high": 1e-1, "log": True},
    "epsilon": {"low": 1e-3, "high": 10.0, "log": True},
    "depth": {"low": 2, "high": 8, "int": True},
    "width": {"choices": [64, 128, 256, 512]},
    "init": {"choices": ["default", "he"]},
}


def _seven(p: Params) -> np.ndarray:
    lr, l1, l2, epsilon, depth = (_z(p, n, _SEVEN[n]) for n in ("lr", "lambda1", "lambda2", "epsilon", "depth"))
    width, he = np.log2(np.asarray(p["width"], float) / 128), 1.0 * (np.asarray(p["init"]) == "he")
    guided = -0.15 * np.exp(-4 * (l1 - 0.3) ** 2) * (1 - epsilon)
    return 1.2 * (lr + 0.1) ** 2 + 0.6 * depth * (1 - he) - 0.4 * he - 0.2 * width + guided + 0.05 * l2


_VALLEY = {"u": {"low": -2.0, "high": 2.0}, "v": {"low": -1.0, "high": 3.0}, "w": UNIT}


def _valley(p: Params) -> np.ndarray:
    """Rosenbrock's, in log: a curved ridge of two inputs."""
    u, v = np.asarray(p["u"], float), np.asarray(p["v"], float)
    return np.log1p(1 + (1 - u) ** 2 + 5 * (v - u**2) ** 2) + 0.3 * np.asarray(p["w"])


_NORM = {
    "norm": {"choices": [False, True]},
    "lr": DECADES,
    "batch": {"choices": [16, 32, 64, 128, 256]},
    "dropout": {"low": 0.0, "high": 0.5},
}


def _norm(p: Params) -> np.ndarray:
    norm, batch = 1.0 * np.asarray(p["norm"]).astype(bool), np.log2(np.asarray(p["batch"], float) / 64) / 2
    lr, dropout = (_z(p, name, _NORM[name]) for name in ("lr", "dropout"))
    return np.tanh(2 * (lr - 0.5 * batch)) * (1 - 0.6 * norm) - 0.4 * norm + 0.3 * dropout**2


_CUBE = {name: {"low": -1.0, "high": 1.0} for name in ("a", "b", "c")}


def _exclusive(p: Params) -> np.ndarray:
    """Nothing but an interaction of two, and a third input."""
    return 2 * np.asarray(p["a"]) * np.asarray(p["b"]) + np.asarray(p["c"])


def _three_way(p: Params) -> np.ndarray:
    """An interaction of three, which pairs cannot express."""
    a, b, c = (np.asarray(p[name]) for name in _CUBE)
    return 3 * a * b * c + a + 0.5 * c


def _slow(first: str, spec: dict) -> object:
    """The excess of a learning curve that depends on one input."""
    return lambda p: (2.0 + 0.8 * _z(p, first, spec), 4.0)


HELD_OUT: dict[str, Case] = {
    case.name: case
    for case in (
        Case("product", _PRODUCT, _product, _slow("b", DECADES)),
        Case("g_function", _G, _g_function, _slow("x1", UNIT)),
        Case("cliff", _CLIFF, _cliff, _slow("lr", _CLIFF["lr"])),
        Case("optimizer", _OPTIMIZER, _optimizer, _slow("lambda1", _OPTIMIZER["lambda1"])),
        Case("six", _SIX, _six, _slow("p0", UNIT)),
        Case("seven", _SEVEN, _seven, _slow("lr", _SEVEN["lr"])),
        Case("valley", _VALLEY, _valley, _slow("w", UNIT)),
        Case("norm", _NORM, _norm, _slow("lr", DECADES)),
        Case("exclusive", _CUBE, _exclusive, _slow("c", _CUBE["c"])),
        Case("three_way", _CUBE, _three_way, _slow("c", _CUBE["c"])),
    )
}
