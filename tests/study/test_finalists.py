"""Finalists and controls on trials made by hand: what is asked for, and what the comparison says."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweep.analysis.comparison import Sample, compare_finalists, gain_verdict
from sweep.config.search_space import Scalar
from sweep.config.study_config import StudyConfig
from sweep.service.run import RunOptions, all_trained
from sweep.study.finalists import (
    PlannedTrial,
    best_rows,
    expected_on_fresh_seeds,
    fresh_seeds,
    missing_trials,
    ranked_rows,
    unguided,
    wanted_rows,
    wanted_tuned,
    wanted_tuning,
)
from sweep.study.records import TrialRecord

from ..conftest import MakeConfig
from ..support.records import SPACE, point, row, search_rows


def trained(
    wanted: Sequence[PlannedTrial], values: Mapping[tuple[str, int], float], first: int = 0
) -> list[TrialRecord]:
    """The rows that the sister study would have, each with the value of its (kind, seed)."""
    return [
        row(first + i, values[kind, seed], hyperparameters, kind=kind, of=of, seed=seed)
        for i, (kind, of, seed, hyperparameters) in enumerate(wanted)
    ]


def of_kind(wanted: Sequence[PlannedTrial], kind: str) -> list[PlannedTrial]:
    return [w for w in wanted if w[0] == kind]


@pytest.fixture
def config(study_config: MakeConfig) -> StudyConfig:
    return study_config(
        space=SPACE, training={"seed": 10}, search={"finalists": {"top": 3, "seeds": 2, "tuned": 4}, "trials": 9}
    )


# -- the best ----------------------------------------------------------------------------------------------------------


def test_the_best_are_completed_trials_and_ties_go_to_the_earlier(config: StudyConfig) -> None:
    assert [r.number for r in best_rows(config, search_rows())] == [2, 1, 8, 7, 0]
    assert [r.number for r in best_rows(config, search_rows(), 2)] == [2, 1]
    assert best_rows(config, search_rows(), 0) == []


def test_an_infinite_objective_of_an_old_study_is_not_the_best(config: StudyConfig) -> None:
    assert best_rows(config, [row(0, -math.inf, point(0.01, 2)), row(1, 0.5, point(0.02, 2))], 1)[0].number == 1


def test_the_best_of_a_maximised_study_are_the_largest(study_config: MakeConfig) -> None:
    config = study_config(objective={"direction": "maximize"})
    assert [r.number for r in best_rows(config, search_rows())] == [0, 7, 1, 8, 2]


def test_finalists_are_different_configurations(config: StudyConfig) -> None:
    """Trial 9 repeats trial 2 on another seed, as ``search.design_seeds`` does."""
    search = [*search_rows(), row(9, 0.15, point(0.03, 3, epsilon=5.0, form="reciprocal"), seed=5010)]
    assert [(r.number, r.value) for r in best_rows(config, search, 3)] == [
        (2, pytest.approx(0.125)),
        (1, 0.2),
        (8, 0.2),
    ]
    wanted = wanted_rows(config, search)
    assert wanted == wanted_rows(config, search_rows())
    controls = trained(wanted, {(kind, s): 0.5 for kind in ("finalist", "control", "tuned") for s in (10, 11, 12)})
    assert [f.number for f in compare_finalists(config, search, controls).finalists] == [2, 1, 8]


# -- the best on fresh seeds -------------------------------------------------------------------------------------------


def finalists(config: StudyConfig, values: Mapping[int, Sequence[float | None]]) -> list[TrialRecord]:
    """The finalists' rows: trial -> the values on the fresh seeds; None for a run that has diverged."""
    search, found = {r.number: r for r in search_rows()}, []
    for of, each in values.items():
        for seed, value in zip(fresh_seeds(config), each, strict=True):
            outcome = "diverged" if value is None else "completed"
            fields = {"kind": "finalist", "of": of, "seed": seed, "outcome": outcome}
            found.append(row(len(found), value, search[of].hyperparameters, **fields))
    return found


