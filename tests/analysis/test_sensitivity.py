"""Sensitivity against known truth: analytic indices, SALib, and studies whose sensitivity is computed by quadrature."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from SALib.analyze import sobol as salib_sobol
from SALib.sample import sobol as salib_sample

from sweep.analysis import sensitivity
from sweep.analysis.conditions import parse_conditions
from sweep.analysis.partial_dependence import partial_dependence, partial_dependence_2d
from sweep.analysis.sensitivity import Analysis, Index, Interaction, analyse, analyse_outcome
from sweep.analysis.sensitivity_text import as_data, interpretation, reliability
from sweep.analysis.sobol import sobol_indices
from sweep.analysis.surrogates import Input, Inputs, uniform_points
from sweep.config.errors import SweepError
from sweep.config.settings import Settings
from sweep.service import sensitivity as analyse_study
from sweep.study.dataframe import Table

from ..support.commands import Ended, sweep_here
from ..support.heldout_cases import HELD_OUT
from ..support.sensitivity_cases import CASES, Case
from ..support.sensitivity_studies import distributions, errors, searched, shuffled, store, uniform

Sweep = Callable[..., Ended]

CUBE = {name: FloatDistribution(0.0, 1.0) for name in ("a", "b", "c")}
LARGE = {"a": "small", "b": "large"}


def table(
    space: Mapping[str, BaseDistribution],
    f: Callable[[dict[str, np.ndarray]], Any],
    *,
    count: int = 64,
    outcome: Callable[[dict[str, np.ndarray]], Any] = lambda _: "completed",
    noise: float = 0.0,
    seed: int = 0,
) -> Table:
    """A table of uniform trials of a function."""
    inputs = [Input(name, distribution) for name, distribution in space.items()]
    unit = uniform_points(2 ** (count - 1).bit_length(), max(1, len(space)), seed)[:count]
    columns = {each.name: [each.values[int(u * len(each.values))] for u in unit[:, i]] for i, each in enumerate(inputs)}
    params = {name: np.array(values) for name, values in columns.items()}
    outcomes = np.broadcast_to(np.asarray(outcome(params)), count)
    value = f(params) + noise * np.random.default_rng(seed).standard_normal(count)
    trials = pd.DataFrame(
        {
            "outcome": outcomes,
            "design": True,
            "epochs": 9,
            "value": np.where(outcomes == "completed", value, np.nan),
            **{f"params_{name}": pd.Series(values, dtype=object) for name, values in columns.items()},
        }
    )
    return Table("study", "val_loss", 9, trials, space, {}, "sweep run study --design 64")


def curved(p: dict[str, np.ndarray]) -> np.ndarray:
    """On a cube: a matters most, b only together with a, c not at all. Indices: see `test_a_table_of_numbers...`."""
    return 2 * p["a"] + (p["a"] - 0.5) * (p["b"] - 0.5) * 6


# -- the estimators ----------------------------------------------------------------------------------------------------


def cube(case: Case) -> Inputs:
    return Inputs([Input(name, distribution) for name, distribution in distributions(case).items()])


def by_rows(case: Case, inputs: Inputs) -> Callable[[np.ndarray], np.ndarray]:
    """The noise-free function of a case with numeric inputs at encoded rows."""
    ranges = {name: (spec["low"], spec["high"]) for name, spec in case.space.items()}

    def f(x: np.ndarray) -> np.ndarray:
        p = {name: low + x[:, i] * (high - low) for i, (name, (low, high)) in enumerate(ranges.items())}
        return np.asarray(case.final(p))[None]

    return f


@pytest.mark.parametrize("case", [CASES["ishigami"], HELD_OUT["g_function"]], ids=lambda case: case.name)
def test_pick_freeze_finds_analytic_indices(case: Case) -> None:
    """Ishigami's are closed forms; the g function's are V_i = 1/3 / (1 + a_i)^2, checked against the quadrature."""
    inputs, names = cube(case), list(case.space)
    found = sobol_indices(by_rows(case, inputs), inputs, points=8192)[0]
    d = len(names)
    assert found[:d] == pytest.approx([case.first_order[n] for n in names], abs=0.005)
    assert found[d : 2 * d] == pytest.approx([case.total[n] for n in names], abs=0.005)
    assert found[2 * d :] == pytest.approx([case.second_order[p] for p in itertools.combinations(names, 2)], abs=0.01)


def test_the_truth_of_the_g_function_is_its_closed_form() -> None:
    """Guards the quadrature that the other cases' truth comes from."""
    parts = [1 / 3 / (1 + a) ** 2 for a in (0, 1, 4.5, 9)]
    variance = np.prod([1 + part for part in parts]) - 1
    case = HELD_OUT["g_function"]
    assert list(case.first_order.values()) == pytest.approx([part / variance for part in parts], abs=2e-3)


