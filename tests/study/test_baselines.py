"""Rivals of guided networks on studies and rows made by hand: what they search, and what is trained in pairs."""

from __future__ import annotations

from typing import Any

import pytest

from sweep.config import study_file as studyfile
from sweep.config.search_space import Choices, Range
from sweep.config.study_config import StudyConfig
from sweep.service.preflight.name_checks import check_names
from sweep.study.baselines import (
    METHODS,
    baseline_study,
    first_points,
    pair_members,
    same_networks,
    trained,
    wanted_pairs,
)
from sweep.study.finalists import best_rows, fresh_seeds, wanted_rows
from sweep.study.records import ARMS

from ..conftest import MakeConfig
from ..support.records import SPACE, point, row, search_rows

RIVALS = ("strongest", *METHODS)
SEARCH = {"trials": 40, "design": 12, "sampler": "qmc", "pruner": "hyperband", "hours": 2.0, "target": 0.1}


@pytest.fixture
def config(study_config: MakeConfig) -> StudyConfig:
    return study_config(space=SPACE, training={"seed": 10, "lr": 1e-3}, search=SEARCH)


# -- the studies that find them ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("arm", RIVALS)
def test_a_rival_has_the_same_study_but_for_guidance(config: StudyConfig, arm: Any) -> None:
    study = baseline_study(config, arm, 33)
    assert study.name == f"{config.name}.confirm.{arm}"
    assert {name: study.space[name] for name in ("depth", "width", "lambda1", "lambda2")} == {
        "depth": config.space["depth"],
        "width": 8,
        "lambda1": 0.0,
        "lambda2": 0.0,
    }
    assert not {"epsilon", "guidance.form"} & set(study.space)
    for section in ("model", "data", "objective", "guidance", "training", "task", "resources"):
        assert getattr(study, section) == getattr(config, section)
    assert (study.search.trials, study.search.design, study.search.sampler) == (33, 12, "qmc")
    assert (study.search.pruner, study.search.hours, study.search.target) == ("hyperband", None, None)
    # It is chosen with the same care: as many finalists on as many seeds.
    own = config.search.finalists
    searches = arm not in ("batch_norm", "he", "orthogonal", "lsuv") or study.searched
    assert (study.search.finalists.top, study.search.finalists.seeds) == (own.top if searches else 0, own.seeds)
    assert study.search.finalists.tuned == 0 or not searches
    # The storage gives it back as it was.
    assert StudyConfig.model_validate(study.model_dump(mode="json")) == study


def test_the_strongest_control_searches_initialisation_learning_rate_and_schedule(config: StudyConfig) -> None:
    space = baseline_study(config, "strongest", 40).space
    assert space["training.init"] == Choices(choices=("default", "he", "orthogonal"))
    assert space["training.lr_schedule"] == Choices(choices=("constant", "cosine"))
    rates = space["training.lr"]
    assert isinstance(rates, Range)
    assert rates.log
    assert (rates.low, rates.high) == pytest.approx((1e-3 / 10**0.5, 1e-2))


def test_a_rival_tries_the_plain_controls_as_far_as_it_searches_what_they_are(config: StudyConfig) -> None:
    rows = [row(n, 0.5, point(lambda1, depth)) for n, lambda1, depth in ((0, 0.1, 3), (1, 0.2, 3), (2, 0.1, 1))]
    as_it_is = {"training.lr": 1e-3, "training.init": "default", "training.lr_schedule": "constant"}
    strongest = baseline_study(config, "strongest", 40)
    assert first_points(config, rows, strongest, {}) == [{"depth": 3, **as_it_is}, {"depth": 1, **as_it_is}]
    # No decay is nothing that a logarithmic range of decays has.
    assert first_points(config, rows[:1], baseline_study(config, "weight_decay", 40), {}) == [{"depth": 3}]
    # No dropout is what a network has by default.
    dropout = baseline_study(config, "dropout", 40)
    assert first_points(config, rows[:1], dropout, {"dropout": 0.0}) == [{"depth": 3, "model.dropout": 0.0}]


