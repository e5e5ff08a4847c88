"""What keeps a cluster from running a study, found before the first trial, by asking its nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from ..config import filesystem
from ..config.errors import MissingDataError, SweepError, without_password
from ..config.sections import DataConfig
from ..config.settings import Settings
from ..config.study_config import StudyConfig

if TYPE_CHECKING:
    from ..cluster.probe import Answer


def check_nodes(
    config: StudyConfig, settings: Settings, *, insecure: bool, on_message: Callable[[str], None]
) -> list[str]:
    """All that is wrong with the connected cluster; of a private Ray only whether a trial fits.

    Args:
        insecure: take a cluster that asks for no token, too.
        on_message: is told what takes long.
    """
    from .slots import require_fit

    problems, private = [], settings.address == "local"
    try:
        require_fit(config.resources, private=private)
    except SweepError as error:
        problems.append(str(error))
    if private:
        return problems
    from ..cluster.probe import LONG_PATIENCE, ask_nodes, count_nodes
    from ..cluster.room import can_grow

    if count_nodes() > 1 or can_grow():
        problems += _files_of_one_machine(settings)
    mark = settings.workspace / f".nodes-{uuid4().hex}"  # a file that nodes see if they share the workspace
    filesystem.write_bytes(mark, b"")
    try:
        answers = ask_nodes(examine, str(mark))
    finally:
        filesystem.remove_file(mark)
    if not insecure and not all(answer.secure for answer in answers):
        problems.append(
            "token: the cluster asks for none, so that whoever reaches it can run anything on it: start it with "
            "RAY_AUTH_MODE=token, or say --insecure"
        )
    problems += _told(answers)
    if not problems:  # at last, as it may be a download; each node makes one, whatever runs there
        data, root, cache = config.data.model_dump(mode="json"), str(settings.data), str(settings.cache)
        problems = _told(
            ask_nodes(
                prepare_nodes,
                data,
                root,
                cache,
                patience=LONG_PATIENCE,
                slow=lambda nodes: on_message(
                    f"{config.data.name} is prepared on node {', '.join(nodes)}: a first time takes minutes"
                ),
            )
        )
    return problems


def _told(answers: list[Answer]) -> list[str]:
    """Each problem once, with the nodes that have it."""
    nodes: dict[str, list[str]] = {}
    for answer in answers:
        for problem in answer.value or ([answer.error] if answer.error else []):
            nodes.setdefault(problem, []).append(answer.node)
    return [f"{problem} (node {', '.join(names)})" for problem, names in nodes.items()]


def examine(mark: str) -> list[str]:
    """Runs on a node: what is wrong with the workspace there.

    Args:
        mark: a file of the driver's in it.
    """
    try:
        file = filesystem.parse_path(mark)
        filesystem.read_bytes(file)
        probe = file.with_name(f"{file.name}-{uuid4().hex}")
        filesystem.write_bytes(probe, b"")
        filesystem.remove_file(probe)
    except FileNotFoundError:
        return [
            f"workspace: {file.parent} is not the one that the driver sees; it must be a folder that all machines "
            "share, or s3://BUCKET/PREFIX (--workspace, SWEEP_WORKSPACE)"
        ]
    except OSError as error:
        return [f"workspace: {file.parent} cannot be used: {error}"]
    except SweepError as error:
        return [f"workspace: {error}"]
    return []


def prepare_nodes(data: dict[str, Any], root: str, cache: str) -> list[str]:
    """Runs on a node: stores the study's data set in the cache there, unless it is there; what is wrong with it.

    Args:
        data: the study's.
        root: of the data sets.
        cache: of prepared data sets.
    """
    from ..data.loading import load_dataset

    try:
        load_dataset(
            DataConfig.model_validate(data), root=filesystem.parse_path(root), cache=filesystem.parse_path(cache)
        )
    except MissingDataError as error:
        each = "" if root.startswith("s3://") else ". Each node must have them, or SWEEP_DATA be s3://BUCKET/PREFIX"
        return [f"data: {str(error).removesuffix('.')}{each}"]
    except SweepError as error:
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
            "(sweep services up runs one)"
        )
    return problems
