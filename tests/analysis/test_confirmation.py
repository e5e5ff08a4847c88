"""The stored form of a confirmation: its keys are those of the evidence in this repository."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from sweep.analysis.confirmation import BaselineResult, Confirmation, baseline_origin
from sweep.analysis.paired_comparison import Member, apply_holm, compare_pairs
from sweep.config.sections import Objective
from sweep.training.reports import EpochMetrics

EVIDENCE = Path(__file__).parents[1] / "evidence" / "RESULTS"
STORED = {
    path.stem: confirmed
    for path in sorted(EVIDENCE.glob("*.json"))
    if (confirmed := json.loads(path.read_text())["confirm"]) is not None
}
COMPARISON_KEYS = {
    "number", "first", "second", "seeds", "diverged", "survival", "levels", "gaps", "final", "best", "speedup",
    "speedup_seconds", "speedup_whole", "never", "needed", "verdict",
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
        "study", "metric", "direction", "configurations", "rivals", "comparisons", "notes", "rows", "ended"
    }  # fmt: skip
    assert set(data["rivals"][0]) == {"arm", "study", "trials", "completed", "number", "hyperparameters"}
    [stored] = data["comparisons"]
    assert set(stored) == COMPARISON_KEYS
    for name in ("final", "best", "speedup", "speedup_seconds", "speedup_whole"):
        assert set(stored[name]) == {"values", "value", "low", "high", "p", "p_holm", "clear", "note"}
    assert (stored["levels"], stored["gaps"], stored["final"]["values"]) == ([1.5, 4.0], [0.75, 2.0], [2.0, 3.0])
    assert json.loads(json.dumps(data)) == data


@pytest.mark.parametrize("stored", STORED.values(), ids=STORED)
def test_what_was_stored_is_read_and_stored_again_without_a_change(stored: dict[str, Any]) -> None:
    again = Confirmation.from_data(stored).as_data()
    for comparison in stored["comparisons"]:
        comparison.setdefault("survival", None)  # the first versions did not test it
    assert again == stored


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
