"""A study: its budget, and the life of its trials from the claim to the outcome. Called by the driver alone.

A trial is a row that waits (the budget), is claimed by one driver, and ends with an outcome.
"""

import contextlib
import itertools
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from ..config.filesystem import AnyPath
from ..config.search_space import Scalar
from ..config.study_config import StudyConfig
from ..training.reports import EpochMetrics
from . import twins
from .budget_rows import missing_rows, waiting_row
from .claims import Claims
from .distributions import distributions, suggest_point
from .opening import open_study
from .pruners import explain_pruning, pruning_epochs
from .racing import averaged, next_repeat
from .records import ARMS, Outcome, PlannedTrial, TrialRecord
from .samplers import WarmStartSampler, build_sampler, presampled_points
from .storages.rdb_cache import forget_cached_trials, trial_id
from .storages.storage import UNREACHABLE, add_trials, exclusive, study_lock, write_batch
from .stored_trials import counting, read_leases, to_record
from .trial import EndedElsewhereError, Trial, ended_elsewhere
from .warm_start import prior_trials

logger = logging.getLogger(__name__)

# Attributes that a row has before it is claimed.
PLANNED = ("kind", "of", "seed", "hyperparameters", "design", "independent", "repeat", "given", "repeat_of")
_STATES: dict[Outcome, TrialState] = {
    "completed": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "diverged": TrialState.PRUNED,
    "collapsed": TrialState.COMPLETE,
    "failed": TrialState.FAIL,
}


