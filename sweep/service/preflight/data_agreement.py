"""Holds a study to the data that it was started with: trials of different data do not compare."""

from typing import Any

from ...config.errors import ConfigError, DataError
from ...config.settings import Settings
from ...config.study_config import StudyConfig
from ...study.storages.catalog import get_storage

DATA = "data"  # attribute of a study: the result of `describe_data`


def describe_data(config: StudyConfig, settings: Settings) -> dict[str, Any]:
    """Returns the fingerprint of a study's data set, prepared before, and its counts for a message."""
    from ...data.loading import find_reader, fingerprint, prepare_dataset

    found = find_reader(config.data, settings.data, settings.cache)
    prepare_dataset(found, cache=settings.cache)
    counts = {"images": found.info.num_train + found.info.num_val + found.info.num_test}
    return {"fingerprint": fingerprint(found, settings.cache), **counts, "classes": found.info.num_classes}


def require_same_data(config: StudyConfig, settings: Settings) -> None:
    """Raises a ConfigError if the data of a stored study have changed since it was started."""
    from ...study.storages.storage import get_user_attr, study_names

    storage, name = get_storage(settings.storage), config.name
    before = get_user_attr(name, DATA, storage) if name in study_names(storage) else None
    if before is None:  # of an older version
        return
    try:
        now = describe_data(config, settings)
    except DataError as error:
        raise ConfigError(f"study {name}", [str(error)]) from error
    if now["fingerprint"] != before["fingerprint"]:
        was, here = (f"{each['images']} images of {each['classes']} classes" for each in (before, now))
        different = here if here != was else f"{here}, but others"
        raise ConfigError(
            f"study {name} was started with other data",
            [f"data.{'folder' if config.data.folder else 'name'}: was {was}, now {different}"],
            f"Its trials would not compare: restore the data, or start a new study, for instance with "
            f"--set name={name}-2",
        )
