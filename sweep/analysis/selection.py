"""Selects the trials of a table that an analysis rests on, or says why they are too few."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ..config.errors import SweepError
from ..config.study_config import MIN_DESIGN
from ..study.noise import SQUARED
from .formats import format_percent
from .surrogates import Input, Inputs, Mask, Trials

if TYPE_CHECKING:
    import pandas as pd

    from ..study.dataframe import Table
    from .conditions import Condition

MIN_UNIFORM = MIN_DESIGN
MIN_PER_INPUT = 4  # full-budget trials for each hyperparameter
MOST_LOST = 0.1  # share of the uniform trials that may have diverged or collapsed
ALIASED = (
    "the uniform trials are not marked as drawn one by one (they are a Sobol' sequence, or another program's): R2 may "
    "be too high, and a pair of hyperparameters may stand for others"
)


def within(trials: pd.DataFrame, where: Mapping[str, Condition]) -> pd.DataFrame:
    """Returns the trials that fulfil all conditions."""
    for name, condition in where.items():
        trials = trials[trials[f"params_{name}"].map(condition).astype(bool)]
    return trials


def varied_inputs(table: Table, trials: pd.DataFrame, where: Mapping[str, Condition]) -> tuple[Inputs, dict[str, str]]:
    """Returns the hyperparameters that take several values under the conditions; and the others, with the reason.

    One that only some of the trials have is left out: what it does there is unexplained variance here.
    """
    partial = {
        name: f"only trials with {text} have it: sweep sensitivity {table.study} --where {_quoted(text)}"
        for name, text in table.conditional.items()
        if any(value != value for value in trials[f"params_{name}"])  # NaN, and not None, which may be a choice
    }
    space = {n: d for n, d in table.space.items() if n not in partial}
    every = [Input(n, d, where.get(n), ordered=n not in table.unordered) for n, d in space.items()]
    if empty := [each.name for each in every if not each.levels]:
        raise SweepError(f"--where: no value of {', '.join(empty)} in the search space fulfils it")
    alone = {each.name: f"its only value is {each.levels[0]}" for each in every if len(each.levels) == 1}
    return Inputs([each for each in every if each.name not in alone]), {**alone, **partial}


def _quoted(text: str) -> str:
    return shlex.quote(text) if any(c in text for c in '"$`\\!') else f'"{text}"'


def uniform_trials(trials: pd.DataFrame) -> Mask:
    """Masks the uniform trials, without those that repeat a point on another seed."""
    return _flag(trials, "design") & ~_flag(trials, "repeat")


def has_value(trials: pd.DataFrame) -> Mask:
    """Masks the trials with a value, without those that collapsed: theirs says nothing of the networks that train."""
    return np.asarray(trials["value"].notna() & (trials["outcome"] != "collapsed"), bool)


def _flag(trials: pd.DataFrame, name: str) -> Mask:
    return np.asarray(trials[name], bool) if name in trials else np.zeros(len(trials), bool)


def refusal(full: pd.DataFrame, d: int, *, min_per_value: int, hint: str) -> str | None:
    """Returns the reason for not fitting a surrogate of d inputs to these trials; None if they suffice."""
    if not d:
        return "no hyperparameter takes more than one value"
    uniform, y = uniform_trials(full), full["value"].to_numpy(float)
    largest = float(np.abs(y).max(initial=0.0))
    if largest and not SQUARED[0] < largest < SQUARED[1]:
        return f"the values reach {largest:.2g}: their variance has no place in a floating-point number; rescale them"
    if len(y) > 1 and np.ptp(y[uniform] if uniform.any() else y) <= 1e-12 * largest:
        return "all values are equal: there is no variance to explain"
    if uniform.sum() < MIN_UNIFORM:
        why = ": a sampler prefers regions with good results, so its trials say little about the rest"
        return (
            f"{uniform.sum()} of {len(y)} full-budget trials are uniform over the space, {MIN_UNIFORM} are needed"
            f"{'' if uniform.all() else why}. Add some: {hint}"
        )
    if len(y) < MIN_PER_INPUT * d:
        return f"{len(y)} full-budget trials are few for {d} hyperparameters, {MIN_PER_INPUT * d} are needed: {hint}"
    if (rare := int(np.unique(y[uniform], return_counts=True)[1].min())) < min_per_value:
        unlike = f"only {rare} of {uniform.sum()} uniform trials ended differently from the others"
        return f"{unlike}: too few for an analysis"
    return None


def too_many_lost(trials: pd.DataFrame, outcomes: Mapping[str, str]) -> str | None:
    """Returns why nothing can be said of the trials that have none of these outcomes; None if the others are few."""
    ended = trials[uniform_trials(trials) & (has_value(trials) | trials["outcome"].isin(list(outcomes)))]
    lost = ~has_value(ended)
    if len(ended) < MIN_UNIFORM or lost.mean() <= MOST_LOST:
        return None
    names = " or ".join(name for name in outcomes if (ended["outcome"][lost] == name).any())
    share = format_percent(lost.mean())
    return (
        f"{lost.sum()} of {len(ended)} uniform trials {names} ({share}; {format_percent(MOST_LOST)} are allowed). "
        "Indices over the whole space would rest on a guess of the objective where it has no value. Choose a part of "
        'the space where training succeeds, such as --where "training.lr < 0.01"'
    )


def encode_trials(inputs: Inputs, full: pd.DataFrame) -> tuple[Trials, str | None]:
    """Returns the trials as surrogates take them, and a warning if those that are tested may hide interactions."""
    x = inputs.encode({each.name: full[f"params_{each.name}"].tolist() for each in inputs})
    uniform = uniform_trials(full)
    independent = uniform & _flag(full, "independent")
    tested, warning = (independent, None) if independent.sum() >= MIN_UNIFORM else (uniform, ALIASED)
    point = np.unique(x, axis=0, return_inverse=True)[1].reshape(-1)
    repeated = np.isin(point, point[_flag(full, "repeat")])
    # Trials that meet by chance, in a space of few values, are points of their own.
    points = np.where(repeated, point, len(x) + np.arange(len(x)))
    return Trials(inputs, x, full["value"].to_numpy(float), tested, points), warning
