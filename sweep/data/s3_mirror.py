"""Data in object storage: each machine copies what a study's data set needs, once, and checks every file.

A copy has the size and the time of its object, by which it is known again; one process of a machine copies at a time.
"""

from __future__ import annotations

import functools
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from uuid import uuid4

from ..config.errors import DataError
from ..config.filesystem import (
    Object,
    ObjectStoreUnavailableError,
    download,
    is_remote,
    local_path,
    objects,
    tag_is_md5,
)
from ..config.locks import FileLock

AT_ONCE = 8  # objects


def mirrored(root: Path, folder: str = "") -> Path:
    """A folder of this machine with what is below a data root: the root itself, or for object storage a copy.

    Args:
        folder: all that is needed, below the root.

    Raises:
        DataError: there is nothing, a file is not what the store says it is, or the copy cannot be written.
    """
    if not is_remote(root):
        return root
    if _leads_out(folder):
        raise DataError(f"data.folder: {folder} must be a folder below the data root {root} (SWEEP_DATA)")
    _copy(root, folder)
    return local_path(root) / ".mirror"


@functools.cache  # once in a process: its trials need not ask again
def _copy(root: Path, folder: str) -> None:
    there, target = root / folder if folder else root, local_path(root) / ".mirror" / folder
    found = objects(there)
    if not found:
        raise DataError(f"data: {there} holds no files; put the data set there, or set SWEEP_DATA to its root")
    try:
        target.mkdir(parents=True, exist_ok=True)
        with FileLock(local_path(root) / "mirror.lock").held():
            if astray := [each.name for each in found if _leads_out(each.name)]:
                raise DataError(f"data: {there} has objects whose names would lead out of the folder: {astray[:3]}")
            lacking = [each for each in found if not _is_there(target / each.name, each)]
            with ThreadPoolExecutor(AT_ONCE) as pool:
                problems = [p for p in pool.map(lambda each: _fetch(there, each, target), lacking) if p]
            for path in [p for p in target.rglob("*") if p.is_file()] if not problems else []:
                if str(path.relative_to(target)) not in {each.name for each in found}:
                    path.unlink()  # is no longer in the store
    except ObjectStoreUnavailableError:
        raise
    except OSError as error:
        raise DataError(f"data: {there} cannot be copied to {target}: {error}") from error
    if problems:
        raise DataError(f"data: {'; '.join(problems[:3])}{f' and {len(problems) - 3} more' if problems[3:] else ''}")


def _leads_out(name: str) -> bool:
    return PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts


def _is_there(path: Path, wanted: Object) -> bool:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return False
    return (stat.st_size, stat.st_mtime_ns) == (wanted.size, wanted.modified_ns)


def _fetch(there: Path, wanted: Object, target: Path) -> str | None:
    """Copies an object; returns what is wrong with it."""
    path = target / wanted.name
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        download(there / wanted.name, beside)
        problem = differs(beside, wanted)
        if problem and (beside.stat().st_size != wanted.size or tag_is_md5(there / wanted.name)):
            return f"{there / wanted.name}: {problem}"
        os.utime(beside, ns=(wanted.modified_ns, wanted.modified_ns))
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return None


def differs(copy: Path, wanted: Object) -> str | None:
    """In what a copy is not the object that was listed: by its size, and its MD5 where the store has that."""
    if (size := copy.stat().st_size) != wanted.size:
        return f"expected {wanted.size} bytes, found {size}"
    with copy.open("rb") as file:
        found = hashlib.file_digest(file, functools.partial(hashlib.md5, usedforsecurity=False)).hexdigest()
    return f"expected MD5 {wanted.md5}, found {found}" if wanted.md5 not in (None, found) else None