@pytest.mark.parametrize("name", ["ishigami", "g_function"])
def test_the_estimators_agree_with_salib(name: str) -> None:
    case = {**CASES, **HELD_OUT}[name]
    inputs, names = cube(case), list(case.space)
    problem = {"num_vars": len(names), "names": names, "bounds": [[s["low"], s["high"]] for s in case.space.values()]}
    points = salib_sample.sample(problem, 4096, calc_second_order=True, seed=1)
    values = np.asarray(case.final({n: points[:, i] for i, n in enumerate(names)}))
    theirs = salib_sobol.analyze(problem, values, calc_second_order=True, seed=1)
    ours, d = sobol_indices(by_rows(case, inputs), inputs)[0], len(names)
    assert ours[:d] == pytest.approx(theirs["S1"], abs=0.02)
    assert ours[d : 2 * d] == pytest.approx(theirs["ST"], abs=0.02)
    assert ours[2 * d :] == pytest.approx(theirs["S2"][np.triu_indices(d, 1)], abs=0.02)


def test_a_whole_analysis_agrees_with_salib() -> None:
    """A smooth function without noise, 128 trials; SALib evaluates the function itself."""

    def f(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        return np.exp(x) + 2 * (y - 0.3) ** 2 + 1.5 * x * z

    problem = {"num_vars": 3, "names": ["a", "b", "c"], "bounds": [[0.0, 1.0]] * 3}
    points = salib_sample.sample(problem, 4096, calc_second_order=True, seed=1)
    theirs = salib_sobol.analyze(problem, f(*points.T), calc_second_order=True, seed=1)
    ours = analyse(table(CUBE, lambda p: f(p["a"], p["b"], p["c"]), count=128))
    assert [i.first for i in ours.parameters.values()] == pytest.approx(theirs["S1"], abs=0.02)
    assert [i.total for i in ours.parameters.values()] == pytest.approx(theirs["ST"], abs=0.02)
    assert ours.pairs["a", "c"].value == pytest.approx(theirs["S2"][0, 2], abs=0.02)


def test_a_table_of_numbers_gives_the_closed_form_and_repeats_itself() -> None:
    """f = 2a + 6 (a - 1/2)(b - 1/2): V_a = 4/12, V_ab = 36/144, so 4/7 and 3/7 of the variance."""
    first, second = (analyse(table(CUBE, curved, noise=0.05)) for _ in range(2))
    assert first == second
    assert first.trusted
    assert first.strength == "quantitative"
    assert first.parameters["a"].first == pytest.approx(4 / 7, abs=0.03)
    assert first.parameters["a"].total == pytest.approx(1, abs=0.02)
    assert first.parameters["b"].first == pytest.approx(0, abs=0.02)
    assert first.parameters["b"].total == pytest.approx(3 / 7, abs=0.03)
    assert first.pairs["a", "b"].value == pytest.approx(3 / 7, abs=0.03)
    assert first.parameters["c"].total_ci[1] < 0.1
    for index in first.parameters.values():
        assert 0 <= index.first_ci[0] <= index.first <= index.first_ci[1] <= 1
        assert 0 <= index.total_ci[0] <= index.total <= index.total_ci[1] <= 1
    assert (
        interpretation(first)
        == "a explains 57 % of the variance of val_loss; b matters only together with a; c hardly matters."
    )


# -- inputs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("distribution", "masses"),
    [
        (IntDistribution(2, 6), dict.fromkeys(range(2, 7), 1 / 5)),
        (IntDistribution(2, 8, step=2), dict.fromkeys((2, 4, 6, 8), 1 / 4)),
        (IntDistribution(1, 3, log=True), {n: np.log((n + 0.5) / (n - 0.5)) / np.log(7) for n in (1, 2, 3)}),
        (FloatDistribution(0.0, 1.0, step=0.5), {0.0: 1 / 3, 0.5: 1 / 3, 1.0: 1 / 3}),
        (CategoricalDistribution(["he", "default", None]), dict.fromkeys(("he", "default", None), 1 / 3)),
        (CategoricalDistribution([256, 64, 128]), dict.fromkeys((64, 128, 256), 1 / 3)),
        (CategoricalDistribution([False, True]), {False: 1 / 2, True: 1 / 2}),
    ],
)
def test_levels_are_as_likely_as_optuna_draws_them(distribution: BaseDistribution, masses: dict[Any, float]) -> None:
    values = Input("x", distribution).values
    assert {level: values.count(level) / len(values) for level in masses} == pytest.approx(masses, abs=1e-3)


