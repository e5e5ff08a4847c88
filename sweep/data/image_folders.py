"""Data sets of image files: folders of classes (``imagefolder``), and images with masks (``voc``).

A reader hashes the names, sizes and times of all files when it is created, so a changed folder is another data set.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..config.errors import DataError, MissingDataError
from ..config.filesystem import AnyPath
from ..config.sections import DataConfig
from ..losses.metrics import IGNORED
from .batches import StreamedPart
from .datasets import TEST_FRACTION, Arrays, DatasetInfo, Reader, stratified_order
from .images import EXTENSIONS, PREPARATION, decode, decode_mask, resize
from .s3_mirror import mirror_locally

# ImageNet's training images; torchvision uses these values for photographs of any kind.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
YEAR = 2012  # VOC's, as in torchvision
CHECKED = 10_000  # files of a part that are decoded before the first trial; takes seconds
NAMED = 3  # items that a message names; the rest is counted
PARTS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"}
PARTS |= {"test": "test", "testing": "test"}  # names of folders, in any case, and the parts they hold


class ImageFolder(Reader):
    """A folder per class, in the layout of torchvision's ``ImageFolder``.

    The class folders are below ``train``; ``test`` or ``val`` beside it is the test part (with both, ``val``
    validates). These folders may have any of the names in `PARTS`. If there is none of them, the class folders are in
    the folder itself, and a fifth is the test part.
    """

    options: ClassVar[tuple[str, ...]] = ("folder", "image_size")
    required: ClassVar[tuple[str, ...]] = options
    preparation = PREPARATION

    def __init__(self, config: DataConfig, root: AnyPath):
        self._folder, self._size = _folder(config, root), config.size
        self._parts = _roles(_part_folders(self._folder) or {"train": self._folder})
        train = self._parts["train"]
        self._classes = _classes(train)
        problems = [] if self._classes else [f"{train} has no folders of classes: expected {train}/CLASS/*.jpg"]
        digest, counts = hashlib.blake2b(digest_size=8), dict.fromkeys(self._parts, 0)
        for part, folder in self._parts.items():
            if unknown := sorted({*_classes(folder)} - {*self._classes}):
                problems.append(f"{folder} has classes that {train} lacks: {_some(unknown)}")
            for name in self._classes:
                before = counts[part]
                for entry in _images(folder / name):
                    digest.update(_stamp(self._below(entry.path), entry.stat()))
                    counts[part] += 1
                if part == "train" and counts[part] == before:
                    problems.append(f"{folder / name} has no images ({', '.join(EXTENSIONS)})")
        _refuse("imagefolder", problems)
        self.key = f"imagefolder-{digest.hexdigest()}"
        self.doubt = _doubt(train, self._classes)
        self.info = _info(config, len(self._classes), counts, "labels", tuple(self._classes))

    def read(self) -> dict[str, Arrays]:
        """Lists the files of each part and their classes, and decodes the first of them."""
        parts = {}
        for part, folder in self._parts.items():
            found = [(self._below(e.path), i) for i, name in enumerate(self._classes) for e in _images(folder / name)]
            parts[part] = np.array([path for path, _ in found]), np.array([label for _, label in found], dtype=np.int64)
        parts = _ordered(parts, self.info)
        _check_first("imagefolder", parts, lambda name: decode(self._path(name)))
        return parts

    def contents(self, inputs: NDArray[Any]) -> Iterator[bytes]:
        """Yields the files' names, and what `_file_contents` does."""
        yield from _file_contents(inputs, lambda name: [self._path(name)])

    def part(self, inputs: NDArray[Any], labels: NDArray[Any]) -> StreamedPart:
        """Returns a part that decodes the files in each epoch."""
        return StreamedPart(inputs, labels, self._load)

    def _load(self, name: bytes, label: Any, augment: Sequence[str], draws: Sequence[float]) -> tuple[Tensor, Tensor]:
        return resize(decode(self._path(name)), self._size, augment, draws), torch.as_tensor(label)

    def _below(self, path: str) -> bytes:
        return os.fsencode(path.removeprefix(f"{self._folder}{os.sep}"))

    def _path(self, name: bytes) -> Path:
        return self._folder / os.fsdecode(name)


