"""The private names of Ray that `ray_internals` uses are where they were: a new Ray that moves one fails here."""

from __future__ import annotations

import importlib
import inspect
import logging
import pkgutil

import pytest
import ray

from sweep.cluster.ray_internals import JOB_LOGGERS, has_token, is_ray_client, requires_token, token_headers

pytestmark = pytest.mark.filterwarnings("default")  # Ray's own deprecations are not ours

READ_IN = "2.60."


def moved(name: str) -> str:
    return (
        f"Ray {ray.__version__} has no {name} any more, or uses it otherwise: cluster/ray_internals.py was written for "
        f"Ray {READ_IN}x; read it anew, and mend it, before the bound in pyproject.toml is raised"
    )


def test_the_version_is_the_one_that_was_read() -> None:
    assert ray.__version__.startswith(READ_IN), moved("promise to be as it was read")


@pytest.mark.parametrize(
    "name",
    [
        "ray._private.services:canonicalize_bootstrap_address_or_die",
        "ray._private.state:state.get_draining_nodes",
        "ray._private.authentication.authentication_token_setup:maybe_enable_token_auth_if_token_available",
        "ray._private.authentication.http_token_authentication:get_auth_headers_if_auth_enabled",
        "ray._raylet:AuthenticationMode.TOKEN",
        "ray._raylet:AuthenticationTokenLoader.instance",
        "ray._raylet:InnerGcsClient.internal_kv_get",
        "ray._raylet:GcsClient",
        "ray._raylet:get_authentication_mode",
        "ray.autoscaler.v2.sdk:get_cluster_resource_state",
        "ray.autoscaler.v2.utils:is_autoscaler_v2",
        "ray.autoscaler.v2.utils:is_head_node",
        "ray.experimental.internal_kv:_internal_kv_get",
        "ray.experimental.internal_kv:internal_kv_get_gcs_client",
        "ray.util.client:ray.is_connected",
    ],
)
def test_a_name_is_there(name: str) -> None:
    try:
        assert pkgutil.resolve_name(name) is not None
    except (ImportError, AttributeError):
        pytest.fail(moved(name))


def test_the_parameters_are_those_that_were_read() -> None:
    setup = "ray._private.authentication.authentication_token_setup"
    for name, parameter in (
        (f"{setup}:maybe_enable_token_auth_if_token_available", "warn_if_disabled"),
        ("ray.autoscaler.v2.utils:is_autoscaler_v2", "fetch_from_server"),
        ("ray.autoscaler.v2.utils:is_autoscaler_v2", "gcs_client"),
    ):
        assert parameter in inspect.signature(pkgutil.resolve_name(name)).parameters, moved(f"{name}({parameter}=)")


def test_what_a_head_keeps_has_the_keys_that_were_read() -> None:
    """Of the cluster's versions, and of an autoscaler's report; `test_cluster` reads the first one from a real head."""
    key: bytes = pkgutil.resolve_name("ray._common.usage.usage_constants:CLUSTER_METADATA_KEY")
    assert key == b"CLUSTER_METADATA", moved("the key CLUSTER_METADATA")
    report = importlib.import_module("ray.autoscaler._private.autoscaler")
    assert "node_type_mapping" in inspect.getsource(report), moved("node_type_mapping of an autoscaler's report")
    monitor = importlib.import_module("ray.autoscaler._private.monitor")
    assert "autoscaler_report" in inspect.getsource(monitor), moved("autoscaler_report of a monitor's status")


def test_the_loggers_of_jobs_have_levels_of_their_own() -> None:
    for name in JOB_LOGGERS:
        importlib.import_module(name)
        assert logging.getLogger(name).level != logging.NOTSET, moved(f"level of the logger {name}")


def test_the_answers_have_the_types_that_they_had() -> None:
    assert not is_ray_client()
    assert {type(has_token()), type(requires_token())} == {bool}
    assert isinstance(token_headers(), dict)
