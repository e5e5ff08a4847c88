"""Optuna studies of the cases, as another program would leave them, and how far an analysis is from their truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from sweep.analysis.sensitivity import Analysis
from sweep.analysis.surrogates import uniform_points
from sweep.study.storages.storage import open_storage

from .sensitivity_cases import Case


def distributions(case: Case) -> dict[str, BaseDistribution]:
    """The space of a case in Optuna's words."""

    def distribution(spec: dict[str, Any]) -> BaseDistribution:
        if "choices" in spec:
            return CategoricalDistribution(spec["choices"])
        kind = IntDistribution if spec.get("int") else FloatDistribution
        return kind(spec["low"], spec["high"], log=spec.get("log", False))

    return {name: distribution(spec) for name, spec in case.space.items()}


def searched(case: Case, seed: int, trials: int = 200) -> list[FrozenTrial]:
    """Runs TPE and Hyperband on a case."""
    pruner = optuna.pruners.HyperbandPruner(1, case.max_epochs, 3)
    name = f"{case.name}-{seed}"  # Hyperband draws the brackets of trials from it
    study = optuna.create_study(study_name=name, sampler=optuna.samplers.TPESampler(seed=seed), pruner=pruner)
    space = distributions(case)
    for number in range(trials):
        trial = study.ask(space)
        curve = case.curve(trial.params, 1000 * seed + number)
        pruned = False
        for epoch, value in enumerate(curve, start=1):
            trial.report(float(value), epoch)
            if pruned := trial.should_prune():
                break
        study.tell(trial, None if pruned else float(curve[-1]), TrialState.PRUNED if pruned else TrialState.COMPLETE)
    return study.trials


def uniform(case: Case, seed: int, trials: int) -> list[FrozenTrial]:
    """Trials at points of a scrambled Sobol' sequence, trained to the end and marked."""
    whole = uniform_points(2 ** (trials - 1).bit_length(), len(case.space), seed)[:trials]
    sample = case.sample(whole)
    points = [{name: values[i].item() for name, values in sample.items()} for i in range(trials)]
    return [
        finished(case, point, case.curve(point, 1000 * seed + 500 + i), design=True) for i, point in enumerate(points)
    ]


def finished(case: Case, params: dict[str, Any], curve: np.ndarray, *, design: bool) -> FrozenTrial:
    """A completed trial."""
    return create_trial(
        value=float(curve[-1]),
        params=params,
        distributions=distributions(case),
        intermediate_values={epoch: float(value) for epoch, value in enumerate(curve, start=1)},
        user_attrs={"design": True} if design else {},
    )


def shuffled(trials: list[FrozenTrial], seed: int) -> list[FrozenTrial]:
    """The same trials, each with the result of another."""
    order = np.random.default_rng(seed).permutation(len(trials))
    return [
        create_trial(
            value=trials[other].value,
            params=trial.params,
            distributions=trial.distributions,
            intermediate_values=trials[other].intermediate_values,
            user_attrs=trial.user_attrs,
        )
        for trial, other in zip(trials, order, strict=True)
    ]


def store(url: str, name: str, trials: list[FrozenTrial], *, directions: tuple[str, ...] = ("minimize",)) -> None:
    """Puts trials into a study of a storage."""
    storage = open_storage(url)
    optuna.create_study(study_name=name, storage=storage, directions=list(directions)).add_trials(trials)


@dataclass(frozen=True)
class Errors:
    """Returns how far an analysis is from the truth.

    Attributes:
        worst: over first-order, total and the pairs asked for.
        covered: share of first-order and total indices within their interval, give or take 0.02.
        half_width: of the widest of these intervals.
    """

    worst: float
    covered: float
    half_width: float


def errors(case: Case, analysis: Analysis, *pairs: tuple[str, str]) -> Errors:
    """Compares an analysis with the truth of its case."""
    assert analysis.trusted, analysis.reason
    truth = {
        **{(name, "first"): value for name, value in case.first_order.items()},
        **{(name, "total"): value for name, value in case.total.items()},
    }
    found = {
        (name, order): (getattr(index, order), getattr(index, f"{order}_ci"))
        for name, index in analysis.parameters.items()
        for order in ("first", "total")
    }
    missed = [abs(found[key][0] - truth[key]) for key in truth]
    missed += [abs(analysis.pairs[pair].value - case.second_order[pair]) for pair in pairs]
    covered = [found[key][1][0] - 0.02 <= truth[key] <= found[key][1][1] + 0.02 for key in truth]
    half_widths = [(high - low) / 2 for _, (low, high) in found.values()]
    return Errors(float(max(missed)), float(np.mean(covered)), max(half_widths))
