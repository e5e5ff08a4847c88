"""Parses the dimensions of a search space: ranges, choices and constants, converted to the type of their field."""

import keyword
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Self

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from .errors import nearest, sentences
from .section import STORED, Section
from .sections import DEEPEST, WIDEST, GuidanceConfig, TrainingConfig

MOST = {"depth": DEEPEST, "width": WIDEST}
MOST_STEPS = 1_000_000  # values of a range with a step
STEP_TOLERANCE = 1e-8  # of a step, within which a value lies on it, as in Optuna
WHEN = "Only points with it have the hyperparameter: {guidance.form: reciprocal}, {depth: [4, 6]}, or 'depth >= 4'."
DEFAULT = "Tried first; and `sweep confirm` compares a study without guidance with it."
Scalar = bool | int | float | str | None
When = str | dict[str, Scalar | tuple[Scalar, ...]] | None  # see `sweep.config.conditional`

# The fields that the five hyperparameters with a short name set.
ALIASES = {name: f"guidance.{name}" for name in ("lambda1", "lambda2", "epsilon")}
ALIASES |= {name: f"model.{name}" for name in ("depth", "width")}

# Names that a hyperparameter of a function of the user's own cannot have: keys of the study file, and what a trial has.
RESERVED = ["name", "function", "command", "model", "data", "task", "objective", "space", "guidance", "training"]
RESERVED += ["search", "resources", "trial", "seed", "epoch", "max_epochs", "seconds"]


class Range(Section):
    """A numeric range of the search space, both ends included."""

    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = None
    default: int | float | None = Field(None, description=DEFAULT)
    when: When = Field(None, description=WHEN, repr=False)

    @model_validator(mode="after")
    def _consistent(self, info: ValidationInfo) -> Self:
        wrong = {
            f"low ({self.low}) must be below high ({self.high})": not self.low < self.high,
            f"a log scale needs low > 0, not {self.low}": self.log and self.low <= 0,
            "log and step exclude each other": self.log and self.step is not None,
            f"step must be above 0, not {self.step}": self.step is not None and self.step <= 0,
            f"high - low ({self.high} - {self.low}) is too large": self.high - self.low == math.inf,
            f"step ({self.step}) must be at least a {MOST_STEPS:,}th of high - low": self.step is not None
            and 0 < self.step < (self.high - self.low) / MOST_STEPS
            and info.context != STORED,
            f"default ({self.default}) must be between low and high, on a step": not self._has_default(),
        }
        if any(wrong.values()):
            raise ValueError("\n".join(problem for problem, found in wrong.items() if found))
        return self

    def _has_default(self) -> bool:
        if self.default is None:
            return True
        steps = (self.default - self.low) / self.step if self.step else 0.0
        return self.low <= self.default <= self.high and abs(steps - round(steps)) < STEP_TOLERANCE

    @property
    def is_int(self) -> bool:
        """True if the hyperparameter takes whole numbers only."""
        return isinstance(self.low, int)

    @property
    def levels(self) -> Sequence[Scalar] | None:
        """The values, if they can be counted: whole numbers, or those of a step, as Optuna rounds them."""
        if self.step is None and not self.is_int:
            return None
        if self.is_int:
            return range(int(self.low), int(self.high) + 1, int(self.step or 1))
        low, high, step = (Decimal(str(float(value))) for value in (self.low, self.high, self.step or 1))
        return [float(low + i * step) for i in range(int((high - low) / step) + 1)]


