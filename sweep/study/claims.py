"""Claims the trials of one Optuna study for this driver: orphans first, then those that wait.

A claim is two writes, the state and the owner. Both are made while `exclusive` keeps the other drivers out.
"""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from ..config.locks import FileLock
from .records import ARMS, PlannedTrial
from .storages.leases import LEASE_ENDED, LeaseMonitor, lease_key, release_owner, this_process
from .storages.rdb_cache import trial_id
from .storages.storage import exclusive, get_owner, invalidate, refresh_trial
from .stored_trials import Leases, is_orphan, read_leases
from .trial import Trial

logger = logging.getLogger(__name__)


class Claims:
    """The trials of a study, and which driver has each of them."""

    def __init__(self, study: optuna.Study, storage: BaseStorage, lock: FileLock, pairs: Sequence[PlannedTrial] | None):
        self.name = study.study_name
        self._study, self._storage, self._lock = study, storage, lock
        self._pairs = None if pairs is None else [(kind, seed, values) for kind, _, seed, values in pairs]
        self._study_id = storage.get_study_id_from_name(self.name)
        self._monitor = LeaseMonitor()
        self._claimed: tuple[FrozenTrial, dict[str, Any]] | None = None  # a trial, not returned yet, and its owner
        self._dropped = set[tuple[int, int]]()  # number and attempt of the claims that were ended or released

    def exclusive(self) -> contextlib.AbstractContextManager[None]:
        """Keeps the other drivers of the study out for a ``with`` block, on all hosts."""
        return exclusive(self._storage, self.name, self._lock)

    def _claim(self, *, new: bool) -> None:
        """Claims an orphan, or if ``new`` a waiting trial; to be called while other drivers are kept out."""
        for latest in (False, True):  # all trials are refreshed only if the known ones leave nothing to claim
            frozen = self._find_orphan(latest) or (self._claim_waiting() if new else None)
            if frozen is not None:
                before = frozen.user_attrs.get("owner", {"attempt": 0})
                owner = this_process(before["attempt"] + 1)
                self._claimed = frozen, owner
                self._storage.set_trial_user_attr(trial_id(frozen), "owner", owner)
                if "host" in before:
                    logger.info("%s: adopted trial %d of %s", self.name, frozen.number, lease_key(before))
                else:
                    logger.debug("%s: claimed trial %d", self.name, frozen.number)
                return

    def _repeat_claim(self, frozen: FrozenTrial, owner: dict[str, Any]) -> None:
        """Re-writes the owner of a trial whose claim was interrupted by a storage outage."""
        present = refresh_trial(self._storage, trial_id(frozen)).user_attrs.get("owner", {"attempt": 0})
        if present["attempt"] < owner["attempt"]:
            self._storage.set_trial_user_attr(trial_id(frozen), "owner", owner)
            logger.info("%s: repeated the claim of trial %d", self.name, frozen.number)
        elif present != owner:
            self._claimed = None
            logger.info("%s: another driver has claimed trial %d", self.name, frozen.number)

    def _find_orphan(self, latest: bool) -> FrozenTrial | None:
        leases = read_leases(self._study)
        for frozen in self._wanted(TrialState.RUNNING, latest=latest):
            if self._is_free(frozen, leases):
                now = refresh_trial(self._storage, trial_id(frozen))
                if self._is_free(now, leases):
                    return now
        return None

    def _claim_waiting(self) -> FrozenTrial | None:
        """Moves a waiting trial to RUNNING, Optuna's one atomic step; None if other drivers were faster each time."""
        for frozen in self._wanted(TrialState.WAITING, latest=False):
            with contextlib.suppress(UpdateFinishedTrialError):  # waiting in this process' memory alone
                if self._storage.set_trial_state_values(trial_id(frozen), state=TrialState.RUNNING):
                    return frozen
        return None

    def _is_free(self, frozen: FrozenTrial, leases: Leases) -> bool:
        # State and owner are written while other drivers are kept out: a running trial without an owner is an orphan.
        running, owner = frozen.state == TrialState.RUNNING, frozen.user_attrs.get("owner")
        return running and (owner is None or self._is_forgotten(frozen) or is_orphan(frozen, self._monitor, leases))

    def _is_forgotten(self, frozen: FrozenTrial) -> bool:
        """Returns True for a claim that this driver has dropped: the storage was set back to a backup."""
        owner = frozen.user_attrs["owner"]
        return self._monitor.is_this_process(owner) and (frozen.number, owner["attempt"]) in self._dropped

    def forget(self, trial: Trial) -> None:
        """Drops a claim, of a trial that has ended or that another driver has."""
        self._dropped.add((trial.number, trial.attempt))

    def owns(self, trial: Trial) -> bool:
        """Returns True if a trial is still this driver's: another one adopts those of a suspended driver."""
        return get_owner(self._storage, trial_id(trial.handle)) == trial.owner

    def release(self, trial: Trial) -> None:
        """Releases an unfinished trial for any driver to adopt, this one included, unless another has adopted it."""
        with self.exclusive(), contextlib.suppress(UpdateFinishedTrialError):
            if self.owns(trial):
                trial.handle.set_user_attr("owner", release_owner(trial.owner))
                logger.debug("%s: released trial %d", trial.study, trial.number)
        self.forget(trial)

    def heartbeat(self, beat: int) -> None:
        """Renews this driver's lease, and polls those of the others; to be called every ``RENEW_EVERY`` seconds."""
        self._study.set_user_attr(lease_key(this_process(0)), beat)
        self._monitor.poll(self._study.user_attrs.get)

    def end_lease(self) -> None:
        """Ends this driver's lease; to be called when MLflow has all of its trials."""
        self._study.set_user_attr(lease_key(this_process(0)), LEASE_ENDED)

    def n_waiting(self) -> int:
        """Returns how many trials no driver has claimed."""
        return sum(1 for _ in self._wanted(TrialState.WAITING, latest=False))

    def is_busy(self) -> bool:
        """Returns True if a living driver trains one of the trials that this driver would train."""
        leases = read_leases(self._study)
        return any(not is_orphan(frozen, self._monitor, leases) for frozen in self._wanted(TrialState.RUNNING))

    def started_trials(self) -> set[tuple[str, int]]:
        """Returns the keys of the trials that some driver has claimed."""
        return {(self.name, t.number) for t in self._trials() if t.state != TrialState.WAITING}

    def trials_of_other_drivers(self) -> dict[int, bool]:
        """Returns the numbers of the trials whose last owner is another living process: it logs them itself.

        The value is True if that owner is known to live: the lease of a driver on another host expires in a minute.
        """
        mine, living, found = this_process(0), dict[str, bool](), dict[int, bool]()
        leases = read_leases(self._study)
        for frozen in self._trials():
            owner = frozen.user_attrs.get("owner")
            if owner is None or {**owner, "attempt": 0} == mine:
                continue
            if (name := lease_key(owner)) not in living:
                living[name] = self._monitor.is_alive(owner, leases)
            if living[name]:
                found[frozen.number] = self._monitor.is_confirmed(owner)
        return found

    def is_wanted(self, kind: object, seed: object, hyperparameters: object) -> bool:
        """Returns True for a row that this driver would train."""
        return kind not in ARMS if self._pairs is None else (kind, seed, hyperparameters) in self._pairs

    def _wanted(self, state: TrialState, *, latest: bool = True) -> Iterator[FrozenTrial]:
        for frozen in self._trials(state, latest=latest):
            attrs = frozen.user_attrs
            if self.is_wanted(attrs.get("kind"), attrs.get("seed"), attrs.get("hyperparameters")):
                yield frozen

    def _trials(self, *states: TrialState, latest: bool = True) -> list[FrozenTrial]:
        """Returns the trials in these states, by default all; ``latest``: with what other drivers have written."""
        if latest:
            invalidate(self._storage, self._study_id)
        return self._storage.get_all_trials(self._study_id, deepcopy=False, states=states or None)
