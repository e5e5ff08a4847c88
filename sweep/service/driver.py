"""The driver of one run: assigns the study's trials to the executor, and passes reports to the study and the tracker.

Order of writing: the worker's checkpoint, then the storage, then tracking. What a dead driver has not sent to the
tracker, the next driver sends (`sweep.service.recorder`). torch is imported only to read checkpoints.
"""

import contextlib
import itertools
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Literal, Self

from ..config.daemon_thread import DaemonThread
from ..config.errors import reason
from ..config.filesystem import glob_files, remove_file
from ..execution.executor import Key, TrialRequest
from ..study.finalists import missing_trials, wanted_rows, wanted_tuned, wanted_tuning
from ..study.records import LOST_WORKER, Outcome
from ..study.storages.leases import RENEW_EVERY
from ..study.storages.storage import UNREACHABLE, Backoff
from ..study.trial import EndedElsewhereError, Trial
from ..training.reports import OomKind, TrialPaths, TrialReport
from .budget import Budget
from .recorder import Recorder
from .trial_checks import TrialChecks
from .twins import Twins

logger = logging.getLogger(__name__)

CONFIRM_EVERY = 10.0  # seconds between two checks that a trial is still ours: another driver may have adopted it
LATE = 15.0  # seconds without an answer of the storage that are reported, though it answered in the end
# Seconds that the release of trials may take at the end of a run, and if the user has asked for its end twice.
LAST_WORD, AT_ONCE = 60.0, 5.0
MOST_WAITING = 4  # trials that may wait for their twins, beside one for each that is trained: they are chosen blindly
ASK_FOR = 1.0  # seconds for which the driver ends trials with the numbers of twins before it answers
STAGES = ("search", "controls", "tuned", "done")


