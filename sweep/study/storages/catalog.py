"""From a name, a file and options to a checked study: what is meant, whether it can run, whether it may go on."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from ...config.errors import SweepError, nearest
from ...config.settings import Settings
from ...config.study_config import StudyConfig

if TYPE_CHECKING:
    from .storage import Storage


OWN_CODE = "own_code"  # a fact noted of a study: the folders in which the user's own model and the like were found
CONFIRMATION = "confirmation"  # another: what `sweep confirm` has found last


@functools.cache
def get_storage(url: str) -> Storage:
    """One connection to a storage per process: opening one reads a whole journal, or checks a whole schema."""
    from .storage import open_storage

    return open_storage(url)


def load_stored_config(name: str, settings: Settings) -> StudyConfig:
    """The config of a study that was started before.

    Raises:
        SweepError: there is none of this name, lists the known ones; or it is of another program.
    """
    from .storage import read_config, study_names

    storage = get_storage(settings.storage)
    config = read_config(name, storage)
    if config is None:
        known = study_names(storage)
        if name in known:
            raise SweepError(
                f"{name}: a study of another program, of which sweep reads the trials alone: "
                f"sweep sensitivity {name} says what matters in it."
            )
        raise SweepError(
            f"{name}: no such study in the storage{nearest(name, known)}; there "
            f"{'are ' + ', '.join(known) if known else 'is none yet: start one with sweep run digits'}."
        )
    return config


def require_same_study(config: StudyConfig, settings: Settings) -> None:
    """Refuses to go on with a study of the same name that asks another question.

    Raises:
        ConfigError: all that differs.
    """
    from .storage import read_config

    before = read_config(config.name, get_storage(settings.storage))
    if before is not None:
        before.require_agreement(config)


def derive_study(config: StudyConfig, settings: Settings) -> tuple[StudyConfig, list[StudyConfig]]:
    """A study that goes on from the one of its name with another search space.

    Optuna's studies have one space, and the trials of two would not make one budget, one MLflow experiment or one set
    of finalists. So it is a study of its own, ``NAME-2`` (or the next number that is free, or has this very space),
    with its own budget; its sampler is shown the trials of its forerunners that fit (see `sweep.study.warm_start`).

    Returns:
        The config with its name, and its forerunners, oldest first; none where the study has this space already, or
        does not exist.

    Raises:
        ConfigError: more than the space differs.
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
    """Names of our studies in the storage, those that this version cannot read included."""
    from .storage import get_user_attr, study_names

    storage = get_storage(settings.storage)
    return [name for name in study_names(storage) if get_user_attr(name, "config", storage) is not None]
