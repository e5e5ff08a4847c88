"""Trials for the executor without a study behind them: a list of requests that remembers what it is told."""

from __future__ import annotations

import time

from sweep.config.trial_config import TrialConfig
from sweep.execution.executor import Key, TrialRequest, TrialSource
from sweep.training.reports import OomKind, TrialReport
from sweep.training.trial import TrialPaths

PATIENCE = 700.0  # seconds, where a working executor needs a few
ENDLESS = 1_000_000  # epochs; such a trial ends when its source says so


def job(place: TrialPaths, number: int, max_epochs: int, *, width: int = 8, exclusive: bool = False) -> TrialRequest:
    config = TrialConfig.model_validate(
        {
            "model": {"name": "mlp", "depth": 1, "width": width},
            "data": {"name": "digits"},
            "objective": {"metric": "val_loss", "direction": "minimize"},
            "guidance": {},
            "training": {"max_epochs": max_epochs, "seed": number},
        }
    )
    where = TrialPaths(place.folder / str(number), place.data, place.cache)
    return TrialRequest(("study", number), config, where, attempt=1, exclusive=exclusive)


class Trials(TrialSource):
    """A list of trials; remembers all that it is told. Its children end the endless ones."""

    def __init__(self, jobs: list[TrialRequest]):
        self.left = list(jobs)
        self.begun: list[int] = []
        self.results: dict[int, list[TrialReport]] = {}
        self.given_up: dict[int, str] = {}
        self.lacks: list[OomKind | None] = []
        self.deadline = time.monotonic() + PATIENCE
        self.timed_out = False

    def ask(self) -> TrialRequest | None:
        return self.left.pop(0) if self.left else None

    def is_finished(self) -> bool:
        return not self.left

    def on_trial_start(self, key: Key) -> None:
        self.begun.append(key[1])

    def report(self, key: Key, result: TrialReport) -> bool:
        self.results.setdefault(key[1], []).append(result)
        self.timed_out = self.timed_out or time.monotonic() > self.deadline
        return self.enough(key[1]) or self.timed_out

    def enough(self, number: int) -> bool:  # noqa: ARG002 (its children look at it)
        """Returns True if a trial that has just reported should end."""
        return False

    def on_trial_lost(self, key: Key, error: str, oom: OomKind | None = None) -> None:
        self.given_up[key[1]] = error
        self.lacks.append(oom)

    def epochs(self, number: int) -> list[int]:
        return [m.epoch for result in self.results.get(number, []) for m in result.epochs]

    def outcome(self, number: int) -> str | None:
        return self.results[number][-1].outcome
