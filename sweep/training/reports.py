"""The units that travel from a worker to the study and the tracker: epochs' metrics and reports of them."""

import dataclasses
import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Literal, Self

from ..config.filesystem import AnyPath

OomKind = Literal["GPU", "host"]
EndOutcome = Literal["completed", "collapsed", "diverged", "failed"]


class RankLostError(Exception):
    """One of the processes that train a trial together was killed."""


REPORT_EVERY = 0.5  # seconds between two reports of a trial, at least
REPORT_WITHIN = 2.0  # seconds after which it reports epochs without a pruning decision, for the view and the checkpoint


def is_due(
    pending: Iterable[int], seconds: float, pruning_epochs: Collection[int] | None, *, every: float = REPORT_EVERY
) -> bool:
    """Returns True if a trial should report its pending epochs now.

    A report costs the driver time, and the trial waits for the answer; so epochs without a decision wait longer, those
    that are not among `pruning_epochs` (None: all are).

    Example:
        >>> is_due([3], 0.6, None), is_due([3], 0.6, {5}), is_due([4, 5], 0.6, {5})
        (True, False, True)
    """
    decides = pruning_epochs is None or any(epoch in pruning_epochs for epoch in pending)
    return seconds >= (every if decides or not every else max(every, REPORT_WITHIN))


@dataclass(frozen=True, slots=True)
class EpochMetrics:
    """The metrics of one finished epoch."""

    epoch: int  # from 1
    values: dict[str, float]  # by name: ``val_loss``, ``entropy/<layer>`` and so on
    timestamp: int  # its end, ms since 1970; the checkpoint keeps it, so that MLflow stores once what is sent twice


@dataclass(frozen=True)
class TrialReport:
    """The report of a trial after a checkpoint, from the worker to the study and the tracker."""

    epochs: list[EpochMetrics]  # the epochs that the checkpoint holds and that were not reported before, in order
    checkpoint: str | None = None  # path or URL
    outcome: EndOutcome | None = None  # None while it trains
    error: str | None = None  # the reason of a failure, divergence or collapse
    notices: tuple[str, ...] = ()  # messages for the user, each sent once
    tags: dict[str, str] = field(default_factory=dict)  # MLflow tags of host and device, set by the executor
    oom: OomKind | None = None  # the memory that ran out, if the trial failed for that
    halt: str | None = None  # the reason that no trial can train here, so that the run must end
    relocate: str | None = None  # the reason that this process cannot train it, so that it moves to a new one

    def to_json(self) -> str:
        """Returns the report as a JSON object with the attributes' names."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Returns the report that `to_json` wrote."""
        fields = json.loads(text)
        fields["epochs"] = [EpochMetrics(**metrics) for metrics in fields["epochs"]]
        fields["notices"] = tuple(fields["notices"])
        return cls(**fields)


@dataclass(frozen=True)
class TrialPaths:
    """The places that a trial reads and writes, and its share of GPUs."""

    folder: AnyPath  # its checkpoints, one folder per attempt below it
    data: AnyPath  # the root of the data sets
    cache: AnyPath  # the data sets' memory-mapped arrays
    gpus: float = 0.0
