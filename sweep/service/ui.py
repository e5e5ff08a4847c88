"""Serves the MLflow UI and makes links into it."""

import socket
from collections.abc import Sequence

from ..config.errors import SweepError
from ..config.settings import Settings
from ..config.sqlite import sqlite_file
from ..study.records import TrialRecord
from ..study.storages.catalog import load_stored_config, study_id
from ..tracking.client import MlflowStore, create_store
from ..tracking.database import find_trial_runs
from ..tracking.runs import RunKey
from ..tracking.server import serve
from ..tracking.ui_links import VIEW, experiment_url, run_url, view_url

PORT = 5000  # on which `sweep ui` serves


def ui(name: str | None, settings: Settings, *, port: int = PORT) -> tuple[list[str], dict[str, str], list[str]]:
    """Returns the command that serves the MLflow UI (empty if a server runs already), its environment, and links.

    The first link is the one to open. The last link of a study relies on documented features of MLflow only.

    Raises:
        SweepError: no such study, an unreachable tracking server, or a port in use.
    """
    links = [url := _address(settings, port)]
    if name is not None:
        config, store = load_stored_config(name, settings), MlflowStore.of(name, settings, study_id(name, settings))
        experiment = store.find_experiment()
        if experiment is not None:
            links = [experiment_url(url, experiment, ascending=config.objective.direction == "minimize")]
            if VIEW in store.experiment_tags:
                links.insert(0, view_url(url, experiment))
    if url == settings.tracking_uri:
        return [], {}, links
    with socket.socket() as tried:
        if tried.connect_ex(("127.0.0.1", port)) == 0:
            raise SweepError(f"--port: {port} of this machine is taken by another program")
    create_store(settings.tracking_uri, settings.artifacts)
    return *serve(settings.tracking_uri, settings.artifacts, port=port), links


def run_links(name: str, rows: Sequence[TrialRecord], settings: Settings) -> dict[int, str]:
    """Returns links to the runs of search trials in the MLflow UI, by number; trials without a run have none."""
    own, file = study_id(name, settings), sqlite_file(settings.tracking_uri)
    found = find_trial_runs(file, name, own) if file and own else None
    if found is None:
        store = MlflowStore.of(name, settings, own)
        experiment = store.find_experiment()
        if experiment is None:
            return {}
        runs = store.find_runs(experiment, [RunKey(name, "trial", row.number) for row in rows])
        found = experiment, {key.number: run_id for key, run_id in runs.items()}
    url, (experiment, known) = _address(settings, PORT), found
    return {row.number: run_url(url, experiment, known[row.number]) for row in rows if row.number in known}


def _address(settings: Settings, port: int) -> str:
    return settings.tracking_uri if settings.tracking_uri.startswith("http") else f"http://127.0.0.1:{port}"
