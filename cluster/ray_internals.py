"""The private names of Ray that this package uses, all of them, read in Ray 2.60.

A new Ray may move them, so pyproject.toml allows one minor version, and tests/cluster/test_ray_internals.py says which
name has moved. Why public ones do not serve:

- tokens: `ray.init` to an existing cluster and the job client do not read a token by themselves, and abort the process
  or retry for 20 s without one (ray-project/ray#57835, #64755).
- addresses, versions: `ray.init` resolves an address and compares versions only after those retries.
- draining nodes: `ray.nodes()` does not say which nodes are being drained.
- autoscaler: no public call says if a cluster adds nodes.
"""

import json
import re
from typing import Any

import ray
from ray._private import services
from ray._private import state as ray_state
from ray._private.authentication import authentication_token_setup, http_token_authentication
from ray.experimental.internal_kv import _internal_kv_get, internal_kv_get_gcs_client

_AUTOSCALER_REPORT = b"__autoscaling_status"  # key under which an autoscaler of the first version describes itself
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
