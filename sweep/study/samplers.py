"""The samplers of a search: built from `sweep.config.search_methods`, and shown the trials of earlier studies."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from ..config.conditional import condition_of
from ..config.grid import grid_points
from ..config.search_methods import get_sampler
from ..config.search_space import Choices, Scalar
from ..config.study_config import StudyConfig
from ..config.user_code import is_import_path
from .constrained import random_inside, sobol_inside, violated
from .distributions import Distributions, from_unit, sobol_points
from .user_search import build_own

TRIES = 16  # of a sampler that learns, for a point within the constraints
REPEAT_SEED = 5_000  # added to the study's seed: above the seeds of the finalists, below those of `sweep confirm`


def presampled_points(config: StudyConfig, space: Distributions, numbers: Iterable[int]) -> Iterator[dict[str, Scalar]]:
    """Yields the values of trials, by seed and number alone, if the sampler draws them when they are enqueued."""
    seed, points = config.training.seed, get_sampler(config.search.sampler).points
    grid = _grid(config) if points == "grid" else []
    if points == "sobol" and config.constraints:
        numbers = list(numbers)
        inside = list(itertools.islice(sobol_inside(config, space, seed=seed + 1), max(numbers, default=-1) + 1))
        yield from (inside[number] for number in numbers)
        return
    for number in numbers:
        match points:
            case "uniform":
                yield random_inside(config, space, seed=seed, number=number)
            case "sobol":
                yield config.active(sobol_points(space, count=1, skip=number, seed=seed + 1)[0])
            case "grid":
                yield grid[number % len(grid)]
            case None:
                yield {}


def default_values(config: StudyConfig) -> dict[str, Scalar]:
    """Returns the default values of the searched dimensions that have one."""
    return {name: dimension.default for name, dimension in config.searched.items() if dimension.default is not None}


def _grid(config: StudyConfig) -> list[dict[str, Scalar]]:
    """Returns all points of a space of choices and steps, shuffled by the seed; one with the defaults is the first."""
    points, defaults = [p for p in grid_points(config.searched) if not violated(config, p)], default_values(config)
    shuffled = [points[i] for i in np.random.default_rng(config.training.seed).permutation(len(points))]
    first = next((p for p in shuffled if all(p.get(n, v) == v for n, v in defaults.items())), shuffled[0])
    return [first, *(point for point in shuffled if point is not first)]


def design_trials(
    config: StudyConfig,
    space: Distributions,
    present: Sequence[tuple[Mapping[str, Scalar], Mapping[str, Any]]],
    count: int,
) -> list[tuple[dict[str, Scalar], dict[str, Any]]]:
    """Returns the values and the user attributes of the next design trials, given those that there are.

    Points are drawn independently and uniformly, by seed and position alone: a Sobol' sequence has identities that
    confuse one interaction with another, which cross-validation on its points cannot see. With ``design_seeds``, every
    third point is repeated on as many other seeds.
    """
    seed, others = config.training.seed, config.search.design_seeds - 1
    points = [dict(values) for values, attrs in present if not attrs.get("repeat")]
    drawn = sum(bool(attrs.get("independent")) for _, attrs in present)
    done = {(_key(values), attrs.get("seed")) for values, attrs in present}
    planned: list[tuple[dict[str, Scalar], dict[str, Any]]] = []
    while len(planned) < count:
        repeats = itertools.product(points[: len(points) // 3], range(seed + REPEAT_SEED, seed + REPEAT_SEED + others))
        if repeat := next(((p, s) for p, s in repeats if (_key(p), s) not in done), None):
            planned.append((repeat[0], {"seed": repeat[1], "design": True, "repeat": True}))
        else:
            points.append(random_inside(config, space, seed=seed + 1, number=drawn))
            planned.append((points[-1], {"seed": seed, "design": True, "independent": True}))
            drawn += 1
        done.add((_key(planned[-1][0]), planned[-1][1]["seed"]))
    return planned


def _key(values: Mapping[str, Scalar]) -> tuple[tuple[str, Scalar], ...]:
    return tuple(sorted(values.items()))


def build_sampler(config: StudyConfig, space: Distributions, seed: int) -> BaseSampler:
    """Builds the sampler that chooses the values which a waiting trial leaves open, within the constraints."""
    sampler = _unconstrained(config, space, seed)
    return ConstrainedSampler(sampler, config, space, seed) if config.constraints else sampler


def _unconstrained(config: StudyConfig, space: Distributions, seed: int) -> BaseSampler:
    if is_import_path(name := config.search.sampler):
        own: BaseSampler = build_own(name, BaseSampler, space, seed % 2**32)
        return own
    searched = config.searched.items()
    ranks = {n: Ranks(d.choices) for n, d in searched if isinstance(d, Choices) and d.is_ordered and n in space}
    sampler: BaseSampler = getattr(optuna.samplers, get_sampler(name).optuna)(seed=seed % 2**32)
    if type(sampler) is optuna.samplers.TPESampler:
        always = {n: d for n, d in space.items() if condition_of(config.space[n]) is None}
        return FixedSpaceTPESampler(always, seed % 2**32, ranks)
    if type(sampler) is optuna.samplers.GPSampler and ranks:
        return RankedGPSampler(ranks, seed=seed % 2**32)
    return sampler


class Ranks(IntDistribution):
    """Choices that are numbers, as whole numbers from 0 on in the order of their values.

    TPE takes them for numbers, while trials and storage keep Optuna's categorical distribution.

    Example:
        >>> ranks = Ranks((32, 8, 16))
        >>> ranks.to_internal_repr(16), ranks.to_external_repr(2.0)
        (1.0, 32)
    """

    def __init__(self, choices: Sequence[Scalar]):
        super().__init__(0, len(choices) - 1)
        self._values: list[Any] = sorted(choices)

    def to_internal_repr(self, param_value_in_external_repr: Any) -> float:
        """Returns the rank of a choice."""
        return float(self._values.index(param_value_in_external_repr))

    def to_external_repr(self, param_value_in_internal_repr: float) -> Any:
        """Returns the choice of a rank."""
        return self._values[int(param_value_in_internal_repr)]


class FixedSpaceTPESampler(optuna.samplers.TPESampler):
    """TPE over a given space, which has ``ranks`` in place of ordered choices.

    Optuna's infers the space from all trials: half of its time at 10,000 trials. A hyperparameter outside the space,
    which only some points have, is chosen by the trials that have it, as Optuna does.
    """

    def __init__(self, space: Distributions, seed: int, ranks: Mapping[str, Ranks] | None = None):
        super().__init__(seed=seed)
        self._dimensions = {name: space[name] for name in sorted(space) if not space[name].single()}
        self._ranks = ranks or {}

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Returns all searched dimensions in the order of their names, as Optuna has them."""
        return self._dimensions

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Returns a point, or nothing while there are few trials."""
        return super().sample_relative(study, trial, {n: self._ranks.get(n, d) for n, d in search_space.items()})

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Returns a value of a hyperparameter that is outside the space, or while there are few trials."""
        if (ranks := self._ranks.get(param_name)) and (
            found := super().sample_relative(study, trial, {param_name: ranks})
        ):
            return found[param_name]
        return super().sample_independent(study, trial, param_name, param_distribution)


