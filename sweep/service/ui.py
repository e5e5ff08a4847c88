"""Serves the MLflow UI and makes links into it."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from ..config.errors import SweepError
from ..config.settings import Settings
from ..study.storages.catalog import load_stored_config
from ..tracking.ui_links import VIEW, experiment_url, run_url, view_url

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..study.records import TrialRecord


PORT = 5000  # on which `sweep ui` serves


def ui(name: str | None, settings: Settings, *, port: int = PORT) -> tuple[list[str], dict[str, str], list[str]]:
    """Returns what `sweep ui` needs to serve the MLflow UI and to print links into it.

    Returns:
        The command that serves, empty if a server runs already; its environment; the links. The first link is the one
        to open. The last link of a study relies on documented features of MLflow only.

    Raises:
        SweepError: no such study, an unreachable tracking server, or a port in use.
    """
    from ..tracking.tracker import Tracker, serve

    links = [url := _address(settings, port)]
    if name is not None:
        config, tracker = load_stored_config(name, settings), Tracker.of(name, settings)
        experiment = tracker.check()
        if experiment is not None:
            links = [experiment_url(url, experiment, ascending=config.objective.direction == "minimize")]
            if VIEW in tracker.experiment_tags:
                links.insert(0, view_url(url, experiment))
    remote = url == settings.tracking_uri
    if not remote and _is_taken(port):
        raise SweepError(f"--port: {port} of this machine is taken (sweep services status shows a server of yours)")
    command, environment = ([], {}) if remote else serve(settings.tracking_uri, settings.artifacts, port=port)
    return command, environment, links


def _is_taken(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def run_links(name: str, rows: Iterable[TrialRecord], settings: Settings) -> dict[int, str]:
    """Returns links to the runs of search trials in the MLflow UI, by number; trials without a run have none.

    Raises:
        TrackingError: the tracking server is unreachable.
    """
    from ..tracking.tracker import RunKey, Tracker

    tracker = Tracker.of(name, settings)
    experiment = tracker.check()
    if experiment is None:
        return {}
    runs = tracker.find_runs(experiment, [RunKey(name, "trial", row.number) for row in rows])
    return {key.number: run_url(_address(settings, PORT), experiment, run_id) for key, run_id in runs.items()}


def _address(settings: Settings, port: int) -> str:
    """Returns the address of the MLflow UI, or the one at which `sweep ui` would serve it."""
    remote = settings.tracking_uri.startswith("http")
    return settings.tracking_uri if remote else f"http://127.0.0.1:{port}"