class Driver:
    """The source of one run's trials: the search first, then finalists and controls, then the tuned control.

    From the stage ``tuned`` on, the waiting rows of the sister study are trained and nothing else.
    """

    def __init__(self, recorder: Recorder, *, stage: Literal["search", "tuned"] = "search"):
        self._recorder, self._callback = recorder, recorder.callback
        self._search, self._controls = recorder.search, recorder.controls
        self._config, self._settings = recorder.config, recorder.settings
        self._studies = {study.name: study for study in (self._search, self._controls)}
        self._trials: dict[Key, Trial] = {}
        self._stage: str = stage
        self._budget = Budget(self._config, self._search, self._callback.on_message)
        self._checks = TrialChecks(self._config, self._callback.on_message)
        self._notices: set[str] = set()  # of trials, which have been told
        self._pending_reports: dict[Key, list[TrialReport]] = {}  # not yet stored
        self._waiting: list[Trial] = []  # claimed, and not yet trained: perhaps a twin is
        self._twins = Twins(recorder)
        self._turn = threading.RLock()  # between the executor's loop and the thread that asks
        self._confirmed: dict[Key, float] = {}  # wall-clock time at which a trial was last confirmed to be ours
        self._retry_queue: list[Trial] = []  # failed in their own code, or out of memory
        self._backoff = Backoff()
        self._over = threading.Event()  # all stages are finished, or the run is interrupted
        self._left = threading.Event()  # the ``with`` block has ended
        self._interrupted = False

    def __enter__(self) -> Self:
        self._recorder.report_problems()
        threading.Thread(target=self._heartbeat, name="lease", daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Ends the run: releases interrupted trials, which the next run continues."""
        self._interrupted = exc[0] is not None or bool(self._trials)
        self._left.set()
        thread, left = DaemonThread("release"), list(self._trials.values())
        try:
            thread.submit(lambda: self._release(left)).result(AT_ONCE if exc[0] is KeyboardInterrupt else LAST_WORD)
        except UNREACHABLE as error:
            self._callback.on_message(
                f"cannot reach the storage ({reason(error)}): other hosts can adopt our trials in about a minute"
            )
        finally:
            thread.close()
            self._over.set()  # log_best_when_done() waits for it

    def _release(self, trials: Sequence[Trial]) -> None:
        self._recorder.interrupted(trials)
        for trial in trials:
            self._studies[trial.study].release(trial)

    def ask(self) -> TrialRequest | None:
        """Returns the next trial of the present stage; enters the next stage when this one is finished."""
        if self._backoff.waiting:
            return None
        with self._storage_watch():
            with self._turn:
                for key in list(self._pending_reports):
                    self._process_reports(self._trials[key])
                trial = self._retry_queue.pop(0) if self._retry_queue else None
            until = time.monotonic() + ASK_FOR
            while trial is None and (trial := self._next_to_train()) is None and time.monotonic() < until:
                few = len(self._waiting) < MOST_WAITING + len(self._trials) - len(self._waiting)
                if (claimed := self._settled(self._next(new=few))) is None:
                    break
                self._waiting.append(claimed)
                self._trials[claimed.key], self._confirmed[claimed.key] = claimed, time.time()
            return None if trial is None else self._request(trial)
        return None

    def _next_to_train(self) -> Trial | None:
        """Returns a claimed trial that must be trained; ends those whose twin has ended. The others wait for theirs."""
        for trial in list(self._waiting):
            twin = self._twins.find(trial)
            if twin is not None and twin.state == "running":
                continue
            report = None if twin is None else self._twins.take(trial, twin)
            self._waiting.remove(trial)
            if report is None:
                return trial
            with self._turn:
                self.on_trial_start(trial.key)
                self.report(trial.key, report)
        return None

    def is_finished(self) -> bool:
        """Returns True if all stages are finished."""
        return self._stage == "done"

    def on_trial_start(self, key: Key) -> None:
        """Opens the trial's MLflow run."""
        if trial := self._trials.get(key):  # else it ended while waiting: the answer to its first report stops it
            self._recorder.start(trial)
            self._callback.on_trial_start(trial)

    def report(self, key: Key, result: TrialReport) -> bool:
        """Passes epochs to the pruner, in order, and to the tracker; returns True if the trial must stop.

        Trials continue during a storage outage; their reports are queued and stored when the storage is reachable.
        """
        with self._turn:
            trial = self._trials.get(key)
            if trial is None:
                return True
            self._pending_reports.setdefault(key, []).append(result)
            if not self._backoff.waiting:
                with self._storage_watch():
                    return self._process_reports(trial)
            return result.outcome is not None

    def n_waiting(self) -> int:
        """Returns the number of trials of the present stage that no driver has claimed."""
        study = self._search if self._stage == "search" else self._controls
        with contextlib.suppress(*UNREACHABLE):
            return 0 if self._stage == "search" and self._budget.is_spent else study.n_waiting()
        return 0

    def on_message(self, message: str) -> None:
        """Passes a message on to the user."""
        self._callback.on_message(message)

    def on_trial_lost(self, key: Key, error: str, oom: OomKind | None = None) -> None:
        """Fails a trial whose workers died repeatedly, or ran out of memory."""
        self.report(key, TrialReport([], outcome="failed", error=error, oom=oom))

    def _next(self, *, new: bool) -> Trial | None:
        """Claims an orphan of the present stage, or if ``new`` a waiting trial; enters the next stage at its end."""
        while self._stage != "done":
            searching, following = self._stage == "search", STAGES[STAGES.index(self._stage) + 1]
            study = self._search if searching else self._controls
            trial = study.ask(new=new and not (searching and self._budget.check()))
            if trial is not None or self._trials or study.is_busy():
                return trial
            if searching:
                self._add_finalists()
            elif following == "tuned":
                rows, controls = self._search.rows(), self._controls.rows()
                if more := missing_trials(wanted_tuning(self._config, rows, controls), controls):
                    self._controls.add(more)  # the best on fresh seeds is not the best of the search
                    continue
                self._controls.add(wanted_tuned(self._config, rows, controls))
            logger.info("stage %s of %s is finished; next: %s", self._stage, self._search.name, following)
            self._stage = following
        self._over.set()
        return None

    def _add_finalists(self) -> None:
        """Adds the finalists and their controls; says so if they are more than an earlier run has chosen."""
        wanted, present = wanted_rows(self._config, self._search.rows()), self._controls.rows()
        more = {str(row.of): None for row in missing_trials(wanted, present) if row.kind == "finalist"}
        if more and any(row.kind == "finalist" for row in present):
            self._callback.on_message(
                f"{self._config.name}: finalists are now also trial {', '.join(more)}; "
                "they and their controls are trained"
            )
        self._controls.add(wanted)

    def _settled(self, trial: Trial | None) -> Trial | None:
        """Settles what is left of a trial that this study trained before its storage was set back to a backup."""
        if trial is None or not self._recorder.knows(trial):
            return trial
        name = f"trial {trial.number} of {trial.study}"
        if trial.attempt == 1:  # the storage has lost its values, and the sampler has chosen others
            checkpoints = self._settings.checkpoints(trial.study, trial.number)
            for path in glob_files(checkpoints, "*/*"):
                remove_file(path)
            self._recorder.discard(trial)
            self._callback.on_message(f"the storage was set back: {name}, which MLflow has, is trained anew")
        else:
            self._callback.on_message(f"the storage was set back: {name} had ended, and ends again by its checkpoint")
        return trial

    def _process_reports(self, trial: Trial) -> bool:
        """Passes a trial's reports to the storage and the tracker; returns True if the trial must stop."""
        now = time.time()  # unlike a monotonic clock, it advances while a machine is suspended
        try:
            owned = 0 <= now - self._confirmed.get(trial.key, 0.0) < CONFIRM_EVERY
            if not owned and (owned := self._studies[trial.study].owns(trial)):
                self._confirmed[trial.key] = now
            ended = self._store_reports(trial) if owned else None
        except EndedElsewhereError:
            ended = None
        if ended is None:
            self._callback.on_message(
                f"trial {trial.number} of {trial.study} was adopted by another driver while this one was suspended"
            )
            self._recorder.adopted_elsewhere(trial)
            self._studies[trial.study].forget(trial)
            del self._trials[trial.key]
        del self._pending_reports[trial.key]
        return ended is not False

    def _store_reports(self, trial: Trial) -> bool:
        """Stores the reports of an owned trial; returns True if the trial has ended."""
        results = self._pending_reports[trial.key]
        last = results[-1]
        reported = [m for result in results for m in result.epochs]
        if trial.twin is None:
            trial.seconds |= {m.epoch: m.values.get("seconds", 0.0) for m in reported}
        pruned_at = self._studies[trial.study].report(trial, reported)
        for notice in (notice for result in results for notice in result.notices):
            if notice not in self._notices:  # what holds for a function holds for all of its trials
                self._callback.on_message(f"trial {trial.number} of {trial.study}: {notice}")
            self._notices.add(notice)
        # Epochs after the pruning decision were trained ahead of it and do not count.
        epochs = [m for m in reported if pruned_at is None or m.epoch <= pruned_at]
        if epochs:
            trial.epochs = epochs[-1].epoch  # first: a repair of MLflow sends epochs up to here
        self._recorder.epochs(trial, epochs)
        for metrics in epochs:  # each of them, so that the tag does not depend on the batching of reports
            self._checks.check_guidance(trial, metrics)
        if epochs:
            self._callback.on_epoch_end(trial, epochs[-1])
        outcome: Outcome | None = "pruned" if pruned_at is not None else last.outcome
        if outcome == "failed" and self._is_retried(trial, last):
            self._retry_queue.append(trial)
        elif outcome is not None:
            self._end(trial, outcome, last)
        return outcome is not None

    def _is_retried(self, trial: Trial, last: TrialReport) -> bool:
        """Returns True if a failed trial is retried; the storage then records the failure."""
        study = self._studies[trial.study]
        if last.oom is not None and not trial.exclusive and self._config.resources.retries(last.oom):
            study.record_oom(trial, last.error or "")
        elif last.tags and trial.failures < self._config.search.max_failures:
            study.record_failure(trial, last.error or "")
        else:
            return False
        logger.info("trial %d of %s is retried (%s)", trial.number, trial.study, last.oom or "its own error")
        self._recorder.retried(trial, last.error)
        return True

    @contextlib.contextmanager
    def _storage_watch(self) -> Iterator[None]:
        """Ends the block at an outage of the storage; reports the beginning of an outage, and its end."""
        began = time.monotonic()
        try:
            yield
        except UNREACHABLE as error:
            if self._backoff.since is None:
                lost = f"cannot reach the storage ({reason(error)})"
                self._callback.on_message(f"{lost}: trials continue, and their reports are kept")
            self._backoff.failed(error, began)
        else:
            outage = self._backoff.since is not None
            silence = self._backoff.answered(began)
            if outage or silence > LATE:
                self._callback.on_message(f"the storage is reachable again after {silence:.0f} s")

    def _heartbeat(self) -> None:
        for beat in itertools.count():
            with contextlib.suppress(*UNREACHABLE):
                for study in self._studies.values():
                    study.heartbeat(beat)
            with contextlib.suppress(OSError):  # a closed terminal must not stop the renewal of the lease
                self._recorder.report_problems()
            if self._left.wait(RENEW_EVERY):
                return

    def _request(self, trial: Trial) -> TrialRequest:
        logger.debug("claimed trial %d of %s, attempt %d", trial.number, trial.study, trial.attempt)
        folder = self._settings.checkpoints(trial.study, trial.number)
        if trial.attempt > 1:
            logger.info("adopted trial %d of %s at epoch %d", trial.number, trial.study, trial.reported)
        if trial.attempt > 1 and trial.reported:
            from ..training import checkpoint

            if checkpoint.is_gone(folder):
                self._callback.on_message(
                    f"trial {trial.number} of {trial.study} had reached epoch {trial.reported}, but {folder} holds no "
                    "checkpoint of it: it starts again. The drivers of a study must share one workspace (--workspace)"
                )
        place = TrialPaths(folder=folder, data=self._settings.data, cache=self._settings.cache)
        judged = self._studies[trial.study].pruning_epochs(trial)
        return TrialRequest(trial.key, trial.config, place, trial.attempt, trial.exclusive, judged)

    def _end(self, trial: Trial, outcome: Outcome, last: TrialReport) -> None:
        # A report without tags comes from no worker.
        lost = {"sweep.reason": LOST_WORKER} if outcome == "failed" and not last.tags else {}
        tags = {**last.tags, **({"sweep.reason": "out of memory"} if last.oom else lost)}
        tags |= self._checks.tags(trial)
        del self._trials[trial.key]  # first: its row keeps the stage from ending until the storage has the end
        try:
            self._studies[trial.study].tell(trial, outcome, checkpoint=last.checkpoint, error=last.error, tags=tags)
        except BaseException:
            self._trials[trial.key] = trial
            raise
        logger.debug("trial %d of %s %s after epoch %d", trial.number, trial.study, outcome, trial.epochs)
        # After the storage, which may be unreachable; if the driver dies in between, `Recorder.repair` sends the end.
        self._recorder.end(trial, outcome, last.error, tags)
        self._callback.on_trial_end(trial, outcome, last.error)
        if outcome == "completed":
            self._checks.check_repeatable(trial)

    def log_best_when_done(self, study_file: str) -> None:
        """Waits for the end of the run, then logs the study file and the best trial's weights and model."""
        self._over.wait()
        if not self._interrupted:
            self._recorder.log_best(study_file)
