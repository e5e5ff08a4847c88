"""Machines that fail: a cluster of two nodes, one of which is killed in the middle of a trial; one without memory."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from optuna.trial import TrialState

from sweep.config import DataConfig, Resources
from sweep.data import load
from sweep.executor import execute
from sweep.storage import open_storage
from sweep.trial import Place

from .invariants import Curves, assert_whole, checkpointed, left_by, newest, strange_curves, trained_again, trials_of
from .processes import Cluster, Command, TrackingServer, wait_for
from .test_executor import Trials, job
from .test_resume import config_of

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


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A head with one CPU, and a node with another one."""
    cluster = Cluster(tmp_path, cpus=1)
    try:
        cluster.add()
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TrackingServer]:
    """Several nodes want an MLflow server, and PostgreSQL."""
    server = TrackingServer(tmp_path / "results")
    server.start()
    try:
        wait_for(server.ready, "the tracking server")
        yield server
    finally:
        server.stop()


@pytest.mark.parametrize("storage_url", ["postgresql"], indirect=True)
def test_trials_of_a_node_that_is_killed_go_on_elsewhere(
    cluster: Cluster, server: TrackingServer, storage_url: str, study_name: str, tmp_path: Path
) -> None:
    study, file, workspace = STUDY.replace("nodes", study_name), tmp_path / "nodes.yaml", tmp_path / "results"
    file.write_text(study)
    words = ("run", str(file), "--address", cluster.address, "--storage", storage_url, "--tracking", server.url)
    command = Command(workspace, *words, **cluster.environment)
    try:
        middle = range(2, 45)  # epochs: begun by both nodes, and far from the end
        wait_for(
            lambda: command.over or [epoch in middle for epoch in newest(workspace, study_name).values()] == [True] * 2,
            "both nodes in the middle of a trial",
        )
        safe = checkpointed(workspace, study_name)
        killed = 0  # trials; a node is left alone between two steps
        while not killed and not command.over:
            killed = cluster.kill_node()
        assert killed == 1, command.out
        assert command.end() == 0, command.out
    finally:
        command.close()
    left = left_by(workspace, study_name, open_storage(storage_url))
    assert_whole(left, study_name, trials=3, controls=0)
    assert {trial.state for trial in left.trials} == {TrialState.COMPLETE}
    assert len(safe) == 2
    assert trained_again(left, safe, checkpointed(workspace, study_name)) == []
    assert strange_curves(left, Curves(config_of(study), workspace, tmp_path)) == []


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
    tmp_path: Path,
) -> None:
    load(DataConfig(name="digits"), root=tmp_path, cache=tmp_path / "cache")
    place = Place(tmp_path / "study", data=tmp_path, cache=tmp_path / "cache")
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


@pytest.mark.parametrize("storage_url", ["postgresql"], indirect=True)
def test_a_cluster_grows_for_the_trials_that_wait_and_shrinks_when_there_are_none(
    server: TrackingServer, storage_url: str, study_name: str, tmp_path: Path
) -> None:
    """From a head alone to two nodes beside it, and back."""
    study, file, workspace = STUDY.replace("nodes", study_name), tmp_path / "nodes.yaml", tmp_path / "results"
    file.write_text(study.replace("trials: 3", "trials: 6").replace("max_epochs: 60", "max_epochs: 20"))
    storage, taken = open_storage(storage_url), Counter[int]()  # most trials that ran, by the nodes there were
    with contextlib.closing(Cluster(tmp_path, grows=2)) as cluster:
        words = ("run", str(file), "--address", cluster.address, "--storage", storage_url, "--tracking", server.url)
        command = Command(workspace, *words, **cluster.environment)
        try:
            while not command.over:
                running = sum(trial.state == TrialState.RUNNING for trial in trials_of(study_name, storage)[0])
                nodes = cluster.raylets()
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
