"""The health of a study: each sentence on results that are made to show it, and silence on results that are not."""

from __future__ import annotations

import dataclasses
import math
import re
import shlex
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import f_oneway, mannwhitneyu, spearmanr

from sweep.analysis.health import CHECKS, health
from sweep.analysis.sensitivity_result import Analysis, Index
from sweep.analysis.summary import Summary
from sweep.config.search_space import Choices, Range
from sweep.config.study_config import StudyConfig
from sweep.config.study_file import override, parse_study
from sweep.study.records import TrialRecord

from ..support.records import row

LR: dict[str, Any] = {"low": 1e-4, "high": 1e-2, "log": True}
EPOCHS = 10
Rows = Sequence[TrialRecord]


def study(space: dict[str, Any] | None = None, **search: Any) -> StudyConfig:
    return StudyConfig.model_validate(
        {
            "name": "made",
            "model": {"name": "mlp"},
            "data": {"name": "digits"},
            "objective": {"metric": "val_loss", "direction": "minimize"},
            "space": {"depth": 2, "width": 8, "lambda1": 0.0, "training.lr": LR, **(space or {})},
            "training": {"max_epochs": EPOCHS},
            "search": {"trials": 64, "finalists": {"top": 3, "seeds": 3}, **search},
        }
    )


def sentences(check: str, config: StudyConfig, rows: Rows, controls: Rows = (), **found: Any) -> list[str]:
    summary = Summary.of(config, list(rows), list(controls))
    summary = Summary(**{**vars(summary), **found})
    return [each.sentence for each in health(summary, checks=[check])]


def changed(config: StudyConfig, sentence: str) -> StudyConfig:
    """Returns the study that the command at the end of a sentence is about."""
    words = shlex.split(sentence[sentence.index("sweep run made") :])
    assert words[:4] == ["sweep", "run", "made", "--new-space"]
    raw, problems = override(config.model_dump(mode="json", exclude_defaults=True), words[words.index("--set") + 1 :])
    found, more = parse_study(raw)
    assert found is not None, [*problems, *more]
    return found


