"""The promises of an analysis against functions built to break them: R2, words, intervals, refusals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sweep.analysis.conditions import parse_conditions
from sweep.analysis.gaussian_process import GaussianProcess
from sweep.analysis.goodness_of_fit import goodness_of_fit
from sweep.analysis.partial_dependence import partial_dependence
from sweep.analysis.selection import encode_trials, varied_inputs
from sweep.analysis.sensitivity import Analysis, analyse, analyse_outcome
from sweep.analysis.sensitivity_text import as_data, interpretation, reliability, remarks, unexplained
from sweep.analysis.surrogates import PolynomialChaos, Trials, nested

from ..support.unit_functions import FUNCTIONS, TRIPLE, UnitFunction, drawn, unit_table


def trials_of(function: UnitFunction, n: int, seed: int) -> Trials:
    table = unit_table(*drawn(function, n, seed))
    return encode_trials(varied_inputs(table, table.trials, {})[0], table.trials)[0]


# -- R2 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("surrogate", [GaussianProcess, PolynomialChaos])
def test_r2_is_that_of_trials_which_neither_kernel_nor_penalty_has_seen(surrogate: type) -> None:
    """Ten inputs and 64 trials: a kernel that was fitted to a trial once said 0.4 more than fresh points do."""
    function, excess = FUNCTIONS["g, d 10"], []
    for seed in range(5):
        trials = trials_of(function, 64, seed)
        fitted = surrogate(trials, 0)
        x, y = drawn(function, 4000, 1000 + seed)
        fresh = 1 - ((y - fitted.mean(trials.inputs.encode(dict(columns(x))))) ** 2).mean() / y.var()
        excess.append(goodness_of_fit(trials, fitted.held_out).r2 - fresh)
    assert abs(np.mean(excess)) < 0.15


class Halves(Trials):
    """Trials that are held out in two fixed parts: the last eight, and the eight before them."""

    def folds(self, _: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
        parts = [self.points >= 56, (self.points >= 48) & (self.points < 56)]
        return [(np.flatnonzero(~part), np.flatnonzero(part)) for part in parts]


def in_halves() -> Halves:
    known = trials_of(FUNCTIONS["slow start"], 64, 0)
    return Halves(known.inputs, known.x, known.y, known.tested, points=np.arange(64))


def test_a_kernel_knows_nothing_of_the_trials_that_it_predicts() -> None:
    """With their values in another order, which leaves mean and spread as they are, the predictions are the same."""
    trials = in_halves()
    changed = replace(trials, y=np.r_[trials.y[:56], trials.y[:55:-1]])
    before, after = (GaussianProcess(each, 0).held_out[56:] for each in (trials, changed))
    assert after == pytest.approx(before, abs=1e-3 * trials.y.std())


def test_a_penalty_is_chosen_without_the_trials_that_it_predicts() -> None:
    """The first penalty is right about the last eight trials alone, the second about the eight before them alone."""
    trials = in_halves()

    def predicted(train: np.ndarray, test: np.ndarray) -> np.ndarray:
        right, wrong = trials.y[test], trials.y[test] + 1.0
        return np.array([right, wrong] if test[-1] == 63 else [wrong, right])

    held_out, _ = nested(trials, np.random.default_rng(0), predicted)
    assert held_out[48:] == pytest.approx(trials.y[48:] + 1.0)


def columns(x: np.ndarray) -> list[tuple[str, list[float]]]:
    return [(f"x{i}", column.tolist()) for i, column in enumerate(x.T)]


@pytest.mark.parametrize("seed", range(3))
def test_noise_over_twelve_hyperparameters_predicts_nothing(seed: int) -> None:
    analysis = analyse(unit_table(*drawn(FUNCTIONS["noise, d 12"], 64, seed)))
    assert not analysis.trusted
    assert analysis.r2 is not None
    assert analysis.r2 < 0.2


def test_the_lower_bound_is_one_sided_and_decides() -> None:
    """Of predictions that are off by normal errors of variance 1/4, R2 is 3/4; 90 % of the bounds or more lie below."""
    table = unit_table(*drawn(TRIPLE, 64, 0))
    inputs = varied_inputs(table, table.trials, {})[0]
    every, bounds = np.ones(64, bool), []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        y = rng.standard_normal(64)
        fit = goodness_of_fit(Trials(inputs, np.zeros((64, 5)), y, every, np.arange(64)), y + rng.normal(0, 0.5, 64))
        assert fit.low < fit.r2
        bounds.append(fit.low)
    assert 0.9 <= np.mean(np.array(bounds) <= 0.75) <= 0.98


# -- words and intervals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_an_interaction_of_three_invents_no_pair(seed: int) -> None:
    """On Sobol' points it equals a product of two other hyperparameters; on independent ones it does not."""
    analysis = analyse(unit_table(*drawn(TRIPLE, 128, seed)))
    assert analysis.warning is None
    assert analysis.strength != "quantitative"
    assert all(pair.value < 0.05 for pair in analysis.pairs.values())