def test_the_best_of_the_search_that_is_the_last_on_fresh_seeds_is_not_the_best(config: StudyConfig) -> None:
    """The search has 2, 1, 8, 7, 0 in this order: 0.1, 0.2, 0.2, 0.3, 0.5."""
    controls = finalists(config, {2: (0.8, 0.6), 1: (0.3, 0.5), 8: (0.4, 0.6)})
    found = expected_on_fresh_seeds(config, search_rows(), controls)
    assert [found[n][:2] for n in (2, 1, 8)] == [(pytest.approx(0.7), 2), (pytest.approx(0.4), 2), (0.5, 2)]
    # The finalists lost 0.6, 0.2 and 0.3 on fresh seeds: so much is expected of the others.
    lost = (0.6 + 0.2 + 0.3) / 3
    assert (found[7].value, found[7].seeds) == (pytest.approx(0.3 + lost), 0)
    assert [r.number for r in ranked_rows(config, search_rows(), controls)] == [1, 8, 7, 2, 0]


def test_what_finalists_lose_on_fresh_seeds_is_measured_from_the_mean_of_the_search(config: StudyConfig) -> None:
    """A point of 0.1 and 0.3 on two seeds has lost 0.3 on fresh ones; the repeat is no configuration of its own."""
    search = [*search_rows(), row(9, 0.3, point(0.03, 3, epsilon=5.0, form="reciprocal"), seed=5010)]
    found = expected_on_fresh_seeds(config, search, finalists(config, {2: (0.4, 0.6)}))
    assert (found[2].value, found[1].value) == pytest.approx((0.5, 0.2 + 0.3))
    assert 9 not in found


def test_without_finalists_the_order_is_that_of_the_search(config: StudyConfig) -> None:
    assert expected_on_fresh_seeds(config, search_rows(), []) == {}
    assert ranked_rows(config, search_rows(), []) == best_rows(config, search_rows())


def test_a_finalist_that_diverges_on_a_fresh_seed_comes_last(config: StudyConfig) -> None:
    controls = finalists(config, {2: (0.01, None), 1: (0.3, 0.5), 8: (None, None)})
    found = expected_on_fresh_seeds(config, search_rows(), controls)
    assert found[2] == (0.01, 1, 1)
    assert [r.number for r in ranked_rows(config, search_rows(), controls)] == [1, 7, 0, 2, 8]


@given(st.lists(st.floats(0, 10), min_size=6, max_size=6))
def test_no_trial_behind_the_finalists_is_expected_to_be_better_than_the_best_of_them(values: list[float]) -> None:
    raw = {"name": "s", "model": {"name": "mlp"}, "data": {"name": "digits"}, "space": SPACE}
    search = {"finalists": {"top": 3, "seeds": 2}}
    objective = {"metric": "val_loss", "direction": "minimize"}
    config = StudyConfig.model_validate({**raw, "objective": objective, "search": search})
    controls = finalists(config, {2: values[:2], 1: values[2:4], 8: values[4:]})
    assert ranked_rows(config, search_rows(), controls)[0].number in (2, 1, 8)


def test_the_control_of_the_best_on_fresh_seeds_is_tuned_if_it_has_another_size(config: StudyConfig) -> None:
    """Trial 8 has one layer, the best of the search has three."""
    search = search_rows()
    controls = trained(
        wanted_rows(config, search),
        {(kind, seed): 0.5 for kind in ("finalist", "control", "tuned") for seed in (10, 11, 12)},
    )
    controls = [r for r in controls if r.kind != "finalist"]
    controls += finalists(config, {2: (0.5, 0.5), 1: (0.5, 0.5), 8: (0.4, 0.4)})
    more = missing_trials(wanted_tuning(config, search, controls), controls)
    assert [(r.kind, r.of, r.seed, r.hyperparameters["depth"]) for r in more] == [("tuned", 8, 10, 1)] * 4
    assert wanted_tuned(config, search, controls) == []
    same = [r for r in controls if r.kind != "finalist"] + finalists(config, {2: (0.5, 0.5), 1: (0.4, 0.4)})
    assert missing_trials(wanted_tuning(config, search, same), same) == []


# -- what is wanted ----------------------------------------------------------------------------------------------------


def test_a_control_has_everything_but_the_guidance() -> None:
    hyperparameters = {**point(0.1, 3), "lambda2": 0.2, "guidance.until": 0.5, "training.lr": 0.1, "width": 8}
    assert unguided(hyperparameters) == {"lambda1": 0.0, "lambda2": 0.0, "depth": 3, "training.lr": 0.1, "width": 8}


