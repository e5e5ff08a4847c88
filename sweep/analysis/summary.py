"""What a study has come to, read from the storage alone: its trials, the best ones, and where to look at them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..config.sections import FinalistsConfig, SearchConfig
from ..config.settings import Settings
from ..config.study_config import StudyConfig
from ..config.study_file import to_yaml
from ..study.records import ARMS
from ..study.storages.catalog import get_storage, load_stored_config, study_names_of_ours

if TYPE_CHECKING:
    from ..study.records import TrialRecord
    from .comparison import FinalistComparison
    from .sensitivity import Analysis


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
    rows: list[TrialRecord]
    best: list[TrialRecord]
    controls: list[TrialRecord]
    comparison: FinalistComparison
    interrupted: bool = False
    seconds: float = 0.0
    analysis: Analysis | None = None

    @classmethod
    def of(
        cls, config: StudyConfig, rows: list[TrialRecord], controls: list[TrialRecord], *, interrupted: bool = False
    ) -> Summary:
        """Ranks and compares what the storage holds."""
        from ..study.finalists import best_rows
        from .comparison import compare_finalists

        return cls(
            config, rows, best_rows(config, rows), controls, compare_finalists(config, rows, controls), interrupted
        )


def summarise(name: str, settings: Settings) -> Summary:
    """What a study has come to so far; reads the storage alone.

    Raises:
        SweepError: no such study.
    """
    from ..study.stored_trials import read_rows

    config, storage = load_stored_config(name, settings), get_storage(settings.storage)
    return Summary.of(config, read_rows(name, storage), read_rows(f"{name}.controls", storage))


def finished_rows(config: StudyConfig, settings: Settings) -> list[TrialRecord]:
    """What `sweep run` has trained, finalists and controls too; nothing of a study that was not started."""
    if config.name not in study_names_of_ours(settings):
        return []
    summary = summarise(config.name, settings)
    rows = [*summary.rows, *summary.controls]
    return [row for row in rows if row.state == "finished" and row.kind not in ARMS]


def export_config(config: StudyConfig, row: TrialRecord) -> str:
    """A study file of one configuration: every hyperparameter is a constant."""
    space = {**config.constants, **row.hyperparameters}
    search = SearchConfig(trials=1, finalists=FinalistsConfig(top=0))
    return to_yaml(
        config.model_copy(update={"name": f"{config.name}-{row.number:04d}", "space": space, "search": search})
    )
