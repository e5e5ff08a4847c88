"""A study whose driver is killed, interrupted and killed again, with real processes, ends as if nothing had happened.

One study goes through all of it, since every start of Ray takes seconds; the tests look at what was noted on the way.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import optuna
import psutil
import pytest
from mlflow import MlflowClient
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState

from sweep import checkpoint

from .test_sweep import Left, assert_whole, environment, left_by, sweep, sweep_here

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
search: {trials: 4, design: 1, sampler: random, pruner: none, finalists: {top: 1, seeds: 1, tuned: 2}}
resources: {max_concurrent: 2}
"""
TRIALS, CONTROLS, EPOCHS = 4, 5, 60
PATIENCE = 400.0  # seconds; a command needs a few

Checkpointed = dict[str, dict[int, int]]  # run -> epoch -> the time it ended


class Command:
    """``python -m sweep`` in a process group of its own, as a shell starts it; its lines are read as they come."""

    def __init__(self, workspace: Path, *words: str):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sweep", *words],
            env=environment(workspace),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.lines: list[str] = []
        self.family: dict[int, psutil.Process] = {}  # all processes that came of it: its Ray's

    def read_until(self, wanted: Callable[[str], bool]) -> bool:
        """Reads lines up to the first that is wanted; False where the output ends before."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if wanted(line):
                return True
        return False

    def look(self) -> None:
        """Adds the processes that there are now to the family."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                self.family.setdefault(child.pid, child)

    def workers(self) -> list[psutil.Process]:
        """The processes of its Ray that train."""
        return [process for process in self.family.values() if name_of(process).startswith("ray::Worker")]

    def signal(self, number: signal.Signals) -> None:
        """Ctrl-C reaches a terminal's whole process group; all other signals go to the driver alone."""
        if number == signal.SIGINT:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)

    def end(self) -> int:
        """Waits for the end; the exit status."""
        self.read_until(lambda _: False)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return self.process.wait(timeout=PATIENCE)


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

    @property
    def out(self) -> str:
        return "\n".join(self.command.lines)

    def alive(self) -> list[str]:
        """Names of the processes that are left of it."""
        names = [name_of(process) for process in self.command.family.values()]
        return [name for name in names if name]


def name_of(process: psutil.Process) -> str:
    """The name of a process, nothing where it has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            return str(process.name())
    return ""


class Story:
    """The study, one command after the other; what checkpoints held at each end must never be trained again."""

    def __init__(self, folder: Path):
        self.workspace, self.file = folder / "results", folder / "story.yaml"
        self.file.write_text(STUDY)
        self.chapters: dict[str, Chapter] = {}
        self.safe: list[Checkpointed] = []
        self._commands: list[Command] = []

    def chapter(self, title: str, words: list[str], study: str, *signals: signal.Signals) -> None:
        """Runs a command, sends signals to it in the middle of a trial of a study, and notes what it leaves."""
        command = self._command(*words)
        if not self.chapters:
            command.read_until(lambda text: text.startswith("story-0"))  # the first trial that has ended
        self._wait_for_the_middle(command, study)
        signalled = time.monotonic()
        for number in signals:
            command.signal(number)
            if len(signals) > 1:
                command.read_until(lambda text: text.startswith("Stopping"))
        self._note(title, command, signalled)

    def last_chapter(self) -> None:
        """Resumes the study to its end; on the way the processes that train are killed once."""
        command = self._command("resume", "story")
        self._wait_for_the_middle(command, "story")
        self.safe.append(self._checkpointed())
        for process in command.workers():
            process.kill()
        self._note("the end", command, time.monotonic())

    def _note(self, title: str, command: Command, signalled: float) -> None:
        code = command.end()
        seconds = time.monotonic() - signalled
        self.safe.append(self._checkpointed())
        self.chapters[title] = Chapter(command, code, signalled, seconds, self._states(), self._statuses())

    def _command(self, *words: str) -> Command:
        self._commands.append(Command(self.workspace, *words))
        return self._commands[-1]

    def _wait_for_the_middle(self, command: Command, study: str) -> None:
        """Returns when a trial of the command has made a checkpoint, and most of it is still to come."""
        before: Checkpointed = {}
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and command.process.poll() is None:
            command.look()
            now = self._checkpointed()
            if not command.workers():
                before = now  # the workers of a driver that was killed live on for some seconds
            for run, epochs in now.items():
                if run.startswith(study) and len(before.get(run, {})) < len(epochs) < EPOCHS * 3 / 4:
                    return
            time.sleep(0.05)
        raise AssertionError("no trial was met in its middle\n" + "\n".join(command.lines))

    def _checkpointed(self) -> Checkpointed:
        """The epochs that each trial's newest checkpoint holds."""
        found = {}
        for study in ("story", "story.controls"):
            for folder in (self.workspace / study).glob("[0-9]*"):
                saved = checkpoint.load_latest(folder)
                if saved is not None:
                    found[f"{study}-{folder.name}"] = {m.epoch: m.timestamp for m in saved.history}
        return found

    def _states(self) -> list[TrialState]:
        path = str(self.workspace / "optuna.journal")
        storage = JournalStorage(JournalFileBackend(path, lock_obj=JournalFileOpenLock(path)))
        names = optuna.get_all_study_names(storage)
        return [t.state for name in names for t in optuna.load_study(study_name=name, storage=storage).trials]

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
            command.look()
            command.process.kill()
            for process in command.family.values():
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    story = Story(tmp_path_factory.mktemp("story"))
    run, resume = ["run", str(story.file)], ["resume", "story"]
    try:
        story.chapter("killed in the search", run, "story-", signal.SIGKILL)
        story.chapter("interrupted", run, "story-", signal.SIGINT)
        story.chapter("terminated among the controls", resume, "story.controls-", signal.SIGTERM)
        story.chapter("killed among the controls", resume, "story.controls-", signal.SIGKILL)
        story.chapter("interrupted twice", resume, "story.controls-", signal.SIGINT, signal.SIGINT)
        story.last_chapter()
        yield story
    finally:
        story.close()


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
    assert story.chapters["the end"].code == 0, story.chapters["the end"].out
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
    assert len(story.safe) == 7
    for safe in story.safe:
        for run, epochs in safe.items():
            logged = {step: timestamp for step, _, timestamp in left.runs[run].history["val_loss"]}
            assert {epoch: logged[epoch] for epoch in epochs} == epochs, run


