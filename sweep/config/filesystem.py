"""Files on this machine or in object storage (``s3://BUCKET/PREFIX``), by one kind of path.

Only the functions of this module may access what a `UPath` names: they limit the time of a request and repeat it.
"""

import contextlib
import functools
import logging
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar, Union
from uuid import uuid4

from .errors import SweepError, reason
from .secrets import without_secrets

if TYPE_CHECKING:
    from typing_extensions import TypeIs
    from upath import UPath

AnyPath: TypeAlias = Union[Path, "UPath"]  # a file or folder on this machine, or in object storage

LONGEST_OUTAGE = 300.0  # seconds for which a trial retries a request to object storage
LONGEST_PAUSE = 30.0  # seconds between two attempts
SILENCE = 10.0  # seconds without a byte of an answer, after which an attempt has failed
ANSWER_WITHIN = 20.0  # seconds in which object storage must answer before a run starts

T = TypeVar("T")
logger = logging.getLogger(__name__)


class StoredObject(NamedTuple):
    """An object in a listing of object storage."""

    name: str  # path below the listed folder
    size: int  # bytes
    modified_ns: int  # nanoseconds since the Unix epoch
    md5: str | None  # of the content, if the ETag has the form of one (see `etag_is_md5`)


class ObjectStoreUnavailableError(SweepError, OSError):
    """Object storage is unreachable or refuses access, so nothing is known about its content."""


def parse_path(text: str | AnyPath) -> AnyPath:
    """Returns the path that a setting names, a local one absolute; raises SweepError for a malformed URL.

    Example:
        >>> parse_path("/data/mnist")
        PosixPath('/data/mnist')
    """
    text = str(text)
    if not re.match("[A-Za-z0-9]{2,}:/", text):
        return Path(text).expanduser().absolute()
    if not re.fullmatch("s3://[^/@:?]+(/[^?]*)?", text) or ".." in text.split("/"):
        raise SweepError(
            f"{without_secrets(text)}: object storage is written s3://BUCKET/PREFIX; its endpoint and credentials are "
            "set as AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or in ~/.aws"
        )
    try:
        import s3fs  # noqa: F401
        from upath import UPath
    except ImportError as error:
        raise SweepError(f"{text}: a package is missing ({error.name}): pip install 'entropy-sweep[s3]'") from None
    options = {"connect_timeout": SILENCE, "read_timeout": SILENCE, "retries": {"total_max_attempts": 1}}
    return UPath(text.rstrip("/"), use_listings_cache=False, config_kwargs=options)


def is_remote(path: AnyPath) -> "TypeIs[UPath]":
    """Returns True if a path is in object storage."""
    return not isinstance(path, Path)


def local_path(path: AnyPath) -> Path:
    """Returns a local folder for locks and caches: the path itself, or a cache directory for an ``s3://`` path."""
    if not is_remote(path):
        return path
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches, "entropy-sweep", str(path).removeprefix("s3://"))


