"""Where files are: folders of this machine, or object storage (``s3://BUCKET/PREFIX``), by paths of one kind.

A path in object storage is a `UPath`, which has the parts and names of a `pathlib.Path`; what goes over the network
goes through the functions here. An object is whole or not there, so that only local files are written aside and
renamed. Endpoint, region and credentials are AWS's own variables and files, of the process that reads or writes.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, TypeVar, cast
from uuid import uuid4

from .errors import SweepError, reason, without_password

LONGEST_OUTAGE = 300.0  # seconds that a trial waits for object storage which does not answer
LONGEST_PAUSE = 30.0  # seconds between two attempts
ANSWER_WITHIN = 20.0  # seconds in which object storage must answer before anything begins

T = TypeVar("T")


@dataclass(frozen=True)
class Object:
    """An object as it is listed.

    Attributes:
        name: below the folder.
        modified_ns: when, in nanoseconds since the Unix epoch.
        md5: of its content, or what looks like it (see `tag_is_md5`); None where the store has none.
    """

    name: str
    size: int
    modified_ns: int
    md5: str | None


class ObjectStoreUnavailableError(SweepError, OSError):
    """Object storage does not answer, or refuses; what is there is not known, so nothing may be concluded from it."""


def parse_path(text: str | Path) -> Path:
    """The path that a user's words, or a job's, lead to.

    Raises:
        SweepError: a URL that is not of the form s3://BUCKET/PREFIX, or the packages for it are missing.
    """
    text = str(text)
    if not re.match("[A-Za-z0-9]{2,}:/", text):
        return Path(text).expanduser().absolute()
    if not re.fullmatch("s3://[^/@:?]+(/[^?]*)?", text) or ".." in text.split("/"):
        raise SweepError(
            f"{without_password(text)}: object storage is written s3://BUCKET/PREFIX; its endpoint and credentials are "
            "set as AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or in ~/.aws"
        )
    try:
        import s3fs  # noqa: F401
        from upath import UPath
    except ImportError as error:
        raise SweepError(f"{text}: a package is missing ({error.name}): pip install 'entropy-sweep[s3]'") from None
    return cast("Path", UPath(text.rstrip("/"), use_listings_cache=False))


def is_remote(path: Path) -> bool:
    """Whether a path is one in object storage."""
    return not isinstance(path, Path)


def local_path(path: Path) -> Path:
    """A folder of this machine: the same, or for one in object storage the place of locks, caches and copies for it."""
    if not is_remote(path):
        return path
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches, "entropy-sweep", str(path).removeprefix("s3://"))


def write(path: Path, content: bytes) -> None:
    """Writes a file, whole or not at all.

    Raises:
        OSError: the disk is full or the folder not writable; object storage refuses, or is away for too long.
    """
    if is_remote(path):
        _with_retries(path, lambda fs, name, t: fs.pipe_file(name, content, timeout=t), what="written")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".tmp")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.rename(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def read(path: Path) -> bytes:
    """The content of a file.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be read.
    """
    if is_remote(path):
        return bytes(_with_retries(path, lambda fs, name, _: fs.cat_file(name)))
    return path.read_bytes()


def size(path: Path) -> int:
    """Bytes of a file."""
    return int(
        _with_retries(path, lambda fs, name, t: fs.size(name, timeout=t)) if is_remote(path) else path.stat().st_size
    )


def remove(path: Path) -> None:
    """Removes a file, if there is one."""
    if is_remote(path):
        with contextlib.suppress(FileNotFoundError):
            _with_retries(path, lambda fs, name, t: fs.rm_file(name, timeout=t))
    else:
        path.unlink(missing_ok=True)


def files(folder: Path, pattern: str) -> list[Path]:
    """The files whose path below a folder fits a pattern, part by part; one request for a thousand objects."""
    if not is_remote(folder):
        return list(folder.glob(pattern))
    found = [str(name) for name in _with_retries(folder, lambda fs, name, t: fs.find(name, timeout=t), what="listed")]
    below = [name.removeprefix(f"{cast('Any', folder).path}/") for name in found]
    return [folder / name for name in below if name.count("/") == pattern.count("/") and fnmatch(name, pattern)]


def objects(folder: Path) -> list[Object]:
    """What is below a folder in object storage."""
    listed = _with_retries(folder, lambda fs, name, t: fs.find(name, detail=True, timeout=t), what="listed")
    found, prefix = [], f"{cast('Any', folder).path.rstrip('/')}/"
    for name, about in listed.items():
        below, tag = name.removeprefix(prefix), str(about.get("ETag", "")).strip('"')
        if about["type"] == "file" and below and not below.endswith("/"):
            modified = int(about["LastModified"].timestamp() * 1e9)
            md5 = tag if re.fullmatch("[0-9a-f]{32}", tag) else None
            found.append(Object(below, int(about["size"]), modified, md5))
    return found


def tag_is_md5(path: Path) -> bool:
    """Whether an object's tag is what it looks like: it is not where a key of the user's or of KMS encrypts."""
    about = _with_retries(path, lambda fs, name, t: fs.call_s3("head_object", **_bucket_and_key(name), timeout=t))
    return about.get("ServerSideEncryption") in (None, "AES256") and "SSECustomerAlgorithm" not in about


def _bucket_and_key(name: str) -> dict[str, str]:
    bucket, _, key = name.partition("/")
    return {"Bucket": bucket, "Key": key}


def download(path: Path, target: Path) -> None:
    """Copies an object to a file of this machine, in small pieces one after the other: it need not fit into memory.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be read, or the copy not be written.
    """
    _with_retries(path, lambda fs, name, _: fs.get_file(name, str(target), max_concurrency=1))


@contextlib.contextmanager
def local_copy(path: Path) -> Iterator[Path]:
    """A file of this machine with the name and content of one that may be elsewhere, for a ``with`` block."""
    if not is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="sweep-copy-") as scratch:
        copy = Path(scratch, path.name)
        download(path, copy)
        yield copy


def check_object_store(folder: Path) -> None:
    """Writes a file to object storage, reads and removes it.

    Raises:
        AwayError: one of them fails: says which, and why.
    """
    probe, content = folder / f".probe-{uuid4().hex}", b"written by sweep, to see whether it can"
    _with_retries(
        probe, lambda fs, name, t: fs.pipe_file(name, content, timeout=t), what="written", within=ANSWER_WITHIN
    )
    if _with_retries(probe, lambda fs, name, t: fs.cat_file(name, timeout=t), within=ANSWER_WITHIN) != content:
        raise ObjectStoreUnavailableError(f"{probe}: other content was read than was written")
    _with_retries(probe, lambda fs, name, t: fs.rm_file(name, timeout=t), what="removed", within=ANSWER_WITHIN)


def _with_retries(
    path: Path, call: Callable[[Any, str, float], T], *, what: str = "reached", within: float | None = None
) -> T:
    """Calls with a path's file system, its name there, and the seconds in which an answer must come.

    A server that takes a request and falls silent would otherwise be waited for half an hour: the attempts of s3fs
    times those of botocore. What transfers data of any size takes the time it needs.

    Args:
        within: try once, for so many seconds; default: again and again, as long as a trial waits.

    Raises:
        FileNotFoundError: there is no such object.
        AwayError: it refuses, has no such bucket, or does not answer.
    """
    from botocore.exceptions import BotoCoreError, HTTPClientError
    from botocore.exceptions import ConnectionError as NoConnectionError

    remote, pause, seconds = cast("Any", path), 1.0, LONGEST_OUTAGE if within is None else within
    deadline = time.monotonic() + (LONGEST_OUTAGE if within is None else 0)
    while True:
        try:
            return call(remote.fs, remote.path, seconds)
        except FileNotFoundError as error:
            if what == "reached":
                raise
            problem: Exception = error  # nothing but the bucket can be missing
        except TimeoutError as error:
            problem = error if str(error) else OSError(f"no answer within {seconds:g} s")
        except (OSError, BotoCoreError) as error:
            problem = error
        final = isinstance(problem, FileNotFoundError | PermissionError)
        passing = isinstance(problem, OSError | HTTPClientError | NoConnectionError) and not final
        if not passing or time.monotonic() >= deadline:
            raise ObjectStoreUnavailableError(f"{path}: cannot be {what} ({reason(problem)})") from problem
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)
