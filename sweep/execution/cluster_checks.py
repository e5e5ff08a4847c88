"""Checks, before the first trial, that the nodes of a cluster can work on a study."""

from collections.abc import Callable
from typing import Any
from uuid import uuid4

from ..cluster.nodes import list_nodes
from ..cluster.probe import DOWNLOAD_TIMEOUT, Answer, ask_nodes
from ..cluster.ray_internals import can_grow
from ..config import filesystem
from ..config.errors import MissingDataError, SweepError
from ..config.secrets import without_secrets
from ..config.sections import DataConfig
from ..config.settings import Settings
from ..config.study_config import StudyConfig
from .slots import require_fit

CLOCKS_DIFFER = 5.0  # seconds


def check_nodes(
    config: StudyConfig, settings: Settings, *, insecure: bool, on_message: Callable[[str], None]
) -> list[str]:
    """Returns all problems of the connected cluster; a private Ray is only checked for room for a trial."""
    problems, private = [], settings.address == "local"
    try:
        require_fit(config.resources, private=private)
    except SweepError as error:
        problems.append(str(error))
    if private:
        return problems
    if len(list_nodes()) > 1 or can_grow():
        problems += _single_machine_files(settings)
    probe = settings.workspace / f".nodes-{uuid4().hex}"  # a file that nodes see if they share the workspace
    filesystem.write_bytes(probe, b"")
    try:
        answers = ask_nodes(check_workspace, str(probe))
    finally:
        filesystem.remove_file(probe)
    for node, ahead in ((answer.node, answer.ahead) for answer in answers if abs(answer.ahead) > CLOCKS_DIFFER):
        on_message(
            f"the clock of node {node} is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} this machine's: "
            "the times of its metrics in MLflow will be wrong by as much, and S3 refuses 15 minutes"
        )
    if not insecure and not all(answer.secure for answer in answers):
        problems.append(
            "token: the cluster asks for none, so anybody who reaches it can run anything on it: start it with "
            "RAY_AUTH_MODE=token, or give --insecure"
        )
    problems += _merge(answers)
    if not problems and config.kind == "model":  # last, since it may be a download; every node stores its own copy

        def on_slow(nodes: list[str]) -> None:
            on_message(f"preparing {config.data.name} on node {', '.join(nodes)}: the first time takes minutes")

        arguments = config.data.model_dump(mode="json"), str(settings.data), str(settings.cache)
        problems = _merge(ask_nodes(prepare_data, *arguments, timeout=DOWNLOAD_TIMEOUT, on_slow=on_slow))
    return problems


def _merge(answers: list[Answer]) -> list[str]:
    """Returns each problem once, with the nodes that have it."""
    nodes: dict[str, list[str]] = {}
    for answer in answers:
        for problem in answer.value or ([answer.error] if answer.error else []):
            nodes.setdefault(problem, []).append(answer.node)
    return [f"{problem} (node {', '.join(names)})" for problem, names in nodes.items()]


def check_workspace(probe: str) -> list[str]:
    """Returns what is wrong with the workspace, in which the driver has written the file ``probe``. Runs on a node."""
    try:
        file = filesystem.parse_path(probe)
        filesystem.read_bytes(file)
        ours = file.with_name(f"{file.name}-{uuid4().hex}")
        filesystem.write_bytes(ours, b"")
        filesystem.remove_file(ours)
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


def prepare_data(data: dict[str, Any], root: str, cache: str) -> list[str]:
    """Stores the study's data set in a node's cache, unless it is there; returns what is wrong. Runs on a node."""
    from ..data.loading import load_dataset

    try:
        places = filesystem.parse_path(root), filesystem.parse_path(cache)
        load_dataset(DataConfig.model_validate(data), root=places[0], cache=places[1])
    except MissingDataError as error:
        each = "" if root.startswith("s3://") else ". Each node must have them, or SWEEP_DATA be s3://BUCKET/PREFIX"
        return [f"data: {str(error).removesuffix('.')}{each}"]
    except SweepError as error:
        return [f"data: {error}"]
    return []


def _single_machine_files(settings: Settings) -> list[str]:
    """Returns a problem for each database file: a driver on another machine could not open or would damage it."""
    server = "a file, whose locks hold on one machine only, and this cluster has or may add several nodes"
    problems = []
    if settings.storage.startswith(("sqlite", "journal")):
        problems.append(
            f"storage: {without_secrets(settings.storage)} is {server}: give --storage or SWEEP_STORAGE, "
            "postgresql+psycopg://USER@HOST/DATABASE"
        )
    if settings.tracking_uri.startswith("sqlite"):
        problems.append(
            f"tracking: {settings.tracking_uri} is {server}: give --tracking or MLFLOW_TRACKING_URI, http://HOST:PORT "
            "(sweep services up runs one)"
        )
    return problems
