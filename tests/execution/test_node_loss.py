"""Machines that fail, hang, are taken away, lack memory, and come: clusters of several nodes on this host."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import ray
from optuna.trial import TrialState

from sweep.config.resources import Resources
from sweep.config.sections import DataConfig
from sweep.config.settings import Settings
from sweep.data.loading import load_dataset
from sweep.execution import dispatcher
from sweep.execution.tune_adapters import execute
from sweep.study.storages.storage import open_storage
from sweep.tracking.server import password_server
from sweep.training.trial import TrialPaths

from ..support.invariants import (
    Checkpointed,
    Curves,
    assert_whole,
    checkpointed,
    left_by,
    newest,
    strange_curves,
    trained_again,
    trials_of,
)
from ..support.processes import Cluster, Command, free_port, wait_for
from ..support.studies import config_of
from ..support.trial_lists import Trials, job

pytestmark = pytest.mark.filterwarnings("default")  # MLflow's own deprecations are not ours

# A trial takes some seconds: the node must be met in the middle of one.
STUDY = """
name: nodes
model: {name: mlp, width: 64}
data: {name: digits}
objective: {metric: val_loss, direction: minimize}
space:
  lambda1: {low: 1e-4, high: 1e-2, log: true}
  depth: {low: 1, high: 2}
training: {max_epochs: 60, batch_size: 16}
search: {trials: 3, sampler: random, pruner: none, finalists: {top: 0}}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the workspace in it."""
    return tmp_path_factory.mktemp("nodes")


@pytest.fixture(scope="module")
def cluster(place: Path) -> Iterator[Cluster]:
    """A head with one CPU; each test adds a node, and takes it away."""
    with contextlib.closing(Cluster(place, cpus=1)) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[dict[str, str]]:
    """Several nodes want PostgreSQL, and an MLflow server: one with a password; the variables that reach it."""
    settings = Settings(workspace=place / "results")
    with password_server(settings, port=free_port()) as server:
        yield dict(line.split("=", 1) for line in server.variables.read_text().splitlines())


@dataclass
class Running:
    """A study on a head and one node, with a trial on each in its middle."""

    command: Command
    name: str
    text: str
    workspace: Path
    storage: str
    safe: Checkpointed

    def assert_whole(self, *, trials: int) -> None:
        """The study has ended as if nothing had happened."""
        assert self.command.end() == 0, self.command.out
        left = left_by(self.workspace, self.name, open_storage(self.storage))
        assert_whole(left, self.name, trials=trials, controls=0)
        assert {trial.state for trial in left.trials} == {TrialState.COMPLETE}
        assert len(self.safe) == 2
        assert trained_again(left, self.safe, checkpointed(self.workspace, self.name)) == []
        assert strange_curves(left, Curves(config_of(self.text), self.workspace, self.workspace.parent)) == []


def started(
    cluster: Cluster, server: dict[str, str], storage: str, name: str, place: Path, **how: int
) -> tuple[Command, str]:
    """Starts a study of so many trials and epochs; returns its file's text as well."""
    text = STUDY.replace("nodes", name)
    for key, value in how.items():
        text = re.sub(rf"{key}: \d+", f"{key}: {value}", text)
    file = place / f"{name}.yaml"
    file.write_text(text)
    words = ("run", str(file), "--address", cluster.address, "--storage", storage)
    return Command(place / "results", *words, **cluster.environment, **server), text


def moved(workspace: Path, name: str) -> list[Path]:
    """Checkpoints of trials that have another worker than their first."""
    return list((workspace / name).glob("*/attempt-01.*/epoch-*.pt"))


