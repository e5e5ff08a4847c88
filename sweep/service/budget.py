"""Ends a search before all of its trials: after some hours, at a target, or when little more is to be gained."""

import math
import time
from collections.abc import Callable, Iterator, Sequence

from ..config.sections import Objective
from ..config.study_config import StudyConfig
from ..study.finalists import best_rows
from ..study.noise import pooled_variance, values_by_configuration
from ..study.records import TrialRecord
from ..study.study import Study

MIN_REPEATS = 8  # degrees of freedom of a measured noise
# Attributes of the study: its budget then, and how many trials had ended.
STOPPED, STOPPED_UNTIL = "stopped_by_patience", "stopped_until"
EVERY, MIN_FURTHER = 16, 8  # share of the trials, and the least number, between two looks at what is to be gained


class Budget:
    """The budget of a search, which hours, a target or patience may end.

    Attributes:
        is_spent: True once a reason was found.
    """

    def __init__(self, config: StudyConfig, search: Study, on_message: Callable[[str], object]):
        self._config, self._search, self._on_message = config, search, on_message
        self._began = time.monotonic()
        self._looked_at = 0  # how many trials had ended
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
        if search.until is not None and (reason := self._little_to_gain(search.until.improvement_below)) is not None:
            yield reason

    def _out_of_patience(self, patience: int) -> str | None:
        rows = self._search.rows()
        if any(row.design and row.state != "finished" for row in rows):
            return None
        new = (r for r in rows if r.state == "finished" and r.outcome != "failed" and r.repeat_of is None)
        ended = sorted(new, key=lambda row: row.ended or 0)
        skipped = self._ended_before(STOPPED)
        noise = measured_noise(rows)
        if trials_without_improvement(self._config.objective, ended, noise=noise, skipped=skipped) < patience:
            return None
        by = f"by more than the noise, {noise:.3g}" if noise else "on the best"
        return self._stopped(STOPPED, f"the last {patience} trials have not improved {by}", rows, len(ended))

    def _little_to_gain(self, least: float) -> str | None:
        rows = self._search.rows()
        if any(row.design and row.state != "finished" for row in rows):
            return None
        ended = sum(row.state == "finished" for row in rows)
        if ended < max(self._looked_at * (1 + 1 / EVERY), self._ended_before(STOPPED_UNTIL) + MIN_FURTHER):
            return None
        from ..analysis.expected_improvement import expected_improvement

        self._looked_at = ended
        expected = expected_improvement(self._config, rows)
        if expected is None or expected >= least:
            return None
        reason = f"the next trial is expected to improve on the best by {expected:.2g} at most, less than {least:g}"
        return self._stopped(STOPPED_UNTIL, reason, rows, ended)

    def _ended_before(self, attr: str) -> int:
        """Returns how many trials had ended when the search stopped for this reason, with a smaller budget."""
        before = self._search.get_user_attr(attr)
        return before["ended"] if before and before["trials"] < self._config.search.trials else 0

    def _stopped(self, attr: str, reason: str, rows: Sequence[TrialRecord], ended: int) -> str:
        """Records that the search has stopped, for a larger budget to go on from there; returns what is said."""
        budget, before = self._config.search.trials, self._search.get_user_attr(attr)
        if before is None or before["trials"] < budget:
            self._search.set_user_attr(attr, {"trials": budget, "ended": ended})
        saved = sum(row.state == "waiting" for row in rows)
        return (
            f"{reason}: no new trials, {saved} of {len(rows)} are not run; sweep run {self._config.name} --trials with "
            f"a number above {budget} goes on"
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
