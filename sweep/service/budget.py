"""Ends a search before all of its trials: after some hours, or at a target."""

import time
from collections.abc import Callable, Iterator

from ..config.study_config import StudyConfig
from ..study.finalists import best_rows
from ..study.study import Study


class Budget:
    """The budget of a search, which hours or a target may end.

    Attributes:
        is_spent: True once a reason was found.
    """

    def __init__(self, config: StudyConfig, search: Study, on_message: Callable[[str], object]):
        self._config, self._search, self._on_message = config, search, on_message
        self._began = time.monotonic()
        self.is_spent = False

    def check(self) -> bool:
        """Returns True if no more trials start; the reason is told once."""
        if not self.is_spent and (reason := next(self._reasons(), None)) is not None:
            self.is_spent = True
            self._on_message(reason)
        return self.is_spent

    def _reasons(self) -> Iterator[str]:
        search, objective = self._config.search, self._config.objective
        if search.hours is not None and time.monotonic() - self._began > search.hours * 3600:
            yield f"{search.hours:g} hours are over: no new trials; running the study again continues it"
        if (target := search.target) is not None:
            for row in best_rows(self._config, self._search.rows(), 1):
                if row.value is not None and not objective.better(target, row.value):
                    yield f"trial {row.number} reached the target {target:g}: no new trials"
