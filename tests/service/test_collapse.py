"""A study in which half of the networks are dead: what Optuna, MLflow and the commands say of them."""

from __future__ import annotations

import json
from pathlib import Path

import mlflow
import optuna
import pytest
from optuna.trial import TrialState

from sweep.config.settings import Settings
from sweep.study.dataframe import read_tables
from sweep.study.storages.storage import open_storage

from ..support.commands import sweep_here
from ..support.empty_store import with_store

STUDY = """
name: dead
model: {name: mlp, depth: 4, width: 16}
data: {name: digits, train_size: 600}
objective: {metric: val_loss, direction: minimize}
space:
  lambda1: 1e-4
  training.lr: {choices: [2e-3, 1e4]}
  training.init: {choices: [he, orthogonal]}
training: {max_epochs: 2, batch_size: 32}
search: {trials: 4, design: 4, pruner: none, finalists: {top: 1, seeds: 1, tuned: 3}}
"""


@pytest.mark.filterwarnings("default")  # MLflow's own deprecations
def test_a_collapsed_trial_is_complete_and_never_among_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace, file = with_store(tmp_path / "results"), tmp_path / "dead.yaml"
    file.write_text(STUDY)
    ended = sweep_here(monkeypatch, capsys, workspace, "run", str(file), "--executor", "local")
    assert ended.code == 0, ended.err
    storage = f"journal:///{workspace}/optuna.journal"
    study = optuna.load_study(study_name="dead", storage=open_storage(storage))
    dead = [t for t in study.trials if t.params["training.lr"] == 1e4]
    assert 0 < len(dead) < len(study.trials)
    assert {t.state for t in study.trials} == {TrialState.COMPLETE}
    assert {t.number: t.user_attrs["outcome"] for t in study.trials} == {
        t.number: "collapsed" if t in dead else "completed" for t in study.trials
    }
    assert all(f"dead-{t.number:04d} trial collapsed val_loss=" in ended.out + ended.err for t in dead)

    client = mlflow.MlflowClient(f"sqlite:///{workspace}/mlflow.db")
    experiment = client.get_experiment_by_name("dead")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.`sweep.kind` = 'trial'", order_by=["metrics.objective"])
    by_number = {int(run.data.tags["sweep.trial"]): run for run in runs}
    for trial in study.trials:
        run, name = by_number[trial.number], "last_objective" if trial in dead else "objective"
        assert run.info.status == "FINISHED"
        assert run.data.tags["sweep.outcome"] == trial.user_attrs["outcome"]
        assert {k: v for k, v in run.data.metrics.items() if k in ("objective", "last_objective")} == {
            name: trial.value
        }
    controls = client.search_runs([experiment.experiment_id], "tags.`sweep.kind` = 'control'")
    assert {run.data.tags["sweep.outcome"] for run in controls} == {"completed", "collapsed"}
    for run in controls:
        assert ("final_objective" in run.data.metrics) == (run.data.tags["sweep.outcome"] == "completed")

    trained = [t for t in study.trials if "twin" not in t.user_attrs]  # a configuration is among the best once
    alive = sorted((t for t in trained if t not in dead), key=lambda t: t.value or 0.0)
    best = json.loads(sweep_here(monkeypatch, capsys, workspace, "best", "dead", "--top", "9", "--json").out)
    assert [t["number"] for t in best] == [t.number for t in alive]
    status = sweep_here(monkeypatch, capsys, workspace, "status", "dead").out
    [head] = [line.split() for line in status.splitlines() if line.split()[:2] == ["waiting", "running"]]
    [search] = [line.split() for line in status.splitlines() if line.split()[:1] == ["search"]]
    assert search[1 + head.index("collapsed")] == str(len(dead))
    told = "collapsed: no better at the last epoch than a constant output: val_loss "
    reasons = [line for line in status.splitlines() if told in line]
    assert len(reasons) == len(dead) + sum(run.data.tags["sweep.outcome"] == "collapsed" for run in controls)

    [table] = read_tables("dead", open_storage(storage), Settings(workspace=workspace, storage=storage))
    found = table.trials[table.trials["outcome"] == "collapsed"]
    assert dict(found["value"]) == {t.number: t.value for t in dead}, "for the analysis of the probability"
