"""Studies whose drivers and workers are killed, interrupted and killed again end as if nothing had happened.

One study goes through commands and signals as a user gives them, since every start of Ray takes seconds; the tests look
at what was noted on the way. Others lose driver after driver at any moment, without Ray: see `rayless`.
"""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient
from optuna.trial import TrialState

from sweep import service
from sweep.config.settings import Settings
from sweep.config.study_config import StudyConfig
from sweep.service.driver import Driver
from sweep.study.claims import Claims
from sweep.study.storages.storage import open_storage
from sweep.study.study import Study
from sweep.study.trial import Trial
from sweep.tracking.client import MlflowStore
from sweep.training.reports import EpochMetrics

from ..support import rayless
from ..support.commands import sweep_here
from ..support.empty_store import with_store
from ..support.invariants import (
    Checkpointed,
    Curves,
    Left,
    assert_whole,
    checkpointed,
    differences,
    journal,
    left_by,
    newest,
    strange_curves,
    trained_again,
    trials_of,
)
from ..support.processes import PATIENCE, Command, kill, wait_for
from ..support.studies import SHORT, config_of
from ..torture.__main__ import Shared

pytestmark = [
    pytest.mark.filterwarnings("default"),  # Ray's and MLflow's own deprecations are not ours
    pytest.mark.timeout(900),
]

# A trial takes a second or more and reports every half second.
STUDY = """
name: story
model: {name: mlp}
data: {name: digits}
objective: {metric: val_loss, direction: minimize}
space:
  lambda1: {low: 1e-4, high: 1e-2, log: true}
  depth: {low: 1, high: 3}
  width: {choices: [64, 128]}
training: {max_epochs: 60, batch_size: 16}
search: {trials: 2, design: 1, sampler: random, pruner: none, finalists: {top: 1, seeds: 1, tuned: 1}}
resources: {max_concurrent: 1}
"""
TRIALS, CONTROLS, EPOCHS = 2, 4, 60
ALSO_ON = [pytest.param(kind, marks=pytest.mark.exhaustive) for kind in ("journal", "sqlite")]


@dataclass
class Chapter:
    """One command of the story, and what there was when it had ended."""

    command: Command
    code: int
    signalled: float
    seconds: float
    """From the signal to the end."""
    states: list[TrialState]
    """Of all trials, in Optuna."""
    statuses: dict[str, str]
    """Of all runs, in MLflow."""


class Story:
    """The study, one command after the other; what checkpoints held at each end must never be trained again."""

    def __init__(self, folder: Path):
        self.workspace, self.file = folder / "results", folder / "story.yaml"
        self.file.write_text(STUDY)
        self.chapters: dict[str, Chapter] = {}
        self.safe: list[Checkpointed] = []
        self._commands: list[Command] = []

    def chapter(
        self, title: str, words: list[str], *signals: signal.Signals, among: str, workers: bool = False
    ) -> None:
        """Runs a command, sends signals to it in the middle of a trial, and notes what it leaves.

        Args:
            among: the study whose trial must be met.
            workers: kill the processes that train before, and wait until their trials have gone on.
        """
        command = Command(self.workspace, *words)
        self._commands.append(command)
        met = self._meet(command, among, {})
        if workers:
            self.safe.append(checkpointed(self.workspace, "story"))
            kill(command.training())
            self._meet(command, among, met)
        signalled = time.monotonic()
        for number in signals:
            command.signal(number)
            if len(signals) > 1:
                wait_for(lambda: command.says("Stopping") or command.over, "the answer to the first signal")
        code = command.end()
        seconds = time.monotonic() - signalled
        self.safe.append(checkpointed(self.workspace, "story"))
        search, sister = trials_of("story", journal(self.workspace))
        states = [trial.state for trial in [*search, *sister]]
        self.chapters[title] = Chapter(command, code, signalled, seconds, states, self._statuses())

    def _meet(self, command: Command, study: str, known: dict[str, int]) -> dict[str, int]:
        """Waits for a trial that trains, has a checkpoint that is not known, and most of it still to come."""
        found: dict[str, int] = {}

        def met() -> bool:
            training = command.training()  # looked for first: the workers of a driver that died live on for seconds
            found.update(newest(self.workspace, "story") if training else {})
            middles = (known.get(r, 0) < epoch < EPOCHS * 3 / 4 for r, epoch in found.items() if r[:-5] == study)
            return command.over or any(middles)

        wait_for(met, "the middle of a trial")
        assert not command.over, command.out
        return found

    def _statuses(self) -> dict[str, str]:
        client = MlflowClient(f"sqlite:///{self.workspace}/mlflow.db")
        experiment = client.get_experiment_by_name("story")
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id], max_results=1000)
        assert len({run.info.run_name for run in runs}) == len(runs), "a trial has two runs"
        return {str(run.info.run_name): run.info.status for run in runs}

    def close(self) -> None:
        """Ends whatever is left, by process id."""
        for command in self._commands:
            command.close()


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    story = Story(tmp_path_factory.mktemp("story"))
    run, resume = ["run", str(story.file)], ["resume", "story"]
    try:
        story.chapter("killed", run, signal.SIGKILL, among="story", workers=True)
        story.chapter("interrupted", run, signal.SIGINT, among="story")
        story.chapter("terminated", resume, signal.SIGTERM, among="story.controls")
        story.chapter("interrupted twice", resume, signal.SIGINT, signal.SIGINT, among="story.controls")
        # Ray has nothing more to show: each chapter has gone on with what the one before had left.
        driver_without_ray(config_of(STUDY), story.workspace)
        yield story
    finally:
        story.close()


