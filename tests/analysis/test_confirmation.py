"""The stored form of a confirmation: its keys are those of the evidence in this repository."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from sweep.analysis.confirmation import BaselineResult, Confirmation, baseline_origin
from sweep.analysis.paired_comparison import apply_holm, compare_pairs
from sweep.analysis.speedup import Member
from sweep.config.sections import Objective
from sweep.training.reports import EpochMetrics

EVIDENCE = Path(__file__).parents[1] / "evidence" / "RESULTS"
STORED = {
    path.stem: confirmed
    for path in sorted(EVIDENCE.glob("*.json"))
    if (confirmed := json.loads(path.read_text()).get("confirm")) is not None
}
COMPARISON_KEYS = {
    "number", "first", "second", "seeds", "diverged", "survival", "levels", "gaps", "final", "best", "speedup",
    "speedup_seconds", "speedup_whole", "never", "needed", "verdict",
    "collapsed", "target", "never_second", "needed_for", "needed_range", "same_as", "equivalent_within",
}  # fmt: skip


def test_the_stored_keys_are_those_that_other_programs_read() -> None:
    def runs(*finals: float) -> dict[int, Member]:
        metrics = [{"test_loss": final, "train_loss": final / 2, "seconds": 1.0} for final in finals]
        return {seed: Member([EpochMetrics(1, each, 0)]) for seed, each in enumerate(metrics)}

    comparison = compare_pairs(3, ("guided", "plain"), (runs(1, 2), runs(3, 5)), Objective(
        metric="val_loss", direction="minimize"
    ))  # fmt: skip
    baseline = BaselineResult("strongest", "s.confirm.strongest", 4, 3, 1, {"training.lr": 0.1})
    data = Confirmation(
        "s", "test_loss", "minimize", {3: {"lambda1": 0.1}}, [baseline], apply_holm([comparison]), [], 4, 99
    ).as_data()
    assert set(data) == {
        "study", "metric", "direction", "configurations", "rivals", "comparisons", "notes", "rows", "ended",
        "expected_best", "missing",
    }  # fmt: skip
    assert set(data["rivals"][0]) == {"arm", "study", "trials", "completed", "number", "hyperparameters"}
    [stored] = data["comparisons"]
    assert set(stored) == COMPARISON_KEYS
    for name in ("final", "best", "speedup", "speedup_seconds", "speedup_whole"):
        assert set(stored[name]) == {"values", "value", "low", "high", "p", "p_holm", "clear", "note"}
    assert (stored["levels"], stored["gaps"], stored["final"]["values"]) == ([1.5, 4.0], [0.75, 2.0], [2.0, 3.0])
    assert json.loads(json.dumps(data)) == data


@pytest.mark.parametrize("stored", STORED.values(), ids=STORED)
def test_what_was_stored_keeps_its_pairs_and_is_judged_anew(stored: dict[str, Any]) -> None:
    """Old ones have the bootstrap's intervals, a family for each opponent, and speed-ups to another target."""
    read = Confirmation.from_data(stored)
    again = read.as_data()
    assert Confirmation.from_data(again).as_data() == again
    kept = ("study", "metric", "direction", "configurations", "rivals", "rows", "ended")
    assert {key: again[key] for key in kept} == {key: stored[key] for key in kept}
    assert again["notes"][: len(stored["notes"])] == stored["notes"]
    for before, after in zip(stored["comparisons"], again["comparisons"], strict=True):
        for key in ("number", "first", "second", "seeds", "diverged", "never"):
            assert after[key] == before[key] or after["same_as"]
        if after["same_as"] is None:
            assert after["levels"] == before["levels"]
            assert after["final"]["values"] == before["final"]["values"]
            assert after["final"]["p"] == pytest.approx(before["final"]["p"], rel=1e-9) or skewed(before)
    guided = [c for c in read.comparisons if c.first == "guided" and c.same_as is None and c.final.p is not None]
    smallest = min(guided, key=lambda c: c.final.p or 0.0)
    assert smallest.final.p_holm == pytest.approx(min(1.0, len(guided) * (smallest.final.p or 0.0)))
    if "target" not in stored["comparisons"][0]:
        assert math.isnan(guided[0].speedup.value)
        assert "measure them anew from the checkpoints, without training" in read.notes[-1]


def skewed(comparison: dict[str, Any]) -> bool:
    """Returns True where the tail on the side of 0 is the longer one, which makes p larger than the t-test's."""
    values = comparison["final"]["values"]
    mean = sum(values) / len(values)
    return sum((v - mean) ** 3 for v in values) * mean < 0


def test_the_strongest_that_is_the_plain_control_is_named() -> None:
    """The CNN of ten layers: eight differences of exactly 0, reported as two comparisons."""
    stored = STORED["cifar10-cnn-d10"]
    found = {(c.first, c.second): c for c in Confirmation.from_data(stored).comparisons}
    assert found["guided", "strongest"].same_as == "plain"
    assert found["strongest", "plain"].same_as == "strongest"
    assert found["guided", "plain"].same_as is None


def test_a_study_of_seven_opponents_claims_after_correction_for_all_of_them() -> None:
    """Two of its verdicts were of families of one."""
    before, after = STORED["mnist-tuned-d08"], Confirmation.from_data(STORED["mnist-tuned-d08"])
    was = {(c["first"], c["second"]): c["verdict"] for c in before["comparisons"]}
    now = {(c.first, c.second): c.verdict for c in after.comparisons}
    assert (was["guided", "orthogonal"], now["guided", "orthogonal"]) == ("worse", "not shown")


def test_pairs_that_are_lost_are_tested_from_what_is_stored() -> None:
    """Of nine pairs the first member alone is lost in none, the second alone in eight, both in one: 2 / 256."""
    lost, whole = Member([], diverged=True), Member([EpochMetrics(1, {"test_loss": 1.0, "train_loss": 1.0}, 0)])
    first, second = dict.fromkeys(range(8), whole) | {8: lost}, dict.fromkeys(range(9), lost)
    c = compare_pairs(0, ("guided", "plain"), (first, second), Objective(metric="loss", direction="minimize"))
    data = Confirmation("s", "test_loss", "minimize", {}, [], apply_holm([c]), [], 0, 0).as_data()
    assert data["comparisons"][0]["survival"] == pytest.approx(2 / 256)
    assert Confirmation.from_data(data).comparisons[0].mcnemar_p == pytest.approx(2 / 256)


def test_numbers_that_are_missing_are_none_in_the_file_and_nan_in_the_program() -> None:
    empty: dict[int, Member] = {}
    comparison = compare_pairs(0, ("guided", "plain"), (empty, empty), Objective(metric="loss", direction="minimize"))
    data = Confirmation("s", "test_loss", "minimize", {}, [], [comparison], [], 0, 0).as_data()
    assert data["comparisons"][0]["levels"] == [None, None]
    [read] = Confirmation.from_data(data).comparisons
    assert all(map(math.isnan, (*read.final_means, *read.generalization_gaps, read.final.value)))
    assert (read.verdict, read.final.note) == ("not shown", "no pairs")


def test_a_baseline_says_where_it_comes_from() -> None:
    none = BaselineResult("batch_norm", "s.confirm.batch_norm", 1, 0, None, {})
    assert baseline_origin(none) == "Batch normalisation: none of the 1 trial of s.confirm.batch_norm has completed."
    one = BaselineResult("he", "s.confirm.he", 1, 1, 0, {"training.lr": 0.1})
    assert (
        baseline_origin(one)
        == "He initialisation is the best of one trial of s.confirm.he, 1 completed: training.lr=0.1."
    )
