"""Metric histories worth comparing: of the best trial, the median one and the controls, from their checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ...config.settings import Settings
from ...study.finalists import unguided
from ..summary import Summary

if TYPE_CHECKING:
    from ...config.search_space import Scalar
    from ...study.records import Kind, TrialRecord
    from ...training.reports import EpochMetrics

Role = Literal["best", "median", "finalist", "control", "tuned"]


@dataclass(frozen=True)
class Curve:
    """One trial's history.

    Attributes:
        role: what it is compared as: ``finalist`` is the best configuration on a fresh seed.
        epochs: empty where its checkpoints are gone.
    """

    role: Role
    row: TrialRecord
    epochs: list[EpochMetrics]

    @property
    def label(self) -> str:
        """What a legend says."""
        names = {
            "best": f"best, trial {self.row.number}",
            "median": f"median, trial {self.row.number}",
            "finalist": "best configuration again",
            "control": "plain control",
            "tuned": "tuned control",
        }
        return f"{names[self.role]}, seed {self.row.seed}"

    def values(self, metric: str) -> list[tuple[int, float]]:
        """(epoch, value) of a metric."""
        return [(m.epoch, m.values[metric]) for m in self.epochs if metric in m.values]

    @property
    def layers(self) -> list[str]:
        """Layers whose entropy was logged, in the order of the network."""
        return [name.removeprefix("entropy/") for name in (self.epochs[-1].values if self.epochs else ())
                if name.startswith("entropy/")]  # fmt: skip


def compared(summary: Summary, settings: Settings) -> list[Curve]:
    """The best trial and the median one of the search; on one fresh seed the best configuration and its controls."""
    if not summary.best:
        return []
    config, best = summary.config, summary.best[0]
    twin = unguided({**config.constants, **best.hyperparameters})
    chosen: dict[Role, TrialRecord | None] = {"best": best, "median": summary.best[len(summary.best) // 2]}
    controls = sorted(summary.controls, key=lambda row: (row.seed, row.number))
    chosen["finalist"] = _first(controls, "finalist", best.hyperparameters)
    chosen["control"] = _first(controls, "control", twin)
    tuned = summary.comparison.tuned
    fresh = (row for row in controls if row.seed != config.training.seed)  # the others are those it was chosen from
    chosen["tuned"] = _first(fresh, "tuned", tuned) if tuned else None
    if chosen["median"] is best:
        del chosen["median"]
    return [Curve(role, row, _history(row, config.name, settings)) for role, row in chosen.items() if row is not None]


def _first(rows: Iterable[TrialRecord], kind: Kind, hyperparameters: Mapping[str, Scalar]) -> TrialRecord | None:
    alike = (r for r in rows if r.kind == kind and r.hyperparameters == hyperparameters and r.outcome == "completed")
    return next(alike, None)


def _history(row: TrialRecord, study: str, settings: Settings) -> list[EpochMetrics]:
    from ...training.checkpoint import load_latest

    saved = load_latest(settings.checkpoints(study if row.kind == "trial" else f"{study}.controls", row.number))
    return [m for m in saved.history if m.epoch <= row.epochs] if saved else []