@pytest.fixture(scope="module")
def left(story: Story) -> Left:
    return left_by(story.workspace, "story")


def driver_without_ray(config: StudyConfig, workspace: Path) -> None:
    """Runs a study to its end."""
    process = rayless.start(config, workspace, f"journal:///{workspace}/optuna.journal")
    process.join(PATIENCE)
    assert process.exitcode == 0


def undisturbed(config: StudyConfig, workspace: Path) -> Left:
    """The same study, run once without interruption, and without Ray."""
    driver_without_ray(config, workspace)
    return left_by(workspace, config.name)


STOPPED = {"interrupted": 130, "terminated": 143}


@pytest.mark.exhaustive
def test_whatever_was_killed_the_budget_is_met_and_nothing_is_there_twice(story: Story, left: Left) -> None:
    assert_whole(left, "story", trials=TRIALS, controls=CONTROLS)
    assert {t.state for t in [*left.trials, *left.controls]} == {TrialState.COMPLETE}


@pytest.mark.exhaustive
def test_the_study_is_the_one_that_nobody_disturbed(left: Left, tmp_path: Path) -> None:
    other = undisturbed(config_of(STUDY), tmp_path / "results")
    assert_whole(other, "story", trials=TRIALS, controls=CONTROLS)
    assert differences(left, other) == []


@pytest.mark.exhaustive
def test_no_epoch_that_a_checkpoint_held_was_trained_again(story: Story, left: Left) -> None:
    assert len(story.safe) == 5
    assert all(story.safe), "there was nothing to lose"
    kept = checkpointed(story.workspace, "story")
    assert [again for safe in story.safe for again in trained_again(left, safe, kept)] == []


@pytest.mark.exhaustive
@pytest.mark.parametrize(("title", "code"), STOPPED.items())
def test_a_stopped_study_says_how_to_resume_and_leaves_nothing_running(story: Story, title: str, code: int) -> None:
    chapter = story.chapters[title]
    out = chapter.command.out
    assert chapter.code == code
    assert "Stopping: " in out
    assert out.splitlines()[-1].strip() == f"sweep resume story --workspace {story.workspace}"
    assert "Traceback" not in out
    assert chapter.statuses["story"] == "KILLED"
    assert "KILLED" in [status for run, status in chapter.statuses.items() if run != "story"]
    assert "RUNNING" not in chapter.statuses.values()
    assert chapter.seconds < 120
    assert chapter.command.alive() == []


@pytest.mark.exhaustive
def test_a_second_interrupt_ends_at_once(story: Story) -> None:
    chapter = story.chapters["interrupted twice"]
    assert chapter.code == 130
    assert chapter.seconds < 120
    assert "Traceback" not in chapter.command.out
    assert chapter.command.alive() == []


# -- drivers without Ray, killed one after the other -------------------------------------------------------------------


@pytest.fixture(scope="module")
def nobody_disturbed(tmp_path_factory: pytest.TempPathFactory) -> Left:
    return undisturbed(config_of(SHORT), tmp_path_factory.mktemp("undisturbed") / "results")


def read(name: str, workspace: Path, url: str) -> Left:
    return left_by(workspace, name, open_storage(url))


