"""Who decides within a study: the samplers that choose points, the pruners, and the epochs at which these look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from ..config.study_config import StudyConfig
from .distributions import Distributions


def pruning_epochs(config: StudyConfig) -> frozenset[int]:
    """The epochs at which the pruner decides, and which the storage therefore holds; the last one always."""
    last = config.training.max_epochs
    if config.search.pruner in ("successive_halving", "hyperband"):
        rungs = {3**k for k in range(20) if 3**k <= last}
        return frozenset(rungs | {last})
    interval = max(1, last // 10)
    return frozenset({*range(interval, last, interval), last})


def build_pruner(config: StudyConfig) -> optuna.pruners.BasePruner:
    """What stops the trials of a search early; it decides at `decision_epochs`."""
    last = config.training.max_epochs
    match config.search.pruner:
        case "none":
            return optuna.pruners.NopPruner()
        case "median":
            return optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=max(1, last // 5))
        case "successive_halving":
            return optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
        case "hyperband":
            # `auto` would never prune before a completion.
            return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=last, reduction_factor=3)


class _TPE(optuna.samplers.TPESampler):
    """TPE that is told the space, which it otherwise infers from all trials: half of its time at 10,000 of them."""

    def __init__(self, space: Distributions, seed: int):
        super().__init__(seed=seed)
        self._dimensions = {name: space[name] for name in sorted(space) if not space[name].single()}

    def infer_relative_search_space(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
    ) -> dict[str, BaseDistribution]:
        """All that is searched, in the order of names as Optuna has it."""
        return self._dimensions


def build_sampler(config: StudyConfig, space: Distributions, seed: int) -> optuna.samplers.BaseSampler:
    """The sampler of rows that wait without values."""
    match config.search.sampler:
        case "gp":
            return optuna.samplers.GPSampler(seed=seed % 2**32)
        case "tpe":
            return _TPE(space, seed=seed % 2**32)
        case "random" | "qmc":
            return optuna.samplers.RandomSampler(seed=seed % 2**32)


class WarmStartSampler(BaseSampler):
    """A sampler that is shown the trials a study knows of, beside its own.

    Args:
        sampler: that chooses; used for one trial.
        known: from `known_trials`.
        space: of the study.
    """

    def __init__(self, sampler: BaseSampler, known: Sequence[FrozenTrial], space: Mapping[str, BaseDistribution]):
        self._sampler, self._known, self._space = sampler, known, dict(space)
        self._chosen: dict[str, Any] = {}

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Nothing: all values are chosen at the first call of `sample_independent`."""
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Nothing."""
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A value of a point that is chosen in a copy of the study in memory."""
        if not self._chosen:
            memory = optuna.create_study(direction=study.direction, sampler=self._sampler)
            begun = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)
            own = [t for t in study.get_trials(deepcopy=False, states=begun) if t.number != trial.number]
            memory.add_trials([*self._known, *own])
            self._chosen = memory.ask(self._space).params
        return self._chosen[param_name]
