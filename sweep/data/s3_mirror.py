"""Copies of data in object storage: each machine downloads what a study's data set needs, once, and checks every file.

A copy has the size and the time of its object, by which later runs recognise it.
"""

import functools
import hashlib
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from filelock import FileLock

from ..config import filesystem
from ..config.errors import DataError
from ..config.filesystem import AnyPath, ObjectStoreUnavailableError, StoredObject, is_remote, local_path

if TYPE_CHECKING:
    from upath import UPath

AT_ONCE = 8  # objects
logger = logging.getLogger(__name__)


def mirror_locally(root: AnyPath, folder: str = "") -> Path:
    """Returns the data root itself, or a local copy of it (or of ``folder`` below it) from object storage.

    Raises:
        DataError: the folder is empty, a download differs from its object, or the copy cannot be written.
    """
    if not is_remote(root):
        return root
    if _escapes(folder):
        raise DataError(f"data.folder: {folder} must be a folder below the data root {root} (SWEEP_DATA)")
    _copy(root, folder)
    return local_path(root) / ".mirror"


@functools.cache  # once per process: its trials need not ask again
def _copy(root: "UPath", folder: str) -> None:
    source, target = root / folder if folder else root, local_path(root) / ".mirror" / folder
    found = filesystem.list_objects(source)
    if not found:
        raise DataError(f"data: {source} holds no files; put the data set there, or set SWEEP_DATA to its root")
    try:
        target.mkdir(parents=True, exist_ok=True)
        with FileLock(local_path(root) / "mirror.lock"):
            if outside := [each.name for each in found if _escapes(each.name)]:
                raise DataError(f"data: {source} has objects whose names would lead out of the folder: {outside[:3]}")
            lacking = [each for each in found if not _is_current(target / each.name, each)]
            logger.info("%s: %d of %d objects to download to %s", source, len(lacking), len(found), target)
            with ThreadPoolExecutor(AT_ONCE) as pool:
                problems = [p for p in pool.map(lambda each: _download(source, each, target), lacking) if p]
            if not problems:
                names = {each.name for each in found}
                for path in [p for p in target.rglob("*") if p.is_file() and str(p.relative_to(target)) not in names]:
                    path.unlink()  # the store no longer has it
    except ObjectStoreUnavailableError:
        raise
    except OSError as error:
        raise DataError(f"data: {source} cannot be copied to {target}: {error}") from error
    if problems:
        raise DataError(f"data: {'; '.join(problems[:3])}{f' and {len(problems) - 3} more' if problems[3:] else ''}")


def _escapes(name: str) -> bool:
    return PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts


def _is_current(path: Path, wanted: StoredObject) -> bool:
    return path.exists() and (path.stat().st_size, path.stat().st_mtime_ns) == (wanted.size, wanted.modified_ns)


def _download(source: "UPath", wanted: StoredObject, target: Path) -> str | None:
    """Copies an object; returns how the copy differs from it, or None."""
    path, remote = target / wanted.name, source / wanted.name
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with filesystem.write_atomically(path) as beside:
            filesystem.download(remote, beside)
            _check_copy(beside, wanted, remote)
            os.utime(beside, ns=(wanted.modified_ns, wanted.modified_ns))
    except DataError as error:
        return str(error)
    return None


def _check_copy(copy: Path, wanted: StoredObject, remote: "UPath") -> None:
    """Raises DataError if a copy differs from its object, by size or MD5."""
    if (size := copy.stat().st_size) != wanted.size:
        raise DataError(f"{remote}: expected {wanted.size} bytes, found {size}")
    with copy.open("rb") as file:
        found = hashlib.file_digest(file, functools.partial(hashlib.md5, usedforsecurity=False)).hexdigest()
    if wanted.md5 not in (None, found) and filesystem.etag_is_md5(remote):
        raise DataError(f"{remote}: expected MD5 {wanted.md5}, found {found}")