class Choices(Section):
    """A list of values of the search space."""

    choices: tuple[Scalar, ...] = Field(min_length=1)
    default: Scalar = Field(None, description=DEFAULT)
    ordered: bool = Field(True, description="False: choices that are numbers are as unlike as words are.")
    when: When = Field(None, description=WHEN, repr=False)

    @property
    def levels(self) -> Sequence[Scalar]:
        """The choices."""
        return self.choices

    @property
    def is_ordered(self) -> bool:
        """True if samplers and surrogates take the choices by the order of their values: they are numbers."""
        return self.ordered and are_numbers(self.choices)

    @field_validator("choices")
    @classmethod
    def _distinct(cls, choices: tuple[Scalar, ...]) -> tuple[Scalar, ...]:
        if len({(type(c), c) for c in choices}) < len(choices):
            raise ValueError("the choices must differ from each other")
        return choices

    @field_validator("default")
    @classmethod
    def _among_choices(cls, default: Scalar, info: ValidationInfo) -> Scalar:
        present = [(type(c), c) for c in info.data.get("choices", ())]
        if default is not None and present and (type(default), default) not in present:
            raise ValueError(f"{default!r} must be one of the choices")
        return default


Dimension = Range | Choices | Scalar


def smallest_number(space: Mapping[str, Dimension], name: str, otherwise: float) -> float:
    """Returns the smallest number that a space has for a name, or ``otherwise`` where it does not name it."""
    value = space.get(name, otherwise)
    values = [value.low] if isinstance(value, Range) else value.choices if isinstance(value, Choices) else [value]
    return min((n for n in values if isinstance(n, int | float)), default=math.inf)


def are_numbers(choices: Iterable[object]) -> bool:
    """Returns True if all choices are numbers; true and false are none."""
    return all(isinstance(choice, int | float) and not isinstance(choice, bool) for choice in choices)


def _field(name: str) -> tuple[type[Section] | None, str]:
    """Returns the config section and the field that a hyperparameter sets; the section is None for a model's option."""
    section, _, field = ALIASES.get(name, name).partition(".")
    sections: dict[str, type[Section]] = {"guidance": GuidanceConfig, "training": TrainingConfig}
    return sections.get(section), field


def _kind(name: str) -> type | None:
    """Returns the type of a hyperparameter's numbers: int, float, or None if only its values show it."""
    if name in ("depth", "width"):
        return int
    section, field = _field(name)
    annotation = str(section.model_fields[field].annotation) if section else ""
    return float if "float" in annotation else int if "int" in annotation else None


def is_of_guidance(name: str) -> bool:
    """Returns True for a hyperparameter of the guidance."""
    return ALIASES.get(name, name).startswith("guidance.")


def parse_dimension(name: str, value: object, context: object = None, *, own: bool = False) -> Dimension:
    """Checks a dimension and converts its numbers to the type of the field; raises ValueError with all problems.

    The ``context`` is that of the validation: with `STORED`, bounds of fields do not hold.
    A hyperparameter of the user's ``own`` function has any name, and the type of its values.

    Example:
        >>> parse_dimension("training.lr", {"low": 1e-4, "high": 1, "log": True})
        Range(low=0.0001, high=1.0, log=True, step=None, default=None)
    """
    known = [*ALIASES, *(f"training.{f}" for f in TrainingConfig.model_fields if f not in ("seed", "max_epochs"))]
    known += [f"guidance.{f}" for f in GuidanceConfig.model_fields if f not in (*ALIASES, "layers")]
    own = own and not is_of_guidance(name)
    if own:
        _check_own_name(name)
    elif name not in known and not re.fullmatch(r"model\.(?!name$|depth$|width$)\w+", name):
        raise ValueError(
            f"unknown hyperparameter{_meant(name, known)}; any scalar of model, guidance or training may be searched "
            "by its path (model.latent, training.lr, ...)"
        )
    if isinstance(value, list):
        raise ValueError(  # noqa: TRY004  (pydantic collects no others)
            f"must be one value (a number, a word) or a mapping; to search these values, write {{choices: {value}}}"
        )
    kind = None if own else _kind(name)
    if not isinstance(value, Mapping):
        constant = _number(value, kind)
        if not own:
            _check(name, constant, context)
        return constant  # type: ignore[return-value]
    if not {"low", "high", "choices"} & set(value):
        raise ValueError("must have low and high, or choices, or be a constant")
    typed: dict[str, Any] = {k: _number(v, kind) if k in ("low", "high", "step") else v for k, v in value.items()}
    if {type(typed.get(k)) for k in ("low", "high", "step")} >= {int, float}:
        typed = {k: float(v) if isinstance(v, int) and not isinstance(v, bool) else v for k, v in typed.items()}
    if isinstance(typed.get("choices"), list | tuple):
        typed["choices"] = tuple(_number(c, kind) for c in typed["choices"])
    elif typed.get("default") is not None and type(typed.get("low")) in (int, float):
        typed["default"] = _number(typed["default"], type(typed["low"]))
    checked: Choices | Range
    if "choices" in typed:
        checked = Choices.model_validate(typed, context=context)
    else:
        checked = Range.model_validate(typed, context=context)
    for end in () if own else checked.choices if isinstance(checked, Choices) else (checked.low, checked.high):
        _check(name, end, context)
    return checked


