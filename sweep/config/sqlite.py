"""URLs of SQLite databases, and the files in them."""

import re
from pathlib import Path

from .errors import StorageError


def sqlite_url(path: Path) -> str:
    """Returns the URL of a database file, whatever characters its path has.

    Example:
        >>> sqlite_url(Path("/tmp/feature%2Fx/mlflow.db"))
        'sqlite+pysqlite:////tmp/feature%252Fx/mlflow.db'
    """
    if not re.search(r"%[0-9A-Fa-f]{2}|\?", str(path)):
        return f"sqlite:///{path}"
    from sqlalchemy import URL  # here, since it takes 0.1 s

    # With the driver's name, as MLflow makes an empty folder of the escaped name for a plain sqlite:///.
    return URL.create("sqlite+pysqlite", database=str(path)).render_as_string()


def sqlite_file(url: str) -> Path | None:
    """Returns the file of an SQLite URL, or None for a database of another kind.

    Raises `StorageError` for a database in memory.

    Example:
        >>> sqlite_file("sqlite:///results/mlflow.db")
        PosixPath('results/mlflow.db')
    """
    if not url.startswith("sqlite"):
        return None
    from sqlalchemy import make_url

    parsed = make_url(url)
    name = parsed.database or ":memory:"
    if ":memory:" in name or parsed.query.get("mode") == "memory":
        raise StorageError(f"{url}: a database in memory is gone when the process ends; use a file, sqlite:///PATH")
    return Path(name.removeprefix("file:"))
