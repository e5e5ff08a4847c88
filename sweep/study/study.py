"""Optuna's door: what to try next and when to stop, computed from the storage, the only source of truth.

Called by the driver alone. A trial is a row that waits (the budget), is taken by one driver, and ends with an outcome.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast
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
from .distributions import distributions, random_point, sobol_points, suggest
from .records import ARMS, Outcome, PlannedTrial, TrialRecord
from .samplers import WarmStartSampler, build_pruner, build_sampler, pruning_epochs
from .storages.leases import LEASE_ENDED, LeaseMonitor, lease_key, release_owner, this_process
from .storages.rdb_cache import get_owner, invalidate, refresh_trial, write_batch
from .storages.storage import FORMAT, exclusive, read_config
from .trial import EndedElsewhereError, Trial
from .warm_start import prior_trials

_STATES: dict[Outcome, TrialState] = {
    "completed": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "diverged": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}


class Study:
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
        """Opens it, or creates it.

        Args:
            sister: the study of finalists, controls and pairs.
            pairs: of the sister's rows those that are trained; by default all but the pairs of `sweep confirm`.

        Raises:
            StorageError: the storage has something else of its name.
        """
        self.config = config
        self._pairs = None if pairs is None else [(kind, seed, values) for kind, _, seed, values in pairs]
        self.name = f"{config.name}.controls" if sister else config.name
        self._storage = storage
        self._space = {} if sister else distributions(config.searched)
        self._decisions = pruning_epochs(config)
        folder = local_path(workspace) / config.name
        folder.mkdir(parents=True, exist_ok=True)
        self._lock, self._watch = FileLock(folder / "lock"), LeaseMonitor()
        self._claimed: list[tuple[FrozenTrial, dict[str, Any]]] = []  # and not yet handed out
        with self._exclusive():
            # For `resume NAME`, and for comparison at the next run; here, where no other driver can come between.
            if (before := read_config(self.name, storage)) is None:
                refuse_stale_checkpoints(self.name, workspace)
            self._study = _create(self.name, config, storage)
            if before is not None:
                before.require_agreement(config)
            if self.get_user_attr("config") != (present := config.model_dump(mode="json")):
                self.set_user_attr("config", present)
            if self.get_user_attr("format") != FORMAT:
                self.set_user_attr("format", FORMAT)
            if self.get_user_attr("id") is None:
                self.set_user_attr("id", uuid4().hex)
        self._id = storage.get_study_id_from_name(self.name)
        self._known = prior_trials(cast("list[Any]", self.get_user_attr("knowledge") or []), self._space)

    def _exclusive(self) -> contextlib.AbstractContextManager[None]:
        return exclusive(self._storage, self.name, self._lock)

    # -- the budget ----------------------------------------------------------------------------------------------

    def set_user_attr(self, name: str, value: object) -> None:
        """Writes a fact about the study, JSON, into the storage."""
        self._study.set_user_attr(name, value)

    def get_user_attr(self, name: str) -> object:
        """Reads such a fact; None where there is none."""
        return self._study.user_attrs.get(name)

    @property
    def n_prior_trials(self) -> int:
        """How many trials of other studies the sampler is shown."""
        return len(self._known)

    def add_prior_trials(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Shows the sampler trials of other studies (see `sweep.study.warm_start`); before the first trial is taken."""
        with self._exclusive():
            if self.get_user_attr("knowledge") is None:
                self.set_user_attr("knowledge", [dict(record) for record in records])
        self._known = prior_trials(cast("list[Any]", self.get_user_attr("knowledge")), self._space)

    def enqueue_budget(self, first: Sequence[Mapping[str, Scalar]] = ()) -> int:
        """Puts the budget into the storage: WAITING rows up to ``trials``, of which ``design`` are Sobol' points.

        Rows of samplers that do not learn get their values here, so that they depend on nothing but the seed.

        Args:
            first: values of points that must be among the trials; those that are not yet come on top of the budget, in
                a new study before all others.

        Returns:
            The budget: more than ``trials`` where it was larger before, since it never shrinks.
        """
        search, seed = self.config.search, self.config.training.seed
        with self._exclusive():
            rows = self._frozen()
            there = [{**t.params, **t.system_attrs.get("fixed_params", {})} for t in rows]
            for point in first:
                if not any(point.items() <= values.items() for values in there):
                    self._enqueue(
                        {**self._presampled_params(len(there)), **point}, {"seed": seed, "design": False, "given": True}
                    )
                    there.append(dict(point))
            rows = [t for t in rows if not t.user_attrs.get("given")]
            designed = sum(bool(t.user_attrs.get("design")) for t in rows)
            design = max(0, min(search.design - designed, search.trials - len(rows)))
            points = sobol_points(self._space, count=design, skip=designed, seed=seed)
            for point in points:
                self._enqueue(point, {"seed": seed, "design": True})
            for number in range(len(rows) + design, search.trials):
                self._enqueue(self._presampled_params(number), {"seed": seed, "design": False})
            return max(len(rows), search.trials)

    def _presampled_params(self, number: int) -> dict[str, Scalar]:
        """The values of a trial by a sampler that does not learn; none by one that does."""
        search, seed = self.config.search, self.config.training.seed
        if search.sampler == "random":
            return random_point(self._space, seed=seed, number=number)
        if search.sampler == "qmc":
            return sobol_points(self._space, count=1, skip=number, seed=seed + 1)[0]
        return {}

    def add_finished(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Puts finished trials into the storage (records: see `sweep.study.warm_start`): for simulations."""
        self._study.add_trials(prior_trials(list(records), self._space))

    def enqueue(self, hyperparameters: Mapping[str, Scalar]) -> int:
        """Puts one configuration of the user's own into the queue; returns its number."""
        with self._exclusive():
            self._enqueue(hyperparameters, {"seed": self.config.training.seed, "design": False})
            return len(self._frozen()) - 1

    def add(self, wanted: Sequence[PlannedTrial]) -> None:
        """Puts rows (kind, of, seed, hyperparameters) into the sister study, each once however often it is asked.

        A row that is there for another trial serves this one too: it would be trained to the same numbers.
        """
        with self._exclusive():
            present = [t.user_attrs for t in self._frozen()]
            for kind, of, seed, hyperparameters in wanted:
                row = {"kind": kind, "of": of, "seed": seed, "hyperparameters": hyperparameters, "design": False}
                if not any(all(attrs.get(k) == row[k] for k in row if k != "of") for attrs in present):
                    self._enqueue({}, row)
                    present.append(row)

    def _enqueue(self, values: Mapping[str, Scalar], attrs: dict[str, Any]) -> None:
        """Adds a WAITING row. A whole point is stored as params at once, sparing the storage a write for each."""
        if values and set(values) == set(self._space):
            row = create_trial(
                state=TrialState.WAITING, params=dict(values), distributions=dict(self._space), user_attrs=attrs
            )
            self._study.add_trial(row)
        else:
            self._study.enqueue_trial(dict(values), user_attrs=attrs)

    # -- one trial's life ----------------------------------------------------------------------------------------

    def ask(self, *, new: bool = True) -> Trial | None:
        """Takes a trial: one whose owner is dead, else (``new``) one that waits; None when there is none.

        Raises:
            StorageInternalError, OSError: the storage is away; a trial that was taken by then is handed out next time.
        """
        with self._exclusive():
            if self._claimed:
                self._repeat_claim()
            else:
                self._claim(new)
        if not self._claimed:
            return None
        trial = self._trial(*self._claimed[-1])
        self._claimed.pop()
        return trial

    def _repeat_claim(self) -> None:
        """Marks the trial of a call in whose middle the storage went away, perhaps before it had the mark."""
        frozen, mark = self._claimed[-1]
        there = refresh_trial(self._storage, frozen._trial_id).user_attrs.get("owner", {"attempt": 0})
        if there["attempt"] < mark["attempt"]:
            self._storage.set_trial_user_attr(frozen._trial_id, "owner", mark)
        elif there != mark:
            self._claimed.pop()  # another driver was faster

    def _claim(self, new: bool) -> None:
        for latest in (False, True):  # the latest state of all trials is read where the last one known leaves nothing
            frozen = self._find_orphan(latest) or (self._claim_waiting() if new else None)
            if frozen is not None:
                mark = this_process(frozen.user_attrs.get("owner", {"attempt": 0})["attempt"] + 1)
                self._claimed.append((frozen, mark))
                return self._storage.set_trial_user_attr(frozen._trial_id, "owner", mark)
        return None

    def _find_orphan(self, latest: bool) -> FrozenTrial | None:
        """A running trial that no living driver has."""
        leases = _leases(self._study)
        for frozen in self._trained(TrialState.RUNNING, latest=latest):
            if self._is_free(frozen, leases) and self._is_free(
                now := refresh_trial(self._storage, frozen._trial_id), leases
            ):
                return now
        return None

    def _claim_waiting(self) -> FrozenTrial | None:
        """A trial that waited, and runs now: WAITING -> RUNNING is Optuna's one atomic step."""
        for frozen in self._trained(TrialState.WAITING, latest=False):
            with contextlib.suppress(UpdateFinishedTrialError):  # it waits in memory alone
                if self._storage.set_trial_state_values(frozen._trial_id, state=TrialState.RUNNING):
                    return frozen
        return None  # or other drivers were faster, each time

    def _is_free(self, frozen: FrozenTrial, leases: Leases) -> bool:
        """Whether a running trial has no driver, or a dead one.

        One without a mark has lost its driver before the mark: both are written while the others are kept out.
        """
        running = frozen.state == TrialState.RUNNING
        return running and ("owner" not in frozen.user_attrs or _is_orphan(frozen, self._watch, leases))

    def _trial(self, frozen: FrozenTrial, mark: dict[str, Any]) -> Trial:
        # A seed for each trial: drivers that share one, at once or one after the other, would draw the same points.
        sampler = build_sampler(self.config, self._space, seed=self.config.training.seed * 1_000_003 + frozen.number)
        self._study.sampler = WarmStartSampler(sampler, self._known, self._space) if self._known else sampler
        # As Optuna's ask() does: a thread keeps the trials that its sampler sees, and another one tells of their ends.
        self._study._thread_local.cached_all_trials = None
        handle = optuna.Trial(self._study, frozen._trial_id)
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
            attempt=mark["attempt"],
            handle=handle,
            owner=mark,
            started=frozen.datetime_start.timestamp() if frozen.datetime_start else None,
            failures=attrs.get("failures", 0),
            exclusive=bool(attrs.get("alone")),
            reported=max(reported, default=0),
            last_pruning_check=reported[-2]
            if len(reported) > 1
            else 0,  # whoever reported the last one may have died before
        )

    def owns(self, trial: Trial) -> bool:
        """Whether a trial is still this driver's: one that slept may have been taken for dead."""
        return get_owner(self._storage, trial.handle._trial_id) == trial.owner

    def heartbeat(self, beat: int) -> None:
        """Tells the drivers on other hosts that this one lives, and sees which of them do.

        To be called every ``RENEW_EVERY`` seconds.
        """
        self.set_user_attr(lease_key(this_process(0)), beat)
        self._watch.poll(self._study.user_attrs.get)

    def end_lease(self) -> None:
        """Tells them that this driver has ended, and told the tracker what it had to."""
        self.set_user_attr(lease_key(this_process(0)), LEASE_ENDED)

    def pruning_epochs(self, trial: Trial) -> frozenset[int] | None:
        """The epochs at which the pruner looks at a trial, design trials too: others are compared with them.

        None where there is no pruner: all epochs are the same then.
        """
        return self._decisions if trial.kind == "trial" and self.config.search.pruner != "none" else None

    def report(self, trial: Trial, epochs: Sequence[EpochMetrics]) -> int | None:
        """Reports finished epochs in order; returns the epoch at which the pruner stops the trial, if it does.

        Only the epochs at which the pruner decides go to the storage; each is reported and judged before the next.
        Epochs may be handed in again: after an error of the storage, or by whoever has adopted the trial.

        Raises:
            EndedElsewhereError: the trial has ended.
        """
        objective = self.config.objective
        if trial.pruned_at is not None:
            return trial.pruned_at  # that it ends was not stored then; others have ended since, but it is decided
        for metrics in epochs:
            value = metrics.values[objective.metric]
            if objective.at == "best" and trial.best is not None and not objective.better(value, trial.best):
                value = trial.best
            trial.best = value
            if metrics.epoch <= trial.last_pruning_check or metrics.epoch not in self._decisions:
                continue
            if metrics.epoch > trial.reported:
                with _ended_elsewhere(trial):
                    trial.handle.report(value, metrics.epoch)
                trial.reported = metrics.epoch
            judged = trial.kind == "trial" and metrics.epoch < self.config.training.max_epochs
            # Design trials are asked too, though never stopped: the rungs that others are compared with fill by asking.
            if judged and trial.handle.should_prune() and not trial.design:
                trial.pruned_at = metrics.epoch
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
        """Ends a trial. Its attributes are written first: a finished trial takes no more.

        Args:
            tags: what the tracker was told beside, kept for the case that it never got there.

        Raises:
            EndedElsewhereError: another driver has ended it.
        """
        facts = {
            "epochs": trial.epochs,
            "trained": len(trial.seconds) or None,
            "seconds": sum(trial.seconds.values()) if trial.seconds else None,
            "checkpoint": checkpoint,
            "error": error,
            "tags": tags and dict(tags),
            "outcome": outcome,
        }
        try:
            with write_batch(self._storage):
                for name, value in facts.items():
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
            # else it was told before, in a call whose answer was lost

    def record_failure(self, trial: Trial, error: str) -> None:
        """Counts an error of the trial's own code that does not end it."""
        with _ended_elsewhere(trial), write_batch(self._storage):
            trial.handle.set_user_attr("error", error)
            trial.handle.set_user_attr("failures", trial.failures + 1)
        trial.failures += 1

    def record_oom(self, trial: Trial, error: str) -> None:
        """Keeps that a trial was out of memory, and so must run alone from here on, whoever takes it up."""
        with _ended_elsewhere(trial), write_batch(self._storage):
            trial.handle.set_user_attr("error", error)
            trial.handle.set_user_attr("alone", True)
        trial.exclusive = True

    def release(self, trial: Trial) -> None:
        """Leaves an unfinished trial to whoever comes next, this process included, unless somebody has it already."""
        with self._exclusive(), contextlib.suppress(UpdateFinishedTrialError):
            if self.owns(trial):
                trial.handle.set_user_attr("owner", release_owner(trial.owner))

    # -- looking at it -------------------------------------------------------------------------------------------

    def rows(self, *, latest: bool = True) -> list[TrialRecord]:
        """All trials, by number; not the ``latest``: as they were known last, also while the storage is away."""
        leases = _leases(self._study) if latest else dict
        return [_row(t, _is_orphan(t, self._watch, leases)) for t in self._frozen(latest=latest)]

    def n_waiting(self) -> int:
        """How many trials no driver has begun."""
        return sum(1 for _ in self._trained(TrialState.WAITING, latest=False))

    def is_busy(self) -> bool:
        """Whether a living driver is at one of the trials that this one would train."""
        leases = _leases(self._study)
        return any(not _is_orphan(frozen, self._watch, leases) for frozen in self._trained(TrialState.RUNNING))

    def started_trials(self) -> set[tuple[str, int]]:
        """Keys of the trials that some driver has begun."""
        return {(self.name, t.number) for t in self._frozen() if t.state != TrialState.WAITING}

    def trials_of_other_drivers(self) -> dict[int, bool]:
        """Numbers of the trials whose last owner is another living process: it tells the tracker of them itself.

        Returns:
            For each, whether that is known: a driver on another host may be dead, and nobody has seen it for long.
        """
        mine, living, found = this_process(0), dict[str, bool](), dict[int, bool]()
        leases = _leases(self._study)
        for frozen in self._frozen():
            mark = frozen.user_attrs.get("owner")
            if mark is None or {**mark, "attempt": 0} == mine:
                continue
            if (name := lease_key(mark)) not in living:
                living[name] = self._watch.is_alive(mark, lambda lease: leases().get(lease))
            if living[name]:
                found[frozen.number] = self._watch.is_confirmed(mark)
        return found

    def is_wanted(self, kind: object, seed: object, hyperparameters: object) -> bool:
        """Whether a row is one that this driver would train."""
        return kind not in ARMS if self._pairs is None else (kind, seed, hyperparameters) in self._pairs

    def _trained(self, state: TrialState, *, latest: bool = True) -> Iterator[FrozenTrial]:
        """Those of a state that this driver would train."""
        for frozen in self._frozen(state, latest=latest):
            attrs = frozen.user_attrs
            if self.is_wanted(attrs.get("kind"), attrs.get("seed"), attrs.get("hyperparameters")):
                yield frozen

    def _frozen(self, *states: TrialState, latest: bool = True) -> list[FrozenTrial]:
        if latest:
            invalidate(self._storage, self._id)
        return self._storage.get_all_trials(self._id, deepcopy=False, states=states or None)