def test_each_finalist_has_fresh_seeds_and_configurations_share_a_control(config: StudyConfig) -> None:
    wanted = wanted_rows(config, search_rows())
    assert fresh_seeds(config) == [11, 12]
    rows = {r.number: r for r in search_rows()}
    assert of_kind(wanted, "finalist") == [
        ("finalist", number, seed, rows[number].hyperparameters) for number in (2, 1, 8) for seed in (11, 12)
    ]
    # 2 and 1 differ in guidance alone; 8 has another depth.
    controls = of_kind(wanted, "control")
    common = {"lambda1": 0.0, "lambda2": 0.0, "width": 8}
    assert sorted((seed, h["depth"]) for _, _, seed, h in controls) == [(11, 1), (11, 3), (12, 1), (12, 3)]
    assert all(h == {**common, "depth": h["depth"]} for _, _, _, h in controls)
    assert {(of, h["depth"]) for _, of, _, h in controls} == {(2, 3), (8, 1)}


def test_a_control_shares_no_seed_with_the_search(config: StudyConfig) -> None:
    wanted = wanted_rows(config, search_rows())
    assert config.training.seed not in {seed for kind, _, seed, _ in wanted if kind != "tuned"}


def test_a_tuned_control_tries_initialisations_and_learning_rates_of_the_best_size(config: StudyConfig) -> None:
    tuned = of_kind(wanted_rows(config, search_rows()), "tuned")
    assert len(tuned) == 4
    assert {(of, seed) for _, of, seed, _ in tuned} == {(2, 10)}
    for _, _, _, hyperparameters in tuned:
        rest = {k: v for k, v in hyperparameters.items() if k not in ("training.lr", "training.init")}
        assert rest == {"lambda1": 0.0, "lambda2": 0.0, "depth": 3, "width": 8}
    # The first is the plain control itself: what is tuned is no worse than it on this seed.
    own = {"training.lr": config.training.lr, "training.init": config.training.init}
    assert {k: tuned[0].hyperparameters[k] for k in own} == own
    rates = [float(h["training.lr"]) for _, _, _, h in tuned[1:]]  # type: ignore[arg-type]
    # The others are of a Sobol' net over 1.5 decades around the study's learning rate: no two in a quarter.
    position = [(math.log10(rate / config.training.lr) + 0.5) / 1.5 for rate in rates]
    assert len({int(4 * p) for p in position} & {0, 1, 2, 3}) == 3
    assert {h["training.init"] for _, _, _, h in tuned} <= {"default", "he", "orthogonal"}
    assert len({h["training.init"] for _, _, _, h in tuned}) > 1


def test_a_tuned_control_searches_the_studys_own_ranges(study_config: MakeConfig) -> None:
    space = {
        **SPACE,
        "training.lr": {"low": 0.5, "high": 0.6},
        "training.init": {"choices": ["he", "orthogonal"]},
    }
    config = study_config(space=space, search={"finalists": {"tuned": 8}})
    searched = [row(0, 0.1, {**point(0.1, 2), "training.lr": 0.55, "training.init": "he"})]
    tuned = of_kind(wanted_rows(config, searched), "tuned")
    assert all(0.5 <= float(h["training.lr"]) <= 0.6 for _, _, _, h in tuned)  # type: ignore[arg-type]
    assert {h["training.init"] for _, _, _, h in tuned} == {"he", "orthogonal"}
    assert len({h["training.lr"] for _, _, _, h in tuned}) == 8


def test_a_tuned_control_starts_from_the_best_trials_learning_rate_where_the_space_holds_it(
    study_config: MakeConfig,
) -> None:
    config = study_config(space={**SPACE, "training.lr": 0.1, "training.init": "he"})
    tuned = of_kind(wanted_rows(config, [row(0, 0.1, point(0.1, 2))]), "tuned")
    rates = [float(h["training.lr"]) for _, _, _, h in tuned]  # type: ignore[arg-type]
    assert 0.03 < min(rates) < 0.1 < max(rates) <= 1.0
    assert (rates[0], tuned[0].hyperparameters["training.init"]) == (0.1, "he"), "the plain control"
    assert {h["training.init"] for _, _, _, h in tuned} == {"default", "he", "orthogonal"}


@pytest.mark.parametrize(
    ("finalists", "kinds"),
    [({"top": 0}, set()), ({"tuned": 0}, {"finalist", "control"}), ({}, {"finalist", "control", "tuned"})],
)
def test_stages_can_be_turned_off(study_config: MakeConfig, finalists: dict[str, int], kinds: set[str]) -> None:
    config = study_config(space=SPACE, search={"finalists": finalists})
    assert {kind for kind, *_ in wanted_rows(config, search_rows())} == kinds


