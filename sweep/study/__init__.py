"""Optuna's door: what to try next and when to stop, computed from the storage, the only source of truth.

No other folder of sweep imports Optuna.
"""

from ..config.lazy_face import lazy_face

__getattr__ = lazy_face(__name__, {"Study": ".study", "TrialRecord": ".records", "open_storage": ".storages.storage"})
