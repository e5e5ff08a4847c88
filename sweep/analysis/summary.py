"""The present state of a study, read from the storage alone: its trials, ranked, and the finalists' comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..config.sections import FinalistsConfig, SearchConfig
from ..config.settings import Settings
from ..config.study_config import StudyConfig
from ..config.study_file import to_yaml
from ..study.records import ARMS, OUTCOMES
from ..study.storages.catalog import get_storage, load_stored_config, study_names_of_ours

if TYPE_CHECKING:
    from ..study.finalists import Expected
    from ..study.records import TrialRecord
    from .comparison import FinalistComparison
    from .sensitivity import Analysis


@dataclass(frozen=True)
class Summary:
    """The state of a study."""

    config: StudyConfig
    rows: list[TrialRecord]  # all trials of the search, by number
    best: list[TrialRecord]  # completed trials of the search, by the value that is expected on a fresh seed
    controls: list[TrialRecord]  # all rows of the sister study: finalists, controls and pairs
    comparison: FinalistComparison  # the finalists and their controls; empty before that stage
    interrupted: bool = False  # True if the run was stopped before it met the budget
    seconds: float = 0.0
    analysis: Analysis | None = None  # sensitivity; None if the run did not reach that stage

    @property
    def counted(self) -> str:
        """Trials of the search by outcome: ``64 trials: 58 completed, 6 pruned``."""
        counts = {outcome: sum(row.outcome == outcome for row in self.rows) for outcome in OUTCOMES}
        listed = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
        twins = sum(row.twin is not None for row in self.rows)
        taken = f"; {twins} took the numbers of an equal one" if twins else ""
        return f"{len(self.rows)} trials: {listed or 'none finished'}{taken}"

    @property
    def expected(self) -> dict[int, Expected]:
        """The objective of completed trials that is expected on a fresh seed, by number; empty without finalists."""
        from ..study.finalists import expected_on_fresh_seeds

        return expected_on_fresh_seeds(self.config, self.rows, self.controls)

    @property
    def verdicts(self) -> list[str]:
        """Sentences on the finalists: the gain over each control, and how much of the best value is luck."""
        from .comparison import finalist_verdicts
        from .optimism import optimism

        luck = optimism(self)
        return [*finalist_verdicts(self.config, self.comparison), *([luck] if luck else [])]

    @classmethod
    def of(
        cls, config: StudyConfig, rows: list[TrialRecord], controls: list[TrialRecord], *, interrupted: bool = False
    ) -> Summary:
        """Ranks the trials of the search, and compares the finalists with their controls."""
        from ..study.finalists import ranked_rows
        from .comparison import compare_finalists

        comparison = compare_finalists(config, rows, controls)
        return cls(config, rows, ranked_rows(config, rows, controls), controls, comparison, interrupted)


def summarise(name: str, settings: Settings) -> Summary:
    """Reads the present state of a study from the storage.

    Raises:
        SweepError: no such study.
    """
    from ..study.stored_trials import read_rows

    config, storage = load_stored_config(name, settings), get_storage(settings.storage)
    return Summary.of(config, read_rows(name, storage), read_rows(f"{name}.controls", storage))


def finished_rows(config: StudyConfig, settings: Settings) -> list[TrialRecord]:
    """Returns what `sweep run` has trained, finalists and controls included; nothing if the study was never started."""
    if config.name not in study_names_of_ours(settings):
        return []
    summary = summarise(config.name, settings)
    rows = [*summary.rows, *summary.controls]
    return [row for row in rows if row.state == "finished" and row.kind not in ARMS]


def export_config(config: StudyConfig, row: TrialRecord) -> str:
    """Returns a study file of one configuration: every hyperparameter is a constant."""
    space = {**config.constants, **row.hyperparameters}
    search = SearchConfig(trials=1, finalists=FinalistsConfig(top=0))
    name = f"{config.name}-{row.number:04d}"
    return to_yaml(config.model_copy(update={"name": name, "space": space, "search": search}))
