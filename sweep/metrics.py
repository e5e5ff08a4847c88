"""What one epoch of a trial reports: the unit that travels from a worker to the study and the tracker."""

from __future__ import annotations

from dataclasses import dataclass


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
