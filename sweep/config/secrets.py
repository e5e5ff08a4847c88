"""Keeps passwords, tokens and keys out of what is printed, logged and stored."""

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from urllib.parse import quote, unquote

# Settings that the driver alone needs, and that may hold a secret: workers get none of them.
DRIVER_VARIABLES = (
    "SWEEP_STORAGE",
    "PGPASSWORD",  # of PostgreSQL, which may hold the studies
    "SWEEP_ON_FINISH",
    "SWEEP_ON_FAILURE",
    "MLFLOW_TRACKING_URI",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
)
_SECRET_NAMES = re.compile(r"PASSWORD|PASSWD|SECRET|TOKEN(?!IZ)|CREDENTIAL|ACCESS_KEY|API_KEY|SWEEP_ON_")
# Variables without which a program finds nothing; a path may have a password's word in it, such as postgres.
_PLACES = ("PATH", "HOME", "PYTHONPATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "TMPDIR", "USER", "LOGNAME", "SHELL", "PWD")
_WORD = 6  # characters; a shorter secret would be found in ordinary words
# Parameters of a URL that hold no secret; every other one may.
_SHOWN = {
    *("application_name", "charset", "client_encoding", "connect_timeout", "dbname", "host", "mode", "options", "port"),
    *("sslcert", "sslkey", "sslmode", "sslrootcert", "target_session_attrs", "timeout", "uri", "user"),
}


def without_secrets(url: str) -> str:
    """Returns a URL with ``***`` in place of its password, and of its parameters except those known to be harmless.

    Example:
        >>> without_secrets("https://ann:s3cret@host/base?token=s3cret&sslmode=require")
        'https://ann:***@host/base?token=***&sslmode=require'
    """
    return _split(url)[0]


def hide(text: str, url: str) -> str:
    """Returns a text, such as an error's message, without the secrets of a URL."""
    shown, found = _split(url)
    return _replace(text.replace(url, shown), found)


def redact(text: str, found: Sequence[str] | None = None) -> str:
    """Returns a text without the secrets ``found``, by default those of `secrets_here`."""
    return _replace(text, secrets_here() if found is None else found)


def secrets_here() -> list[str]:
    """Returns the secrets of this process's environment and command line."""
    return [secret for secret in known_secrets(os.environ, sys.argv) if len(secret) >= _WORD]


def without_driver_secrets(environment: Mapping[str, str], words: list[str]) -> dict[str, str]:
    """Returns an environment without the driver's settings, and without other variables that hold one of its secrets.

    Args:
        environment: Variables of a process.
        words: Its command line, which may hold the same secrets.

    Example:
        >>> of_driver = {"SWEEP_STORAGE": "postgresql://me:hunter2@db/studies", "DATABASE": "db, hunter2"}
        >>> without_driver_secrets({**of_driver, "HF_TOKEN": "of a model"}, [])
        {'HF_TOKEN': 'of a model'}
    """
    of_driver = {name: value for name, value in environment.items() if name in DRIVER_VARIABLES}
    found = [secret for secret in known_secrets(of_driver, words) if len(secret) >= _WORD]
    kept = {name: value for name, value in environment.items() if name not in of_driver}
    return {
        name: value for name, value in kept.items() if name in _PLACES or not any(secret in value for secret in found)
    }


def known_secrets(environment: Mapping[str, str], words: list[str]) -> list[str]:
    """Returns the values of variables whose names say that they are secret, and the secrets of URLs."""
    names = [name for name in environment if _SECRET_NAMES.search(name.upper()) and not name.endswith(("PATH", "FILE"))]
    # Of a webhook what follows its host.
    named = [re.sub("^https?://[^/]*/?", "", environment[name]) for name in names]
    urls = [each for value in [*environment.values(), *words] if "://" in value for each in value.split()]
    return [*filter(None, [*named, *(secret for url in urls for secret in _split(url)[1])])]


def _replace(text: str, found: Sequence[str]) -> str:
    written = (str, unquote, lambda secret: quote(secret, safe=""), lambda secret: json.dumps(secret)[1:-1])
    for form in sorted({form(secret) for secret in found for form in written}, key=len, reverse=True):
        text = text.replace(form, "***")
    return text


def _split(url: str) -> tuple[str, list[str]]:
    """Returns a URL as it may be shown, and the secrets in it."""
    scheme, sign, rest = url.partition("://") if "://" in url else ("", "", url)
    web, found = scheme in ("http", "https"), list[str]()
    mark = re.search("[?#]" if web else "[?]", rest)
    head, tail = (rest[: mark.start()], rest[mark.start() :]) if mark else (rest, "")
    # The mark is one of a password's characters, or of a path's.
    if ("@" in tail and not {"@", "/"} & set(head)) or not (sign or "=" in tail):
        head, tail = rest, ""
    login, at, host = head.rpartition("@")
    user, colon, password = login.partition(":")
    if at and web and not colon:  # a token in place of a name
        user, password = "***", login
    found.append(password)
    for each in re.split("[?&#]", tail)[1:]:
        name, equals, value = each.partition("=")
        if name not in _SHOWN or not equals:
            found.append(value if equals else each)
    shown = re.sub(r"([?&#])([^?&#=]*)(=?)([^?&#]*)", _mask, tail)
    return f"{scheme}{sign}{user}{':***' if colon else ''}{at}{host}{shown}", [*filter(None, found)]


def _mask(part: re.Match[str]) -> str:
    mark, name, equals, value = part.groups()
    if not equals:
        return f"{mark}***" if name else mark
    return part[0] if name in _SHOWN or not value else f"{mark}{name}=***"
