"""A trial in the process that trains it."""

from __future__ import annotations

from collections.abc import Iterator

from sweep.execution.worker import next_report
from sweep.training.reports import TrialReport


def test_the_error_of_a_trial_gives_no_terminal_or_page_an_order() -> None:
    """It goes to storage, MLflow, terminal, page and CSV as it is reported."""

    def trial() -> Iterator[TrialReport]:
        raise RuntimeError("boom \x1b]0;TITLE\x07 \x1b[31mred")
        yield

    error = next_report(trial()).error
    assert error is not None
    assert error.endswith("RuntimeError: boom \\x1b]0;TITLE\\x07 \\x1b[31mred\n")
    assert "\n  File" in error
