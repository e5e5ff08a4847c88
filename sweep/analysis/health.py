"""The health of a study: what its results say against the way it was searched, each in one sentence with what to do.

Silent where there is nothing to say, or too few trials to know.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..config.search_methods import get_sampler
from ..study.noise import is_finite, pooled_variance, values_by_configuration
from .expected_best import best_of_design
from .formats import format_percent
from .pruning_health import pruning
from .sensitivity_text import SMALL
from .space_health import edges, ended_rows, lost_regions

if TYPE_CHECKING:
    from ..study.records import TrialRecord
    from .confirmation import Confirmation
    from .summary import Summary

SHOWN = 5  # best configurations in the tables of `sweep run` and `sweep best`
LEVEL = 0.05  # of the tests
MIN_SAME = 3  # configurations on several seeds, from which equal values are told
MIN_GROUPS = 10  # configurations on several seeds, from which an effect can be told from noise
MIN_TRIALS = 16  # of the design, and after it, from which they are compared


class Finding(NamedTuple):
    """A sentence on a study; ``check`` is its key in ``CHECKS``."""

    check: str
    sentence: str


def health(
    summary: Summary, confirmed: Confirmation | None = None, *, checks: Sequence[str] | None = None
) -> list[Finding]:
    """Returns what is to be said of a study, by all checks or those named.

    ``summary.analysis``, the sensitivity, and what `sweep confirm` has found are used if there are any.
    """
    chosen = CHECKS if checks is None else checks
    return [Finding(name, sentence) for name in chosen for sentence in CHECKS[name](summary, confirmed)]


def _effect(summary: Summary, _: object) -> Iterator[str]:
    """Says that no hyperparameter has an effect beyond noise.

    By the sensitivity if it is trusted, else by the F test of a one-way analysis of variance (Fisher 1925) between the
    configurations that were trained on several seeds.
    """
    from scipy.special import fdtrc

    groups = values_by_configuration(summary.rows)
    metric, analysis = summary.config.objective.metric, summary.analysis
    advice = "widen the ranges, train for more epochs, or choose a metric that they change"
    if len(groups) >= MIN_TRIALS and len({value for group in groups for value in group}) == 1:
        count = sum(map(len, groups))
        yield f"All {count} completed trials have the same {metric}: is what was searched used by the training?"
        return
    if analysis is not None and analysis.trusted:
        if all(index.total < SMALL for index in analysis.parameters.values()):
            yield f"No hyperparameter explains more than {format_percent(SMALL)} of the variance of {metric}: {advice}."
        return
    groups = [group for group in groups if len(group) > 1]
    within, freedom = pooled_variance(groups)
    if len(groups) < MIN_GROUPS or not within:
        return
    mean = statistics.fmean(value for group in groups for value in group)
    between = sum(len(group) * (statistics.fmean(group) - mean) ** 2 for group in groups) / (len(groups) - 1)
    if (p := float(fdtrc(len(groups) - 1, freedom, between / within))) > LEVEL:
        yield (
            f"No hyperparameter is shown to have an effect beyond noise: {len(groups)} configurations differ in "
            f"{metric} no more than one of them between seeds (F test, p = {p:.2f}): {advice}."
        )


def _search(summary: Summary, _: object) -> Iterator[str]:
    """Says that the trials after the design are no better than the design.

    A pruned trial is compared with the design at its last epoch. The test is that of Mann and Whitney (1947), one-sided
    and by its normal approximation; it takes trials as independent.
    """
    config, search = summary.config, summary.config.search
    ended = ended_rows(summary.rows)
    design, later = [row for row in ended if row.design], [row for row in ended if not row.design]
    later = [row for row in later if row.outcome != "pruned" or row.reported]
    m, n = len(later), len(design)
    if min(m, n) < MIN_TRIALS or not get_sampler(search.sampler).learns:
        return
    sign = -1 if config.objective.direction == "maximize" else 1
    share = statistics.fmean(_share_beaten(row, design, sign) for row in later)
    p = math.erfc((share - 0.5) / math.sqrt((m + n + 1) / (6 * m * n))) / 2
    if p > LEVEL:
        other, beaten = "gp" if search.sampler == "tpe" else "tpe", format_percent(share)
        yield (
            f"The search is not shown to be better than its own random design: a trial after it beats {beaten} of the "
            f"{n} design trials on average (Mann-Whitney test, p = {p:.2f}, {m} trials): try another sampler, "
            f"sweep run {config.name} --set search.sampler={other} --trials {2 * len(summary.rows)}, or more design "
            f"trials, which tell what matters: sweep run {config.name} --design 32"
        )


def _share_beaten(row: TrialRecord, design: Sequence[TrialRecord], sign: int) -> float:
    epoch = max(row.reported) if row.outcome == "pruned" else None
    own, others = _loss(row, epoch, sign), [_loss(other, epoch, sign) for other in design]
    return statistics.fmean((other > own) + (other == own) / 2 for other in others)


def _loss(row: TrialRecord, epoch: int | None, sign: int) -> float:
    """Returns the objective at an epoch or at the end, less is better; infinite for a trial that was lost before."""
    value = row.reported.get(epoch) if epoch else row.value if row.outcome == "completed" else None
    return sign * value if is_finite(value) else math.inf


def _noise(summary: Summary, _: object) -> Iterator[str]:
    """Says that the best configurations differ less than one of them between seeds, by a bound with confidence 0.9.

    Or that they do not differ between seeds at all.
    """
    from scipy.special import chdtri

    several = [group for group in values_by_configuration(summary.rows) if len(group) > 1]
    # Values that are all alike, such as accuracies of 1, say nothing of the seeds.
    alike = len({value for group in several for value in group}) < MIN_SAME
    if not alike and all(len(set(group)) == 1 for group in several):
        yield (
            f"{len(several)} configurations have the same {summary.config.objective.metric} on each of their seeds: "
            "their training does not use its seed (trial.seed of a function, {seed} of a command), so that several "
            "seeds tell nothing"
        )
    values = [row.value for row in summary.best[:SHOWN] if row.value is not None]
    variance, freedom, config = *_finalists_variance(summary), summary.config
    if len(values) < 2 or not freedom:
        return
    sd, apart = math.sqrt(variance), max(values) - min(values)
    if sd * math.sqrt(freedom / float(chdtri(freedom, 0.1))) > apart:
        yield (
            f"Noise is larger than the differences in the table: {config.objective.metric} of one configuration varies "
            f"by {sd:.3g} between seeds (standard deviation), the {len(values)} best differ by {apart:.3g}: compare "
            f"them on more seeds: sweep confirm {config.name} --top {config.search.finalists.top} --seeds 8"
        )


def _budget(summary: Summary, confirmed: Confirmation | None) -> Iterator[str]:
    """Says how much more trials would gain, if that is more than the noise between seeds."""
    config, maximize = summary.config, summary.config.objective.direction == "maximize"
    own = best_of_design(summary.rows, maximize=maximize)
    if own is None or own.trials < MIN_TRIALS or not all(map(math.isfinite, own.mean)):
        return
    n, half = own.trials, own.trials // 2
    gain = abs(own.mean[half - 1] - own.mean[n - 1])
    if gain <= math.sqrt(_finalists_variance(summary)[0]):
        return
    arms = {"": own, **{f"; {arm}: ": best for arm, best in (confirmed.expected_best if confirmed else {}).items()}}
    best = "".join(
        f"{arm}{each.mean[k - 1]:.4g} [{each.low[k - 1]:.4g}, {each.high[k - 1]:.4g}]"
        for arm, each in arms.items()
        if (k := min(n, each.trials))
    )
    yield (
        f"More trials would help: the best of {n} uniform trials is expected at {config.objective.metric} {best} "
        f"(middle 90 %), {gain:.3g} better than the best of {half}; as many trials again gain up to as much: "
        f"sweep run {config.name} --trials {2 * len(summary.rows)}"
    )


def _finalists_variance(summary: Summary) -> tuple[float, int]:
    return pooled_variance([list(each.guided.values.values()) for each in summary.comparison.finalists])


CHECKS: dict[str, Callable[[Summary, Confirmation | None], Iterator[str]]] = {
    "edge": edges,
    "effect": _effect,
    "pruning": pruning,
    "search": _search,
    "noise": _noise,
    "lost": lost_regions,
    "budget": _budget,
}
