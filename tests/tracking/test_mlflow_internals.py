"""MLflow's undocumented parts that are used: a new version of MLflow must still have them."""

from __future__ import annotations

import inspect
import subprocess
import sys
import textwrap

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


def test_the_pytorch_flavor_comes_without_lightning_which_may_be_imported_later() -> None:
    """Lightning takes seconds to import."""
    callback = "mlflow.pytorch._lightning_autolog"
    script = f"""
        import sys
        from sweep.tracking.mlflow_internals import pytorch_flavor
        print(pytorch_flavor().__name__, *({{"pytorch_lightning", "{callback}"}} & {{*sys.modules}}))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["mlflow.pytorch"], done.stdout + done.stderr
    assert callback in inspect.getsource(mlflow.pytorch), f"MLflow {mlflow.__version__} moved {callback}"
