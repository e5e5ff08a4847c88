"""The command of a study of scripts: its placeholders, its words for one trial, and its files."""

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from .errors import nearest
from .search_space import Scalar
from .user_code import search_folders

PYTHON = ("python", "python3")  # the Python that runs this program, here or on a worker
OF_A_TRIAL = ("seed", "max_epochs")  # placeholders that every command may have
HYPERPARAMETERS = "SWEEP_HYPERPARAMETERS"  # the environment variable that has all of them
SEED = "SWEEP_SEED"
# Endings of programs' sources: the first word that has one names a file that must be there.
SOURCES = (".py", ".sh", ".r", ".jl", ".js", ".ts", ".pl", ".rb", ".lua", ".m", ".jar")
_PLACEHOLDER = re.compile(r"\{(\{[\w.]+\})\}|\{([A-Za-z_][\w.]*)\}", re.ASCII)  # {{lr}} is {lr}


def words_of(value: object) -> list[str]:
    """Returns the words of a command in a study file; raises ValueError if it is no list of words."""
    if not isinstance(value, list | tuple):
        raise ValueError("must be a list of words: [python, train.py, --lr, '{lr}']")  # noqa: TRY004 (for pydantic)
    for word in value:
        if isinstance(word, bool) or not isinstance(word, str | int | float):
            raise ValueError(  # noqa: TRY004 (pydantic collects no others)
                f"{word!r} must be a word: put it in quotes, as '{{lr}}'"
            )
    return [str(word) for word in value]


def placeholders(command: Sequence[str]) -> list[str]:
    """Returns the names in braces, each once.

    Example:
        >>> placeholders(["python", "train.py", "--lr={lr}", '{"raw": 1}', "{{kept}}", "{seed}"])
        ['lr', 'seed']
    """
    return [*dict.fromkeys(name for word in command for _, name in _PLACEHOLDER.findall(word) if name)]


def fill(command: Sequence[str], values: Mapping[str, Scalar]) -> list[str]:
    """Returns the words that start a trial's script: with values, this Python, and absolute paths of files.

    Numbers, true, false and null are written as in JSON.
    """
    program, *words = command
    first = sys.executable if program in PYTHON else _filled(program, values)
    return [first, *(_filled(word, values) for word in words)]


def _filled(word: str, values: Mapping[str, Scalar]) -> str:
    word = _PLACEHOLDER.sub(lambda found: found[1] or _text(values[found[2]]), word)
    option, sign, value = word.rpartition("=")
    found = _find(word, folders=True)
    return str(found) if found else f"{option}{sign}{_find(value, folders=True) or value}"


def _text(value: Scalar) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _find(word: str, *, folders: bool = False) -> Path | None:
    """Returns the file that a word names, relative to the search folders or, on a worker, to the code it was sent.

    With ``folders`` it may be a folder, if the word has a slash.
    """
    if not (Path(word).suffix or os.sep in word):
        return None
    places = (Path(folder, word) for folder in (*search_folders(), *sys.path))
    return next((each for each in places if each.is_file() or (folders and os.sep in word and each.is_dir())), None)


def _sources(command: Sequence[str]) -> Iterator[tuple[Path, Path]]:
    """Yields the program and the sources that a command names, with their files."""
    words = [word for number, word in enumerate(command) if not number or word.lower().endswith(SOURCES)]
    return ((Path(word), file.absolute()) for word in words if (file := _find(word)))


def source_of(command: Sequence[str]) -> bytes:
    """Returns the text of a script: of all sources that a command names."""
    return b"\0".join(file.read_bytes() for _, file in _sources(command))


def digest(command: Sequence[str]) -> str:
    """Returns a short hash of a script, which distinguishes its versions."""
    return hashlib.blake2b(source_of(command), digest_size=6).hexdigest()


def files_to_send(command: Sequence[str]) -> list[str]:
    """Returns what workers on other machines need: a script, and if it is in a folder that folder.

    Other files, and a script with an absolute path, must be there on each machine.
    """
    own = ((word.parts, file) for word, file in _sources(command) if not word.is_absolute() and ".." not in word.parts)
    return sorted({str(file.parents[len(parts) - 2] if len(parts) > 1 else file) for parts, file in own})


def check_command(command: Sequence[str], names: Sequence[str]) -> list[str]:
    """Returns problems: placeholders that are none of ``names``, and a script that does not exist."""
    known = [*names, *OF_A_TRIAL]
    problems = [
        f"command: {{{name}}} is no hyperparameter{nearest(name, known)}; one of {', '.join(known)}"
        for name in placeholders(command)
        if name not in known
    ]
    source = next((word for word in command if word.lower().endswith(SOURCES)), "")  # those after it may be written
    folders = ", ".join(search_folders()) or "the current folder"
    missing = source and "{" not in source and not _find(source)
    return problems + [f"command: there is no file {source} in {folders}"] * bool(missing)


def check_program(command: Sequence[str]) -> list[str]:
    """Returns a problem if this machine cannot start the program of a command."""
    program = command[0]
    file = _find(program)
    if program in PYTHON or (os.access(file, os.X_OK) if file else shutil.which(program)):
        return []
    if file:
        return [f"command: {file} is not executable: chmod +x {program}, or name its interpreter before it"]
    return [f"command: there is no program {program} on the PATH; install it, or name the file with its path"]


def check_seed(command: Sequence[str]) -> list[str]:
    """Returns a problem if a script is not told the seed on which it is to be trained again."""
    if "seed" in placeholders(command) or SEED.encode() in source_of(command):
        return []
    return [
        f"command: the search trains a configuration on several seeds, and the command has no {{seed}}, nor does its "
        f"script read {SEED}: it would train to the same numbers"
    ]


def unread(command: Sequence[str], searched: Sequence[str]) -> list[str]:
    """Returns a warning for each searched hyperparameter without a placeholder, unless the script reads them itself."""
    given = placeholders(command)
    if HYPERPARAMETERS.encode() in source_of(command):
        return []
    return [
        f"space.{name} cannot act: the command has no {{{name}}}; a script may also read it from {HYPERPARAMETERS}"
        for name in searched
        if name not in given
    ]
