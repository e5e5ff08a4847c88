"""What a study has come to, read from the storage alone: its trials, the best ones, and where to look at them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .config import FinalistsConfig, SearchConfig, StudyConfig
from .finding import connect, stored, studies
from .settings import Settings
from .studyfile import to_yaml

if TYPE_CHECKING:
    from .finalists import Comparison
    from .study import Row


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
    """

    config: StudyConfig
    rows: list[Row]
    best: list[Row]
    controls: list[Row]
    comparison: Comparison
    interrupted: bool = False
    seconds: float = 0.0

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
    """The trials of the search that have ended; none of a study that was not started."""
    if config.name not in studies(settings):
        return []
    return [row for row in summarise(config.name, settings).rows if row.state == "finished"]


def export(config: StudyConfig, row: Row) -> str:
    """A study file of one configuration: every hyperparameter is a constant."""
    space = {**config.constants, **row.hyperparameters}
    search = SearchConfig(trials=1, finalists=FinalistsConfig(top=0))
    return to_yaml(
        config.model_copy(update={"name": f"{config.name}-{row.number:04d}", "space": space, "search": search})
    )


def ui(name: str | None, settings: Settings, *, port: int) -> tuple[list[str], dict[str, str], str]:
    """What `sweep ui` needs: the command that serves (empty for a server that runs already), its environment, the link.

    Raises:
        SweepError: no such study, or a tracking server out of reach.
    """
    from .tracking import Tracker, experiment_url, serve

    remote = settings.tracking_uri.startswith("http")
    url = settings.tracking_uri if remote else f"http://127.0.0.1:{port}"
    if name is not None:
        config = stored(name, settings)
        experiment = Tracker(settings.tracking_uri, name, artifacts=settings.artifacts).check()
        if experiment is not None:
            url = experiment_url(url, experiment, ascending=config.objective.direction == "minimize")
    command, environment = ([], {}) if remote else serve(settings.tracking_uri, settings.artifacts, port=port)
    return command, environment, url
