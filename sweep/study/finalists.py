"""The trials after the search: the best configurations on fresh seeds, each beside its controls.

A plain control shares everything with its configuration but the guidance. A tuned control has an initialisation and a
learning rate of its own.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from ..config.search_space import Choices, Range, Scalar, is_of_guidance
from ..config.study_config import StudyConfig
from .distributions import distributions, sobol_points
from .noise import pooled_variance
from .records import PlannedTrial, TrialRecord


def best_rows(config: StudyConfig, rows: Iterable[TrialRecord], top: int | None = None) -> list[TrialRecord]:
    """Returns the first completed trial of each configuration, best first.

    Where a configuration was trained on several seeds, ``values`` of its record has them, and ``value`` is their mean.
    After a race (``search.seeds``) the order is that of the mean plus its standard error, from the variance between
    the seeds of configurations that raced: one that was lucky once is not before one that is good on each seed. One
    that was lost on a seed comes after all others: its error is infinite.
    """
    groups: dict[frozenset[tuple[str, Scalar]], list[TrialRecord]] = {}
    for row in (rows := list(rows)):
        if row.state == "finished" and row.twin is None and row.outcome != "failed":
            groups.setdefault(frozenset(row.hyperparameters.items()), []).append(row)
    done, lost = list[TrialRecord](), set[int]()
    for group in groups.values():
        # Earlier versions took an infinite objective for a result.
        whole = [r for r in group if r.outcome == "completed" and r.value is not None and math.isfinite(r.value)]
        if not whole:
            continue
        values = {r.seed: r.value for r in reversed(whole) if r.value is not None}
        mean = statistics.fmean(values.values())
        done.append(replace(whole[0], value=mean, values=values) if len(values) > 1 else whole[0])
        if any(r.outcome in ("diverged", "collapsed") for r in group):
            lost.add(whole[0].number)
    raced = {row.repeat_of for row in rows if row.repeat_of is not None}
    variance, _ = pooled_variance(list(row.values.values()) for row in done if row.number in raced)
    for position, row in enumerate(done):
        error = math.inf if row.number in lost else math.sqrt(variance / max(1, len(row.values)))
        done[position] = replace(row, standard_error=error or row.standard_error)
    return sorted(done, key=lambda row: (_cautious(config, row), row.number))[:top]


def _cautious(config: StudyConfig, row: TrialRecord) -> float:
    """Returns the objective of `best_rows` plus its standard error, less is better."""
    return (1 if config.objective.direction == "minimize" else -1) * (row.value or 0.0) + row.standard_error


def chosen_rows(config: StudyConfig, search: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Returns the search trials whose configurations become finalists, best first."""
    return best_rows(config, search, config.search.finalists.top)


class Expected(NamedTuple):
    """The objective that a configuration is expected to have on a fresh seed.

    The value of the search is better than that: the best of many trials were partly lucky.
    """

    value: float
    seeds: int  # fresh seeds that it is the mean of; 0: the value of the search, plus what the finalists lost
    lost: int  # fresh seeds on which it diverged or collapsed


def expected_on_fresh_seeds(
    config: StudyConfig, search: Iterable[TrialRecord], controls: Sequence[TrialRecord]
) -> dict[int, Expected]:
    """Returns the expected objective of completed search trials, by number; empty without finalists.

    A finalist has the mean of its fresh seeds. Any other trial has its own value, worse by its standard error, plus the
    mean difference between the finalists' fresh means and such values: no trial behind all finalists is then expected
    to be better than the best of them.
    """
    sign = 1 if config.objective.direction == "minimize" else -1
    done, seeds = best_rows(config, search), fresh_seeds(config)
    found: dict[int, Expected] = {}
    for row in done:
        again = [r for r in controls if r.kind == "finalist" and r.seed in seeds]
        runs = [r for r in again if r.state == "finished" and r.hyperparameters == row.hyperparameters]
        values = [r.value for r in runs if r.outcome == "completed" and r.value is not None]
        lost = sum(r.outcome not in ("completed", "failed") for r in runs)
        if values or lost:
            found[row.number] = Expected(statistics.fmean(values) if values else math.nan, len(values), lost)
    whole = [sign * found[r.number].value - _cautious(config, r) for r in done if _is_whole(found, r)]
    if not whole:
        return found
    luck = statistics.fmean(whole)
    return {row.number: found.get(row.number, Expected(sign * (_cautious(config, row) + luck), 0, 0)) for row in done}


def _is_whole(found: Mapping[int, Expected], row: TrialRecord) -> bool:
    return row.number in found and not found[row.number].lost and math.isfinite(row.standard_error)


def ranked_rows(
    config: StudyConfig, search: Iterable[TrialRecord], controls: Sequence[TrialRecord]
) -> list[TrialRecord]:
    """Returns completed search trials by what they are expected to have on a fresh seed, best first.

    Finalists that were lost on a fresh seed come last. Without finalists the order is that of `best_rows`.
    """
    done = best_rows(config, search)
    expected = expected_on_fresh_seeds(config, done, controls)
    sign = 1 if config.objective.direction == "minimize" else -1

    def key(row: TrialRecord) -> tuple[int, float]:  # `sorted` keeps the order of the search among equals
        value, _, lost = expected.get(row.number, Expected(sign * _cautious(config, row), 0, 0))
        return lost, sign * value if math.isfinite(value) else math.inf

    return sorted(done, key=key)


def fresh_seeds(config: StudyConfig) -> list[int]:
    """Returns the finalists' seeds, which no trial of the search has used."""
    return [config.training.seed + 1 + i for i in range(config.search.finalists.seeds)]


