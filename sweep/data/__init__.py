"""Data sets: built-in ones, folders of images, the user's own and copies from object storage, up to batches.

May import `config` and ``losses``. The face is in ``__all__``; each name is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..config.lazy_face import lazy_face

if TYPE_CHECKING:
    from .batches import DataPart
    from .datasets import DatasetInfo
    from .loading import DATASETS, Dataset, load_dataset, prepare_dataset
else:
    __getattr__ = lazy_face(
        __name__,
        {
            "DataPart": ".batches",
            "DatasetInfo": ".datasets",
            **dict.fromkeys(("DATASETS", "Dataset", "load_dataset", "prepare_dataset"), ".loading"),
        },
    )

__all__ = ["DATASETS", "DataPart", "Dataset", "DatasetInfo", "load_dataset", "prepare_dataset"]
