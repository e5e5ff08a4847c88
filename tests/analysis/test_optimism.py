"""The optimism of a search against order statistics, and what is said of it."""

from __future__ import annotations

import re

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from sweep.analysis.optimism import expected_optimism, optimism
from sweep.analysis.summary import Summary
from sweep.study.finalists import wanted_rows

from ..conftest import MakeConfig
from ..support.records import SPACE, row


@pytest.mark.parametrize("n", [2, 10, 50])
def test_of_equal_configurations_it_is_the_expected_least_of_n_normal_values(n: int) -> None:
    by_hand, _ = quad(lambda x: x * n * norm.pdf(x) * norm.cdf(x) ** (n - 1), -10, 10)
    assert expected_optimism([3.0] * n, 0.5, maximize=False) == pytest.approx(0.5 * by_hand, abs=0.03)
    assert expected_optimism([3.0] * n, 0.5, maximize=True) == pytest.approx(0.5 * by_hand, abs=0.03)


def test_a_best_that_is_far_ahead_owes_nothing_to_chance() -> None:
    assert abs(expected_optimism([0.0, 100.0, 120.0], 1.0, maximize=False)) < 0.06
    assert expected_optimism([1.0, 2.0, 3.0], 0.0, maximize=False) == 0.0
    # The mean of four seeds is half as noisy; the other values are far.
    assert abs(expected_optimism([0.0, 0.0, 50.0], [0.0, 1.0, 9.0], maximize=False) - 0.399) < 0.03


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_it_is_said_beside_the_difference_that_fresh_seeds_show(study_config: MakeConfig, direction: str) -> None:
    sign = 1 if direction == "minimize" else -1
    finalists = {"top": 3, "seeds": 3, "tuned": 0}
    config = study_config(space=SPACE, objective={"direction": direction}, search={"finalists": finalists})
    rng = np.random.default_rng(0)
    rows = [
        row(i, sign * (1.0 + 0.1 * i), {"lambda1": 10**-i, "epsilon": 0.1, "depth": 2, "guidance.form": "log"})
        for i in range(1, 6)
    ]
    planned = [each for each in wanted_rows(config, rows) if each.kind == "finalist"]
    controls = [
        row(i, sign * (1.5 + rng.normal(0.0, 0.1)), p.hyperparameters, kind="finalist", of=p.of, seed=p.seed)
        for i, p in enumerate(planned)
    ]
    said = optimism(Summary.of(config, rows, controls))
    assert said is not None
    shown = re.fullmatch(
        r"The best value in the search, (\S+) of trial 1, is (\S+) worse on fresh seeds; by chance (\S+) is expected, "
        r"for the best of 5 values with a noise of (\S+) between seeds\.",
        said,
    )
    assert shown is not None, said
    value, worse, chance, noise = map(float, shown.groups())
    groups = [[c.value for c in controls if c.of == of] for of in (1, 2, 3)]
    assert value == sign * 1.1
    assert worse == pytest.approx(sign * (np.mean(groups[0]) - value), rel=0.1)  # type: ignore[arg-type]
    assert noise == pytest.approx(np.sqrt(np.mean([np.var(each, ddof=1) for each in groups])), rel=0.1)
    assert 0 < chance < 1.2 * noise
    assert Summary.of(config, rows, controls).verdicts[-1] == said


def test_it_is_not_said_where_noise_is_unknown_or_the_best_has_no_fresh_seeds(study_config: MakeConfig) -> None:
    config = study_config(space=SPACE, search={"finalists": {"top": 1, "seeds": 3, "tuned": 0}})
    rows = [row(i, 1.0 + i, {"lambda1": 10**-i, "epsilon": 0.1, "depth": 2, "guidance.form": "log"}) for i in (1, 2)]
    planned = [each for each in wanted_rows(config, rows) if each.kind == "finalist"]
    controls = [
        row(i, 2.0 + i, p.hyperparameters, kind="finalist", of=p.of, seed=p.seed) for i, p in enumerate(planned)
    ]
    assert optimism(Summary.of(config, rows, controls)) is None  # two degrees of freedom
    assert optimism(Summary.of(config, rows, [])) is None
