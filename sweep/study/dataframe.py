"""Reads an Optuna study, sweep's or another program's, as a table of trials for the sensitivity analysis.

Metrics beside the objective, and epochs that the storage does not hold, are read from the checkpoints.
"""

import math
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import optuna
import pandas as pd
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from ..config.conditional import describe_condition
from ..config.errors import SweepError, nearest
from ..config.search_space import Choices, Scalar
from ..config.settings import Settings
from ..config.study_config import StudyConfig
from .constrained import Inside, inside_constraints
from .distributions import Distributions, contains, distributions
from .finalists import unguided
from .records import OUTCOMES
from .storages.catalog import unknown_study
from .storages.storage import read_config, study_names
from .stored_trials import counting

PARAMS = "params_"  # prefix of a hyperparameter's column, as in Optuna's trials_dataframe


@dataclass(frozen=True)
class Table:
    """The finished trials of a study, with one value for each.

    Attributes:
        epoch: epoch of ``value``; None in a study without epochs.
        trials: by number; the columns are ``outcome``, ``design`` (uniform over the space, never pruned),
            ``independent`` (such a trial that was drawn on its own), ``repeat`` (of such a point, on another seed),
            ``epochs``, ``value`` (NaN for a trial without a full budget) and ``params_<name>`` for each hyperparameter.
        space: hyperparameters that every trial has.
        left_out: other hyperparameters, each with the reason.
        hint: instruction that adds uniform trials.
        refusal: reason for which the space has no indices.
        inside: masks the points, values [...] by name, that fulfil the constraints; None without constraints.
        unordered: hyperparameters whose choices are numbers without an order.
        conditional: conditions of hyperparameters that only some trials have, as `--where` takes them; NaN elsewhere.
    """

    study: str
    objective: str
    epoch: int | None
    trials: pd.DataFrame
    space: Distributions
    left_out: Mapping[str, str]
    hint: str
    unordered: Collection[str] = ()
    refusal: str | None = None
    inside: Inside | None = None
    conditional: Mapping[str, str] = field(default_factory=dict)


def read_tables(
    name: str,
    storage: BaseStorage,
    settings: Settings,
    *,
    metric: str | None = None,
    epoch: int | None = None,
    against_control: bool = False,
) -> list[Table]:
    """Reads a study; returns a table for each of its objectives.

    Args:
        metric: read in place of the objective.
        epoch: read in place of the last epoch, from each trial that reached it.
        against_control: reads the gain over the trial's unguided control in place of the metric.

    Raises:
        SweepError: there is no such study, metric or epoch; lists the known ones.
    """
    study = _load(name, storage, settings)
    config = read_config(name, storage)
    if config is not None:
        return [_own_study(config, storage, settings, metric, epoch, against_control=against_control)]
    if against_control:
        raise SweepError(f"--against-control: {name} is a study of another program; its trials have no controls")
    return _foreign_study(study, metric, epoch)


def importances(name: str, storage: BaseStorage, settings: Settings) -> dict[str, dict[str, float]]:
    """Returns Optuna's PED-ANOVA importances for each objective, the largest first; none with too few trials."""
    study, config = _load(name, storage, settings), read_config(name, storage)
    distinct = optuna.create_study(directions=study.directions)
    distinct.add_trials(_without_twins(study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])))
    found = {}
    for i, objective in enumerate([config.objective.metric] if config else _objectives(study)):

        def value(trial: FrozenTrial, i: int = i) -> float:
            return float(trial.values[i]) * (1 if study.directions[i] == StudyDirection.MINIMIZE else -1)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # Optuna assumes that low values are better: they are
            try:
                values = optuna.importance.get_param_importances(distinct, target=value)
            except (RuntimeError, ValueError):  # fewer than two completed trials, or all values equal
                values = {}
        found[objective] = {name: float(value) for name, value in values.items()}
    return found


def _load(name: str, storage: BaseStorage, settings: Settings) -> optuna.Study:
    if name not in (known := study_names(storage)):
        raise unknown_study(name, known, settings)
    return optuna.load_study(study_name=name, storage=storage)


def _frame(trials: Sequence[FrozenTrial], space: Distributions, values: Sequence[float]) -> pd.DataFrame:
    columns = {
        "outcome": [_outcome(t) for t in trials],
        # A trial that was uniform over another space is not uniform over this one.
        "design": [_is_design(t) and all(t.distributions.get(n, d) == d for n, d in space.items()) for t in trials],
        "independent": [t.user_attrs.get("independent") is True for t in trials],
        "repeat": [t.user_attrs.get("repeat") is True for t in trials],
        "epochs": [t.user_attrs.get("epochs", max(t.intermediate_values, default=0)) for t in trials],
        "value": [v if math.isfinite(v) else math.nan for v in values],
    }
    params = {
        f"{PARAMS}{name}": pd.Series([t.params.get(name, math.nan) for t in trials], dtype=object) for name in space
    }
    return pd.DataFrame({**columns, **params}).set_axis([t.number for t in trials]).astype({"value": float})