def test_uniform_trials_that_are_not_marked_as_independent_are_analysed_with_a_warning() -> None:
    x, y = drawn(FUNCTIONS["slow start"], 64, 0)
    old = analyse(unit_table(x, y, independent=False))
    assert old.trusted
    assert old.warning is not None
    assert any(line.startswith("Caution: the uniform trials are not marked") for line in remarks(old))
    assert remarks(analyse(unit_table(x, y))) == []
    # Of an old design that was extended, R2 is taken on the new points alone, once there are enough.
    extended = analyse(unit_table(x, y, independent=np.arange(64) >= 32))  # type: ignore[arg-type]
    assert extended.warning is None
    assert (extended.n_full, extended.r2) != (old.n_full, old.r2)


def test_shares_are_of_the_metric_and_intervals_hold_what_the_surrogate_cannot_see() -> None:
    """A wave of 9 periods over x1 has 6 % of the variance, and no surrogate of 128 trials sees it."""
    hidden = UnitFunction("wave", 4, lambda x: 3**0.5 * 0.97 * (2 * x[:, 0] - 1) + 0.344 * np.sin(18 * np.pi * x[:, 1]))
    analysis = analyse(unit_table(*drawn(hidden, 128, 1)))
    (first, second, *_), found = hidden.truth[0], analysis.parameters
    assert analysis.trusted
    assert found["x0"].first == pytest.approx(first, abs=0.03)
    low, high = found["x1"].total_ci
    assert low <= second <= high
    assert analysis.r2 is not None
    assert unexplained(analysis) == {"not explained: noise, or what the surrogate cannot see": 1 - analysis.r2}
    assert as_data(analysis)["unexplained"] == pytest.approx(second, abs=0.03)


def test_hardly_matters_needs_an_interval_that_leaves_no_room() -> None:
    """With an R2 of 0.9 any hyperparameter may have a tenth of the variance, and a little more by chance."""
    noisy = UnitFunction("noisy", 4, lambda x: 2 * x[:, 0] + x[:, 1], 0.34)
    analysis = analyse(unit_table(*drawn(noisy, 250, 0)))
    assert analysis.strength == "indicative"
    wide = replace(analysis.parameters["x3"], total_ci=(0.0, 0.16))
    assert "x2 and x3 hardly matter" in interpretation(analysis)
    assert max(analysis.parameters[name].total_ci[1] for name in ("x2", "x3")) <= 0.15
    assert "x2 hardly matters" in interpretation(replace(analysis, parameters={**analysis.parameters, "x3": wide}))


# -- a scale, and few trials that decide -------------------------------------------------------------------------------


def test_the_logarithm_is_analysed_where_it_is_predicted_clearly_better() -> None:
    """log y = 8 a + 4 b: 64 / 80 and 16 / 80 of the variance of log y."""
    x, _ = drawn(TRIPLE, 64, 0)
    analysis = analyse(unit_table(x, np.exp(8 * x[:, 0] + 4 * x[:, 1])))
    assert (analysis.scale, analysis.strength) == ("log", "quantitative")
    assert analysis.parameters["x0"].first == pytest.approx(0.8, abs=0.03)
    assert analysis.parameters["x1"].total == pytest.approx(0.2, abs=0.03)
    assert remarks(analysis)[0].startswith("Of val_loss the logarithm is analysed")
    assert "of the variance of log val_loss" in interpretation(analysis)
    assert analysis.fitted is not None
    effect = partial_dependence(analysis.fitted, "x0")  # the geometric mean over x1, of which the mean is 1/2
    assert np.log(effect.mean) == pytest.approx(8 * np.array(effect.values, float) + 2, abs=0.4)
    assert analyse(unit_table(x, x[:, 0] + 4)).scale is None


def with_outliers() -> Analysis:
    x, y = drawn(UnitFunction("line", 4, lambda x: 2 * x[:, 0] + x[:, 1]), 100, 0)
    y[[10, 33]] += 12
    return analyse(unit_table(x, y - 20))


