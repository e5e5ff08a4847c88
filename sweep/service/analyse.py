"""Analyses a study: its sensitivity, and its report in the workspace and in MLflow."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..analysis.summary import summarise
from ..config.errors import TrackingError
from ..config.settings import Settings
from ..study.storages.catalog import CONFIRMATION, get_storage, load_stored_config, study_id

if TYPE_CHECKING:
    from ..analysis.confirmation import Confirmation
    from ..analysis.report.report import Report
    from ..analysis.sensitivity import Analysis
    from ..study.dataframe import Table
    from ..tracking.tracker import Tracker
    from .callback import RunCallback

logger = logging.getLogger(__name__)


def sensitivity(
    name: str,
    settings: Settings,
    *,
    metric: str | None = None,
    epoch: int | None = None,
    against_control: bool = False,
    where: str | None = None,
    divergence: bool = True,
) -> list[Analysis]:
    """Analyses the sensitivity of a study, ours or any other of the storage: one analysis for each objective.

    ``metric``, ``epoch``, ``against_control``: see `sweep.study.dataframe.read_tables`; ``where``: see
    `sweep.analysis.conditions`. With ``divergence``, its probability is analysed too, if trials have diverged; and that
    of a collapse.

    Raises:
        SweepError: no such study, metric or epoch, or a malformed condition.
    """
    from ..analysis.conditions import parse_conditions
    from ..analysis.sensitivity import analyse, analyse_outcome
    from ..study.dataframe import read_tables

    tables = read_tables(
        name, get_storage(settings.storage), settings, metric=metric, epoch=epoch, against_control=against_control
    )
    conditions = {} if where is None else parse_conditions(where, tables[0].space)

    def analysed(table: Table) -> Analysis:
        whole = replace(analyse(table, where=conditions), where=where)
        if not divergence:
            return whole
        found = (analyse_outcome(table, outcome, where=conditions) for outcome in ("diverged", "collapsed"))
        diverged, collapsed = (each and replace(each, where=where) for each in found)
        return replace(whole, divergence=diverged, collapse=collapsed)

    return [analysed(table) for table in tables]


def importances(name: str, settings: Settings) -> dict[str, dict[str, float]]:
    """Returns Optuna's own importances: objective -> hyperparameter -> importance."""
    from ..study.dataframe import importances

    return importances(name, get_storage(settings.storage), settings)


def report(name: str, settings: Settings, folder: Path | None = None) -> Report:
    """Writes the report of a study to a folder; by default to the study's own folder in the workspace."""
    load_stored_config(name, settings)
    [analysis] = sensitivity(name, settings)
    return _write(name, analysis, settings, folder or settings.reports(name))


def stored_confirmation(name: str, settings: Settings) -> Confirmation | None:
    """Returns what `sweep confirm` has found last; None before."""
    from ..analysis.confirmation import Confirmation
    from ..study.storages.storage import get_user_attr

    stored = get_user_attr(name, CONFIRMATION, get_storage(settings.storage))
    return Confirmation.from_data(stored) if stored else None


def _write(name: str, analysis: Analysis, settings: Settings, folder: Path) -> Report:
    from ..analysis.report.report import write_report
    from ..study.storages.storage import get_user_attr

    codes = get_user_attr(name, "code", get_storage(settings.storage)) or []
    confirmed = stored_confirmation(name, settings)
    return write_report(summarise(name, settings), analysis, codes, settings, folder, confirmed=confirmed)


def analyse_finished(
    name: str, settings: Settings, tracker: Tracker, callback: RunCallback, *, report: bool
) -> Analysis | None:
    """Analyses a study at the end of its run; a failure becomes a message, and the run still succeeds."""
    analysis = None
    try:
        [analysis] = sensitivity(name, settings, divergence=report)
        if report:
            _log(_write(name, analysis, settings, settings.reports(name)), tracker)
    except Exception as error:
        logger.debug("the report of %s failed", name, exc_info=True)
        again = f"to try again: sweep report {name}"
        callback.on_message(f"the report was not written ({type(error).__name__}: {error}); {again}")
    return analysis


def log_report(name: str, written: Report, settings: Settings) -> str | None:
    """Logs a report to the study's own run in MLflow; returns the problem if that fails."""
    return log_to_run(name, settings, partial(_log, written))


def log_to_run(name: str, settings: Settings, log: Callable[[Tracker], None]) -> str | None:
    """Logs something to a study's own run in MLflow; returns the problem if that fails."""
    from ..tracking.tracker import Tracker

    try:
        tracker = Tracker.of(name, settings, study_id(name, settings))
        if not tracker.open_existing():
            return f"it has no experiment {name}"
    except TrackingError as error:
        return str(error)
    log(tracker)
    tracker.close(status=None, timeout=60)
    return tracker.error


def _log(written: Report, tracker: Tracker) -> None:
    from ..training.reports import EpochMetrics

    tracker.log_epochs(None, [EpochMetrics(written.trials, written.metrics, written.moment)])
    tracker.set_tags(None, {"sweep.sensitivity": written.strength or "refused"})
    tracker.log_files(None, written.files, "report")