def _is_design(trial: FrozenTrial) -> bool:
    return trial.user_attrs.get("design") is True


def _outcome(trial: FrozenTrial) -> str:
    """Returns the stored outcome; without one, a trial with a last value that is not finite has diverged."""
    if (stored := trial.user_attrs.get("outcome")) in OUTCOMES:
        return str(stored)
    last = [v for _, v in sorted(trial.intermediate_values.items())][-1:]
    if not all(math.isfinite(v) for v in trial.values or last):
        return "diverged"
    return {TrialState.COMPLETE: "completed", TrialState.PRUNED: "pruned"}.get(trial.state, "failed")


Measure = Callable[[str, FrozenTrial], float]  # of the named study; NaN if the trial has no value


def _own_study(
    config: StudyConfig,
    storage: BaseStorage,
    settings: Settings,
    metric: str | None,
    epoch: int | None,
    *,
    against_control: bool,
) -> Table:
    name, last = config.name, config.training.max_epochs
    if epoch is not None and not 1 <= epoch <= last:
        raise SweepError(f"--epoch {epoch}: the trials of {name} have epochs 1 to {last}")
    trials, objective = _without_twins(_ended(name, storage)), metric or config.objective.metric
    own = objective == config.objective.metric
    measure = _from_storage(trials, epoch) if own else None
    measure = measure or _from_checkpoints(config, settings, trials, objective, epoch or last)
    values = [measure(name, t) for t in trials]
    remedy = f"sweep run {name} --design 64"
    if against_control:
        controls = _controls(config, trials, _ended(f"{name}.controls", storage))
        measured = (t for t, v in zip(trials, values, strict=True) if math.isfinite(v))
        if any(_is_design(t) and t.number not in controls for t in measured):
            command = f"sweep run {name} --set search.design_controls=true"
            remedy = f"the controls of its design trials, which are missing: {command}"
        sign = -1 if own and config.objective.direction == "minimize" else 1
        values = [
            sign * (v - measure(f"{name}.controls", controls[t.number])) if t.number in controls else math.nan
            for t, v in zip(trials, values, strict=True)
        ]
        objective = f"gain in {objective} over the control" if own else f"{objective} minus the control's"
    space = distributions(config.searched)
    unordered = [n for n, d in config.searched.items() if isinstance(d, Choices) and not d.ordered]
    return Table(
        name,
        objective,
        epoch or last,
        _frame(trials, space, values),
        space,
        {},
        remedy,
        unordered,
        *inside_constraints(config),
        {n: describe_condition(when) for n, d in config.searched.items() if (when := d.when) is not None},
    )


def _ended(name: str, storage: BaseStorage) -> list[FrozenTrial]:
    if name not in optuna.get_all_study_names(storage):
        return []
    trials = storage.get_all_trials(storage.get_study_id_from_name(name), deepcopy=False)
    return [t for t in counting(trials) if t.state.is_finished()]


