"""The budget of a study: the rows that wait in its storage, enqueued while other drivers are kept out."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from ..config.search_space import Scalar
from ..config.study_config import StudyConfig
from .distributions import Distributions, sobol_points
from .records import PlannedTrial
from .samplers import presampled_params

logger = logging.getLogger(__name__)


def enqueue_budget(
    study: optuna.Study,
    rows: Sequence[FrozenTrial],
    config: StudyConfig,
    space: Distributions,
    first: Sequence[Mapping[str, Scalar]],
) -> int:
    """Enqueues what a search lacks of its budget, and returns that; see `sweep.study.study.Study.enqueue_budget`.

    Rows of samplers that do not learn get their values here, so that they depend on nothing but the seed.
    """
    search, seed = config.search, config.training.seed
    present = [{**t.params, **t.system_attrs.get("fixed_params", {})} for t in rows]
    for point in first:
        if not any(point.items() <= values.items() for values in present):
            values = {**presampled_params(config, space, len(present)), **point}
            enqueue_row(study, space, values, {"seed": seed, "design": False, "given": True})
            present.append(dict(point))
    own = [t for t in rows if not t.user_attrs.get("given")]
    designed = sum(bool(t.user_attrs.get("design")) for t in own)
    design = max(0, min(search.design - designed, search.trials - len(own)))
    for point in sobol_points(space, count=design, skip=designed, seed=seed):
        enqueue_row(study, space, point, {"seed": seed, "design": True})
    for number in range(len(own) + design, search.trials):
        enqueue_row(study, space, presampled_params(config, space, number), {"seed": seed, "design": False})
    if (count := len(present) - len(rows) + max(0, search.trials - len(own))) > 0:
        logger.info("%s: enqueued %d trials, %d of them design trials", study.study_name, count, design)
    return max(len(own), search.trials)


def enqueue_sister_rows(study: optuna.Study, rows: Sequence[FrozenTrial], planned: Sequence[PlannedTrial]) -> None:
    """Enqueues planned rows that the sister study does not hold yet."""
    present = [t.user_attrs for t in rows]
    for kind, of, seed, hyperparameters in planned:
        row = {"kind": kind, "of": of, "seed": seed, "hyperparameters": hyperparameters, "design": False}
        if not any(all(attrs.get(k) == row[k] for k in row if k != "of") for attrs in present):
            enqueue_row(study, {}, {}, row)
            present.append(row)


def enqueue_row(study: optuna.Study, space: Distributions, values: Mapping[str, Scalar], attrs: dict[str, Any]) -> None:
    """Adds a WAITING row. A whole point is stored as params at once, which spares a write for each value."""
    if values and set(values) == set(space):
        row = create_trial(state=TrialState.WAITING, params=dict(values), distributions=dict(space), user_attrs=attrs)
        study.add_trial(row)
    else:
        study.enqueue_trial(dict(values), user_attrs=attrs)
