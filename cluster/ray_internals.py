"""The private names of Ray that this package uses, all of them, read in Ray 2.60.

A new Ray may move them, so pyproject.toml allows one minor version, and tests/cluster/test_ray_internals.py says which
name has moved. Why public ones do not serve:

- tokens: `ray.init` to an existing cluster and the job client do not read a token by themselves, and abort the process
  or retry for 20 s without one (ray-project/ray#57835, #64755).
- addresses, versions: `ray.init` resolves an address and compares versions only after those retries.
- nodes: `ray.init` on a machine that is none of them fails after a minute, with another reason.
- draining nodes: `ray.nodes()` does not say which nodes are being drained.
- the private Ray: it listens on all interfaces, and writes its token to a file that everybody may read.
- logs: no public call says where they are.
- errors: no public call keeps Ray from printing the last log lines of a lost node on stdout.
- autoscaler: no public call says if a cluster adds nodes.
"""

import contextlib
import json
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ray
from ray._common.utils import get_default_system_temp_dir
from ray._private import ray_constants, services
from ray._private import state as ray_state
from ray._private import worker as ray_worker
from ray._private.authentication import authentication_token_setup, http_token_authentication
from ray.core.generated.gcs_pb2 import GcsNodeInfo
from ray.experimental.internal_kv import _internal_kv_get, internal_kv_get_gcs_client

_AUTOSCALER_REPORT = b"__autoscaling_status"  # key under which an autoscaler of the first version describes itself
LONGEST_TMPDIR = 38  # bytes; of the 107 that a socket's path may have, Ray uses up to 69
# Loggers with a level of their own, which a level of the logger "ray" does not silence.
JOB_LOGGERS = ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk")


def is_ray_client() -> bool:
    """Returns True if this process is connected by ``ray://``, so that there is no Ray node on this machine."""
    return bool(ray.util.client.ray.is_connected())


def bootstrap_address(address: str) -> str:
    """Returns ``HOST:PORT`` of the head for an address of `ray.init`; raises OSError or ValueError if there is none."""
    return str(services.canonicalize_bootstrap_address_or_die(address))


def cluster_metadata(bootstrap: str) -> dict[str, str]:
    """Returns a head's ``ray_version``, ``python_version`` and more; raises Ray's AuthenticationError or RayError."""
    client = ray._raylet.GcsClient(address=bootstrap)
    answer = client.internal_kv_get(b"CLUSTER_METADATA", b"cluster", timeout=10)
    return dict(json.loads(answer or b"{}"))


def living_addresses(bootstrap: str) -> list[str]:
    """Returns the addresses of a cluster's living nodes, to which this process need not be connected."""
    nodes = ray._raylet.GcsClient(address=bootstrap).get_all_node_info(timeout=10).values()
    return [node.node_manager_address for node in nodes if node.state == GcsNodeInfo.ALIVE]


@contextlib.contextmanager
def private_ray() -> Iterator[None]:
    """Makes `ray.init` within the block start a Ray that listens on the loopback address, as on macOS and Windows.

    Its token is written here, since Ray would write it to a file that everybody may read.
    """
    protect_token(Path.home() / ".ray" / "auth_token")
    clusters, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = clusters


def protect_token(path: Path) -> None:
    """Makes Ray's token file readable for its owner alone; writes a token if there is no file."""
    with contextlib.suppress(OSError):  # no home that can be written, or somebody else's file
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=path.parent) as beside:  # of mode 0600
                beside.write(secrets.token_hex(32))
                beside.flush()
                os.link(beside.name, path)  # unless another process has made one
        path.chmod(0o600)


def enable_token() -> bool:
    """Makes Ray use this process's token if there is one; returns True if Ray now requires one."""
    ray._raylet.AuthenticationTokenLoader.instance().reset_cache()
    return bool(authentication_token_setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False))


def has_token() -> bool:
    """Returns True if this process has a token, in the environment or a file."""
    return bool(ray._raylet.AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True))


def token_headers() -> dict[str, str]:
    """Returns the HTTP headers that carry the token; none if tokens are off."""
    return dict(http_token_authentication.get_auth_headers_if_auth_enabled({}))


def requires_token() -> bool:
    """Returns True if the Ray that runs this process requires a token. Called on the nodes."""
    return bool(ray._raylet.get_authentication_mode() == ray._raylet.AuthenticationMode.TOKEN)


def temporary_folder() -> str:
    """Returns the folder in which a private Ray makes its own: /tmp where sockets below TMPDIR had too long paths."""
    folder = str(get_default_system_temp_dir())
    return folder if "RAY_TMPDIR" in os.environ or len(os.fsencode(folder)) <= LONGEST_TMPDIR else "/tmp"  # noqa: S108


def session_logs() -> list[Path]:
    """Returns the logs that the newest Ray session of this machine has written."""
    folder = Path(temporary_folder(), "ray", "session_latest", "logs")
    return sorted(path for path in folder.glob("*.*") if path.is_file() and path.stat().st_size)


@contextlib.contextmanager
def redirected_errors(write: Callable[[str], None]) -> Iterator[None]:
    """Passes to ``write`` what Ray would print on stdout within the block: pages about each lost node or worker."""
    printer = ray_worker.print_to_stdstream
    ray_worker.print_to_stdstream = lambda data, **_options: write("\n".join(data["lines"]))
    try:
        yield
    finally:
        ray_worker.print_to_stdstream = printer


def draining_nodes() -> set[str]:
    """Returns the ids of the nodes that are being drained; none over ``ray://``, where they are unknown."""
    return set() if is_ray_client() else set(ray_state.state.get_draining_nodes())


def can_grow() -> bool | None:
    """Returns True if an autoscaler adds nodes, False if none does (or over ``ray://``), None if not known yet.

    Every head has an autoscaler, which without a configuration only watches. The first version reports a type for each
    node; one that only watches gives the node's id as its type. For the second version (KubeRay) the head has a type.
    """
    if is_ray_client():
        return False
    report = json.loads(_internal_kv_get(_AUTOSCALER_REPORT) or b"{}").get("autoscaler_report")
    if report is not None:
        kinds = (report["node_type_mapping"] or {}).values()
        return any(not re.fullmatch("node_[0-9a-f]{56}", kind) for kind in kinds)
    from ray.autoscaler.v2.sdk import get_cluster_resource_state
    from ray.autoscaler.v2.utils import is_autoscaler_v2, is_head_node

    gcs: Any = internal_kv_get_gcs_client()
    if not is_autoscaler_v2(fetch_from_server=True, gcs_client=gcs):
        return None
    return any(is_head_node(n) and n.ray_node_type_name for n in get_cluster_resource_state(gcs).node_states)
