"""Draws Optuna's own figures from the records of a study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import optuna
from optuna.trial import TrialState, create_trial
from optuna.visualization import plot_parallel_coordinate, plot_slice

from .distributions import distributions

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from ..config.study_config import StudyConfig
    from .records import TrialRecord


def parallel_coordinate(config: StudyConfig, rows: Sequence[TrialRecord], metric: str) -> go.Figure:
    """Returns Optuna's parallel coordinates of completed trials."""
    return plot_parallel_coordinate(_in_memory(config, rows), target_name=metric)


def slice_plots(config: StudyConfig, rows: Sequence[TrialRecord], metric: str) -> dict[str, go.Figure]:
    """Returns Optuna's slice plot of each searched hyperparameter, by its name."""
    study = _in_memory(config, rows)
    return {name: plot_slice(study, [name], target_name=metric) for name in config.searched}


def _in_memory(config: StudyConfig, rows: Sequence[TrialRecord]) -> optuna.Study:
    space = distributions(config.searched)
    study = optuna.create_study(direction=config.objective.direction)
    trials = [
        create_trial(
            state=TrialState.COMPLETE,
            params={name: row.hyperparameters[name] for name in space},
            distributions=space,
            value=row.value,
        )
        for row in sorted(rows, key=lambda row: row.number)
    ]
    study.add_trials(trials)
    return study