@contextlib.contextmanager
def _ended_elsewhere(trial: Trial) -> Iterator[None]:
    """Says so where a trial takes nothing more."""
    try:
        yield
    except UpdateFinishedTrialError as error:
        raise EndedElsewhereError(f"trial {trial.number} of {trial.study}") from error


def refuse_stale_checkpoints(name: str, workspace: AnyPath) -> None:
    """Refuses to begin a study where checkpoints lie that another one has left: its trials would go on from them.

    Raises:
        StorageError: there are some.
    """
    if stray := next(iter(glob_files(workspace / name, "*/*/epoch-*.pt")), None):
        raise StorageError(
            f"study {name}: the storage has none of this name, but {stray.parents[2]} holds checkpoints of one that "
            "was there before; move that folder away, or choose another name or workspace"
        )


def read_rows(name: str, storage: BaseStorage) -> list[TrialRecord]:
    """The trials of a study, by number, without opening it for writing; none of a study that does not exist."""
    if name not in optuna.get_all_study_names(storage):
        return []
    leases, watch = _leases(optuna.load_study(study_name=name, storage=storage)), LeaseMonitor()
    trials = storage.get_all_trials(storage.get_study_id_from_name(name), deepcopy=False)
    return [_row(t, _is_orphan(t, watch, leases)) for t in trials]


