"""The executor without Ray: trials in this process, what ends them, and the same study by either executor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import pytest
import torch

from sweep.config.errors import ConfigError, SweepError
from sweep.config.resources import Resources
from sweep.config.sections import DataConfig
from sweep.config.settings import Settings
from sweep.data.loading import load_dataset
from sweep.execution import EXECUTORS, get_executor
from sweep.execution.executor import Key, TrialRequest
from sweep.execution.local import LocalExecutor
from sweep.execution.out_of_memory import gpu_memory_limit
from sweep.training import checkpoint
from sweep.training.reports import TrialPaths, TrialReport
from sweep.training.trial import run_trial
from tests.support.trial_lists import ENDLESS, Trials, job

from ..conftest import MakeConfig
from ..support.invariants import assert_whole, left_by
from ..support.processes import Command, environment, wait_for

pytestmark = pytest.mark.filterwarnings("default")  # MLflow's own deprecations are not ours

STUDY = """
name: here
model: {name: "loud:Net"}
data: {name: digits, train_size: 300}
objective: {metric: val_loss, direction: minimize}
space: {lambda1: {low: 1e-5, high: 1e-1, log: true}, depth: 1, width: 8}
training: {max_epochs: EPOCHS}
search: {trials: 2, design: 0, sampler: random, pruner: none, finalists: {top: 0}}
resources: {max_concurrent: 3}
"""
LOUD = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, depth, width, in_shape, num_outputs):
        print("a trial was here")
        super().__init__(nn.Flatten(), nn.Linear(64, num_outputs))
"""
WITHOUT_RAY = "import sys; sys.modules['ray'] = None; from sweep.cli.app import main; main()"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> TrialPaths:
    folder = tmp_path_factory.mktemp("workspace")
    load_dataset(DataConfig(name="digits"), root=folder, cache=folder / "cache")
    return TrialPaths(folder / "study", data=folder, cache=folder / "cache")


def execute(source: Trials, stop: threading.Event | None = None, resources: Resources | None = None) -> None:
    LocalExecutor().execute(source, resources or Resources(gpus=0), stop=stop or threading.Event())


def test_trials_run_one_after_the_other_and_a_failing_one_is_a_report(place: TrialPaths) -> None:
    jobs = [job(place, number, 3) for number in range(3)]
    jobs[1].paths.folder.parent.mkdir(parents=True, exist_ok=True)
    jobs[1].paths.folder.write_text("a file where the checkpoints belong")
    source, threads = Trials(jobs), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        execute(source)
        assert torch.get_num_threads() == 2, "a trial's threads are its own"
    finally:
        torch.set_num_threads(threads)
    assert source.begun == [0, 1, 2]
    assert [source.outcome(number) for number in range(3)] == ["completed", "failed", "completed"]
    assert (source.epochs(0), source.epochs(2)) == ([1, 2, 3], [1, 2, 3])
    error = source.results[1][-1].error
    assert error is not None
    assert error.startswith("Traceback")
    expected = [m for r in run_trial(jobs[2].config, TrialPaths(place.folder / "x", *_rest(place))) for m in r.epochs]
    got = [m for report in source.results[2] for m in report.epochs]
    assert [{**m.values, "seconds": 0} for m in got] == [{**m.values, "seconds": 0} for m in expected]
    assert {"sweep.host", "sweep.device"} == source.results[2][0].tags.keys()


def _rest(place: TrialPaths) -> tuple[Path, Path]:
    return place.data, place.cache


class Stops(Trials):
    """Sets `stop` at a trial's second report; ends trials at their third."""

    def __init__(self, jobs: list[TrialRequest], stop: threading.Event | None = None):
        super().__init__(jobs)
        self.stop = stop

    def report(self, key: Key, result: TrialReport) -> bool:
        super().report(key, result)
        if self.stop is not None and len(self.results[key[1]]) == 2:
            self.stop.set()
        return len(self.results[key[1]]) == 3


def test_the_source_ends_a_trial_and_a_stop_leaves_its_epochs_in_a_checkpoint(place: TrialPaths) -> None:
    stop = threading.Event()
    source = Stops([job(place, 10, ENDLESS)])
    execute(source)
    assert len(source.results[10]) == 3
    source = Stops([job(place, 11, ENDLESS), job(place, 12, ENDLESS)], stop)
    execute(source, stop)
    assert source.begun == [11]
    assert source.outcome(11) is None
    saved = checkpoint.load_latest(place.folder / "11")
    assert saved is not None
    assert [m.epoch for m in saved.history] == source.epochs(11)


