"""Data sets as uint8 tensors: prepared once per machine, memory-mapped by every trial, batched by index.

``prepare`` (driver, before the first trial) reads or downloads a set and writes it as .npy files; ``load`` (worker)
maps them and cuts training and validation parts; ``batches`` (the training loop) yields float batches on the device.

The training part is stored in an order of which every run is class-balanced, so that each cut is a slice: trials share
one copy in the page cache, and the cut is the same on every machine and for every training size.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import tarfile
from dataclasses import dataclass
from functools import cached_property
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

import numpy as np
import torch

from .errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    Arrays = tuple[NDArray[Any], NDArray[Any]]  # images, labels

CUT_SEED = 20231108
NETWORK_TIMEOUT = 10.0  # seconds without an answer
DIGITS_TEST_FRACTION = 0.2
UNREADABLE = (OSError, HTTPException, RuntimeError, ValueError, AssertionError, EOFError, tarfile.TarError)
CROP_PADDING = 8  # pad by 1 pixel for each so many of the image's side: 4 at 32x32, 3 at 28x28, 1 at 8x8


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """What is known of a data set without reading it.

    Attributes:
        in_shape: an image, [C, H, W].
        num_classes: labels are 0 .. num_classes - 1.
        num_train: images of the training part, the validation part included.
        num_test: images of the test part.
        scale: the stored value that stands for 1.0.
        mean: per channel, of training images in [0, 1].
        std: per channel, of training images in [0, 1].
        torchvision: class in ``torchvision.datasets``; None for scikit-learn's digits.
    """

    in_shape: tuple[int, int, int]
    num_classes: int
    num_train: int
    num_test: int
    scale: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    torchvision: str | None


DATASETS: dict[str, DatasetInfo] = {
    "digits": DatasetInfo((1, 8, 8), 10, 1438, 359, 16, (0.3049,), (0.3760,), None),
    "mnist": DatasetInfo((1, 28, 28), 10, 60_000, 10_000, 255, (0.1307,), (0.3081,), "MNIST"),
    "fashion_mnist": DatasetInfo((1, 28, 28), 10, 60_000, 10_000, 255, (0.2860,), (0.3530,), "FashionMNIST"),
    "cifar10": DatasetInfo(
        (3, 32, 32), 10, 50_000, 10_000, 255, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), "CIFAR10"
    ),
    "cifar100": DatasetInfo(
        (3, 32, 32), 100, 50_000, 10_000, 255, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762), "CIFAR100"
    ),
}


class Split(NamedTuple):
    """One part of a data set.

    Attributes:
        images: uint8 [N, C, H, W].
        labels: int64 [N].
    """

    images: Tensor
    labels: Tensor

    def to(self, device: torch.device | str) -> Split:
        """The same part, resident on a device; on the CPU it stays the memory map."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Dataset:
    """The parts of a data set; the test part is not opened before it is asked for."""

    info: DatasetInfo
    train: Split
    val: Split
    folder: Path

    @cached_property
    def test(self) -> Split:
        """The test part, which nothing but a final test may look at."""
        return _open(self.folder, "test")


def dataset_info(name: str) -> DatasetInfo:
    """The entry of ``DATASETS``.

    Raises:
        DataError: no data set has this name.
    """
    if name not in DATASETS:
        raise DataError(f"data.name: unknown data set {name!r}; choose one of {', '.join(DATASETS)}")
    return DATASETS[name]


def split_sizes(name: str, *, train_size: int | None = None, val_fraction: float = 0.1) -> tuple[int, int]:
    """Numbers of training and validation images, without reading the set.

    Raises:
        DataError: a fraction or a training size that the set cannot have.
    """
    total = dataset_info(name).num_train
    num_val = round(total * val_fraction) if 0 < val_fraction < 1 else 0
    if not 0 < num_val < total:
        raise DataError(f"data.val_fraction = {val_fraction}: must leave images on both sides of {total} of {name}")
    available = total - num_val
    if train_size is not None and not 1 <= train_size <= available:
        raise DataError(
            f"data.train_size = {train_size}: {name} has {available} images beside {num_val} for validation"
        )
    return train_size or available, num_val


