"""The base class of all sections of a study file: which keys and numbers they take."""

import re

from pydantic import (
    BaseModel,
    ConfigDict,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
)

STORED = {"stored": True}  # validation context: a number above 0 may be out of bounds, as older versions had none
BOUNDS = {"greater_than_equal", "less_than", "less_than_equal"}


class Section(BaseModel):
    """A mapping of a study file; unknown keys are refused, and instances are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    @field_validator("*", mode="wrap")
    @classmethod
    def _bounded(cls, value: object, validate: ValidatorFunctionWrapHandler, info: ValidationInfo) -> object:
        """Lets a number above 0 that is out of bounds pass where it was stored."""
        try:
            return validate(value)
        except ValidationError as error:
            bounds_alone = {each["type"] for each in error.errors()} <= BOUNDS
            if info.context == STORED and bounds_alone and isinstance(value, int | float) and value > 0:
                return value
            raise

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_alone(cls, value: object, info: ValidationInfo) -> object:
        """Refuses true, false and texts such as '1', which pydantic would convert to numbers."""
        annotation = str(cls.model_fields[str(info.field_name)].annotation)
        if not re.search(r"\b(int|float)\b", annotation) or re.search(r"\bstr\b", annotation):
            return value
        if isinstance(value, bool) and "bool" not in annotation:
            raise ValueError(f"must be a number, not {str(value).lower()}")
        if isinstance(value, str) and _reads_as_number(value):
            raise ValueError(f"must be a number, not the text {value!r}: remove the quotes")
        return value


def _reads_as_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
