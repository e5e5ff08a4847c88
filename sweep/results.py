"""What a study has come to, read from the storage alone: its trials, the best ones, and where to look at them."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .config import StudyConfig
from .errors import SweepError
from .finding import connect, stored, studies
from .links import VIEW, experiment_url, run_url, view_url
from .rows import ARMS
from .sections import FinalistsConfig, SearchConfig
from .settings import Settings
from .studyfile import to_yaml

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .finalists import Comparison
    from .rows import Row
    from .sensitivity import Analysis

PORT = 5000  # of `sweep ui` on this machine


@dataclass(frozen=True)
class Summary:
    """What a study has come to.

    Attributes:
        rows: all trials of the search, by number.
        best: its completed trials, best first.
        comparison: the finalists beside their controls; empty before that stage.
        controls: all rows of the sister study.
        interrupted: whether this run was stopped before the budget was met.
        seconds: what the run took.
        analysis: what matters; None where the run did not come to it.
    """

    config: StudyConfig
    rows: list[Row]
    best: list[Row]
    controls: list[Row]
    comparison: Comparison
    interrupted: bool = False
    seconds: float = 0.0
    analysis: Analysis | None = None

    @classmethod
    def of(cls, config: StudyConfig, rows: list[Row], controls: list[Row], *, interrupted: bool = False) -> Summary:
        """Ranks and compares what the storage holds."""
        from .finalists import best_rows, compare

        return cls(config, rows, best_rows(config, rows), controls, compare(config, rows, controls), interrupted)


def summarise(name: str, settings: Settings) -> Summary:
    """What a study has come to so far; reads the storage alone.

    Raises:
        SweepError: no such study.
    """
    from .study import read_rows

    config, storage = stored(name, settings), connect(settings.storage)
    return Summary.of(config, read_rows(name, storage), read_rows(f"{name}.controls", storage))


def finished_rows(config: StudyConfig, settings: Settings) -> list[Row]:
    """What `sweep run` has trained, finalists and controls too; nothing of a study that was not started."""
    if config.name not in studies(settings):
        return []
    summary = summarise(config.name, settings)
    rows = [*summary.rows, *summary.controls]
    return [row for row in rows if row.state == "finished" and row.kind not in ARMS]


def export(config: StudyConfig, row: Row) -> str:
    """A study file of one configuration: every hyperparameter is a constant."""
    space = {**config.constants, **row.hyperparameters}
    search = SearchConfig(trials=1, finalists=FinalistsConfig(top=0))
    return to_yaml(
        config.model_copy(update={"name": f"{config.name}-{row.number:04d}", "space": space, "search": search})
    )


def ui(name: str | None, settings: Settings, *, port: int = PORT) -> tuple[list[str], dict[str, str], list[str]]:
    """What `sweep ui` needs to serve the MLflow UI and to say where it is.

    Returns:
        The command that serves, empty for a server that runs already; its environment; the links. The first link is
        the one to open; of a study, the last is the one that asks nothing of MLflow beyond its documented ways.

    Raises:
        SweepError: no such study, a tracking server out of reach, or a port that is taken.
    """
    from .tracking import Tracker, serve

    links = [url := _address(settings, port)]
    if name is not None:
        config, tracker = stored(name, settings), Tracker.of(name, settings)
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


def run_links(name: str, rows: Iterable[Row], settings: Settings) -> dict[int, str]:
    """Links to the runs of search trials in the MLflow UI, by number, as far as MLflow holds them.

    Raises:
        TrackingError: the tracking server is out of reach.
    """
    from .tracking import RunKey, Tracker

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
