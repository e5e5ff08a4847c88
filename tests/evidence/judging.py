"""Judges the pairs of the evidence anew, from their stored curves: those of one study, and all studies together."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from sweep.analysis.paired_comparison import PairedComparison, apply_holm, compare_pairs
from sweep.analysis.paired_tests import ALPHA, false_discovery
from sweep.analysis.speedup import Member
from sweep.config.sections import Objective
from sweep.training.collapse import is_no_better
from sweep.training.reports import EpochMetrics

Evidence = Mapping[str, Any]
"""The evidence of one entry, see `gathering.evidence`; also a part of it."""


def comparisons(evidence: Evidence) -> dict[tuple[str, str], PairedComparison]:
    """Returns the comparisons of an entry's best configuration, by their arms; none if it has no pairs.

    They are made from the test curves. The gap between training and test is the stored one.
    """
    confirmed = evidence["confirm"]
    if not confirmed:
        return {}
    objective = Objective.model_validate(evidence["config"]["objective"])
    epochs, constant = evidence["config"]["training"]["max_epochs"], evidence["constant"]
    curves = {arm: {int(seed): curve for seed, curve in each.items()} for arm, each in evidence["curves"].items()}
    arms = {arm: members(each, objective, epochs=epochs, constant=constant) for arm, each in curves.items()}
    [number, *_] = confirmed["configurations"]
    stored = {(c["first"], c["second"]): c for c in confirmed["comparisons"] if str(c["number"]) == str(number)}
    found = [
        dataclasses.replace(
            compare_pairs(int(number), (a, b), (arms[a], arms[b]), objective, plain=arms["plain"]),
            generalization_gaps=tuple(c["gaps"]),
        )
        for (a, b), c in stored.items()
    ]
    same = {(int(number), arm): twin for arm, each in curves.items() if (twin := _twin(arm, each, curves))}
    return {(c.first, c.second): c for c in apply_holm(found, same)}


def _twin(arm: str, curves: Mapping[int, Any], others: Mapping[str, Mapping[int, Any]]) -> str | None:
    """Returns the arm before this one whose runs are equal to its own on all seeds that both have."""
    before = list(others)[: list(others).index(arm)]
    return next((each for each in before if all(others[each].get(seed) == curves[seed] for seed in curves)), None)


def members(
    curves: Mapping[int, Sequence[float | None]], objective: Objective, *, epochs: int, constant: float
) -> dict[int, Member]:
    """Returns runs by seed; the metric of the test set is all that they hold.

    Args:
        curves: that metric by epoch; a run with fewer than ``epochs`` has diverged.
        objective: the study's objective.
        epochs: epochs of a whole run.
        constant: the metric of a constant predictor.
    """
    metric, found = f"test_{objective.metric.removeprefix('val_')}", {}
    minimised = objective.direction == "minimize"
    for seed, curve in curves.items():
        values = [math.nan if value is None else value for value in curve]
        history = [EpochMetrics(epoch, {metric: value}, 0) for epoch, value in enumerate(values, 1)]
        whole = len(values) == epochs
        dead = whole and is_no_better(objective.metric, values[-1], constant, minimised=minimised)
        found[seed] = Member(history, not whole, dead)
    return found


def relative(c: PairedComparison, direction: str) -> float:
    """Returns what gains are shares of: the second arm's mean loss, or its mean error if accuracy is measured."""
    level = c.final_means[1]
    return level if direction == "minimize" else 1 - level


# -- all studies -------------------------------------------------------------------------------------------------------


def distinct(made: Mapping[str, Evidence]) -> list[str]:
    """Returns the names of the studies without copies: of studies that are equal trial for trial, the first counts."""
    kept: dict[str, list[Any]] = {}
    for name, evidence in made.items():
        trials = [_rounded(trial) for trial in evidence["trials"]]
        if trials not in kept.values():
            kept[name] = trials
    return list(kept)


def _rounded(trial: Evidence) -> tuple[Any, ...]:
    """Returns what makes a trial, to six digits: the last ones differ between versions of the libraries."""
    values = {key: _to_six_digits(value) for key, value in trial["hyperparameters"].items()}
    return values, trial["outcome"], trial["epochs"], _to_six_digits(trial["value"])


def _to_six_digits(value: object) -> object:
    """Returns a number to six digits, and anything else as it is."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def verdicts(found: Mapping[str, PairedComparison]) -> dict[str, tuple[str, float | None]]:
    """Returns the verdict of each study's comparison and its p-value, corrected over the studies.

    A study's p-value is the one after Holm's correction within it; Benjamini and Hochberg's follows over all studies.
    So a study is never better or worse here that is not so by itself.
    """
    corrected = false_discovery([c.final.p_holm for c in found.values()])
    judged = {}
    for (name, c), p in zip(found.items(), corrected, strict=True):
        judged[name] = (c.verdict if p is not None and p < ALPHA else "not shown", p)
    return judged


def merged(confirmations: Sequence[Evidence]) -> dict[str, Any] | None:
    """Returns several confirmations of one study as one: what an earlier one holds has precedence."""
    if not confirmations:
        return None
    whole: dict[str, Any] = {**confirmations[0]}
    for other in confirmations[1:]:
        arms = {rival["arm"] for rival in whole["rivals"]}
        known = {(c["number"], c["first"], c["second"]) for c in whole["comparisons"]}
        new = [c for c in other["comparisons"] if (c["number"], c["first"], c["second"]) not in known]
        whole["rivals"] = [*whole["rivals"], *(rival for rival in other["rivals"] if rival["arm"] not in arms)]
        whole["comparisons"] = [*whole["comparisons"], *new]
    return whole
