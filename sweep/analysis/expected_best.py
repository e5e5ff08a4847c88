"""The best of n trials, expected from the design trials of a search: one search is compared with another of any size.

Source: Dodge et al., Show Your Work: Improved Reporting of Experimental Results, EMNLP 2019.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..study.records import TrialRecord

BAND = (0.05, 0.95)


@dataclass(frozen=True)
class BestOfN:
    """The best of 1, 2, ... n trials drawn from ``trials`` design trials: its mean, and the middle 90 %.

    Attributes:
        trials: design trials that have ended.
        lost: of these, the ones without a value; they count as the worst one with a value.
    """

    trials: int
    lost: int
    mean: list[float]
    low: list[float]
    high: list[float]


def best_of_design(rows: Sequence[TrialRecord], *, maximize: bool) -> BestOfN | None:
    """Returns the expected best of the design trials of a search; None if none of them has completed.

    Trials with an error of their own do not count.
    """
    ended = [row for row in rows if row.design and row.state == "finished" and row.outcome != "failed"]
    values = [row.value for row in ended if row.outcome == "completed" and row.value is not None]
    if not values:
        return None
    lost = len(ended) - len(values)
    found = expected_best([*values, *[(min if maximize else max)(values)] * lost], maximize=maximize)
    return BestOfN(len(ended), lost, *found)


def expected_best(values: Sequence[float], *, maximize: bool) -> tuple[list[float], list[float], list[float]]:
    """Returns the mean, the 5 % and the 95 % quantile of the best of 1, 2, ... values drawn with replacement.

    Exact: the best of n draws is no worse than a value with the n-th power of that value's chance.

    Example:
        The smaller of two dice is 91/36 on average:

        >>> [round(mean, 3) for mean in expected_best([1, 2, 3, 4, 5, 6], maximize=False)[0][:2]]
        [3.5, 2.528]
    """
    ordered = np.sort(values)[:: 1 if maximize else -1]  # worst first
    share = np.arange(1, len(ordered) + 1) / len(ordered)
    mean, ends = [], []
    for n in range(1, len(ordered) + 1):
        reached = share**n  # chance that the best is at most as good as each value
        mean.append(float(np.diff(reached, prepend=0.0) @ ordered))
        ends.append(sorted(float(ordered[np.searchsorted(reached, q - 1e-12)]) for q in BAND))
    return mean, [low for low, _ in ends], [high for _, high in ends]


def budgets(most: int) -> list[int]:
    """Returns the numbers of trials that a table shows: powers of two, and the largest."""
    return [*(2**i for i in range(int(math.log2(most)) + 1) if 2**i < most), most] if most else []
