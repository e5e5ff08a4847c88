"""The validated study file (`StudyConfig`)."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, ValidationInfo, field_validator

from ..losses.options import PAPER
from .conditional import active, condition_of, in_order, is_active
from .constraints import parse_constraints
from .errors import ConfigError
from .grid import within_grid
from .resources import Resources
from .search_space import ALIASES, Choices, Dimension, Range, Scalar, is_of_guidance, parse_space, smallest_number
from .section import STORED, Section
from .sections import DataConfig, GuidanceConfig, ModelConfig, Objective, SearchConfig, TaskConfig, TrainingConfig
from .trial_config import Kind, TrialConfig, kind_of
from .user_command import words_of

OF_CONFIRM = ".confirm."  # part of the names of studies that `sweep confirm` creates, and of no others
# Sections that may change between two runs of a study; everything else is the study's identity.
MUTABLE = {"search", "resources"}
OF_THE_LOOP = ("model", "data", "task")  # sections of the built-in loop, which the user's own code replaces
OWN = ("function", "command")  # keys of the user's own code, one of which takes their place
TRAINING_OF_OWN_CODE = ("max_epochs", "seed")  # all that acts of the section `training`
MIN_DESIGN = 32  # trials that a surrogate is fitted to at least
LAMBDAS = ("lambda1", "lambda2")


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
    function: str | None = Field(
        None, description="Your own training function, package.module:name, in place of model, data and task."
    )
    command: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="Your own script, [python, train.py, --lr, '{lr}'], in place of model, data and task.",
    )
    if TYPE_CHECKING:
        model: ModelConfig = ModelConfig(name="")
        data: DataConfig = DataConfig(name="")
    else:  # None with own code; what is written for the built-in loop is not called then
        model: ModelConfig | None = Field(None, validate_default=True, description=ModelConfig.__doc__)
        data: DataConfig | None = Field(None, validate_default=True, description=DataConfig.__doc__)
    objective: Objective
    space: dict[str, Dimension] = Field(
        description="lambda1, lambda2, epsilon, depth, width, and model.*, guidance.* or training.* by their path. "
        "Names of your own with a function or command. A range {low, high, log, step}, {choices: [...]}, or a constant."
    )
    constraints: tuple[str, ...] = Field((), description="What every point fulfils: depth * width <= 4096.")
    guidance: GuidanceConfig = Field(
        GuidanceConfig(), validate_default=True, description="default, paper, or a mapping of what differs."
    )
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

    @field_validator("command", mode="before")
    @classmethod
    def _words(cls, value: object, info: ValidationInfo) -> object:
        if value is not None and info.data.get("function") is not None:
            raise ValueError("leave it out, or function: a study trains one of them")
        return None if value is None else words_of(value)

    @field_validator("guidance", mode="before")
    @classmethod
    def _preset(cls, value: object, info: ValidationInfo) -> object:
        if not isinstance(value, str) and _is_own(info):
            given = value.model_dump(exclude_unset=True) if isinstance(value, GuidanceConfig) else value
            # A study without a lambda is one without guidance.
            return {**dict.fromkeys(LAMBDAS, 0.0), **given} if isinstance(given, dict) else given
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
        sizes = [name for name in ("depth", "width") if getattr(info.data.get("model"), name, None) is not None]
        dimensions, problems = parse_space(space, info.context, own=_is_own(info))
        problems = [*(f"{name}: given in model too; keep one of them" for name in sizes if name in space), *problems]
        if problems:
            raise ValueError("\n".join(problems))
        unfit = ("depth", "width") if info.data.get("model") else dimensions if info.data.get("command") else ()
        if conditional := [name for name in unfit if condition_of(dimensions.get(name)) is not None]:
            names = ", ".join(conditional)
            raise ValueError(f"{names}: when: a model has its sizes, and a command its words, in every trial")
        return in_order(dimensions, stored=info.context == STORED)

    @field_validator("constraints")
    @classmethod
    def _parsed(cls, constraints: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        parse_constraints(constraints, info.data.get("space"))
        return constraints

    @field_validator("search")
    @classmethod
    def _within_grid(cls, search: SearchConfig, info: ValidationInfo) -> SearchConfig:
        """Limits the budget to the points of a grid; refuses a space that has no grid."""
        if search.sampler != "grid" or not {"space", "constraints"} <= info.data.keys():
            return search
        return within_grid(search, info.data["space"], parse_constraints(info.data["constraints"], info.data["space"]))

    @field_validator("search")
    @classmethod
    def _can_expect(cls, search: SearchConfig, info: ValidationInfo) -> SearchConfig:
        """Refuses an end by expected improvement where no surrogate can tell it."""
        if search.until is None:
            return search
        if search.design < MIN_DESIGN:
            raise ValueError(f"until: a surrogate needs {MIN_DESIGN} design trials, and design is {search.design}")
        if any(condition_of(each) is not None for each in info.data.get("space", {}).values()):
            raise ValueError("until: the space has conditions, and the surrogate knows none: take patience")
        return search

    @field_validator("resources")
    @classmethod
    def _enough_images(cls, resources: Resources, info: ValidationInfo) -> Resources:
        """Refuses more processes than a batch of the built-in loop can be divided among, two images each."""
        if resources.processes > 1 and info.data.get("command") is not None:
            raise ValueError("a script is one process to this program: leave workers out, and gpus at 1 at most")
        training = info.data.get("training")
        if training is None or info.data.get("function") is not None:  # it has problems of its own, or divides itself
            return resources
        resources.require_batch(smallest_number(info.data.get("space", {}), "training.batch_size", training.batch_size))
        return resources

    @field_validator("model", "data", mode="before")
    @classmethod
    def _or_own_code(cls, value: object, info: ValidationInfo) -> object:
        if any(name not in info.data for name in OWN):  # its own problem is reported
            return None
        if value is None and not _is_own(info):
            raise ValueError("required")
        return cls._of_the_loop(value, info)

    @field_validator("task", mode="before")
    @classmethod
    def _of_the_loop(cls, value: object, info: ValidationInfo) -> object:
        if value not in (None, TaskConfig().model_dump()) and _is_own(info):
            raise ValueError("leave it out: the study's function or command does without it")
        return value

    @field_validator("training")
    @classmethod
    def _acting(cls, training: TrainingConfig, info: ValidationInfo) -> TrainingConfig:
        changed = [name for name, value in training if value != TrainingConfig.model_fields[name].default]
        idle = [name for name in changed if name not in TRAINING_OF_OWN_CODE]
        if idle and _is_own(info):
            raise ValueError(
                f"{', '.join(idle)}: of no effect on code of your own, for which {' and '.join(TRAINING_OF_OWN_CODE)} "
                "act; give the space a hyperparameter, trial[name] in a function, {name} in a command"
            )
        return training

    @property
    def kind(self) -> Kind:
        """The kind of its trials."""
        return kind_of(self.function, self.command)

    @property
    def subject(self) -> str:
        """The name of what the study trains: ``mlp on digits``, or that of the function, or the command."""
        own = self.function or " ".join(self.command or ())
        return own or f"{self.model.name} on {self.data.name}"

    @property
    def guided(self) -> bool:
        """False for a study of own code without a lambda: it has no controls."""
        lambdas = (self.space.get(name, getattr(self.guidance, name)) for name in LAMBDAS)
        return self.kind == "model" or any(value != 0 for value in lambdas)

    @property
    def searched(self) -> dict[str, Range | Choices]:
        """The searched dimensions, without constants."""
        return {n: d for n, d in self.space.items() if isinstance(d, Range | Choices)}

    @property
    def constants(self) -> dict[str, Scalar]:
        """The names in the space that have one value."""
        return {n: d for n, d in self.space.items() if not isinstance(d, Range | Choices)}

    def active(self, values: Mapping[str, Scalar]) -> dict[str, Scalar]:
        """Returns the values of a point without those of hyperparameters whose conditions it does not fulfil."""
        return active(self.space, values)

    def is_active(self, name: str, values: Mapping[str, Scalar]) -> bool:
        """Returns True if a point with these values, of the hyperparameters before it in the space, has another."""
        return is_active(self.space, name, values)

    def is_point(self, values: Mapping[str, Scalar]) -> bool:
        """Returns True if the values are those of all hyperparameters that a trial with them has."""
        return all((name in values) == self.is_active(name, values) for name in self.searched)

    def trial(self, hyperparameters: Mapping[str, Scalar], *, seed: int | None = None) -> TrialConfig:
        """Returns the config of one trial: the study's, with ``hyperparameters`` and the constants filled in."""
        sections: dict[str, dict[str, Any]] = {
            "model": self.model.model_dump(exclude_none=True) if self.kind == "model" else {},
            "guidance": self.guidance.model_dump(),
            "training": self.training.model_dump(),
            "hyperparameters": {},
        }
        for name, value in self.active({**self.constants, **hyperparameters}).items():
            section, field = self._place(name)
            sections[section][field] = value
        if seed is not None:
            sections["training"]["seed"] = seed
        same = {name: getattr(self, name) for name in (*OWN, "data", "objective", "task")}
        how = {"threads": self.resources.threads, "workers": self.resources.workers}
        return TrialConfig.model_validate(
            {**sections, **same, **how}, context=STORED
        )  # bounds were checked with the study

    def _place(self, name: str) -> tuple[str, str]:
        """Returns the section of a trial's config, and the field in it, that a hyperparameter sets."""
        if self.kind != "model" and not is_of_guidance(name):
            return "hyperparameters", name
        section, _, field = ALIASES.get(name, name).partition(".")
        return section, field

    def hyperparameters(self, trial: TrialConfig) -> dict[str, Scalar]:
        """Returns a trial's hyperparameters, its params in MLflow: the five and all others that the space names."""
        sections: dict[str, dict[str, Any]] = {
            "model": trial.model,
            "guidance": dict(trial.guidance),
            "training": dict(trial.training),
            "hyperparameters": trial.hyperparameters,
        }
        places = {name: self._place(name) for name in (*(ALIASES if self.guided else ()), *self.space)}
        return self.active({name: sections[at][field] for name, (at, field) in places.items() if field in sections[at]})

    @property
    def import_paths(self) -> dict[str, str]:
        """The user's own objects: key path -> import path."""
        search = {"search.sampler": self.search.sampler, "search.pruner": self.search.pruner}
        if self.kind != "model":
            return {key: path for key, path in {"function": self.function or "", **search}.items() if ":" in path}
        named = {
            "model.name": self.model.name,
            "data.name": self.data.name,
            "task.loss": self.task.loss or "",
            **search,
        }
        named |= {f"task.metrics.{name}": path for name, path in self.task.metrics.items()}
        return {key: path for key, path in named.items() if ":" in path}

    def identity(self) -> dict[str, Any]:
        """Returns the values on which two runs of a study must agree: key path -> value."""
        absent = {name for name in (*OWN, "constraints") if not getattr(self, name)}
        absent |= set() if self.kind == "model" else set(OF_THE_LOOP)
        values = self.model_dump(mode="json", exclude=MUTABLE | absent)
        for dimension in values["space"].values():
            if isinstance(dimension, dict):
                for key in ("default", "ordered", *(() if dimension.get("when") else ("when",))):
                    dimension.pop(key, None)  # trains nothing else: it may be given later
        return _flat(values)

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


def _is_own(info: ValidationInfo) -> bool:
    """Returns True if a study trains code of the user's own; an unfit command, which is not in the data, is some."""
    return any(info.data.get(name, "") is not None for name in OWN)


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(tree, Mapping) and tree:
        return {k: v for key, sub in tree.items() for k, v in _flat(sub, f"{prefix}.{key}" if prefix else key).items()}
    return {prefix: tree}
