"""The built-in data sets that fit into memory: their info, and their readers, which return uint8 arrays."""

import contextlib
import gzip
import hashlib
import math
import shutil
import socket
import sys
import tarfile
import tempfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray

from ..config.errors import DataError, MissingDataError
from ..config.filesystem import AnyPath, is_remote
from ..config.sections import DataConfig
from .batches import ArrayPart, DataPart
from .s3_mirror import mirror_locally

Arrays = tuple[NDArray[Any], NDArray[Any]]  # inputs and labels of one part, as they are stored
CUT_SEED = 20231108
NETWORK_TIMEOUT = 10.0  # seconds without an answer
TEST_FRACTION = 0.2  # share of a data set without a test part that is cut off as one
UNREADABLE = (OSError, HTTPException, RuntimeError, ValueError, AssertionError, EOFError, tarfile.TarError, zlib.error)


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """The info of a data set that is available before it is prepared."""

    in_shape: tuple[int, int, int]  # [C, H, W]
    num_classes: int
    num_train: int  # images, those of a validation part that is cut from them included
    num_test: int
    scale: int  # the stored value that stands for 1.0
    mean: tuple[float, ...]  # of each channel of the training images, scaled to [0, 1]
    std: tuple[float, ...]
    targets: Literal["labels", "masks"] = "labels"  # of each image, or of each pixel
    num_val: int = 0  # images of the data set's own validation part; 0 if it is cut from the training part
    classes: tuple[str, ...] = ()  # the name of each class; empty if the data set has no names


class Reader(ABC):
    """The reader of one data set; by default its arrays fit into memory, and it has no options."""

    options: ClassVar[tuple[str, ...]] = ()  # keys of ``data`` that it accepts, beside `loading.COMMON`
    required: ClassVar[tuple[str, ...]] = ()  # those of the options that must be given
    info: DatasetInfo
    key: str  # name of the folder in the cache; it changes with the content
    preparation: ClassVar[str] = "none"  # of an image, before it is stored as uint8 [C, H, W]
    doubt: str = ""  # the reason why the classes may be the wrong ones
    downloads: Path | None = None  # folder to which `read` downloads; None: the data root

    def __init__(self, config: DataConfig, root: AnyPath):  # noqa: B027 (data in a package need no search)
        """Finds the data set, below ``root`` if it consists of files."""

    @abstractmethod
    def read(self) -> dict[str, Arrays]:
        """Returns ``train`` in stratified order, ``test`` and perhaps ``val``; raises DataError if files are amiss."""

    def contents(self, inputs: NDArray[Any]) -> Iterator[bytes]:
        """Yields what tells these inputs from others, on every machine that has a copy of them."""
        yield np.ascontiguousarray(inputs).tobytes()

    def part(self, inputs: NDArray[Any], labels: NDArray[Any]) -> DataPart:
        """Returns a part that yields batches of stored arrays, or of a slice of them."""
        return ArrayPart(torch.from_numpy(inputs), torch.from_numpy(labels))


DIGITS = tuple("0123456789")
FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

IN_TORCHVISION: dict[str, tuple[str, DatasetInfo]] = {
    "mnist": ("MNIST", DatasetInfo((1, 28, 28), 10, 60_000, 10_000, 255, (0.1307,), (0.3081,), classes=DIGITS)),
    "fashion_mnist": (
        "FashionMNIST",
        DatasetInfo((1, 28, 28), 10, 60_000, 10_000, 255, (0.2860,), (0.3530,), classes=FASHION),
    ),
    "cifar10": (
        "CIFAR10",
        DatasetInfo(
            (3, 32, 32), 10, 50_000, 10_000, 255, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), classes=CIFAR10
        ),
    ),
    "cifar100": (
        "CIFAR100",
        DatasetInfo((3, 32, 32), 100, 50_000, 10_000, 255, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    ),
}


class Digits(Reader):
    """Scikit-learn's digits, pixel values 0 to 16; they have no test part, so one is cut off."""

    info = DatasetInfo((1, 8, 8), 10, 1438, 359, 16, (0.3049,), (0.3760,), classes=DIGITS)
    key = "digits"

    def read(self) -> dict[str, Arrays]:
        """Reads the package's file directly, because importing scikit-learn takes longer than starting Ray."""
        package = find_spec("sklearn")
        if package is None or package.origin is None:
            raise DataError("digits: scikit-learn, which holds them, is not installed: pip install scikit-learn")
        table = np.loadtxt(Path(package.origin).parent / "datasets/data/digits.csv.gz", delimiter=",", dtype=np.uint8)
        images, labels = table[:, :-1].reshape(-1, *self.info.in_shape), table[:, -1].astype(np.int64)
        order = stratified_order(labels)
        images, labels = images[order], labels[order]
        cut = len(labels) - round(len(labels) * TEST_FRACTION)
        return {"train": (images[:cut], labels[:cut]), "test": (images[cut:], labels[cut:])}