def test_few_trials_that_carry_the_variance_are_named_with_what_the_others_say() -> None:
    analysis = with_outliers()
    assert not analysis.trusted
    assert analysis.influence is not None
    assert analysis.influence.count == 2
    assert analysis.influence.share > 0.5
    without = analysis.influence.without
    assert (without.strength, without.n_full) == ("quantitative", 98)
    assert without.parameters["x0"].first == pytest.approx(0.8, abs=0.03)
    [line] = remarks(analysis)
    assert line.startswith("Influence: 2 of 100 uniform trials carry ")
    assert "Without them, R2 1.00, quantitative: x0 explains 80 %" in line
    assert as_data(analysis)["influence"]["without"]["trusted"] is True


def test_one_trial_that_carries_the_variance_leaves_too_few_others() -> None:
    x, y = drawn(UnitFunction("line", 4, lambda x: 2 * x[:, 0] + x[:, 1]), 32, 0)
    y[10] += 12
    [line] = remarks(analyse(unit_table(x, y - 20)))
    assert line.startswith("Influence: 1 of 32 uniform trials carries ")
    assert "Without it, there are no indices: 31 of 31 full-budget trials are uniform over the space, 32 are" in line


def test_a_word_is_weaker_where_few_trials_carry_much() -> None:
    """Of 200 trials, the 4 with the largest x have two fifths of the variance of exp(12 x), which is predicted well."""
    x = np.random.default_rng(0).random((200, 2))
    analysis = analyse(unit_table(x, np.exp(12 * x[:, 0]) - 1e6))  # negative, so that there is no logarithm
    assert analysis.influence is not None
    assert analysis.r2_low is not None
    assert analysis.r2_low > 0.9
    assert (analysis.trusted, analysis.strength) == (True, "indicative")
    assert analysis.reason == "few trials carry much of the variance"


# -- outcomes apart ----------------------------------------------------------------------------------------------------


def test_survivors_of_many_divergences_have_no_indices_but_a_part_of_the_space_has() -> None:
    x, y = drawn(FUNCTIONS["slow start"], 128, 0)
    y[x[:, 0] > 0.65] = np.nan
    table = unit_table(x, y)
    analysis = analyse(table)
    assert not analysis.trusted
    assert analysis.parameters == {}
    assert "uniform trials diverged (3" in (analysis.reason or "")
    assert "--where" in (analysis.reason or "")
    within = analyse(table, where=parse_conditions("x0 < 0.65", table.space))
    assert within.trusted
    y[:] = np.where(np.arange(128) < 12, np.nan, drawn(FUNCTIONS["slow start"], 128, 0)[1])  # 9 %
    assert analyse(unit_table(x, y)).trusted


def test_any_outcome_has_an_analysis_of_its_probability() -> None:
    x, y = drawn(FUNCTIONS["slow start"], 128, 0)
    table = unit_table(x, y)
    collapsed = x[:, 2] > 0.7
    table.trials["outcome"] = np.where(collapsed, "collapsed", "completed")
    analysis = analyse_outcome(table, "collapsed")
    assert analyse_outcome(table, "diverged") is None
    assert analysis is not None
    assert analysis.trusted
    assert analysis.objective == "the probability of collapsing"
    assert max(analysis.parameters, key=lambda name: analysis.parameters[name].total) == "x2"
    assert reliability(analysis).startswith(f"Reliability: {collapsed.sum()} of 128 uniform trials collapsed (")
    survivors = analyse(table)
    assert survivors.n_collapsed == collapsed.sum()
    assert "collapsed" in (survivors.reason or "")
    assert as_data(replace(survivors, collapse=analysis))["collapse"]["objective"] == "the probability of collapsing"


# -- noise that is measured --------------------------------------------------------------------------------------------


def test_repeats_tell_noise_from_what_the_surrogate_cannot_see() -> None:
    """Noise of half the standard deviation: 0.2 of the variance, which repeats measure, so 0.8 can be explained."""
    noisy = UnitFunction("noisy", 4, lambda x: 2 * x[:, 0] + x[:, 1] + x[:, 2], 0.5)
    x, y = drawn(noisy, 96, 0)
    again = noisy.values(x[:32], np.random.default_rng(7))
    repeated = unit_table(np.r_[x, x[:32]], np.r_[y, again], repeat=np.arange(128) >= 96)
    alone, both = analyse(unit_table(x, y)), analyse(repeated)
    assert not alone.trusted
    assert alone.explainable is None
    assert both.trusted
    assert both.explainable == pytest.approx(0.8, abs=0.08)
    assert (both.n_full, both.n_uniform) == (128, 96)
    assert f", of {both.explainable:.2f} that can be explained" in reliability(both)
    assert list(unexplained(both)) == ["noise: one point on several seeds", "what the surrogate cannot see"]
    within = (np.array([y[:32], again]).var(axis=0, ddof=1)).mean()
    assert 1 - both.explainable == pytest.approx(within / y.var())
