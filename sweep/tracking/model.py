"""The best model in MLflow: an exported program that loads anywhere, or else its weights."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..config.user_code import user_error_location

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import Model

    from ..training.program import Program

WEIGHTS = "state_dict.pt"


def save_model(program: Program, say: Callable[[str], None], client: MlflowClient, run_id: str) -> None:
    """Logs a program as `mlflow.pytorch.log_model` does, without a global tracking URI and active run; once a run.

    A network that cannot be exported, for example one whose `forward` branches on values, is logged as its state dict;
    `say` receives the reason.
    """
    import torch
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    from ..training.program import quiet_export

    run = client.get_run(run_id)
    known = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run_id}'")
    if any(logged.name == "model" and logged.status == "READY" for logged in known):
        return
    logged = client.create_logged_model(run.info.experiment_id, "model", run_id, params=run.data.params)
    model_id = logged.model_id
    described = Model(artifact_path=logged.artifact_location, run_id=run_id, model_uuid=model_id, model_id=model_id)
    with tempfile.TemporaryDirectory() as folder:
        try:
            with quiet_export():
                _save(program, described, f"{folder}/model")
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001 (whatever the exporter raises of a network of the user's own)
            client.delete_logged_model(model_id)
            torch.save(program.network.state_dict(), f"{folder}/{WEIGHTS}")
            client.log_artifact(run_id, f"{folder}/{WEIGHTS}")
            reason = user_error_location(error).partition("\n")[0]
            say(f"the best model cannot be exported, its weights are kept as {WEIGHTS} of run {run_id}: {reason}")
            return
        client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])
        client.log_model_artifacts(model_id, f"{folder}/model")
    client.finalize_logged_model(model_id, "READY")


def _save(program: Program, described: Model, folder: str) -> None:
    """Exports a program, and checks that it accepts another number of images than the exporter saw."""
    import mlflow
    import torch
    from mlflow.models import infer_signature

    from .mlflow_internals import pytorch_flavor

    pytorch = pytorch_flavor()
    module, example = program.module, program.example
    with torch.no_grad():
        pytorch.save_model(
            module,
            folder,
            mlflow_model=described,
            signature=infer_signature(example.numpy(), module(example).numpy()),
            input_example=example.numpy(),
            pip_requirements=[f"mlflow=={mlflow.__version__}", f"torch=={torch.__version__.split('+')[0]}", "numpy"],
            metadata=dict(program.metadata),
            serialization_format="pt2",
        )
        pytorch.load_model(folder)(torch.cat([example, example[:1]]))
