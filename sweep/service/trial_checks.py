"""Finds trials whose numbers say less than they seem to; each finding is a message, once a run."""

from collections.abc import Callable

from ..config.study_config import StudyConfig
from ..execution.executor import Key
from ..losses.options import DOMINANT, INERT
from ..study.trial import Trial
from ..training.reports import EpochMetrics

HINTS = {
    "inert": "it changes nothing (see measure and scale in losses/README.md)",
    "dominant": "it would outweigh the task without max_ratio; lower lambdas, or a larger epsilon, avoid it",
}


class TrialChecks:
    """Checks the guidance of each trial, and if code of the user's own gives the same numbers twice."""

    def __init__(self, config: StudyConfig, on_message: Callable[[str], object]):
        self._config, self._on_message = config, on_message
        self._guidance: dict[Key, str] = {}  # trials whose guidance is inert or dominant
        self._ended: dict[str, tuple[str, float | None]] = {}  # the first trial of each configuration and seed
        self._told_unrepeatable = False

    def check_guidance(self, trial: Trial, metrics: EpochMetrics) -> None:
        """Finds a trial whose guidance is inert or dominant; reports the first one of each state."""
        ratio = metrics.values.get("guidance/ratio")
        if ratio is None or trial.key in self._guidance or not (ratio < INERT or ratio > DOMINANT):
            return
        state = "inert" if ratio < INERT else "dominant"
        if state not in self._guidance.values():
            self._on_message(
                f"trial {trial.number}: guidance is {state}, its gradient {ratio:.2g} times the task's over epoch "
                f"{metrics.epoch}: {HINTS[state]}. All such trials have the MLflow tag sweep.guidance = {state}."
            )
        self._guidance[trial.key] = state

    def tags(self, trial: Trial) -> dict[str, str]:
        """Returns the tags of a trial that say what was found."""
        return {"sweep.guidance": self._guidance[trial.key]} if trial.key in self._guidance else {}

    def check_repeatable(self, trial: Trial) -> None:
        """Reports the first trial of own code that differs from one of the same hyperparameters and seed."""
        if self._config.kind == "model":
            return
        values = {**self._config.constants, **trial.hyperparameters}
        key = f"{trial.config.training.seed} {trial.epochs} {sorted(values.items())}"
        name, value = self._ended.setdefault(key, (f"{trial.study}-{trial.number:04d}", trial.best))
        if value != trial.best and not self._told_unrepeatable:
            self._told_unrepeatable = True
            self._on_message(
                f"{self._config.subject} is not repeatable: trial {trial.number} of {trial.study} has the "
                f"hyperparameters and the seed of {name}, and {self._config.objective.metric} {trial.best:.6g} in "
                f"place of {value:.6g}. A replay gives other numbers than the trial had; pairs differ by chance, too"
            )