def test_numbers_are_scaled_to_their_range_in_log_where_it_says_so() -> None:
    def encoded(distribution: BaseDistribution, *values: Any) -> list[float]:
        return Input("x", distribution).encode(values)[:, 0].tolist()

    assert encoded(FloatDistribution(1.0, 3.0), 1.0, 2.0, 3.0) == pytest.approx([0, 0.5, 1], abs=1e-3)
    assert encoded(FloatDistribution(1e-4, 1.0, log=True), 1e-4, 1e-2, 1.0) == pytest.approx([0, 0.5, 1], abs=1e-3)
    assert encoded(IntDistribution(2, 6), 2, 3, 6) == [0, 0.25, 1]
    assert encoded(IntDistribution(16, 256, log=True), 16, 64, 256) == pytest.approx([0, 0.5, 1])
    assert encoded(CategoricalDistribution([3, 1, 2]), 1, 2, 3) == [0, 0.5, 1]  # in order, whatever the list's
    assert encoded(CategoricalDistribution([16, 256, 64]), 16, 64, 256) == pytest.approx([0, 0.5, 1])  # log: factor 16


def test_any_two_unordered_choices_are_one_apart() -> None:
    words, numbers = CategoricalDistribution(["relu", "tanh", None]), CategoricalDistribution([1, 2, 8])
    for each in (Input("x", words), Input("x", numbers, ordered=False)):
        rows = each.encode(each.levels)
        distances = [np.linalg.norm(a - b) for a, b in itertools.combinations(rows, 2)]
        assert distances == pytest.approx([1, 1, 1])


@hypothesis.settings(max_examples=25)
@given(st.integers(1, 40), st.integers(1, 40), st.booleans())
def test_a_sample_stays_within_the_levels(low: int, span: int, log: bool) -> None:
    each = Input("x", IntDistribution(low, low + span, log=log))
    sample = each.sample(np.linspace(0, 1, 1001, endpoint=False))
    assert set(np.round(sample[:, 0], 9)) <= set(np.round(each.encode(range(low, low + span + 1))[:, 0], 9))
    assert sample.min() == 0
    assert sample.max() == 1


# -- when to refuse ----------------------------------------------------------------------------------------------------


def refused(of: Table, **options: Any) -> Analysis:
    analysis = analyse(of, **options)
    assert not analysis.trusted
    assert analysis.strength is None
    assert not analysis.parameters
    assert not analysis.pairs
    assert analysis.reason is not None
    return analysis


def changed(of: Table, **columns: Any) -> Table:
    return Table(of.study, of.objective, of.epoch, of.trials.assign(**columns), of.space, of.left_out, of.hint)


