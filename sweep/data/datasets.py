"""The data sets that have a name: what is known of each without reading it, and how it is read into uint8 arrays.

A reader knows one data set: `data.prepare` writes what it reads to the cache, `data.load` maps and cuts that.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import socket
import sys
import tarfile
from dataclasses import dataclass
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np
import torch

from ..config.errors import DataError, MissingDataError
from ..config.filesystem import is_remote
from ..config.locks import FileLock
from .batches import ArrayPart, DataPart
from .s3_mirror import mirrored

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..config.sections import DataConfig

    Arrays = tuple[NDArray[Any], NDArray[Any]]  # inputs and labels of one part, as they are stored


CUT_SEED = 20231108
NETWORK_TIMEOUT = 10.0  # seconds without an answer
TEST_FRACTION = 0.2  # of a set that brings no test part
UNREADABLE = (OSError, HTTPException, RuntimeError, ValueError, AssertionError, EOFError, tarfile.TarError)


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """What is known of a data set before it is prepared.

    Attributes:
        in_shape: an image, [C, H, W].
        num_classes: labels are 0 .. num_classes - 1.
        num_train: images of the training part, the validation part included.
        num_test: images of the test part.
        scale: the stored value that stands for 1.0.
        mean: per channel, of training images in [0, 1].
        std: per channel, of training images in [0, 1].
        targets: whether each image has a label, or each of its pixels (a mask).
        num_val: images of a validation part that the set brings; 0 where that is cut from the training part.
    """

    in_shape: tuple[int, int, int]
    num_classes: int
    num_train: int
    num_test: int
    scale: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    targets: Literal["labels", "masks"] = "labels"
    num_val: int = 0


class Reader(Protocol):
    """One data set, as the study file names it.

    Attributes:
        options: the keys of ``data`` that it takes beside those that every set takes.
        required: those of them that it cannot do without.
    """

    options: ClassVar[tuple[str, ...]]
    required: ClassVar[tuple[str, ...]]

    def __init__(self, config: DataConfig, root: Path):
        """Finds the set; below ``root``, if it is one of files."""

    @property
    def info(self) -> DatasetInfo:
        """What a model, and the cut into parts, need to know."""

    @property
    def key(self) -> str:
        """The set's folder in the cache; another one for other content."""

    def read(self) -> dict[str, Arrays]:
        """Returns ``train``, ``test`` and perhaps ``val`` as they are to be stored; every run of ``train`` is balanced.

        Raises:
            DataError: missing or unreadable: which files, and what to do.
        """

    def part(self, inputs: NDArray[Any], labels: NDArray[Any]) -> DataPart:
        """Returns stored arrays, or a run of them, as something that batches can be taken from."""


