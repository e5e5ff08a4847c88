"""Numbers and results as a person reads them, in a terminal or in the report."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from .config import StudyConfig
from .dimensions import Scalar

if TYPE_CHECKING:  # a terminal shows something sooner where a line of text does not wait for what the driver imports
    from .finalists import Comparison, Sample


def verdicts(config: StudyConfig, comparison: Comparison) -> list[str]:
    """What the comparison says, and what it does not."""
    if not comparison.finalists:
        return []
    first = comparison.finalists[0]
    words = [_verdict(first.gain_over_plain, "its plain control (the same network without guidance)")]
    if comparison.tuned:
        chosen = inline({k: v for k, v in comparison.tuned.items() if k in ("training.init", "training.lr")})
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


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def spread(sample: Sample, *, signed: bool = False) -> str:
    """Mean ± standard deviation; a dash without values."""
    if not sample.values:
        return "-"
    mean = f"{sample.mean:+.3g}" if signed else f"{sample.mean:.4g}"
    return mean if math.isnan(sample.spread) else f"{mean} ± {sample.spread:.2g}"


def short(value: Scalar) -> str:
    """A hyperparameter's value, to three digits."""
    return "-" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def inline(values: dict[str, Scalar] | Iterable[tuple[str, Scalar]]) -> str:
    """Hyperparameters on one line."""
    return " ".join(f"{name}={short(value)}" for name, value in dict(values).items())
