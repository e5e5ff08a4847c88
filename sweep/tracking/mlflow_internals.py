"""MLflow's undocumented parts: its database, its retries there, its loggers and imports, as read in MLflow 3.17."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

    from mlflow import MlflowClient
    from mlflow.entities import Run

DATABASE_RETRIES = 4  # attempts, 1 s in all; MLflow's own 10 take 100 s

# MLflow's defaults retry for minutes, print two lines a run and call home. The user's own values win.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # the recorder retries by itself
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "8",  # seconds
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


def connect(uri: str, *, remote: bool) -> MlflowClient:
    """Returns a client whose import, migrations and retries print nothing; without ``remote``, of a database."""
    import mlflow

    _be_quiet(remote=remote)
    return mlflow.MlflowClient(uri)


def make_database(uri: str, artifacts: str) -> None:
    """Makes the tables of a database; MLflow's own experiment is the last thing that is made."""
    _be_quiet(remote=False)
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore(uri, artifacts)  # type: ignore[no-untyped-call]
    store._dispose_engine()  # type: ignore[no-untyped-call]
    SqlAlchemyStore._engine_map.pop(uri)


def pytorch_flavor() -> ModuleType:
    """Returns `mlflow.pytorch`, imported without its callback for Lightning, where nobody uses Lightning yet.

    That callback imports an installed Lightning, TorchMetrics and Transformers: 8 s of CPU at the end of a study.
    """
    callback = "mlflow.pytorch._lightning_autolog"
    if "pytorch_lightning" not in sys.modules:
        sys.modules.setdefault(callback, None)  # type: ignore[arg-type]  # an import of it raises ImportError
    import mlflow.pytorch

    if sys.modules.get(callback, callback) is None:
        del sys.modules[callback]
    return mlflow.pytorch


def _be_quiet(*, remote: bool) -> None:
    if "MLFLOW_LOGGING_LEVEL" not in os.environ:
        logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # the user gets its errors as messages
    logging.getLogger("alembic").setLevel(logging.ERROR)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # its warnings name the whole URL
    if not remote:
        import mlflow.store.db.utils

        mlflow.store.db.utils.MAX_RETRY_COUNT = DATABASE_RETRIES


def last_steps(run: Run) -> dict[str, int]:
    """Returns the last step of each metric; the public `run.data.metrics` holds values alone."""
    return {metric.key: metric.step for metric in run.data.to_proto().metrics}
