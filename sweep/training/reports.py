"""What a trial reports, epoch by epoch: the units that travel from a worker to the study and the tracker."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Literal

from ..config.filesystem import AnyPath

REPORT_EVERY = 0.5  # seconds between two reports of a trial, at least
REPORT_WITHIN = 2.0  # seconds after which it reports epochs that nobody judges, to be seen, and safe on disk


def is_due(
    pending: Iterable[int], seconds: float, pruning_epochs: Collection[int] | None, *, every: float = REPORT_EVERY
) -> bool:
    """Whether a trial reports its pending epochs: each report costs the driver time, and the trial until it answers.

    Args:
        pending: epochs that it has trained since its last report.
        seconds: since then.
        judged: the epochs at which it may be stopped; None: any.
        every: seconds between two reports, at least.
    """
    return seconds >= (
        every
        if pruning_epochs is None or any(epoch in pruning_epochs for epoch in pending)
        else max(every, REPORT_WITHIN)
    )


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


OomKind = Literal["GPU", "host"]


@dataclass(frozen=True)
class TrialReport:
    """What a trial reports after a checkpoint: from the worker to the study and the tracker.

    Attributes:
        epochs: epochs that the checkpoint holds and that were not reported before, in order.
        checkpoint: path or URL of that checkpoint; None where the trial has none.
        outcome: how the trial has ended; None while it goes on.
        error: why it has failed or diverged.
        notices: messages for the user, each sent once.
        tags: MLflow tags that name the host and the device; set by the executor.
        oom: which memory was not enough, if the trial failed for that.
        halt: why no trial can go on here, so that the run must end.
    """

    epochs: list[EpochMetrics]
    checkpoint: str | None = None
    outcome: Literal["completed", "diverged", "failed"] | None = None
    error: str | None = None
    notices: tuple[str, ...] = ()
    tags: dict[str, str] = field(default_factory=dict)
    oom: OomKind | None = None
    halt: str | None = None

    def to_json(self) -> str:
        """Returns the report as a JSON object with the attributes' names.

        Example:
            >>> report = TrialReport([EpochMetrics(1, {"val_loss": 0.5}, 1700000000000)], outcome="completed")
            >>> TrialReport.from_json(report.to_json()) == report
            True
        """
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> TrialReport:
        """Returns the report that `to_json` wrote."""
        fields = json.loads(text)
        fields["epochs"] = [EpochMetrics(**metrics) for metrics in fields["epochs"]]
        fields["notices"] = tuple(fields["notices"])
        return cls(**fields)


@dataclass(frozen=True)
class TrialPaths:
    """Where a trial reads and writes.

    Attributes:
        folder: the trial's checkpoints, one folder per attempt below it.
        data: root of the data sets.
        cache: their memory-mapped arrays.
        gpus: how many GPUs the trial was given, or what share of one.
    """

    folder: AnyPath
    data: AnyPath
    cache: AnyPath
    gpus: float = 0.0
