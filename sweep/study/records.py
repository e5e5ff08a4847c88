"""What a trial of a study is to whoever reads it: its kind, its outcome, and its row in the storage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from ..config.search_space import Scalar

Outcome = Literal["completed", "pruned", "diverged", "failed"]
Arm = Literal[
    "guided", "plain", "strongest", "placebo", "dropout", "weight_decay", "batch_norm", "he", "orthogonal", "lsuv"
]
"""What `sweep confirm` trains on the same seeds, with the test set measured."""

ARMS: tuple[Arm, ...] = get_args(Arm)
Kind = Literal["trial", "control", "tuned", "finalist"] | Arm
Wanted = tuple[Kind, int, int, dict[str, Scalar]]
"""A row that the sister study is to have: its kind, the search trial it belongs to, its seed, its hyperparameters."""


@dataclass(frozen=True)
class Row:
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
