"""Looks studies up in the storage of the settings: their names, their configs, and those derived from them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...config.errors import SweepError, nearest
from ...config.filesystem import glob_files
from ...config.secrets import without_secrets
from ...config.settings import Settings
from ...config.study_config import StudyConfig

if TYPE_CHECKING:
    from .storage import Storage

# Attributes of a study, beside its config.
OWN_CODE = "own_code"  # folders in which the user's own model and the like were found
CONFIRMATION = "confirmation"  # the last result of `sweep confirm`


def get_storage(url: str, *, create: bool = False) -> Storage:
    """Returns the process' one connection to a storage; an empty storage for a missing file, unless ``create``."""
    from .storage import empty_storage, storage_file

    if not create and (file := storage_file(url)) is not None and not file.exists():
        return empty_storage()
    return _open(url)


@functools.cache
def _open(url: str) -> Storage:
    """Opens a storage once: that reads a whole journal, or checks a whole schema."""
    from .storage import open_storage

    return open_storage(url)


def load_stored_config(name: str, settings: Settings) -> StudyConfig:
    """Returns the config of a study that was started before.

    Raises `SweepError` if there is no study of this name (lists the known ones), or another program wrote it.
    """
    from .storage import read_config, study_names

    storage = get_storage(settings.storage)
    if (config := read_config(name, storage)) is not None:
        return config
    if name in (known := study_names(storage)):
        raise SweepError(
            f"{name}: a study of another program; sweep reads only its trials: "
            f"sweep sensitivity {name} shows which hyperparameters matter."
        )
    raise unknown_study(name, known, settings)


def unknown_study(name: str, known: Sequence[str], settings: Settings) -> SweepError:
    """Returns the error about a study that is not among the ``known`` ones of the storage."""
    place, names = without_secrets(settings.storage), ", ".join(known)
    if glob_files(folder := settings.workspace / name, "*/*/epoch-*.pt"):
        return SweepError(
            f"{name}: not in the storage {place}, but {folder} holds its checkpoints: the storage was replaced or cut. "
            "Restore it from a copy, or name the study's own by --storage (SWEEP_STORAGE)"
        )
    there = f"which has {names}" if known else "which has none: sweep run digits starts one there"
    return SweepError(
        f"{name}: no such study in the storage {place}{nearest(name, known)}, {there}. "
        "--workspace (SWEEP_WORKSPACE) or --storage (SWEEP_STORAGE) names another storage."
    )


def study_id(name: str, settings: Settings) -> str | None:
    """Returns the id of a study, by which its experiment in MLflow is found whatever its name."""
    from .storage import get_user_attr

    found: str | None = get_user_attr(name, "id", get_storage(settings.storage))
    return found


def require_same_study(config: StudyConfig, settings: Settings) -> None:
    """Raises `ConfigError` with all differences if the stored study of the same name does not agree with a config."""
    from .storage import read_config

    if (before := read_config(config.name, get_storage(settings.storage))) is not None:
        before.require_agreement(config)


def derive_study(config: StudyConfig, settings: Settings) -> tuple[StudyConfig, list[StudyConfig]]:
    """Derives a study with another search space from the stored one of its name.

    An Optuna study has one space. So the result is a study of its own with its own budget, ``NAME-2``, or the next
    number that is unused or has this very space. Returns its config and its forerunners, oldest first; none if the
    study has this space already. Raises `ConfigError` if more than the space differs.
    """
    from .storage import read_config

    storage, forerunners, name = get_storage(settings.storage), list[StudyConfig](), config.name
    while (before := read_config(name, storage)) is not None:
        present = config.model_copy(update={"name": name})
        changed = before.changes(present)
        if not changed:
            break
        if not all(key.startswith("space.") for key in changed):
            before.require_agreement(present)
        forerunners.append(before)
        name = f"{config.name}-{len(forerunners) + 1}"
    return config.model_copy(update={"name": name}), forerunners


def study_names_of_ours(settings: Settings) -> list[str]:
    """Returns the names of sweep's studies in the storage, including those that this version cannot read."""
    from .storage import get_user_attr, study_names

    storage = get_storage(settings.storage)
    return [name for name in study_names(storage) if get_user_attr(name, "config", storage) is not None]
