"""A run's progress in a terminal and in a log."""

from __future__ import annotations

import io
import json
import re
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from sweep.cli.progress import JsonLines, LiveView, LogLines
from sweep.config.settings import Settings
from sweep.config.study_config import StudyConfig
from sweep.study.records import TrialRecord
from sweep.training.reports import EpochMetrics

from ..conftest import MakeConfig
from ..support.records import row

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


def a_trial(config: StudyConfig, number: int, **facts: Any) -> Any:
    trial = {"study": config.name, "number": number, "key": (config.name, number), "kind": "trial", "config": config}
    values = {"lambda1": 1.1002632709e-05, "lambda2": 7.97864475e-05, "epsilon": 0.0123456, "depth": 4, "width": 128}
    return SimpleNamespace(
        **{
            **trial,
            "hyperparameters": values,
            "epochs": 0,
            "reported": 0,
            "best": None,
            "twin": None,
            "repeat_of": None,
            **facts,
        }
    )


def lines_of(view: LiveView, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    view.console = console
    console.print(view._render())
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined, no-any-return]


def test_the_line_of_a_trial_says_whose_numbers_it_took(study_config: MakeConfig) -> None:
    config, shown = study_config(name="digits"), io.StringIO()
    lines = LogLines(config, Console(file=shown, width=200), [], None)
    for number, twin in ((3, None), (4, row(3, 0.5, {}))):
        lines.on_trial_end(a_trial(config, number, best=0.5, twin=twin), "completed", None)
    first, second = shown.getvalue().splitlines()
    assert first.startswith("digits-0003 trial completed")
    assert "numbers of" not in first
    assert second.endswith("(the numbers of trial 3)")
    again = a_trial(config, 5, best=0.5, repeat_of=3)
    again.config = config.trial({}, seed=5000)
    lines.on_trial_end(again, "completed", None)
    assert shown.getvalue().endswith("(trial 3 on seed 5000)\n")


@pytest.mark.parametrize("width", [60, 80, 160])
def test_the_live_view_cuts_no_digit(study_config: MakeConfig, width: int) -> None:
    config = study_config(name="mnist-autoencoder", training={"max_epochs": 20})
    view = LiveView(config, Console(file=io.StringIO(), width=width), [row(n, 0.5, {}) for n in range(3)])
    for number in (1207, 1208):
        view.on_trial_start(a_trial(config, number))
        view.on_epoch_end(a_trial(config, number), EpochMetrics(12, {"val_loss": 0.123456}, 0))
    lines = lines_of(view, width)
    assert max(map(len, lines)) <= width
    assert "…" not in "\n".join(lines)
    for number in (1207, 1208):
        [line] = [line for line in lines if f"mnist-autoencoder-{number}" in line]
        assert "epoch 12/20" in line
        assert "val_loss 0.12346" in line
        assert (" trial " in line) == (width > 60), "what does not fit is left out"
        assert ("width=128" in line) == (width == 160)


def test_before_the_first_epoch_the_phase_is_shown(study_config: MakeConfig) -> None:
    config = study_config(name="digits", training={"max_epochs": 3})
    view = LiveView(config, Console(file=io.StringIO()))
    view.on_phase("starting Ray")
    assert "starting Ray ..." in " ".join(lines_of(view, 80))
    view.on_phase("starting workers")
    view.on_trial_start(a_trial(config, 0))
    text = " ".join(lines_of(view, 80))
    assert "starting workers ..." in text
    assert re.search(r"0/\d+ trials +0 s", text), "the elapsed time is shown"
    view.on_epoch_end(a_trial(config, 0), EpochMetrics(1, {"val_loss": 0.5}, 0))
    assert "estimating" in " ".join(lines_of(view, 80))


def test_a_resumed_trial_stands_at_the_epoch_it_has_reached(study_config: MakeConfig) -> None:
    config = study_config(name="digits", training={"max_epochs": 15})
    view = LiveView(config, Console(file=io.StringIO()))
    view.on_trial_start(a_trial(config, 0, reported=13))
    assert "epoch 13/15" in " ".join(lines_of(view, 80))


def test_the_live_view_says_that_it_stops(study_config: MakeConfig) -> None:
    stop = threading.Event()
    view = LiveView(study_config(name="digits"), Console(file=io.StringIO()), stop=stop)
    stop.set()
    assert "waiting for the running trials' checkpoints" in " ".join(" ".join(lines_of(view, 60)).split())


def test_a_command_in_a_message_names_the_workspace(study_config: MakeConfig, tmp_path: Path) -> None:
    config, settings = study_config(name="digits"), Settings(workspace=tmp_path)
    shown, stream = io.StringIO(), io.StringIO()
    view = JsonLines(config, Console(file=shown, width=400), settings=settings, stream=stream)
    view.on_message("the next sweep confirm digits sends it, and sweep confirm digits-2 does not")
    expected = f"the next sweep confirm digits --workspace {tmp_path} sends it, and sweep confirm digits-2 does not"
    assert shown.getvalue() == f"note: {expected}\n"
    assert json.loads(stream.getvalue())["message"] == expected
