"""The study file, the search space, settings, errors, the user's own code and access to files.

Imports nothing of `sweep` but the options of `losses`, and no vendor, so that reading a study file is instant.
"""

from .lazy_face import lazy_face

__getattr__ = lazy_face(
    __name__,
    {
        **dict.fromkeys(("ConfigError", "DataError", "StorageError", "SweepError", "TrackingError"), ".errors"),
        "Settings": ".settings",
        "StudyConfig": ".study_config",
        "TrialConfig": ".trial_config",
    },
)