def test_too_few_uniform_trials_are_refused_with_the_command_that_adds_some() -> None:
    of = table(CUBE, curved, count=80)
    few = changed(of, design=[number < 31 for number in range(80)])
    reason = refused(few).reason
    assert reason is not None
    assert "31 of 80 full-budget trials are uniform over the space, 32 are needed" in reason
    assert reason.endswith("sweep run study --design 64")
    assert analyse(changed(of, design=[number < 32 for number in range(80)])).trusted


def test_noise_is_refused() -> None:
    of = table(CUBE, lambda p: np.random.default_rng(3).standard_normal(len(p["a"])))
    analysis = refused(of)
    assert analysis.r2 is not None
    assert analysis.r2 < 0.3
    assert "of the variance of held-out uniform trials" in (analysis.reason or "")


def test_a_fair_prediction_is_refused_unless_the_rest_is_known_to_be_noise() -> None:
    """A ceiling of 0.58 / (0.58 + 0.25) = 0.70; the rest might hide a hyperparameter that repeats rule out."""
    of = table(CUBE, curved, noise=0.5, count=128)
    analysis = analyse(of)
    assert analysis.r2 is not None
    assert 0.6 <= analysis.r2 < 0.8
    assert not analysis.trusted
    assert "search.design_seeds" in str(analysis.reason)
    again = of.trials.assign(repeat=True)
    again["value"] = curved({name: of.trials[f"params_{name}"].to_numpy(float) for name in CUBE})
    again["value"] += 0.5 * np.random.default_rng(9).standard_normal(128)
    repeated = replace(of, trials=pd.concat([of.trials.assign(repeat=False), again], ignore_index=True))
    known = analyse(repeated)
    assert known.trusted
    assert known.parameters["a"].first > known.parameters["c"].first


def test_fewer_than_four_trials_for_each_hyperparameter_are_refused() -> None:
    space = {f"x{i}": FloatDistribution(0.0, 1.0) for i in range(9)}
    assert "35 full-budget trials are few for 9 hyperparameters, 36 are needed" in str(
        refused(table(space, lambda p: p["x0"], count=35)).reason
    )


@pytest.mark.parametrize("scale", [1e306, 1e-170])
def test_values_whose_squares_are_no_numbers_are_refused(scale: float) -> None:
    assert "the values reach" in str(refused(table(CUBE, lambda p: scale * (1 + p["a"]), count=64)).reason)


def test_what_has_no_variance_is_refused() -> None:
    for count in (5, 64):
        assert "all values are equal" in str(refused(table(CUBE, lambda p: 0.25 + 0 * p["a"], count=count)).reason)


def test_a_space_of_single_values_is_refused_and_one_hyperparameter_is_enough() -> None:
    space = {"a": FloatDistribution(0.0, 1.0), "b": IntDistribution(3, 3)}
    alone = analyse(table(space, lambda p: p["a"] ** 2))
    assert list(alone.parameters) == ["a"]
    assert alone.parameters["a"].first == pytest.approx(1, abs=0.01)
    assert alone.pairs == {}
    assert alone.left_out == {"b": "its only value is 3"}
    assert "no hyperparameter takes more than one value" in str(
        refused(table({"b": IntDistribution(3, 3)}, lambda p: p["b"])).reason
    )


def test_a_table_without_trials_is_refused() -> None:
    of = table(CUBE, curved)
    empty = Table(of.study, of.objective, of.epoch, of.trials.head(0), of.space, {}, of.hint)
    assert refused(empty).reason == "no trial has ended"
    assert refused(empty, where=parse_conditions("a > 0.5", CUBE)).reason == "no trial has ended"
    assert analyse_outcome(empty, "diverged") is None


# -- within a part of the space ----------------------------------------------------------------------------------------


