"""A trial as its readers have it: its kind, its outcome, and its record in the storage. Imports no Optuna."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

from ..config.search_space import Scalar

Outcome = Literal["completed", "pruned", "diverged", "collapsed", "failed"]
"""The end of a trial. A collapsed one trained to its last epoch and is no better than a constant output."""

LOST_WORKER = "lost worker"  # MLflow tag sweep.reason of a trial that failed by no error of its own
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
Arm = Literal[
    "guided",
    "plain",
    "strongest",
    "placebo",
    "dropout",
    "weight_decay",
    "batch_norm",
    "he",
    "orthogonal",
    "lsuv",
    "default",
]
"""The networks that `sweep confirm` trains on the same seeds, and measures on the test set.

In a study without guidance, ``guided`` is the configuration to confirm, and ``default`` has the default values.
"""

ARMS: tuple[Arm, ...] = get_args(Arm)
Kind = Literal["trial", "control", "tuned", "finalist"] | Arm


class PlannedTrial(NamedTuple):
    """A trial that the sister study is to hold; ``of`` is the number of the search trial it belongs to."""

    kind: Kind
    of: int
    seed: int
    hyperparameters: dict[str, Scalar]


@dataclass(frozen=True)
class TrialRecord:
    """One trial as the storage has it.

    Attributes:
        value: the objective of a completed or collapsed trial.
        epochs: epochs that count.
        of: number of the search trial that a row of the sister study belongs to.
        owner: host and process of the driver that claimed it last.
        started, ended: seconds since the Unix epoch.
        trained: epochs, those included that do not count; None before the end, and in old studies.
        seconds: time that ``trained`` took.
        tags: MLflow tags of the trial, kept for a run that MLflow has missed.
        pruned_by: the comparison that stopped it; None in studies that an older version wrote.
        retry_of: number of the failed trial that it repeats, which then counts no more.
        reported: the objective by epoch, at the epochs at which the pruner decides and the last one.
        twin: number of the trial whose numbers it took; it was not trained.
        repeat_of: number of the trial whose configuration it trains on a further seed (``search.seeds``).
        values: of a configuration (see `finalists.best_rows`), the objective by seed; ``value`` is their mean.
        standard_error: of ``value``, of a configuration that raced; infinite if it was lost on a seed.
    """

    number: int
    kind: Kind
    state: Literal["waiting", "running", "finished"]
    outcome: Outcome | None
    value: float | None
    hyperparameters: dict[str, Scalar]
    seed: int
    epochs: int
    design: bool
    of: int | None
    checkpoint: str | None
    error: str | None
    owner: str | None
    orphan: bool
    started: float | None
    ended: float | None
    trained: int | None = None
    seconds: float | None = None
    tags: dict[str, str] = field(default_factory=dict)
    pruned_at: int | None = None
    pruned_by: str | None = None
    retry_of: int | None = None
    reported: dict[int, float] = field(default_factory=dict)
    twin: int | None = None
    repeat_of: int | None = None
    values: dict[int, float] = field(default_factory=dict)
    standard_error: float = 0.0
