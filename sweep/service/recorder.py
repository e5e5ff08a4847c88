"""Logs every trial to MLflow, and back-fills what a crashed driver did not log.

Called by the driver, after the storage has stored the same. torch is imported only to read checkpoints.
"""

import logging
import math
import threading
import time
from collections.abc import Mapping, Sequence
from typing import cast

from ..config.settings import Settings
from ..study import provenance
from ..study.finalists import expected_on_fresh_seeds, ranked_rows
from ..study.records import ARMS, Kind, Outcome, TrialRecord
from ..study.study import Study
from ..study.trial import Trial
from ..study.twins import fingerprint
from ..tracking.runs import RunKey
from ..tracking.tracker import Tracker
from ..training.attempt_files import logged
from ..training.reports import EpochMetrics, TrialPaths
from .callback import RunCallback

logger = logging.getLogger(__name__)

REPAIR_EVERY = 5.0  # seconds between repairs, while another driver may be dead
TRACEBACK = 4000  # last characters of a traceback that are logged


class Recorder:
    """The MLflow runs of a study's trials, those of the ``search`` and of the sister study ``controls``."""

    def __init__(self, settings: Settings, search: Study, controls: Study, tracker: Tracker, callback: RunCallback):
        self.config, self.settings, self.callback = search.config, settings, callback
        self.search, self.controls, self._tracker = search, controls, tracker
        self._started: set[RunKey] = set()  # runs that this driver has started
        self._running: dict[RunKey, tuple[Trial, float]] = {}  # with the time of their start
        self._errors: dict[RunKey, str | None] = {}  # of running trials that were retried
        self._sent: set[RunKey] = set()  # runs that this driver has ended
        self._order = threading.Lock()  # between a trial's end and the repair of its run
        tracker.repair = self.catch_up
        self._outage_reported = False
        self._drops_reported = 0
        before = cast("list[provenance.Code]", search.get_user_attr("code") or [])
        now = provenance.environment(self.config.command, self.config.import_paths.values())
        self._codes = provenance.followed_by(before, now)

    def fingerprint(self, trial: Trial) -> str:
        """Returns a hash of a trial's config and of the code that trains it."""
        return fingerprint(trial.config, self._code_tags(trial))

    def knows(self, trial: Trial) -> bool:
        """Returns True if this driver logged what the storage, set back to a backup, lost: a trial's claim, or its end.

        What other drivers have logged is refused at the start: their storage may be a living copy.
        """
        key = _run_key(trial)
        return key in (self._started if trial.attempt == 1 else self._sent)

    def discard(self, trial: Trial) -> None:
        """Deletes the run of a trial that is trained anew."""
        self._tracker.delete_trial(_run_key(trial))

    def start(self, trial: Trial) -> None:
        """Opens a trial's run, or reopens the run of an earlier driver."""
        key, now = _run_key(trial), time.time()
        self._running[key] = trial, now
        self._start(key, trial, now)

    def epochs(self, trial: Trial, epochs: Sequence[EpochMetrics]) -> None:
        """Logs a trial's epochs."""
        self._tracker.log_epochs(_run_key(trial), epochs)

    def retried(self, trial: Trial, error: str | None) -> None:
        """Logs the error of a trial that is retried."""
        self._errors[_run_key(trial)] = error
        self._tracker.set_tags(_run_key(trial), _error_tag(error))

    def adopted_elsewhere(self, trial: Trial) -> None:
        """Leaves the run of a trial to the driver that has adopted the trial."""
        with self._order:
            self._running.pop(_run_key(trial), None)
            self._tracker.leave_trial(_run_key(trial))

    def interrupted(self, trials: Sequence[Trial]) -> None:
        """Ends the runs of unfinished trials, before another driver can adopt the trials."""
        for trial in trials:
            if _run_key(trial) not in self._started:  # claimed, but no worker has it
                if trial.attempt == 1:
                    continue
                self.start(trial)  # reopens the run of an earlier driver
            end_time = int(time.time() * 1000)
            self._tracker.end_trial(_run_key(trial), outcome=None, metrics={}, tags={}, end_time=end_time)
        if trials and not self._tracker.behind:
            self._tracker.flush(timeout=5)

    def end(self, trial: Trial, outcome: Outcome, error: str | None, tags: Mapping[str, str]) -> None:
        """Ends a trial's run."""
        with self._order:
            self._running.pop(_run_key(trial), None)
            tags = {**tags, **_pruned_tags(trial), **_error_tag(error)}
            self._end(_run_key(trial), outcome, trial.best, tags, time.time())

    def catch_up(self) -> None:
        """Logs what an outage has dropped, from the checkpoints: running trials first, then finished ones.

        Called in the tracker's thread when the server answers again, while trials go on.
        """
        logger.info("back-filling the runs of %d running trials from their checkpoints", len(self._running))
        for key, (trial, started) in list(self._running.items()):
            history = self._history(key, trial.epochs)
            with self._order:
                if key in self._running:
                    self._start(key, trial, started, resumed=True)
                    self._tracker.log_epochs(key, history)
                    self._tracker.set_tags(key, _error_tag(self._errors.get(key)))
        with self._order:
            self._sent.clear()  # their ends may have been dropped
        self.repair()
        self._tracker.set_tags(None, provenance.all_tags(self._codes))

    def repair(self) -> bool:
        """Logs what the tracker lacks of finished trials, from their checkpoints.

        Called at the start and at the end: in between, another driver may have died before it had sent everything.
        Returns True if no trial is left to another driver that may be dead.
        """
        known, confirmed = self._tracker.store.found, True
        for study in (self.search, self.controls):
            rows, elsewhere = study.rows(retried=True), study.trials_of_other_drivers()
            for row in rows:
                key = RunKey(study.name, _mlflow_kind(row.kind), row.number)
                state = known.get(key)
                whole = state is not None and state.outcome is not None and state.status in ("FINISHED", "FAILED")
                running = state is not None and state.status == "RUNNING"
                if row.orphan and running and not study.is_wanted(row.kind, row.seed, row.hyperparameters):
                    self._tracker.end_trial(key, outcome=None, metrics={}, tags={}, end_time=int(time.time() * 1000))
                if row.state != "finished" or row.outcome is None or whole or key in self._sent:
                    continue
                if row.number in elsewhere:
                    confirmed = confirmed and elsewhere[row.number]
                    continue
                logger.info("back-filling the run of trial %d of %s from its checkpoint", row.number, study.name)
                self._start(key, row, row.started)
                self._tracker.log_epochs(key, self._history(key, row.epochs))
                tags = {**row.tags, **_pruned_tags(row), **_error_tag(row.error)}
                self._end(key, row.outcome, row.value, tags, row.ended or time.time())
                self._tracker.make_room()
        return confirmed

    def complete(self, stop: threading.Event) -> bool:
        """Repeats `repair` until MLflow has every trial of a dead driver; returns False if ``stop`` was set first."""
        if not (confirmed := self.repair()):
            self.callback.on_message("checking whether a driver on another host is still alive (up to one minute)")
        while not confirmed and not stop.wait(REPAIR_EVERY):
            confirmed = self.repair()
        return confirmed

    def note_code(self) -> None:
        """Stores the code that the study is trained with, and reports its changes since the last run."""
        before, now = self._codes[-2:][0], self._codes[-1]
        if self.search.get_user_attr("code") != self._codes:
            self.search.set_user_attr("code", self._codes)
            if changes := provenance.changes(provenance.code_tags(before), provenance.code_tags(now)):
                self.callback.on_message(
                    f"the code has changed since this study was last trained: {', '.join(changes)}. The MLflow tags "
                    "of a trial say which made it; to replay an older one bit for bit, use its code"
                )
        self._tracker.set_tags(None, provenance.all_tags(self._codes))

    def log_best(self, study_file: str) -> None:
        """Logs the study file, the finalists' fresh means, and the best trial's weights and model."""
        self._tracker.log_text(None, study_file, "study.yaml")
        rows, controls = self.search.rows(), self.controls.rows()
        self._log_fresh_means(rows, controls)
        best = ranked_rows(self.config, rows, controls)
        if not best or self.search.get_user_attr("recorded_best") == best[0].number:
            return
        from ..training import checkpoint
        from ..training.program import trained_program

        row = best[0]
        saved = checkpoint.load_latest(self.settings.checkpoints(self.search.name, row.number))
        if saved is None or not saved.state:
            self.callback.on_message(f"trial {row.number} is the best, but its checkpoint is gone: no model was logged")
            return
        config = self.config.trial(row.hyperparameters, seed=row.seed)
        key, dropped = RunKey(self.search.name, "trial", row.number), len(self._tracker.dropped)
        self._tracker.log_text(key, config.model_dump_json(indent=2), "config.json")
        self._tracker.log_files(key, [saved.path], "checkpoint")
        if config.kind == "model":
            place, of = TrialPaths(saved.path.parent.parent, self.settings.data, self.settings.cache), self.search.name
            self._tracker.log_model(key, trained_program(config, place, saved, study=of, trial=row.number))
        self._tracker.set_tags(None, {"sweep.best": str(row.number)})
        if self._tracker.flush(timeout=0 if self._tracker.behind else 60) and len(self._tracker.dropped) == dropped:
            self.search.set_user_attr("recorded_best", row.number)

    def _log_fresh_means(self, rows: Sequence[TrialRecord], controls: Sequence[TrialRecord]) -> None:
        """Logs each finalist's mean over fresh seeds with its search trial; NaN if it was lost on one of them.

        The step is the number of seeds, so that a mean over more of them follows.
        """
        expected = expected_on_fresh_seeds(self.config, rows, controls)
        for row in rows:
            value, seeds, lost = expected.get(row.number, (math.nan, 0, 0))
            if seeds or lost:
                fresh, ended = {"fresh_objective": math.nan if lost else value}, int(1000 * (row.ended or 0.0))
                key = RunKey(self.search.name, "trial", row.number)
                self._tracker.log_epochs(key, [EpochMetrics(seeds + lost, fresh, ended)])

    def report_problems(self) -> None:
        """Reports each outage of the tracker, its end, and what the tracker drops, once; called periodically."""
        for dropped in self._tracker.dropped[self._drops_reported :]:
            self.callback.on_message(f"tracking: {dropped}. Training goes on")
            self._drops_reported += 1
        behind, error = self._tracker.behind, self._tracker.error
        if behind and not self._outage_reported:
            self.callback.on_message(f"tracking: {error}. Training goes on; what is missing is sent later")
        elif self._outage_reported and not behind:
            back = f"is reachable again after {time.monotonic() - self._tracker.outage_began:.0f} s"
            self.callback.on_message(f"tracking: the server {back} and has received what it lacked")
        self._outage_reported = behind

    def _history(self, key: RunKey, epochs: int) -> list[EpochMetrics]:
        from ..training import checkpoint

        saved = checkpoint.load_latest(self.settings.checkpoints(key.study, key.number))
        return [m for m in saved.history if m.epoch <= epochs] if saved is not None else []

    def _start(self, key: RunKey, trial: Trial | TrialRecord, started: float | None, *, resumed: bool = False) -> None:
        seed = trial.seed if isinstance(trial, TrialRecord) else trial.config.training.seed
        config = self.config.trial(trial.hyperparameters, seed=seed)
        tags = {
            **self._code_tags(trial),
            "sweep.design": str(trial.design).lower(),
            "sweep.seed": str(seed),
            **({"sweep.of": str(trial.of)} if trial.of is not None else {}),
            **({"sweep.repeat_of": str(trial.repeat_of)} if trial.repeat_of is not None else {}),
            **({"retry_of": str(trial.retry_of)} if trial.retry_of is not None else {}),
            **({"sweep.arm": trial.kind} if key.kind == "confirm" else {}),
            **({"sweep.control": "tuned" if trial.kind == "tuned" else "plain"} if key.kind == "control" else {}),
        }
        self._started.add(key)
        # A control may have hyperparameters that the space lacks.
        params = {**self.config.hyperparameters(config), **trial.hyperparameters}
        start_time = int((started or time.time()) * 1000)
        # Another driver may have opened the run of an adopted or finished trial.
        resumed = resumed or isinstance(trial, TrialRecord) or trial.attempt > 1
        self._tracker.start_trial(key, params=params, tags=tags, start_time=start_time, resumed=resumed)

    def _code_tags(self, trial: Trial | TrialRecord) -> dict[str, str]:
        """Returns tags of the code that a trial ends with, and of the code that it started with if that differs."""
        ended = trial.ended if isinstance(trial, TrialRecord) else None
        before, code = (provenance.code_at(self._codes, moment or time.time()) for moment in (trial.started, ended))
        return {**code, **{f"{name}.at_start": value for name, value in before.items() if code.get(name) != value}}

    def _end(self, key: RunKey, outcome: Outcome, value: float | None, tags: Mapping[str, str], ended: float) -> None:
        # `objective` is a metric of completed search trials only, so that sorting by it ranks them.
        of_completed = "objective" if key.kind == "trial" else "final_objective"
        name = of_completed if outcome == "completed" else "last_objective"
        metrics = {name: value} if value is not None and outcome not in ("diverged", "failed") else {}
        if self.config.kind != "model":
            for path, folder in logged(self.settings.checkpoints(key.study, key.number)):
                self._tracker.log_files(key, [path], folder)
        self._tracker.end_trial(key, outcome=outcome, metrics=metrics, tags=tags, end_time=int(ended * 1000))
        self._sent.add(key)


def _run_key(trial: Trial) -> RunKey:
    return RunKey(trial.study, _mlflow_kind(trial.kind), trial.number)


def _error_tag(error: str | None) -> dict[str, str]:
    return {"sweep.error": error[-TRACEBACK:]} if error else {}


def _pruned_tags(trial: Trial | TrialRecord) -> dict[str, str]:
    tags = {"sweep.pruned_at": trial.pruned_at, "sweep.pruned_by": trial.pruned_by}
    return {name: str(value) for name, value in tags.items() if value is not None}


def _mlflow_kind(kind: Kind) -> str:
    return "confirm" if kind in ARMS else "control" if kind == "tuned" else kind