def test_nothing_is_wanted_where_nothing_completed(config: StudyConfig) -> None:
    unfinished = [r for r in search_rows() if r.outcome != "completed"]
    assert wanted_rows(config, unfinished) == []
    assert wanted_tuned(config, unfinished, []) == []
    comparison = compare_finalists(config, unfinished, [])
    assert (comparison.finalists, comparison.tuned_trials, comparison.tuned) == ([], 0, None)


def test_a_study_without_guidance_in_its_space_has_controls_too(study_config: MakeConfig) -> None:
    config = study_config(space={"depth": {"low": 1, "high": 4}, "width": 8}, guidance={"lambda1": 0.5})
    (control, *_) = of_kind(wanted_rows(config, [row(0, 0.1, {"depth": 2})]), "control")
    assert config.trial(control[3], seed=1).guidance.lambda1 == 0.0
    finalist = of_kind(wanted_rows(config, [row(0, 0.1, {"depth": 2})]), "finalist")[0]
    assert config.trial(finalist[3], seed=1).guidance.lambda1 == 0.5


# -- again -------------------------------------------------------------------------------------------------------------


@given(st.randoms(use_true_random=False))
def test_asking_again_adds_nothing(rng: random.Random) -> None:
    """Whatever order rows come in, what is wanted of a finished study is what its sister study has."""
    raw = {
        "name": "again",
        "model": {"name": "mlp"},
        "data": {"name": "digits"},
        "objective": {"metric": "val_loss", "direction": rng.choice(["minimize", "maximize"])},
        "space": SPACE,
        "search": {"finalists": {"top": rng.randint(0, 4), "seeds": rng.randint(1, 3), "tuned": rng.randint(0, 4)}},
    }
    config = StudyConfig.model_validate(raw)
    search = search_rows()
    rng.shuffle(search)
    first = wanted_rows(config, search)
    controls = [row(i, rng.random(), h, kind=k, of=of, seed=s) for i, (k, of, s, h) in enumerate(first)]
    second = wanted_tuned(config, search, controls)
    controls += [row(99 + i, rng.random(), h, kind=k, of=of, seed=s) for i, (k, of, s, h) in enumerate(second)]
    rng.shuffle(search)
    rng.shuffle(controls)
    present = [(r.kind, r.of, r.seed, r.hyperparameters) for r in controls]
    assert all(w in present for w in wanted_rows(config, search))
    assert all(w in present for w in wanted_tuned(config, search, controls))
    assert missing_trials([*first, *second], controls) == []
    assert len(wanted_rows(config, search)) == len(first)
    assert len({repr(w) for w in first + second}) == len(first + second)


def test_a_study_that_an_older_version_has_finished_is_finished(config: StudyConfig) -> None:
    """It tuned the control of the best of the search, trial 2, on points of which none is the plain control.

    On fresh seeds trial 8 is the best, which has another depth.
    """
    search = [replace(r, state="finished", outcome=r.outcome or "failed") for r in search_rows()]
    planned = [w for w in wanted_rows(config, search) if w.kind != "tuned"]
    base: dict[str, Scalar] = {"lambda1": 0.0, "lambda2": 0.0, "depth": 3, "width": 8, "training.init": "he"}
    points = [{**base, "training.lr": lr} for lr in (1e-3, 2e-3, 3e-3, 4e-3)]
    planned += [PlannedTrial("tuned", 2, 10, each) for each in points]
    planned += [PlannedTrial("tuned", 2, seed, points[0]) for seed in (11, 12)]
    values: dict[tuple[str, int], float] = {(w.kind, w.seed): 0.5 for w in planned}
    controls = [r for r in trained(planned, values) if r.kind != "finalist"]
    controls += finalists(config, {2: (0.5, 0.5), 1: (0.5, 0.5), 8: (0.4, 0.4)})
    controls = [
        replace(r, number=i) for i, r in enumerate(sorted(controls, key=lambda r: (r.kind == "tuned", r.seed != 10)))
    ]

    def finished(config: StudyConfig, search: list[TrialRecord], controls: list[TrialRecord]) -> bool:
        return all_trained(config, search, controls, RunOptions())

    assert finished(config, search, controls)
    assert not finished(config, search, controls[:-1]), "a fresh seed of the tuned control is missing"
    assert not finished(config, [*search, row(9, 0.001, point(0.011, 4))], controls), "a new best one"
    for more in ({"top": 4}, {"seeds": 3}, {"tuned": 5}):
        own = {**config.search.model_dump(), "finalists": {**config.search.finalists.model_dump(), **more}}
        asked = StudyConfig.model_validate({**config.model_dump(), "search": own})
        assert not finished(asked, search, controls), more


