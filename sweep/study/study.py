"""A study: its budget, and the life of its trials from the claim to the outcome. Called by the driver alone.

A trial is a row that waits (the budget), is claimed by one driver, and ends with an outcome.
"""

import contextlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import uuid4

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from ..config.errors import StorageError
from ..config.filesystem import AnyPath, glob_files, local_path
from ..config.locks import FileLock
from ..config.search_space import Scalar
from ..config.study_config import StudyConfig
from ..training.reports import EpochMetrics
from .claims import Claims
from .distributions import distributions, suggest
from .pruners import build_pruner, explain_pruning, pruning_epochs
from .records import ARMS, Outcome, PlannedTrial, TrialRecord
from .samplers import WarmStartSampler, build_sampler, design_trials, presampled_params
from .storages.rdb_cache import forget_cached_trials, trial_id
from .storages.storage import FORMAT, UNREACHABLE, exclusive, read_config, write_batch
from .stored_trials import is_orphan, read_leases, to_record
from .trial import EndedElsewhereError, Trial, ended_elsewhere
from .warm_start import prior_trials

logger = logging.getLogger(__name__)

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
        folder = local_path(workspace) / config.name
        folder.mkdir(parents=True, exist_ok=True)
        name, lock = f"{config.name}.controls" if sister else config.name, FileLock(folder / "lock")
        with exclusive(storage, name, lock):
            study = _open(name, config, storage, workspace)
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
        with self._exclusive():
            if self.get_user_attr("knowledge") is None:
                self.set_user_attr("knowledge", [dict(record) for record in records])
        self._known = prior_trials(self.get_user_attr("knowledge"), self._space)

    def enqueue_budget(self, first: Sequence[Mapping[str, Scalar]] = ()) -> int:
        """Writes the budget into the storage: WAITING rows up to ``trials``, ``design`` of them uniform.

        Trials with the values of the points ``first`` are added to the budget if they are missing; in a new study they
        come before all others. Returns the budget: more than ``trials`` if it was larger before.
        """
        search, seed = self.config.search, self.config.training.seed
        with self._exclusive():
            rows = self._trials()
            present = [{**t.params, **t.system_attrs.get("fixed_params", {})} for t in rows]
            for point in first:
                if not any(point.items() <= values.items() for values in present):
                    values = {**presampled_params(self.config, self._space, len(present)), **point}
                    self._enqueue(values, {"seed": seed, "design": False, "given": True})
                    present.append(dict(point))
            own = [t for t in rows if not t.user_attrs.get("given")]
            designed = [(t.params, t.user_attrs) for t in own if t.user_attrs.get("design")]
            design = max(0, min(search.design - len(designed), search.trials - len(own)))
            for values, attrs in design_trials(self.config, self._space, designed, design):
                self._enqueue(values, attrs)
            for number in range(len(own) + design, search.trials):
                # Of samplers that do not learn, the values depend on nothing but the seed.
                values = presampled_params(self.config, self._space, number)
                self._enqueue(values, {"seed": seed, "design": False})
        if (count := len(present) - len(rows) + max(0, search.trials - len(own))) > 0:
            logger.info("%s: enqueued %d trials, %d of them design trials", self.name, count, design)
        return max(len(own), search.trials)

    def add_finished(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Adds finished trials (records: see `sweep.study.warm_start`): for simulations."""
        self._study.add_trials(prior_trials(list(records), self._space))

    def enqueue(self, hyperparameters: Mapping[str, Scalar]) -> int:
        """Enqueues one configuration of the user's own; returns its number."""
        with self._exclusive():
            self._enqueue(hyperparameters, {"seed": self.config.training.seed, "design": False})
            return len(self._trials()) - 1

    def add(self, planned: Sequence[PlannedTrial]) -> None:
        """Adds rows to the sister study, each once, for whichever search trial: it would train to the same numbers."""
        with self._exclusive():
            present = [t.user_attrs for t in self._trials()]
            for kind, of, seed, hyperparameters in planned:
                row = {"kind": kind, "of": of, "seed": seed, "hyperparameters": hyperparameters, "design": False}
                if not any(all(attrs.get(k) == row[k] for k in row if k != "of") for attrs in present):
                    self._enqueue({}, row)
                    present.append(row)

    def _enqueue(self, values: Mapping[str, Scalar], attrs: dict[str, Any]) -> None:
        if values and set(values) == set(self._space):
            # A whole point is stored as params at once, which spares a write for each value.
            space = dict(self._space)
            row = create_trial(state=TrialState.WAITING, params=dict(values), distributions=space, user_attrs=attrs)
            self._study.add_trial(row)
        else:
            self._study.enqueue_trial(dict(values), user_attrs=attrs)

    def ask(self, *, new: bool = True) -> Trial | None:
        """Claims a trial: an orphan, else a waiting one if ``new``; None if there is none.

        A trial that was claimed when the storage became unreachable is returned next time.
        """
        with self._exclusive():
            if self._claimed is not None:
                self._repeat_claim(*self._claimed)
            else:
                self._claim(new=new)
        if self._claimed is None:
            return None
        trial = self._trial(*self._claimed)
        self._claimed = None
        return trial

    def _trial(self, frozen: FrozenTrial, owner: dict[str, Any]) -> Trial:
        # Each trial has a seed of its own: with one seed for all, each driver would draw the same points.
        sampler = build_sampler(self.config, self._space, seed=self.config.training.seed * 1_000_003 + frozen.number)
        self._study.sampler = WarmStartSampler(sampler, self._known, self._space) if self._known else sampler
        forget_cached_trials(self._study)
        handle = optuna.Trial(self._study, trial_id(frozen))
        attrs = handle.user_attrs
        with write_batch(self._storage):
            values = {name: suggest(handle, name, distribution) for name, distribution in self._space.items()}
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

        Only the epochs at which the pruner decides go to the storage; at each the pruner is asked before the next one.
        Epochs may be reported again: after an error of the storage, or by the driver that has adopted the trial.
        Raises `EndedElsewhereError` if the trial has ended.
        """
        objective = self.config.objective
        if trial.pruned_at is not None:
            return trial.pruned_at  # decided before an outage; the trials that ended since then change nothing
        for metrics in epochs:
            value = metrics.values[objective.metric]
            if objective.at == "best" and trial.best is not None and not objective.better(value, trial.best):
                value = trial.best
            trial.best = value
            if metrics.epoch <= trial.last_pruning_check or metrics.epoch not in self._decisions:
                continue
            if metrics.epoch > trial.reported:
                with ended_elsewhere(trial):
                    trial.handle.report(value, metrics.epoch)
                trial.reported = metrics.epoch
            can_prune = trial.kind == "trial" and metrics.epoch < self.config.training.max_epochs
            # The pruner is asked about design trials too, though they go on: asking fills the rungs for the others.
            if can_prune and trial.handle.should_prune() and not trial.design:
                trial.pruned_at = metrics.epoch  # decided: an outage from here on does not undo it
                with contextlib.suppress(*UNREACHABLE):
                    trial.pruned_by = explain_pruning(self.config, self._study, trial.number, metrics.epoch)
                logger.debug("%s: trial %d pruned by %s", self.name, trial.number, trial.pruned_by)
                return metrics.epoch
            trial.last_pruning_check = metrics.epoch
        return None

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
        }
        if trial.seconds:
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

    def rows(self, *, latest: bool = True) -> list[TrialRecord]:
        """Returns all trials by number; not the ``latest``: as last known, also during a storage outage."""
        leases = read_leases(self._study) if latest else lambda _: None
        return [to_record(t, orphan=is_orphan(t, self._monitor, leases)) for t in self._trials(latest=latest)]


def _open(name: str, config: StudyConfig, storage: BaseStorage, workspace: AnyPath) -> optuna.Study:
    """Opens a study, or creates it; to be called while other drivers are kept out."""
    if (before := read_config(name, storage)) is None:
        refuse_stale_checkpoints(name, workspace)
    study = _create(name, config, storage)
    if before is not None:
        before.require_agreement(config)
    attrs = study.user_attrs
    # The config is read by `resume NAME` and compared at the next run.
    present = {"config": config.model_dump(mode="json"), "format": FORMAT, "id": attrs.get("id", uuid4().hex)}
    for attr, value in present.items():
        if attrs.get(attr) != value:
            study.set_user_attr(attr, value)
    logger.debug("%s: %s", name, "created" if before is None else "opened")
    return study


def refuse_stale_checkpoints(name: str, workspace: AnyPath) -> None:
    """Raises `StorageError` for a new study beside checkpoints of an earlier one: its trials would resume from them."""
    if stray := next(iter(glob_files(workspace / name, "*/*/epoch-*.pt")), None):
        raise StorageError(
            f"study {name}: the storage has no study of this name, but {stray.parents[2]} holds checkpoints of an "
            "earlier one; move that folder, or choose another name or workspace"
        )


def _create(name: str, config: StudyConfig, storage: BaseStorage) -> optuna.Study:
    """Creates an Optuna study, or opens ours; also an empty one, whose driver died before it wrote the config."""
    direction, pruner = config.objective.direction, build_pruner(config)
    if name not in optuna.get_all_study_names(storage):
        return optuna.create_study(study_name=name, storage=storage, direction=direction, pruner=pruner)
    study = optuna.load_study(study_name=name, storage=storage, pruner=pruner)
    if "copied_from" in study.user_attrs and "config" not in study.user_attrs:
        raise StorageError(f"study {name}: its import is running, or was interrupted: then import it again")
    if "config" not in study.user_attrs and (study.user_attrs or study.get_trials(deepcopy=False)):
        raise StorageError(f"study {name}: sweep did not create the one in the storage; choose another name")
    present = " and ".join(d.name.lower() for d in study.directions)
    if present != direction:
        raise StorageError(f"study {name}: its objective is to {present}, not to {direction}; choose another name")
    return study
