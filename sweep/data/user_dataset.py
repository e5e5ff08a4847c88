"""A user's own data set: a function that returns arrays, or a torchvision-style class, given by import path.

The cache keeps its arrays, named after their content, and its info, named after the import path and the user's code.
"""

import contextlib
import dataclasses
import hashlib
import inspect
import json
import sys
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter

from ..config.errors import DataError
from ..config.filesystem import AnyPath, write_atomically
from ..config.sections import DataConfig
from ..config.user_code import ImportPathError, import_object, source_of, user_error_location
from .datasets import Arrays, DatasetInfo, Reader, channels_first, stratified_order
from .s3_mirror import mirror_locally

PARTS = ("train", "val", "test")


class OwnData(Reader):
    """The reader of the data set at ``package.module:name``.

    A function is called with the data root and returns ``{"train": (images, labels), "test": ...}``; ``val`` is
    optional. A class is called with the root and ``train=True`` or ``False``, and its items are (image, label).
    """

    def __init__(self, config: DataConfig, root: AnyPath, cache: Path | None = None):
        self._path, self._root = config.name, root
        saved = self._saved_info(cache) if cache else None
        self.info, self.key = saved or (self._measured_info(), self._content_key())

    def _saved_info(self, cache: Path) -> tuple[DatasetInfo, str] | None:
        """Returns info and key from the cache, if it has them for the same code, so that the data set is not read."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            saved = json.loads(self._info_file(cache).read_text())
            if (cache / saved["key"]).is_dir():
                return TypeAdapter(DatasetInfo).validate_python(saved["info"]), saved["key"]
        return None

    def save_info(self, cache: Path) -> None:
        """Saves info and key in the cache; raises DataError if it cannot be written."""
        path, text = self._info_file(cache), json.dumps({"key": self.key, "info": dataclasses.asdict(self.info)})
        try:
            if not path.is_file() or path.read_text() != text:
                with write_atomically(path) as beside:
                    beside.write_text(text)
        except OSError as error:
            raise DataError(f"{self._path}: cannot write the cache {cache}: {error}") from error

    def _info_file(self, cache: Path) -> Path:
        digest = hashlib.blake2b(f"{self._path}\0{self._root}\0".encode() + source_of(self._path), digest_size=8)
        return cache / f"own-{digest.hexdigest()}.json"

    def _measured_info(self) -> DatasetInfo:
        images, labels = self._arrays["train"]
        sums, squares = np.zeros(images.shape[1]), np.zeros(images.shape[1])
        for start in range(0, len(images), 1000):
            x = images[start : start + 1000] / 255
            sums += x.sum((0, 2, 3))
            squares += (x**2).sum((0, 2, 3))
        mean = sums / (images.size / images.shape[1])
        std = np.sqrt(np.maximum(squares / (images.size / images.shape[1]) - mean**2, 0))
        counts = {part: len(labels) for part, (_, labels) in self._arrays.items()}
        std = np.where(std > 0, std, 1.0)  # a constant channel is only shifted
        scaling, shape = (255, tuple(mean.tolist()), tuple(std.tolist())), images.shape[1:]
        sizes = int(labels.max()) + 1, counts["train"], counts["test"]
        return DatasetInfo(shape, *sizes, *scaling, num_val=counts.get("val", 0))

    def _content_key(self) -> str:
        digest = hashlib.blake2b(digest_size=8)
        for part, (images, labels) in self._arrays.items():
            digest.update(f"{part} {images.shape} ".encode() + images.tobytes() + labels.tobytes())
        return f"own-{digest.hexdigest()}"

    def read(self) -> dict[str, Arrays]:
        """Returns the arrays, the training part in stratified order."""
        images, labels = self._arrays["train"]
        order = stratified_order(labels)
        return {**self._arrays, "train": (images[order], labels[order])}

    @cached_property
    def _arrays(self) -> dict[str, Arrays]:
        """The parts that the user's code returns; raises DataError if it fails, or they are unusable."""
        try:
            source = import_object(self._path)
        except ImportPathError as error:
            raise DataError(f"data.name: {error}") from error
        root = mirror_locally(self._root)
        try:
            with contextlib.redirect_stdout(sys.stderr):  # stdout is for results
                found = _from_class(source, root) if inspect.isclass(source) else source(root)
        except Exception as error:  # the user's code may raise anything
            raise DataError(f"data.name: {self._path}: {user_error_location(error)}") from error
        if not isinstance(found, Mapping) or not {"train", "test"} <= set(found) <= set(PARTS):
            keys = f" with {', '.join(map(str, found))}" if isinstance(found, Mapping) else ""
            raise DataError(
                f"data.name: {self._path} returned a {type(found).__name__}{keys}, not a dict with train, test and "
                "perhaps val"
            )
        parts = {part: found[part] for part in PARTS if part in found}
        problems = [problem for part, pair in parts.items() for problem in _problems(part, pair)]
        arrays = {
            part: (np.ascontiguousarray(images), np.ascontiguousarray(labels).astype(np.int64))
            for part, (images, labels) in ({} if problems else parts).items()
        }
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
    more = {"download": True} if "download" in inspect.signature(cls).parameters else {}
    parts = {}
    for part in ("train", "test"):
        items = cls(root, train=part == "train", **more)
        pairs = [items[i] for i in range(len(items))]
        images = np.stack([np.asarray(image) for image, _ in pairs])
        if not isinstance(pairs[0][0], torch.Tensor):  # whose order is [C, H, W] already
            images = channels_first(images)
        parts[part] = images, np.array([int(label) for _, label in pairs])
    return parts


def _problems(part: str, pair: Any) -> list[str]:
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
