"""MLflow runs as plain data: their keys, the state on the server, and the work that waits to be sent."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..training.reports import EpochMetrics
from .mlflow_internals import last_steps

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, Run, RunTag

Tags = Mapping[str, str]

PARAM_LENGTH, TAG_LENGTH = 1_000, 5_000  # characters; 100 of each then stay below MLflow's 1 MB a call


@dataclass(frozen=True)
class RunKey:
    """The key of a trial's run, unique in its experiment; kept in the run's tags from its creation on.

    Example:
        >>> RunKey("digits", "trial", 17).tags
        {'sweep.study': 'digits', 'sweep.kind': 'trial', 'sweep.trial': '17'}
    """

    study: str
    kind: str
    number: int

    @property
    def name(self) -> str:
        """The run's name in the MLflow UI."""
        return f"{self.study}-{self.number:04d}"

    @property
    def tags(self) -> dict[str, str]:
        """The tags that identify the run."""
        return {"sweep.study": self.study, "sweep.kind": self.kind, "sweep.trial": str(self.number)}


@dataclass
class KnownRun:
    """A run on the server: the names of the `params` it has, and of each of its `metrics` the last step."""

    run_id: str
    status: str
    start_time: int
    outcome: str | None = None  # as it was found; None while the trial is unfinished
    params: set[str] = field(default_factory=set)
    metrics: dict[str, int] = field(default_factory=dict)
    may_have_duplicate: bool = False
    incomplete: bool = False  # MLflow refused a part: no outcome, so that the study's next run sends the rest

    @classmethod
    def of(cls, run: Run) -> KnownRun:
        """Returns the state of a run that the server has."""
        info, outcome = run.info, run.data.tags.get("sweep.outcome")
        return cls(info.run_id, info.status, info.start_time, outcome, set(run.data.params), last_steps(run))


@dataclass
class PendingRun:
    """The work that one run still has to send; `key` None is the study's own run, the parent of all others."""

    key: RunKey | None
    start_time: int | None = None  # milliseconds since the Unix epoch; None: started before
    search: bool = False  # search the server before the run is created
    deleted: bool = False  # delete the present run first
    params: dict[str, object] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    epochs: list[EpochMetrics] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)  # one value a run, at step 0
    jobs: list[Callable[[MlflowClient, str], None]] = field(default_factory=list)  # uploads
    end: tuple[str, int] | None = None  # status, milliseconds since the Unix epoch
    end_tags: dict[str, str] = field(default_factory=dict)
    since: float = field(default_factory=time.monotonic)
    failing_since: float | None = None  # the next upload fails since then

    @property
    def name(self) -> str:
        """The run's name in messages."""
        return self.key.name if self.key else "the study"

    def add(self, later: PendingRun) -> None:
        """Merges later work; a new start cancels an end."""
        if later.start_time is not None:
            self.start_time, self.end = later.start_time, None
        self.search |= later.search
        self.deleted |= later.deleted
        self.params |= later.params
        self.tags |= later.tags
        self.epochs += later.epochs
        self.metrics |= later.metrics
        self.jobs += later.jobs
        self.end = later.end or self.end
        self.end_tags |= later.end_tags

    def without_checkpointed(self) -> PendingRun | None:
        """Returns the part that no checkpoint holds: the study's own run, and uploads. None if there is none."""
        if self.key is None:
            return self
        return PendingRun(self.key, jobs=self.jobs, failing_since=self.failing_since) if self.jobs else None


def new_metrics(work: PendingRun, run: KnownRun) -> list[Metric]:
    """Returns the metrics that a run lacks; those of a trial's epochs once, by name and epoch.

    A trial whose newest checkpoint was damaged trains some epochs twice: to the same values, with a later timestamp.
    """
    known = run.metrics if work.key is not None else {}
    metrics: dict[tuple[str, int], Metric] = {}
    for epoch in work.epochs:
        for name, value in epoch.values.items():
            metric = _make_metric(name, value, epoch.timestamp, epoch.epoch)
            if metric.step > known.get(metric.key, -1):
                metrics.setdefault((metric.key, metric.step), metric)
    # The run's own start is a time that is the same in every attempt.
    once = [(name, value) for name, value in work.metrics.items() if name not in run.metrics]
    return [*metrics.values(), *(_make_metric(name, value, run.start_time, 0) for name, value in once)]


def _make_metric(name: str, value: float, timestamp: int, step: int) -> Metric:
    from mlflow.entities import Metric

    # Layer names are the user's. An infinite value is stored as 1.8e308, which flattens every chart.
    name = re.sub(r"[^\w\-. :/]", "_", name)[:250]
    return Metric(name, value if math.isfinite(value) else math.nan, timestamp, step)


def make_params(params: Mapping[str, object]) -> list[Param]:
    """Returns MLflow's params, long values shortened.

    Floats have six digits, so that a column of the UI shows their exponent; the exact value is a metric.
    """
    from mlflow.entities import Param

    rounded = {n: float(f"{value:.6g}") if isinstance(value, float) else value for n, value in params.items()}
    return [Param(name, shorten(value, PARAM_LENGTH)) for name, value in rounded.items()]


def make_tags(tags: Mapping[str, object]) -> list[RunTag]:
    """Returns MLflow's tags, long values shortened."""
    from mlflow.entities import RunTag

    return [RunTag(name, shorten(value, TAG_LENGTH)) for name, value in tags.items()]


def shorten(value: object, length: int) -> str:
    """Returns a value's text with at most `length` characters."""
    text = str(value)
    return text if len(text) <= length else text[: length - 3] + "..."
