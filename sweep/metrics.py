"""What a trial reports, epoch by epoch: the units that travel from a worker to the study and the tracker."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class EpochMetrics:
    """The metrics of one finished epoch.

    Attributes:
        epoch: counted from 1.
        values: metric name -> value; names as in the README (``val_loss``, ``entropy/<layer>``, ...).
        timestamp: milliseconds since the Unix epoch, taken once when the epoch ended and kept in the checkpoint, so
            that an epoch sent twice to the tracking server is stored once.
    """

    epoch: int
    values: dict[str, float]
    timestamp: int


@dataclass(frozen=True)
class Report:
    """Epochs that the checkpoint at ``checkpoint`` holds, in order; with an ``outcome`` it is the trial's last.

    Attributes:
        notices: what the user should know, said once.
    """

    epochs: list[EpochMetrics]
    checkpoint: Path | None
    outcome: Literal["completed", "diverged"] | None = None
    error: str | None = None
    notices: tuple[str, ...] = ()
