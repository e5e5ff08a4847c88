"""A study whose driver is killed, interrupted and killed again, with real processes, ends as if nothing had happened.

One study goes through all of it, since every start of Ray takes seconds; the tests look at what was noted on the way.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import optuna
import psutil
import pytest
from mlflow import MlflowClient
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState

from sweep import checkpoint
from sweep.metrics import EpochMetrics

from .test_sweep import Ended, Left, assert_whole, environment, left_by, sweep, sweep_here

pytestmark = pytest.mark.filterwarnings("default")  # Ray's and MLflow's own deprecations are not ours

# A trial takes a second or two, and reports every half second: at any moment one is in the middle.
STUDY = """
name: story
model: {name: mlp}
data: {name: digits}
objective: {metric: val_loss, direction: minimize}
space:
  lambda1: {low: 1e-4, high: 1e-2, log: true}
  depth: {low: 1, high: 3}
  width: {choices: [64, 128]}
training: {max_epochs: 30, batch_size: 16}
search: {trials: 6, design: 2, sampler: random, pruner: none, finalists: {top: 1, seeds: 2, tuned: 2}}
resources: {max_concurrent: 2}
"""
TRIALS, CONTROLS = 6, 8
PATIENCE = 200.0  # seconds; a command needs a few

Epochs = dict[str, dict[int, int]]  # run -> epoch -> its time, as the newest checkpoint has it


class Command:
    """``python -m sweep`` in a process of its own, whose lines are read as they come."""

    def __init__(self, workspace: Path, *words: str):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sweep", *words],
            env=environment(workspace),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._family: dict[int, psutil.Process] = {}

    def read_until(self, wanted: Callable[[str], bool]) -> bool:
        """Reads lines up to the first that is wanted; False where the output ends before."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if wanted(line):
                return True
        return False

    def family(self) -> list[psutil.Process]:
        """All processes that came of this command so far: its Ray's, too."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                self._family[child.pid] = child
        return list(self._family.values())

    def end(self) -> Ended:
        """Waits for the end of the process."""
        self.read_until(lambda _: False)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return Ended(self.process.wait(timeout=PATIENCE), "\n".join(self.lines), "")

    def outlived_by(self, patience: float) -> list[str]:
        """What is left of the family after some seconds; it is then killed, by process id."""
        _, alive = psutil.wait_procs(self.family(), timeout=patience)
        names = []
        for each in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                names.append(f"{each.pid} {each.name()}")
                each.kill()
        return names


@dataclass
class Chapter:
    """One command of the story, and what there was when it had ended."""

    ended: Ended
    seconds: float
    """From the signal to the end."""
    states: list[TrialState]
    """Of all trials, in Optuna."""
    statuses: dict[str, str]
    """Of all runs, in MLflow."""
    outlived: list[str] = field(default_factory=list)


def trial_line(line: str) -> bool:
    return line.startswith("story-0")


def control_line(line: str) -> bool:
    return line.startswith("story.controls-0")


def checkpointed(workspace: Path) -> Epochs:
    """The epochs that each trial's newest checkpoint holds."""
    found = {}
    for study in ("story", "story.controls"):
        for folder in (workspace / study).glob("[0-9]*"):
            saved = checkpoint.load_latest(folder)
            if saved is not None:
                found[f"{study}-{folder.name}"] = times(saved.history)
    return found


def times(history: list[EpochMetrics]) -> dict[int, int]:
    return {m.epoch: m.timestamp for m in history}


def states(workspace: Path) -> list[TrialState]:
    path = str(workspace / "optuna.journal")
    storage = JournalStorage(JournalFileBackend(path, lock_obj=JournalFileOpenLock(path)))
    names = optuna.get_all_study_names(storage)
    return [t.state for name in names for t in optuna.load_study(study_name=name, storage=storage).trials]


def statuses(workspace: Path) -> dict[str, str]:
    client = MlflowClient(f"sqlite:///{workspace}/mlflow.db")
    experiment = client.get_experiment_by_name("story")
    if experiment is None:
        return {}
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    assert len({run.info.run_name for run in runs}) == len(runs)
    return {str(run.info.run_name): run.info.status for run in runs}


class Story:
    """The study, one command after the other; what checkpoints held at each end must never be trained again."""

    def __init__(self, folder: Path):
        self.workspace, self.file = folder / "results", folder / "story.yaml"
        self.file.write_text(STUDY)
        self.chapters: dict[str, Chapter] = {}
        self.safe: list[Epochs] = []

    def chapter(self, title: str, words: list[str], until: Callable[[str], bool], *signals: signal.Signals) -> None:
        """Runs a command, sends signals to its driver after a line, and notes what it leaves."""
        command = Command(self.workspace, *words)
        try:
            hit = command.read_until(until)
            command.family()
            started = time.monotonic()
            for number in signals:
                command.process.send_signal(number)
                if len(signals) > 1:
                    command.read_until(lambda line: line.startswith("Stopping"))
            ended = command.end()
            seconds = time.monotonic() - started
            assert hit, f"{title}: the study ended before\n{ended.out}"
            outlived = command.outlived_by(60)
        finally:
            command.process.kill()
            command.outlived_by(0)
        self.chapters[title] = Chapter(ended, seconds, states(self.workspace), statuses(self.workspace), outlived)
        self.safe.append(checkpointed(self.workspace))

    def last_chapter(self) -> Ended:
        """Resumes the study to its end; on the way the processes that train are killed once."""
        command = Command(self.workspace, "resume", "story")
        try:
            deadline = time.monotonic() + PATIENCE
            began = self.unfinished()
            while time.monotonic() < deadline:
                workers = [p for p in command.family() if name_of(p).startswith("ray::Worker")]
                if workers and any(len(epochs) > len(began.get(run, {})) for run, epochs in self.unfinished().items()):
                    break
                time.sleep(0.1)
            else:
                raise AssertionError("no worker has made a checkpoint")
            self.safe.append(checkpointed(self.workspace))
            for worker in workers:
                worker.kill()
            ended = command.end()
            assert not command.outlived_by(60)
            return ended
        finally:
            command.process.kill()
            command.outlived_by(0)

    def unfinished(self) -> Epochs:
        return {run: epochs for run, epochs in checkpointed(self.workspace).items() if len(epochs) < 30}