def test_a_condition_asks_within_a_part_of_the_space() -> None:
    """y = a where d = 2, and b where it is more: within d > 2, b is all there is."""
    space = {**CUBE, "d": IntDistribution(2, 5)}
    of = table(space, lambda p: np.where(p["d"] == 2, 3 * p["a"], 3 * p["b"]), count=128)
    within = analyse(of, where=parse_conditions("d > 2", space))
    assert within.n_full == 96
    assert within.parameters["b"].first == pytest.approx(1, abs=0.03)
    assert within.parameters["a"].total < 0.03
    assert list(analyse(of, where=parse_conditions("d >= 4 and d < 5 and a >= 0", space)).left_out) == ["d"]
    half = analyse(of, where=parse_conditions("b < 0.5 and d > 2", space))
    assert half.fitted is not None
    assert max(partial_dependence(half.fitted, "b").values) < 0.5  # type: ignore[type-var]
    with pytest.raises(SweepError, match="no value of d in the search space fulfils it"):
        analyse(of, where=parse_conditions("d > 9", space))


# -- figures -----------------------------------------------------------------------------------------------------------


def test_effects_and_surfaces_are_means_over_all_other_hyperparameters() -> None:
    space = {**CUBE, "k": CategoricalDistribution(["x", "y"])}
    analysis = analyse(table(space, lambda p: curved(p) + (p["k"] == "y"), noise=0.02))
    assert analysis.fitted is not None
    of_a = partial_dependence(analysis.fitted, "a")
    assert of_a.mean == pytest.approx(2 * np.array(of_a.values, float) + 0.5, abs=0.1)
    assert np.all(of_a.low <= of_a.high)
    of_k = partial_dependence(analysis.fitted, "k")
    assert of_k.values == ["x", "y"]
    assert of_k.mean == pytest.approx([1, 2], abs=0.1)
    both = partial_dependence_2d(analysis.fitted, "a", "b")
    a, b = np.meshgrid(np.array(both.a, float), np.array(both.b, float), indexing="ij")
    assert both.mean == pytest.approx(curved({"a": a, "b": b}) + 0.5, abs=0.2)


# -- divergence --------------------------------------------------------------------------------------------------------


def breaks_down(p: dict[str, np.ndarray]) -> np.ndarray:
    return np.where(p["a"] + 0.3 * p["b"] > 0.8, "diverged", "completed")


def test_diverged_trials_are_left_out_counted_and_analysed_on_their_own() -> None:
    of = table(CUBE, curved, outcome=breaks_down)
    diverged = int((of.trials["outcome"] == "diverged").sum())
    analysis, divergence = analyse(of), analyse_outcome(of, "diverged")
    assert (analysis.n_full, analysis.n_diverged) == (64 - diverged, diverged)
    assert divergence is not None
    assert divergence.trusted
    assert divergence.strength == "indicative"
    assert divergence.objective == "the probability of diverging"
    assert (divergence.n_full, divergence.n_uniform) == (64, 64)
    assert divergence.parameters["a"].first > 0.6
    assert divergence.parameters["a"].total > divergence.parameters["b"].total > divergence.parameters["c"].total


def test_too_few_divergences_say_so_and_none_is_no_analysis() -> None:
    assert analyse_outcome(table(CUBE, curved), "diverged") is None
    late = table(CUBE, curved, outcome=lambda p: np.where(p["a"] > 0.95, "diverged", "completed"))
    rare = analyse_outcome(late, "diverged")
    assert rare is not None
    assert not rare.trusted
    assert "too few for an analysis" in str(rare.reason)


def test_divergence_that_nothing_decides_is_refused() -> None:
    chance = np.random.default_rng(0).random(64) < 0.3
    of = table(CUBE, curved, outcome=lambda _: np.where(chance, "diverged", "completed"))
    divergence = analyse_outcome(of, "diverged")
    assert divergence is not None
    assert not divergence.trusted
    assert "of held-out uniform trials" in str(divergence.reason)


def test_the_share_that_diverged_is_told_within_the_condition_and_at_no_epoch() -> None:
    of = table(CUBE, curved, outcome=lambda p: np.where(p["a"] > 0.75, "diverged", "completed"))
    divergence = analyse_outcome(of, "diverged")
    assert divergence is not None
    assert divergence.share == 16 / 64
    assert divergence.epoch is None
    assert reliability(divergence).startswith("Reliability: 16 of 64 uniform trials diverged (25 %); ")
    half = analyse_outcome(of, "diverged", where=parse_conditions("a > 0.5", CUBE))
    assert half is not None
    assert half.share == 16 / 32
    assert analyse_outcome(of, "diverged", where=parse_conditions("a < 0.5", CUBE)) is None


