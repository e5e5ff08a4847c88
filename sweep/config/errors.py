"""The errors a user can meet. Each message says what is wrong, where, what is allowed and what to do."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError


# What pydantic adds to a key path to tell the members of a union apart.
UNION_MEMBERS = re.compile(r"int|float|bool|str|none|literal\[.*\]")


class SweepError(Exception):
    """The caller's mistake, or the world's: one message, no traceback, exit code 2."""


class DivergenceError(Exception):
    """A trial that was trained for the user alone has diverged."""


class ConfigError(SweepError):
    """One or more problems in a study file or an option; all of them at once.

    Attributes:
        problems: one sentence each, beginning with the key path.
    """

    def __init__(self, source: str, problems: list[str], advice: str = ""):
        self.problems = problems
        count = f"{len(problems)} problems" if len(problems) > 1 else "1 problem"
        super().__init__(
            "\n".join([f"{source}: {count}", *(f"  - {p}" for p in problems), *([advice] if advice else [])])
        )


class DataError(SweepError):
    """A data set is missing, incomplete or cannot be read."""


class MissingDataError(DataError):
    """The files of a data set are not where they should be."""


class StorageError(SweepError):
    """The Optuna storage is out of reach, or holds another study under this name."""


class TrackingError(SweepError):
    """The MLflow tracking server is out of reach or refuses."""


def reason(error: BaseException) -> str:
    """The first line of what a server, a driver or the file system said."""
    return next(iter(str(error.__cause__ or error).strip().splitlines()), type(error).__name__)


def nearest(word: str, known: list[str]) -> str:
    """`` (did you mean X?)`` for a misspelt word, or an empty string."""
    match = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f" (did you mean {match[0]}?)" if match else ""


def sentences(error: ValidationError, section: type[BaseModel], prefix: str = "") -> list[str]:
    """What a validation error says: for each problem its key path, what is wrong or allowed, and the value.

    Args:
        section: what was validated.
        prefix: its place in the study file.
    """
    said: dict[str, list[str]] = {}
    shown: dict[str, str] = {}
    for e in error.errors():
        parts = [str(part) for part in e["loc"] if not (isinstance(part, str) and UNION_MEMBERS.fullmatch(part))]
        path, given = ".".join([prefix, *parts] if prefix else parts), e["input"]
        lines = said.setdefault(path, [])
        if e["type"] == "extra_forbidden":
            known = list(_section(section, parts[:-1]).model_fields)
            lines.append(f"unknown key{nearest(parts[-1], known)}; allowed: {', '.join(known)}")
        elif e["type"] == "missing":
            lines.append("required")
        elif e["type"] == "value_error":
            lines += e["msg"].removeprefix("Value error, ").splitlines()
        else:
            allowed = _allowed(e["type"], e["msg"])
            # The members of a union have a problem each: one sentence for all of them.
            lines[:] = [f"{lines[0]} or {allowed.removeprefix('must be ')}" if lines else allowed]
            shown[path] = f" (got {given!r})" if given is None or isinstance(given, str | int | float | list) else ""
    return [
        f"{path}{'.' if path == 'space' and ': ' in line else ': ' if path else ''}{line}{shown.get(path, '')}"
        for path, lines in said.items()
        for line in lines
    ]


def _section(section: type[BaseModel], path: list[str]) -> type[BaseModel]:
    for part in path:
        section = section.model_fields[part].annotation  # type: ignore[assignment]
    return section


def _allowed(kind: str, message: str) -> str:
    if kind in ("model_type", "dict_type"):
        return "must be a mapping"
    if kind == "tuple_type":
        return "must be a list"
    return re.sub(r", (unable|got) .*", "", re.sub("^Input should be", "must be", message))


def without_password(url: str) -> str:
    """Returns the URL with ``***`` for its password."""
    url = re.sub("(password=)[^&]*", r"\1***", url)
    scheme, sign, rest = url.partition("://") if "://" in url else ("", "", url)
    login, at, host = rest.rpartition("@")
    user, colon, _ = login.partition(":")
    return f"{scheme}{sign}{user}{':***' if colon else ''}{at}{host}"
