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


PORT = 5000  # of `sweep ui` on this machine


def ui(name: str | None, settings: Settings, *, port: int = PORT) -> tuple[list[str], dict[str, str], list[str]]:
    """What `sweep ui` needs to serve the MLflow UI and to say where it is.

    Returns:
        The command that serves, empty for a server that runs already; its environment; the links. The first link is
        the one to open; of a study, the last is the one that asks nothing of MLflow beyond its documented ways.

    Raises:
        SweepError: no such study, a tracking server out of reach, or a port that is taken.
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
    """Links to the runs of search trials in the MLflow UI, by number, as far as MLflow holds them.

    Raises:
        TrackingError: the tracking server is out of reach.
    """
    from ..tracking.tracker import RunKey, Tracker

    tracker = Tracker.of(name, settings)
    experiment = tracker.check()
    if experiment is None:
        return {}
    runs = tracker.find_runs(experiment, [RunKey(name, "trial", row.number) for row in rows])
    return {key.number: run_url(_address(settings, PORT), experiment, run_id) for key, run_id in runs.items()}


def _address(settings: Settings, port: int) -> str:
    """Where the MLflow UI is, or will be when `sweep ui` serves it."""
    remote = settings.tracking_uri.startswith("http")
    return settings.tracking_uri if remote else f"http://127.0.0.1:{port}"
