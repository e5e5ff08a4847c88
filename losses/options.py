"""Options of `EntropyGuidance`: what is allowed, and the paper's preset. Without torch, to be read in an instant."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

FORMS = ("log", "reciprocal", "target")
CHOICES: dict[str, tuple[str, ...]] = {
    "measure": ("volume", "minor"),
    "conv_measure": ("taps", "channels"),
    "form": FORMS,
    "conv_form": FORMS,
    "scale": ("per_dimension", "determinant"),
    "reduction": ("mean", "sum"),
}

# The formulas of arXiv 2308.14938 as they stand, computed at every step, without a ridge or a cap.
PAPER: dict[str, Any] = {
    "measure": "minor",
    "form": "reciprocal",
    "conv_measure": "taps",
    "conv_form": "reciprocal",
    "scale": "determinant",
    "reduction": "sum",
    "ridge": 0.0,
    "every": 1,
    "max_ratio": None,
}

INERT, DOMINANT = 1e-5, 1.0  # guidance's gradient norm over the task's: below it changes nothing, above too much

Layers = str | Mapping[str, int] | Sequence[str]  # which layers are guided: see `layers_problem`


def check(**options: Any) -> None:
    """Checks values of the options of `EntropyGuidance`, by name.

    Raises:
        ValueError: Options out of range, all of them, each with its value and what is allowed.
    """
    problems = [
        f"{name} = {value!r}; allowed: {allowed}"
        for name, value in options.items()
        if (allowed := _allowed(name, value)) is not None
    ]
    if problems:
        raise ValueError("; ".join(problems))


def layers_problem(layers: object) -> str | None:
    """What `layers` may be, where the value is none of it: `all`, {first: n}, {last: n} or names of layers."""
    if isinstance(layers, Mapping):
        valid = len(layers) == 1 and set(layers) <= {"first", "last"} and all(map(_is_count, layers.values()))
    else:
        names = layers if isinstance(layers, Sequence) and not isinstance(layers, str) else ()
        valid = layers == "all" or (len(names) > 0 and all(isinstance(name, str) and name for name in names))
    return None if valid else "all, {first: n}, {last: n} with n >= 1, or a list of names of layers"


def _allowed(name: str, value: Any) -> str | None:
    """What is allowed, where the value is not; None where it is."""
    if name in CHOICES:
        return None if value in CHOICES[name] else ", ".join(CHOICES[name])
    if name == "layers":
        return layers_problem(value)
    rules: dict[str, tuple[Callable[[], bool], str]] = {
        "lambda1": (lambda: 0 <= value < math.inf, "a finite number >= 0"),
        "lambda2": (lambda: 0 <= value < math.inf, "a finite number >= 0"),
        "epsilon": (lambda: 0 < value < math.inf, "a finite number > 0"),
        "target": (lambda: math.isfinite(value), "a finite number"),
        "ridge": (lambda: 0 <= value < math.inf, "a finite number >= 0"),
        "every": (lambda: value == "auto" or _is_count(value), "'auto' or an integer >= 1"),
        "max_ratio": (lambda: value is None or value > 0, "None or a number > 0"),
        "until": (lambda: value is None or 0 < value <= 1, "None or a fraction of the run, 0 < until <= 1"),
        "placebo": (lambda: isinstance(value, bool), "True or False"),
        "batch_size": (lambda: _is_count(value), "an integer >= 1"),
    }
    valid, allowed = rules[name]
    return None if valid() else allowed


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
