"""The pruners of a search: the epochs at which each one decides, and the reason for each decision to stop."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.trial import FrozenTrial, TrialState

from ..config.study_config import StudyConfig
from ..config.user_code import is_import_path
from .distributions import distributions
from .user_search import build_own

REDUCTION_FACTOR = 3  # of successive halving: one in so many trials passes a rung


@dataclass(frozen=True)
class Pruner:
    """A way to stop trials early.

    ``epochs`` are those before the last one at which it decides; ``explain`` compares a trial that it has stopped at an
    epoch with all trials.

    Example:
        >>> sorted(PRUNERS["hyperband"].epochs(20))
        [1, 3, 9]
    """

    build: Callable[[int], BasePruner]
    epochs: Callable[[int], set[int]]
    explain: Callable[[StudyConfig, Sequence[FrozenTrial], FrozenTrial, int], str]


def pruning_epochs(config: StudyConfig) -> frozenset[int]:
    """Returns the epochs at which the pruner decides, and the last one: those that the storage holds.

    A pruner of the user's own decides at every epoch.
    """
    last, pruner = config.training.max_epochs, PRUNERS.get(config.search.pruner)
    return frozenset({*(pruner.epochs(last) if pruner else range(1, last)), last})


def build_pruner(config: StudyConfig) -> BasePruner:
    """Builds Optuna's pruner of a search; it is asked at `pruning_epochs`."""
    if is_import_path(name := config.search.pruner):
        own: BasePruner = build_own(name, BasePruner, distributions(config.searched), config.training.seed)
        return own
    return PRUNERS[name].build(config.training.max_epochs)


def explain_pruning(config: StudyConfig, study: optuna.Study, number: int, epoch: int) -> str:
    """Returns the comparison by which the pruner has just stopped a trial, computed from the trials in the storage."""
    trials = study.get_trials(deepcopy=False)
    trial, pruner = next(trial for trial in trials if trial.number == number), config.search.pruner
    if math.isnan(value := trial.intermediate_values[epoch]):
        return f"{pruner}: {config.objective.metric} {value} at epoch {epoch}"
    if pruner not in PRUNERS:
        return f"{pruner}: {config.objective.metric} {value:.5g} at epoch {epoch}"
    return f"{pruner}: {PRUNERS[pruner].explain(config, trials, trial, epoch)}"


def replay_pruner(config: StudyConfig, curves: Sequence[Mapping[int, float]]) -> list[int | None]:
    """Returns the epoch at which the pruner stops each of these trials, one trained after another; None: it does not.

    ``curves`` have a trial's objective at the epochs at which the pruner decides, and at the last one.
    """
    study = optuna.create_study(
        study_name=config.name, direction=config.objective.direction, pruner=build_pruner(config)
    )
    stopped = []
    for curve in curves:
        trial, at = study.ask(), None
        for epoch, value in sorted(curve.items()):
            trial.report(value, epoch)
            if epoch < config.training.max_epochs and trial.should_prune():
                at = epoch
                break
        state = TrialState.COMPLETE if at is None else TrialState.PRUNED
        study.tell(trial, curve[max(curve)] if at is None else None, state)
        stopped.append(at)
    return stopped


def _tenths(last: int) -> set[int]:
    interval = max(1, last // 10)
    return set(range(interval, last, interval))


def _rungs(last: int) -> set[int]:
    """Returns the epochs of the rungs, 1, 3, 9 and so on, before the last epoch."""
    return {REDUCTION_FACTOR**k for k in range(20) if REDUCTION_FACTOR**k < last}


def _explain_median(config: StudyConfig, trials: Sequence[FrozenTrial], trial: FrozenTrial, epoch: int) -> str:
    """Compares a trial's best value so far with the completed trials' values at the same epoch, as Optuna does."""
    completed = [t for t in trials if t.state == TrialState.COMPLETE and epoch in t.intermediate_values]
    values = [value for t in completed if not math.isnan(value := t.intermediate_values[epoch])]
    own = [value for value in trial.intermediate_values.values() if not math.isnan(value)]
    best = (max if config.objective.direction == "maximize" else min)(own)
    at = "at" if best == trial.intermediate_values[epoch] else "at best up to"
    count, metric = f"{len(values)} completed trial{'s' * (len(values) != 1)}", config.objective.metric
    return f"{metric} {best:.5g} {at} epoch {epoch}, the median of {count} there is {median(values):.5g}"


def _explain_rung(config: StudyConfig, trials: Sequence[FrozenTrial], trial: FrozenTrial, epoch: int) -> str:
    """Compares a trial's value with those at its rung, which the pruner stores as system attributes."""
    last, maximize = config.training.max_epochs, config.objective.direction == "maximize"
    bracket = _bracket(trial, last)
    rung = f"completed_rung_{_n_rungs(trial) - 1}"
    others = [t for t in trials if t.number != trial.number and rung in t.system_attrs]
    values = [t.system_attrs[rung] for t in others if _bracket(t, last) == bracket]
    values = sorted([*values, trial.intermediate_values[epoch]], reverse=maximize)
    passing = max(1, len(values) // REDUCTION_FACTOR)
    place = f"rung {_n_rungs(trial)}" + (f" of bracket {bracket + 1}" if bracket else "")
    best, have = ("best", "has") if passing == 1 else (f"best {passing}", "have")
    return (
        f"{config.objective.metric} {trial.intermediate_values[epoch]:.5g} at epoch {epoch} ({place}), the {best} of "
        f"{len(values)} trials there {have} {values[passing - 1]:.5g} or {'more' if maximize else 'less'}"
    )


def _n_rungs(trial: FrozenTrial) -> int:
    return sum(name.startswith("completed_rung_") for name in trial.system_attrs)


def _bracket(trial: FrozenTrial, last: int) -> int:
    """Returns Hyperband's bracket of a trial: how many epochs with a rung it passed before the bracket's first rung."""
    return len(_rungs(last) & trial.intermediate_values.keys()) - _n_rungs(trial)


PRUNERS: dict[str, Pruner] = {
    "none": Pruner(lambda _: NopPruner(), _tenths, lambda *_: "never"),
    "median": Pruner(
        lambda last: MedianPruner(n_startup_trials=5, n_warmup_steps=max(1, last // 5)), _tenths, _explain_median
    ),
    "successive_halving": Pruner(
        lambda _: SuccessiveHalvingPruner(min_resource=1, reduction_factor=REDUCTION_FACTOR), _rungs, _explain_rung
    ),
    "hyperband": Pruner(  # max_resource="auto" would never prune before a completion
        lambda last: HyperbandPruner(min_resource=1, max_resource=last, reduction_factor=REDUCTION_FACTOR),
        _rungs,
        _explain_rung,
    ),
}
