"""Imports the user's own model, data, loss and metrics (``package.module:attribute``), and lists their files."""

import contextlib
import importlib
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterable
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from .errors import nearest

OWN_MODEL = "it can keep it itself, with trial.log_artifact or in SWEEP_ARTIFACT_DIR"  # it: own code, its model
PACKAGE = "sweep"  # this program, which imports its models, losses and cluster below this name
SHARED_NAMES = ("models", "losses", "cluster", "tests")  # top-level folders of this project that a user may have too
_PROJECT = Path(__file__).resolve().parents[2]
_LIBRARY = Path(sysconfig.get_paths()["stdlib"]).resolve()

_folders: list[Path] = []


class ImportPathError(ValueError):
    """An import path without a target, or a module that fails; the message has the user's file and line."""


def is_import_path(name: str) -> bool:
    """Returns True if a name in a study file is an import path, not a built-in name."""
    return ":" in name


def search_in(*folders: Path) -> None:
    """Adds folders in which `import_object` searches, after all others."""
    for folder in folders:
        resolved = folder.resolve()
        if resolved.is_dir() and resolved not in _folders:
            _folders.append(resolved)


def search_folders() -> list[str]:
    """Returns the folders that were added by `search_in`."""
    return [str(folder) for folder in _folders]


def import_object(path: str) -> Any:
    """Returns the object that an import path names; raises ImportPathError, with the place of the error."""
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*", path):
        raise ImportPathError(
            f"{path!r} must be package.module:attribute, as in mypkg.nets:Net for Net in mypkg/nets.py"
        )
    name, _, attributes = path.partition(":")
    sys.path.extend(str(folder) for folder in _folders if str(folder) not in sys.path)
    if _UserFirst not in sys.meta_path:
        sys.meta_path.insert(0, _UserFirst)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for results
            module = importlib.import_module(name)
    except (Exception, SystemExit) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{name}.".startswith(f"{missing}."):
            raise ImportPathError(_not_found(path, missing)) from error
        raise ImportPathError(f"{path} cannot be imported: {user_error_location(error)}") from error
    found: Any = module
    for attribute in attributes.split("."):
        if not hasattr(found, attribute):
            known = [n for n in dir(found) if not n.startswith("_")]
            file = getattr(module, "__file__", None) or name
            raise ImportPathError(f"{path}: {file} has no {attribute}{nearest(attribute, known)}")
        found = getattr(found, attribute)
    return found


class _UserFirst:
    """A finder that prefers a user's `models`, `losses`, `cluster` and `tests` to this project's."""

    @staticmethod
    def find_spec(name: str, path: object = None, _target: object = None) -> ModuleSpec | None:
        """Searches sys.path without the folder of this project; None leaves the search to the other finders."""
        if path is not None or name not in SHARED_NAMES:
            return None
        return PathFinder.find_spec(name, [entry for entry in sys.path if Path(entry or ".").resolve() != _PROJECT])


def _not_found(path: str, missing: str) -> str:
    if missing.partition(".")[0] == PACKAGE:
        return f"{path}: there is no module {missing}; {PACKAGE} is this program: give yours another name"
    folders = ", ".join(str(folder) for folder in _folders) or "the current folder"
    return f"{path}: there is no module {missing} in {folders} or among the installed packages"


def user_error_location(error: BaseException) -> str:
    """Returns file and line of an error in the user's code (the innermost frame), and its message; no file of ours."""
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}: {type(error).__name__}: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [f for f in frames if _is_theirs(f.filename)] or [f for f in frames[-1:] if not _is_ours(f.filename)]
    return f"{theirs[-1].filename}, line {theirs[-1].lineno}: {what}" if theirs else what


def _is_theirs(file: str) -> bool:
    """Returns True if a file belongs neither to us, nor to an installed package, nor to Python."""
    path = Path(file)
    installed = "site-packages" in path.parts or path.is_relative_to(_LIBRARY)
    return not (installed or file.startswith("<") or _is_ours(file))


def _is_ours(file: str) -> bool:
    return Path(file).is_relative_to(_PROJECT / PACKAGE)


def source_of(path: str) -> bytes:
    """Returns the text of all files of the package or module that an import path leads to; empty if it has none."""
    import_object(path)
    places = _places(sys.modules[re.split("[.:]", path)[0]])
    files = [file for place in places for file in (sorted(place.rglob("*.py")) if place.is_dir() else [place])]
    return b"\0".join(file.read_bytes() for file in files)


def packages() -> list[str]:
    """Returns the folder of this program, which workers on other machines need."""
    return [str(_PROJECT / PACKAGE)]


def modules_to_send() -> list[str]:
    """Returns the imported packages and files of the search folders, which workers on other machines need."""
    modules = [m for name, m in list(sys.modules.items()) if "." not in name and name not in (PACKAGE, "__main__")]
    return sorted({str(place) for module in modules for place in _places(module) if place.parent in _folders})


def _places(module: object) -> Iterable[Path]:
    """Returns the folder of a package (all folders of a namespace package), or the file of a module."""
    folders = getattr(module, "__path__", None)
    if folders is not None:
        return [Path(folder).resolve() for folder in folders]
    file = getattr(module, "__file__", None)
    return [Path(file).resolve()] if file and file.endswith(".py") else []