def uniform(config: StudyConfig, n: int, value: Callable[[dict[str, Any]], float]) -> list[TrialRecord]:
    """Returns n completed trials at uniform points."""
    random, rows = np.random.default_rng(0), []
    for number in range(n):
        drawn: dict[str, Any] = {}
        for name, dimension in config.searched.items():
            if isinstance(dimension, Choices):
                drawn[name] = dimension.choices[random.integers(len(dimension.choices))]
            elif dimension.log:
                drawn[name] = float(np.exp(random.uniform(np.log(dimension.low), np.log(dimension.high))))
            elif dimension.step or dimension.is_int:
                step = dimension.step or 1
                drawn[name] = dimension.low + step * int(random.integers((dimension.high - dimension.low) // step + 1))
            else:
                drawn[name] = float(random.uniform(dimension.low, dimension.high))
        rows.append(row(number, value(drawn), drawn))
    return rows


EDGES: list[tuple[str, dict[str, Any], int, dict[str, Any]]] = [
    ("training.lr", LR, 1, {"low": 1e-4, "high": 0.1}),
    ("training.lr", LR, -1, {"low": 1e-5, "high": 1e-2}),
    ("depth", {"low": 2, "high": 6}, 1, {"low": 2, "high": 8}),
    ("depth", {"low": 2, "high": 8, "step": 2}, 1, {"low": 2, "high": 12}),
    ("depth", {"low": 4, "high": 8}, -1, {"low": 2, "high": 8}),
    ("width", {"low": 64, "high": 256, "log": True}, 1, {"low": 64, "high": 512}),
    ("width", {"choices": [8, 16, 32]}, 1, {"choices": (8, 16, 32, 64)}),
    ("width", {"choices": [8, 16, 32]}, -1, {"choices": (4, 8, 16, 32)}),
    ("model.dropout", {"low": 0.1, "high": 0.5}, 1, {"low": 0.1, "high": 0.75}),
    ("model.dropout", {"low": 0.2, "high": 0.5}, -1, {"low": 0.1, "high": 0.5}),
    ("training.weight_decay", {"low": 1.0, "high": 3.0}, 1, {"low": 1.0, "high": 4.0}),
]


@pytest.mark.parametrize(("name", "dimension", "towards", "wider"), EDGES)
def test_the_best_on_an_edge(name: str, dimension: dict[str, Any], towards: int, wider: dict[str, Any]) -> None:
    config = study({"training.lr": 1e-3, name: dimension, "lambda2": {"low": 0.1, "high": 0.9}})
    rows = uniform(config, 200, lambda at: -towards * at[name] + 1e-9 * (997 * at["lambda2"] % 1))
    [sentence] = sentences("edge", config, rows)
    side = ("low", "high")[towards > 0] if "low" in dimension else ("least choice", "largest choice")[towards > 0]
    assert re.match(rf"[45] of the 5 best configurations lie on the edge of .* at the {side} of {name} \(", sentence)
    space = changed(config, sentence).space
    assert {key: getattr(space[name], key) for key in wider} == wider
    before = config.searched[name]
    assert not isinstance(before, Range) or getattr(space[name], "log", None) == before.log


@pytest.mark.parametrize(
    ("name", "dimension", "towards"),
    [
        ("depth", {"low": 1, "high": 6}, -1),  # no network has less
        ("depth", {"low": 2, "high": 8, "step": 2}, -1),  # nor an autoencoder
        ("lambda1", {"low": 0.0, "high": 0.5}, -1),
        ("model.dropout", {"low": 0.0, "high": 0.5}, -1),
        ("model.dropout", {"low": 0.5, "high": 1.0}, 1),
        ("model.activation", {"choices": ["relu", "gelu", "tanh"]}, 0),
        ("model.batch_norm", {"choices": [False, True]}, 1),
    ],
)
def test_a_natural_bound_is_no_edge(name: str, dimension: dict[str, Any], towards: int) -> None:
    config = study({"training.lr": 1e-3, name: dimension})
    rows = uniform(config, 200, lambda at: -towards * at[name] if towards else float(at[name] != "tanh"))
    assert sentences("edge", config, rows) == []


def test_an_optimum_inside_is_no_edge() -> None:
    config = study({"depth": {"low": 1, "high": 7}, "width": {"choices": [8, 16, 32]}})

    def value(at: dict[str, Any]) -> float:
        return abs(math.log10(at["training.lr"]) + 3) + abs(at["depth"] - 4) + abs(at["width"] - 16)

    rows = uniform(config, 200, value)
    assert sentences("edge", config, rows) == []


def test_no_edge_of_few_trials_nor_of_what_hardly_matters() -> None:
    config = study()
    rows = uniform(config, 60, lambda at: -at["training.lr"])
    assert len(sentences("edge", config, rows)) == 1
    assert sentences("edge", config, rows[:19]) == []
    idle = Index(0.01, (0.0, 0.02), 0.01, (0.0, 0.02))
    analysis = analysed({"training.lr": idle})
    assert sentences("edge", config, rows, analysis=analysis) == []


def analysed(parameters: dict[str, Index]) -> Analysis:
    return Analysis(
        "made", "val_loss", EPOCHS, 64, 64, 0, 0, trusted=True, strength="quantitative", parameters=parameters
    )


def repeated(effect: float, points: int = 16) -> list[TrialRecord]:
    """Returns trials of configurations on two seeds each, whose noise has a standard deviation of 1."""
    random, rows = np.random.default_rng(1), []
    for point in range(points):
        for seed in (0, 1):
            value = effect * point / points + random.normal()
            rows.append(row(len(rows), value, {"training.lr": 1e-4 * (1 + point)}, seed=seed, design=True))
    return rows


def test_no_effect_beyond_noise() -> None:
    config, idle = study(), repeated(0.0)
    [sentence] = sentences("effect", config, idle)
    pairs = [[each.value for each in idle[i : i + 2]] for i in range(0, len(idle), 2)]
    assert f"p = {f_oneway(*pairs).pvalue:.2f})" in sentence
    assert sentences("effect", config, repeated(20.0)) == []
    assert sentences("effect", config, repeated(0.0, points=9)) == []  # too few
    one_seed = [row(i, float(i % 7), {"training.lr": 1e-4 * (1 + i)}) for i in range(32)]
    assert sentences("effect", config, one_seed) == []  # nothing is known of the noise


def test_no_effect_by_a_trusted_sensitivity() -> None:
    small, large = (Index(x, (x, x), x, (x, x)) for x in (0.02, 0.8))
    for parameters, said in ({"training.lr": small}, 1), ({"training.lr": small, "depth": large}, 0):
        found = sentences("effect", study(), repeated(20.0), analysis=analysed(parameters))
        assert len(found) == said


def test_what_is_searched_may_not_be_used() -> None:
    rows = uniform(study(), 20, lambda _: 0.25)
    assert "is what was searched used" in sentences("effect", study(), rows)[0]
    assert sentences("effect", study(), uniform(study(), 20, lambda at: at["training.lr"])) == []


def curve(final: float, early: float) -> dict[int, float]:
    """Returns values that go from an early one to the final one, at each epoch."""
    return {epoch: early + (final - early) * (epoch - 1) / (EPOCHS - 1) for epoch in range(1, EPOCHS + 1)}


def trained(number: int, reported: dict[int, float], **changes: Any) -> TrialRecord:
    value = reported.get(EPOCHS)
    seconds = {"trained": max(reported), "seconds": 360.0 * max(reported)}
    fields = {"reported": reported, "epochs": max(reported), **seconds, **changes}
    return row(number, value, {"training.lr": 1e-4 * (1 + number)}, **fields)


ALIKE = [trained(i, curve(i % 20 / 20, 1 + i % 20 / 20), design=True) for i in range(20)]


def test_a_pruner_that_stops_the_winner() -> None:
    late = trained(20, curve(-1.0, 9.0), design=True)
    rows = [*ALIKE, late]
    [sentence] = sentences("pruning", study(), rows)
    stop = next(
        epoch
        for epoch in range(2, EPOCHS)  # the median pruner warms up for a fifth of the epochs
        if min(v for e, v in late.reported.items() if e <= epoch) > statistics.median(r.reported[epoch] for r in ALIKE)
    )
    assert f"stops the best of them at epoch {stop}," in sentence
    truth = spearmanr([r.reported[stop] for r in rows], [r.value for r in rows]).statistic
    assert f"correlation of {truth:.2f} " in sentence
    assert "The best that it leaves is 1 worse" in sentence  # -1 against 0
    assert sentence.endswith("sweep run made --set search.pruner=none --trials 42")
    for config in (study(pruner="none"), study(pruner="median")):
        assert sentences("pruning", config, [*ALIKE[:9], late] if config.search.pruner == "median" else rows) == []


@pytest.mark.parametrize("pruner", ["median", "successive_halving", "hyperband"])
def test_a_pruner_that_saves_nothing(pruner: str) -> None:
    config = study(pruner=pruner)
    whole = [trained(20 + i, curve(0.1, 1.1)) for i in range(16)]
    [sentence] = sentences("pruning", config, [*ALIKE, *whole])
    assert "Pruning has saved nothing: 0 epochs" in sentence
    assert "rank correlation 1.00" in sentence
    pruned = [trained(20 + i, {1: 2.0, 2: 1.9}, outcome="pruned") for i in range(4)]
    assert sentences("pruning", config, [*ALIKE, *whole, *pruned]) == []
    assert sentences("pruning", config, [*ALIKE, *whole[:15]]) == []  # too few that could have been pruned


def drawn(n: int, shift: float = 0.0, **changes: Any) -> list[TrialRecord]:
    values = np.random.default_rng(n).normal(size=n) + shift
    return [row(i, float(v), {"training.lr": 1e-4 * (1 + i)}, **changes) for i, v in enumerate(values)]


def test_a_search_no_better_than_its_design() -> None:
    design, later, better = drawn(32, design=True), drawn(33), drawn(34, shift=-1.0)
    [sentence] = sentences("search", study(sampler="tpe"), [*design, *later])
    values = [[each.value for each in rows] for rows in (later, design)]
    truth = mannwhitneyu(*values, alternative="less", method="asymptotic", use_continuity=False)
    assert f"p = {truth.pvalue:.2f}, 33 trials)" in sentence
    assert sentences("search", study(sampler="tpe"), [*design, *better]) == []
    assert sentences("search", study(sampler="random"), [*design, *later]) == []  # it is one
    assert sentences("search", study(sampler="tpe"), [*design, *later[:15]]) == []  # too few
    upwards = study(sampler="tpe").model_copy(
        update={"objective": study().objective.model_copy(update={"direction": "maximize"})}
    )
    assert len(sentences("search", upwards, [*design, *better])) == 1


def test_pruned_trials_are_compared_at_their_own_epoch() -> None:
    """All of the search is better than the design at epoch 2, though its values there are above the design's last."""
    good = [trained(20 + i, {1: 1.0, 2: 0.87}, outcome="pruned") for i in range(16)]
    bad = [trained(20 + i, {1: 2.0, 2: 1.9}, outcome="pruned") for i in range(16)]
    assert sentences("search", study(), [*ALIKE, *good]) == []
    assert len(sentences("search", study(), [*ALIKE, *bad])) == 1
    gone = [row(40 + i, None, {"training.lr": 1e-3}, outcome="diverged") for i in range(16)]
    assert "beats 0 % of" in sentences("search", study(), [*ALIKE, *gone])[0]


def finalists(config: StudyConfig, rows: Rows, sd: float) -> list[TrialRecord]:
    """Returns the finalists' runs; of each the values have this standard deviation."""
    best = sorted(rows, key=lambda each: each.value or 0.0)[: config.search.finalists.top]
    return [
        row(3 * i + j, each.value + sd * (j - 1), each.hyperparameters, kind="finalist", of=each.number, seed=1 + j)
        for i, each in enumerate(best)
        for j in range(3)
        if each.value is not None
    ]


def test_noise_larger_than_the_differences() -> None:
    config, rows = study(), uniform(study(), 20, lambda at: 100 * at["training.lr"])
    values = sorted(each.value or 0.0 for each in rows)
    apart = values[4] - values[0]
    [sentence] = sentences("noise", config, rows, finalists(config, rows, 10 * apart))
    assert (
        f"varies by {10 * apart:.3g} between seeds (standard deviation), the 5 best differ by {apart:.3g}" in sentence
    )
    assert sentences("noise", config, rows, finalists(config, rows, 0.5 * apart)) == []
    assert sentences("noise", config, rows) == []  # nothing is known of it


def test_a_training_that_does_not_use_its_seed() -> None:
    rows = [row(i, 0.1 * i, {"training.lr": 1e-4 * (1 + i)}) for i in range(4)]
    again = [row(10 + i, 0.1 * i, {"training.lr": 1e-4 * (1 + i)}, seed=5000, repeat_of=i) for i in range(3)]
    [sentence] = sentences("noise", study(), rows + again)
    assert sentence.startswith("3 configurations have the same val_loss on each of their seeds")
    assert sentences("noise", study(), rows + again[:2]) == []
    perfect = [replace(each, value=1.0) for each in rows + again]
    assert sentences("noise", study(), perfect) == [], "the metric may have no room"
    other = row(13, 0.31, {"training.lr": 4e-4}, seed=5000, repeat_of=3)
    assert sentences("noise", study(), [*rows, *again, other]) == []


@pytest.mark.parametrize("outcome", ["diverged", "collapsed"])
def test_a_part_of_the_space_where_trials_are_lost(outcome: str) -> None:
    config = study({"width": {"choices": [8, 16]}})
    kept = uniform(config, 64, lambda _: 0.5)
    lost = [
        row(r.number, None, r.hyperparameters, outcome=outcome) for r in kept if r.hyperparameters["training.lr"] > 5e-3
    ]  # type: ignore[operator]
    rows = [next((each for each in lost if each.number == r.number), r) for r in kept]
    [sentence] = sentences("lost", config, rows)
    assert f"have {outcome}, 0 of the other" in sentence
    least = min(each.hyperparameters["training.lr"] for each in lost)  # type: ignore[type-var]
    assert f"trials with training.lr >= {least:.3g} " in sentence
    narrower = changed(config, sentence).searched["training.lr"]
    assert isinstance(narrower, Range)
    assert narrower.high < least  # type: ignore[operator]
    assert narrower.high == max(r.hyperparameters["training.lr"] for r in rows if r.outcome == "completed")  # type: ignore[type-var]


def test_a_choice_with_which_trials_are_lost() -> None:
    config = study({"training.init": {"choices": ["default", "he"]}})
    rows = uniform(config, 40, lambda _: 0.5)
    rows = [
        row(
            r.number,
            0.5,
            r.hyperparameters,
            outcome=("completed", "diverged")[r.hyperparameters["training.init"] == "he"],
        )
        for r in rows
    ]
    [sentence] = sentences("lost", config, rows)
    assert "trials with training.init = he have diverged, 0 of the other" in sentence
    assert changed(config, sentence).space["training.init"] == "default"


def test_trials_that_are_lost_anywhere() -> None:
    config = study({"width": {"choices": [8, 16]}, "depth": {"low": 1, "high": 5}})
    rows = uniform(config, 64, lambda _: 0.5)
    rows = [row(r.number, 0.5, r.hyperparameters, outcome=("diverged", "completed")[r.number % 4 > 0]) for r in rows]
    assert sentences("lost", config, rows) == []
    assert sentences("lost", config, rows[:1]) == []


def test_trials_with_the_numbers_of_a_twin_are_no_more_of_them() -> None:
    config = study({"width": {"choices": [8, 16]}})
    few = [row(n, None, {"width": 16, "training.lr": 1e-3}, outcome="diverged") for n in range(2)]
    kept = [row(n, 0.5, {"width": 8, "training.lr": 1e-3}) for n in range(2, 42)]
    copies = [dataclasses.replace(few[0], number=n, twin=0) for n in range(42, 62)]
    assert sentences("lost", config, [*few, *kept, *(dataclasses.replace(each, twin=None) for each in copies)])
    assert sentences("lost", config, [*few, *kept, *copies]) == []


def test_more_trials_would_help() -> None:
    design = drawn(32, design=True)
    [sentence] = sentences("budget", study(), design)
    draws = np.random.default_rng(0).choice([each.value for each in design], size=(200_000, 32))
    best, half = draws.min(axis=1).mean(), draws[:, :16].min(axis=1).mean()
    said = re.search(r"at val_loss (\S+) \[.*\] \(middle 90 %\), (\S+) better than the best of 16;", sentence)
    assert said is not None
    assert float(said[1]) == pytest.approx(best, abs=0.01)
    assert float(said[2]) == pytest.approx(half - best, abs=0.01)
    assert sentence.endswith("sweep run made --trials 64")
    assert sentences("budget", study(), design[:15]) == []
    noisy = finalists(study(), design, 1.0)
    assert sentences("budget", study(), design, noisy) == []  # the gain is lost in the noise
    assert sentences("budget", study(), uniform(study(), 32, lambda _: 0.5)) == []


odd = st.one_of(st.none(), st.floats(), st.just(0.5), st.just(1e308))
hyper = st.fixed_dictionaries(
    {},
    optional={
        "training.lr": st.one_of(st.floats(), st.sampled_from([1e-4, 1e-3, 1e-2])),
        "depth": st.integers(-2, 9),
        "width": st.sampled_from([8, 16, 99]),
    },
)
records = st.builds(
    row,
    st.just(0),
    odd,
    hyper,
    outcome=st.sampled_from(["completed", "completed", "pruned", "diverged", "collapsed", "failed"]),
    state=st.sampled_from(["finished", "finished", "running"]),
    design=st.booleans(),
    seed=st.integers(0, 2),
    epochs=st.integers(0, EPOCHS),
    reported=st.dictionaries(st.integers(1, EPOCHS), st.floats(), max_size=4),
)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(records, max_size=8),
    st.integers(1, 6),
    st.lists(records, max_size=4),
    st.sampled_from(["minimize", "maximize"]),
    st.sampled_from(["median", "hyperband", "none"]),
)
def test_it_never_raises(some: Rows, times: int, controls: Rows, direction: str, pruner: str) -> None:
    config = study({"depth": {"low": 1, "high": 4}, "width": {"choices": [8, 16]}}, pruner=pruner)
    objective = config.objective.model_copy(update={"direction": direction})
    rows = [TrialRecord(**{**vars(each), "number": i}) for i, each in enumerate([*some] * times)]
    again = [TrialRecord(**{**vars(each), "kind": "finalist"}) for each in controls]
    found = health(Summary.of(config.model_copy(update={"objective": objective}), rows, again))
    assert {each.check for each in found} <= CHECKS.keys()