def parse_space(space: Mapping[str, object], context: object, *, own: bool) -> tuple[dict[str, Dimension], list[str]]:
    """Returns the dimensions of a space, see `parse_dimension`, and a sentence for each problem."""
    dimensions, problems = dict[str, Dimension](), list[str]()
    for name, value in space.items():
        try:
            dimensions[name] = parse_dimension(str(name), value, context, own=own)
        except ValidationError as error:
            kind = Choices if isinstance(value, Mapping) and "choices" in value else Range
            problems += sentences(error, kind, str(name))
        except ValueError as error:
            problems.append(f"{name}: {error}")
    return dimensions, problems


def parse_value(name: str, value: object, dimension: Range | Choices, *, own: bool = False) -> Scalar:
    """Converts a value of a searched hyperparameter as a study file's; raises ValueError if its type does not fit.

    ``own``: see `parse_dimension`.

    Example:
        >>> parse_value("width", 8.0, Choices(choices=(8, 16)))
        8
    """
    own = own and not is_of_guidance(name)
    kind = (None if own else _kind(name)) or (type(dimension.low) if isinstance(dimension, Range) else None)
    typed = _number(value, kind)
    if not own:
        _check(name, typed)
    if isinstance(dimension, Range):
        fits = type(typed) is kind
    else:
        fits = (type(typed), typed) in [(type(choice), choice) for choice in dimension.choices]
    if not fits:
        raise ValueError(f"{value!r} is not in {dimension}")
    return typed  # type: ignore[return-value]


def _check_own_name(name: str) -> None:
    if name in RESERVED:
        raise ValueError(f"a name of this program's own ({', '.join(RESERVED)}); choose another")
    if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) or keyword.iskeyword(name):
        raise ValueError(
            "a function's hyperparameters have names of letters, digits and '_', no digit first, as lr; of this "
            "program's own there are lambda1, lambda2, epsilon and guidance.* alone"
        )


def _meant(name: str, known: list[str]) -> str:
    """Returns `` (did you mean X?)``, for a field without its section too, or an empty string."""
    field = name.rpartition(".")[2]
    same = [each for each in known if each.rpartition(".")[2] == field]
    return f" (did you mean {same[0]}?)" if same else nearest(name, known)


def _number(value: object, kind: type | None) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float) or kind is None:
        return value
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("a whole number has at most 64 bits")
    if kind is int and isinstance(value, float) and not value.is_integer():
        raise ValueError(f"{value} is not a whole number")
    return kind(value)


def _check(name: str, value: object, context: object = None) -> None:
    """Raises ValueError if the field that ``name`` sets does not accept ``value``."""
    section, field = _field(name)
    try:
        if section is not None:
            section.model_validate({field: value}, context=context)
        elif field in MOST and not (type(value) is int and 1 <= value <= MOST[field]) and context != STORED:
            raise ValueError(f"{value!r} must be a whole number, at least 1 and at most {MOST[field]:,}")
    except ValidationError as error:
        raise ValueError("; ".join(s.partition(": ")[2] for s in sentences(error, section))) from None  # type: ignore[arg-type]
