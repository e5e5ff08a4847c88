"""What a trial of a study is to whoever reads it: its kind, its outcome, and its row in the storage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

from ..config.search_space import Scalar

Outcome = Literal["completed", "pruned", "diverged", "failed"]
Arm = Literal[
    "guided", "plain", "strongest", "placebo", "dropout", "weight_decay", "batch_norm", "he", "orthogonal", "lsuv"
]
"""What `sweep confirm` trains on the same seeds, with the test set measured."""

ARMS: tuple[Arm, ...] = get_args(Arm)
Kind = Literal["trial", "control", "tuned", "finalist"] | Arm


class PlannedTrial(NamedTuple):
    """A trial that the sister study is to hold.

    Attributes:
        of: number of the search trial it belongs to.
        seed: training seed.
    """

    kind: Kind
    of: int
    seed: int
    hyperparameters: dict[str, Scalar]


@dataclass(frozen=True)
class TrialRecord:
    """One trial as the storage has it."""

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
    trained: int | None = None  # epochs, those included that do not count; None, as below: not counted, or not ended
    seconds: float | None = None  # that they took
    tags: dict[str, str] = field(default_factory=dict)
