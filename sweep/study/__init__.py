"""Optuna's door: what to try next and when to stop, computed from the storage, the only source of truth.

May import training, data and config; nothing else in sweep imports Optuna. Its face: Study, TrialRecord, open_storage.
"""

from typing import TYPE_CHECKING

from ..config.lazy_face import lazy_face

if TYPE_CHECKING:
    from .records import TrialRecord as TrialRecord
    from .storages.storage import open_storage as open_storage
    from .study import Study as Study

__all__ = ["Study", "TrialRecord", "open_storage"]

__getattr__ = lazy_face(__name__, {"Study": ".study", "TrialRecord": ".records", "open_storage": ".storages.storage"})
