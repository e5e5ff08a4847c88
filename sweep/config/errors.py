"""The errors that users see. Each message names the problem, its place, the allowed values and the remedy."""

import difflib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, get_args

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

# The last part that pydantic adds to a key path to distinguish the members of a union.
UNION_MEMBERS = re.compile(r"int|float|bool|str|none|literal\[.*\]|constrained-str")


LONGEST = 600  # characters of a line of a message; a longer one, which repeats a value, loses its middle
MOST_LISTED = 50  # problems that a message lists
# Control characters but newline and tab, halves of characters, and marks that turn the direction of writing around.
UNPRINTABLE = re.compile("[^\n\t -~\xa0-\ud7ff\ue000-\U0010ffff]|[\u2028-\u202e\u2066-\u2069]")


class SweepError(Exception):
    """A mistake of the caller, or a failure outside this program: one message, no traceback, exit code 2."""

    def __init__(self, message: object = ""):
        super().__init__("\n".join(map(_shortened, str(message).split("\n"))))


class DivergenceError(Exception):
    """A trial of `sweep train` has diverged."""


class ConfigError(SweepError):
    """All problems of a study file or of options, at once: one sentence each, which begins with the key path."""

    def __init__(self, source: str, problems: list[str], advice: str = ""):
        self.problems = problems
        count = f"{len(problems)} problems" if len(problems) > 1 else "1 problem"
        lines = [f"{source}: {count}", *(f"  - {problem}" for problem in problems[:MOST_LISTED])]
        lines += [f"  - and {len(problems) - MOST_LISTED} more"] if len(problems) > MOST_LISTED else []
        super().__init__("\n".join([*lines, advice] if advice else lines))


class FunctionError(SweepError):
    """A training function of the user's own does what no trial of it can go on with: the run ends, and is resumable."""


class ScriptError(SweepError):
    """A script of the user's own has ended with an error: its trial fails."""


class StopIgnoredError(Exception):
    """A training function goes on after its trial was stopped, so its process is not fit for another trial."""


class DataError(SweepError):
    """A data set is missing, incomplete or cannot be read."""


class MissingDataError(DataError):
    """The files of a data set are not in their folder."""


class StorageError(SweepError):
    """The Optuna storage is unreachable, or holds another study of this name."""


class TrackingError(SweepError):
    """The MLflow tracking server is unreachable, or refuses a request."""


def printable(text: str) -> str:
    """Returns a text with its control characters spelled out, so that a terminal shows them and obeys none."""
    return UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _shortened(line: str) -> str:
    if len(line) <= LONGEST:
        return line
    return f"{line[: LONGEST // 2]} ... {line[-LONGEST // 3 :]}"


def reason(error: BaseException) -> str:
    """Returns the first line of an error's message, or of its cause's."""
    return next(iter(str(error.__cause__ or error).strip().splitlines()), type(error).__name__)


def nearest(word: str, known: Sequence[str]) -> str:
    """Returns `` (did you mean X?)`` for a misspelt word, or an empty string."""
    match = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f" (did you mean {match[0]}?)" if match else ""


def sentences(error: "ValidationError", section: "type[BaseModel]", prefix: str = "") -> list[str]:
    """Returns a sentence for each problem: its key path (below ``prefix``), the allowed values, and the given value."""
    sentences_at: dict[str, list[str]] = {}
    shown: dict[str, str] = {}
    for e in error.errors():
        parts = [str(part) for part in e["loc"]]
        named = e["type"] == "extra_forbidden" or parts[-2:-1] == ["metrics"]  # the last part, by the user
        if parts and not named and UNION_MEMBERS.fullmatch(parts[-1]):
            parts.pop()
        path, given = ".".join([prefix, *parts] if prefix else parts), e["input"]
        lines = sentences_at.setdefault(path, [])
        if e["type"] == "extra_forbidden":
            inner: Any = section
            for part in parts[:-1]:
                annotation = inner.model_fields[part].annotation
                inner = next((a for a in get_args(annotation) if hasattr(a, "model_fields")), annotation)
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
    keyed = ("space", "search")  # sections whose own problems begin with a key below them
    return [
        f"{path}{'.' if path in keyed and ': ' in line else ': ' if path else ''}{line}{shown.get(path, '')}"
        for path, lines in sentences_at.items()
        for line in lines
    ]


def _allowed(kind: str, message: str) -> str:
    if kind in ("model_type", "dict_type"):
        return "must be a mapping"
    if kind == "string_pattern_mismatch":
        return "must be an import path, package.module:name"
    if kind == "tuple_type":
        return "must be a list"
    return re.sub(r", (unable|got) .*", "", re.sub("^Input should be", "must be", message))
