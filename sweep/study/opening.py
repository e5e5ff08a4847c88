"""Opens the Optuna study of a config, or creates it."""

import logging
from uuid import uuid4

import optuna
from optuna.storages import BaseStorage

from ..config.errors import StorageError
from ..config.filesystem import AnyPath, glob_files
from ..config.study_config import StudyConfig
from .pruners import build_pruner
from .storages.storage import FORMAT, read_config

logger = logging.getLogger(__name__)


def open_study(name: str, config: StudyConfig, storage: BaseStorage, workspace: AnyPath) -> optuna.Study:
    """Opens a study, or creates it; to be called while other drivers are kept out."""
    if (before := read_config(name, storage)) is None:
        refuse_stale_checkpoints(name, workspace)
    study = _create(name, config, storage)
    if before is not None:
        before.require_agreement(config)
    attrs = study.user_attrs
    # The config is read by `resume NAME` and compared at the next run.
    present = {"config": config.model_dump(mode="json"), "format": FORMAT, "id": attrs.get("id", uuid4().hex)}
    for attr, value in present.items():
        if attrs.get(attr) != value:
            study.set_user_attr(attr, value)
    logger.debug("%s: %s", name, "created" if before is None else "opened")
    return study


def refuse_stale_checkpoints(name: str, workspace: AnyPath) -> None:
    """Raises `StorageError` for a new study beside checkpoints of an earlier one: its trials would resume from them."""
    if stray := next(iter(glob_files(workspace / name, "*/*/epoch-*.pt")), None):
        raise StorageError(
            f"study {name}: the storage has no study of this name, but {stray.parents[2]} holds checkpoints of an "
            "earlier one; move that folder, or choose another name or workspace"
        )


def _create(name: str, config: StudyConfig, storage: BaseStorage) -> optuna.Study:
    """Creates an Optuna study, or opens ours; also an empty one, whose driver died before it wrote the config."""
    direction, pruner = config.objective.direction, build_pruner(config)
    if name not in optuna.get_all_study_names(storage):
        return optuna.create_study(study_name=name, storage=storage, direction=direction, pruner=pruner)
    study = optuna.load_study(study_name=name, storage=storage, pruner=pruner)
    if "copied_from" in study.user_attrs and "config" not in study.user_attrs:
        raise StorageError(f"study {name}: its import is running, or was interrupted: then import it again")
    if "config" not in study.user_attrs and (study.user_attrs or study.get_trials(deepcopy=False)):
        raise StorageError(f"study {name}: sweep did not create the one in the storage; choose another name")
    present = " and ".join(d.name.lower() for d in study.directions)
    if present != direction:
        raise StorageError(f"study {name}: its objective is to {present}, not to {direction}; choose another name")
    return study
