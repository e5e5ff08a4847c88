"""Loads a study by path, by name in the storage, or by built-in name, and checks everything about it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...config.errors import ConfigError, SweepError, nearest
from ...config.settings import Settings
from ...config.study_config import OF_CONFIRM, StudyConfig
from ...config.study_file import built_in, built_in_names, extend, override, parse_study, read_file
from ...config.user_code import search_in
from ...study.storages.catalog import OWN_CODE, get_storage, study_names_of_ours


def load_study(
    study: str, settings: Settings, *, sets: Sequence[str] = (), trials: int | None = None, design: int = 0
) -> tuple[StudyConfig, list[str]]:
    """Finds a study (a path, then a study in the storage, then a built-in name), applies options, checks everything.

    Also returns warnings about settings that are allowed but have no effect.

    Raises:
        ConfigError: all problems of the study at once.
        StorageError: the storage is unreachable.
    """
    from .space_checks import check_parts, check_study

    raw, source = _find(study, settings)
    raw, misplaced = override(raw, list(sets))
    extend(raw, trials, design)
    config, problems = parse_study(raw)
    found, warnings = check_study(config, settings) if config else (check_parts(raw, settings), [])
    if config and OF_CONFIRM in config.name and config.name not in study_names_of_ours(settings):
        found.append(f"name: {config.name!r} must not contain {OF_CONFIRM}, as studies of sweep confirm do")
    if config is None or misplaced + found:
        raise ConfigError(source, misplaced + problems + found)
    return config, warnings


def _find(study: str, settings: Settings) -> tuple[dict[str, Any], str]:
    path = Path(study)
    search_in(Path.cwd())
    if path.suffix in (".yaml", ".yml") or path.is_file():
        if not path.is_file():
            raise SweepError(f"{study}: no such file. Built-in studies: {', '.join(built_in_names())}.")
        search_in(path.parent)
        return read_file(path, study), study
    from ...study.storages.storage import get_user_attr, read_config, study_names

    storage = get_storage(settings.storage)
    stored = read_config(study, storage)
    if stored is not None:
        search_in(*map(Path, get_user_attr(study, OWN_CODE, storage) or []))
        return stored.model_dump(mode="json"), f"study {study}"
    shipped = built_in(study)
    if shipped is None:
        known = study_names(storage)
        raise SweepError(
            f"{study}: neither a file, nor a study in the storage ({', '.join(known) or 'which has none'}), nor a "
            f"built-in one ({', '.join(built_in_names())}){nearest(study, known + built_in_names())}."
        )
    return read_file(shipped, study), study
