"""A workspace of the release before: its study is resumed, extended, confirmed and reported by this one.

The old program is taken from the repository's own history and runs in a process of its own.
"""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.support.invariants import assert_whole, journal, left_by, trials_of
from tests.support.processes import Command, environment, wait_for

BEFORE = "0d1aac127d8a4a6ea56ea40503dd6db1f070ad2b"  # the last commit with the flat layout
ROOT = Path(__file__).parents[2]
STUDY = """
name: old
model: {name: mlp}
data: {name: digits, train_size: 300}
objective: {metric: val_loss, direction: minimize}
space: {lambda1: {low: 1e-5, high: 1e-1, log: true}, depth: 2, width: {choices: [8, 16]}}
training: {max_epochs: 6, batch_size: 64}
search: {trials: 6, design: 2, finalists: {top: 1, seeds: 1, tuned: 2}}
resources: {max_concurrent: 1}
"""


@pytest.fixture(scope="module")
def old_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository as it was, in a folder of its own."""
    packed = subprocess.run(["git", "-C", str(ROOT), "archive", BEFORE], capture_output=True, check=False)
    if packed.returncode:
        pytest.skip(f"this clone does not reach back to {BEFORE}: git fetch --unshallow")
    folder = tmp_path_factory.mktemp("before")
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def sweep(workspace: Path, *words: str, **variables: str) -> str:
    """Runs a command in a process of its own; PYTHONPATH names another program."""
    command = [sys.executable, "-m", "sweep", *words]
    variables = {**environment(workspace), **variables}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.exhaustive
@pytest.mark.timeout(900)
def test_a_study_that_the_release_before_has_finished_stays_as_it_is(old_program: Path, tmp_path: Path) -> None:
    workspace, file = tmp_path / "results", tmp_path / "old.yaml"
    file.write_text(STUDY.replace("{top: 1, seeds: 1, tuned: 2}", "{top: 3, seeds: 1, tuned: 2}"))
    sweep(workspace, "run", str(file), PYTHONPATH=str(old_program))
    before = [[(t.number, t.user_attrs, t.value) for t in rows] for rows in trials_of("old", journal(workspace))]
    assert "nothing is left to train" in sweep(workspace, "resume", "old")
    after = [[(t.number, t.user_attrs, t.value) for t in rows] for rows in trials_of("old", journal(workspace))]
    assert after == before
    assert_whole(left_by(workspace, "old"), "old", trials=6, controls=len(before[1]))


@pytest.mark.exhaustive
@pytest.mark.timeout(900)
def test_a_study_of_the_release_before_goes_on(old_program: Path, tmp_path: Path) -> None:
    workspace, file = tmp_path / "results", tmp_path / "old.yaml"
    file.write_text(STUDY)
    began = Command(workspace, "run", str(file), "--trials", "6", PYTHONPATH=str(old_program))
    wait_for(lambda: began.says("old-0002") or began.over, "the third trial's end")
    assert not began.over, began.out
    began.signal(signal.SIGKILL)
    began.end()
    began.close()

    [before] = json.loads(sweep(workspace, "status", "old", "--json"))
    assert len(before["trials"]) == 6
    sweep(workspace, "resume", "old")
    assert_whole(left_by(workspace, "old"), "old", trials=6, controls=5)
    sweep(workspace, "run", "old", "--trials", "7", "--set", "search.finalists.top=0")
    [status] = json.loads(sweep(workspace, "status", "old", "--json"))
    after = status["trials"]
    assert [t["outcome"] is not None for t in after] == [True] * 7
    finished = [t for t in before["trials"] if t["outcome"]]
    assert finished
    assert [t["value"] for t in after[: len(finished)]] == [t["value"] for t in finished]
    sweep(workspace, "confirm", "old", "--seeds", "2")
    sweep(workspace, "report", "old")
    assert (workspace / "old" / "report" / "report.html").is_file()
    assert "lambda1" in sweep(workspace, "best", "old")
    assert "trial" in sweep(workspace, "sensitivity", "old")
