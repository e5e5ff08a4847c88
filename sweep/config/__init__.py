"""The study file, the search space, settings, errors, the user's own code and access to files.

Imports nothing of `sweep` but the options of `losses`, and no vendor, so that reading a study file is instant. The face
is in ``__all__``; each name is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .lazy_face import lazy_face

if TYPE_CHECKING:
    from .errors import ConfigError, DataError, StorageError, SweepError, TrackingError
    from .filesystem import AnyPath, parse_path, write_atomically
    from .search_space import Choices, Range, parse_dimension
    from .sections import DataConfig
    from .settings import Settings
    from .study_config import StudyConfig, TrialConfig
    from .study_file import parse_study, read_yaml
    from .user_code import import_object
else:
    __getattr__ = lazy_face(
        __name__,
        {
            **dict.fromkeys(("ConfigError", "DataError", "StorageError", "SweepError", "TrackingError"), ".errors"),
            **dict.fromkeys(("AnyPath", "parse_path", "write_atomically"), ".filesystem"),
            **dict.fromkeys(("Choices", "Range", "parse_dimension"), ".search_space"),
            "DataConfig": ".sections",
            "Settings": ".settings",
            **dict.fromkeys(("StudyConfig", "TrialConfig"), ".study_config"),
            **dict.fromkeys(("parse_study", "read_yaml"), ".study_file"),
            "import_object": ".user_code",
        },
    )

__all__ = [
    "AnyPath",
    "Choices",
    "ConfigError",
    "DataConfig",
    "DataError",
    "Range",
    "Settings",
    "StorageError",
    "StudyConfig",
    "SweepError",
    "TrackingError",
    "TrialConfig",
    "import_object",
    "parse_dimension",
    "parse_path",
    "parse_study",
    "read_yaml",
    "write_atomically",
]
