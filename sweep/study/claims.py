"""Claims the trials of one Optuna study for this driver: orphans first, then those that wait.

A claim is two writes, the state and the owner. Both are made while `exclusive` keeps the other drivers out.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from .storages.leases import LEASE_ENDED, LeaseMonitor, lease_key, release_owner, this_process
from .storages.rdb_cache import trial_id
from .storages.storage import get_owner, invalidate, refresh_trial
from .stored_trials import Leases, is_orphan, read_leases
from .trial import Trial

logger = logging.getLogger(__name__)

Claim = tuple[FrozenTrial, dict[str, Any]]
"""A trial and its owner, this process."""


class Claims:
    """The trials of a study, and which driver has each of them.

    Args:
        is_wanted: returns True for the kind, seed and hyperparameters of a trial that this driver would train.
    """

    def __init__(self, study: optuna.Study, storage: BaseStorage, is_wanted: Callable[[object, object, object], bool]):
        self._study, self._storage, self._is_wanted = study, storage, is_wanted
        self._study_id = storage.get_study_id_from_name(study.study_name)
        self._monitor = LeaseMonitor()
        self._pending: Claim | None = None  # claimed, and not yet confirmed by `confirm`

    # -- claiming ------------------------------------------------------------------------------------------------

    def claim(self, *, new: bool) -> Claim | None:
        """Claims a trial; None if there is none. To be called while other drivers are kept out.

        The same claim is returned until `confirm` is called: a storage outage in between loses no trial.

        Args:
            new: also a waiting trial, not orphans alone.
        """
        if self._pending is not None:
            self._repeat(*self._pending)
        else:
            self._claim(new)
        return self._pending

    def confirm(self) -> None:
        """Ends the claim that `claim` returned last: its trial is in the driver's hands."""
        self._pending = None

    def _claim(self, new: bool) -> None:
        for latest in (False, True):  # all trials are refreshed only if the known ones leave nothing to claim
            frozen = self._find_orphan(latest) or (self._claim_waiting() if new else None)
            if frozen is not None:
                before = frozen.user_attrs.get("owner", {"attempt": 0})
                owner = this_process(before["attempt"] + 1)
                self._pending = frozen, owner
                self._storage.set_trial_user_attr(trial_id(frozen), "owner", owner)
                if "host" in before:
                    logger.info("%s: adopted trial %d of %s", self._study.study_name, frozen.number, lease_key(before))
                else:
                    logger.debug("%s: claimed trial %d", self._study.study_name, frozen.number)
                return

    def _repeat(self, frozen: FrozenTrial, owner: dict[str, Any]) -> None:
        """Re-writes the owner of a trial whose claim was interrupted by a storage outage."""
        present = refresh_trial(self._storage, trial_id(frozen)).user_attrs.get("owner", {"attempt": 0})
        if present["attempt"] < owner["attempt"]:
            self._storage.set_trial_user_attr(trial_id(frozen), "owner", owner)
            logger.info("%s: repeated the claim of trial %d", self._study.study_name, frozen.number)
        elif present != owner:
            self._pending = None
            logger.info("%s: another driver has claimed trial %d", self._study.study_name, frozen.number)

    def _find_orphan(self, latest: bool) -> FrozenTrial | None:
        """Returns a running trial that no living driver has."""
        leases = read_leases(self._study)
        for frozen in self.wanted(TrialState.RUNNING, latest=latest):
            if self._is_free(frozen, leases):
                now = refresh_trial(self._storage, trial_id(frozen))
                if self._is_free(now, leases):
                    return now
        return None

    def _claim_waiting(self) -> FrozenTrial | None:
        """Moves a waiting trial to RUNNING, Optuna's one atomic step; None if other drivers were faster each time."""
        for frozen in self.wanted(TrialState.WAITING, latest=False):
            with contextlib.suppress(UpdateFinishedTrialError):  # waiting in this process' memory alone
                if self._storage.set_trial_state_values(trial_id(frozen), state=TrialState.RUNNING):
                    return frozen
        return None

    def _is_free(self, frozen: FrozenTrial, leases: Leases) -> bool:
        """Returns True for a running trial whose driver is dead.

        State and owner are written while other drivers are kept out, so a running trial without an owner lost its
        driver in between.
        """
        running = frozen.state == TrialState.RUNNING
        return running and ("owner" not in frozen.user_attrs or is_orphan(frozen, self._monitor, leases))

    # -- holding -------------------------------------------------------------------------------------------------

    def owns(self, trial: Trial) -> bool:
        """Returns True if the storage still names this driver as the owner."""
        return get_owner(self._storage, trial_id(trial.handle)) == trial.owner

    def release(self, trial: Trial) -> None:
        """Releases an unfinished trial for any driver to adopt, this one included, unless another has adopted it."""
        with contextlib.suppress(UpdateFinishedTrialError):
            if self.owns(trial):
                trial.handle.set_user_attr("owner", release_owner(trial.owner))
                logger.debug("%s: released trial %d", trial.study, trial.number)

    def heartbeat(self, beat: int) -> None:
        """Renews this driver's lease, and polls those of the others; to be called every ``RENEW_EVERY`` seconds."""
        self._study.set_user_attr(lease_key(this_process(0)), beat)
        self._monitor.poll(self._study.user_attrs.get)

    def end_lease(self) -> None:
        """Ends this driver's lease: other hosts need not wait for it to expire."""
        self._study.set_user_attr(lease_key(this_process(0)), LEASE_ENDED)
        logger.debug("%s: lease ended", self._study.study_name)

    # -- reading -------------------------------------------------------------------------------------------------

    def trials(self, *states: TrialState, latest: bool = True) -> list[FrozenTrial]:
        """Returns the trials in these states, by default all; ``latest``: with what other drivers have written."""
        if latest:
            invalidate(self._storage, self._study_id)
        return self._storage.get_all_trials(self._study_id, deepcopy=False, states=states or None)

    def wanted(self, state: TrialState, *, latest: bool = True) -> Iterator[FrozenTrial]:
        """Yields the trials in a state that this driver would train."""
        for frozen in self.trials(state, latest=latest):
            attrs = frozen.user_attrs
            if self._is_wanted(attrs.get("kind"), attrs.get("seed"), attrs.get("hyperparameters")):
                yield frozen

    def with_orphans(self, *, latest: bool) -> list[tuple[FrozenTrial, bool]]:
        """Returns all trials by number, each with True if it is an orphan.

        Args:
            latest: False: as this process knew them last, also during a storage outage.
        """
        leases = read_leases(self._study) if latest else dict
        return [(t, is_orphan(t, self._monitor, leases)) for t in self.trials(latest=latest)]

    def is_busy(self) -> bool:
        """Returns True if a living driver trains one of the trials that this driver would train."""
        leases = read_leases(self._study)
        return any(not is_orphan(frozen, self._monitor, leases) for frozen in self.wanted(TrialState.RUNNING))

    def trials_of_other_drivers(self) -> dict[int, bool]:
        """Returns the numbers of the trials whose last owner is another living process.

        Returns:
            For each, True if that owner is known to live: the lease of a driver on another host expires in a minute.
        """
        mine, living, found = this_process(0), dict[str, bool](), dict[int, bool]()
        leases = read_leases(self._study)
        for frozen in self.trials():
            owner = frozen.user_attrs.get("owner")
            if owner is None or {**owner, "attempt": 0} == mine:
                continue
            if (name := lease_key(owner)) not in living:
                living[name] = self._monitor.is_alive(owner, lambda lease: leases().get(lease))
            if living[name]:
                found[frozen.number] = self._monitor.is_confirmed(owner)
        return found