def test_the_best_tuned_control_is_trained_on_the_fresh_seeds(config: StudyConfig) -> None:
    tuning = of_kind(wanted_rows(config, search_rows()), "tuned")
    values = [0.4, 0.2, 0.9, 0.3]
    rows = [row(i, values[i], h, kind=k, of=of, seed=s) for i, (k, of, s, h) in enumerate(tuning)]
    rows[1] = row(1, 0.01, tuning[1][3], kind="tuned", of=2, seed=10, outcome="diverged")
    # One that has been through the second stage already is not chosen for it.
    rows.append(row(4, 0.001, tuning[0][3], kind="tuned", of=2, seed=11))
    assert wanted_tuned(config, search_rows(), rows) == [("tuned", 2, seed, tuning[3][3]) for seed in (11, 12)]


# -- the comparison ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("direction", "sign"), [("minimize", -1), ("maximize", 1)])
def test_a_gain_is_positive_where_guidance_is_better(study_config: MakeConfig, direction: str, sign: int) -> None:
    config = study_config(
        space=SPACE,
        training={"seed": 10},
        objective={"direction": direction},
        search={"finalists": {"top": 1, "seeds": 2, "tuned": 4}},
    )
    search = search_rows()
    wanted = wanted_rows(config, search)
    values = {
        ("finalist", 11): 0.5 + sign * 0.1,
        ("finalist", 12): 0.4 + sign * 0.3,
        ("control", 11): 0.5,
        ("control", 12): 0.4,
        ("tuned", 10): 0.7,
        ("tuned", 11): 0.5 + sign * 0.2,
        ("tuned", 12): 0.4 + sign * 0.1,
    }
    rows = trained(wanted, values)
    rows += trained(wanted_tuned(config, search, rows), values, first=len(rows))
    comparison = compare_finalists(config, search, rows)
    (finalist,) = comparison.finalists
    assert finalist.number == (2 if direction == "minimize" else 0)
    assert finalist.guided.values == {11: 0.5 + sign * 0.1, 12: 0.4 + sign * 0.3}
    assert finalist.gain_over_plain.values == pytest.approx({11: 0.1, 12: 0.3})
    assert finalist.gain_over_plain.mean == pytest.approx(0.2)
    assert finalist.gain_over_plain.spread == pytest.approx(math.sqrt(2 * 0.1**2))
    assert finalist.gain_over_tuned.values == pytest.approx({11: -0.1, 12: 0.2})
    assert comparison.tuned_trials == 4
    assert comparison.tuned == rows[-1].hyperparameters


def test_all_finalists_of_one_rest_are_compared_with_the_same_control(config: StudyConfig) -> None:
    wanted = wanted_rows(config, search_rows())
    rows = [row(i, 0.01 * i, h, kind=k, of=of, seed=s) for i, (k, of, s, h) in enumerate(wanted)]
    first, second, third = compare_finalists(config, search_rows(), rows).finalists
    assert (first.number, second.number, third.number) == (2, 1, 8)
    assert first.plain == second.plain != third.plain
    by_seed = {(r.seed, r.hyperparameters["depth"]): r.value for r in rows if r.kind == "control"}
    assert first.plain.values == {11: by_seed[11, 3], 12: by_seed[12, 3]}
    assert third.plain.values == {11: by_seed[11, 1], 12: by_seed[12, 1]}
    # The tuned control's second stage has not run: no gain over it, rather than one over the search's seed.
    assert first.tuned.values == first.gain_over_tuned.values == {}
    assert math.isnan(first.gain_over_tuned.mean)


def test_a_gain_is_over_common_seeds_and_of_completed_trials(config: StudyConfig) -> None:
    wanted = [w for w in wanted_rows(config, search_rows()) if w[0] != "tuned"]
    rows = trained(wanted, {("finalist", 11): 0.1, ("finalist", 12): 0.2, ("control", 11): 0.5, ("control", 12): 0.5})
    rows = [
        r
        if (r.kind, r.seed) != ("control", 12)
        else row(r.number, 0.5, r.hyperparameters, kind="control", of=r.of, seed=12, outcome="diverged")
        for r in rows
    ]
    finalist = compare_finalists(config, search_rows(), rows).finalists[0]
    assert finalist.guided.values == {11: 0.1, 12: 0.2}
    assert finalist.gain_over_plain.values == pytest.approx({11: 0.4})
    assert math.isnan(finalist.gain_over_plain.spread)


