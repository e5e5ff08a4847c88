"""The result of `sweep confirm`: comparisons of pairs, the sentences on them, and the JSON that is stored.

The JSON is kept with the study (user attribute ``confirmation``), in MLflow (``confirm.json``) and in
``tests/evidence``. Its keys are a contract: `as_data` and `from_data` translate fields that are called otherwise here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..config.search_space import Scalar
from ..study.records import Arm
from ..training.reports import EpochMetrics
from .formats import format_params
from .paired_comparison import ESTIMATES, PairedComparison
from .paired_tests import Estimate
from .summary import Summary

ARM_NAMES = {
    "guided": "the guided network",
    "plain": "its plain control",
    "strongest": "the strongest control",
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

    def as_data(self) -> dict[str, Any]:
        """Returns the stored JSON; numbers that are not finite are None."""
        data = _to_stored_keys(dataclasses.asdict(self))
        for comparison, fields in zip(self.comparisons, data["comparisons"], strict=True):
            fields.update({name: _to_stored_keys(fields[name]) for name in ESTIMATES}, verdict=comparison.verdict)
        data["comparisons"] = [_to_stored_keys(fields) for fields in data["comparisons"]]
        finite: dict[str, Any] = _finite(data)
        return finite

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Confirmation:
        """Reads the stored JSON; the inverse of `as_data`."""
        return cls(
            **{key: data[key] for key in ("study", "metric", "direction", "notes", "rows", "ended")},
            configurations={int(number): values for number, values in data["configurations"].items()},
            baselines=[BaselineResult(**each) for each in data[STORED_KEYS["baselines"]]],
            comparisons=[_comparison_from_data(each) for each in data["comparisons"]],
        )

    def metrics(self) -> EpochMetrics:
        """Returns the estimates as metrics for MLflow; their step is the number of rows they rest on."""
        values = {}
        for c in self.comparisons:
            for name in ("final", "best", "speedup", "speedup_seconds"):
                estimate = getattr(c, name)
                for suffix, number in ("", estimate.value), ("_low", estimate.low), ("_high", estimate.high):
                    if number is not None and math.isfinite(number):
                        values[f"confirm/{c.number:04d} {c.first} over {c.second} {name}{suffix}"] = number
        return EpochMetrics(self.rows, values, self.ended)


def best_hyperparameters(baselines: Sequence[BaselineResult]) -> dict[Arm, dict[str, Scalar]]:
    """Returns the best hyperparameters of each baseline that has a completed trial."""
    return {each.arm: each.hyperparameters for each in baselines if each.hyperparameters}


# -- stored JSON -------------------------------------------------------------------------------------------------------


def _comparison_from_data(data: Mapping[str, Any]) -> PairedComparison:
    """Reads a comparison; a confirmation of an early version lacks ``survival``, which becomes NaN."""
    fields = _to_field_names({"survival": None, **data})
    del fields["verdict"]  # derived from the numbers
    for name in ESTIMATES:
        estimate = _to_field_names(data[name])
        estimate.update(values=tuple(estimate["values"]), value=_number(estimate["value"]))
        fields[name] = Estimate(**estimate)
    for name in ("final_means", "generalization_gaps", "seeds", "diverged"):
        fields[name] = tuple(map(_number, fields[name]))
    fields["mcnemar_p"] = _number(fields["mcnemar_p"])
    return PairedComparison(**fields)


def _to_stored_keys(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {STORED_KEYS.get(name, name): value for name, value in fields.items()}


def _to_field_names(data: Mapping[str, Any]) -> dict[str, Any]:
    names = {key: name for name, key in STORED_KEYS.items()}
    return {names.get(key, key): value for key, value in data.items()}


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _finite(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {str(key): _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


# -- sentences ---------------------------------------------------------------------------------------------------------


def pair_verdict(c: PairedComparison, metric: str) -> str:
    """Returns one sentence on a comparison: what it shows, what it does not, and how many runs diverged."""
    sentences = [_gain_clause(c, metric)]
    if c.speedup.significant and not c.speedup.value:
        sentences.append(f"never reaches the other's final value in {c.never} of {len(c.speedup.values)} pairs")
    elif c.speedup.significant:
        size = f"{'sooner' if c.speedup.value > 1 else 'later'}, by {c.speedup.value:.2g}x in epochs"
        sentences.append(f"reaches the other's final value {size} ({_range(c.speedup)})")
    if any(c.diverged):
        survives = f": survives {c.survives} (p {c.mcnemar_p:.2g})" if c.survives else ""
        sentences.append(f"diverged: {c.diverged[0]} guided, {c.diverged[1]} of the others{survives}")
    return f"Trial {c.number} against {ARM_NAMES.get(c.second, c.second)}: {'; '.join(sentences)}."


def _gain_clause(c: PairedComparison, metric: str) -> str:
    p = "" if c.final.p_holm is None else f", p {c.final.p_holm:.2g} after Holm"
    if c.verdict != "not shown":
        return f"{c.verdict} by {abs(c.final.value):.3g} in {metric} (gain {_range(c.final)}{p}, {len(c.seeds)} pairs)"
    if c.final.low is None:
        return f"no difference can be shown in {metric}: {c.final.note}"
    if c.final.significant:
        return f"no difference claimed in {metric}: the better ones are those that have not diverged"
    needed = f"; about {c.pairs_needed} pairs would show a difference of this size" if c.pairs_needed else ""
    return f"no difference shown in {metric} (gain {_range(c.final)}{p}, {len(c.seeds)} pairs{needed})"


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
