"""The trial that a driver has claimed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import optuna

from ..config.search_space import Scalar
from ..config.study_config import TrialConfig
from .records import Kind


@dataclass
class Trial:
    """A trial that this driver has taken: what the executor runs.

    Attributes:
        study: name of its Optuna study (``NAME`` or ``NAME.controls``).
        of: for rows of the sister study, the number of the search trial they belong to.
        attempt: how often the trial was taken up, counted from 1; each attempt writes to a folder of its own.
        mark: this driver's, which another one replaces when it takes this one for dead.
        started: when it was first taken, in seconds since the Unix epoch; None: by this driver, just now.
        reported: last epoch that the storage has.
        judged: last epoch that the pruner has judged.
        pruned_at: epoch at which it has stopped the trial.
        epochs: epochs that count.
        seconds: what each epoch took to train, those included that do not count.
        best: what the objective is so far: the last epoch's metric, or its best one.
        failures: how often its own code has raised an error.
        alone: whether it was out of memory, and goes on when no other trial runs.
    """

    study: str
    number: int
    kind: Kind
    hyperparameters: dict[str, Scalar]
    config: TrialConfig
    design: bool
    of: int | None
    attempt: int
    handle: optuna.Trial = field(repr=False)
    owner: dict[str, Any] = field(repr=False)
    started: float | None = None
    reported: int = 0
    last_pruning_check: int = 0
    pruned_at: int | None = None
    epochs: int = 0
    seconds: dict[int, float] = field(default_factory=dict)
    best: float | None = None
    failures: int = 0
    exclusive: bool = False

    @property
    def key(self) -> tuple[str, int]:
        """What identifies the trial within the storage."""
        return self.study, self.number


class EndedElsewhereError(Exception):
    """Another driver has taken a trial for abandoned, and ended it."""
