"""The options of entropy guidance, each written once: its name, type, default, description and allowed values.

The keywords of `EntropyGuidance` and the section `guidance` of a study file derive from `GuidanceOptions`. Imports no
torch, so that settings are read in an instant.
"""

# ruff: noqa: RUF009 (the default of an option is a dataclass field)

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Concatenate, Literal, NamedTuple, ParamSpec, TypeVar, cast, get_args

INERT = 1e-5  # guidance's gradient norm over the task's; below this value guidance changes nothing
DOMINANT = 1.0  # above this ratio guidance outweighs the task

Layers = Literal["all"] | Mapping[Literal["first", "last"], int] | Sequence[str]
FormName = Literal["log", "reciprocal", "target"]


class Rule(NamedTuple):
    """The values that an option may have: in words, as a test, and as JSON Schema's bounds of a number (ge, gt, le)."""

    allowed: str
    holds: Callable[[Any], bool]
    bounds: Mapping[str, float] = {}


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _are_layers(value: object) -> bool:
    if isinstance(value, Mapping):
        return len(value) == 1 and set(value) <= {"first", "last"} and all(map(_is_count, value.values()))
    names = value if isinstance(value, Sequence) and not isinstance(value, str) else ()
    return value == "all" or (len(names) > 0 and all(isinstance(name, str) and name for name in names))


AT_LEAST_0 = Rule("a finite number >= 0", lambda value: 0 <= value < math.inf, {"ge": 0})
POSITIVE = Rule("a finite number > 0", lambda value: 0 < value < math.inf, {"gt": 0})
FINITE = Rule("a finite number", math.isfinite)
SWITCH = Rule("True or False", lambda value: isinstance(value, bool))
COUNT = Rule("an integer >= 1", _is_count)
STEPS = Rule("'auto' or an integer >= 1", lambda value: value == "auto" or _is_count(value))
CAP = Rule("None or a number > 0", lambda value: value is None or value > 0, {"gt": 0})
FRACTION = Rule("None or a fraction of the run, 0 < until <= 1", lambda x: x is None or 0 < x <= 1, {"gt": 0, "le": 1})
LAYERS = Rule("all, {first: n}, {last: n} with n >= 1, or a list of names of layers", _are_layers)


def _option(default: Any, doc: str, rule: Rule | None = None) -> Any:
    """Returns the field of an option; without a rule, its type lists its values."""
    return dataclasses.field(default=default, metadata={"rule": rule, "doc": doc})