IN_TORCHVISION: dict[str, tuple[str, DatasetInfo]] = {
    "mnist": ("MNIST", DatasetInfo((1, 28, 28), 10, 60_000, 10_000, 255, (0.1307,), (0.3081,))),
    "fashion_mnist": ("FashionMNIST", DatasetInfo((1, 28, 28), 10, 60_000, 10_000, 255, (0.2860,), (0.3530,))),
    "cifar10": (
        "CIFAR10",
        DatasetInfo((3, 32, 32), 10, 50_000, 10_000, 255, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    ),
    "cifar100": (
        "CIFAR100",
        DatasetInfo((3, 32, 32), 100, 50_000, 10_000, 255, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    ),
}


class Digits:
    """Scikit-learn's digits, 0 .. 16; they have no test part, so that we cut one."""

    info = DatasetInfo((1, 8, 8), 10, 1438, 359, 16, (0.3049,), (0.3760,))
    key = "digits"
    options: ClassVar[tuple[str, ...]] = ()
    required: ClassVar[tuple[str, ...]] = options

    def __init__(self, _config: DataConfig, _root: Path):
        pass

    def read(self) -> dict[str, Arrays]:
        """Reads the package's own file: importing scikit-learn for it takes longer than starting Ray."""
        package = find_spec("sklearn")
        if package is None or package.origin is None:
            raise DataError("digits: scikit-learn, which holds them, is not installed: pip install scikit-learn")
        table = np.loadtxt(Path(package.origin).parent / "datasets/data/digits.csv.gz", delimiter=",", dtype=np.uint8)
        images, labels = table[:, :-1].reshape(-1, *self.info.in_shape), table[:, -1].astype(np.int64)
        order = stratified_order(labels)
        images, labels = images[order], labels[order]
        cut = len(labels) - round(len(labels) * TEST_FRACTION)
        return {"train": (images[:cut], labels[:cut]), "test": (images[cut:], labels[cut:])}

    def part(self, inputs: NDArray[Any], labels: NDArray[Any]) -> ArrayPart:
        """The mapped arrays."""
        return ArrayPart(torch.from_numpy(inputs), torch.from_numpy(labels))


class InTorchvision:
    """A set of ``torchvision.datasets``, downloaded when it is not under the root."""

    options: ClassVar[tuple[str, ...]] = ()
    required: ClassVar[tuple[str, ...]] = options

    def __init__(self, config: DataConfig, root: Path):
        self.key, self._root = config.name, root
        self._class, self.info = IN_TORCHVISION[config.name]

    def read(self) -> dict[str, Arrays]:
        """Reads, or downloads, both parts."""
        from torchvision import datasets  # here, since it takes a second and workers never need it

        cls = getattr(datasets, self._class)
        below, files = self._expected(cls)
        root, place = mirrored(self._root, below), f"The folder is set by SWEEP_DATA (now {self._root})."
        folder = root / below
        missing = [file for file in files if not (folder / file).is_file()]
        if missing and is_remote(self._root):
            raise MissingDataError(f"{self.key}: {', '.join(missing)} not found in {self._root / below}. {place}")
        timeout = socket.getdefaulttimeout()
        socket.setdefaulttimeout(NETWORK_TIMEOUT)  # torchvision's downloads have none of their own
        try:
            with contextlib.ExitStack() as stack:
                stack.enter_context(contextlib.redirect_stdout(sys.stderr))  # torchvision prints failed mirrors
                if missing:
                    root.mkdir(parents=True, exist_ok=True)
                    stack.enter_context(FileLock(root / f".{self.key}.lock").held())  # whoever waited finds the files
                else:  # a download mends what one before has left half-written
                    _refuse_damaged(self.key, cls, self._root / below, folder)
                parts = [cls(root, train=train, download=bool(missing)) for train in (True, False)]
        except UNREADABLE as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1]  # torchvision puts the cause last
            if missing:
                raise MissingDataError(
                    f"{self.key}: {', '.join(missing)} not found in {folder}, and the download failed ({reason}). "
                    f"Place these files in {folder}, or run once where there is a network. {place}"
                ) from error
            raise DataError(
                f"{self.key}: the files in {folder} cannot be read ({reason}). "
                f"Delete {', '.join(files)} there and place them again, or let them be downloaded. {place}"
            ) from error
        finally:
            socket.setdefaulttimeout(timeout)
        train, test = ((_channels_first(np.asarray(part.data)), np.asarray(part.targets, np.int64)) for part in parts)
        order = stratified_order(train[1])
        return {"train": (train[0][order], train[1][order]), "test": test}

    def part(self, inputs: NDArray[Any], labels: NDArray[Any]) -> ArrayPart:
        """The mapped arrays."""
        return ArrayPart(torch.from_numpy(inputs), torch.from_numpy(labels))

    def _expected(self, cls: Any) -> tuple[str, list[str]]:
        """The folder below the root, and the files in it, from which a torchvision class reads."""
        if hasattr(cls, "base_folder"):  # CIFAR
            files = [file for file, _ in (*cls.train_list, *cls.test_list)]
            return cls.base_folder, [*files, cls.meta["filename"]]
        return f"{cls.__name__}/raw", [url.removesuffix(".gz") for url, _ in cls.resources]


def _refuse_damaged(key: str, cls: Any, shown: Path, folder: Path) -> None:
    """Looks at all files: by the MD5 that torchvision knows, or the size that they say they have.

    Args:
        shown: the folder as the user knows it.

    Raises:
        DataError: names the files, what was expected and what was found.
    """
    if hasattr(cls, "base_folder"):  # CIFAR
        known = [*cls.train_list, *cls.test_list, [cls.meta["filename"], cls.meta["md5"]]]
        problems = [
            f"{file}: expected MD5 {md5}, found {found}"
            for file, md5 in known
            if (found := hashlib.md5((folder / file).read_bytes(), usedforsecurity=False).hexdigest()) != md5
        ]
    else:
        problems = [problem for path in folder.glob("*-idx[13]-ubyte") if (problem := _cut_off(path))]
    if problems:
        raise DataError(f"{key}: {'; '.join(problems)}. Delete these files in {shown} and place them again")


def _cut_off(path: Path) -> str | None:
    """What is wrong with the length of a file in MNIST's format: a number for its kind, one for each axis, bytes."""
    with path.open("rb") as file:
        kind = file.read(4)
        axes = [int.from_bytes(file.read(4)) for _ in range(kind[3] if len(kind) == 4 else 0)]
    expected, found = 4 + 4 * len(axes) + math.prod(axes), path.stat().st_size
    return f"{path.name}: expected {expected} bytes, found {found}" if expected != found else None


def stratified_order(labels: NDArray[Any]) -> NDArray[np.intp]:
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


def _channels_first(images: NDArray[Any]) -> NDArray[Any]:
    """[N, H, W] or [N, H, W, C] to [N, C, H, W]."""
    return images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
