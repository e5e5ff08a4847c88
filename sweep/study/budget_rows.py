"""The budget of a search as rows that wait in the storage: given points, default values, the design, and the rest."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState, create_trial

from ..config.search_space import Scalar
from ..config.study_config import StudyConfig
from .distributions import Distributions
from .samplers import default_values, design_trials, presampled_points


def missing_rows(
    config: StudyConfig, space: Distributions, rows: Sequence[FrozenTrial], first: Sequence[Mapping[str, Scalar]] = ()
) -> tuple[list[FrozenTrial], int]:
    """Returns the rows that a search lacks up to ``trials``, ``design`` of them uniform; and its budget.

    The first one of a new study has the default values of the space; the sampler chooses those without a default.
    Trials with the values of the points ``first`` are added to the budget if they are missing; in a new study they
    come before all others. The budget is more than ``trials`` if it was larger before.
    """
    search, plain = config.search, {"seed": config.training.seed, "design": False}
    new, present = list[FrozenTrial](), [{**t.params, **t.system_attrs.get("fixed_params", {})} for t in rows]

    def presampled(number: int, given: Mapping[str, Scalar]) -> dict[str, Scalar]:
        return {**next(presampled_points(config, space, [number])), **given}

    def add(values: Mapping[str, Scalar], attrs: Mapping[str, Any]) -> None:
        new.append(waiting_row(config, space, values, attrs))

    for point in first:
        if not any(point.items() <= values.items() for values in present):
            add(presampled(len(present), point), {**plain, "given": True})
            present.append(dict(point))
    own = [t for t in rows if not t.user_attrs.get("given") and "retry_of" not in t.user_attrs]
    designed = [(t.params, t.user_attrs) for t in own if t.user_attrs.get("design")]
    begun = len(own)
    if (defaults := default_values(config)) and not own:
        add(presampled(0, defaults), plain)
        begun = 1
    design = max(0, min(search.design - len(designed), search.trials - begun))
    for values, attrs in design_trials(config, space, designed, design):
        add(values, attrs)
    numbers = range(begun + design, search.trials)
    # Of samplers that do not learn, the values depend on nothing but the seed. In a race, a trial's are chosen later.
    open_rows: Iterable[dict[str, Scalar]] = ({} for _ in numbers)
    for values in presampled_points(config, space, numbers) if search.seeds == 1 else open_rows:
        add(values, plain)
    return new, max(len(own), search.trials)


def waiting_row(
    config: StudyConfig, space: Distributions, values: Mapping[str, Scalar], attrs: Mapping[str, Any]
) -> FrozenTrial:
    """Returns a row that waits, with these values; the sampler chooses the others when it is claimed."""
    whole = bool(values) and config.is_point(values)
    return create_trial(
        state=TrialState.WAITING,
        # A whole point is stored as params at once, which spares a write for each value.
        params=dict(values) if whole else {},
        distributions={name: space[name] for name in values} if whole else {},
        user_attrs=dict(attrs),
        system_attrs={} if whole else {"fixed_params": dict(values)},  # as of Optuna's `enqueue_trial`
    )