def test_an_initialisation_of_the_studys_own_is_among_those_of_the_strongest(study_config: MakeConfig) -> None:
    for config in (
        study_config(space=SPACE, training={"init": "lsuv"}),
        study_config(space={**SPACE, "training.init": "lsuv"}),
    ):
        strongest = baseline_study(config, "strongest", 5)
        assert strongest.space["training.init"] == Choices(choices=("default", "he", "orthogonal", "lsuv"))
        [first] = first_points(config, [row(0, 0.5, point(0.1, 2))], strongest, {})
        assert first["training.init"] == "lsuv"


def test_it_searches_the_studys_own_ranges_where_there_are_any(study_config: MakeConfig) -> None:
    own = {
        "training.lr": {"low": 0.5, "high": 0.6},
        "training.init": {"choices": ["he", "orthogonal"]},
        "training.weight_decay": {"low": 0.1, "high": 0.2},
        "model.dropout": {"low": 0.3, "high": 0.4},
    }
    config = study_config(space={**SPACE, **own})
    strongest = baseline_study(config, "strongest", 5).space
    assert {name: strongest[name] for name in own} == {name: config.space[name] for name in own}
    assert baseline_study(config, "dropout", 5).space["model.dropout"] == config.space["model.dropout"]
    assert (
        baseline_study(config, "weight_decay", 5).space["training.weight_decay"]
        == config.space["training.weight_decay"]
    )
    # What a method is, is not searched.
    assert baseline_study(config, "orthogonal", 5).space["training.init"] == "orthogonal"


def test_a_learning_rate_that_the_space_holds_is_where_the_strongest_starts(study_config: MakeConfig) -> None:
    rates = baseline_study(study_config(space={**SPACE, "training.lr": 0.1}), "strongest", 5).space["training.lr"]
    assert isinstance(rates, Range)
    assert rates.low < 0.1 < rates.high <= 1.0


def test_methods_have_their_strength_in_guidances_place(study_config: MakeConfig, config: StudyConfig) -> None:
    assert baseline_study(config, "dropout", 5).space["model.dropout"] == Range(low=0.0, high=0.5)
    assert baseline_study(config, "batch_norm", 5).space["model.batch_norm"] is True
    assert baseline_study(config, "orthogonal", 5).space["training.init"] == "orthogonal"
    assert baseline_study(config, "weight_decay", 5).space["training.weight_decay"] == Range(
        low=1e-6, high=1e-2, log=True
    )
    decoupled = study_config(space=SPACE, training={"optimizer": "adamw"})
    assert baseline_study(decoupled, "weight_decay", 5).space["training.weight_decay"] == Range(
        low=1e-3, high=1.0, log=True
    )


def test_where_nothing_is_left_to_search_one_trial_is_enough(study_config: MakeConfig) -> None:
    config = study_config(space={"lambda1": {"low": 1e-5, "high": 1e-1}, "depth": 2, "width": 8}, search=SEARCH)
    assert (
        baseline_study(config, "batch_norm", 40).search.trials,
        baseline_study(config, "batch_norm", 40).search.design,
    ) == (1, 1)
    assert baseline_study(config, "dropout", 40).search.trials == 40


@pytest.mark.parametrize("name", studyfile.built_in_names())
def test_the_shipped_studies_have_rivals_that_can_be_trained(name: str) -> None:
    path = studyfile.built_in(name)
    assert path is not None
    config, problems = studyfile.parse_study(studyfile.read_yaml(path.read_text(), name))
    assert config is not None, problems
    fit = [arm for arm in RIVALS if not check_names(baseline_study(config, arm, 3).model_dump())]
    assert {"strongest", "weight_decay", "orthogonal"} <= set(fit)


# -- what is trained in pairs ------------------------------------------------------------------------------------------


def test_configurations_are_the_best_trials_that_differ() -> None:
    raw: dict[str, Any] = {"name": "s", "model": {"name": "mlp"}, "data": {"name": "digits"}, "space": SPACE}
    config = StudyConfig.model_validate({**raw, "objective": {"metric": "val_loss", "direction": "minimize"}})
    again = row(20, 0.3, point(0.03, 3, epsilon=5.0, form="reciprocal"))  # trial 2's, enqueued once more
    assert [r.number for r in best_rows(config, [*search_rows(), again])] == [2, 1, 8, 7, 0]