@pytest.mark.parametrize("storage_url", ["postgresql", *ALSO_ON], indirect=True)
def test_drivers_killed_at_any_moment_leave_the_study_that_nobody_disturbed(
    study_name: str, storage_url: str, tmp_path: Path, nobody_disturbed: Left
) -> None:
    config, workspace, draw = config_of(SHORT.replace("NAME", study_name)), tmp_path / "results", random.Random(4)
    codes, hits, safe = [rayless.KILLED], 0, []
    while codes[-1] == rayless.KILLED:
        death = draw.randint(6, 30), draw.uniform(1e-6, 0.02)
        driver = rayless.start(config, workspace, storage_url, death=death)
        driver.join(PATIENCE)
        codes.append(driver.exitcode or 0)
        safe.append(checkpointed(workspace, study_name))
        states = [t.state for trials in trials_of(study_name, open_storage(storage_url)) for t in trials]
        hits += TrialState.RUNNING in states
    assert codes[-1] == 0
    assert len(codes) > 5
    assert hits > 0
    left = read(study_name, workspace, storage_url)
    assert_whole(left, study_name, trials=4, controls=5)
    kept = checkpointed(workspace, study_name)
    assert [again for each in safe for again in trained_again(left, each, kept)] == []
    assert differences(left, nobody_disturbed) == []


MOMENTS: list[rayless.Moment] = [
    (Claims, "_claim", 2, "after"),  # the storage has given a trial to this driver, and no worker has it
    (Driver, "report", 5, "before"),  # a checkpoint holds an epoch that was not reported
    (Study, "report", 8, "after"),  # the pruner has judged it, the tracker has not heard of it
    (Study, "tell", 1, "before"),  # all epochs are reported, and the trial has not ended
    (Study, "tell", 2, "after"),  # it has ended in Optuna, and runs in MLflow
    (MlflowStore, "_open_run", 3, "after"),  # MLflow has a run, and nothing of it
    (MlflowClient, "log_batch", 6, "after"),  # it has all of a run but its end
]


def test_drivers_killed_at_each_moment_of_a_trials_life_leave_that_study_too(
    tmp_path: Path, nobody_disturbed: Left
) -> None:
    config, workspace = config_of(SHORT), tmp_path / "results"
    url, safe = f"journal:///{workspace}/optuna.journal", []
    for moment in MOMENTS:
        driver = rayless.start(config, workspace, url, moment=moment)
        driver.join(PATIENCE)
        assert driver.exitcode == -signal.SIGKILL, f"the study was over before {moment}"
        safe.append(checkpointed(workspace, "NAME"))
    driver_without_ray(config, workspace)
    left = left_by(workspace, "NAME")
    assert_whole(left, "NAME", trials=4, controls=5)
    kept = checkpointed(workspace, "NAME")
    assert [again for each in safe for again in trained_again(left, each, kept)] == []
    assert differences(left, nobody_disturbed) == []


class Impatient(rayless.Listener):
    """Interrupts a run within its second trial."""

    def on_epoch_end(self, trial: Trial, metrics: EpochMetrics) -> None:
        if (trial.number, metrics.epoch) == (1, 8):
            raise KeyboardInterrupt


