"""Pooled effects and ratios, against published analyses, closed forms and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from .pooling import fieller, random_effects

# BCG vaccine against tuberculosis, thirteen trials (Colditz et al., JAMA 271, 1994): cases and people, treated and not.
BCG = np.array(
    [
        [4, 123, 11, 139],
        [6, 306, 29, 303],
        [3, 231, 11, 220],
        [62, 13598, 248, 12867],
        [33, 5069, 47, 5808],
        [180, 1541, 372, 1451],
        [8, 2545, 10, 629],
        [505, 88391, 499, 88391],
        [29, 7499, 45, 7277],
        [17, 1716, 65, 1665],
        [186, 50634, 141, 27338],
        [5, 2498, 3, 2341],
        [27, 16913, 29, 17854],
    ],
    float,
)


def test_a_published_meta_analysis_is_reproduced() -> None:
    cases, total, cases0, total0 = BCG.T
    effects = np.log(cases / total / (cases0 / total0))
    found = random_effects(effects, 1 / cases - 1 / total + 1 / cases0 - 1 / total0)
    # Berkey et al., Statist. Med. 14 (1995) and the documentation of R's metafor: -0.714, tau2 0.309.
    assert found.value == pytest.approx(-0.7141, abs=5e-4)
    assert found.tau**2 == pytest.approx(0.3088, abs=5e-4)
    assert (found.low, found.high) == pytest.approx((-1.109, -0.320), abs=2e-3)


def test_equal_variances_give_students_interval() -> None:
    effects = [0.3, -0.1, 0.4, 0.15, 0.02]
    found, expected = random_effects(effects, [0.01] * 5), ttest_1samp(effects, 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    # The mixed model: what the means differ by, less what the pairs explain.
    assert found.tau**2 == pytest.approx(np.var(effects, ddof=1) - 0.01)


def test_nothing_but_noise_has_no_tau() -> None:
    assert random_effects([0.1, 0.11, 0.1, 0.12], [1.0, 2.0, 1.0, 3.0]).tau == 0.0


def test_the_pooled_interval_covers_the_mean() -> None:
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(600):
        variances = random.uniform(0.5, 4, 8)
        effects = 1 + random.normal(0, 1.5, 8) + random.normal(0, np.sqrt(variances))
        found = random_effects(effects, variances)
        hits += found.low <= 1 <= found.high
    assert 0.92 <= hits / 600 <= 0.975


def test_the_ratio_of_means_has_the_interval_of_all_ratios_that_are_not_rejected() -> None:
    random = np.random.default_rng(1)
    below = random.normal(2, 0.5, 9)
    above = 1.5 * below + random.normal(0, 0.4, 9)
    value, low, high = fieller(above, below)
    assert value == pytest.approx(above.mean() / below.mean())
    ratios = np.linspace(0.5, 2.5, 20001)
    kept = ratios[ttest_1samp(above - ratios[:, None] * below, 0, axis=1).pvalue >= 0.05]
    assert (low, high) == pytest.approx((kept[0], kept[-1]), abs=2e-4)
    with pytest.raises(ValueError, match="does not differ from 0"):
        fieller([1.0, 2.0, 3.0], [0.1, -0.1, 0.05])
