"""Enqueues a configuration of the user's own."""

from __future__ import annotations

from collections.abc import Sequence

from ..config.errors import ConfigError, nearest
from ..config.search_space import Scalar
from ..config.settings import Settings
from ..config.study_file import read_yaml
from ..study.storages.catalog import get_storage, load_stored_config


def enqueue(name: str, settings: Settings, sets: Sequence[str]) -> tuple[int, dict[str, Scalar]]:
    """Enqueues one configuration of the user's own; the next run trains it, and the budget grows by one.

    Returns the number of the trial and the hyperparameters that are set; raises a ConfigError with all unfit ones.
    """
    from ..study.distributions import contains, distributions
    from ..study.study import Study

    config = load_stored_config(name, settings)
    space, values, problems = distributions(config.searched), {}, []
    for assignment in sets:
        key, sign, text = assignment.partition("=")
        value = read_yaml(f"value: {text}", f"--set {key}")["value"] if sign else None
        if key not in space:
            problems.append(f"{key}: not searched in {name}{nearest(key, list(space))}; searched: {', '.join(space)}")
        elif not contains(space[key], value):
            problems.append(f"{key}: {value!r} is not in {config.searched[key]}")
        else:
            values[key] = value
    if not values and not problems:
        problems.append(f"--set: give at least one of {', '.join(space)}; the sampler chooses the rest")
    if problems:
        raise ConfigError("options", problems)
    search = config.search.model_copy(update={"trials": config.search.trials + 1})
    config = config.model_copy(update={"search": search})
    study = Study(config, get_storage(settings.storage), workspace=settings.workspace)
    return study.enqueue(values), values
