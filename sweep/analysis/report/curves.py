"""Metric histories for the report, from checkpoints: the best trial, the median trial, and the controls."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from ...config.search_space import Scalar
from ...config.settings import Settings
from ...study.finalists import unguided
from ...study.records import Kind, TrialRecord
from ...training.reports import EpochMetrics
from ..summary import Summary

logger = logging.getLogger(__name__)

Role = Literal["best", "median", "finalist", "control", "tuned"]  # finalist: the best configuration on a fresh seed


@dataclass(frozen=True)
class Curve:
    """The history of one trial."""

    role: Role
    row: TrialRecord
    epochs: list[EpochMetrics]  # empty if the checkpoints are gone

    @property
    def label(self) -> str:
        """The text of the legend."""
        names = {"finalist": "best configuration again", "control": "plain control", "tuned": "tuned control"}
        return f"{names.get(self.role, f'{self.role}, trial {self.row.number}')}, seed {self.row.seed}"

    def values(self, metric: str) -> dict[int, float]:
        """Returns a metric's values by epoch."""
        return {m.epoch: m.values[metric] for m in self.epochs if metric in m.values}

    @property
    def layers(self) -> list[str]:
        """Layers whose entropy was logged, in the order of the network."""
        logged = self.epochs[-1].values if self.epochs else ()
        return [name.removeprefix("entropy/") for name in logged if name.startswith("entropy/")]


def select_curves(summary: Summary, settings: Settings) -> list[Curve]:
    """Returns curves of the best and the median trial; and on one fresh seed, the best configuration and controls."""
    if not summary.best:
        return []
    config, best = summary.config, summary.best[0]
    median, tuned = summary.best[len(summary.best) // 2], summary.comparison.tuned
    controls = sorted(summary.controls, key=lambda row: (row.seed, row.number))
    fresh = (row for row in controls if row.seed != config.training.seed)  # on that seed the tuned one was selected
    chosen: dict[Role, TrialRecord | None] = {
        "best": best,
        "median": None if median is best else median,
        "finalist": _first(controls, "finalist", best.hyperparameters),
        "control": _first(controls, "control", unguided({**config.constants, **best.hyperparameters})),
        "tuned": _first(fresh, "tuned", tuned) if tuned else None,
    }
    return [Curve(role, row, history(row, config.name, settings)) for role, row in chosen.items() if row is not None]


def _first(rows: Iterable[TrialRecord], kind: Kind, hyperparameters: Mapping[str, Scalar]) -> TrialRecord | None:
    alike = (r for r in rows if r.kind == kind and r.hyperparameters == hyperparameters and r.outcome == "completed")
    return next(alike, None)


def history(row: TrialRecord, study: str, settings: Settings) -> list[EpochMetrics]:
    """Returns the epochs of a trial that count; none if its checkpoints are gone."""
    from ...training.checkpoint import load_latest

    folder = settings.checkpoints(study if row.kind == "trial" else f"{study}.controls", row.number)
    saved = load_latest(folder)
    if saved is None:
        logger.info("no learning curve of trial %d: %s has no checkpoint", row.number, folder)
        return []
    return [m for m in saved.history if m.epoch <= row.epochs]
