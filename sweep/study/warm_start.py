"""What a study knows of others: trials that were trained under another search space, shown to its sampler.

They are no trials of the study: budget, numbers, MLflow, finalists and pruner know nothing of them. They lie in the
study's attribute ``knowledge``, a copy, so that a study stays whole when its forerunner is deleted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from ..config.search_space import Scalar
from ..config.study_config import StudyConfig
from .distributions import contains, distributions

STATES = {"completed": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "diverged": TrialState.PRUNED}


def gather(config: StudyConfig, forerunner: StudyConfig, storage: BaseStorage) -> list[dict[str, Any]]:
    """What a study may learn from an earlier one: its trials, and what it knew, as far as they fit the new space.

    A trial fits if the new study would train it to the same numbers: its values lie in the new space, and whatever
    is not searched any more is what the new study holds it at.
    """
    study = optuna.load_study(study_name=forerunner.name, storage=storage)
    trials = [*(_record(t, forerunner.name) for t in study.trials), *study.user_attrs.get("knowledge", [])]
    fitting = ((known, fit(config, forerunner, known["params"])) for known in trials if known["outcome"] in STATES)
    return [{**known, "params": params} for known, params in fitting if params is not None]


def _record(frozen: FrozenTrial, name: str) -> dict[str, Any]:
    return {
        "trial": f"{name}-{frozen.number:04d}",
        "outcome": frozen.user_attrs.get("outcome"),
        "value": frozen.value if frozen.state == TrialState.COMPLETE else None,
        "params": frozen.params,
        "intermediate": {str(epoch): value for epoch, value in frozen.intermediate_values.items()},
    }


def fit(
    config: StudyConfig, forerunner: StudyConfig, hyperparameters: Mapping[str, Scalar]
) -> dict[str, Scalar] | None:
    """The values of a forerunner's trial in the new space; None where it does not fit."""
    threads = config.resources.threads  # they may change within a study, too
    trained = forerunner.trial(hyperparameters).model_copy(update={"threads": threads})
    values = config.hyperparameters(trained)
    space = distributions(config.searched)
    if not all(name in values and contains(dimension, values[name]) for name, dimension in space.items()):
        return None
    params = {name: values[name] for name in space}
    return params if config.trial(params) == trained else None


def prior_trials(records: Sequence[Mapping[str, Any]], space: Mapping[str, BaseDistribution]) -> list[FrozenTrial]:
    """Records of `gather` as Optuna's samplers take them."""
    return [_trial(record, space) for record in records]


def _trial(record: Mapping[str, Any], space: Mapping[str, BaseDistribution]) -> FrozenTrial:
    violated = {"completed": {}, "pruned": {"diverged": -1.0}, "diverged": {"diverged": 1.0}}[record["outcome"]]
    return create_trial(
        state=STATES[record["outcome"]],
        value=record["value"],
        params=dict(record["params"]),
        distributions=dict(space),
        intermediate_values={int(epoch): value for epoch, value in record["intermediate"].items()},
        constraints=violated,
    )
