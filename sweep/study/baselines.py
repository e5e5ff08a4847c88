"""The baselines of `sweep confirm`: the studies that search for them, and the rows that are trained in pairs.

A baseline's study has the same number of trials, sampler, pruner, epochs and finalists as the guided network's, and the
same space, with hyperparameters of its own in place of guidance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..config.constraints import parse_constraints
from ..config.search_space import Choices, Dimension, Range, Scalar, is_of_guidance
from ..config.sections import FinalistsConfig
from ..config.study_config import OF_CONFIRM, StudyConfig
from .distributions import contains, distributions
from .finalists import tuned_space, unguided
from .records import Arm, PlannedTrial, TrialRecord

METHODS: tuple[Arm, ...] = ("dropout", "weight_decay", "batch_norm", "he", "orthogonal", "lsuv")
FIRST_SEED = 10_000  # added to the study's seed: above the seeds of all finalists


def baseline_study(config: StudyConfig, arm: Arm, trials: int) -> StudyConfig:
    """Returns the study that searches for a baseline's best configuration, ``trials`` being the guided one's."""
    kept = {name: dimension for name, dimension in config.space.items() if not is_of_guidance(name)}
    own = {name: config.searched.get(name, d) if _is_searched(d) else d for name, d in _own(config)[arm].items()}
    space: dict[str, Dimension] = {"lambda1": 0.0, "lambda2": 0.0, **kept, **own}
    trials = trials if any(map(_is_searched, space.values())) else 1
    finalists = config.search.finalists.model_copy(update={"tuned": 0})  # chosen as the guided network is
    last = finalists if trials > 1 else FinalistsConfig(top=0)
    endless = {"hours": None, "target": None, "patience": None, "until": None, "finalists": last}
    sampler = "random" if config.search.sampler == "grid" else config.search.sampler  # this space may have no grid
    budget = {"trials": trials, "design": min(config.search.design, trials), "sampler": sampler}
    search = config.search.model_copy(update={**budget, **endless})
    kept_constraints = tuple(
        each.text for each in parse_constraints(config.constraints, config.space) if each.names <= space.keys()
    )
    changed = {"space": space, "constraints": kept_constraints, "search": search}
    return config.model_copy(update={"name": f"{config.name}{OF_CONFIRM}{arm}", **changed})


def _own(config: StudyConfig) -> Mapping[Arm, Mapping[str, Dimension]]:
    """Returns the hyperparameters of each baseline in place of guidance; the study's own ranges replace these."""
    if config.kind != "model":
        return {"strongest": {}}  # all that the function takes is searched already
    # Decoupled decay scales with the learning rate; as part of the gradient it is a penalty on the weights.
    decay = (1e-3, 1.0) if config.training.optimizer == "adamw" else (1e-6, 1e-2)
    tuned, schedules = tuned_space(config, config.constants), Choices(choices=("constant", "cosine"))
    if config.constants.get("training.init", config.training.init) == "lsuv":
        inits = Choices(choices=("default", "he", "orthogonal", "lsuv"))
        tuned["training.init"] = config.searched.get("training.init", inits)
    return {
        "strongest": {**tuned, "training.lr_schedule": schedules},
        "dropout": {"model.dropout": Range(low=0.0, high=0.5)},
        "weight_decay": {"training.weight_decay": Range(low=decay[0], high=decay[1], log=True)},
        "batch_norm": {"model.batch_norm": True},
        "he": {"training.init": "he"},
        "orthogonal": {"training.init": "orthogonal"},
        "lsuv": {"training.init": "lsuv"},
    }


def has_already(config: StudyConfig, row: TrialRecord, arm: Arm, defaults: Mapping[str, object]) -> bool:
    """Returns True if a configuration, or the model's defaults, have a baseline's method as a constant."""
    if any(name in config.searched for name in _own(config)[arm]):
        return False
    trial = config.trial(row.hyperparameters)
    present: dict[str, Mapping[str, object]] = {"model": {**defaults, **trial.model}, "training": dict(trial.training)}
    own = {tuple(name.split(".")): dimension for name, dimension in _own(config)[arm].items()}
    return all(present[section].get(key) == dimension for (section, key), dimension in own.items())


