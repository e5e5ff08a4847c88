"""What the pairs of a study have said, as data, and where it is kept: with the study, and in MLflow."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .dimensions import Scalar
from .errors import TrackingError, reason
from .finding import CONFIRMATION, connect
from .metrics import EpochMetrics
from .pairs import Comparison
from .results import Summary
from .rows import Arm
from .settings import Settings
from .tracking import Tracker


@dataclass(frozen=True)
class Found:
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
    def of(cls, arm: Arm, summary: Summary) -> Found:
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
    rivals: list[Found]
    comparisons: list[Comparison]
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


def best_of(found: Sequence[Found]) -> dict[Arm, dict[str, Scalar]]:
    """The hyperparameters of the rivals that there are."""
    return {each.arm: each.hyperparameters for each in found if each.hyperparameters}


def keep(confirmation: Confirmation, settings: Settings) -> str | None:
    """Notes a confirmation with its study, for the report; returns why not, where it cannot."""
    from .storage import UNREACHABLE, note

    try:
        note(confirmation.study, CONFIRMATION, confirmation.as_data(), connect(settings.storage))
    except UNREACHABLE as error:
        return reason(error)
    return None


def publish(confirmation: Confirmation, settings: Settings) -> str | None:
    """Adds a confirmation to the study's own run in MLflow; returns why not, where it cannot."""
    tracker = Tracker.of(confirmation.study, settings)
    try:
        if not tracker.attach():
            return f"it has no experiment {confirmation.study}"
    except TrackingError as error:
        return str(error)
    tracker.log_text(None, json.dumps(confirmation.as_data(), indent=2), "confirm.json")
    tracker.log_epochs(None, [confirmation.metrics()])
    tracker.close(status=None, timeout=60)
    return tracker.problem


def _finite(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {str(key): _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