@contextlib.contextmanager
def running(
    cluster: Cluster, server: dict[str, str], storage: str, name: str, place: Path, **how: int
) -> Iterator[Running]:
    """Adds a node, and starts a study of so many trials and epochs."""
    cluster.add()
    command, text = started(cluster, server, storage, name, place, **how)
    workspace = place / "results"
    try:
        middle = range(2, how.get("max_epochs", 60) // 2)  # epochs: begun by both nodes, and far from the end
        wait_for(
            lambda: command.over or [epoch in middle for epoch in newest(workspace, name).values()] == [True] * 2,
            "both nodes in the middle of a trial",
        )
        yield Running(command, name, text, workspace, storage, checkpointed(workspace, name))
    finally:
        command.close()


@pytest.mark.alone  # as are the next two: it measures seconds
@pytest.mark.exhaustive
@pytest.mark.timeout(900)
@pytest.mark.parametrize("storage_url", ["postgresql"], indirect=True)
def test_sixty_trials_on_two_nodes_are_sixty_when_one_of_the_nodes_is_killed(
    cluster: Cluster, server: dict[str, str], storage_url: str, study_name: str, place: Path
) -> None:
    cluster.add()
    cluster.add()
    workspace = place / "results"
    command, text = started(cluster, server, storage_url, study_name, place, trials=60, max_epochs=8)
    try:
        wait_for(lambda: command.over or len(newest(workspace, study_name)) > 20, "a third of the trials")
        seen: set[int] = set()
        wait_for(lambda: command.over or seen.update(cluster.busy()) or len(seen) == 2, "trials on both nodes")
        safe, killed = checkpointed(workspace, study_name), 0
        while not killed and not command.over:
            killed = cluster.kill_node()  # a node is left alone between two steps
        began = time.monotonic()
        assert killed == 1, command.out
        wait_for(lambda: command.over or moved(workspace, study_name), "its trial to go on")
        took = time.monotonic() - began
        assert command.end() == 0, command.out
    finally:
        command.close()
        cluster.clear()
    left = left_by(workspace, study_name, open_storage(storage_url))
    assert_whole(left, study_name, trials=60, controls=0)
    assert {trial.state for trial in left.trials} == {TrialState.COMPLETE}
    assert trained_again(left, safe, checkpointed(workspace, study_name)) == []
    assert strange_curves(left, Curves(config_of(text), workspace, workspace.parent)) == []
    assert moved(workspace, study_name)
    assert took < 60, command.out  # the 15 s that are promised are measured on a quiet machine


@pytest.mark.alone
@pytest.mark.exhaustive
@pytest.mark.parametrize("storage_url", ["postgresql"], indirect=True)
def test_trials_of_a_node_that_hangs_go_on_elsewhere_and_nothing_counts_that_it_writes_when_it_does_no_more(
    cluster: Cluster, server: dict[str, str], storage_url: str, study_name: str, place: Path
) -> None:
    # Long enough that a trial is not over before its node is frozen, where other work slows this process.
    with running(cluster, server, storage_url, study_name, place, trials=2, max_epochs=200) as study:
        frozen: list[psutil.Process] = []
        while not frozen and not study.command.over:
            frozen = cluster.freeze_node()
        began = time.monotonic()
        wait_for(lambda: study.command.over or moved(study.workspace, study.name), "the trial to go on")
        took = time.monotonic() - began
        for process in frozen:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()
        study.assert_whole(trials=2)
        assert moved(study.workspace, study.name)
        assert took < 20, study.command.out


@pytest.mark.alone
@pytest.mark.exhaustive
@pytest.mark.parametrize("storage_url", ["postgresql"], indirect=True)
def test_trials_leave_a_node_that_is_being_drained_before_it_goes(
    cluster: Cluster, server: dict[str, str], storage_url: str, study_name: str, place: Path
) -> None:
    # Long trials: the notice takes some seconds to be given, and two to be seen.
    with running(cluster, server, storage_url, study_name, place, trials=2, max_epochs=200) as study:
        before = cluster.raylets()
        cluster.drain_node()
        wait_for(lambda: study.command.over or moved(study.workspace, study.name), "the trial to go on")
        study.assert_whole(trials=2)
        assert moved(study.workspace, study.name)
        wait_for(lambda: cluster.raylets() < before, "the node to go, as nothing runs there", 30)


@pytest.fixture
def without_memory() -> Iterator[None]:
    """A private Ray that takes its machine for full, and kills every worker as it does when memory runs low."""
    ray.init(
        address="local",
        num_cpus=1,
        include_dashboard=False,
        log_to_driver=False,
        _system_config={"memory_usage_threshold": 0.01, "min_memory_free_bytes": -1, "memory_monitor_refresh_ms": 100},
    )
    yield
    ray.shutdown()


@pytest.mark.usefixtures("without_memory")
def test_a_trial_whose_workers_die_three_times_in_an_epoch_is_given_up_and_named_if_it_was_out_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "MAX_MACHINE_LOSSES", 3)  # the memory is other programs'
    monkeypatch.setattr(dispatcher, "PAUSE", 0.0)
    load_dataset(DataConfig(name="digits"), root=tmp_path, cache=tmp_path / "cache")
    place = TrialPaths(tmp_path / "study", data=tmp_path, cache=tmp_path / "cache")
    source = Trials([job(place, number, 3) for number in (0, 1)])
    execute(source, Resources(gpus=0), stop=threading.Event())
    assert source.results == {}
    assert list(source.given_up) == [0, 1], "the next trial is tried all the same"
    for error in source.given_up.values():
        assert error.splitlines()[-1].startswith(
            "the worker died 3 times in the same epoch, out of memory on the host:"
        )
        assert "running low on memory" in error
    assert source.lacks == ["host", "host"]


# -- at last, since it waits for nodes to come and go ------------------------------------------------------------------


@pytest.mark.alone  # it compares two counts taken in turn
@pytest.mark.exhaustive
@pytest.mark.parametrize("storage_url", ["postgresql"], indirect=True)
def test_a_cluster_grows_for_the_trials_that_wait_and_shrinks_when_there_are_none(
    server: dict[str, str], storage_url: str, study_name: str, place: Path, tmp_path: Path
) -> None:
    """From a head alone to two nodes beside it, and back."""
    study, file, workspace = STUDY.replace("nodes", study_name), tmp_path / "nodes.yaml", place / "results"
    file.write_text(study.replace("trials: 3", "trials: 6").replace("max_epochs: 60", "max_epochs: 20"))
    storage, taken = open_storage(storage_url), Counter[int]()  # most trials that ran, by the nodes there were
    with contextlib.closing(Cluster(tmp_path, grows=2)) as cluster:
        words = ("run", str(file), "--address", cluster.address, "--storage", storage_url)
        command = Command(workspace, *words, **cluster.environment, **server)
        try:
            while not command.over:
                nodes = cluster.raylets()
                running = sum(trial.state == TrialState.RUNNING for trial in trials_of(study_name, storage)[0])
                # A look may take seconds, in which nodes go. At last they go while the driver records the last trial.
                if nodes == cluster.raylets() and not (nodes == 1 and len(taken) > 1):
                    taken[nodes] = max(taken[nodes], running)
                time.sleep(0.3)
            assert command.end() == 0, command.out
        finally:
            command.close()
        assert "Waiting for a node, for 15 minutes at most" in command.out
        assert set(taken) == {1, 2, 3} or set(taken) == {1, 3}
        assert taken[1] == 0, "a trial was taken before there was a place for it"
        assert taken[3] in (2, 3), "those that run, and one that is asked ahead"
        wait_for(lambda: cluster.raylets() == 1, "the nodes to be let go", 60)
    left = left_by(workspace, study_name, storage)
    assert_whole(left, study_name, trials=6, controls=0)
    assert {trial.state for trial in left.trials} == {TrialState.COMPLETE}