def test_finalists_that_are_no_longer_among_the_best_are_left_out(config: StudyConfig) -> None:
    wanted = wanted_rows(config, search_rows())
    rows = [row(i, 0.5, h, kind=k, of=of, seed=s) for i, (k, of, s, h) in enumerate(wanted)]
    extended = [*search_rows(), row(9, 0.001, point(0.011, 4))]
    assert [f.number for f in compare_finalists(config, extended, rows).finalists] == [2, 1]
    assert compare_finalists(config, extended, rows).tuned_trials == 0  # the new best trial has no tuned control yet
    more = [
        w for w in wanted_rows(config, extended) if w not in [(r.kind, r.of, r.seed, r.hyperparameters) for r in rows]
    ]
    assert {(kind, of) for kind, of, _, _ in more} == {("finalist", 9), ("control", 9), ("tuned", 9)}


def in_the_sister_study(wanted: Sequence[PlannedTrial], value: float = 0.5, first: int = 0) -> list[TrialRecord]:
    return [row(first + i, value, h, kind=k, of=of, seed=s) for i, (k, of, s, h) in enumerate(wanted)]


def test_a_new_best_that_differs_in_guidance_alone_shares_its_forerunners_controls(config: StudyConfig) -> None:
    search = search_rows()
    controls = in_the_sister_study(wanted_rows(config, search))
    controls += in_the_sister_study(wanted_tuned(config, search, controls), first=len(controls))
    extended = [*search, row(9, 0.001, point(0.011, 3))]
    # Its own finalists are all that is trained: at depth 3 there are controls, plain and tuned, on every seed.
    more = missing_trials([*wanted_rows(config, extended), *wanted_tuned(config, extended, controls)], controls)
    assert [(kind, of) for kind, of, _, _ in more] == [("finalist", 9)] * 2
    comparison = compare_finalists(config, extended, controls + in_the_sister_study(more, 0.4, first=len(controls)))
    assert [f.number for f in comparison.finalists] == [9, 2, 1]
    assert comparison.finalists[0].gain_over_plain.values == pytest.approx({11: 0.1, 12: 0.1})
    assert comparison.finalists[0].gain_over_tuned.values == pytest.approx({11: 0.1, 12: 0.1})
    assert comparison.tuned_trials == 4


def test_what_was_tuned_for_a_configuration_that_was_overtaken_goes_no_further(config: StudyConfig) -> None:
    search = search_rows()
    controls = in_the_sister_study(wanted_rows(config, search))  # killed before the tuned control's fresh seeds
    extended = [*search, row(9, 0.001, point(0.011, 4))]
    controls += in_the_sister_study(missing_trials(wanted_rows(config, extended), controls), first=len(controls))
    assert {of for _, of, _, _ in wanted_tuned(config, extended, controls)} == {9}
    assert {of for _, of, _, _ in wanted_tuned(config, search, controls)} == {2}


# -- samples -----------------------------------------------------------------------------------------------------------


def test_mean_and_spread() -> None:
    sample = Sample({1: 1.0, 2: 2.0, 3: 6.0})
    assert sample.mean == 3.0
    assert sample.spread == pytest.approx(math.sqrt((4 + 1 + 9) / 2))
    assert Sample({1: 5.0}).mean == 5.0
    assert math.isnan(Sample({1: 5.0}).spread)
    assert math.isnan(Sample({}).mean)


def test_a_difference_is_claimed_only_beyond_students_interval() -> None:
    """With three seeds it reaches 4.30 standard errors, with twenty 2.09; ``gain_verdict`` words it."""
    three = Sample({0: 0.1, 1: 0.2, 2: 0.3})  # 3.46 standard errors
    assert "is not clearly different" in gain_verdict(three, "it")
    assert "is 0.25 better than it; better on 3 of 3" in gain_verdict(Sample({0: 0.2, 1: 0.25, 2: 0.3}), "it")
    twenty = {seed: 0.2 + 0.2 * (-1) ** seed for seed in range(20)}  # 4.36 standard errors
    assert "better than it" in gain_verdict(Sample(twenty), "it")
    assert "is not clearly different" in gain_verdict(Sample({0: 1.0}), "it")
