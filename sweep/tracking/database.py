"""MLflow's SQLite file in a workspace: made whole or not at all, its artifacts found where the workspace is now.

The functions that write are called while other processes are kept out.
"""

import contextlib
import logging
import sqlite3
from pathlib import Path
from urllib.parse import unquote

from ..config.filesystem import AnyPath, write_atomically
from ..config.sqlite import sqlite_url
from .mlflow_internals import make_database

logger = logging.getLogger(__name__)

_TRIALS = """
    SELECT experiment_id, number.value, run_uuid
    FROM experiment_tags AS own JOIN experiments USING (experiment_id) JOIN runs USING (experiment_id)
    JOIN tags AS study USING (run_uuid) JOIN tags AS kind USING (run_uuid) JOIN tags AS number USING (run_uuid)
    WHERE own.key = 'sweep.id' AND own.value = ?
    AND experiments.lifecycle_stage = 'active' AND runs.lifecycle_stage = 'active'
    AND study.key = 'sweep.study' AND study.value = ?
    AND kind.key = 'sweep.kind' AND kind.value = 'trial' AND number.key = 'sweep.trial'
"""

# The columns in which MLflow keeps absolute places of artifacts.
_PLACES = (("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location"))


def is_made(path: Path) -> bool:
    """Returns False if a database is missing, or the process that made it was killed.

    The last thing that MLflow makes is its own experiment. A file that is no database, or another program's, is for
    MLflow to refuse.
    """
    if not path.exists():
        return False
    try:
        with contextlib.closing(sqlite3.connect(path)) as database:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if "experiments" in tables:
                made = database.execute("SELECT 1 FROM experiments").fetchone() is not None
            else:  # MLflow renames it for a moment
                made = not any("experiment" in name for name in tables) and bool(tables)
            return made or "studies" in tables
    except sqlite3.Error:
        return True


def find_trial_runs(path: Path, study: str, study_id: str) -> tuple[str, dict[int, str]] | None:
    """Returns the experiment's id, and the ids of search trials' runs by number, without MLflow: its import takes 2 s.

    Returns None where MLflow has to be asked: nothing is found, a trial has two runs, or a table is not as expected.
    """
    if not path.exists():
        return None
    try:
        with contextlib.closing(sqlite3.connect(path)) as database:
            rows = database.execute(_TRIALS, (study_id, study)).fetchall()
        runs = {int(number): str(run) for _, number, run in rows}
    except (sqlite3.Error, ValueError):
        return None
    unique = len(runs) == len(rows) and len({experiment for experiment, _, _ in rows}) == 1
    return (str(rows[0][0]), runs) if unique else None


def make(path: Path, artifacts: AnyPath) -> None:
    """Makes a database that is missing or half made."""
    # A rollback journal of the old file would be applied to the new one.
    rollback = [path.with_name(path.name + end) for end in ("", "-journal", "-wal", "-shm")]
    for rest in [*rollback, *path.parent.glob(f".{path.name}.*.tmp*")]:
        rest.unlink(missing_ok=True)
    with write_atomically(path) as beside:
        make_database(sqlite_url(beside), artifacts.absolute().as_uri())


def relocate_artifacts(path: Path, artifacts: AnyPath) -> None:
    """Replaces the places of artifacts after the workspace was moved or copied, as MLflow keeps absolute ones.

    A file that cannot be written, or is no database of MLflow's, is for MLflow to refuse.
    """
    present = artifacts.absolute().as_uri()
    with (
        contextlib.suppress(sqlite3.Error),
        contextlib.closing(sqlite3.connect(path, timeout=30)) as database,
        database,
    ):
        for (before,) in database.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall():
            old = Path(unquote(before.removeprefix("file://")))
            if before == present or old.name != artifacts.name or (old.exists() and not artifacts.exists()):
                continue
            for table, column in _PLACES:
                database.execute(
                    f"UPDATE {table} SET {column} = ?1 || substr({column}, length(?2) + 1) "  # noqa: S608
                    f"WHERE substr({column} || '/', 1, length(?2) + 1) = ?2 || '/'",
                    (present, before),
                )
            logger.info("artifacts of %s are in %s", before, present)
