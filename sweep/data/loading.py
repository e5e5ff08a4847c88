"""The way to a data set: ``reader`` finds it, ``prepare`` stores it once per machine, ``load`` maps and cuts it.

The training part is stored in an order of which every run is class-balanced, so that each cut is a slice: trials share
one copy in the page cache, and the cut is the same on every machine and for every training size.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np

from ..config.errors import DataError
from ..config.filesystem import ObjectStoreUnavailableError, local_path
from ..config.locks import FileLock
from ..config.user_code import is_import_path
from .datasets import DatasetInfo, Digits, InTorchvision, Reader
from .image_folders import VOC, ImageFolder
from .user_dataset import OwnData

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from ..config.sections import DataConfig
    from .batches import DataPart


DATASETS: dict[str, type[Reader]] = {
    "digits": Digits,
    "mnist": InTorchvision,
    "fashion_mnist": InTorchvision,
    "cifar10": InTorchvision,
    "cifar100": InTorchvision,
    "imagefolder": ImageFolder,
    "voc": VOC,
}
COMMON = ("name", "train_size", "val_fraction", "augment")  # keys of ``data`` that every set takes


@dataclass(frozen=True)
class Dataset:
    """The parts of a data set; the test part is not opened before it is asked for."""

    info: DatasetInfo
    train: DataPart
    val: DataPart
    reader: Reader
    cache: Path

    @cached_property
    def test(self) -> DataPart:
        """The test part, which nothing but a final test may look at."""
        return self.reader.part(*_open(self.cache / self.reader.key, "test"))


def reader(config: DataConfig, root: Path, cache: Path | None = None) -> Reader:
    """Finds the data set that a study file names.

    Args:
        config: the study's.
        root: folder of the data sets, in torchvision's layout.
        cache: where a set of the user's own may be known already; None reads it anew.

    Raises:
        DataError: no data set has this name, it lacks an option, or its folder holds no such set.
    """
    own = is_import_path(config.name)
    if config.name not in DATASETS and not own:
        raise DataError(f"data.name: unknown data set {config.name!r}; choose one of {', '.join(DATASETS)}")
    if problems := check_options(config.name, [key for key, value in config if value is not None]):
        raise DataError("; ".join(problems))
    if own:
        return OwnData(config, root).remembered(local_path(cache)) if cache else OwnData(config, root)
    return DATASETS[config.name](config, root)


def check_options(name: str, given: Iterable[str]) -> list[str]:
    """What is wrong with the keys of ``data`` that a study file gives for a data set."""
    kind = DATASETS.get(name, OwnData)
    known = [*COMMON, *kind.options]
    strange = [key for key in given if key not in known]
    return [f"data.{key}: {name} has no such option; it has {', '.join(known)}" for key in strange] + [
        f"data.{key}: required for {name}" for key in kind.required if key not in given
    ]


def split_sizes(config: DataConfig, info: DatasetInfo) -> tuple[int, int]:
    """Numbers of training and validation images, without reading the set.

    Raises:
        DataError: a fraction or a training size that the set cannot have.
    """
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


def load_dataset(config: DataConfig, *, root: Path, cache: Path) -> Dataset:
    """Opens a data set, prepared if it is not yet in the cache; images stay on disk.

    Args:
        config: the study's: which set, and how much of it.
        root: folder in torchvision's layout, read or downloaded to when the cache lacks the set.
        cache: folder of what is prepared, one on each machine.

    Raises:
        DataError: the set is missing or unreadable, or cannot be cut so.
    """
    cache = local_path(cache)
    found = reader(config, root, cache)
    num_train, num_val = split_sizes(config, found.info)
    prepare(found, cache=cache)
    inputs, labels = _open(cache / found.key, "train")
    train = found.part(inputs[:num_train], labels[:num_train])
    if found.info.num_val:
        inputs, labels = _open(cache / found.key, "val")
    val = found.part(inputs[-num_val:], labels[-num_val:])
    return Dataset(found.info, train, val, found, cache)


def prepare(found: Reader, *, cache: Path) -> None:
    """Writes a data set to its folder in ``cache`` as memory-mappable arrays, unless it is there.

    Of several processes that want it at once, one reads or downloads it, and the others wait for that.

    Raises:
        DataError: the set is missing and cannot be downloaded, or is unreadable: names the files and the folder.
    """
    cache = local_path(cache)
    info, folder = found.info, cache / found.key
    counts = {"train": info.num_train, "test": info.num_test, **({"val": info.num_val} if info.num_val else {})}
    files = [_path(folder, part, kind) for part in counts for kind in ("images", "labels")]
    if not all(file.is_file() for file in files):
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with FileLock(cache / f"{found.key}.lock").held():
                if not all(file.is_file() for file in files):
                    _store(found, counts, folder)
        except ObjectStoreUnavailableError:
            raise
        except OSError as error:
            raise DataError(f"{found.key}: cannot write the cache {folder}: {error}") from error
    if isinstance(found, OwnData):
        found.remember(cache)


def _store(found: Reader, counts: Mapping[str, int], folder: Path) -> None:
    parts = found.read()
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in counts.items():
        images, labels = parts[part]
        if images.shape not in ((count,), (count, *found.info.in_shape)) or labels.shape != (count,):
            raise DataError(f"{found.key}: expected {count} {part} images, found arrays {images.shape}, {labels.shape}")
        _write(_path(folder, part, "images"), np.ascontiguousarray(images))
        _write(_path(folder, part, "labels"), labels)


def _path(folder: Path, part: str, kind: str) -> Path:
    return folder / f"{part}_{kind}.npy"


def _write(path: Path, array: NDArray[Any]) -> None:
    """Writes an array so that the path only ever holds a complete file."""
    beside = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        with beside.open("wb") as file:
            np.save(file, array, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _open(folder: Path, part: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Maps one part of a prepared set; copy-on-write, since torch warns of read-only arrays."""
    try:
        return tuple(np.load(_path(folder, part, kind), mmap_mode="c") for kind in ("images", "labels"))
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"the prepared data in {folder} cannot be read ({error}); delete this folder") from error