def first_points(
    config: StudyConfig, top: Sequence[TrialRecord], baseline: StudyConfig, defaults: Mapping[str, object]
) -> list[dict[str, Scalar]]:
    """Returns the plain controls of configurations as points of a baseline's search, where they lie in its space."""
    space = distributions(baseline.searched)
    points: list[dict[str, Scalar]] = []
    for row in top:
        trial = config.trial(unguided({**config.constants, **row.hyperparameters}))
        values = baseline.hyperparameters(trial.model_copy(update={"model": {**defaults, **trial.model}}))
        point = {name: values[name] for name in space if name in values and contains(space[name], values[name])}
        if point and point not in points:
            points.append(point)
    return points


def _is_searched(dimension: Dimension) -> bool:
    return isinstance(dimension, Range | Choices)


def pair_members(
    config: StudyConfig, row: TrialRecord, found: Mapping[Arm, dict[str, Scalar]], *, placebo: bool
) -> dict[Arm, dict[str, Scalar]]:
    """Returns the hyperparameters of a configuration's networks on each seed; ``found``: the best of each baseline."""
    guided = row.hyperparameters
    if not config.guided:
        return {"guided": guided, "default": default_values(config)}
    control: dict[Arm, dict[str, Scalar]] = {"placebo": {**guided, "guidance.placebo": True}} if placebo else {}
    return {"guided": guided, "plain": unguided({**config.constants, **guided}), **control, **found}


def default_values(config: StudyConfig) -> dict[str, Scalar]:
    """Returns the constants of a study, and of what it searches the default values; None where there is none."""
    return config.active({**config.constants, **{name: each.default for name, each in config.searched.items()}})


def same_networks(
    config: StudyConfig, arms: Mapping[Arm, Mapping[str, Scalar]], defaults: Mapping[str, object]
) -> dict[Arm, Arm]:
    """Returns the arms that are trained as an arm before them is: dropout at a rate of 0 as the plain control.

    Args:
        config: the study.
        arms: hyperparameters by arm, see `pair_members`.
        defaults: defaults of the model's options.
    """
    trained_as: dict[Arm, dict[str, object]] = {}
    same: dict[Arm, Arm] = {}
    for arm, values in arms.items():
        trial = config.trial(values)
        own = trial.model_copy(update={"model": {**defaults, **trial.model}}).model_dump(mode="json")
        if trial.guidance.lambda1 == trial.guidance.lambda2 == 0:
            own["guidance"] = None
        first = next((other for other, each in trained_as.items() if each == own), None)
        if first is None:
            trained_as[arm] = own
        else:
            same[arm] = first
    return same


def wanted_pairs(
    config: StudyConfig,
    top: Sequence[TrialRecord],
    found: Mapping[Arm, dict[str, Scalar]],
    *,
    seeds: int,
    placebo: bool,
) -> list[PlannedTrial]:
    """Returns the rows of the sister study, each once; seed by seed, so that whole pairs are complete early."""
    wanted: list[PlannedTrial] = []
    for seed in range(config.training.seed + FIRST_SEED, config.training.seed + FIRST_SEED + seeds):
        for row in top:
            for arm, values in pair_members(config, row, found, placebo=placebo).items():
                if not any((arm, seed, values) == (kind, at, params) for kind, _, at, params in wanted):
                    wanted.append(PlannedTrial(arm, row.number, seed, values))
    return wanted


def trained(arm: Arm, hyperparameters: Mapping[str, Scalar], controls: Sequence[TrialRecord]) -> dict[int, TrialRecord]:
    """Returns the finished rows of one member of the pairs, by seed."""
    rows = (r for r in controls if r.kind == arm and r.hyperparameters == hyperparameters)
    return {r.seed: r for r in rows if r.state == "finished"}
