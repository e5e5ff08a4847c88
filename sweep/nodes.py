"""What keeps a cluster from running a study, found before the first trial, by asking its nodes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any
from uuid import uuid4

from .config import DataConfig, StudyConfig
from .errors import DataError, SweepError, without_password
from .settings import Settings


def check_nodes(config: StudyConfig, settings: Settings, *, insecure: bool) -> list[str]:
    """All that is wrong with the connected cluster; of a private Ray only whether a trial fits.

    Args:
        insecure: take a cluster that asks for no token, too.
    """
    from .room import require_room

    problems, private = [], settings.address == "local"
    try:
        require_room(config.resources, private=private)
    except SweepError as error:
        problems.append(str(error))
    if private:
        return problems
    from cluster.probe import ask_nodes, count_nodes
    from cluster.room import can_grow

    if count_nodes() > 1 or can_grow():
        problems += _files_of_one_machine(settings)
    mark = settings.workspace / f".nodes-{uuid4().hex}"  # a folder that nodes see if they share the workspace
    mark.mkdir(parents=True)
    try:
        answers = ask_nodes(
            examine, config.data.model_dump(mode="json"), str(mark), str(settings.data), str(settings.cache)
        )
    finally:
        shutil.rmtree(mark, ignore_errors=True)
    if not insecure and not all(answer.secure for answer in answers):
        problems.append(
            "token: the cluster asks for none, so that whoever reaches it can run anything on it: start it with "
            "RAY_AUTH_MODE=token, or say --insecure"
        )
    nodes: dict[str, list[str]] = {}
    for answer in answers:
        for problem in answer.value or ([answer.error] if answer.error else []):
            nodes.setdefault(problem, []).append(answer.node)
    return problems + [f"{problem} (node {', '.join(names)})" for problem, names in nodes.items()]


def examine(data: dict[str, Any], mark: str, root: str, cache: str) -> list[str]:
    """Runs on a node: what is wrong there.

    Args:
        data: the study's.
        mark: a folder of the driver's in the workspace.
        root: of the data sets.
        cache: of prepared data sets.
    """
    folder = Path(mark)
    if not folder.is_dir():
        return [
            f"workspace: {folder.parent} is not the one that the driver sees; it must be a folder that all machines "
            "share (--workspace, SWEEP_WORKSPACE)"
        ]
    from .data import load

    try:
        (folder / uuid4().hex).touch()
        load(DataConfig.model_validate(data), root=Path(root), cache=Path(cache))
    except OSError as error:
        return [f"workspace: {folder.parent} cannot be written: {error}"]
    except DataError as error:
        return [f"data: {error}"]
    return []


def _files_of_one_machine(settings: Settings) -> list[str]:
    """Databases that a driver on another machine could not open, or not without damage."""
    server = "a file, whose locks hold on one machine only, and this cluster has several nodes, or may get them"
    problems = []
    if settings.storage.startswith(("sqlite", "journal")):
        problems.append(
            f"storage: {without_password(settings.storage)} is {server}: give --storage or SWEEP_STORAGE, "
            "postgresql+psycopg://USER@HOST/DATABASE"
        )
    if settings.tracking_uri.startswith("sqlite"):
        problems.append(
            f"tracking: {settings.tracking_uri} is {server}: give --tracking or MLFLOW_TRACKING_URI, http://HOST:PORT "
            "(python -m sweep services up starts one)"
        )
    return problems
