"""Twins: trials of a search with the same hyperparameters, seed and code, which have the same numbers to the last bit.

The first of them is trained, and the others take its numbers. Numbers of the user's own code, and of GPUs, may differ
from one training to the next: there a second one is trained, and compared.
"""

import hashlib
import itertools
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from optuna.trial import FrozenTrial, TrialState

from ..config.trial_config import TrialConfig
from .trial import Trial

RESAMPLE_SEED = 6_000  # added to the study's seed: above the seeds that repeat design points
Point = tuple[Mapping[str, object], object]  # hyperparameters and seed


def fingerprint(config: TrialConfig, code: Mapping[str, str]) -> str:
    """Returns a hash of all that determines a trial's numbers: its config, and the tags of the code that trains it."""
    text = json.dumps([config.model_dump(mode="json"), code], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def find_twin(trial: Trial, trials: Sequence[FrozenTrial], *, exact: bool) -> FrozenTrial | None:
    """Returns the trial whose numbers ``trial`` takes, or a running one that it must wait for; None: it is trained.

    A failed trial is no twin. A pruned one is not that of a design trial, which is trained to its end.

    Args:
        trial: a claimed trial with its fingerprint.
        trials: all trials of the study.
        exact: False for code of the user's own, whose first twin is trained and compared.
    """
    same = [t for t in _trained(trials) if t.user_attrs["fingerprint"] == trial.fingerprint]
    whole = [t for t in same if not (trial.design and t.user_attrs["outcome"] == "pruned")]
    if not whole:
        return _running_before(trial, trials, [(trial.hyperparameters, trial.config.training.seed)])
    twin = max(whole, key=lambda t: (t.user_attrs["epochs"], -t.number))
    if exact and twin.user_attrs.get("tags", {}).get("sweep.device", "cpu") == "cpu":
        return twin
    match _repeats(trials):
        case True:
            return twin
        case False:
            return None
        case None:  # the trial that is compared may be running
            return _running_before(trial, trials, [_point(t) for t in _trained(trials)])


def _repeats(trials: Iterable[FrozenTrial]) -> bool | None:
    """Returns True if trained twins have the same value to the last digit, False if not; None without such twins."""
    values = defaultdict[str, list[float | None]](list)
    for each in _trained(trials):
        if each.state == TrialState.COMPLETE:
            values[each.user_attrs["fingerprint"]].append(each.value)
    twins = [of_one for of_one in values.values() if len(of_one) > 1]
    return all(len(set(of_one)) == 1 for of_one in twins) if twins else None


def _trained(trials: Iterable[FrozenTrial]) -> Iterable[FrozenTrial]:
    """Returns the finished trials that were trained, and have not failed."""
    ended = (TrialState.COMPLETE, TrialState.PRUNED)
    return (t for t in trials if t.state in ended and "fingerprint" in t.user_attrs and "twin" not in t.user_attrs)


def _point(frozen: FrozenTrial) -> Point:
    return frozen.params, frozen.user_attrs.get("seed")


def _running_before(trial: Trial, trials: Iterable[FrozenTrial], points: Sequence[Point]) -> FrozenTrial | None:
    """Returns a running trial with a lower number at one of the points: of two twins, one never waits."""
    earlier = (t for t in trials if t.number < trial.number and t.state == TrialState.RUNNING)
    return next((t for t in earlier if _point(t) in points), None)


def unused_seed(trial: Trial, trials: Sequence[FrozenTrial], *, first: int) -> int:
    """Returns a trial's seed if no earlier one, which has not failed, has it and the same hyperparameters.

    Else the first seed from ``first`` on that none of them has.
    """
    begun = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)
    others = [t for t in trials if t.number != trial.number and t.state in begun and t.params == trial.hyperparameters]
    own = trial.config.training.seed
    if not any(t.number < trial.number and t.user_attrs.get("seed") == own for t in others):
        return own
    used = {t.user_attrs.get("seed") for t in others}
    return next(seed for seed in itertools.count(first) if seed not in used)
