"""The best model in MLflow: an exported program that loads anywhere, or else its weights."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ..config.user_code import user_error_location

if TYPE_CHECKING:
    import numpy as np
    import torch
    from mlflow import MlflowClient
    from mlflow.models import Model

WEIGHTS = "state_dict.pt"


def save_model(
    model: torch.nn.Module, example: np.ndarray, say: Callable[[str], None], client: MlflowClient, run_id: str
) -> None:
    """Logs a model as `mlflow.pytorch.log_model` does, without a global tracking URI and active run; once a run.

    A network that cannot be exported, for example one whose `forward` branches on values, is logged as its state dict;
    `say` receives the reason. The model is put in eval mode; `example` is an input batch [N, ...].
    """
    import torch
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    run = client.get_run(run_id)
    known = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run_id}'")
    if any(logged.name == "model" and logged.status == "READY" for logged in known):
        return
    logged = client.create_logged_model(run.info.experiment_id, "model", run_id, params=run.data.params)
    model_id = logged.model_id
    described = Model(artifact_path=logged.artifact_location, run_id=run_id, model_uuid=model_id, model_id=model_id)
    with tempfile.TemporaryDirectory() as folder:
        try:
            with _quiet():
                _save(model.eval(), example, described, f"{folder}/model")
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001 (whatever the exporter raises of a network of the user's own)
            client.delete_logged_model(model_id)
            torch.save(model.state_dict(), f"{folder}/{WEIGHTS}")
            client.log_artifact(run_id, f"{folder}/{WEIGHTS}")
            reason = user_error_location(error).partition("\n")[0]
            say(f"the best model cannot be exported, its weights are kept as {WEIGHTS} of run {run_id}: {reason}")
            return
        client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])
        client.log_model_artifacts(model_id, f"{folder}/model")
    client.finalize_logged_model(model_id, "READY")


def _save(model: torch.nn.Module, example: np.ndarray, described: Model, folder: str) -> None:
    """Exports a model, and checks that it accepts another number of images than the exporter saw."""
    import mlflow.pytorch
    import numpy as np
    import torch
    from mlflow.models import infer_signature

    if len(example) == 1:
        example = np.repeat(example, 2, axis=0)  # the exporter treats a dimension of size 1 as a constant
    more = torch.from_numpy(np.concatenate([example, example[:1]]))
    with torch.no_grad():
        mlflow.pytorch.save_model(
            model,
            folder,
            mlflow_model=described,
            signature=infer_signature(example, model(torch.from_numpy(example)).numpy()),
            input_example=example,
            pip_requirements=[f"mlflow=={mlflow.__version__}", f"torch=={torch.__version__.split('+')[0]}", "numpy"],
            serialization_format="pt2",
        )
        mlflow.pytorch.load_model(folder)(more)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides the pages of graphs that the exporter prints for a model that it cannot export."""
    logger = logging.getLogger("torch")
    handlers, logger.handlers = logger.handlers, [logging.NullHandler()]
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.handlers = handlers
