"""The errors that users see. Each message names the problem, its place, the allowed values and the remedy."""

import difflib
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

# Parts that pydantic adds to a key path to distinguish the members of a union.
UNION_MEMBERS = re.compile(r"int|float|bool|str|none|literal\[.*\]")


class SweepError(Exception):
    """A mistake of the caller, or a failure outside this program: one message, no traceback, exit code 2."""


class DivergenceError(Exception):
    """A trial of `sweep train` has diverged."""


class ConfigError(SweepError):
    """All problems of a study file or of options, at once: one sentence each, which begins with the key path."""

    def __init__(self, source: str, problems: list[str], advice: str = ""):
        self.problems = problems
        count = f"{len(problems)} problems" if len(problems) > 1 else "1 problem"
        lines = [f"{source}: {count}", *(f"  - {problem}" for problem in problems)]
        super().__init__("\n".join([*lines, advice] if advice else lines))


class DataError(SweepError):
    """A data set is missing, incomplete or cannot be read."""


class MissingDataError(DataError):
    """The files of a data set are not in their folder."""


class StorageError(SweepError):
    """The Optuna storage is unreachable, or holds another study of this name."""


class TrackingError(SweepError):
    """The MLflow tracking server is unreachable, or refuses a request."""


def reason(error: BaseException) -> str:
    """Returns the first line of an error's message, or of its cause's."""
    return next(iter(str(error.__cause__ or error).strip().splitlines()), type(error).__name__)


def nearest(word: str, known: list[str]) -> str:
    """Returns `` (did you mean X?)`` for a misspelt word, or an empty string."""
    match = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f" (did you mean {match[0]}?)" if match else ""


def sentences(error: "ValidationError", section: "type[BaseModel]", prefix: str = "") -> list[str]:
    """Returns a sentence for each problem: its key path (below ``prefix``), the allowed values, and the given value."""
    sentences_at: dict[str, list[str]] = {}
    shown: dict[str, str] = {}
    for e in error.errors():
        parts = [str(part) for part in e["loc"] if not (isinstance(part, str) and UNION_MEMBERS.fullmatch(part))]
        path, given = ".".join([prefix, *parts] if prefix else parts), e["input"]
        lines = sentences_at.setdefault(path, [])
        if e["type"] == "extra_forbidden":
            inner: Any = section
            for part in parts[:-1]:
                inner = inner.model_fields[part].annotation
            known = list(inner.model_fields)
            lines.append(f"unknown key{nearest(parts[-1], known)}; allowed: {', '.join(known)}")
        elif e["type"] == "missing":
            lines.append("required")
        elif e["type"] == "value_error":
            lines += e["msg"].removeprefix("Value error, ").splitlines()
        else:
            allowed = _allowed(e["type"], e["msg"])
            # Each member of a union reports a problem: they are joined to one sentence.
            lines[:] = [f"{lines[0]} or {allowed.removeprefix('must be ')}" if lines else allowed]
            shown[path] = f" (got {given!r})" if given is None or isinstance(given, str | int | float | list) else ""
    return [
        f"{path}{'.' if path == 'space' and ': ' in line else ': ' if path else ''}{line}{shown.get(path, '')}"
        for path, lines in sentences_at.items()
        for line in lines
    ]


def _allowed(kind: str, message: str) -> str:
    if kind in ("model_type", "dict_type"):
        return "must be a mapping"
    if kind == "tuple_type":
        return "must be a list"
    return re.sub(r", (unable|got) .*", "", re.sub("^Input should be", "must be", message))


def without_password(url: str) -> str:
    """Returns the URL with ``***`` in place of its password."""
    url = re.sub("(password=)[^&]*", r"\1***", url)
    scheme, sign, rest = url.partition("://") if "://" in url else ("", "", url)
    login, at, host = rest.rpartition("@")
    user, colon, _ = login.partition(":")
    return f"{scheme}{sign}{user}{':***' if colon else ''}{at}{host}"