# -- words -------------------------------------------------------------------------------------------------------------


def said(parameters: dict[str, Index], pairs: dict[tuple[str, str], Interaction] | None = None) -> Analysis:
    return Analysis(
        "study", "val_loss", 9, 64, 40, 3, 2, trusted=True, strength="quantitative", r2=0.91,
        surrogate="Gaussian process", parameters=parameters, pairs=pairs or {},
    )  # fmt: skip


def index(first: float, total: float, width: float = 0.02) -> Index:
    return Index(first, (first - width, first + width), total, (total - width, total + width))


def test_a_wide_interval_is_shown_instead_of_its_middle() -> None:
    words = interpretation(said({"depth": index(0.6, 0.6, 0.2), "width": index(0.3, 0.3)}))
    assert words == "depth explains 40 to 80 % of the variance of val_loss, width 30 %; interactions are small."


def test_pairs_are_named_once_and_interactions_of_several_are_not_blamed_on_one() -> None:
    pairs = {("a", "b"): Interaction(0.3, (0.2, 0.4)), ("b", "c"): Interaction(0.001, (0.0, 0.1))}
    parameters = {"a": index(0.5, 0.8), "b": index(0.01, 0.31), "c": index(0.02, 0.2)}
    assert interpretation(said(parameters, pairs)).endswith(
        "; b matters only together with a; c matters only together with several others."
    )


def test_an_indicative_analysis_claims_an_order_and_no_size() -> None:
    pairs = {("a", "b"): Interaction(0.3, (0.2, 0.4))}
    parameters = {"b": index(0.2, 0.5), "a": index(0.4, 0.7), "c": index(0.01, 0.01)}
    words = interpretation(replace(said(parameters, pairs), strength="indicative"))
    assert words == (
        "a explains the largest share of the variance of val_loss, then b; a and b explain another part together; "
        "c hardly matters."
    )


def test_names_with_spaces_and_a_lone_hyperparameter_make_sentences() -> None:
    words = interpretation(said({"learning rate": index(0.9, 0.9)}))
    assert words == "learning rate explains 90 % of the variance of val_loss."


def test_what_an_interval_does_not_exclude_is_not_denied() -> None:
    uncertain = Index(0.02, (0.0, 0.2), 0.3, (0.1, 0.4))
    idle = Index(0.01, (0.0, 0.1), 0.02, (0.01, 0.25))
    pairs = {("a", "b"): Interaction(0.0, (0.0, 0.1))}
    words = interpretation(said({"a": index(0.5, 0.6), "b": uncertain, "c": idle}, pairs))
    assert words.endswith("; b matters mostly together with several others.")


def test_all_trials_that_are_left_out_are_counted_with_the_reason() -> None:
    outcomes = ["pruned"] * 2 + ["diverged"] * 3 + ["failed"] * 4 + ["completed"] * 55
    of = changed(table(CUBE, curved), outcome=outcomes)
    of.trials.loc[:13, "value"] = np.nan
    line = reliability(analyse(of))
    assert line.startswith(
        "Reliability: 50 trials at epoch 9, 50 of them uniform over the space, "
        "excluded: 2 pruned, 3 diverged, 4 failed and 5 without a value;"
    )


def test_a_part_of_the_space_is_named() -> None:
    within = replace(said({"a": index(0.5, 0.5)}), where="d > 2")
    assert "64 trials at epoch 9 where d > 2, 40 of them uniform over that part of the space" in reliability(within)
    assert interpretation(within) == "a explains 50 % of the variance of val_loss where d > 2."


def test_data_holds_the_second_analysis_where_there_is_one() -> None:
    alone = said({"a": index(0.5, 0.5)})
    both = replace(alone, divergence=replace(alone, objective="the probability of diverging", share=0.25))
    assert as_data(both) == {**as_data(alone), "divergence": as_data(both.divergence or alone)}
    assert as_data(both)["divergence"]["objective"] == "the probability of diverging"


