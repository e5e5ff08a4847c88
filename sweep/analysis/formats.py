"""Formats of numbers, hyperparameters, lists and JSON that the terminal, the report and the evidence page share."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..config.search_space import Scalar
    from ..study.finalists import Expected
    from ..study.records import TrialRecord


def format_duration(seconds: float) -> str:
    """Returns seconds in the unit that needs the fewest digits.

    Example:
        >>> format_duration(0.234), format_duration(42.4), format_duration(600), format_duration(9000)
        ('0.23 s', '42 s', '10 min', '2.5 h')
    """
    if seconds < 10:
        return f"{seconds:.2g} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def format_mean_sd(mean: float, sd: float, *, signed: bool = False) -> str:
    """Returns mean ± standard deviation, or a dash for a mean of NaN; a deviation of NaN is left out."""
    if math.isnan(mean):
        return "-"
    text = f"{mean:+.3g}" if signed else f"{mean:.4g}"
    return text if math.isnan(sd) else f"{text} ± {sd:.2g}"


def format_objective(row: "TrialRecord") -> str:
    """Returns the objective of a configuration: its value, or mean ± standard deviation (seeds)."""
    if len(row.values) < 2:
        return f"{row.value:.5g}"
    values = list(row.values.values())
    return f"{format_mean_sd(statistics.fmean(values), statistics.stdev(values))} ({len(values)})"


def format_expected(expected: "Expected | None") -> str:
    """Returns the objective on a fresh seed: a finalist's mean and its seeds, or an approximate value."""
    if expected is None:
        return "-"
    if not expected.seeds:
        if expected.lost or not math.isfinite(expected.value):
            return f"lost on {expected.lost or 'a seed'}"
        return f"about {expected.value:.3g}"
    lost = f", lost on {expected.lost}" if expected.lost else ""
    return f"{expected.value:.4g} ({expected.seeds}{lost})"


def format_value(value: "Scalar") -> str:
    """Returns the value of a hyperparameter, a float with three digits."""
    return "-" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def format_params(values: "Mapping[str, Scalar] | Iterable[tuple[str, Scalar]]") -> str:
    """Returns hyperparameters on one line: ``lambda1=0.00123 training.init=he``."""
    return " ".join(f"{name}={format_value(value)}" for name, value in dict(values).items())


def format_percent(value: float) -> str:
    """Returns 0.62 as ``62 %``."""
    return f"{100 * value:.0f} %"


def finite_json(data: Any) -> Any:
    """Returns data for JSON, which has no numbers that are not finite: None in their place.

    Example:
        >>> finite_json({"values": (1.5, math.inf)})
        {'values': [1.5, None]}
    """
    if isinstance(data, Mapping):
        return {str(key): finite_json(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [finite_json(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def format_list(words: Sequence[str]) -> str:
    """Returns words joined by commas and a last ``and``."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