class RankedGPSampler(optuna.samplers.GPSampler):
    """Optuna's Gaussian process, which sees a copy of the trials that has ranks in place of ordered choices."""

    def __init__(self, ranks: Mapping[str, Ranks], seed: int):
        super().__init__(seed=seed)
        self._ranks = ranks

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Returns a point, or nothing while there are few trials."""
        memory, ranks = optuna.create_study(direction=study.direction), self._ranks
        space = {n: IntDistribution(0, ranks[n].high) if n in ranks else d for n, d in search_space.items()}
        for each in study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.COMPLETE)):
            if each.number != trial.number and space.keys() <= each.params.keys():
                params = {
                    n: int(ranks[n].to_internal_repr(each.params[n])) if n in ranks else each.params[n] for n in space
                }
                memory.add_trial(create_trial(state=each.state, value=each.value, params=params, distributions=space))
        memory.ask()
        point = super().sample_relative(memory, memory.trials[-1], space)
        return {n: ranks[n].to_external_repr(v) if n in ranks else v for n, v in point.items()}


class PointSampler(BaseSampler):
    """A sampler, used for one trial, that chooses all values at once when the first one is asked for."""

    def __init__(self) -> None:
        self._chosen: dict[str, Any] = {}

    @abstractmethod
    def choose(self, study: optuna.Study, trial: FrozenTrial, given: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a point, in part ``given``."""

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Returns nothing: all values are chosen at the first call of `sample_independent`."""
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Returns nothing."""
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Returns a value of the point."""
        if not self._chosen:
            self._chosen = self.choose(study, trial, trial.system_attrs.get("fixed_params", {}))
        return self._chosen[param_name]


class ConstrainedSampler(PointSampler):
    """A sampler whose points fulfil the constraints: by rejection, and after ``TRIES`` uniform ones."""

    def __init__(self, sampler: BaseSampler, config: StudyConfig, space: Distributions, seed: int):
        super().__init__()
        self._sampler, self._config, self._space, self._seed = sampler, config, space, seed

    def choose(self, study: optuna.Study, trial: FrozenTrial, given: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a point inside."""
        for _ in range(TRIES):
            relative = self._sampler.infer_relative_search_space(study, trial)
            only = {name: from_unit(each, 0.5) for name, each in self._space.items() if each.single()}
            point = {**only, **self._sampler.sample_relative(study, trial, relative)}
            rest = {name: each for name, each in self._space.items() if name not in point}
            point |= {n: self._sampler.sample_independent(study, trial, n, each) for n, each in rest.items()}
            if not violated(self._config, {**point, **given}):
                return {**point, **given}
        return random_inside(self._config, self._space, seed=self._seed, number=trial.number, given=given)


class WarmStartSampler(PointSampler):
    """A sampler that sees the ``known`` trials of earlier studies beside those of its own, as ``view`` shows them."""

    def __init__(
        self,
        sampler: BaseSampler,
        known: Sequence[FrozenTrial],
        space: Mapping[str, BaseDistribution],
        view: Callable[[Sequence[FrozenTrial]], Sequence[FrozenTrial]] = list,
    ):
        super().__init__()
        self._sampler, self._known, self._space, self._view = sampler, known, dict(space), view

    def choose(self, study: optuna.Study, trial: FrozenTrial, given: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a point that is chosen in a copy of the study in memory."""
        memory = optuna.create_study(direction=study.direction, sampler=self._sampler)
        begun = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)
        own = [t for t in study.get_trials(deepcopy=False, states=begun) if t.number != trial.number]
        memory.add_trials([*self._known, *self._view(own)])
        memory.enqueue_trial(dict(given))
        return memory.ask(self._space).params
