"""Racing over seeds: a configuration is trained on further seeds while it may still be the best (``search.seeds``).

Racing (Maron and Moore, Hoeffding Races, NIPS 1993) with an interval of normal values in place of Hoeffding's. Optuna's
`WilcoxonPruner` asks the same question of many seeds: its signed-rank test can tell nothing of two or three.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from optuna.trial import FrozenTrial, TrialState, create_trial

from ..config.search_space import Scalar
from ..config.study_config import StudyConfig
from .noise import pooled_variance
from .samplers import REPEAT_SEED

START = 10  # completed configurations from which they race: before, a sampler that learns draws at random, too
EARLY, LATE = 1 / 6, 0.75  # largest share of repeats; the share of the budget after which it has no limit
CERTAIN = 3  # further seeds without a difference, after which no more are trained
LEVEL = 0.9  # confidence with which a configuration is not the best, one-sided: as the p of 0.1 of Optuna's pruner


class Repeat(NamedTuple):
    """A further training: the values and the seed, and the first trial of the configuration."""

    of: int
    seed: int
    values: dict[str, Scalar]


@dataclass
class _Configuration:
    first: FrozenTrial
    values: dict[int, float] = field(default_factory=dict)  # by seed; less is better
    is_out: bool = False  # it was lost on a seed, or is being trained on one

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values.values())


def next_repeat(config: StudyConfig, trials: Sequence[FrozenTrial]) -> Repeat | None:
    """Returns what the next trial repeats on a further seed; None if it is to be a new configuration.

    A configuration is out if it is worse than the best one with confidence 0.9, by a t interval whose variance is that
    between the seeds of all configurations with several. Until there is one, the best alone is repeated. Of those that
    are left the best comes first. One in six trials is a repeat at most, since what is found later may be better; of
    the last quarter of the budget all may be.

    Args:
        config: the study, with more than one of ``search.seeds``.
        trials: all trials of the search; the one that is to be chosen is running, without values.
    """
    begun = [t for t in trials if t.state != TrialState.WAITING and not t.user_attrs.get("design")]
    repeats = sum(t.user_attrs.get("repeat_of") is not None for t in begun)
    found = [each for each in _configurations(config, trials) if not each.is_out and each.values]
    is_late = len(trials) - sum(t.state == TrialState.WAITING for t in trials) > LATE * config.search.trials
    if len(found) < START or not (is_late or repeats + 1 <= EARLY * len(begun)):
        return None
    seed = config.training.seed
    seeds = [seed, *(seed + REPEAT_SEED + i for i in range(config.search.seeds - 1))]
    for each in _contenders(found):
        if left := [s for s in seeds if s not in each.values]:
            return Repeat(each.first.number, left[0], dict(each.first.params))
    return None


def _configurations(config: StudyConfig, trials: Iterable[FrozenTrial]) -> list[_Configuration]:
    sign, found = 1 if config.objective.direction == "minimize" else -1, dict[frozenset[object], _Configuration]()
    for trial in trials:
        if trial.state == TrialState.WAITING or not config.is_point(trial.params):
            continue
        each = found.setdefault(frozenset(trial.params.items()), _Configuration(trial))
        value = trial.value if trial.state == TrialState.COMPLETE else None
        if value is None or not math.isfinite(value) or trial.user_attrs.get("outcome") != "completed":
            each.is_out = True
        else:
            each.values.setdefault(trial.user_attrs.get("seed", config.training.seed), sign * value)
    return list(found.values())


def _contenders(found: Sequence[_Configuration]) -> list[_Configuration]:
    """Returns the configurations that may be the best, by their means."""
    from scipy.special import stdtrit

    ranked = sorted(found, key=lambda each: each.mean)
    variance, freedom = pooled_variance(list(each.values.values()) for each in found)
    if not freedom:
        return ranked[:1]
    if freedom >= CERTAIN and not variance:
        return []  # the seed changes nothing
    best, reach = ranked[0], float(stdtrit(freedom, LEVEL)) * math.sqrt(variance)
    return [
        each
        for each in ranked
        if each.mean - best.mean <= reach * math.sqrt(1 / len(each.values) + 1 / len(best.values))
    ]


def averaged(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Returns trials for a sampler: those of one configuration on several seeds are one, with the mean of their values.

    A configuration that was lost on a seed is as that seed has it; one that is being trained again is as it was.
    """
    groups = defaultdict[frozenset[object], list[FrozenTrial]](list)
    for trial in trials:
        groups[frozenset(trial.params.items())].append(trial)
    found = list[FrozenTrial]()
    for group in groups.values():
        done = [t for t in group if t.state == TrialState.COMPLETE]
        if len(group) == 1 or not done:
            found += group
        elif lost := next((t for t in group if t.state == TrialState.PRUNED), None):
            found.append(lost)
        else:
            first = done[0]
            found.append(
                create_trial(
                    state=first.state,
                    value=statistics.fmean(t.value for t in done if t.value is not None),
                    params=first.params,
                    distributions=first.distributions,
                    intermediate_values=first.intermediate_values,
                )
            )
    return found
