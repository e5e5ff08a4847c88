"""What is concluded from a study: what matters in it, and its report, in the workspace and in MLflow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..analysis.summary import summarise
from ..config.settings import Settings
from ..study.storages.catalog import CONFIRMATION, get_storage, load_stored_config

if TYPE_CHECKING:
    from ..analysis.report.report import Report
    from ..analysis.sensitivity import Analysis
    from ..tracking.tracker import Tracker
    from .driver import RunCallback


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
    """What matters in a study, ours or any other of the storage: one analysis for each of its objectives.

    Args:
        metric, epoch, against_control: see `sweep.study.dataframe.read_tables`.
        where: see `sweep.analysis.conditions.parse_conditions`.
        divergence: also analyse the probability of diverging, where trials have; takes seconds.

    Raises:
        SweepError: no such study, metric or epoch, or a condition that is none.
    """
    from ..analysis.conditions import parse_conditions
    from ..analysis.sensitivity import analyse, analyse_divergence
    from ..study.dataframe import read_tables

    tables = read_tables(
        name, get_storage(settings.storage), settings, metric=metric, epoch=epoch, against_control=against_control
    )
    conditions = {} if where is None else parse_conditions(where, tables[0].space)
    analyses = [replace(analyse(table, where=conditions), where=where) for table in tables]
    if divergence:
        second = [analyse_divergence(table, where=conditions) for table in tables]
        second = [each and replace(each, where=where) for each in second]
        return [replace(each, divergence=other) for each, other in zip(analyses, second, strict=True)]
    return analyses


def importances(name: str, settings: Settings) -> dict[str, dict[str, float]]:
    """Optuna's own importances, objective -> hyperparameter -> importance: what separated good trials from bad.

    Raises:
        SweepError: no such study.
    """
    from ..study.dataframe import importances

    return importances(name, get_storage(settings.storage))


def report(name: str, settings: Settings, folder: Path | None = None) -> Report:
    """Writes the report of a study to a folder, its own in the workspace unless another is given.

    Raises:
        SweepError: no such study.
    """
    load_stored_config(name, settings)
    [analysis] = sensitivity(name, settings)
    return _write(name, analysis, settings, folder or settings.reports(name))


def _write(name: str, analysis: Analysis, settings: Settings, folder: Path) -> Report:
    from ..analysis.report.report import write
    from ..study.storages.storage import get_user_attr

    storage = get_storage(settings.storage)
    codes, confirmed = get_user_attr(name, "code", storage) or [], get_user_attr(name, CONFIRMATION, storage)
    return write(summarise(name, settings), analysis, codes, settings, folder, confirmed=confirmed)


def analyse_finished(
    name: str, settings: Settings, tracker: Tracker, listener: RunCallback, *, report: bool
) -> Analysis | None:
    """What a run ends with, what matters and the report; what fails here is said, and the study is done all the same.

    Args:
        tracker: of the run; what it is handed is sent before it is closed.
        report: whether to write one.
    """
    analysis = None
    try:
        [analysis] = sensitivity(name, settings, divergence=report)
        if report:
            _log(_write(name, analysis, settings, settings.reports(name)), tracker)
    except Exception as error:  # noqa: BLE001  whatever it is, no trial is lost by it
        again = f"to try again: sweep report {name}"
        listener.on_message(f"the report was not written ({type(error).__name__}: {error}); {again}")
    return analysis


def publish(name: str, written: Report, settings: Settings) -> str | None:
    """Adds a report to the study's own run in MLflow; returns why not, where it cannot.

    Raises:
        TrackingError: the tracking server is out of reach.
    """
    from ..tracking.tracker import Tracker

    tracker = Tracker.of(name, settings)
    if not tracker.open_existing():
        return f"it has no experiment {name}"
    _log(written, tracker)
    tracker.close(status=None, timeout=60)
    return tracker.problem


def _log(written: Report, tracker: Tracker) -> None:
    from ..training.reports import EpochMetrics

    tracker.log_epochs(None, [EpochMetrics(written.trials, written.metrics, written.moment)])
    tracker.set_tags(None, {"sweep.sensitivity": written.strength or "refused"})
    tracker.log_files(None, written.files, "report")
