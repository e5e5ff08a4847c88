"""The code of each run of a study: its versions and its git commit, and the changes between two runs."""

import hashlib
import importlib.metadata
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..config.user_code import ImportPathError, packages, source_of
from ..config.user_command import digest

Code = Mapping[str, str | float]
"""MLflow tags of a run's code, and ``since``: time of its first run, in seconds since the Unix epoch."""


def environment(command: Sequence[str] | None = None, import_paths: Iterable[str] = ()) -> dict[str, str]:
    """Returns the tags of the present code: versions, hashes of the sources, the git commit in a checkout.

    The sources are this program's, those that ``import_paths`` lead to, and a ``command``'s script.
    """
    libraries = ("torch", "ray", "optuna", "mlflow")
    tags = {f"sweep.version.{name}": importlib.metadata.version(name) for name in libraries}
    tags["sweep.sources"] = _sources(import_paths)
    if command is not None:
        tags["sweep.script"] = digest(command)
    commit = _git("describe", "--always", "--abbrev=40")
    if commit.returncode != 0:
        return tags
    # Pages of results are written from runs, and change none.
    changed = _git(
        "diff", "--quiet", "HEAD", "--", ":/", ":(top,exclude,glob)**/RESULTS*", ":(top,exclude,glob)**/RESULTS/**"
    )
    return {**tags, "sweep.git_commit": commit.stdout.strip() + "-dirty" * (changed.returncode != 0)}


def _sources(import_paths: Iterable[str]) -> str:
    """Returns a short hash of this program's modules, and of those that import paths lead to."""
    files = sorted(file for folder in packages() for file in Path(folder).rglob("*.py"))
    texts = [*(file.read_bytes() for file in files), *(_source(path) for path in import_paths)]
    return hashlib.blake2b(b"\0".join(texts), digest_size=6).hexdigest()


def _source(path: str) -> bytes:
    """Returns the source that an import path leads to; nothing if it is gone, as it may be of a finished study."""
    try:
        return source_of(path)
    except (ImportPathError, OSError):
        return b""


def _git(*words: str) -> subprocess.CompletedProcess[str]:
    command = ["git", "-C", str(Path(__file__).parent), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603


def followed_by(codes: Sequence[Code], now: Mapping[str, str]) -> list[Code]:
    """Appends the present code to a study's codes, oldest first, unless it is the last one already."""
    return [*codes] if codes and code_tags(codes[-1]) == now else [*codes, {**now, "since": time.time()}]


def code_tags(code: Code) -> dict[str, str]:
    """Returns the tags of a code, without its time."""
    return {name: str(value) for name, value in code.items() if name != "since"}


def all_tags(codes: Sequence[Code]) -> dict[str, str]:
    """Returns the tags of all codes: each tag with every value that it had, oldest first."""
    values: dict[str, dict[str, None]] = {}
    for code in codes:
        for name, value in code_tags(code).items():
            values.setdefault(name, {})[value] = None
    return {name: ", ".join(distinct) for name, distinct in values.items()}


def code_at(codes: Sequence[Code], moment: float) -> dict[str, str]:
    """Returns the tags of the code that a study ran with at a time, in seconds since the Unix epoch."""
    earlier = [code for code in codes if float(code["since"]) <= moment]
    return code_tags((earlier or codes)[-1 if earlier else 0]) if codes else {}


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Returns the differences between two codes, one phrase each: ``torch 2.6 -> 2.7``."""
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return [
        f"{name.removeprefix('sweep.').removeprefix('version.')} {before.get(name, 'none')} -> {now.get(name, 'none')}"
        for name in names
    ]