def load(name: str, *, root: Path, cache: Path, train_size: int | None = None, val_fraction: float = 0.1) -> Dataset:
    """Open a data set, prepared if it is not yet in the cache; images stay on disk, mapped.

    Args:
        name: a key of ``DATASETS``.
        root: folder in torchvision's layout, read or downloaded to when the cache lacks the set.
        cache: folder of the prepared arrays, one on each machine.
        train_size: images to train on, in the classes' proportions; None is all. Validation stays the same.
        val_fraction: part of the training images set aside for validation.

    Raises:
        DataError: the set is missing or unreadable, or cannot be cut so.
    """
    num_train, num_val = split_sizes(name, train_size=train_size, val_fraction=val_fraction)
    prepare(name, root=root, cache=cache)
    images, labels = _open(cache / name, "train")
    train = Split(images[:num_train], labels[:num_train])
    val = Split(images[-num_val:], labels[-num_val:])
    return Dataset(DATASETS[name], train, val, cache / name)


def prepare(name: str, *, root: Path, cache: Path) -> None:
    """Write a data set to ``cache/name`` as memory-mappable arrays, unless it is there.

    Several processes may do so at once: each file appears complete, by a rename, and is the same from all of them.

    Raises:
        DataError: an unknown set, or one that is missing and cannot be downloaded: names the files and the folder.
    """
    info = dataset_info(name)
    folder = cache / name
    if all(_path(folder, part, kind).is_file() for part in ("train", "test") for kind in ("images", "labels")):
        return
    train, test = _read_digits() if info.torchvision is None else _read_torchvision(name, info.torchvision, root)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for part, (images, labels), count in (("train", train, info.num_train), ("test", test, info.num_test)):
            if images.shape != (count, *info.in_shape) or labels.shape != (count,):
                raise DataError(f"{name}: expected {count} {part} images, found arrays {images.shape}, {labels.shape}")
            _write(_path(folder, part, "images"), np.ascontiguousarray(images, dtype=np.uint8))
            _write(_path(folder, part, "labels"), labels.astype(np.int64))
    except OSError as error:
        raise DataError(f"{name}: cannot write the cache {folder}: {error}") from error


def balanced_order(labels: NDArray[Any]) -> NDArray[np.intp]:
    """A fixed random order in which every run of images has the classes in the proportions of the whole.

    The image of random rank r (0, 1, ...) among the n of its class is put at (r + 1/2) / n of the way, so that a
    beginning of m images out of N has m n / N of that class, to within 1/2 + (number of classes) n / 2 N.

    Args:
        labels: class of each image, int [N].

    Returns:
        Indices into ``labels``, int [N].
    """
    generator = np.random.Generator(np.random.PCG64(CUT_SEED))
    position = np.empty(len(labels))
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        position[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.argsort(position, kind="stable")


def _read_digits() -> tuple[Arrays, Arrays]:
    """Scikit-learn's digits, 0 .. 16: training part in balanced order, and a test part that we cut ourselves."""
    # The package's own file: importing scikit-learn for it takes longer than starting Ray.
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise DataError("digits: scikit-learn, which holds them, is not installed: pip install scikit-learn")
    table = np.loadtxt(Path(package.origin).parent / "datasets/data/digits.csv.gz", delimiter=",", dtype=np.uint8)
    images, labels = table[:, :-1].reshape(-1, *DATASETS["digits"].in_shape), table[:, -1]
    order = balanced_order(labels)
    images, labels = images[order], labels[order]
    cut = len(labels) - round(len(labels) * DIGITS_TEST_FRACTION)
    return (images[:cut], labels[:cut]), (images[cut:], labels[cut:])


def _read_torchvision(name: str, class_name: str, root: Path) -> tuple[Arrays, Arrays]:
    """A set of torchvision, downloaded when it is not under the root: training part in balanced order, test part."""
    from torchvision import datasets  # here, since it takes a second and workers never need it

    cls = getattr(datasets, class_name)
    folder, files = _expected(cls, root)
    missing = [file for file in files if not (folder / file).is_file()]
    place = f"The folder is set by SWEEP_DATA (now {root})."
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(NETWORK_TIMEOUT)  # torchvision's downloads have none of their own
    try:
        with contextlib.redirect_stdout(sys.stderr):  # torchvision prints failed mirrors; stdout is for results
            parts = [cls(root, train=train, download=bool(missing)) for train in (True, False)]
    except UNREADABLE as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]  # torchvision puts the cause last
        if missing:
            raise DataError(
                f"{name}: {', '.join(missing)} not found in {folder}, and the download failed ({reason}). "
                f"Place these files in {folder}, or run once where there is a network. {place}"
            ) from error
        raise DataError(
            f"{name}: the files in {folder} cannot be read ({reason}). "
            f"Delete {', '.join(files)} there and place them again, or let them be downloaded. {place}"
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)
    train, test = ((_channels_first(np.asarray(part.data)), np.asarray(part.targets)) for part in parts)
    order = balanced_order(train[1])
    return (train[0][order], train[1][order]), test