def _without_twins(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Returns the trials without those that equal an earlier one, which in another fold would have been shown.

    A configuration that raced is one trial, on the seed of all others.
    """
    names = ("seed", "outcome", "hyperparameters")
    found: dict[str, FrozenTrial] = {}
    for each in (t for t in trials if t.user_attrs.get("repeat_of") is None):
        same = [sorted(each.params.items()), each.state.name, each.values, *map(each.user_attrs.get, names)]
        found.setdefault(repr(same), each)
    return list(found.values())


def _from_storage(trials: Sequence[FrozenTrial], epoch: int | None) -> Measure | None:
    """Measures the objective; None for an epoch that the storage does not hold: it has the pruner's epochs only."""
    if epoch is None:
        return lambda _, t: t.value if t.state == TrialState.COMPLETE and t.value is not None else math.nan
    if any(epoch in t.intermediate_values for t in trials):
        return lambda _, t: t.intermediate_values.get(epoch, math.nan)
    return None


def _from_checkpoints(
    config: StudyConfig, settings: Settings, trials: Sequence[FrozenTrial], metric: str, epoch: int
) -> Measure:
    """Measures a metric in the histories that the checkpoints hold."""
    from ..training.checkpoint import load_latest

    def history(study: str, trial: FrozenTrial) -> list[dict[str, float]]:
        saved = load_latest(settings.checkpoints(study, trial.number))
        epochs = trial.user_attrs.get("epochs", 0)  # epochs trained after the pruner's decision do not count
        return [m.values for m in saved.history if m.epoch <= epochs] if saved else []

    logged = next((h[0] for t in trials if (h := history(config.name, t))), None)
    if logged is None and trials:
        place = f"the checkpoints of {config.name}, and {settings.workspace} has none"
        raise SweepError(f"{metric} at epoch {epoch} is in {place}")
    if logged is not None and metric not in logged:
        known = f"{nearest(metric, list(logged))}; it logged {', '.join(logged)}"
        raise SweepError(f"--metric {metric}: {config.name} did not log it{known}")

    def measure(study: str, trial: FrozenTrial) -> float:
        values = [values.get(metric, math.nan) for values in history(study, trial)[:epoch]]
        if len(values) < epoch:
            return math.nan
        objective = config.objective
        best = metric == objective.metric and objective.at == "best"
        return (min if objective.direction == "minimize" else max)(values) if best else values[-1]

    return measure


def _controls(
    config: StudyConfig, trials: Sequence[FrozenTrial], candidates: Sequence[FrozenTrial]
) -> dict[int, FrozenTrial]:
    """Returns the completed control with the same seed of each trial that has one, by the trial's number."""

    def key(trial: FrozenTrial, hyperparameters: Mapping[str, Scalar]) -> tuple[object, ...]:
        return trial.user_attrs.get("seed"), *sorted((n, repr(v)) for n, v in hyperparameters.items())

    completed = [t for t in candidates if t.user_attrs.get("kind") == "control" and t.state == TrialState.COMPLETE]
    by_key = {key(t, t.user_attrs["hyperparameters"]): t for t in completed}
    found = {t.number: by_key.get(key(t, unguided({**config.constants, **t.params}))) for t in trials}
    return {number: control for number, control in found.items() if control is not None}


def _foreign_study(study: optuna.Study, metric: str | None, epoch: int | None) -> list[Table]:
    trials = [t for t in study.get_trials(deepcopy=False) if t.state.is_finished()]
    names = _objectives(study)
    steps = sorted({step for t in trials for step in t.intermediate_values})
    if epoch is not None and epoch not in steps:
        known = f"they reported at {', '.join(map(str, steps))}" if steps else "they reported no intermediate values"
        raise SweepError(f"--epoch {epoch}: no trial of {study.study_name} reported there; {known}")
    attributes = sorted({k for t in trials for k, v in t.user_attrs.items() if _is_number(v)} - {"epochs", "seed"})
    if metric is not None and metric not in [*names, *attributes]:
        logged = ", ".join([*names, *attributes])
        raise SweepError(f"--metric {metric}: no trial of {study.study_name} has it; they have {logged}")
    full = _full_budget(study, trials, steps)
    space, left_out = _space([t for t in trials if t.state == TrialState.COMPLETE] or trials)
    inside = {t.number for t in trials if all(contains(d, t.params[n]) for n, d in space.items() if n in t.params)}
    remedy = (
        "ask for at least 32 at uniform points of the space (Optuna's QMCSampler), do not prune them, and mark each "
        "when it is asked: trial.set_user_attr('design', True)"
    )
    tables = []
    for name in [metric] if metric is not None else names:

        def value(trial: FrozenTrial, name: str = name) -> float:
            if epoch is not None and name in names:
                return trial.intermediate_values.get(epoch, math.nan)
            if trial.number not in full & inside:
                return math.nan
            return float(trial.values[names.index(name)] if name in names else trial.user_attrs.get(name, math.nan))

        frame = _frame(trials, space, [value(t) for t in trials])
        if steps and epoch is None:  # completed early: stopped by a program that stored it as complete
            frame.loc[(frame["outcome"] == "completed") & ~frame.index.isin(full), "outcome"] = "pruned"
        last = epoch if epoch is not None else max(steps, default=None)
        tables.append(Table(study.study_name, name, last, frame, space, left_out, remedy))
    return tables


def _objectives(study: optuna.Study) -> list[str]:
    """Returns the names of the objectives, or else the column names of Optuna's trials_dataframe."""
    count = len(study.directions)
    return study.metric_names or ([f"values_{i}" for i in range(count)] if count > 1 else ["value"])


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _full_budget(study: optuna.Study, trials: Sequence[FrozenTrial], steps: Sequence[int]) -> set[int]:
    """Returns the numbers of completed trials with the largest number of epochs, or without a number."""
    trained = {t.number: t.user_attrs["epochs"] for t in trials if _is_number(t.user_attrs.get("epochs"))}
    most = study.user_attrs.get("max_epochs", max(trained.values(), default=None))
    full = {number for number, epochs in trained.items() if epochs == most}
    full |= {t.number for t in trials if steps and max(t.intermediate_values, default=None) == steps[-1]}
    full |= {t.number for t in trials if not t.intermediate_values and t.number not in trained}
    return {t.number for t in trials if t.state == TrialState.COMPLETE} & full


def _space(trials: Sequence[FrozenTrial]) -> tuple[dict[str, BaseDistribution], dict[str, str]]:
    """Returns the hyperparameters that all trials have, with their last distributions; the others with the reason."""
    space = {name: distribution for t in trials for name, distribution in t.distributions.items()}
    left_out = {n: "only some trials have it" for n in space if not all(n in t.params for t in trials)}
    return {n: d for n, d in space.items() if n not in left_out}, left_out