def unguided(hyperparameters: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Returns the control's hyperparameters: the lambdas are 0, guidance's others are left out, the rest is the same.

    Example:
        >>> unguided({"lambda1": 0.01, "epsilon": 0.1, "depth": 4})
        {'depth': 4, 'lambda1': 0.0, 'lambda2': 0.0}
    """
    return {**{k: v for k, v in hyperparameters.items() if not is_of_guidance(k)}, "lambda1": 0.0, "lambda2": 0.0}


def wanted_rows(config: StudyConfig, search: Sequence[TrialRecord]) -> list[PlannedTrial]:
    """Plans the first stage: finalists and their plain controls, trials that tune a control, design controls."""
    top = chosen_rows(config, search)
    pairs = [(row, seed) for row in top for seed in fresh_seeds(config)]
    wanted = [PlannedTrial("finalist", row.number, seed, row.hyperparameters) for row, seed in pairs]
    if config.search.design_controls:
        pairs += [(row, row.seed) for row in search if row.design and row.outcome in ("completed", "collapsed")]
    controls: dict[str, PlannedTrial] = {}
    for row, seed in pairs:
        values = {**config.constants, **row.hyperparameters}
        if (control := unguided(values)) == values or not config.guided:
            continue  # it is its own control, in the study of a baseline; or nothing is guided
        # Configurations that differ in guidance alone share one control.
        controls.setdefault(f"{seed} {sorted(control.items())}", PlannedTrial("control", row.number, seed, control))
    wanted += controls.values()
    return [*wanted, *(_tuning(config, top[0]) if top else [])]


def wanted_tuning(
    config: StudyConfig, search: Sequence[TrialRecord], controls: Sequence[TrialRecord]
) -> list[PlannedTrial]:
    """Plans the trials that tune a control of the configuration that is best on fresh seeds."""
    top = ranked_rows(config, search, controls)[:1] if config.search.finalists.top else []
    return [trial for best in top for trial in _tuning(config, best)]


def _tuning(config: StudyConfig, best: TrialRecord) -> list[PlannedTrial]:
    """Plans the trials that tune a control: the first is the plain control itself, so that none is worse."""
    count, seed = config.search.finalists.tuned, config.training.seed
    base = unguided({**config.constants, **best.hyperparameters})
    plain: dict[str, Scalar] = {"training.lr": config.training.lr, "training.init": config.training.init}
    plain = plain if config.kind == "model" else {}
    space = distributions(tuned_space(config, base))
    if not config.guided or not space:
        return []
    points = [{**plain, **base}, *sobol_points(space, count=max(0, count - 1), skip=0, seed=seed)][:count]
    return [PlannedTrial("tuned", best.number, seed, config.active({**base, **point})) for point in points]


def tuned_space(config: StudyConfig, base: Mapping[str, Scalar]) -> dict[str, Range | Choices]:
    """Returns the tuned control's space: the study's ranges, or else 1.5 decades around the lr and three inits.

    Of code of the user's own it is the search's, without guidance.
    """
    if config.kind != "model":
        return {name: dimension for name, dimension in config.searched.items() if not is_of_guidance(name)}
    lr = float(base.get("training.lr") or config.training.lr)
    space: dict[str, Range | Choices] = {
        "training.lr": Range(low=lr / 10**0.5, high=lr * 10, log=True),
        "training.init": Choices(choices=("default", "he", "orthogonal")),
    }
    return {name: config.searched.get(name, dimension) for name, dimension in space.items()}


def wanted_tuned(
    config: StudyConfig, search: Sequence[TrialRecord], controls: Sequence[TrialRecord]
) -> list[PlannedTrial]:
    """Plans the second stage: the tuned control of the best configuration, on the finalists' fresh seeds."""
    return [
        PlannedTrial("tuned", best.number, seed, chosen.hyperparameters)
        for best in ranked_rows(config, search, controls)[:1]
        for chosen in best_rows(config, tuning_rows(config, best, controls), 1)
        for seed in fresh_seeds(config)
    ]


def tuning_rows(config: StudyConfig, best: TrialRecord, controls: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Returns the trials that tune the control of ``best``, or of a trial that differs from it in guidance alone."""

    def untuned(values: Mapping[str, Scalar]) -> dict[str, Scalar]:
        return {k: v for k, v in values.items() if k not in tuned_space(config, config.constants)}

    base = untuned(unguided({**config.constants, **best.hyperparameters}))
    tuning = (r for r in controls if r.kind == "tuned" and r.seed == config.training.seed)
    return [r for r in tuning if untuned(r.hyperparameters) == base]


def has_tuned_control(config: StudyConfig, controls: Iterable[TrialRecord]) -> bool:
    """Returns True if the sister study ends with a tuned control on all fresh seeds: the second stage was reached.

    An older version may have tuned it for another finalist, or on other points; that is not to be done again.
    """
    rows, seeds = sorted(controls, key=lambda row: row.number), fresh_seeds(config)
    last = rows[-len(seeds) :]
    if {r.seed for r in last if r.kind == "tuned"} != set(seeds):
        return False
    return len(tuning_rows(config, last[0], rows)) >= config.search.finalists.tuned


def missing_trials(wanted: Sequence[PlannedTrial], controls: Sequence[TrialRecord]) -> list[PlannedTrial]:
    """Returns the planned trials that the sister study does not hold yet, for whichever search trial."""
    present = [(r.kind, r.seed, r.hyperparameters) for r in controls]
    return [trial for trial in wanted if (trial.kind, trial.seed, trial.hyperparameters) not in present]
