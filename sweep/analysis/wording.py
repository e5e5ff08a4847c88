"""Numbers and results as a person reads them, in a terminal or in the report."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..config.search_space import Scalar
from ..config.study_config import StudyConfig

if TYPE_CHECKING:  # a terminal shows something sooner where a line of text does not wait for what the driver imports
    from .comparison import FinalistComparison, Sample
    from .confirmation import BaselineResult
    from .paired_tests import Estimate, PairedComparison


NAMES = {
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


def verdict(c: PairedComparison, metric: str) -> str:
    """What one comparison says, and what it does not."""
    head = f"Trial {c.number} against {NAMES.get(c.second, c.second)}: "
    sentences = []
    if c.verdict != "not shown":
        size = f"{abs(c.final.value):.3g} in {metric}"
        sentences.append(f"{c.verdict} by {size} (gain {_test(c)})")
    elif c.final.low is None:
        sentences.append(f"no difference can be shown in {metric}: {c.final.note}")
    elif c.final.clear:
        sentences.append(f"no difference claimed in {metric}: the better ones are those that have not diverged")
    else:
        needed = f"; about {c.needed} pairs would show one of this size" if c.needed else ""
        sentences.append(f"no difference shown in {metric} (gain {_test(c)}{needed})")
    if c.speedup.clear and not c.speedup.value:
        sentences.append(f"never gets to its end in {c.never} of {len(c.speedup.values)} pairs")
    elif c.speedup.clear:
        faster = "sooner" if c.speedup.value > 1 else "later"
        sentences.append(f"reaches its end {faster}, by {c.speedup.value:.2g}x in epochs ({_range(c.speedup)})")
    if any(c.diverged):
        survives = f": survives {c.survives} (p {c.survival:.2g})" if c.survives else ""
        sentences.append(f"diverged: {c.diverged[0]} guided, {c.diverged[1]} of the others{survives}")
    return head + "; ".join(sentences) + "."


def origin(found: BaselineResult) -> str:
    """Where a rival comes from."""
    name = NAMES.get(found.arm, found.arm)
    if found.number is None:
        return f"{name[0].upper()}{name[1:]}: none."
    trials = f"{found.trials} trials" if found.trials > 1 else "one trial"
    return (
        f"{name[0].upper()}{name[1:]} is the best of {trials} of {found.study}, {found.completed} completed: "
        f"{format_params(found.hyperparameters)}."
    )


def _test(c: PairedComparison) -> str:
    p = "" if c.final.p_holm is None else f", p {c.final.p_holm:.2g} after Holm"
    return f"{_range(c.final)}{p}, {len(c.seeds)} pairs"


def _range(estimate: Estimate) -> str:
    return f"{estimate.low:.3g} to {estimate.high:.3g}"


def verdicts(config: StudyConfig, comparison: FinalistComparison) -> list[str]:
    """What the comparison says, and what it does not."""
    if not comparison.finalists:
        return []
    first = comparison.finalists[0]
    words = [_verdict(first.gain_over_plain, "its plain control (the same network without guidance)")]
    if comparison.tuned:
        chosen = format_params({k: v for k, v in comparison.tuned.items() if k in ("training.init", "training.lr")})
        trials = "one trial" if comparison.tuned_trials == 1 else f"{comparison.tuned_trials} trials"
        words.append(_verdict(first.gain_over_tuned, f"a control tuned in {trials} ({chosen})"))
    n = config.search.finalists.seeds
    words.append(
        f"{n} seed{'s are' if n > 1 else ' is'} a small sample, on the validation set: an indication, not a test. "
        "For one: sweep confirm."
    )
    return words


def _verdict(gain: Sample, control: str) -> str:
    values = gain.values.values()
    if not values:
        return f"The best configuration could not be compared with {control}."
    wins = sum(v > 0 for v in values)
    clear = not math.isnan(gain.spread) and abs(gain.mean) > _half_width(gain.spread, len(values))
    direction = "better" if gain.mean > 0 else "worse"
    size = f"is {abs(gain.mean):.3g} {direction} than" if clear else "is not clearly different from"
    return f"The best configuration {size} {control}; better on {wins} of {len(values)} seeds."


def _half_width(spread: float, count: int) -> float:
    """Of the 95 % interval of a mean, by Student's t."""
    from scipy.stats import t

    return float(t.ppf(0.975, count - 1)) * spread / math.sqrt(count)


def format_duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def format_mean_sd(sample: Sample, *, signed: bool = False) -> str:
    """Mean ± standard deviation; a dash without values."""
    if not sample.values:
        return "-"
    mean = f"{sample.mean:+.3g}" if signed else f"{sample.mean:.4g}"
    return mean if math.isnan(sample.spread) else f"{mean} ± {sample.spread:.2g}"


def format_value(value: Scalar) -> str:
    """A hyperparameter's value, to three digits."""
    return "-" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def format_params(values: dict[str, Scalar] | Iterable[tuple[str, Scalar]]) -> str:
    """Hyperparameters on one line."""
    return " ".join(f"{name}={format_value(value)}" for name, value in dict(values).items())