def test_a_damaged_checkpoint_is_told_of_and_costs_the_epochs_since_the_one_before_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nobody_disturbed: Left
) -> None:
    config, workspace = config_of(SHORT), with_store(tmp_path / "results")
    rayless.without_models(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        service.run(
            config, Settings(workspace=workspace), Impatient(), service.RunOptions(executor=rayless.EVERY_EPOCH)
        )
    before = left_by(workspace, "NAME").runs["NAME-0001"]
    assert before.epochs["val_loss"] == list(range(1, 9))
    path = workspace / "NAME" / "0001" / "attempt-01" / "epoch-0008.pt"
    path.write_bytes(path.read_bytes()[:1000])
    listener = rayless.Listener()
    service.run(config, Settings(workspace=workspace), listener, service.RunOptions(executor=rayless.EVERY_EPOCH))
    [said] = [said for said in listener.said if "damaged" in said]
    assert said.startswith(f"trial 1 of NAME: checkpoint {path} is damaged (")
    left = left_by(workspace, "NAME")
    assert_whole(left, "NAME", trials=4, controls=5)
    assert left.runs["NAME-0001"].history["val_loss"][:8] == before.history["val_loss"]
    assert differences(left, nobody_disturbed) == []


MANY = """
name: NAME
model: {name: mlp, depth: 1, width: 8}
data: {name: digits, train_size: 300}
objective: {metric: val_loss, direction: minimize}
space:
  lambda1: {low: 1e-4, high: 1e-2, log: true}
training: {max_epochs: 2, batch_size: 64, lr: 3e-2}
search: {trials: 60, sampler: tpe, pruner: none, finalists: {top: 0}}
"""
FEW = 20  # on the storages of one machine: what 60 trials show on PostgreSQL is the same there


@pytest.mark.parametrize("storage_url", ["postgresql", *ALSO_ON], indirect=True)
def test_two_drivers_one_of_them_killed_meet_the_budget_exactly(
    study_name: str, storage_url: str, tmp_path: Path
) -> None:
    trials = 60 if storage_url.startswith("postgresql") else FEW
    text = MANY.replace("NAME", study_name).replace("trials: 60", f"trials: {trials}")
    config, workspace = config_of(text), tmp_path / "results"
    mortal = rayless.start(config, workspace, storage_url, death=(trials * 2 // 5, 0.01))
    other = rayless.start(config, workspace, storage_url, every_epoch=True)
    for driver in (mortal, other):
        driver.join(PATIENCE)
    assert (mortal.exitcode, other.exitcode) == (rayless.KILLED, 0)
    left = read(study_name, workspace, storage_url)
    assert_whole(left, study_name, trials=trials, controls=0)
    assert {t.state for t in left.trials} == {TrialState.COMPLETE}
    owners = [t.user_attrs["owner"] for t in left.trials]
    assert {mark["pid"] for mark in owners} == {mortal.pid, other.pid}
    assert {mark["pid"] for mark in owners if mark["attempt"] > 1} <= {other.pid}
    assert strange_curves(left, Curves(config, workspace, tmp_path)) == []


def test_status_shows_dead_drivers_and_their_orphans_in_the_search_and_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, url, host = config_of(SHORT), f"journal:///{tmp_path}/optuna.journal", socket.gethostname()

    def killed_at(report: int) -> str:
        driver = rayless.start(config, tmp_path, url, death=(report, 1e-6))
        driver.join(PATIENCE)
        assert driver.exitcode == rayless.KILLED
        status = sweep_here(monkeypatch, capsys, tmp_path, "status", "NAME").out
        assert f"driver {host} pid {driver.pid} is dead or was stopped; the next run adopts its trials" in status
        return status

    assert re.search(r"NAME-0000 \(trial\): epoch [123] of 12", killed_at(3))
    assert re.search(r"NAME\.controls-0000 \(finalist of trial \d, seed 1\): epoch \d of 12", killed_at(4 * 12 + 2))
    adopted = Study(config, open_storage(url), workspace=tmp_path, sister=True).ask()
    assert adopted is not None
    assert adopted.kind == "finalist"
    status = sweep_here(monkeypatch, capsys, tmp_path, "status").out
    assert f"driver {host} pid {os.getpid()} is running:" in status
    assert "orphan" not in status
    adopted.handle.set_user_attr("owner", {**adopted.owner, "host": "elsewhere"})
    assert "driver elsewhere pid" in (status := sweep_here(monkeypatch, capsys, tmp_path, "status").out)
    assert "is running (as seen from another host)" in status


def test_what_the_rounds_of_make_torture_share_is_there(tmp_path: Path) -> None:
    """Too long for every day as a whole, it would otherwise be found broken on the day that it is needed."""
    Shared(tmp_path, "model").close()
    assert any((tmp_path / "cache").rglob("*.npy"))


# -- at last, since it waits a minute for processes of the first chapter -----------------------------------------------


@pytest.mark.exhaustive
def test_a_killed_driver_leaves_orphans_and_no_workers(story: Story) -> None:
    chapter = story.chapters["killed"]
    assert chapter.code == -signal.SIGKILL
    assert TrialState.RUNNING in chapter.states
    assert "RUNNING" in chapter.statuses.values()
    # Ray's agents wait a minute for an answer of what has died with the driver, then end too.
    wait_for(lambda: not [n for n in chapter.command.alive() if not n.endswith("Agent")], "the end of its workers")
    deadline = chapter.signalled + 300
    wait_for(lambda: not chapter.command.alive(), "the end of Ray's agents", deadline - time.monotonic())
