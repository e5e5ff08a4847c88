"""The result of `sweep confirm`: comparisons of pairs, the sentences on them, and the JSON that is stored.

The JSON is kept with the study (user attribute ``confirmation``), in MLflow (``confirm.json``) and in
``tests/evidence``. Its keys are a contract: `as_data` and `from_data` translate fields that are called otherwise here.
`from_data` judges the stored pairs anew, so a confirmation of an older version is told with today's statistics.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..config.search_space import Scalar
from ..study.records import Arm
from ..training.reports import EpochMetrics
from .expected_best import BestOfN
from .formats import finite_json, format_params
from .paired_comparison import ESTIMATES, STATED_GAIN, PairedComparison, apply_holm
from .paired_tests import Estimate, difference, paper_ratio, ratio, sign_test
from .summary import Summary

if TYPE_CHECKING:
    import pandas as pd

ARM_NAMES = {
    "guided": "the guided network",
    "plain": "its plain control",
    "strongest": "the strongest control",
    "default": "the default values",
    "placebo": "its placebo",
    "batch_norm": "batch normalisation",
    "he": "He initialisation",
    "orthogonal": "orthogonal initialisation",
    "lsuv": "LSUV initialisation",
    "weight_decay": "weight decay",
}
STORED_KEYS = {  # field -> key of the stored JSON
    "baselines": "rivals",
    "significant": "clear",
    "final_means": "levels",
    "generalization_gaps": "gaps",
    "mcnemar_p": "survival",
    "pairs_needed": "needed",
}
DERIVED = ("verdict", "equivalent_within")  # keys of a comparison that are stored for other programs alone
OLD_SPEEDUP = (  # until October 2026 each second member's own final value was the target
    "its speed-ups are of an earlier version, by a measure that two equal networks fail; to measure them anew from the "
    "checkpoints, without training: sweep confirm {study}"
)


@dataclass(frozen=True)
class BaselineResult:
    """The best configuration that the study of one baseline found."""

    arm: Arm
    study: str
    trials: int
    completed: int
    number: int | None  # None if none completed
    hyperparameters: dict[str, Scalar]  # constants included; empty if none completed

    @classmethod
    def of(cls, arm: Arm, summary: Summary) -> BaselineResult:
        """Returns the best trial of a study that has run."""
        name, rows, best = summary.config.name, summary.rows, summary.best
        values = {**summary.config.constants, **best[0].hyperparameters} if best else {}
        return cls(arm, name, len(rows), len(best), best[0].number if best else None, values)


@dataclass(frozen=True)
class Confirmation:
    """Comparisons of guided networks with their controls and baselines, on pairs of fresh seeds."""

    study: str
    metric: str  # of the test set; the study's objective is the same metric of the validation set
    direction: str
    configurations: dict[int, dict[str, Scalar]]  # hyperparameters by trial number, best first
    baselines: list[BaselineResult]
    comparisons: list[PairedComparison]  # grouped by configuration
    notes: list[str]
    rows: int  # rows of the sister study that the comparisons use
    ended: int  # end of the last of those rows, in milliseconds since the Unix epoch
    expected_best: dict[str, BestOfN] = field(default_factory=dict)  # of the search: arm -> best of n design trials
    missing: list[str] = field(default_factory=list)  # names of the runs that have failed, whose pairs are left out

    def as_data(self) -> dict[str, Any]:
        """Returns the stored JSON; numbers that are not finite are None."""
        data = _to_stored_keys(dataclasses.asdict(self))
        for comparison, fields in zip(self.comparisons, data["comparisons"], strict=True):
            fields.update({name: _to_stored_keys(fields[name]) for name in ESTIMATES})
            fields.update({name: getattr(comparison, name) for name in DERIVED})
        data["comparisons"] = [_to_stored_keys(fields) for fields in data["comparisons"]]
        finite: dict[str, Any] = finite_json(data)
        return finite

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Confirmation:
        """Reads the stored JSON, and judges its pairs; the inverse of `as_data` for what this version has stored."""
        old = any("target" not in each for each in data["comparisons"])
        found = [_comparison_from_data(each) for each in data["comparisons"]]
        same = {(c.number, c.second): c.same_as for c in found if c.same_as is not None}
        return cls(
            **{key: data[key] for key in ("study", "metric", "direction", "rows", "ended")},
            notes=[*data["notes"], *([OLD_SPEEDUP.format(study=data["study"])] if old else [])],
            configurations={int(number): values for number, values in data["configurations"].items()},
            baselines=[BaselineResult(**each) for each in data[STORED_KEYS["baselines"]]],
            comparisons=apply_holm(found, same),
            expected_best={arm: BestOfN(**each) for arm, each in data.get("expected_best", {}).items()},
            missing=data.get("missing", []),
        )

    def metrics(self) -> EpochMetrics:
        """Returns the estimates as metrics for MLflow; their step is the number of rows they rest on."""
        values = {}
        for c in self.comparisons:
            for name in ("final", "best", "speedup", "speedup_seconds"):
                estimate = getattr(c, name)
                for suffix, number in ("", estimate.value), ("_low", estimate.low), ("_high", estimate.high):
                    if number is not None and math.isfinite(number):
                        values[f"confirm/{c.number:04d} {c.first_name} over {c.second} {name}{suffix}"] = number
        return EpochMetrics(self.rows, values, self.ended)

    @property
    def table(self) -> pd.DataFrame:
        """The comparisons, one row each; means and gains in the unit of the metric, with 95 % intervals."""
        from .notebook import pairs_table

        return pairs_table(self)

    def _repr_html_(self) -> str:
        from .notebook import confirmation_html

        return confirmation_html(self)


def best_hyperparameters(baselines: Sequence[BaselineResult]) -> dict[Arm, dict[str, Scalar]]:
    """Returns the best hyperparameters of each baseline that has a completed trial."""
    return {each.arm: each.hyperparameters for each in baselines if each.hyperparameters}


# -- stored JSON -------------------------------------------------------------------------------------------------------


def _comparison_from_data(data: Mapping[str, Any]) -> PairedComparison:
    """Reads a comparison and estimates from its pairs; keys that an early version lacks get defaults."""
    fields = _to_field_names(data)
    fields = {key: value for key, value in fields.items() if key not in DERIVED}
    values = {name: tuple(data[name]["values"]) for name in ESTIMATES}
    timed = [
        ratio(values[name]) if fields.get("target") is not None else Estimate(values[name], math.nan)
        for name in ("speedup", "speedup_seconds")
    ]
    estimates = (difference(values["final"]), difference(values["best"]), *timed, paper_ratio(values["speedup_whole"]))
    fields.update(zip(ESTIMATES, estimates, strict=True))
    for name in ("final_means", "generalization_gaps"):
        fields[name] = tuple(map(_number, fields[name]))
    for name in ("seeds", "diverged", "collapsed", "needed_range"):
        if name in fields:
            fields[name] = tuple(fields[name])
    (first, second), gone = fields["diverged"], fields.get("collapsed", (0, 0))
    alone = len(values["speedup_whole"]) - len(fields["seeds"])  # pairs of which the first member alone is lost
    other = second + gone[1] - (first + gone[0] - alone)
    fields["mcnemar_p"] = sign_test([0.0] * alone + [2.0] * other)
    return PairedComparison(**fields)


def _to_stored_keys(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {STORED_KEYS.get(name, name): value for name, value in fields.items()}


def _to_field_names(data: Mapping[str, Any]) -> dict[str, Any]:
    names = {key: name for name, key in STORED_KEYS.items()}
    return {names.get(key, key): value for key, value in data.items()}


def _number(value: float | None) -> float:
    return math.nan if value is None else value


# -- sentences ---------------------------------------------------------------------------------------------------------


def pair_verdict(c: PairedComparison, metric: str) -> str:
    """Returns one sentence on a comparison: what it shows, what it excludes, and how many runs are lost."""
    against = f"Trial {c.number} against {ARM_NAMES.get(c.second, c.second)}"
    if c.same_as is not None:
        other = (
            f"the {c.first_name} one: nothing to compare"
            if c.same_as == c.first
            else ARM_NAMES.get(c.same_as, c.same_as)
        )
        return f"{against}: the same network as {other}{'' if c.same_as == c.first else ', compared once'}."
    sentences = [_gain_clause(c, metric)]
    if 2 * c.never > len(c.speedup.values) and c.never > c.never_second and c.target is not None:
        pairs = f"{c.never} of {len(c.speedup.values)} pairs, the other in {c.never_second}"
        sentences.append(f"never reaches {c.target:.4g} in {pairs}")
    elif c.speedup.significant:
        size = f"{'sooner' if c.speedup.value > 1 else 'later'}, by {c.speedup.value:.3g}x in epochs"
        never = f", never in {c.never} of {len(c.speedup.values)} pairs" if c.never else ""
        sentences.append(f"reaches {c.target:.4g} {size} ({_range(c.speedup)}){never}")
    for name, (first, others) in ("diverged", c.diverged), ("collapsed", c.collapsed):
        if first or others:
            sentences.append(f"{name}: {first} {c.first_name}, {others} of the others")
    survives = f": survives {c.survives} (p {c.mcnemar_p:.2g})" if c.survives else ""
    return f"{against}: {'; '.join(sentences)}{survives}."


def _gain_clause(c: PairedComparison, metric: str) -> str:
    p = "" if c.final.p_holm is None else f", p {c.final.p_holm:.2g} after Holm"
    if c.verdict != "not shown":
        return f"{c.verdict} by {abs(c.final.value):.3g} in {metric} (gain {_range(c.final)}{p}, {len(c.seeds)} pairs)"
    if c.final.low is None or c.final.high is None:
        return f"no difference can be shown in {metric}: {c.final.note}"
    if c.final.significant:
        return f"no difference claimed in {metric}: the better ones are those that have not diverged or collapsed"
    clause = f"no difference shown in {metric} (gain {_range(c.final)}{p}, {len(c.seeds)} pairs); {_excluded(c)}"
    if c.pairs_needed:
        about = f"about {c.pairs_needed} pairs ({_counts(c)})"
        clause += f"; {about} would show a gain of {c.needed_for:.2g}, {STATED_GAIN:.0%}"
    return clause


def _excluded(c: PairedComparison) -> str:
    """Returns the gains that a comparison without a difference excludes, and the margin of equivalence."""
    low, high = c.final.low or 0.0, c.final.high or 0.0
    if low > 0 or high < 0:
        return "alone, the interval excludes 0, but one of several comparisons may do so by chance"
    within = "" if c.equivalent_within is None else f", equal within {c.equivalent_within:.2g}"
    return f"a gain above {high:.2g} is excluded{within}"


def _counts(c: PairedComparison) -> str:
    """Returns the range of the pairs needed."""
    low, high = ("a million or more" if each is None else str(each) for each in c.needed_range)
    return f"{low} to {high}"


def _range(estimate: Estimate) -> str:
    return f"{estimate.low:.3g} to {estimate.high:.3g}"


def baseline_origin(baseline: BaselineResult) -> str:
    """Returns one sentence on the search that found a baseline."""
    name = ARM_NAMES.get(baseline.arm, baseline.arm)
    name = f"{name[0].upper()}{name[1:]}"
    if baseline.number is None:
        plural = "s" if baseline.trials != 1 else ""
        return f"{name}: none of the {baseline.trials} trial{plural} of {baseline.study} has completed."
    trials = f"{baseline.trials} trials" if baseline.trials > 1 else "one trial"
    best = f"{name} is the best of {trials} of {baseline.study}, {baseline.completed} completed"
    return f"{best}: {format_params(baseline.hyperparameters)}."
