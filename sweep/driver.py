"""The driver of one run: hands the study's trials to the executor, and what comes back to the study and the tracker.

Order of writing: the worker's checkpoint, then tracking, then Optuna. What a dead driver left out is put right here, at
the start of the next one, from the checkpoints.
"""

from __future__ import annotations

import importlib.metadata
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from . import checkpoint
from .config import StudyConfig
from .executor import Job, Key, Result
from .finalists import best_rows, wanted_rows, wanted_tuned
from .metrics import EpochMetrics
from .settings import Settings
from .study import Outcome, Row, Study, Trial
from .tracking import RunKey, Tracker
from .trial import Place, trained_model

TRACEBACK = 4000  # characters of its end that are kept in MLflow
INERT, DOMINANT = 1e-5, 1.0  # guidance's gradient norm over the task's, mean of an epoch


class Listener(Protocol):
    """Who wants to see a run's progress: a terminal, a log, a test."""

    def started(self, trial: Trial) -> None:
        """A worker has taken a trial."""

    def progressed(self, trial: Trial, metrics: EpochMetrics) -> None:
        """A trial has finished epochs, the last of them is given."""

    def ended(self, trial: Trial, outcome: Outcome, error: str | None) -> None:
        """A trial has ended."""

    def noticed(self, message: str) -> None:
        """Something the user should know; said once."""


