"""Loads a data set: `find_reader` finds it, `prepare_dataset` stores it once per machine, `load_dataset` maps it.

The training part is stored in stratified order, so any contiguous slice is class-balanced, the same on every machine.
"""

import contextlib
import hashlib
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from ..config.errors import DataError
from ..config.filesystem import AnyPath, ObjectStoreUnavailableError, local_path, write_atomically
from ..config.sections import DataConfig
from ..config.user_code import is_import_path
from .batches import DataPart
from .datasets import IN_TORCHVISION, DatasetInfo, Digits, InTorchvision, Reader
from .image_folders import VOC, ImageFolder
from .user_dataset import OwnData

logger = logging.getLogger(__name__)

DATASETS: dict[str, type[Reader]] = {
    "digits": Digits,
    **dict.fromkeys(IN_TORCHVISION, InTorchvision),
    "imagefolder": ImageFolder,
    "voc": VOC,
}
COMMON = ("name", "train_size", "val_fraction", "val_seed", "augment")  # keys of ``data`` that every data set accepts


@dataclass(frozen=True)
class Dataset:
    """The parts of a data set; the test part is opened on first access.

    Attributes:
        cut: position in the stored order from which training and validation images are taken.
    """

    info: DatasetInfo
    train: DataPart
    val: DataPart
    reader: Reader
    cache: Path
    cut: int = 0

    @cached_property
    def test(self) -> DataPart:
        """The test part, for a final test only."""
        return self.reader.part(*_open(self.cache / self.reader.key, "test"))


def find_reader(config: DataConfig, root: AnyPath, cache: AnyPath | None = None) -> Reader:
    """Returns the reader of the data set that a study file names; raises DataError for a wrong name or option.

    Without ``cache``, a user's own data set is read again.
    """
    own = is_import_path(config.name)
    if not own and config.name not in DATASETS:
        raise DataError(f"data.name: unknown data set {config.name!r}; choose one of {', '.join(DATASETS)}")
    if problems := check_options(config.name, [key for key, value in config if value is not None]):
        raise DataError("; ".join(problems))
    if own:
        return OwnData(config, root, local_path(cache) if cache else None)
    return DATASETS[config.name](config, root)


def check_options(name: str, given: Iterable[str]) -> list[str]:
    """Returns the problems with the keys of ``data``: unknown options, and required ones that are missing."""
    kind = DATASETS.get(name, OwnData)
    known = [*COMMON, *kind.options]
    unknown = [key for key in given if key not in known]
    return [f"data.{key}: {name} has no such option; it has {', '.join(known)}" for key in unknown] + [
        f"data.{key}: required for {name}" for key in kind.required if key not in given
    ]


def split_sizes(config: DataConfig, info: DatasetInfo) -> tuple[int, int]:
    """Returns the numbers of training and validation images; raises DataError if there are too few for the config."""
    total, fraction, size = info.num_train, config.val_fraction, config.train_size
    num_val = info.num_val or (round(total * fraction) if 0 < fraction < 1 else 0)
    available = total - (0 if info.num_val else num_val)
    if not (num_val and available > 0):
        raise DataError(f"data.val_fraction = {fraction}: must leave images on both sides of {total} of {config.name}")
    if size is not None and not 1 <= size <= available:
        raise DataError(
            f"data.train_size = {size}: {config.name} has {available} images beside {num_val} for validation"
        )
    return size or available, num_val


def load_dataset(config: DataConfig, *, root: AnyPath, cache: AnyPath, seed: int = 0) -> Dataset:
    """Opens a data set, prepared first if the cache lacks it; raises DataError if it is missing or too small.

    With ``data.val_seed: trial``, the ``seed`` chooses the images that are held out, and all images are in memory.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from sweep.config.sections import DataConfig
        >>> folder = Path(tempfile.mkdtemp())
        >>> digits = load_dataset(DataConfig(name="digits"), root=folder, cache=folder)
        >>> digits.train.size, digits.val.size, digits.test.size
        (1294, 144, 359)
    """
    cache = local_path(cache)
    found = find_reader(config, root, cache)
    num_train, num_val = split_sizes(config, found.info)
    prepare_dataset(found, cache=cache)
    inputs, labels = _open(cache / found.key, "train")
    cut = 0
    if config.val_seed == "trial" and not found.info.num_val:
        cut = int(np.random.default_rng(seed).integers(len(labels)))
        order = np.roll(np.arange(len(labels)), -cut)  # a slice of it is balanced, one around the end, too
        inputs, labels = inputs[order], labels[order]
    train = found.part(inputs[:num_train], labels[:num_train])
    if found.info.num_val:
        inputs, labels = _open(cache / found.key, "val")
    val = found.part(inputs[-num_val:], labels[-num_val:])
    return Dataset(found.info, train, val, found, cache, cut)


def prepare_dataset(found: Reader, *, cache: AnyPath) -> None:
    """Writes a data set to its folder in ``cache`` as memory-mappable arrays, unless it is there."""
    cache = local_path(cache)
    info, folder = found.info, cache / found.key
    counts = {"train": info.num_train, "test": info.num_test, **({"val": info.num_val} if info.num_val else {})}
    files = [_path(folder, part, kind) for part in counts for kind in ("images", "labels")]
    if not all(file.is_file() for file in files):
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with FileLock(cache / f"{found.key}.lock"):
                if not all(file.is_file() for file in files):
                    logger.info("%s: preparing in %s", found.key, folder)
                    _store(found, counts, folder)
        except ObjectStoreUnavailableError:
            raise
        except OSError as error:
            raise DataError(f"{found.key}: cannot write the cache {folder}: {error}") from error
    if isinstance(found, OwnData):
        found.save_info(cache)


def fingerprint(found: Reader, cache: AnyPath) -> str:
    """Returns a hash of a prepared data set; copies of a data set have the same. It is kept in the cache."""
    cache = local_path(cache)
    path, digest = cache / found.key / "fingerprint", hashlib.blake2b(digest_size=16)
    with contextlib.suppress(OSError):
        return path.read_text()
    for part in ("train", "val", "test") if found.info.num_val else ("train", "test"):
        inputs, labels = stored_part(found, cache, part)
        for piece in (part.encode(), labels.tobytes(), *found.contents(inputs)):
            digest.update(piece)
    with contextlib.suppress(OSError), write_atomically(path) as beside:  # the cache may be read-only
        beside.write_text(digest.hexdigest())
    return digest.hexdigest()


def stored_part(found: Reader, cache: AnyPath, part: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Maps the inputs and labels of one part of a prepared data set."""
    return _open(local_path(cache) / found.key, part)


def _store(found: Reader, counts: Mapping[str, int], folder: Path) -> None:
    parts = found.read()
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in counts.items():
        images, labels = parts[part]
        if images.shape not in ((count,), (count, *found.info.in_shape)) or labels.shape != (count,):
            raise DataError(f"{found.key}: expected {count} {part} images, found arrays {images.shape}, {labels.shape}")
        for kind, array in (("images", np.ascontiguousarray(images)), ("labels", labels)):
            with write_atomically(_path(folder, part, kind)) as beside, beside.open("wb") as file:
                np.save(file, array, allow_pickle=False)


def _path(folder: Path, part: str, kind: str) -> Path:
    return folder / f"{part}_{kind}.npy"


def _open(folder: Path, part: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Maps one part of a prepared data set, copy-on-write because torch warns about read-only arrays."""
    try:
        return tuple(np.load(_path(folder, part, kind), mmap_mode="c") for kind in ("images", "labels"))
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"the prepared data in {folder} cannot be read ({error}); delete this folder") from error