Leases = Callable[[], Mapping[str, Any]]
"""What the drivers of a study have renewed, by lease."""


def _leases(study: optuna.Study) -> Leases:
    """Read when first asked for, and once: most trials are of this machine, whose processes are known to live."""
    return functools.cache(lambda: study.user_attrs)


def _is_orphan(frozen: FrozenTrial, watch: LeaseMonitor, leases: Leases) -> bool:
    """Whether no living driver has a running trial."""
    mark = frozen.user_attrs.get("owner")
    if frozen.state != TrialState.RUNNING or mark is None:  # without a mark it may be about to be taken
        return False
    return not watch.is_alive(mark, lambda lease: leases().get(lease))


def _row(frozen: FrozenTrial, orphan: bool) -> TrialRecord:
    attrs = frozen.user_attrs
    mark = attrs.get("owner")
    state = {"WAITING": "waiting", "RUNNING": "running"}.get(frozen.state.name, "finished")
    outcome = attrs.get("outcome")
    if state == "finished" and outcome is None:
        outcome = {"COMPLETE": "completed", "PRUNED": "pruned"}.get(frozen.state.name, "failed")
    return TrialRecord(
        number=frozen.number,
        kind=attrs.get("kind", "trial"),
        state=state,  # type: ignore[arg-type]
        outcome=outcome if state == "finished" else None,
        value=frozen.value if frozen.values else None,
        hyperparameters={**frozen.params, **attrs.get("hyperparameters", {})},
        seed=attrs.get("seed", 0),
        epochs=attrs.get("epochs", max(frozen.intermediate_values, default=0)),
        trained=attrs.get("trained"),
        seconds=attrs.get("seconds"),
        design=bool(attrs.get("design")),
        of=attrs.get("of"),
        checkpoint=attrs.get("checkpoint"),
        error=attrs.get("error"),
        owner=f"{mark['host']} pid {mark['pid']}" if mark else None,
        orphan=orphan,
        started=frozen.datetime_start.timestamp() if frozen.datetime_start else None,
        ended=frozen.datetime_complete.timestamp() if frozen.datetime_complete else None,
        tags=attrs.get("tags") or {},
    )


def _create(name: str, config: StudyConfig, storage: BaseStorage) -> optuna.Study:
    """Creates an Optuna study, or opens it where it is ours (or empty: its driver died before it described it)."""
    direction, pruner = config.objective.direction, build_pruner(config)
    if name not in optuna.get_all_study_names(storage):
        return optuna.create_study(study_name=name, storage=storage, direction=direction, pruner=pruner)
    study = optuna.load_study(study_name=name, storage=storage, pruner=pruner)
    if "copied_from" in study.user_attrs and "config" not in study.user_attrs:
        raise StorageError(f"study {name}: its import is under way, or was cut short; then import it again")
    if "config" not in study.user_attrs and (study.user_attrs or study.get_trials(deepcopy=False)):
        raise StorageError(f"study {name}: the storage has one of this name that is not ours; choose another name")
    present = " and ".join(d.name.lower() for d in study.directions)
    if present != direction:
        raise StorageError(f"study {name}: it is there to {present}, not to {direction}; choose another name")
    return study
