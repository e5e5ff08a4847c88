"""What the pairs of a study have said, as data, and where it is kept: with the study, and in MLflow."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..config.search_space import Scalar
from ..study.records import Arm
from ..training.reports import EpochMetrics
from .paired_tests import PairedComparison
from .summary import Summary


@dataclass(frozen=True)
class BaselineResult:
    """A rival's best configuration.

    Attributes:
        study: that has found it.
        trials: how many it was found in, and of these the completed ones.
        number: the best trial's; None where none has completed.
        hyperparameters: its, constants included; empty where none has completed.
    """

    arm: Arm
    study: str
    trials: int
    completed: int
    number: int | None
    hyperparameters: dict[str, Scalar]

    @classmethod
    def of(cls, arm: Arm, summary: Summary) -> BaselineResult:
        """The best of a study that was run."""
        best = next(iter(summary.best), None)
        values = {**summary.config.constants, **best.hyperparameters} if best else {}
        number = best.number if best else None
        return cls(arm, summary.config.name, len(summary.rows), len(summary.best), number, values)


@dataclass(frozen=True)
class Confirmation:
    """What the pairs say.

    Attributes:
        metric: of the test set, as the study's objective is of the validation set.
        configurations: hyperparameters by number, best first.
        rivals: what the configurations are compared with beside their plain controls.
        comparisons: by configuration.
        notes: what a reader must know of it.
        rows: how many rows of the sister study it is made of.
        ended: when the last of them ended, in milliseconds since the Unix epoch.
    """

    study: str
    metric: str
    direction: str
    configurations: dict[int, dict[str, Scalar]]
    rivals: list[BaselineResult]
    comparisons: list[PairedComparison]
    notes: list[str]
    rows: int
    ended: int

    def as_data(self) -> dict[str, Any]:
        """All of it, as JSON has it; numbers that there are not are None."""
        data = dataclasses.asdict(self)
        for shown, comparison in zip(data["comparisons"], self.comparisons, strict=True):
            shown["verdict"] = comparison.verdict
        finite: dict[str, Any] = _finite(data)
        return finite

    def metrics(self) -> EpochMetrics:
        """The estimates as MLflow has them; the step is the number of rows, with which they change."""
        values = {}
        for c in self.comparisons:
            for name in ("final", "best", "speedup", "speedup_seconds"):
                estimate = getattr(c, name)
                for part in ("value", "low", "high"):
                    number = getattr(estimate, part)
                    if number is not None and math.isfinite(number):
                        suffix = "" if part == "value" else f"_{part}"
                        values[f"confirm/{c.number:04d} {c.first} over {c.second} {name}{suffix}"] = number
        return EpochMetrics(self.rows, values, self.ended)


def best_hyperparameters(found: Sequence[BaselineResult]) -> dict[Arm, dict[str, Scalar]]:
    """The hyperparameters of the rivals that there are."""
    return {each.arm: each.hyperparameters for each in found if each.hyperparameters}


def _finite(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {str(key): _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
