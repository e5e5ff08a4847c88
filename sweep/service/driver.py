"""The driver of one run: hands the study's trials to the executor, and what comes back to the study and the tracker.

Order of writing: the worker's checkpoint, then the storage, then tracking; what a dead driver has not sent there, the
next one does (`sweep.service.recorder`). Only what reads checkpoints imports torch.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Mapping
from typing import Literal, Self

from ..config.errors import reason
from ..config.filesystem import AnyPath
from ..config.settings import Settings
from ..config.study_config import StudyConfig
from ..execution.trial_source import Key, TrialRequest
from ..losses.options import DOMINANT, INERT
from ..study.finalists import best_rows, wanted_rows, wanted_tuned
from ..study.records import Outcome
from ..study.storages.leases import RENEW_EVERY
from ..study.storages.storage import UNREACHABLE, Backoff
from ..study.study import Study
from ..study.trial import EndedElsewhereError, Trial
from ..training.reports import EpochMetrics, OomKind, TrialPaths, TrialReport
from .callback import RunCallback
from .recorder import Recorder

CONFIRM_EVERY = 10.0  # seconds after which a trial is looked at again: another driver may have taken it over


class Driver:
    """The source of one run's trials: the search first, then finalists and controls, then the tuned control.

    Args:
        stage: to begin with; ``tuned``, the last one, trains what waits in the sister study and nothing else.
    """

    def __init__(
        self,
        config: StudyConfig,
        settings: Settings,
        search: Study,
        controls: Study,
        recording: Recorder,
        callback: RunCallback,
        *,
        stage: Literal["search", "tuned"] = "search",
    ):
        self._config, self._settings, self._callback = config, settings, callback
        self._studies = {search.name: search, controls.name: controls}
        self._search, self._controls = search, controls
        self._recording = recording
        self._trials: dict[Key, Trial] = {}
        self._stage: str = stage
        self._began = time.monotonic()
        self._out_of_budget = False
        self._guidance: dict[Key, str] = {}
        self._pending_reports: dict[
            Key, list[TrialReport]
        ] = {}  # what workers reported and the storage has not taken yet
        self._turn = threading.RLock()  # of the executor's loop and of the thread that asks
        self._confirmed: dict[Key, float] = {}  # when a trial was last known to be ours, by the wall clock
        self._retry_queue: list[Trial] = []  # whose own code has failed, or that were out of memory
        self._backoff = Backoff()
        self._over = threading.Event()
        self._left = threading.Event()
        self._interrupted = False

    def __enter__(self) -> Self:
        self._recording.tell_of_problems()
        threading.Thread(target=self._heartbeat, name="lease", daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Ends the run: trials that were interrupted are left to the next one."""
        self._interrupted = exc[0] is not None or bool(self._trials)
        self._left.set()
        try:
            self._recording.interrupted(left := list(self._trials.values()))
            for trial in left:
                self._studies[trial.study].release(trial)
        except UNREACHABLE as error:
            self._callback.on_message(
                f"the storage is away ({reason(error)}): another host waits a minute for our trials"
            )
        finally:
            self._over.set()  # or record() would wait for ever

    # -- the executor's source -----------------------------------------------------------------------------------

    def ask(self) -> TrialRequest | None:
        """Returns the next trial of the present stage, and moves to the next stage when this one is through."""
        if self._backoff.waiting:
            return None
        try:
            with self._turn:
                for key in list(self._pending_reports):
                    self._process_reports(self._trials[key])
                trial = self._retry_queue.pop(0) if self._retry_queue else None
            job = self._request(trial or self._next())
        except UNREACHABLE as error:
            self._storage_lost(error)
            return None
        self._storage_restored()
        return job

    def is_finished(self) -> bool:
        """Whether all stages are through."""
        return self._stage == "done"

    def on_trial_start(self, key: Key) -> None:
        """Opens the trial's MLflow run."""
        trial = self._trials.get(key)
        if trial is None:  # it ended while it waited for another worker: the first report is told to stop
            return
        self._recording.start(trial)
        self._callback.on_trial_start(trial)

    def report(self, key: Key, result: TrialReport) -> bool:
        """Hands epochs to the pruner, in order, and to the tracker; ends the trial where it has ended.

        While the storage is away, trials go on and what they report is kept; it is handed in when the storage is back.
        """
        ended = result.outcome is not None
        with self._turn:
            trial = self._trials.get(key)
            if trial is None:
                return True
            self._pending_reports.setdefault(key, []).append(result)
            if self._backoff.waiting:
                return ended
            try:
                stop = self._process_reports(trial)
            except UNREACHABLE as error:
                self._storage_lost(error)
                return ended
            self._storage_restored()
            return stop

    def n_waiting(self) -> int:
        """How many trials of the present stage no driver has begun."""
        study = self._search if self._stage == "search" else self._controls
        try:
            return 0 if self._stage == "search" and self._out_of_budget else study.n_waiting()
        except UNREACHABLE:
            return 0

    def on_message(self, message: str) -> None:
        """Passes on what the user should know."""
        self._callback.on_message(message)

    def on_trial_lost(self, key: Key, error: str, oom: OomKind | None = None) -> None:
        """Fails a trial whose workers died again and again, or for lack of memory."""
        self.report(key, TrialReport([], outcome="failed", error=error, oom=oom))

    # -- within --------------------------------------------------------------------------------------------------

    def _next(self) -> Trial | None:
        if self._stage == "search":
            trial = self._search.ask(new=not self._budget_exhausted())
            if trial is not None or self._trials or self._search.is_busy():
                return trial
            wanted = wanted_rows(self._config, self._search.rows())
            if wanted:
                self._controls.add(wanted)
            self._stage = "controls"
        if self._stage == "controls":
            trial = self._controls.ask()
            if trial is not None or self._trials or self._controls.is_busy():
                return trial
            self._controls.add(wanted_tuned(self._config, self._search.rows(), self._controls.rows()))
            self._stage = "tuned"
        trial = self._controls.ask()
        if trial is None and not self._trials and not self._controls.is_busy():
            self._stage = "done"
            self._over.set()
        return trial

    def _process_reports(self, trial: Trial) -> bool:
        """Hands what a trial reported to the storage and the tracker; returns whether it must stop here."""
        try:
            ended = self._store_reports(trial) if self._is_owned(trial) else None
        except EndedElsewhereError:
            ended = None
        if ended is None:
            self._callback.on_message(f"trial {trial.number} of {trial.study} was taken over while this driver slept")
            self._recording.taken_over(trial)
            del self._trials[trial.key]
        del self._pending_reports[trial.key]
        return ended is not False

    def _store_reports(self, trial: Trial) -> bool:
        """Does so; returns whether the trial has ended."""
        results = self._pending_reports[trial.key]
        last = results[-1]
        reported = [m for result in results for m in result.epochs]
        trial.seconds |= {m.epoch: m.values.get("seconds", 0.0) for m in reported}
        pruned_at = self._studies[trial.study].report(trial, reported)
        for notice in (notice for result in results for notice in result.notices):
            self._callback.on_message(f"trial {trial.number} of {trial.study}: {notice}")
        # Epochs beyond the pruner's word were trained ahead of it and do not count.
        epochs = [m for m in reported if pruned_at is None or m.epoch <= pruned_at]
        self._recording.epochs(trial, epochs)
        for metrics in epochs:  # each one, so that the tag does not depend on how they were batched
            self._watch_guidance(trial, metrics)
        if epochs:
            trial.epochs = epochs[-1].epoch
            self._callback.on_epoch_end(trial, epochs[-1])
        outcome: Outcome | None = "pruned" if pruned_at is not None else last.outcome
        if outcome == "failed" and self._is_retried(trial, last):
            self._retry_queue.append(trial)
        elif outcome is not None:
            tags = {**last.tags, **({"sweep.reason": "out of memory"} if last.oom else {})}
            self._end(trial, outcome, checkpoint=last.checkpoint, error=last.error, tags=tags)
        return outcome is not None

    def _is_retried(self, trial: Trial, last: TrialReport) -> bool:
        """Whether a trial that has failed is taken up again; the storage then knows of it."""
        study = self._studies[trial.study]
        if last.oom is not None and not trial.exclusive and self._config.resources.retries(last.oom):
            study.record_oom(trial, last.error or "")
        elif last.tags and trial.failures < self._config.search.max_failures:
            study.record_failure(trial, last.error or "")
        else:
            return False
        self._recording.failed(trial, last.error)
        return True

    def _is_owned(self, trial: Trial) -> bool:
        now = time.time()  # goes on while a machine sleeps
        if not 0 <= now - self._confirmed.get(trial.key, 0.0) < CONFIRM_EVERY:
            if not self._studies[trial.study].owns(trial):
                return False
            self._confirmed[trial.key] = now
        return True

    def _storage_lost(self, error: BaseException) -> None:
        if self._backoff.since is None:
            self._callback.on_message(f"the storage is away ({reason(error)}): trials go on, their reports are kept")
        self._backoff.failed(error)

    def _storage_restored(self) -> None:
        if self._backoff.since is not None:
            self._callback.on_message(f"the storage is back after {self._backoff.answered():.0f} s")

    def _heartbeat(self) -> None:
        for beat in itertools.count():
            with contextlib.suppress(*UNREACHABLE):
                for study in self._studies.values():
                    study.heartbeat(beat)
            with contextlib.suppress(OSError):  # a terminal that is gone must not keep the lease from being renewed
                self._recording.tell_of_problems()
            if self._left.wait(RENEW_EVERY):
                return

    @staticmethod
    def _is_lost(folder: AnyPath) -> bool:
        from ..training import checkpoint

        return checkpoint.is_gone(folder)

    def _request(self, trial: Trial | None) -> TrialRequest | None:
        if trial is None:
            return None
        self._trials[trial.key], self._confirmed[trial.key] = trial, time.time()
        folder = self._settings.checkpoints(trial.study, trial.number)
        if trial.attempt > 1 and trial.reported and self._is_lost(folder):
            self._callback.on_message(
                f"trial {trial.number} of {trial.study} had come to epoch {trial.reported}, but {folder} holds no "
                "checkpoint of it: it begins anew. The drivers of a study must share one workspace (--workspace)"
            )
        place = TrialPaths(folder=folder, data=self._settings.data, cache=self._settings.cache)
        judged = self._studies[trial.study].pruning_epochs(trial)
        return TrialRequest(trial.key, trial.config, place, trial.attempt, trial.exclusive, judged)

    def _budget_exhausted(self) -> bool:
        """Whether the hours are over, or the target is reached: no new search trials then."""
        search = self._config.search
        if self._out_of_budget:
            return True
        if search.hours is not None and time.monotonic() - self._began > search.hours * 3600:
            self._out_of_budget = True
            self._callback.on_message(
                f"{search.hours:g} hours are over: no new trials; running the study again goes on"
            )
        best = best_rows(self._config, self._search.rows(), 1) if search.target is not None else []
        if best and search.target is not None and best[0].value is not None:
            value = best[0].value
            if value == search.target or self._config.objective.better(value, search.target):
                self._out_of_budget = True
                self._callback.on_message(f"trial {best[0].number} reached the target {search.target:g}: no new trials")
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
            self._callback.on_message(
                f"trial {trial.number}: guidance is {state}, its gradient {ratio:.2g} times the task's over epoch "
                f"{metrics.epoch}: {hint}. All such trials have the MLflow tag sweep.guidance = {state}."
            )
        self._guidance[trial.key] = state

    def _end(
        self, trial: Trial, outcome: Outcome, *, checkpoint: str | None, error: str | None, tags: Mapping[str, str]
    ) -> None:
        tags = {**tags, **({"sweep.guidance": self._guidance[trial.key]} if trial.key in self._guidance else {})}
        del self._trials[trial.key]  # first: until it is told, its row still keeps the stage from ending
        try:
            self._studies[trial.study].tell(trial, outcome, checkpoint=checkpoint, error=error, tags=tags)
        except BaseException:
            self._trials[trial.key] = trial
            raise
        # After the storage, which may be away; a driver that dies in between leaves it to `Recording.repair`.
        self._recording.end(trial, outcome, error, tags)
        self._callback.on_trial_end(trial, outcome, error)

    def log_best_when_done(self, study_file: str) -> None:
        """Waits for the end of the run, then keeps the study file and, of the best trial, its weights and model."""
        self._over.wait()
        if not self._interrupted:
            self._recording.keep(study_file)
