"""A data set of the user's own: a function that returns arrays, or a torchvision-style class, by import path.

It is read once in a run, where the run is started; the cache keeps arrays named after their content, and a note of what
an import path led to. Elsewhere, and in trials, the note is enough as long as the code is the same.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import inspect
import json
import sys
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import uuid4

import numpy as np
import torch

from ..config.errors import DataError
from ..config.user_code import ImportPathError, import_object, source_of, user_error_location
from .batches import ArrayPart
from .datasets import DatasetInfo, stratified_order
from .s3_mirror import mirrored

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..config.sections import DataConfig
    from .datasets import Arrays


PARTS = ("train", "val", "test")


class OwnData:
    """What ``package.module:name`` leads to.

    A function is called with the data root and returns ``{"train": (images, labels), "test": ...}``, perhaps ``val``
    too; a class is made with the root and ``train=True`` or ``False``, and its items are (image, label).
    """

    options: ClassVar[tuple[str, ...]] = ()
    required: ClassVar[tuple[str, ...]] = options

    def __init__(self, config: DataConfig, root: Path):
        self._path, self._root = config.name, root

    def remembered(self, cache: Path) -> OwnData:
        """The same, without reading it, where the cache has it of the same code."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            note = json.loads(self._note(cache).read_text())
            if (cache / note["key"]).is_dir():
                info = {k: tuple(v) if isinstance(v, list) else v for k, v in note["info"].items()}
                self.info, self.key = DatasetInfo(**info), note["key"]  # type: ignore[arg-type]
        return self

    def remember(self, cache: Path) -> None:
        """Notes in the cache what the import path led to.

        Raises:
            DataError: it cannot be written.
        """
        note, text = self._note(cache), json.dumps({"key": self.key, "info": dataclasses.asdict(self.info)})
        beside = note.with_suffix(f".{uuid4().hex}")
        try:
            if not note.is_file() or note.read_text() != text:
                beside.write_text(text)
                beside.replace(note)
        except OSError as error:
            raise DataError(f"{self._path}: cannot write the cache {cache}: {error}") from error

    def _note(self, cache: Path) -> Path:
        digest = hashlib.blake2b(f"{self._path}\0{self._root}\0".encode() + source_of(self._path), digest_size=8)
        return cache / f"own-{digest.hexdigest()}.json"

    @cached_property
    def info(self) -> DatasetInfo:
        """Found out from the arrays."""
        images, labels = self._arrays["train"]
        sums, squares = np.zeros(images.shape[1]), np.zeros(images.shape[1])
        for start in range(0, len(images), 1000):
            x = images[start : start + 1000] / 255
            sums += x.sum((0, 2, 3))
            squares += (x**2).sum((0, 2, 3))
        mean = sums / (images.size / images.shape[1])
        std = np.sqrt(np.maximum(squares / (images.size / images.shape[1]) - mean**2, 0))
        counts = {part: len(labels) for part, (_, labels) in self._arrays.items()}
        _, channels, height, width = images.shape
        return DatasetInfo(
            (channels, height, width),
            int(labels.max()) + 1,
            counts["train"],
            counts["test"],
            scale=255,
            mean=tuple(mean.tolist()),
            std=tuple(np.where(std > 0, std, 1.0).tolist()),  # a channel that is the same everywhere stays so
            num_val=counts.get("val", 0),
        )

    @cached_property
    def key(self) -> str:
        """Named after the content."""
        digest = hashlib.blake2b(digest_size=8)
        for part, (images, labels) in self._arrays.items():
            digest.update(f"{part} {images.shape} ".encode() + images.tobytes() + labels.tobytes())
        return f"own-{digest.hexdigest()}"

    def read(self) -> dict[str, Arrays]:
        """The arrays, the training part in balanced order."""
        images, labels = self._arrays["train"]
        order = stratified_order(labels)
        return {**self._arrays, "train": (images[order], labels[order])}

    def part(self, inputs: NDArray[Any], labels: NDArray[Any]) -> ArrayPart:
        """The mapped arrays."""
        return ArrayPart(torch.from_numpy(inputs), torch.from_numpy(labels))

    @cached_property
    def _arrays(self) -> dict[str, Arrays]:
        """The parts as the user's code has them, checked.

        Raises:
            DataError: the file and line of its error, or what is wrong with what it returned.
        """
        try:
            source = import_object(self._path)
        except ImportPathError as error:
            raise DataError(f"data.name: {error}") from error
        root = mirrored(self._root)
        try:
            with contextlib.redirect_stdout(sys.stderr):  # stdout is for results
                found = _from_class(source, root) if inspect.isclass(source) else source(root)
        except Exception as error:  # whatever the user's code raises
            raise DataError(f"data.name: {self._path}: {user_error_location(error)}") from error
        if not isinstance(found, Mapping) or not {"train", "test"} <= set(found) <= set(PARTS):
            keys = f" with {', '.join(map(str, found))}" if isinstance(found, Mapping) else ""
            raise DataError(
                f"data.name: {self._path} returned a {type(found).__name__}{keys}, not a dict with train, test and "
                "perhaps val"
            )
        parts = {part: found[part] for part in PARTS if part in found}
        problems = [problem for part, pair in parts.items() for problem in _problems(part, pair)]
        arrays = {} if problems else {part: _pair(pair) for part, pair in parts.items()}
        for part, (images, labels) in arrays.items():
            train, classes = arrays["train"][0], int(arrays["train"][1].max()) + 1
            if images.shape[1:] != train.shape[1:]:
                problems.append(f"images of {part} are {list(images.shape[1:])}, of train {list(train.shape[1:])}")
            if labels.max() >= classes:
                problems.append(f"labels of {part} go to {labels.max()}, of train to {classes - 1}")
        if problems:
            raise DataError("; ".join(f"data.name: {self._path}: {problem}" for problem in problems))
        return arrays


def _from_class(cls: Any, root: Path) -> dict[str, Any]:
    """Both parts of a torchvision-style class, its items put together."""
    more = {"download": True} if "download" in inspect.signature(cls).parameters else {}
    parts = {}
    for part in ("train", "test"):
        items = cls(root, train=part == "train", **more)
        pairs = [items[i] for i in range(len(items))]
        images = [_channels_first(image) for image, _ in pairs]
        parts[part] = np.stack(images), np.array([int(label) for _, label in pairs])
    return parts


def _channels_first(image: Any) -> NDArray[Any]:
    """A tensor is [C, H, W]; an array or a PIL image is [H, W] or [H, W, C]."""
    array = np.asarray(image)
    if isinstance(image, torch.Tensor):
        return array
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def _pair(pair: Any) -> Arrays:
    images, labels = (np.ascontiguousarray(array) for array in pair)
    return images, labels.astype(np.int64)


def _problems(part: str, pair: Any) -> list[str]:
    """What is wrong with the images and labels of one part."""
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        return [f"{part} must be a pair (images, labels), not a {type(pair).__name__}"]
    images, labels = (np.asarray(array) for array in pair)
    problems = []
    if images.dtype != np.uint8 or images.ndim != 4 or not images.size:
        problems.append(
            f"images of {part} must be uint8 [N, C, H, W], 0 to 255, not {images.dtype} {list(images.shape)}"
        )
    if labels.dtype.kind not in "iu" or labels.shape != (len(images),) or (labels.size and labels.min() < 0):
        problems.append(
            f"labels of {part} must be whole numbers from 0, one for each of {len(images)} images, not {labels.dtype} "
            f"{list(labels.shape)}{' from ' + str(labels.min()) if labels.dtype.kind in 'iu' and labels.size else ''}"
        )
    return problems