class Study(Claims):
    """One Optuna study: the search, or the sister study that holds its finalists, controls and pairs."""

    def __init__(
        self,
        config: StudyConfig,
        storage: BaseStorage,
        *,
        workspace: AnyPath,
        sister: bool = False,
        pairs: Sequence[PlannedTrial] | None = None,
    ):
        """Opens the study, or creates it; raises `StorageError` if the storage has another one of this name.

        The ``pairs`` are the rows of the sister study to train; by default all but those of `sweep confirm`.
        """
        self.config = config
        self._space = {} if sister else distributions(config.searched)
        self._decisions = pruning_epochs(config)
        name, lock = f"{config.name}.controls" if sister else config.name, study_lock(config.name, storage, workspace)
        with exclusive(storage, name, lock):
            study = open_study(name, config, storage, workspace)
        super().__init__(study, storage, lock, pairs)
        self._known = prior_trials(self.get_user_attr("knowledge") or [], self._space)

    def set_user_attr(self, name: str, value: object) -> None:
        """Writes an attribute of the study, JSON, into the storage."""
        self._study.set_user_attr(name, value)

    def get_user_attr(self, name: str) -> Any:
        """Reads an attribute of the study; None if it was never written."""
        return self._study.user_attrs.get(name)

    @property
    def n_prior_trials(self) -> int:
        """Returns how many trials of earlier studies the sampler sees."""
        return len(self._known)

    def add_prior_trials(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Shows the sampler trials of earlier studies (see `sweep.study.warm_start`); before the first claim."""
        with self.exclusive():
            if self.get_user_attr("knowledge") is None:
                self.set_user_attr("knowledge", [dict(record) for record in records])
        self._known = prior_trials(self.get_user_attr("knowledge"), self._space)

    def enqueue_budget(self, first: Sequence[Mapping[str, Scalar]] = ()) -> int:
        """Writes the budget into the storage: WAITING rows up to ``trials``; see `budget_rows.missing_rows`.

        Returns the budget: more than ``trials`` if it was larger before.
        """
        with self.exclusive():
            rows = self._trials()
            new, budget = missing_rows(self.config, self._space, rows, first)
            add_trials(self._study, self._storage, new, len(rows))
        if new:
            design = sum(bool(row.user_attrs["design"]) for row in new)
            logger.info("%s: enqueued %d trials, %d of them design trials", self.name, len(new), design)
        return budget

    def add_finished(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Adds finished trials (records: see `sweep.study.warm_start`): for simulations."""
        self._study.add_trials(prior_trials(list(records), self._space))

    def enqueue(self, hyperparameters: Mapping[str, Scalar]) -> int:
        """Enqueues one configuration of the user's own; returns its number."""
        with self.exclusive():
            attrs = {"seed": self.config.training.seed, "design": False}
            new = [waiting_row(self.config, self._space, hyperparameters, attrs)]
            add_trials(self._study, self._storage, new, number := len(self._trials()))
            return number

    def retry(self, numbers: Iterable[int]) -> dict[int, int]:
        """Enqueues failed trials once more, with the same values; returns the number of each new row.

        A new row counts in place of the failed one, which stays as it is.
        """
        with self.exclusive():
            rows = self._trials()
            failed = {t.number: t for t in counting(rows) if t.state == TrialState.FAIL}
            found = dict(zip((n for n in numbers if n in failed), itertools.count(len(rows))))
            new = list[FrozenTrial]()
            for attrs, trial in ((failed[number].user_attrs, failed[number]) for number in found):
                kept = {name: attrs[name] for name in PLANNED if name in attrs}
                values = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
                new.append(waiting_row(self.config, self._space, values, {**kept, "retry_of": trial.number}))
            add_trials(self._study, self._storage, new, len(rows))
            return found

    def add(self, planned: Sequence[PlannedTrial]) -> None:
        """Adds rows to the sister study, each once, for whichever search trial: it would train to the same numbers."""
        with self.exclusive():
            present, new = [t.user_attrs for t in self._trials()], list[FrozenTrial]()
            for kind, of, seed, hyperparameters in planned:
                row = {"kind": kind, "of": of, "seed": seed, "hyperparameters": hyperparameters, "design": False}
                if not any(all(attrs.get(k) == row[k] for k in row if k != "of") for attrs in present):
                    new.append(waiting_row(self.config, self._space, {}, row))
                    present.append(row)
            add_trials(self._study, self._storage, new, len(present) - len(new))

    def ask(self, *, new: bool = True) -> Trial | None:
        """Claims a trial: an orphan, else a waiting one if ``new``; None if there is none.

        A trial that was claimed when the storage became unreachable is returned next time.
        """
        with self.exclusive():
            if self._claimed is not None:
                self._repeat_claim(*self._claimed)
            else:
                self._claim(new=new)
            if self._claimed is not None and self.config.search.seeds > 1:
                self._choose(self._claimed[0])
        if self._claimed is None:
            return None
        trial = self._trial(*self._claimed)
        self._claimed = None
        return trial

    def _choose(self, frozen: FrozenTrial) -> None:
        """Writes what a claimed trial of a race trains, unless the sampler or a dead driver has chosen it."""
        attrs, given = frozen.user_attrs, {**frozen.params, **frozen.system_attrs.get("fixed_params", {})}
        if given or attrs.get("design") or not self._space:
            return
        repeat = next_repeat(self.config, self._trials())
        values = repeat.values if repeat else next(presampled_points(self.config, self._space, [frozen.number]))
        number = trial_id(frozen)
        with write_batch(self._storage):
            self._storage.set_trial_user_attr(number, "seed", repeat.seed if repeat else self.config.training.seed)
            self._storage.set_trial_user_attr(number, "repeat_of", repeat.of if repeat else None)
            self._storage.set_trial_system_attr(number, "fixed_params", values)

    def _trial(self, frozen: FrozenTrial, owner: dict[str, Any]) -> Trial:
        # Each trial has a seed of its own: with one seed for all, each driver would draw the same points.
        sampler = build_sampler(self.config, self._space, seed=self.config.training.seed * 1_000_003 + frozen.number)
        if self._known or self.config.search.seeds > 1:
            sampler = WarmStartSampler(sampler, self._known, self._space, averaged)
        self._study.sampler = sampler
        forget_cached_trials(self._study)
        handle = optuna.Trial(self._study, trial_id(frozen))
        attrs = handle.user_attrs
        with write_batch(self._storage):
            values = suggest_point(handle, self.config, self._space)
        hyperparameters = {**values, **attrs.get("hyperparameters", {})}
        reported, kind = sorted(frozen.intermediate_values), attrs.get("kind", "trial")
        config = self.config.trial(hyperparameters, seed=attrs.get("seed"))
        return Trial(
            study=self.name,
            number=handle.number,
            kind=kind,
            hyperparameters=hyperparameters,
            config=config.model_copy(update={"test": kind in ARMS}),
            design=bool(attrs.get("design")),
            of=attrs.get("of"),
            attempt=owner["attempt"],
            handle=handle,
            owner=owner,
            started=frozen.datetime_start.timestamp() if frozen.datetime_start else None,
            failures=attrs.get("failures", 0),
            retry_of=attrs.get("retry_of"),
            repeat_of=attrs.get("repeat_of"),
            exclusive=bool(attrs.get("alone")),
            reported=max(reported, default=0),
            # The driver that reported the last epoch may have died before it asked the pruner.
            last_pruning_check=reported[-2] if len(reported) > 1 else 0,
        )

    def pruning_epochs(self, trial: Trial) -> frozenset[int] | None:
        """Returns the epochs at which the pruner is asked about a trial; None without a pruner."""
        return self._decisions if trial.kind == "trial" and self.config.search.pruner != "none" else None

    def report(self, trial: Trial, epochs: Sequence[EpochMetrics]) -> int | None:
        """Reports finished epochs in order; returns the epoch at which the pruner stops the trial, or None.

        A trial that takes the numbers of its twin is stopped where that was; the pruner is not asked.
        Only the epochs at which the pruner decides go to the storage; at each the pruner is asked before the next one.
        An epoch whose objective is not finite counts as one without a value.
        Epochs may be reported again: after an error of the storage, or by the driver that has adopted the trial.
        Raises `EndedElsewhereError` if the trial has ended.
        """
        objective = self.config.objective
        if trial.pruned_at is not None:
            return trial.pruned_at  # decided before an outage; the trials that ended since then change nothing
        for metrics in epochs:
            value = metrics.values[objective.metric]
            if not math.isfinite(value):
                continue
            if objective.at == "best" and trial.best is not None and not objective.better(value, trial.best):
                value = trial.best
            trial.best = value
            if metrics.epoch <= trial.last_pruning_check or metrics.epoch not in self._decisions:
                continue
            if metrics.epoch > trial.reported:
                with ended_elsewhere(trial):
                    trial.handle.report(value, metrics.epoch)
                trial.reported = metrics.epoch
            last = metrics.epoch == self.config.training.max_epochs
            can_prune = trial.kind == "trial" and trial.twin is None and trial.repeat_of is None and not last
            # The pruner is asked about design trials too, though they go on: asking fills the rungs for the others.
            if can_prune and trial.handle.should_prune() and not trial.design:
                trial.pruned_at = metrics.epoch  # decided: an outage from here on does not undo it
                with contextlib.suppress(*UNREACHABLE):
                    trial.pruned_by = explain_pruning(self.config, self._study, trial.number, metrics.epoch)
                logger.debug("%s: trial %d pruned by %s", self.name, trial.number, trial.pruned_by)
                return metrics.epoch
            trial.last_pruning_check = metrics.epoch
        if trial.twin is not None:
            trial.pruned_at, trial.pruned_by = trial.twin.pruned_at, trial.twin.pruned_by
        return trial.pruned_at

    def tell(
        self,
        trial: Trial,
        outcome: Outcome,
        *,
        checkpoint: str | None,
        error: str | None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Ends a trial; ``tags`` are kept in case that MLflow does not get them.

        Raises `EndedElsewhereError` if another driver has ended it.
        """
        attrs: dict[str, Any] = {
            "epochs": trial.epochs,
            "checkpoint": checkpoint,
            "error": error,
            "tags": tags and dict(tags),
            "fingerprint": trial.fingerprint or None,
            "twin": trial.twin and trial.twin.number,
        }
        if trial.seconds or trial.twin:
            attrs |= {"trained": len(trial.seconds), "seconds": sum(trial.seconds.values())}
        if outcome == "pruned":
            attrs |= {"pruned_at": trial.pruned_at, "pruned_by": trial.pruned_by}
        attrs["outcome"] = outcome
        try:
            with write_batch(self._storage):
                for name, value in attrs.items():
                    if value is not None:
                        trial.handle.set_user_attr(name, value)
                if outcome in ("pruned", "diverged"):
                    # A divergence late in training must not look better to TPE than an early pruning.
                    trial.handle.set_constraint("diverged", 1.0 if outcome == "diverged" else -1.0)
            state = _STATES[outcome]
            self._study.tell(trial.handle, trial.best if state == TrialState.COMPLETE else None, state)
        except UpdateFinishedTrialError as error:
            if not self.owns(trial):
                raise EndedElsewhereError(str(error)) from error
            logger.info("%s: trial %d was ended by a call whose answer was lost", self.name, trial.number)
        self.forget(trial)

    def find_twin(self, trial: Trial) -> TrialRecord | None:
        """Returns the trial whose numbers another one takes, or waits for while it runs; see `twins.find_twin`."""
        exact = self.config.kind == "model" and not self.config.import_paths
        found = twins.find_twin(trial, self._trials(latest=False), exact=exact)
        return None if found is None else to_record(found, self._monitor, lambda _: None)

    def resample(self, trial: Trial) -> None:
        """Gives a trial another seed if an earlier one has its hyperparameters and seed."""
        first = self.config.training.seed + twins.RESAMPLE_SEED
        seed = twins.unused_seed(trial, self._trials(latest=False), first=first)
        if seed != trial.config.training.seed:
            with contextlib.suppress(UpdateFinishedTrialError):  # ended by another driver, as its report will show
                trial.handle.set_user_attr("seed", seed)
            trial.config = self.config.trial(trial.hyperparameters, seed=seed)

    def record_failure(self, trial: Trial, error: str) -> None:
        """Counts an error of the trial's own code after which the trial is retried."""
        with ended_elsewhere(trial), write_batch(self._storage):
            trial.handle.set_user_attr("error", error)
            trial.handle.set_user_attr("failures", trial.failures + 1)
        trial.failures += 1
        logger.info("%s: retry of trial %d after failure %d", self.name, trial.number, trial.failures)

    def record_oom(self, trial: Trial, error: str) -> None:
        """Records that a trial ran out of memory: from now on it runs alone, whichever driver has it."""
        with ended_elsewhere(trial), write_batch(self._storage):
            trial.handle.set_user_attr("error", error)
            trial.handle.set_user_attr("alone", True)
        trial.exclusive = True
        logger.info("%s: retry of trial %d alone, after an out-of-memory error", self.name, trial.number)

    def rows(self, *, latest: bool = True, retried: bool = False) -> list[TrialRecord]:
        """Returns the trials that count, by number, or with ``retried`` all of them.

        Not the ``latest``: as last known, also during a storage outage.
        """
        leases = read_leases(self._study) if latest else lambda _: None
        trials = self._trials(latest=latest)
        shown = trials if retried else counting(trials)
        return [to_record(t, self._monitor, leases) for t in shown]
