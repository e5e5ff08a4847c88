"""Saves and loads checkpoints: one file with the weights, the optimizer and the metric history, written atomically.

A storage or tracking server that missed epochs gets them from it. Only tensors and plain containers are unpickled.
"""

import dataclasses
import io
import json
import logging
import re
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import torch
from pydantic import ConfigDict, TypeAdapter
from typing_extensions import TypedDict

from ..config import filesystem
from ..config.errors import reason
from ..config.filesystem import AnyPath
from . import attempt_files
from .reports import EpochMetrics

logger = logging.getLogger(__name__)

CHECKPOINTS = "*/epoch-*.pt"  # of a trial, of any attempt
KEPT = 2  # checkpoints of an attempt: the last one, and one to fall back to
DAMAGED = (OSError, ValueError)  # the errors that `load` raises for a file that is not a whole checkpoint


class _Progress(TypedDict):
    __pydantic_config__ = ConfigDict(strict=True)  # type: ignore[misc]

    history: list[EpochMetrics]
    diverged: int | None


_PROGRESS = TypeAdapter(_Progress)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read."""

    path: AnyPath
    history: list[EpochMetrics]
    diverged: int | None  # the epoch in which the loss was not finite
    state: dict[str, Any]  # the state dicts ``model`` and ``optimizer``; empty after `drop_weights`


def save(
    folder: AnyPath, history: list[EpochMetrics], state: dict[str, Any], *, diverged: int | None = None
) -> AnyPath:
    """Writes ``folder/epoch-0007.pt`` atomically, keeps the last two checkpoints of the folder, and returns its path.

    Raises:
        OSError: The disk is full, the folder is not writable, or the object storage is unavailable. No partial file
            is left.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = save(Path(folder), [EpochMetrics(7, {"val_loss": 0.5}, 1700000000000)], {"model": {}})
        ...     path.name, load(path).history[-1].values
        ('epoch-0007.pt', {'val_loss': 0.5})
    """
    path = folder / f"epoch-{diverged or (history[-1].epoch if history else 0):04d}.pt"
    progress = {"history": [dataclasses.asdict(m) for m in history], "diverged": diverged}
    # In memory first: torch turns a full disk into a RuntimeError.
    buffer = io.BytesIO()
    torch.save({**state, "progress": json.dumps(progress)}, buffer)
    filesystem.write_bytes(path, buffer.getvalue())
    for old in sorted(filesystem.glob_files(folder, "epoch-*.pt"), key=_epoch)[:-KEPT]:
        filesystem.remove_file(old)
    return path


def attempt(number: int, moves: int = 0) -> str:
    """Returns the folder of a trial claimed ``number`` times and lost ``moves`` workers, which may still write."""
    return f"attempt-{number:02d}.{moves}" if moves else f"attempt-{number:02d}"


def drop_weights(folder: AnyPath, *, dry_run: bool = False) -> int:
    """Deletes a finished trial's weights; keeps its history in one small checkpoint, for a server that lacks it.

    Returns:
        The bytes that this frees; 0 if there are no weights, or no checkpoint can be read.
    """
    files = [path for path in filesystem.glob_files(folder, "*/*") if path.suffix in (".pt", ".tmp")]
    files += attempt_files.own(folder)
    if not any(_has_weights(path) for path in files) or (saved := load_latest(folder)) is None:
        return 0
    before = sum(filesystem.file_size(path) for path in files)
    with tempfile.TemporaryDirectory(prefix="sweep-gc-") as scratch:
        place = Path(scratch) if dry_run else saved.path.parent
        left = save(place, saved.history, {}, diverged=saved.diverged)
        freed = before - filesystem.file_size(left)
    for path in files if not dry_run else []:
        if path != left:
            filesystem.remove_file(path)
    return freed


def _has_weights(path: AnyPath) -> bool:
    """Returns True if a checkpoint holds tensors, or cannot be read."""
    try:
        with ZipFile(io.BytesIO(filesystem.read_bytes(path)) if filesystem.is_remote(path) else path) as file:
            return any(re.search(r"/data/\d+$", part) for part in file.namelist())
    except filesystem.ObjectStoreUnavailableError:
        raise
    except (OSError, BadZipFile):
        return True


def is_gone(folder: AnyPath) -> bool:
    """Returns True if a trial has no checkpoint; False if it has one, or its object storage is unavailable."""
    try:
        return not filesystem.glob_files(folder, CHECKPOINTS)
    except filesystem.ObjectStoreUnavailableError:
        return False


def load_latest(folder: AnyPath, warn: Callable[[str], object] = warnings.warn) -> Checkpoint | None:
    """Reads a trial's newest checkpoint; falls back to the one before if it is damaged, also of an earlier attempt.

    Checkpoints of the last attempt come first, even if an earlier attempt has later epochs: a suspended driver or
    worker may resume and keep writing after another one has adopted the trial.

    Raises:
        ObjectStoreUnavailableError: They are in object storage that does not answer, so there may be some.
    """
    for path in sorted(filesystem.glob_files(folder, CHECKPOINTS), key=_age, reverse=True):
        try:
            return load(path)
        except filesystem.ObjectStoreUnavailableError:
            raise
        except DAMAGED as error:
            logger.info("skips the damaged checkpoint %s: %r", path, error)
            warn(f"checkpoint {path} is damaged ({error}); using the one before")
    return None


def copy_latest(folder: AnyPath, target: AnyPath) -> Checkpoint | None:
    """Copies a trial's newest checkpoint, and the files of its attempt, into an attempt of another trial.

    Returns the copy; None if there is no checkpoint to copy. Raises an OSError as `save` does.
    """
    saved = load_latest(folder)
    if saved is None:
        return None
    for name in [*attempt_files.names(saved.path.parent), saved.path.name]:
        filesystem.write_bytes(target / name, filesystem.read_bytes(saved.path.parent / name))
    return dataclasses.replace(saved, path=target / saved.path.name)


def load(path: AnyPath) -> Checkpoint:
    """Reads one checkpoint, onto the CPU.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not a whole checkpoint; zipfile, pickle, torch and json have a dozen errors of their own.
    """
    content = io.BytesIO(filesystem.read_bytes(path))
    try:
        _check_zip(content)
        state = torch.load(content, map_location="cpu", weights_only=True)
        progress = _PROGRESS.validate_json(state.pop("progress"))
        epochs = [metrics.epoch for metrics in progress["history"]]
        if epochs != sorted({epoch for epoch in epochs if epoch > 0}):
            raise ValueError("its epochs are not in order")  # noqa: TRY301
        return Checkpoint(path, progress["history"], progress["diverged"], state)
    except Exception as error:
        raise ValueError(f"{type(error).__name__}: {reason(error)}") from error


def _check_zip(content: io.BytesIO) -> None:
    """Checks the checksums, which torch does not, and that nothing is compressed, so that it fits into memory."""
    with ZipFile(content) as file:
        if any(part.compress_type != ZIP_STORED for part in file.infolist()):
            raise BadZipFile("it is compressed")
        if (part := file.testzip()) is not None:
            raise BadZipFile(f"the checksum of {part} is wrong")
    content.seek(0)


def _epoch(path: AnyPath) -> int:
    return int(path.stem.removeprefix("epoch-"))


def _age(path: AnyPath) -> tuple[int, int, int]:
    return *attempt_files.age(path.parent), _epoch(path)