def test_a_source_that_has_nothing_now_is_asked_again(place: TrialPaths) -> None:
    class Waits(Trials):
        asked = 0

        def ask(self) -> TrialRequest | None:
            self.asked += 1
            return super().ask() if self.asked > 2 else None

    source = Waits([job(place, 20, 1)])
    execute(source)
    assert source.outcome(20) == "completed"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_ends_the_run_and_says_that_nothing_is_lost(
    place: TrialPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_room = uuid.uuid4()
    monkeypatch.setattr("sweep.config.filesystem.uuid4", lambda: no_room)
    full = job(place, 30, 3)
    (full.paths.folder / "attempt-01").mkdir(parents=True)
    for epoch in (1, 2, 3):
        (full.paths.folder / "attempt-01" / f".epoch-{epoch:04d}.pt.{no_room.hex}.tmp").symlink_to("/dev/full")
    source = Trials([full, job(place, 31, 1)])
    with pytest.raises(SweepError, match=r"No space left .* Nothing is lost: make room, then resume the study"):
        execute(source)
    assert (source.begun, source.results) == ([30], {})


def test_an_executor_has_one_of_the_known_names() -> None:
    with pytest.raises(ConfigError, match=r"--executor lokal: must be one of ray, local.*local"):
        get_executor("lokal")
    assert {type(get_executor(name)).__name__ for name in ("ray", "local")} == {"RayExecutor", "LocalExecutor"}
    assert {"ray", "local"} <= EXECUTORS.keys()


def test_what_cannot_act_is_told_once_and_gpus_that_are_not_there_are_refused(
    study_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    said: list[str] = []

    def check(address: str = "local", **resources: object) -> None:
        config = study_config(resources=resources)
        settings = Settings(workspace=tmp_path, address=address)
        LocalExecutor().check(config, settings, insecure=False, on_message=said.append)

    check(cpus=99, max_concurrent=1)
    assert said == []
    check("auto", max_concurrent=2, memory=4)
    assert said == [
        "executor local: one trial at a time, in this process; no effect: --address auto, resources.memory, "
        "resources.max_concurrent"
    ]
    with pytest.raises(ConfigError, match=r"resources[.]gpus: a trial asks for 2 GPUs, there are 0"):
        check(gpus=2)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    check(cpus=1.5, workers=2)
    with pytest.raises(
        ConfigError, match=r"resources[.]workers: a trial asks for 4 CPUs, there are 3: lower it, or cpus"
    ):
        check(cpus=2, workers=2)


def test_a_share_of_a_gpu_is_a_limit_as_long_as_the_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    properties = type("Properties", (), {"total_memory": 16 * 2**30})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", asked.append)
    for gpus in (0.5, 1.0, 0.0):
        with gpu_memory_limit(gpus):
            pass
    assert asked == [0.5 - 0.6 / 16, 1.0]


def test_a_study_runs_where_there_is_no_ray_and_its_trials_may_print(tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text(LOUD)
    (tmp_path / "study.yaml").write_text(STUDY.replace("EPOCHS", "2"))
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_RAY, "run", "study.yaml", "--executor", "local"],
        cwd=tmp_path,
        env=environment(tmp_path / "results"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("a trial was here") >= 2
    assert done.stdout.count("no effect: resources.max_concurrent") == 1
    assert_whole(left_by(tmp_path / "results", "here"), "here", trials=2, controls=0)


@pytest.mark.exhaustive
def test_sigterm_checkpoints_the_trial_and_the_study_goes_on(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(STUDY.replace('"loud:Net"', "mlp").replace("EPOCHS", "600"))
    words = ("run", str(tmp_path / "study.yaml"), "--executor", "local")
    first = Command(tmp_path / "results", *words)
    try:
        wait_for(lambda: first.over or [*tmp_path.glob("results/here/0000/*/epoch-*.pt")], "a checkpoint")
        first.signal(signal.SIGTERM)
        assert first.end() == 143, first.out
    finally:
        first.close()
    last = first.out.strip().splitlines()[-1].strip()
    assert last.startswith("sweep resume here --executor local")
    saved = checkpoint.load_latest(tmp_path / "results" / "here" / "0000")
    assert saved is not None
    assert 0 < len(saved.history) < 600
    second = Command(tmp_path / "results", *words, "--set", "training.max_epochs=600")
    try:
        assert second.end() == 0, second.out
    finally:
        second.close()
    left = left_by(tmp_path / "results", "here")
    assert_whole(left, "here", trials=2, controls=0)
    own = {m.epoch: m.timestamp for m in saved.history}
    again = checkpoint.load_latest(tmp_path / "results" / "here" / "0000")
    assert again is not None
    assert {m.epoch: m.timestamp for m in again.history if m.epoch in own} == own, "no epoch was trained again"