class VOC(Reader):
    """Images with masks, in the layout of torchvision's ``VOCSegmentation``.

    The training part is the list ``train``, the test part the list ``test`` or ``val`` (with both, ``val`` validates).
    Without either list, a fifth of ``train`` is the test part. Labels 255 and ``ignore_index`` are ignored.
    """

    options: ClassVar[tuple[str, ...]] = ("folder", "image_size", "num_classes", "year", "ignore_index")
    required: ClassVar[tuple[str, ...]] = ("folder", "image_size", "num_classes")
    preparation = PREPARATION

    def __init__(self, config: DataConfig, root: AnyPath):
        self._folder = _folder(config, root) / "VOCdevkit" / f"VOC{config.year or YEAR}"
        self._size, self._classes, self._ignored = config.size, config.num_classes or 0, config.ignore_index
        lists = {part: self._folder / "ImageSets" / "Segmentation" / f"{part}.txt" for part in ("train", "val", "test")}
        if not lists["train"].is_file():
            raise MissingDataError(
                f"voc: {lists['train']} does not exist (data.folder holds VOCdevkit; see also data.year)"
            )
        self._names = _roles({part: path.read_text().split() for part, path in lists.items() if path.is_file()})
        digest, missing = hashlib.blake2b(f"{self._classes} {self._ignored}".encode(), digest_size=8), []
        for part, names in self._names.items():
            digest.update(f"\0{part}\0".encode())
            for name in names:
                for path in (self._image(name), self._mask(name)):
                    try:
                        digest.update(_stamp(os.fsencode(path.name), path.stat()))
                    except OSError:
                        missing.append(f"{path.parent.name}/{path.name}")
        if missing:
            raise DataError(f"voc: {self._folder} lacks {_some(missing)}, named in ImageSets/Segmentation")
        self.key = f"voc-{digest.hexdigest()}"
        self.info = _info(config, self._classes, {part: len(names) for part, names in self._names.items()}, "masks")

    def read(self) -> dict[str, Arrays]:
        """Lists the pairs of each part, and decodes the first of them."""
        encoded = {part: np.array([os.fsencode(name) for name in names]) for part, names in self._names.items()}
        parts = _ordered({part: (names, names) for part, names in encoded.items()}, self.info)
        _check_first("voc", parts, self._pair)
        return parts

    def contents(self, inputs: NDArray[Any]) -> Iterator[bytes]:
        """Yields the pairs' names, and what `_file_contents` does."""
        yield from _file_contents(inputs, lambda name: [f(os.fsdecode(name)) for f in (self._image, self._mask)])

    def part(self, inputs: NDArray[Any], labels: NDArray[Any]) -> StreamedPart:
        """Returns a part that decodes the pairs in each epoch."""
        return StreamedPart(inputs, labels, self._load)

    def _load(self, name: bytes, _label: Any, augment: Sequence[str], draws: Sequence[float]) -> tuple[Tensor, Tensor]:
        image, mask = self._pair(name)
        labels = resize(mask, self._size, augment, draws, mask=True)[0]
        if self._ignored is not None:
            labels[labels == self._ignored] = IGNORED
        return resize(image, self._size, augment, draws), labels

    def _pair(self, name: bytes) -> tuple[Image.Image, Image.Image]:
        """Reads an image and its mask; raises DataError if their sizes differ or a label is out of range."""
        path = self._mask(os.fsdecode(name))
        image, mask = decode(self._image(os.fsdecode(name))), decode_mask(path)
        if image.size != mask.size:
            raise DataError(f"{path} has {mask.height} x {mask.width} pixels, its image {image.height} x {image.width}")
        labels = {label for label, count in enumerate(mask.histogram()) if count}
        unknown = labels - {*range(self._classes), self._ignored, IGNORED}
        if unknown:
            ignored = " or ".join(str(i) for i in (self._ignored, IGNORED) if i is not None)
            raise DataError(
                f"{path} has labels out of range: {_some(sorted(unknown))}. With data.num_classes = {self._classes} "
                f"they are 0 to {self._classes - 1}, or {ignored} where a pixel does not count (data.ignore_index)"
            )
        return image, mask

    def _image(self, name: str) -> Path:
        return self._folder / "JPEGImages" / f"{name}.jpg"

    def _mask(self, name: str) -> Path:
        return self._folder / "SegmentationClass" / f"{name}.png"


def _folder(config: DataConfig, root: AnyPath) -> Path:
    """Returns the data set's folder: absolute, or below the root."""
    folder = mirror_locally(root, config.folder or "") / Path(config.folder or "").expanduser()
    if not folder.is_dir():
        raise MissingDataError(
            f"data.folder: there is no folder {folder}. Give an absolute path, or one below the data root, which is "
            f"set by SWEEP_DATA (now {root})."
        )
    return folder


