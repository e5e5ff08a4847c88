"""MLflow's undocumented parts that are used: a new version of MLflow must still have them."""

from __future__ import annotations

import inspect

import mlflow
import mlflow.store.db.utils
from mlflow import MlflowClient
from mlflow.entities import Metric, Run, RunData, RunInfo, RunStatus

from sweep.tracking.mlflow_internals import DATABASE_RETRIES, connect, last_steps


def test_mlflow_still_reads_the_number_of_its_database_retries() -> None:
    told = f"MLflow {mlflow.__version__} moved MAX_RETRY_COUNT: see sweep/tracking/mlflow_internals.py"
    client = connect("sqlite:///:memory:", remote=False)
    assert isinstance(client, MlflowClient)
    utils = mlflow.store.db.utils
    assert getattr(utils, "MAX_RETRY_COUNT", None) == DATABASE_RETRIES, told
    assert inspect.getsource(utils).count("MAX_RETRY_COUNT") > 1, told


def test_mlflow_still_gives_the_steps_of_a_runs_last_metrics() -> None:
    told = f"MLflow {mlflow.__version__} changed Run.data.to_proto: see sweep/tracking/mlflow_internals.py"
    info = RunInfo("1", "1", "me", RunStatus.to_string(RunStatus.RUNNING), 0, None, "active")
    data = RunData(metrics=[Metric("val_loss", 0.5, 1000, 7)])
    assert last_steps(Run(info, data)) == {"val_loss": 7}, told
