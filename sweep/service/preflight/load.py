"""Loads a study by path, by name in the storage, by built-in name, or as data, and checks everything about it."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...config.errors import ConfigError, SweepError, nearest
from ...config.grid import count_points
from ...config.settings import Settings
from ...config.study_config import OF_CONFIRM, StudyConfig
from ...config.study_file import built_in, built_in_names, extend, missing_file, override, parse_study, read_file
from ...config.user_code import search_in
from ...study.storages.catalog import OWN_CODE, get_storage, load_stored_config, study_names_of_ours

# The workspace's own files and folders, and MLflow's own experiment; some file systems do not tell cases apart.
RESERVED = re.compile(r"(mlflow\.db|optuna\.journal|(tracking|import)\.lock).*|lock|artifacts|services|default", re.I)


def load_study(
    study: str | Mapping[str, Any] | StudyConfig,
    settings: Settings,
    *,
    sets: Sequence[str] = (),
    trials: int | None = None,
    design: int = 0,
) -> tuple[StudyConfig, list[str]]:
    """Finds a study (a path, then a study in the storage, then a built-in name), applies options, checks everything.

    A mapping has the keys of a study file.

    Also returns warnings about settings that are allowed but have no effect.

    Raises:
        ConfigError: all problems of the study at once.
        StorageError: the storage is unreachable.
    """
    before, source, stored = find_study(study, settings)
    raw, misplaced = override(before, list(sets))
    notes = extend(raw, trials, design)
    config, problems = parse_study(raw, before if stored else None)
    if config and not misplaced and _nothing_is_left(config, settings):
        return config, notes

    from .space_checks import check_parts, check_study  # torch, which they import, takes seconds

    found, warnings = check_study(config, settings) if config else (check_parts(raw, settings), [])
    found += name_problems(config.name, settings) if config else []
    if config is None or misplaced + found:
        raise ConfigError(source, misplaced + problems + found)
    wanted = raw.get("search", {}).get("trials", config.search.trials)
    if wanted > (trials := config.search.trials):
        notes.append(f"search.trials: the grid has {trials} points, so that there are {trials} trials, not {wanted}")
    return config, notes + warnings + few_points(config)


def few_points(config: StudyConfig) -> list[str]:
    """Returns a warning if a space holds fewer configurations than the search has trials."""
    count, search = count_points(config.searched), config.search
    if count is None or count * search.seeds >= search.trials:
        return []
    ends = {
        "reuse": "each is trained once, and further trials take its numbers",
        "resample": "further trials of each are trained on other seeds",
        "train": "they are trained again and again, to the same numbers",
    }
    number = "one configuration" if count == 1 else f"{count} configurations"
    how = f"search.duplicates is {search.duplicates}: {ends[search.duplicates]}"
    return [f"the space holds {number}, fewer than the {search.trials} trials; {how}"]


def _nothing_is_left(config: StudyConfig, settings: Settings) -> bool:
    """Returns True if the storage has this very study and all its trials are trained: no check is needed."""
    from ...study.storages.storage import read_config
    from ...study.stored_trials import read_rows
    from ..run import RunOptions, all_trained

    storage = get_storage(settings.storage)
    if read_config(config.name, storage) != config:
        return False
    rows, controls = (read_rows(name, storage) for name in (config.name, f"{config.name}.controls"))
    return all_trained(config, rows, controls, RunOptions())


def name_problems(name: str, settings: Settings) -> list[str]:
    """Returns why a new study cannot have this name."""
    problems = []
    if OF_CONFIRM in name:
        problems.append(f"name: {name!r} must not contain {OF_CONFIRM}, as studies of sweep confirm do")
    if RESERVED.fullmatch(name):
        problems.append(f"name: {name!r} is a name of the workspace's or of MLflow's own; choose another")
    return problems if problems and name not in study_names_of_ours(settings) else []


def find_study(study: str | Mapping[str, Any] | StudyConfig, settings: Settings) -> tuple[dict[str, Any], str, bool]:
    """Returns a study's keys and values, the place they are from, and True if that is the storage.

    Raises:
        SweepError: there is no such study.
    """
    search_in(Path.cwd())
    if not isinstance(study, str):
        raw = study.model_dump(mode="json") if isinstance(study, StudyConfig) else dict(study)
        return raw, f"study {raw.get('name', 'without a name')}", False
    path = Path(study)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        if not path.is_file():
            raise missing_file(path)
        search_in(path.parent)
        return read_file(path, study), study, False
    from ...study.storages.storage import get_user_attr, read_config, study_names

    storage = get_storage(settings.storage)
    stored = read_config(study, storage)
    if stored is not None:
        search_in(*map(Path, get_user_attr(study, OWN_CODE, storage) or []))
        return stored.model_dump(mode="json"), f"study {study}", True
    shipped = built_in(study)
    if shipped is None:
        if study in (known := study_names(storage)):
            load_stored_config(study, settings)  # raises: another program's
        beside = Path(f"{study}.yaml").is_file()
        near = f" (did you mean {study}.yaml?)" if beside else nearest(study, known + built_in_names())
        raise SweepError(
            f"{study}: neither a file, nor a study in the storage ({', '.join(known) or 'which has none'}), nor a "
            f"built-in one ({', '.join(built_in_names())}){near or f'. Write a study file: sweep init {study}'}"
        )
    return read_file(shipped, study), study, False
