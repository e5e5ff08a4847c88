"""Checkpoints: one file with the weights, the optimizer and the metric history, written whole or not at all.

The history makes a checkpoint the journal of its trial: what the storage or the tracking server missed is taken from
here. Nothing is unpickled beyond tensors and plain containers.
"""

from __future__ import annotations

import dataclasses
import io
import json
import pickle
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch

from ..config import filesystem
from ..config.filesystem import AnyPath
from .reports import EpochMetrics

KEPT = 2  # the last one, and one to fall back to
DAMAGED = (OSError, RuntimeError, ValueError, KeyError, EOFError, BadZipFile, pickle.UnpicklingError)
"""What `load` raises for a file that is not a checkpoint, or not a whole one."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read.

    Attributes:
        history: all finished epochs.
        diverged: the epoch in which the loss was not finite, if it was.
        state: ``model`` and ``optimizer`` state dicts; empty where `drop_weights` has been.
    """

    path: AnyPath
    history: list[EpochMetrics]
    diverged: int | None
    state: dict[str, Any]


def save(
    folder: AnyPath, history: list[EpochMetrics], state: dict[str, Any], *, diverged: int | None = None
) -> AnyPath:
    """Writes ``folder/epoch-0007.pt``, whole or not at all; keeps the last two.

    Raises:
        OSError: the disk is full or the folder not writable, or object storage away; no file is left half-written.
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
    """Name of the folder of one attempt: another one for each worker, as one that was lost may come back and write.

    Args:
        number: how often the trial was taken up by a driver.
        moves: how often that driver has lost its worker.
    """
    return f"attempt-{number:02d}.{moves}" if moves else f"attempt-{number:02d}"


def drop_weights(folder: AnyPath, *, dry_run: bool = False) -> int:
    """Leaves of a trial that has ended its metric history alone, in one checkpoint without weights and optimizer.

    The history is what the tracking server is sent again should it lack the trial.

    Args:
        folder: the trial's, which holds one folder per attempt.
        dry_run: leave everything as it is.

    Returns:
        The bytes that this frees; 0 where there are no weights, or no checkpoint that can be read.
    """
    files = [path for path in filesystem.glob_files(folder, "*/*") if path.suffix in (".pt", ".tmp")]
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
    """Whether a checkpoint holds tensors; also true of one that cannot be read."""
    try:
        with ZipFile(io.BytesIO(filesystem.read_bytes(path)) if filesystem.is_remote(path) else path) as file:
            return any(re.search(r"/data/\d+$", part) for part in file.namelist())
    except filesystem.ObjectStoreUnavailableError:
        raise
    except (OSError, BadZipFile):
        return True


def find(folder: AnyPath) -> list[AnyPath]:
    """All checkpoints of a trial, of any age."""
    return filesystem.glob_files(folder, "*/epoch-*.pt")


def is_gone(folder: AnyPath) -> bool:
    """Whether a trial has no checkpoint, as far as can be seen."""
    try:
        return not find(folder)
    except filesystem.ObjectStoreUnavailableError:
        return False


def load_latest(folder: AnyPath, say: Callable[[str], object] = warnings.warn) -> Checkpoint | None:
    """Reads a trial's newest checkpoint; a damaged one falls back to the one before, also of the attempt before.

    The last attempt's count first, however far an earlier one got: its driver may have slept, been taken for dead, and
    trained on when its heir had begun; or the machine of a worker was frozen, and the trial had moved when it thawed.

    Args:
        folder: the trial's, which holds one folder per attempt.
        say: told of each damaged one.

    Raises:
        AwayError: they are in object storage that does not answer: there may be some.
    """
    for path in sorted(find(folder), key=_age, reverse=True):
        try:
            return load(path)
        except filesystem.ObjectStoreUnavailableError:
            raise
        except DAMAGED as error:
            say(f"checkpoint {path} is damaged ({error}); using the one before")
    return None


def load(path: AnyPath) -> Checkpoint:
    """Reads one checkpoint, onto the CPU.

    Raises:
        BadZipFile: it is not what was written; torch itself does not look at the checksums.
    """
    content = io.BytesIO(filesystem.read_bytes(path))
    with ZipFile(content) as file:
        if (part := file.testzip()) is not None:
            raise BadZipFile(f"the checksum of {part} is wrong")
    content.seek(0)
    state = torch.load(content, map_location="cpu", weights_only=True)
    progress = json.loads(state.pop("progress"))
    return Checkpoint(path, list(_epochs(progress["history"])), progress["diverged"], state)


def _epoch(path: AnyPath) -> int:
    return int(path.stem.removeprefix("epoch-"))


def _age(path: AnyPath) -> tuple[int, int, int]:
    number, _, moves = path.parent.name.removeprefix("attempt-").partition(".")
    return int(number), int(moves or 0), _epoch(path)


def _epochs(history: list[dict[str, Any]]) -> Iterator[EpochMetrics]:
    for metrics in history:
        yield EpochMetrics(**metrics)