@dataclass(frozen=True, kw_only=True)
class GuidanceOptions:
    """The options of entropy guidance that a study file may set; the defaults are the best that was measured.

    Raises:
        ValueError: Options out of range. The message lists all of them, each with its value and what is allowed.
    """

    lambda1: float = _option(1e-3, "Weight of the dense term.", AT_LEAST_0)
    lambda2: float = _option(0.0, "Weight of the convolutional term.", AT_LEAST_0)
    epsilon: float = _option(
        1e-3,
        "Keeps the reciprocal form finite: 1 / (exp(h) + epsilon). Below 1e-2 it hardly matters for the default.",
        POSITIVE,
    )
    measure: Literal["volume", "minor"] = _option(
        "volume",
        "Entropy change h of a matrix: the sum of its log singular values (volume), or log|det| of its leading square "
        "block (minor, the paper's).",
    )
    form: FormName = _option(
        "reciprocal", "Dense loss term: -h (log), 1 / (exp(h) + epsilon) (reciprocal), or (h - target)^2."
    )
    conv_measure: Literal["taps", "channels"] = _option(
        "taps",
        "Entropy change of a convolution: log|c11| of each filter (taps, the paper's), or log|det K11| of each group "
        "(channels), its matrix K11 being measured like that of a dense layer.",
    )
    conv_form: FormName = _option(
        "log",
        "Convolutional loss term, as form; the mean over a layer's filters or groups. In gradients |c11| below 0.01 "
        "counts as 0.01, except with target, which could otherwise set no h below -4.6.",
    )
    target: float = _option(
        0.0, "Entropy change that the target form keeps, nats per dimension; 0 keeps volumes as they are.", FINITE
    )
    scale: Literal["per_dimension", "determinant"] = _option(
        "per_dimension",
        "Divides h by the dimensions of its matrix (per_dimension, the log of the geometric-mean gain) or leaves it as "
        "it is (determinant, the paper's). Neither multiplies by the number of anchors of a convolution.",
    )
    reduction: Literal["mean", "sum"] = _option("mean", "Over the layers of each term.")
    layers: Layers = _option(
        "all",
        "Guided layers: all (but those in front of a norm, unless the form is target), {first: n}, {last: n}, or names "
        "of layers or of modules that contain them.",
        LAYERS,
    )
    ridge: float = _option(
        0.1,
        "Ridge tau of the measures of matrices, relative to the root mean square row. With 0, cached gradients of "
        "square matrices are noise.",
        AT_LEAST_0,
    )
    every: int | Literal["auto"] = _option(
        "auto",
        "Steps between refreshes of a layer's cached guidance gradient; auto derives them from the layer's shape and "
        "the batch size alone, so that runs repeat.",
        STEPS,
    )
    max_ratio: float | None = _option(
        1.0,
        "Cap on the norm of the guidance gradient at every step, relative to the task's, both over the guided weights; "
        "null: no cap.",
        CAP,
    )
    until: float | None = _option(None, "Stop guiding after this fraction of the run; null: never.", FRACTION)
    placebo: bool = _option(
        False,
        "Guide a meaningless counterpart of the same size instead, for comparison: what adding such gradients does by "
        "itself. The metrics still show the network's own entropies.",
        SWITCH,
    )

    def __post_init__(self) -> None:
        wrong = {name: value for name, value in vars(self).items() if not RULES[name].holds(value)}
        if wrong:
            raise ValueError("; ".join(f"{name} = {x!r}; allowed: {RULES[name].allowed}" for name, x in wrong.items()))


@dataclass(frozen=True, kw_only=True)
class LoopOptions(GuidanceOptions):
    """The options of `EntropyGuidance` in a training loop: those of a study file, and the loop's batch size."""

    batch_size: int = _option(128, "Batch size of the training loop; used by every: auto only.", COUNT)


RULES: dict[str, Rule] = {
    option.name: option.metadata["rule"] or Rule(", ".join(get_args(option.type)), get_args(option.type).__contains__)
    for option in dataclasses.fields(LoopOptions)
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

P = ParamSpec("P")
Self = TypeVar("Self")
Model = TypeVar("Model")
Init = Callable[[Self, Model, Any], None]


def takes_options(
    options: Callable[P, Any],
) -> Callable[[Init[Self, Model]], Callable[Concatenate[Self, Model, P], None]]:
    """Lets an `__init__(self, model, options)` take the fields of the class `options` as keyword arguments.

    Type checkers, editors and `help` show the keywords with their types and defaults.
    """

    def decorate(function: Init[Self, Model]) -> Callable[Concatenate[Self, Model, P], None]:
        @functools.wraps(function)
        def init(self: Self, model: Model, *args: P.args, **keywords: P.kwargs) -> None:
            function(self, model, options(*args, **keywords))

        first = list(inspect.signature(function).parameters.values())[:2]
        keywords = inspect.signature(options).parameters.values()
        init.__signature__ = inspect.Signature([*first, *keywords], return_annotation=None)  # type: ignore[attr-defined]
        lines = [f"    {x.name}: {x.metadata['doc']}" for x in dataclasses.fields(options)]  # type: ignore[arg-type]
        init.__doc__ = "\n".join([f"{function.__doc__}", "", "Args:", *lines])
        return cast("Callable[Concatenate[Self, Model, P], None]", init)

    return decorate
