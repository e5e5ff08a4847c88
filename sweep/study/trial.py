"""The trial that a driver has claimed."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError

from ..config.search_space import Scalar
from ..config.trial_config import TrialConfig
from .records import Kind, TrialRecord


@dataclass
class Trial:
    """A trial that this driver has claimed: what the executor runs.

    Attributes:
        study: name of its Optuna study (``NAME`` or ``NAME.controls``).
        attempt: number of claims so far, counted from 1; each attempt writes to a folder of its own.
        owner: this driver, as the storage names it; another driver that adopts the trial replaces it.
        started: time of the first claim, in seconds since the Unix epoch; None: this driver has just claimed it.
        reported: last epoch that the storage has.
        last_pruning_check: last epoch at which the pruner was asked.
        epochs: epochs that count.
        seconds: training time of each epoch, those included that do not count.
        best: the objective so far: the last epoch's metric, or the best one (``objective.at``).
        exclusive: True after an out-of-memory error: the trial runs only while no other trial does.
        retry_of: number of the failed trial that it repeats.
        repeat_of: number of the trial whose configuration it trains on a further seed; the pruner does not stop it.
        fingerprint: a hash of its config and code: trials that share it have the same numbers.
        twin: the trial whose numbers it takes; None: it is trained.
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
    pruned_by: str | None = None
    epochs: int = 0
    seconds: dict[int, float] = field(default_factory=dict)
    best: float | None = None
    failures: int = 0
    exclusive: bool = False
    retry_of: int | None = None
    repeat_of: int | None = None
    fingerprint: str = ""
    twin: TrialRecord | None = None

    @property
    def key(self) -> tuple[str, int]:
        """Returns the study and the number: they identify the trial within the storage."""
        return self.study, self.number


class EndedElsewhereError(Exception):
    """Another driver has adopted the trial and ended it."""


@contextlib.contextmanager
def ended_elsewhere(trial: Trial) -> Iterator[None]:
    """Raises `EndedElsewhereError` if the storage refuses a write since the trial has ended."""
    try:
        yield
    except UpdateFinishedTrialError as error:
        raise EndedElsewhereError(f"trial {trial.number} of {trial.study}") from error
