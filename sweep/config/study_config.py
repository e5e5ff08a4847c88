"""The validated study file (`StudyConfig`), and the part of it that one trial needs (`TrialConfig`)."""

import re
from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, ValidationError, ValidationInfo, field_validator

from ..losses.options import PAPER
from .errors import ConfigError, sentences
from .search_space import ALIASES, Choices, Dimension, Range, Scalar, parse_dimension
from .sections import (
    DataConfig,
    GuidanceConfig,
    ModelConfig,
    Objective,
    Resources,
    SearchConfig,
    Section,
    TaskConfig,
    TrainingConfig,
)

OF_CONFIRM = ".confirm."  # part of the names of studies that `sweep confirm` creates, and of no others
# Sections that may change between two runs of a study; everything else is the study's identity.
MUTABLE = {"search", "resources"}


class TrialConfig(Section):
    """Everything that determines a trial's results; with ``test``, the test part is also measured after each epoch."""

    model: dict[str, Any]
    data: DataConfig
    objective: Objective
    guidance: GuidanceConfig
    training: TrainingConfig
    task: TaskConfig = TaskConfig()
    threads: int = 1
    test: bool = False

    @property
    def control(self) -> Self:
        """The unguided control: both lambdas are 0, everything else is the same."""
        return self.model_copy(update={"guidance": self.guidance.model_copy(update={"lambda1": 0.0, "lambda2": 0.0})})


class StudyConfig(Section):
    """One study: a search space, an objective and a budget.

    Example:
        >>> config = StudyConfig(
        ...     name="mine",
        ...     model={"name": "mlp"},
        ...     data={"name": "digits"},
        ...     objective={"metric": "val_loss", "direction": "minimize"},
        ...     space={"lambda1": {"low": 1e-5, "high": 0.1, "log": True}, "depth": 2, "width": 64},
        ... )
        >>> list(config.searched), config.constants
        (['lambda1'], {'depth': 2, 'width': 64})
        >>> config.trial({"lambda1": 0.01}).model
        {'name': 'mlp', 'depth': 2, 'width': 64}
    """

    name: str = Field(description="Optuna study and MLflow experiment of the same name.", max_length=100)
    model: ModelConfig
    data: DataConfig
    objective: Objective
    space: dict[str, Dimension] = Field(
        description="lambda1, lambda2, epsilon, depth, width, and model.*, guidance.* or training.* by their path. "
        "A range {low, high, log, step}, {choices: [...]}, or a constant."
    )
    guidance: GuidanceConfig = Field(GuidanceConfig(), description="default, paper, or a mapping of what differs.")
    training: TrainingConfig = TrainingConfig()
    task: TaskConfig = TaskConfig()
    search: SearchConfig = SearchConfig()
    resources: Resources = Resources()

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) or name.endswith(".controls"):
            raise ValueError(
                f"{name!r} must start with a letter or digit, go on with letters, digits, '.', '_' and '-' (no slash, "
                "no blank), and not end in .controls"
            )
        return name

    @field_validator("guidance", mode="before")
    @classmethod
    def _preset(cls, value: object) -> object:
        if isinstance(value, str):
            if value not in ("default", "paper"):
                raise ValueError(f"{value!r} is not one of default, paper, or a mapping of what differs from default")
            return dict(PAPER) if value == "paper" else {}
        return value

    @field_validator("space", mode="before")
    @classmethod
    def _typed_by_field(cls, space: object, info: ValidationInfo) -> object:
        if not isinstance(space, Mapping):
            return space
        dimensions, model = {}, info.data.get("model")
        twice = [name for name in ("depth", "width") if name in space and getattr(model, name, None) is not None]
        problems = [f"{name}: given in model too; keep one of them" for name in twice]
        for name, value in space.items():
            try:
                dimensions[name] = parse_dimension(str(name), value)
            except ValidationError as error:
                problems += sentences(error, Choices if "choices" in value else Range, str(name))
            except ValueError as error:
                problems.append(f"{name}: {error}")
        if problems:
            raise ValueError("\n".join(problems))
        return dimensions

    @property
    def searched(self) -> dict[str, Range | Choices]:
        """The searched dimensions, without constants."""
        return {n: d for n, d in self.space.items() if isinstance(d, Range | Choices)}

    @property
    def constants(self) -> dict[str, Scalar]:
        """The names in the space that have one value."""
        return {n: d for n, d in self.space.items() if not isinstance(d, Range | Choices)}

    def trial(self, hyperparameters: Mapping[str, Scalar], *, seed: int | None = None) -> TrialConfig:
        """Returns the config of one trial: the study's, with ``hyperparameters`` and the constants filled in."""
        values = {**self.constants, **hyperparameters, **({} if seed is None else {"training.seed": seed})}
        sections: dict[str, dict[str, Any]] = {
            "model": self.model.model_dump(exclude_none=True),
            "guidance": self.guidance.model_dump(),
            "training": self.training.model_dump(),
        }
        for name, value in values.items():
            section, _, field = ALIASES.get(name, name).partition(".")
            sections[section][field] = value
        same = {"data": self.data, "objective": self.objective, "task": self.task, "threads": self.resources.threads}
        return TrialConfig.model_validate({**sections, **same})

    def hyperparameters(self, trial: TrialConfig) -> dict[str, Scalar]:
        """Returns a trial's hyperparameters, its params in MLflow: the five and all others that the space names."""
        sections = {"model": trial.model, "guidance": dict(trial.guidance), "training": dict(trial.training)}
        places = {name: ALIASES.get(name, name).split(".", 1) for name in (*ALIASES, *self.space)}
        return {name: sections[at][field] for name, (at, field) in places.items() if field in sections[at]}

    @property
    def import_paths(self) -> dict[str, str]:
        """The user's own objects: key path -> import path."""
        named = {"model.name": self.model.name, "data.name": self.data.name, "task.loss": self.task.loss or ""}
        named |= {f"task.metrics.{name}": path for name, path in self.task.metrics.items()}
        return {key: path for key, path in named.items() if ":" in path}

    def identity(self) -> dict[str, Any]:
        """Returns the values on which two runs of a study must agree: key path -> value."""
        return _flat(self.model_dump(mode="json", exclude=MUTABLE))

    def changes(self, now: Self) -> list[str]:
        """Returns the key paths of `identity` in which ``now`` differs."""
        old, new = self.identity(), now.identity()
        return [key for key in {**old, **new} if old.get(key) != new.get(key)]

    def require_agreement(self, now: Self) -> None:
        """Raises a ConfigError with all differences if a study of the same name differs."""
        changed = self.changes(now)
        if not changed:
            return
        old, new = self.identity(), now.identity()
        advice = f"Its trials would not compare: start a new study, for instance with --set name={self.name}-2"
        if all(key.startswith("space.") for key in changed):
            advice += ", or with --new-space one whose sampler is shown the trials that fit"
        raise ConfigError(
            f"study {self.name} exists and differs",
            [f"{key}: was {old.get(key, 'absent')}, now {new.get(key, 'absent')}" for key in changed],
            advice,
        )


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(tree, Mapping) and tree:
        return {k: v for key, sub in tree.items() for k, v in _flat(sub, f"{prefix}.{key}" if prefix else key).items()}
    return {prefix: tree}