def _part_folders(folder: Path) -> dict[str, Path]:
    """Returns the folder of each part; raises DataError if there are parts, but not all folders have one role."""
    named: dict[str, list[str]] = {}
    for name in _classes(folder):
        named.setdefault(PARTS.get(name.lower(), ""), []).append(name)
    others = named.pop("", [])
    problems = [
        f"{' and '.join(names)} are both named like the part {part}" for part, names in named.items() if names[1:]
    ]
    if named and "train" not in named:
        problems.append(f"has {' and '.join(name for names in named.values() for name in names)}, but no train")
    elif named:
        beside = [name for name in others if next(_images(folder / name), None)]
        problems += [f"has {_some(beside)} beside train; parts are {', '.join(PARTS)}"] if beside else []
    _refuse("imagefolder", [f"{folder} {problem}" for problem in problems])
    return {part: folder / name for part, (name,) in named.items()}


def _doubt(folder: Path, classes: Sequence[str]) -> str:
    """Returns the reason why classes may be one level deeper: their images are all in folders of the same names."""
    inner = [_classes(folder / name) for name in classes]
    if not inner or not inner[0][1:] or any(each != inner[0] for each in inner):
        return ""
    if any(Path(entry.path).parent == folder / name for name in classes for entry in _images(folder / name)):
        return ""
    deeper = f"data.folder is the folder that they are in, such as {folder / classes[0]}"
    return f"the images of {_some(classes)} are in folders {_some(inner[0])}: if these are the classes, {deeper}"


def _roles(parts: dict[str, Any]) -> dict[str, Any]:
    """Returns the parts by their role: without ``test``, the part ``val`` is the test part."""
    if "val" in parts and "test" not in parts:
        parts["test"] = parts.pop("val")
    return parts


def _info(
    config: DataConfig,
    classes: int,
    counts: Mapping[str, int],
    targets: Literal["labels", "masks"],
    names: tuple[str, ...] = (),
) -> DatasetInfo:
    test = counts.get("test", round(counts["train"] * TEST_FRACTION))
    train = counts["train"] - (0 if "test" in counts else test)
    return DatasetInfo((3, *config.size), classes, train, test, 255, MEAN, STD, targets, counts.get("val", 0), names)


def _ordered(parts: Mapping[str, Arrays], info: DatasetInfo) -> dict[str, Arrays]:
    """Returns the parts in stratified order; cuts off a test part if there is none."""
    ordered: dict[str, Arrays] = {}
    for part, (names, labels) in parts.items():
        # Masks have no class to balance by, so any order will do.
        order = stratified_order(labels if info.targets == "labels" else np.zeros(len(labels)))
        ordered[part] = names[order], labels[order]
    if "test" not in ordered:
        (names, labels), cut = ordered["train"], info.num_train
        ordered |= {"train": (names[:cut], labels[:cut]), "test": (names[cut:], labels[cut:])}
    return ordered


def _check_first(kind: str, parts: Mapping[str, Arrays], read: Callable[[bytes], object]) -> None:
    """Decodes the first files of each part; raises DataError with their problems."""

    def problem(name: bytes) -> str | None:
        try:
            read(name)
        except DataError as error:
            return str(error)
        return None

    names = [name for names, _ in parts.values() for name in names[:CHECKED]]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        _refuse(kind, [found for found in pool.map(problem, names) if found])


def _refuse(kind: str, problems: list[str]) -> None:
    if problems:
        raise DataError(f"{kind}: {_some(problems, '; ')}")


def _some(things: Sequence[object], separator: str = ", ") -> str:
    more = [f"and {len(things) - NAMED} more"] if len(things) > NAMED else []
    return separator.join([*map(str, things[:NAMED]), *more])


def _classes(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _images(folder: Path | str) -> Iterator[os.DirEntry[str]]:
    """Yields all images in a folder and below it, sorted by name; none if the folder does not exist."""
    if not os.path.isdir(folder):  # noqa: PTH112 (a string as often as a Path)
        return
    with os.scandir(folder) as entries:
        found = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    for entry in found:
        if entry.is_dir():
            yield from _images(entry.path)
        elif entry.name.lower().endswith(EXTENSIONS):
            yield entry


def _file_contents(names: NDArray[Any], paths: Callable[[bytes], Sequence[Path]]) -> Iterator[bytes]:
    """Yields the names and sizes of files, and the bytes of those that are decoded before the first trial."""
    for number, name in enumerate(names):
        yield name + b"\0"
        for path in paths(name):
            yield path.read_bytes() if number < CHECKED else b"%d" % path.stat().st_size


def _stamp(name: bytes, stat: os.stat_result) -> bytes:
    """Returns bytes that change when the file does."""
    return b"%s\0%d\0%d\n" % (name, stat.st_size, stat.st_mtime_ns)
