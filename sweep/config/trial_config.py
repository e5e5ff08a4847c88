"""The part of a study file that one trial needs (`TrialConfig`)."""

from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field

from .search_space import ALIASES, Scalar, is_of_guidance
from .section import Section
from .sections import DataConfig, GuidanceConfig, Objective, TaskConfig, TrainingConfig

Kind = Literal["model", "function", "command"]  # of a trial, by which `sweep.training.trial` runs it


class TrialConfig(Section):
    """Everything that determines a trial's results; with ``test``, the test part is also measured after each epoch."""

    function: str | None = None  # import path of the user's own function, which then replaces model, data and task
    command: tuple[str, ...] | None = None  # of the user's own script, which then does so, with placeholders
    hyperparameters: dict[str, Scalar] = Field(default_factory=dict)  # of either, without those of guidance
    model: dict[str, Any] = Field(default_factory=dict)
    if TYPE_CHECKING:
        data: DataConfig = DataConfig(name="")
    else:  # the built-in loop, for which it is written, is not run without data
        data: DataConfig | None = None
    objective: Objective
    guidance: GuidanceConfig
    training: TrainingConfig
    task: TaskConfig = TaskConfig()
    threads: int = 1
    workers: int = 1
    test: bool = False

    @property
    def kind(self) -> Kind:
        """The kind of trial: the built-in loop on a model, or a function or a script of the user's own."""
        return kind_of(self.function, self.command)

    @property
    def subject(self) -> str:
        """The name of the user's own code."""
        return self.function or " ".join(self.command or ())

    @property
    def offered(self) -> dict[str, Scalar]:
        """The hyperparameters that the user's own code may read, by name: those of guidance included."""
        guidance = {f"guidance.{name}": value for name, value in self.guidance}
        short = {name: guidance.pop(path) for name, path in ALIASES.items() if is_of_guidance(name)}
        return {**self.hyperparameters, **short, **guidance}

    @property
    def required(self) -> list[str]:
        """The metrics that the user's own code reports each epoch: the objective, and to ``test`` its test metric."""
        metric = self.objective.metric
        return [metric, *([f"test_{metric.removeprefix('val_')}"] if self.test else [])]

    @property
    def control(self) -> Self:
        """The unguided control: both lambdas are 0, everything else is the same."""
        return self.model_copy(update={"guidance": self.guidance.model_copy(update={"lambda1": 0.0, "lambda2": 0.0})})


def kind_of(function: str | None, command: object) -> Kind:
    """Returns the kind of a trial by its keys of the user's own code."""
    return "function" if function is not None else "model" if command is None else "command"
