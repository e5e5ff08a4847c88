"""Data sets: built-in ones, folders of images, the user's own and copies from object storage, up to batches."""

from ..config.lazy_face import lazy_face

__getattr__ = lazy_face(
    __name__,
    {
        "DataPart": ".batches",
        "DatasetInfo": ".datasets",
        **dict.fromkeys(("DATASETS", "Dataset", "load_dataset", "prepare_dataset"), ".loading"),
    },
)
