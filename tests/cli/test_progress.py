"""What a terminal or a log shows of a run's progress."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from sweep.cli.progress import LogLines
from sweep.study.records import TrialRecord

from ..conftest import MakeConfig
from ..study.test_finalists import row

FINALISTS = {"top": 2, "seeds": 2, "tuned": 3}  # 2 * 2 finalists, as many controls, 3 + 2 for the tuned one


@pytest.mark.parametrize(
    ("done", "left", "expected"),
    [
        ([], None, "digits: up to 17 to train, of 3 epochs at most; none ended before\n"),
        ([row(0, 0.5, {}), row(1, None, {}, outcome="pruned")], None, "up to 15 to train, of 3 epochs at most; 2 "),
        ([row(n, 0.5, {}) for n in range(4)], None, "up to 13 to train, of 3 epochs at most; 4 ended before"),
        ([row(n, 0.5, {}) for n in range(9)], None, "up to 13 to train, of 3 epochs at most; 9 ended before"),
        ([row(n, 0.5, {}, kind="finalist" if n > 3 else "trial") for n in range(14)], None, "up to 3 to train"),
        ([row(n, 0.5, {}, kind="finalist" if n > 1 else "trial") for n in range(14)], None, "up to 15 to train"),
        ([], 6, "up to 6 to train"),
    ],
)
def test_a_log_begins_with_what_is_to_come(
    study_config: MakeConfig, done: list[TrialRecord], left: int | None, expected: str
) -> None:
    config = study_config(name="digits", search={"trials": 4, "finalists": FINALISTS}, training={"max_epochs": 3})
    shown = io.StringIO()
    lines = LogLines(config, Console(file=shown, width=200), done, left)
    assert not shown.getvalue(), "a run may still be refused"
    for number in (0, 1):
        lines.on_trial_start(SimpleNamespace(key=("digits", number)))  # type: ignore[arg-type]
    assert expected in shown.getvalue()
    assert len(shown.getvalue().splitlines()) == 1