def test_trust_is_one_line_with_all_that_it_rests_on() -> None:
    line = reliability(said({"a": index(0.5, 0.5)}))
    assert "\n" not in line
    for part in (
        "64 trials at epoch 9",
        "40 of them uniform",
        "3 pruned and 2 diverged",
        "Gaussian process",
        "R2 0.91",
    ):
        assert part in line
    assert "quantitative" in line


# -- whole studies -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Studies of another program: a search by TPE and Hyperband, uniform trials, both."""
    url = f"journal:///{tmp_path_factory.mktemp('foreign')}/optuna.journal"
    for name in ("slow_start", "mixed"):
        search, design = searched(CASES[name], seed=0), uniform(CASES[name], 0, 64)
        store(url, name, [*search, *design])
        if name == "slow_start":
            store(url, "searched", search)
            store(url, "shuffled", shuffled(design, 0))
            store(url, "both", [*search, *shuffled(design, 0)])
    store(url, "ishigami", uniform(CASES["ishigami"], 0, 128))
    return url


@pytest.fixture
def settings(storage: str, tmp_path: Path) -> Settings:
    return Settings(workspace=tmp_path / "results", storage=storage)


@pytest.fixture
def here(storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Sweep:
    def run(*words: str) -> Ended:
        return sweep_here(monkeypatch, capsys, tmp_path / "results", "sensitivity", *words, SWEEP_STORAGE=storage)

    return run


@pytest.mark.parametrize("words", [("report",), ("status",), ("best",)])
def test_what_needs_a_study_of_ours_points_to_what_reads_any(
    words: tuple[str], storage: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    ended = sweep_here(monkeypatch, capsys, tmp_path / "results", *words, "ishigami", SWEEP_STORAGE=storage)
    assert (ended.code, ended.out) == (2, "")
    assert "ishigami: a study of another program" in ended.err
    assert "sweep sensitivity ishigami" in ended.err


def test_slow_start_of_a_pruned_search_with_uniform_trials(settings: Settings) -> None:
    [analysis] = analyse_study("slow_start", settings)
    found = errors(CASES["slow_start"], analysis, ("lambda1", "lambda2"))
    assert found.worst <= 0.06
    assert found.covered >= 0.9
    assert analysis.parameters["width"].total < 0.05
    assert max(analysis.parameters, key=lambda name: analysis.parameters[name].total) == "lambda1"
    assert analysis.n_uniform == 64
    assert analysis.epoch == 27


def test_mixed_with_an_interaction_of_a_choice(settings: Settings) -> None:
    [analysis] = analyse_study("mixed", settings)
    found = errors(CASES["mixed"], analysis, ("depth", "activation"))
    assert found.worst <= 0.07
    assert found.covered >= 0.9
    assert analysis.parameters["depth"].first < 0.05
    assert analysis.parameters["depth"].total > 0.12
    assert analysis.pairs["depth", "activation"].value > 0.1


def test_ishigami_of_uniform_trials_alone(settings: Settings) -> None:
    [analysis] = analyse_study("ishigami", settings)
    assert errors(CASES["ishigami"], analysis, ("x1", "x3")).worst <= 0.06


@pytest.mark.parametrize("name", ["searched", "shuffled", "both"])
def test_a_search_alone_and_shuffled_results_are_refused(settings: Settings, name: str) -> None:
    [analysis] = analyse_study(name, settings)
    assert not analysis.trusted
    assert not analysis.parameters
    assert analysis.reason


def test_optunas_importances_are_far_from_the_truth_and_named_as_what_they_are(here: Sweep) -> None:
    ended = here("slow_start", "--optuna", "--json")
    importances = json.loads(ended.out)["optuna"]
    assert abs(importances["lambda1"] - CASES["slow_start"].total["lambda1"]) > 0.3
    assert "what separated the best trials of this search from the others" in here("searched", "--optuna").out


KEYS = {
    "study", "objective", "epoch", "trusted", "strength", "reason", "n_full", "n_uniform", "n_pruned", "n_diverged",
    "r2", "surrogate", "parameters", "pairs", "n_collapsed", "r2_low", "explainable", "unexplained", "scale", "warning",
}  # fmt: skip


def test_json_has_the_keys_that_other_programs_rely_on(here: Sweep) -> None:
    ended = here("ishigami", "--json")
    assert ended.code == 0
    data = json.loads(ended.out)
    assert set(data) == KEYS
    assert (data["study"], data["objective"], data["epoch"]) == ("ishigami", "value", 27)
    assert (data["trusted"], data["strength"], data["reason"]) == (True, "quantitative", None)
    assert (data["n_full"], data["n_uniform"], data["n_pruned"], data["n_diverged"]) == (128, 128, 0, 0)
    assert set(data["parameters"]) == {"x1", "x2", "x3"}
    assert set(data["parameters"]["x1"]) == {"first", "first_ci", "total", "total_ci"}
    assert set(data["pairs"]) == {"x1*x2", "x1*x3", "x2*x3"}
    low, high = data["pairs"]["x1*x3"]["ci"]
    assert low <= data["pairs"]["x1*x3"]["value"] <= high


def test_a_refusal_is_data_without_numbers_and_no_failure(here: Sweep) -> None:
    ended = here("searched", "--json")
    assert ended.code == 0
    data = json.loads(ended.out)
    assert set(data) == KEYS
    assert data["trusted"] is False
    assert "0 of" in data["reason"]
    assert data["parameters"] == data["pairs"] == {}
    assert data["n_pruned"] > 100


def test_people_read_trust_first_then_indices_pairs_and_what_it_means(here: Sweep) -> None:
    lines = [line for line in here("slow_start").out.splitlines() if line.strip()]
    assert "Sensitivity of value in slow_start, epoch 27" in lines[0]
    assert lines[1].startswith("Reliability: ")
    rows = [line.split()[0] for line in lines if line.split()[0] in CASES["slow_start"].space]
    assert rows[0] == "lambda1"
    assert set(rows) == set(CASES["slow_start"].space)
    assert any(line.strip().startswith("lambda1 x lambda2") for line in lines)
    assert lines[-1].startswith("lambda1 explains ")
    assert lines[-1].endswith(" hardly matter.")


def test_bad_input_is_one_message_that_lists_what_there_is(here: Sweep) -> None:
    for words, expected in {
        ("ishigam",): "(did you mean ishigami?), which has both, ishigami, mixed",
        ("mixed", "--metric", "val_loss"): "--metric val_loss: no trial of mixed has it; they have value",
        ("mixed", "--epoch", "28"): "no trial of mixed reported there; they reported at 1, 2, 3",
        ("mixed", "--where", "deep > 3"): "no such hyperparameter: deep (did you mean depth?); there are lr, lambda1",
        ("mixed", "--where", "depth >"): "not a condition",
        ("mixed", "--against-control"): "mixed is a study of another program",
    }.items():
        ended = here(*words)
        assert ended.code == 2, words
        assert expected in ended.err
        assert ended.err.count("error:") == 1


def test_a_condition_and_an_epoch_reach_the_analysis(here: Sweep) -> None:
    early = json.loads(here("slow_start", "--epoch", "3", "--json").out)
    assert early["epoch"] == 3
    assert early["n_full"] > 200  # pruned trials got there, too
    assert early["parameters"]["width"]["total"] > 0.1  # wide nets are behind at first
    where = json.loads(here("ishigami", "--where", "x3 > -1 and x3 < 1", "--json").out)
    assert where["n_full"] < 64
    assert where["where"] == "x3 > -1 and x3 < 1"


def test_nothing_is_left_of_numpy_or_of_the_fit_in_the_numbers(settings: Settings) -> None:
    [analysis] = analyse_study("ishigami", settings)
    for name, each in analysis.parameters.items():
        assert type(name) is str
        assert {type(v) for v in (each.first, *each.first_ci, each.total, *each.total_ci)} == {float}
    assert sensitivity.Analysis.__dataclass_fields__.keys() > KEYS - {"unexplained"}
