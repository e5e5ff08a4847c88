"""The options --verbose and --quiet."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweep.cli.output import make_console, make_notes, print_json, set_verbosity

from ..support import rayless
from ..support.commands import sweep_here
from ..support.empty_store import with_store
from ..support.studies import SMALL

pytestmark = pytest.mark.filterwarnings("default")  # MLflow's own deprecations are not ours


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    yield
    set_verbosity(verbose=False, quiet=False)


def test_the_debug_log_goes_to_stderr_once_however_often_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        set_verbosity(verbose=True, quiet=False)
    logging.getLogger("sweep.service.driver").debug("claimed trial %d", 7)
    logging.getLogger("ray").debug("not ours")
    out, err = capsys.readouterr()
    assert out == ""
    [line] = err.splitlines()
    assert line.endswith(" DEBUG   sweep.service.driver: claimed trial 7")
    set_verbosity(verbose=False, quiet=False)
    logging.getLogger("sweep.service.driver").debug("claimed trial %d", 8)
    assert capsys.readouterr() == ("", "")


def test_notes_are_silent_when_quiet_and_results_are_not(capsys: pytest.CaptureFixture[str]) -> None:
    set_verbosity(verbose=False, quiet=True)
    make_notes().print("a note")
    make_console().print("the result")
    assert capsys.readouterr().out == "the result\n"


def test_both_at_once_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = sweep_here(monkeypatch, capsys, tmp_path, "schema", "--verbose", "--quiet")
    assert (ended.code, ended.out) == (2, "")
    assert "contradict each other" in ended.err


def test_a_run_is_quiet_verbose_or_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rayless.without_models(monkeypatch)
    file, workspace = tmp_path / "small.yaml", with_store(tmp_path / "results")
    file.write_text(SMALL)
    loud = sweep_here(monkeypatch, capsys, workspace, "run", str(file), "--executor", "local", "--json", "--verbose")
    assert loud.code == 0, loud.err
    assert json.loads(loud.out)["study"] == "small", "the log is on stderr alone"
    assert "sweep.service.driver: claimed trial 0 of small, attempt 1" in loud.err
    assert "sweep.service.driver: stage search of small is finished" in loud.err
    quiet = sweep_here(monkeypatch, capsys, workspace, "run", str(file), "--quiet")
    assert quiet.code == 0
    assert quiet.err == ""
    [line] = quiet.out.splitlines()
    assert line.startswith("Best: trial ")
    usual = sweep_here(monkeypatch, capsys, workspace, "run", str(file))
    assert usual.out.splitlines()[-1] == line, "the last line answers"
    assert "small is finished" in usual.out
    assert "  resume " not in usual.out


def test_json_has_no_numbers_that_are_not_finite(capsys: pytest.CaptureFixture[str]) -> None:
    print_json([{"value": -math.inf, "values": (math.nan, 1e306)}])
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == [{"value": None, "values": [None, 1e306]}]