@contextlib.contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Gives a ``with`` block a temporary file to write, which replaces ``path`` when the block ends.

    Readers see the old file or the complete new one, also after a crash. If the block raises, ``path`` stays as it was.
    """
    beside = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        yield beside
        with beside.open("ab") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


def write_bytes(path: AnyPath, content: bytes) -> None:
    """Writes a file, whole or not at all; raises OSError if the disk is full, or the store is unreachable."""
    if is_remote(path):
        _with_retries(path, lambda fs, name, t: fs.pipe_file(name, content, timeout=t), what="written")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as beside:
        beside.write_bytes(content)


def read_bytes(path: AnyPath) -> bytes:
    """Returns the content of a file; raises FileNotFoundError if it does not exist, OSError if it cannot be read."""
    if is_remote(path):
        return bytes(_with_retries(path, lambda fs, name, _: fs.cat_file(name)))
    return path.read_bytes()


def file_size(path: AnyPath) -> int:
    """Returns the size of a file in bytes."""
    if is_remote(path):
        return int(_with_retries(path, lambda fs, name, t: fs.size(name, timeout=t)))
    return path.stat().st_size


def remove_file(path: AnyPath) -> None:
    """Removes a file; does nothing if it does not exist."""
    if is_remote(path):
        with contextlib.suppress(FileNotFoundError):
            _with_retries(path, lambda fs, name, t: fs.rm_file(name, timeout=t))
    else:
        path.unlink(missing_ok=True)


def glob_files(folder: AnyPath, pattern: str) -> list[AnyPath]:
    """Lists the files whose path below a folder matches a pattern, part by part; one request per 1,000 objects."""
    if not is_remote(folder):
        return list(folder.glob(pattern))
    found = [str(name) for name in _with_retries(folder, lambda fs, name, t: fs.find(name, timeout=t), what="listed")]
    below = [name.removeprefix(f"{folder.path}/") for name in found]
    return [folder / name for name in below if name.count("/") == pattern.count("/") and fnmatch(name, pattern)]


def list_objects(folder: "UPath") -> list[StoredObject]:
    """Lists everything below a folder in object storage."""
    listed = _with_retries(folder, lambda fs, name, t: fs.find(name, detail=True, timeout=t), what="listed")
    found, prefix = [], f"{folder.path.rstrip('/')}/"
    for name, entry in listed.items():
        below, etag = name.removeprefix(prefix), str(entry.get("ETag", "")).strip('"')
        if entry["type"] == "file" and below and not below.endswith("/"):
            modified = int(entry["LastModified"].timestamp() * 1e9)
            md5 = etag if re.fullmatch("[0-9a-f]{32}", etag) else None
            found.append(StoredObject(below, int(entry["size"]), modified, md5))
    return found


def etag_is_md5(path: "UPath") -> bool:
    """Returns True if an object's ETag is the MD5 of its content; encryption with a KMS or user's key breaks that."""
    bucket, _, key = path.path.partition("/")
    head = _with_retries(path, lambda fs, _name, t: fs.call_s3("head_object", Bucket=bucket, Key=key, timeout=t))
    return head.get("ServerSideEncryption") in (None, "AES256") and "SSECustomerAlgorithm" not in head


def download(path: "UPath", target: Path) -> None:
    """Copies an object to a local file, piece by piece: the object need not fit into memory."""
    _with_retries(path, lambda fs, name, _: fs.get_file(name, str(target), max_concurrency=1))


@contextlib.contextmanager
def local_copy(path: AnyPath) -> Iterator[Path]:
    """Gives a ``with`` block a local file with the name and content of one that may be in object storage."""
    if not is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="sweep-copy-") as scratch:
        copy = Path(scratch, path.name)
        download(path, copy)
        yield copy


def check_object_store(folder: "UPath") -> None:
    """Writes, reads and removes a file in object storage; raises ObjectStoreUnavailableError if a step fails."""
    probe, content = folder / f".probe-{uuid4().hex}", b"written by sweep, to see whether it can"
    attempt = functools.partial(_with_retries, probe, within=ANSWER_WITHIN)
    attempt(lambda fs, name, t: fs.pipe_file(name, content, timeout=t), what="written")
    if attempt(lambda fs, name, t: fs.cat_file(name, timeout=t)) != content:
        raise ObjectStoreUnavailableError(f"{probe}: the content read differs from the content written")
    attempt(lambda fs, name, t: fs.rm_file(name, timeout=t), what="removed")


def _with_retries(
    path: "UPath", call: Callable[[Any, str, float], T], *, what: str = "reached", within: float | None = None
) -> T:
    """Calls ``call`` with the file system of a path, its name there and a time limit, until it succeeds.

    A single attempt is made ``within`` these seconds; None retries for `LONGEST_OUTAGE`, and says so after the first
    failure. ``what`` is for the message.
    """
    from botocore.exceptions import BotoCoreError, HTTPClientError
    from botocore.exceptions import ConnectionError as NoConnectionError

    pause, seconds = 1.0, LONGEST_OUTAGE if within is None else within
    deadline = time.monotonic() + (LONGEST_OUTAGE if within is None else 0)
    fs: Any = path.fs
    fs.retries = 1  # retries of s3fs and botocore as well would make half an hour of a silent server's five minutes
    while True:
        try:
            return call(fs, path.path, seconds)
        except (OSError, BotoCoreError) as error:
            if isinstance(error, FileNotFoundError) and what == "reached":  # otherwise only the bucket can be missing
                raise
            silent = isinstance(error, TimeoutError) and not str(error)
            problem = OSError(f"no answer within {seconds:g} s") if silent else error
        final = isinstance(problem, FileNotFoundError | PermissionError)
        passing = isinstance(problem, OSError | HTTPClientError | NoConnectionError) and not final
        if not passing or time.monotonic() >= deadline:
            raise ObjectStoreUnavailableError(f"{path}: cannot be {what} ({reason(problem)})") from problem
        if pause == 1.0:
            ends = f"the command ends if that lasts {LONGEST_OUTAGE / 60:.0f} minutes"
            logger.warning("waiting for %s: it cannot be %s (%s); %s", path, what, reason(problem), ends)
        logger.debug("%s: cannot be %s (%s); next attempt in %.0f s", path, what, reason(problem), pause)
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)