def test_members_of_a_pair_differ_in_what_is_compared_and_in_nothing_else(config: StudyConfig) -> None:
    best = row(2, 0.1, point(0.03, 3))
    arms = pair_members(config, best, {"strongest": {"depth": 4}}, placebo=True)
    trials = {arm: config.trial(values, seed=7) for arm, values in arms.items()}
    assert list(trials) == ["guided", "plain", "placebo", "strongest"]
    assert set(trials) <= set(ARMS)
    assert trials["plain"] == config.trial(best.hyperparameters, seed=7).control.model_copy(
        update={"guidance": trials["plain"].guidance}
    )
    assert (trials["plain"].guidance.lambda1, trials["plain"].guidance.lambda2) == (0.0, 0.0)
    placebo = trials["guided"].guidance.model_copy(update={"placebo": True})
    assert trials["placebo"] == trials["guided"].model_copy(update={"guidance": placebo})
    assert list(pair_members(config, best, {}, placebo=False)) == ["guided", "plain"]


def test_arms_that_are_trained_alike_are_one_network(config: StudyConfig) -> None:
    best, defaults = row(2, 0.1, point(0.03, 3)), {"dropout": 0.0, "batch_norm": False}
    off = {"depth": 3, "width": 8, "lambda1": 0.0, "lambda2": 0.0}
    found: dict[Any, dict[str, Any]] = {
        "strongest": {**off, "training.lr": config.training.lr, "training.init": "default"},
        "dropout": {**off, "model.dropout": 0.0},
        "weight_decay": {**off, "training.weight_decay": 1e-4},
    }
    arms = pair_members(config, best, found, placebo=True)
    assert same_networks(config, arms, defaults) == {"strongest": "plain", "dropout": "plain"}
    inert = row(2, 0.1, {**point(0.03, 3), "lambda1": 0.0})
    assert same_networks(config, pair_members(config, inert, {}, placebo=False), defaults) == {"plain": "guided"}


def test_a_baselines_finalists_are_their_own_controls(config: StudyConfig) -> None:
    study = baseline_study(config, "strongest", 33)
    values = {"depth": 3, "training.lr": 0.1, "training.init": "he", "training.lr_schedule": "constant"}
    wanted = wanted_rows(study, [row(0, 0.1, values)])
    assert {kind for kind, *_ in wanted} == {"finalist"}
    assert [seed for _, _, seed, _ in wanted] == fresh_seeds(study)


def test_pairs_are_trained_seed_by_seed_on_seeds_that_nothing_else_has(
    config: StudyConfig, study_config: MakeConfig
) -> None:
    top = [row(2, 0.1, point(0.03, 3)), row(1, 0.2, point(0.02, 3)), row(7, 0.3, point(0.08, 1))]
    wanted = wanted_pairs(config, top, {"strongest": {"depth": 4}}, seeds=3, placebo=True)
    seeds = list(dict.fromkeys(seed for _, _, seed, _ in wanted))
    assert len(seeds) == 3
    most = study_config(training={"seed": 10}, search={"finalists": {"seeds": 1000}})
    assert not set(seeds) & {10, *fresh_seeds(most)}
    # Two of the three differ in guidance alone and share a control; all share the strongest.
    assert [(kind, of, seed == seeds[0]) for kind, of, seed, _ in wanted][:9] == [
        ("guided", 2, True),
        ("plain", 2, True),
        ("placebo", 2, True),
        ("strongest", 2, True),
        ("guided", 1, True),
        ("placebo", 1, True),
        ("guided", 7, True),
        ("plain", 7, True),
        ("placebo", 7, True),
    ]
    assert len(wanted) == 27
    # More of them go on where fewer ended.
    assert wanted_pairs(config, top, {"strongest": {"depth": 4}}, seeds=2, placebo=True) == wanted[:18]


def test_rows_are_found_by_what_they_are_and_what_they_were_trained_with() -> None:
    values = point(0.03, 3)
    rows = [
        row(0, 0.1, values, kind="guided", seed=5),
        row(1, 0.1, values, kind="finalist", seed=6),
        row(2, 0.1, point(0.03, 4), kind="guided", seed=6),
        row(3, None, values, kind="guided", seed=7, state="running", outcome=None),
        row(4, None, values, kind="guided", seed=8, outcome="diverged"),
    ]
    assert {seed: r.number for seed, r in trained("guided", values, rows).items()} == {5: 0, 8: 4}
