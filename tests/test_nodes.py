"""A cluster of two nodes on this machine, one of which is killed in the middle of a trial."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from optuna.trial import TrialState

from .invariants import Curves, assert_whole, checkpointed, left_by, newest, strange_curves, trained_again
from .processes import Cluster, Command, wait_for
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


def test_trials_of_a_node_that_is_killed_go_on_elsewhere(cluster: Cluster, tmp_path: Path) -> None:
    file, workspace = tmp_path / "nodes.yaml", tmp_path / "results"
    file.write_text(STUDY)
    command = Command(workspace, "run", str(file), "--address", cluster.address, **cluster.environment)
    try:
        middle = range(2, 45)  # epochs: begun by both nodes, and far from the end
        wait_for(
            lambda: command.over or [epoch in middle for epoch in newest(workspace, "nodes").values()] == [True] * 2,
            "both nodes in the middle of a trial",
        )
        safe = checkpointed(workspace, "nodes")
        assert cluster.kill_node() == 1, command.out
        assert command.end() == 0, command.out
    finally:
        command.close()
    left = left_by(workspace, "nodes")
    assert_whole(left, "nodes", trials=3, controls=0)
    assert {trial.state for trial in left.trials} == {TrialState.COMPLETE}
    assert len(safe) == 2
    assert trained_again(left, safe) == []
    assert strange_curves(left, Curves(config_of(STUDY), workspace, tmp_path)) == []