def _expected(cls: Any, root: Path) -> tuple[Path, list[str]]:
    """The folder and the files from which a torchvision class reads."""
    if hasattr(cls, "base_folder"):  # CIFAR
        files = [file for file, _ in (*cls.train_list, *cls.test_list)]
        return root / cls.base_folder, [*files, cls.meta["filename"]]
    return root / cls.__name__ / "raw", [url.removesuffix(".gz") for url, _ in cls.resources]


def _channels_first(images: NDArray[Any]) -> NDArray[Any]:
    """[N, H, W] or [N, H, W, C] to [N, C, H, W]."""
    return images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)


def _path(folder: Path, part: str, kind: str) -> Path:
    return folder / f"{part}_{kind}.npy"


def _write(path: Path, array: NDArray[Any]) -> None:
    """Write an array so that the path only ever holds a complete file."""
    beside = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        with beside.open("wb") as file:
            np.save(file, array, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _open(folder: Path, part: str) -> Split:
    """Map one part of a prepared set; copy-on-write, since torch warns of read-only arrays."""
    try:
        images, labels = (np.load(_path(folder, part, kind), mmap_mode="c") for kind in ("images", "labels"))
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"the prepared data in {folder} cannot be read ({error}); delete this folder") from error
    return Split(torch.from_numpy(images), torch.from_numpy(labels))


def batches(
    split: Split,
    *,
    batch_size: int,
    device: torch.device | str,
    shuffle: torch.Generator | None,
    scale: int,
    augment: Sequence[str] = (),
    normalize: tuple[Sequence[float], Sequence[float]] | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of float batches; the last may be smaller.

    All randomness comes from ``shuffle``, drawn on the CPU, so an epoch is the same on every device and continues
    from a saved generator state.

    Args:
        split: images and labels; resident on the device (``Split.to``) they are not copied again.
        batch_size: images per batch.
        device: where the batches go.
        shuffle: CPU generator of the order and the augmentation; None keeps the stored order.
        scale: the stored value that becomes 1.0.
        augment: ``crop`` shifts each image by up to an eighth of its side, zeros moving in; ``flip`` mirrors every
            second one, at random.
        normalize: mean and standard deviation per channel, of images in [0, 1]; None leaves them in [0, 1].

    Yields:
        Images, float32 [B, C, H, W], and labels, int64 [B].

    Raises:
        ValueError: augmentation without a generator.
    """
    if augment and shuffle is None:
        raise ValueError(f"augment = {augment!r}: needs a generator in shuffle to draw from")
    images, labels = split
    if normalize is not None:
        mean, std = (scale * torch.tensor(values, device=device).view(-1, 1, 1) for values in normalize)
    order = None if shuffle is None else torch.randperm(len(labels), generator=shuffle).to(images.device)
    for start in range(0, len(labels), batch_size):
        part = slice(start, start + batch_size)
        if order is None:
            x, y = images[part], labels[part]
        else:  # index_select copies whole images: 15 times as fast as images[index] on a CPU
            x, y = images.index_select(0, order[part]), labels.index_select(0, order[part])
        x, y = x.to(device), y.to(device)
        if augment:
            x = _augment(x, augment, shuffle)
        x = x.float()
        yield x.div_(scale) if normalize is None else x.sub_(mean).div_(std), y


def _augment(x: Tensor, augment: Sequence[str], generator: torch.Generator | None) -> Tensor:
    """Shift and mirror each image of a batch [B, C, H, W] at random."""
    batch, _, height, width = x.shape
    if "crop" in augment:
        pad = min(height, width) // CROP_PADDING
        shifts = torch.randint(0, 2 * pad + 1, (2, batch), generator=generator).to(x.device)
        windows = torch.nn.functional.pad(x, (pad,) * 4).unfold(2, height, 1).unfold(3, width, 1)
        x = windows[torch.arange(batch, device=x.device), :, shifts[0], shifts[1]]  # [B, C, H, W]
    if "flip" in augment:
        mirrored = torch.randint(0, 2, (batch, 1, 1, 1), generator=generator).bool().to(x.device)
        x = torch.where(mirrored, x.flip(-1), x)
    return x