@pytest.mark.parametrize("title", KILLED)
def test_a_killed_driver_leaves_orphans_and_no_workers(story: Story, title: str) -> None:
    chapter = story.chapters[title]
    assert chapter.code == -signal.SIGKILL
    assert TrialState.RUNNING in chapter.states
    assert "RUNNING" in chapter.statuses.values()
    # Ray's agents wait a minute for an answer of what has died with the driver, then end too.
    assert [name for name in chapter.alive() if not name.endswith("Agent")] == []


def test_rays_agents_end_after_a_minute(story: Story) -> None:
    chapter = story.chapters[KILLED[0]]
    while chapter.alive() and time.monotonic() < chapter.signalled + 100:
        time.sleep(0.5)
    assert chapter.alive() == []


@pytest.mark.parametrize(("title", "code"), STOPPED.items())
def test_a_stopped_study_says_how_to_resume_and_leaves_nothing_running(story: Story, title: str, code: int) -> None:
    chapter = story.chapters[title]
    assert chapter.code == code
    assert "Stopping: " in chapter.out
    assert chapter.command.lines[-1].strip() == f"python -m sweep resume story --workspace {story.workspace}"
    assert "Traceback" not in chapter.out
    assert chapter.statuses["story"] == "KILLED"
    assert "KILLED" in [status for run, status in chapter.statuses.items() if run != "story"]
    assert "RUNNING" not in chapter.statuses.values()
    assert chapter.seconds < 60
    assert chapter.alive() == []


def test_a_second_interrupt_ends_at_once(story: Story) -> None:
    chapter = story.chapters["interrupted twice"]
    assert chapter.code == 130
    assert chapter.seconds < 30
    assert "Traceback" not in chapter.out
    assert chapter.alive() == []


def test_status_shows_the_orphans_of_a_killed_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A driver that takes a trial and dies; what it leaves is the same with and without Ray."""
    (tmp_path / "story.yaml").write_text(STUDY)
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from sweep.service import load; from sweep.settings import Settings\n"
        "from sweep.storage import open_storage; from sweep.study import Study\n"
        "settings = Settings(); config = load(sys.argv[1], settings)[0]\n"
        "study = Study(config, open_storage(settings.storage), workspace=settings.workspace)\n"
        "study.fill(); study.ask(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "story.yaml")]
    ended = subprocess.run(command, env=environment(tmp_path / "results"), check=False, timeout=PATIENCE)
    assert ended.returncode == -signal.SIGKILL
    status = sweep_here(monkeypatch, capsys, tmp_path / "results", "status", "story")
    assert "trial 0 (trial): orphan" in status.out
    assert "the next run goes on with it" in status.out
