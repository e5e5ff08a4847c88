"""Tables and verdicts of a confirmation, from pairs made by hand."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.console import Console

from sweep.analysis.confirmation import BaselineResult, Confirmation
from sweep.analysis.expected_best import BestOfN
from sweep.analysis.paired_comparison import apply_holm, compare_pairs
from sweep.analysis.speedup import Member
from sweep.cli.tables import print_confirmation
from sweep.config.sections import Objective
from sweep.training.reports import EpochMetrics

LOSS = Objective(metric="val_loss", direction="minimize")


def runs(finals: Sequence[float], *, diverged: int = 0) -> dict[int, Member]:
    """Runs of three epochs: 3, 2, and each its final test loss; the last ones have diverged."""
    curves = [[{"test_loss": x, "train_loss": x / 2, "seconds": 1.0} for x in (3.0, 2.0, final)] for final in finals]
    histories = [[EpochMetrics(e, values, 0) for e, values in enumerate(curve, 1)] for curve in curves]
    return {i: Member(h, diverged=i >= len(finals) - diverged) for i, h in enumerate(histories)}


def shown(first: dict[int, Member], second: dict[int, Member], found: BaselineResult | None = None) -> str:
    [comparison] = apply_holm([compare_pairs(17, ("guided", "strongest"), (first, second), LOSS)])
    confirmation = Confirmation(
        study="digits",
        metric="test_loss",
        direction="minimize",
        configurations={17: {"lambda1": 0.1}},
        baselines=[found] if found else [],
        comparisons=[comparison],
        notes=["digits is not over"],
        rows=12,
        ended=0,
        expected_best={"guided": BestOfN(3, 0, [0.5, 0.4, 0.3], [0.1, 0.1, 0.1], [0.9, 0.7, 0.5])},
    )
    console = Console(file=io.StringIO(), width=120)
    print_confirmation(confirmation, console)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def words(text: str) -> str:
    return " ".join(text.split())


def test_a_clear_gain() -> None:
    better, worse = runs([0.5, 0.52, 0.51, 0.49, 0.53]), runs([1.0, 1.1, 1.05, 0.95, 1.02])
    text = shown(
        better, worse, BaselineResult("strongest", "digits.confirm.strongest", 20, 18, 3, {"training.init": "he"})
    )
    assert "Trial 17 against the strongest control: better by 0.514 in test_loss (gain 0." in words(text)
    assert "after Holm, 5 pairs)" in words(text)
    assert (
        "The strongest control is the best of 20 trials of digits.confirm.strongest, 18 completed: training.init=he."
        in words(text)
    )
    assert "note: digits is not over" in text
    rows = [line for line in text.splitlines() if line.startswith("  17: guided over strongest")]
    assert len(rows) == 3
    assert rows[0].split()[4:7] == ["5", "0.51", "1.024"]
    assert "+0.514 [+0.4" in rows[0]
    assert rows[0].split()[-2:] == ["better", "-"]
    assert "1.00x" in rows[1]
    assert max(map(len, text.splitlines())) <= 120


def test_a_difference_that_is_not_shown_says_how_many_pairs_would_show_it() -> None:
    text = words(shown(runs([1.0, 0.9, 1.1, 0.8]), runs([1.0, 1.1, 0.9, 1.0])))
    assert "no difference shown in test_loss (gain " in text
    assert "4 pairs); a gain above 0." in text
    assert " pairs (" in text
    assert ") would show a gain of 0.01, 1%." in text
    assert " is excluded, equal within 0." in text
    assert "2 0.4 [0.1, 0.7]" in text


def test_one_pair_shows_nothing() -> None:
    text = words(shown(runs([0.5]), runs([1.0])))
    assert "no difference can be shown in test_loss: one pair has no interval." in text


def test_survivors_are_not_called_better() -> None:
    text = words(shown(runs([0.5, 0.52, 0.51, 0.49, 0.53, 0.5], diverged=1), runs([1.0, 1.1, 1.05, 0.95, 1.02, 1.0])))
    assert "no difference claimed in test_loss: the better ones are those that have not diverged or collapsed" in text
    assert "diverged: 1 guided, 0 of the others." in text
    assert "1.00x [never, 1.00x]" in text or "1.00x [1.00x, 1.00x]" in text


def test_a_baseline_that_was_not_found_is_said_so() -> None:
    text = shown({}, {}, BaselineResult("batch_norm", "digits.confirm.batch_norm", 4, 0, None, {}))
    assert "Batch normalisation: none of the 4 trials of digits.confirm.batch_norm has completed." in words(text)
    assert "no difference can be shown in test_loss: no pairs." in words(text)


def test_one_that_hardly_ever_gets_there_has_no_factor() -> None:
    slow, fast = [1.0, 1.1, 1.05, 0.95, 1.02, 1.01, 1.03, 0.97, 0.3], [0.5, 0.52, 0.51, 0.49, 0.53, 0.5, 0.47, 0.5, 0.4]
    assert "; never reaches 0.6166 in 8 of 9 pairs, the other in 0." in words(shown(runs(slow), runs(fast)))