class InTorchvision(Reader):
    """A data set of ``torchvision.datasets``, downloaded if it is not below the root."""

    def __init__(self, config: DataConfig, root: AnyPath):
        self.key, self._root = config.name, root
        self._class, self.info = IN_TORCHVISION[config.name]

    def read(self) -> dict[str, Arrays]:
        """Reads, or downloads, both parts."""
        from torchvision import datasets  # here, because it takes a second and workers never need it

        cls = getattr(datasets, self._class)
        below, files = _expected(cls)
        root, place = mirror_locally(self._root, below), f"The folder is set by SWEEP_DATA (now {self._root})."
        folder = root / below
        missing = _missing(folder, files)
        try:
            with contextlib.ExitStack() as stack:
                stack.callback(socket.setdefaulttimeout, socket.getdefaulttimeout())
                socket.setdefaulttimeout(NETWORK_TIMEOUT)  # torchvision's downloads have none of their own
                stack.enter_context(contextlib.redirect_stdout(sys.stderr))  # torchvision prints failed mirrors
                if missing and (archives := _archives(cls, root, folder, missing)):
                    root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sweep-data-")))
                    _unpack(archives, [folder / file for file in files if file not in missing], root / below)
                    missing = []
                if missing and is_remote(self._root):
                    absent = f"{', '.join(missing)} not found in {self._root / below}"
                    raise MissingDataError(f"{self.key}: {absent}. {place}")
                if missing:
                    root = self.downloads or root
                    with contextlib.suppress(OSError):  # nobody downloads to a root that is read-only
                        root.mkdir(parents=True, exist_ok=True)
                        stack.enter_context(FileLock(root / f".{self.key}.lock"))
                    missing = _missing(root / below, files)  # a process that waited finds the files
                if not missing:  # a download repairs half-written files itself
                    _refuse_damaged(self.key, cls, self._root / below, root / below)
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
        train, test = ((channels_first(np.asarray(part.data)), np.asarray(part.targets, np.int64)) for part in parts)
        order = stratified_order(train[1])
        return {"train": (train[0][order], train[1][order]), "test": test}


def _expected(cls: Any) -> tuple[str, list[str]]:
    """Returns the folder below the root, and the names of the files in it, that a torchvision class reads."""
    if hasattr(cls, "base_folder"):  # CIFAR
        files = [file for file, _ in (*cls.train_list, *cls.test_list)]
        return cls.base_folder, [*files, cls.meta["filename"]]
    return f"{cls.__name__}/raw", [url.removesuffix(".gz") for url, _ in cls.resources]


def _missing(folder: Path, files: Sequence[str]) -> list[str]:
    return [file for file in files if not (folder / file).is_file()]


def _archives(cls: Any, root: Path, folder: Path, missing: Sequence[str]) -> list[Path]:
    """Returns the compressed files that hold all missing files of a torchvision class; none if one is missing too."""
    packed = [root / cls.filename] if hasattr(cls, "filename") else [folder / f"{file}.gz" for file in missing]
    return packed if all(path.is_file() for path in packed) else []


def _unpack(archives: Sequence[Path], present: Sequence[Path], target: Path) -> None:
    """Unpacks compressed files into a folder, and links the files there that are not compressed."""
    target.mkdir(parents=True)
    for path in archives:
        if path.name.endswith(".tar.gz"):
            with tarfile.open(path) as archive:
                archive.extractall(target.parent, filter="data")
        else:
            with gzip.open(path) as packed, (target / path.stem).open("wb") as file:
                shutil.copyfileobj(packed, file)
    for path in present:
        if not (target / path.name).exists():
            (target / path.name).symlink_to(path.absolute())


def _refuse_damaged(key: str, cls: Any, shown: AnyPath, folder: Path) -> None:
    """Raises DataError if a file differs from the MD5 that torchvision lists, or from the size in its header."""
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
        lines = [f"{key}: delete these files in {shown} and place them again", *problems]
        raise DataError("\n  - ".join(lines))


def _cut_off(path: Path) -> str | None:
    """Returns how the length of a file in MNIST's format differs from its header, or None."""
    with path.open("rb") as file:  # four bytes, the last of them the number of axes, and four for each axis's length
        kind = file.read(4)
        axes = [int.from_bytes(file.read(4)) for _ in range(kind[3] if len(kind) == 4 else 0)]
    expected, found = 4 + 4 * len(axes) + math.prod(axes), path.stat().st_size
    return f"{path.name}: expected {expected} bytes, found {found}" if expected != found else None


def stratified_order(labels: NDArray[Any]) -> NDArray[np.intp]:
    """Returns a fixed random order in which any contiguous slice has the class proportions of the whole.

    The image of random rank r (0, 1, ...) among the n images of its class is placed at the fraction (r + 1/2) / n of
    the order. So the first m of N images contain m n / N of that class, to within 1/2 + (number of classes) n / 2 N.

    Example:
        >>> labels = np.array([0, 0, 0, 0, 1, 1])
        >>> labels[stratified_order(labels)].tolist()
        [0, 1, 0, 0, 1, 0]
    """
    generator = np.random.Generator(np.random.PCG64(CUT_SEED))
    position = np.empty(len(labels))
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        position[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.argsort(position, kind="stable")


def channels_first(images: NDArray[Any]) -> NDArray[Any]:
    """Returns [N, C, H, W] from [N, H, W] or [N, H, W, C]."""
    return images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
