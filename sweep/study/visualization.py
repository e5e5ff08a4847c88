"""Draws Optuna's own figures from the records of a study."""

from collections.abc import Sequence

import optuna
import plotly.graph_objects as go
from optuna.trial import TrialState, create_trial
from optuna.visualization import plot_parallel_coordinate, plot_slice

from ..config.study_config import StudyConfig
from .distributions import distributions
from .records import TrialRecord


def parallel_coordinate(
    config: StudyConfig, rows: Sequence[TrialRecord], metric: str, names: Sequence[str]
) -> go.Figure:
    """Returns Optuna's parallel coordinates of completed trials, with hyperparameters that all of them have."""
    return plot_parallel_coordinate(_in_memory(config, rows), list(names), target_name=metric)


def shared_names(config: StudyConfig, rows: Sequence[TrialRecord]) -> list[str]:
    """Returns the searched hyperparameters that all trials have, in alphabetical order, as Optuna draws them."""
    return sorted(name for name in config.searched if all(name in row.hyperparameters for row in rows))


def slice_plots(config: StudyConfig, rows: Sequence[TrialRecord], metric: str) -> dict[str, go.Figure]:
    """Returns Optuna's slice plot of each searched hyperparameter, by its name."""
    study = _in_memory(config, rows)
    present = [name for name in config.searched if any(name in row.hyperparameters for row in rows)]
    return {name: plot_slice(study, [name], target_name=metric) for name in present}


def _in_memory(config: StudyConfig, rows: Sequence[TrialRecord]) -> optuna.Study:
    space = distributions(config.searched)
    study = optuna.create_study(direction=config.objective.direction)
    for row in sorted(rows, key=lambda row: row.number):
        params = {name: row.hyperparameters[name] for name in space if name in row.hyperparameters}
        kinds = {name: space[name] for name in params}
        study.add_trial(create_trial(state=TrialState.COMPLETE, params=params, distributions=kinds, value=row.value))
    return study
