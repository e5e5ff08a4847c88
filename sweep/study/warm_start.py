"""Prior trials of a study: trials of earlier studies with another search space, which its sampler alone sees.

A copy of them is stored in the study's attribute ``knowledge``: a study stays whole when its forerunner is deleted.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from ..config.search_space import Scalar
from ..config.study_config import StudyConfig
from .distributions import contains, distributions

STATES = {
    "completed": TrialState.COMPLETE,
    "collapsed": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "diverged": TrialState.PRUNED,
}


def gather_prior_trials(config: StudyConfig, forerunner: StudyConfig, storage: BaseStorage) -> list[dict[str, Any]]:
    """Returns the trials of an earlier study, and its own prior trials, that fit the new space.

    A trial fits if the new study would train it to the same numbers: its values lie in the new space, and each value
    that is no longer searched equals the new study's constant.
    """
    study = optuna.load_study(study_name=forerunner.name, storage=storage)
    trials = [*(_record(t, forerunner.name) for t in study.trials), *study.user_attrs.get("knowledge", [])]
    fitting = (
        (record, fit_params(config, forerunner, record["params"])) for record in trials if record["outcome"] in STATES
    )
    return [{**record, "params": params} for record, params in fitting if params is not None]


def _record(frozen: FrozenTrial, name: str) -> dict[str, Any]:
    return {
        "trial": f"{name}-{frozen.number:04d}",
        "outcome": frozen.user_attrs.get("outcome"),
        "value": frozen.value if frozen.state == TrialState.COMPLETE else None,
        "params": frozen.params,
        "intermediate": {str(epoch): value for epoch, value in frozen.intermediate_values.items()},
    }


def fit_params(
    config: StudyConfig, forerunner: StudyConfig, hyperparameters: Mapping[str, Scalar]
) -> dict[str, Scalar] | None:
    """Returns the values of a forerunner's trial in the new space; None if it does not fit."""
    how = {"threads": config.resources.threads, "workers": config.resources.workers}  # may change within a study
    trained = forerunner.trial(hyperparameters).model_copy(update=how)
    values = config.hyperparameters(trained)
    space = distributions(config.searched)
    params = {name: values[name] for name in space if name in values}
    if not config.is_point(params) or not all(contains(space[name], value) for name, value in params.items()):
        return None
    return params if config.trial(params) == trained else None


def prior_trials(records: Sequence[Mapping[str, Any]], space: Mapping[str, BaseDistribution]) -> list[FrozenTrial]:
    """Returns the records of `gather_prior_trials` as trials for Optuna's samplers."""
    violations = {"pruned": {"diverged": -1.0}, "diverged": {"diverged": 1.0}}
    return [
        create_trial(
            state=STATES[record["outcome"]],
            value=record["value"],
            params=dict(record["params"]),
            distributions={name: space[name] for name in record["params"]},
            intermediate_values={int(epoch): value for epoch, value in record["intermediate"].items()},
            constraints=violations.get(record["outcome"], {}),
        )
        for record in records
    ]
