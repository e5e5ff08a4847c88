"""Ends a search before all of its trials: after some hours, at a target, or when it improves no more."""

import math
import time
from collections.abc import Callable, Iterator, Sequence

from ..analysis.noise import pooled_variance, values_by_configuration
from ..config.sections import Objective
from ..config.study_config import StudyConfig
from ..study.finalists import best_rows
from ..study.records import TrialRecord
from ..study.study import Study

MIN_REPEATS = 8  # degrees of freedom of a measured noise
STOPPED = "stopped_by_patience"  # attribute of the study: its budget then, and how many trials had ended


class Budget:
    """The budget of a search, which hours, a target or patience may end.

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
        if search.patience is not None and (reason := self._out_of_patience(search.patience)) is not None:
            yield reason

    def _out_of_patience(self, patience: int) -> str | None:
        rows, budget = self._search.rows(), self._config.search.trials
        if any(row.design and row.state != "finished" for row in rows):
            return None
        ended = sorted((r for r in rows if r.state == "finished" and r.outcome != "failed"), key=lambda r: r.ended or 0)
        before = self._search.get_user_attr(STOPPED) or {"trials": budget, "ended": 0}
        skipped = before["ended"] if before["trials"] < budget else 0  # a larger budget goes on from there
        noise = measured_noise(rows)
        if trials_without_improvement(self._config.objective, ended, noise=noise, skipped=skipped) < patience:
            return None
        if before["trials"] < budget or not before["ended"]:
            self._search.set_user_attr(STOPPED, {"trials": budget, "ended": len(ended)})
        by = f"by more than the noise, {noise:.3g}" if noise else "on the best"
        saved = sum(row.state == "waiting" for row in rows)
        return (
            f"the last {patience} trials have not improved {by}: no new trials, {saved} of {len(rows)} are not run; "
            f"sweep run {self._config.name} --trials with a number above {budget} goes on"
        )


def trials_without_improvement(
    objective: Objective, ended: Sequence[TrialRecord], *, noise: float, skipped: int
) -> int:
    """Returns how many trials have ended since one was better than the last such trial by more than the noise.

    Args:
        objective: metric and direction.
        ended: trials in the order of their ends; of design trials the values count, and not the number.
        noise: standard deviation of the objective between seeds.
        skipped: trials at the beginning that are not counted either.
    """
    best, count = math.inf if objective.direction == "minimize" else -math.inf, 0
    margin = noise if objective.direction == "minimize" else -noise
    for position, row in enumerate(ended):
        if row.outcome == "completed" and row.value is not None and objective.better(row.value + margin, best):
            best, count = row.value, 0
        elif not row.design and position >= skipped:
            count += 1
    return count


def measured_noise(rows: Sequence[TrialRecord]) -> float:
    """Returns the pooled standard deviation between completed trials of one configuration on several seeds.

    Returns 0 if they have fewer than `MIN_REPEATS` degrees of freedom.
    """
    variance, freedom = pooled_variance(values_by_configuration(rows))
    return math.sqrt(variance) if freedom >= MIN_REPEATS else 0.0