class Driver:
    """The source of one run's trials: the search first, then finalists and controls, then the tuned control."""

    def __init__(
        self,
        config: StudyConfig,
        settings: Settings,
        search: Study,
        controls: Study,
        tracker: Tracker,
        listener: Listener,
    ):
        self._config, self._settings, self._tracker, self._listener = config, settings, tracker, listener
        self._studies = {search.name: search, controls.name: controls}
        self._search, self._controls = search, controls
        self._trials: dict[Key, Trial] = {}
        self._stage = "search"
        self._began = time.monotonic()
        self._out_of_budget = False
        self._guidance: dict[Key, str] = {}
        self._over = threading.Event()
        self._interrupted = False
        self._environment = environment()

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *exc: object) -> None:
        """Ends the run: trials that were interrupted are left to the next one."""
        self._interrupted = exc[0] is not None or bool(self._trials)
        try:
            for trial in list(self._trials.values()):
                self._studies[trial.study].release(trial)
        finally:
            self._over.set()  # or record() would wait for ever

    # -- the executor's source -----------------------------------------------------------------------------------

    def ask(self) -> Job | None:
        """Returns the next trial of the present stage, and moves to the next stage when this one is through."""
        if self._stage == "search":
            trial = self._search.ask(new=not self._spent())
            if trial is not None or self._trials or self._busy(self._search):
                return self._job(trial)
            wanted = wanted_rows(self._config, self._search.rows())
            if wanted:
                self._controls.add(wanted)
            self._stage = "controls"
        if self._stage == "controls":
            trial = self._controls.ask()
            if trial is not None or self._trials or self._busy(self._controls):
                return self._job(trial)
            self._controls.add(wanted_tuned(self._config, self._controls.rows()))
            self._stage = "tuned"
        trial = self._controls.ask()
        if trial is None and not self._busy(self._controls):
            self._stage = "done"
            self._over.set()
        return self._job(trial)

    def finished(self) -> bool:
        """Whether all stages are through."""
        return self._stage == "done"

    def started(self, key: Key) -> None:
        """Opens the trial's MLflow run."""
        trial = self._trials[key]
        self._start_run(_run_key(trial), trial)
        self._listener.started(trial)

    def report(self, key: Key, result: Result) -> bool:
        """Hands epochs to the pruner, in order, and to the tracker; ends the trial where it has ended."""
        trial = self._trials[key]
        pruned_at = self._studies[trial.study].report(trial, result.epochs)
        # Epochs beyond the pruner's word were trained ahead of it and do not count.
        epochs = [m for m in result.epochs if pruned_at is None or m.epoch <= pruned_at]
        self._tracker.log_epochs(_run_key(trial), epochs)
        for metrics in epochs:  # each one, so that the tag does not depend on how they were batched
            self._watch_guidance(trial, metrics)
        if epochs:
            trial.epochs = epochs[-1].epoch
            self._listener.progressed(trial, epochs[-1])
        outcome = "pruned" if pruned_at is not None else result.outcome
        if outcome is not None:
            self._end(trial, outcome, checkpoint=result.checkpoint, error=result.error, tags=result.where)  # type: ignore[arg-type]
        return outcome is not None

    def lost(self, key: Key, error: str) -> None:
        """Fails a trial whose workers died again and again."""
        self._end(self._trials[key], "failed", checkpoint=None, error=error, tags={})

    # -- within --------------------------------------------------------------------------------------------------

    def _job(self, trial: Trial | None) -> Job | None:
        if trial is None:
            return None
        self._trials[trial.key] = trial
        folder = self._settings.checkpoints(trial.study, trial.number)
        place = Place(folder=folder, data=self._settings.data, cache=self._settings.cache)
        return Job(trial.key, trial.config, place, trial.attempt)

    def _busy(self, study: Study) -> bool:
        """Whether another living driver still works on a trial that this stage must wait for."""
        return any(r.state == "running" and not r.orphan for r in study.rows())

    def _spent(self) -> bool:
        """Whether the hours are over, or the target is reached: no new search trials then."""
        search = self._config.search
        if self._out_of_budget:
            return True
        if search.hours is not None and time.monotonic() - self._began > search.hours * 3600:
            self._out_of_budget = True
            self._listener.noticed(f"{search.hours:g} hours are over: no new trials; running the study again goes on")
        best = best_rows(self._config, self._search.rows(), 1) if search.target is not None else []
        if best and search.target is not None and best[0].value is not None:
            value = best[0].value
            if value == search.target or self._config.objective.better(value, search.target):
                self._out_of_budget = True
                self._listener.noticed(f"trial {best[0].number} reached the target {search.target:g}: no new trials")
        return self._out_of_budget

    def _watch_guidance(self, trial: Trial, metrics: EpochMetrics) -> None:
        """Marks a trial, once, whose guidance does nothing or too much, and explains the first one of each."""
        ratio = metrics.values.get("guidance/ratio")
        if ratio is None or trial.key in self._guidance or not (ratio < INERT or ratio > DOMINANT):
            return
        state, hint = (
            ("inert", "it changes nothing (see measure and scale under guidance in the README)")
            if ratio < INERT
            else (
                "dominant",
                "it would outweigh the task without max_ratio; lower lambdas, or a larger epsilon, avoid it",
            )
        )
        if state not in self._guidance.values():
            self._listener.noticed(
                f"trial {trial.number}: guidance is {state}, its gradient {ratio:.2g} times the task's over epoch "
                f"{metrics.epoch}: {hint}. All such trials have the MLflow tag sweep.guidance = {state}."
            )
        self._guidance[trial.key] = state

    def _start_run(self, key: RunKey, trial: Trial | Row, started: float | None = None) -> None:
        config = self._config.trial(trial.hyperparameters, seed=_seed(trial))
        tags = {
            **self._environment,
            "sweep.design": str(trial.design).lower(),
            "sweep.seed": str(_seed(trial)),
            **({"sweep.of": str(trial.of)} if trial.of is not None else {}),
            **({"sweep.control": "tuned" if trial.kind == "tuned" else "plain"} if key.kind == "control" else {}),
        }
        params = self._config.hyperparameters(config)
        start_time = int((started or time.time()) * 1000)
        # Another driver may have opened the run of a trial that was adopted.
        adopted = isinstance(trial, Trial) and trial.attempt > 1
        self._tracker.start_trial(key, params=params, tags=tags, start_time=start_time, resumed=adopted)

    def _end(
        self, trial: Trial, outcome: Outcome, *, checkpoint: str | None, error: str | None, tags: Mapping[str, str]
    ) -> None:
        tags = {**tags, **({"sweep.guidance": self._guidance[trial.key]} if trial.key in self._guidance else {})}
        self._end_run(_run_key(trial), outcome, trial.best, error, tags, time.time())
        del self._trials[trial.key]  # first: until it is told, its row still keeps the stage from ending
        self._studies[trial.study].tell(trial, outcome, checkpoint=checkpoint, error=error, tags=tags)
        self._listener.ended(trial, outcome, error)

    def _end_run(
        self,
        key: RunKey,
        outcome: Outcome,
        value: float | None,
        error: str | None,
        tags: Mapping[str, str],
        ended: float,
    ) -> None:
        """Ends a run. `objective` is for completed search trials alone, so that sorting by it shows the truth."""
        name = "final_objective" if key.kind != "trial" else "objective" if outcome == "completed" else "last_objective"
        metrics = {name: value} if value is not None and outcome in ("completed", "pruned") else {}
        tags = {**tags, **({"sweep.error": error[-TRACEBACK:]} if error else {})}
        self._tracker.end_trial(key, outcome=outcome, metrics=metrics, tags=tags, end_time=int(ended * 1000))

    def repair(self) -> int:
        """Sends to the tracker what it lacks of finished trials, from their checkpoints; returns how many lacked it."""
        known = self._tracker.runs()
        lacking = 0
        for study in self._studies.values():
            for row in study.rows():
                key = RunKey(study.name, _mlflow_kind(row.kind), row.number)
                state = known.get(key)
                whole = state is not None and state.outcome is not None and state.status in ("FINISHED", "FAILED")
                if row.state != "finished" or row.outcome is None or whole:
                    continue
                lacking += 1
                self._start_run(key, row, row.started)
                saved = checkpoint.load_latest(self._settings.checkpoints(study.name, row.number))
                if saved is not None:
                    self._tracker.log_epochs(key, [m for m in saved.history if m.epoch <= row.epochs])
                self._end_run(key, row.outcome, row.value, row.error, row.tags, row.ended or time.time())
        return lacking

    def record(self, study_file: str) -> None:
        """Waits for the end of the run, then keeps the study file and, of the best trial, its weights and model."""
        self._over.wait()
        if self._interrupted:
            return
        self._tracker.log_text(None, study_file, "study.yaml")
        best = best_rows(self._config, self._search.rows(), 1)
        if not best or self._search.noted("recorded_best") == best[0].number:
            return
        row = best[0]
        saved = checkpoint.load_latest(self._settings.checkpoints(self._search.name, row.number))
        if saved is None:
            self._listener.noticed(f"trial {row.number} is the best, but its checkpoint is gone: no model was logged")
            return
        config = self._config.trial(row.hyperparameters, seed=row.seed)
        key = RunKey(self._search.name, "trial", row.number)
        self._tracker.log_text(key, config.model_dump_json(indent=2), "config.json")
        self._tracker.log_files(key, [saved.path], "checkpoint")
        place = Place(saved.path.parent.parent, self._settings.data, self._settings.cache)
        self._tracker.log_model(key, *trained_model(config, place, saved))
        self._tracker.set_tags(None, {"sweep.best": str(row.number)})
        if self._tracker.flush(timeout=60) and self._tracker.problem is None:
            self._search.note("recorded_best", row.number)


def _run_key(trial: Trial) -> RunKey:
    return RunKey(trial.study, _mlflow_kind(trial.kind), trial.number)


def _mlflow_kind(kind: str) -> str:
    return "control" if kind == "tuned" else kind


def _seed(trial: Trial | Row) -> int:
    return trial.config.training.seed if isinstance(trial, Trial) else trial.seed


def environment() -> dict[str, str]:
    """Tags that say what code made a number: versions, and the git commit where there is one."""
    packages = ("torch", "ray", "optuna", "mlflow")
    tags = {f"sweep.version.{name}": importlib.metadata.version(name) for name in packages}
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
    git = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    return {**tags, **({"sweep.git_commit": git.stdout.strip()} if git.returncode == 0 else {})}
