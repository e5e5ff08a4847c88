"""Parses the dimensions of a search space: ranges, choices and constants, converted to the type of their field."""

import re
from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from .errors import nearest, sentences
from .sections import GuidanceConfig, Section, TrainingConfig

Scalar = bool | int | float | str | None

# The fields that the five hyperparameters with a short name set.
ALIASES = {name: f"guidance.{name}" for name in ("lambda1", "lambda2", "epsilon")}
ALIASES |= {name: f"model.{name}" for name in ("depth", "width")}


class Range(Section):
    """A numeric range of the search space, both ends included."""

    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        wrong = {
            f"low ({self.low}) must be below high ({self.high})": not self.low < self.high,
            f"a log scale needs low > 0, not {self.low}": self.log and self.low <= 0,
            "log and step exclude each other": self.log and self.step is not None,
            f"step must be above 0, not {self.step}": self.step is not None and self.step <= 0,
        }
        if any(wrong.values()):
            raise ValueError("\n".join(problem for problem, found in wrong.items() if found))
        return self

    @property
    def is_int(self) -> bool:
        """True if the hyperparameter takes whole numbers only."""
        return isinstance(self.low, int)


class Choices(Section):
    """A list of values of the search space."""

    choices: tuple[Scalar, ...] = Field(min_length=1)

    @field_validator("choices")
    @classmethod
    def _distinct(cls, choices: tuple[Scalar, ...]) -> tuple[Scalar, ...]:
        if len({(type(c), c) for c in choices}) < len(choices):
            raise ValueError("the choices must differ from each other")
        return choices


Dimension = Range | Choices | Scalar


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


def parse_dimension(name: str, value: object) -> Dimension:
    """Checks a dimension and converts its numbers to the type of the field; raises ValueError with all problems.

    Example:
        >>> parse_dimension("training.lr", {"low": 1e-4, "high": 1, "log": True})
        Range(low=0.0001, high=1.0, log=True, step=None)
    """
    known = [*ALIASES, *(f"training.{f}" for f in TrainingConfig.model_fields if f not in ("seed", "max_epochs"))]
    known += [f"guidance.{f}" for f in GuidanceConfig.model_fields if f not in (*ALIASES, "layers")]
    if name not in known and not re.fullmatch(r"model\.(?!name$|depth$|width$)\w+", name):
        raise ValueError(
            f"unknown hyperparameter{_meant(name, known)}; any scalar of model, guidance or training may be searched "
            "by its path (model.latent, training.lr, ...)"
        )
    if isinstance(value, list):
        raise ValueError(  # noqa: TRY004  (pydantic collects no others)
            f"must be one value (a number, a word) or a mapping; to search these values, write {{choices: {value}}}"
        )
    kind = _kind(name)
    if not isinstance(value, Mapping):
        constant = _number(value, kind)
        _check(name, constant)
        return constant  # type: ignore[return-value]
    if not {"low", "high", "choices"} & set(value):
        raise ValueError("must have low and high, or choices, or be a constant")
    typed: dict[str, Any] = {k: _number(v, kind) if k in ("low", "high", "step") else v for k, v in value.items()}
    if {type(typed.get(k)) for k in ("low", "high", "step")} >= {int, float}:
        typed = {k: float(v) if isinstance(v, int) and not isinstance(v, bool) else v for k, v in typed.items()}
    if isinstance(typed.get("choices"), list | tuple):
        typed["choices"] = tuple(_number(c, kind) for c in typed["choices"])
    checked = Choices.model_validate(typed) if "choices" in typed else Range.model_validate(typed)
    for end in checked.choices if isinstance(checked, Choices) else (checked.low, checked.high):
        _check(name, end)
    return checked


def _meant(name: str, known: list[str]) -> str:
    """Returns `` (did you mean X?)``, for a field without its section too, or an empty string."""
    field = name.rpartition(".")[2]
    same = [each for each in known if each.rpartition(".")[2] == field]
    return f" (did you mean {same[0]}?)" if same else nearest(name, known)


def _number(value: object, kind: type | None) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float) or kind is None:
        return value
    if kind is int and not float(value).is_integer():
        raise ValueError(f"{value} is not a whole number")
    return kind(value)


def _check(name: str, value: object) -> None:
    """Raises ValueError if the field that ``name`` sets does not accept ``value``."""
    section, field = _field(name)
    try:
        if section is not None:
            section.model_validate({field: value})
        elif field in ("depth", "width") and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"{value!r} must be a whole number, at least 1")
    except ValidationError as error:
        raise ValueError("; ".join(s.partition(": ")[2] for s in sentences(error, section))) from None  # type: ignore[arg-type]