def name_of(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.NoSuchProcess):
        return str(process.name())
    return ""


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    story = Story(tmp_path_factory.mktemp("story"))
    run, resume = ["run", str(story.file)], ["resume", "story"]
    story.chapter("killed in the search", run, trial_line, signal.SIGKILL)
    story.chapter("interrupted", run, trial_line, signal.SIGINT)
    story.chapter("terminated among the controls", resume, control_line, signal.SIGTERM)
    story.chapter("killed among the controls", resume, control_line, signal.SIGKILL)
    story.chapter("interrupted twice", resume, control_line, signal.SIGINT, signal.SIGINT)
    story.chapters["the end"] = Chapter(story.last_chapter(), 0.0, states(story.workspace), statuses(story.workspace))
    return story


@pytest.fixture(scope="module")
def left(story: Story) -> Left:
    return left_by(story.workspace, "story")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Left:
    """The same study, run once without interruption."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "story.yaml").write_text(STUDY)
    ended = sweep(folder / "results", "run", str(folder / "story.yaml"))
    assert ended.code == 0, ended.err
    return left_by(folder / "results", "story")


KILLED = ("killed in the search", "killed among the controls")
STOPPED = {"interrupted": 130, "terminated among the controls": 143}


def test_whatever_was_killed_the_budget_is_met_and_nothing_is_there_twice(story: Story, left: Left) -> None:
    assert story.chapters["the end"].ended.code == 0, story.chapters["the end"].ended.out
    assert_whole(left, "story", trials=TRIALS, controls=CONTROLS)
    assert {t.state for t in [*left.trials, *left.controls]} == {TrialState.COMPLETE}


def test_the_study_is_the_one_that_nobody_disturbed(left: Left, undisturbed: Left) -> None:
    assert_whole(undisturbed, "story", trials=TRIALS, controls=CONTROLS)
    assert [(t.params, t.value) for t in left.trials] == [(t.params, t.value) for t in undisturbed.trials]
    rows = [
        [(t.user_attrs["kind"], t.user_attrs["seed"], t.user_attrs["hyperparameters"], t.value) for t in each.controls]
        for each in (left, undisturbed)
    ]
    assert rows[0] == rows[1]
    for name, record in left.runs.items():
        assert record.curve == undisturbed.runs[name].curve, name
        assert record.run.data.params == undisturbed.runs[name].run.data.params
        assert record.tags.keys() == undisturbed.runs[name].tags.keys()


def test_no_epoch_that_a_checkpoint_held_was_trained_again(story: Story, left: Left) -> None:
    assert any(0 < len(epochs) < 30 for epochs in story.safe[0].values()), "the first kill hit no running trial"
    for safe in story.safe:
        for run, epochs in safe.items():
            logged = {step: timestamp for step, _, timestamp in left.runs[run].history["val_loss"]}
            assert {epoch: logged[epoch] for epoch in epochs} == epochs, run


@pytest.mark.parametrize("title", KILLED)
def test_a_killed_driver_leaves_orphans_and_no_processes(story: Story, title: str) -> None:
    chapter = story.chapters[title]
    assert chapter.ended.code == -signal.SIGKILL
    assert TrialState.RUNNING in chapter.states, "the kill hit no running trial"
    assert not chapter.outlived


@pytest.mark.parametrize(("title", "code"), STOPPED.items())
def test_a_stopped_study_says_how_to_resume_and_leaves_nothing_running(story: Story, title: str, code: int) -> None:
    chapter = story.chapters[title]
    assert chapter.ended.code == code
    assert "Stopping: " in chapter.ended.out
    assert chapter.ended.out.splitlines()[-1].strip() == f"python -m sweep resume story --workspace {story.workspace}"
    assert "Traceback" not in chapter.ended.out
    assert chapter.statuses["story"] == "KILLED"
    assert "KILLED" in [status for run, status in chapter.statuses.items() if run != "story"]
    assert "RUNNING" not in chapter.statuses.values()
    assert not chapter.outlived
    assert chapter.seconds < 60


def test_a_second_interrupt_ends_at_once(story: Story) -> None:
    chapter = story.chapters["interrupted twice"]
    assert chapter.ended.code == 130
    assert chapter.seconds < 30
    assert "Traceback" not in chapter.ended.out
    assert not chapter.outlived


def test_status_shows_the_orphans_of_a_killed_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A driver that takes a trial and dies; what it leaves is the same with and without Ray."""
    (tmp_path / "story.yaml").write_text(STUDY)
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from sweep.service import load; from sweep.settings import Settings\n"
        "from sweep.study import Study, open_storage\n"
        "settings = Settings(); config, _ = load(sys.argv[1], settings)\n"
        "study = Study(config, open_storage(settings.storage), workspace=settings.workspace)\n"
        "study.fill(); study.ask(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "story.yaml")]
    ended = subprocess.run(command, env=environment(tmp_path / "results"), check=False, timeout=PATIENCE)
    assert ended.returncode == -signal.SIGKILL
    status = sweep_here(monkeypatch, capsys, tmp_path / "results", "status", "story")
    assert "trial 0 (trial): orphan" in status.out
    assert "the next run goes on with it" in status.out
