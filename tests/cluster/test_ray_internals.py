"""The private names of Ray that `ray_internals` uses are where they were: a new Ray that moves one fails here."""

from __future__ import annotations

import importlib
import inspect
import logging
import pkgutil
import stat
from pathlib import Path

import pytest
import ray
from ray._private import ray_constants, services

from sweep.cluster.ray_internals import (
    JOB_LOGGERS,
    LONGEST_TMPDIR,
    has_token,
    is_ray_client,
    private_ray,
    protect_token,
    requires_token,
    temporary_folder,
    token_headers,
)

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
        "ray._common.utils:get_default_system_temp_dir",
        "ray._private.ray_constants:ENABLE_RAY_CLUSTER",
        "ray._private.services:canonicalize_bootstrap_address_or_die",
        "ray._private.state:state.get_draining_nodes",
        "ray._private.worker:print_to_stdstream",
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


def test_the_private_ray_is_told_to_listen_on_loopback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    before = ray_constants.ENABLE_RAY_CLUSTER
    with private_ray():
        assert services.get_node_ip_address() == "127.0.0.1", moved("ENABLE_RAY_CLUSTER, which gives the address")
    assert ray_constants.ENABLE_RAY_CLUSTER is before
    setup = importlib.import_module("ray._private.authentication.authentication_token_setup")
    assert setup._get_default_token_path() == tmp_path / ".ray" / "auth_token", moved("token in ~/.ray/auth_token")


def test_a_token_is_for_its_owner_alone_and_is_kept(tmp_path: Path) -> None:
    path = tmp_path / ".ray" / "auth_token"
    protect_token(path)
    made = path.read_text()
    assert len(made) == 64
    path.chmod(0o644)  # as Ray makes it
    protect_token(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text() == made
    assert [each.name for each in path.parent.iterdir()] == ["auth_token"]
    protect_token(tmp_path / ".ray" / "auth_token" / "no folder" / "auth_token")  # a home that cannot be written


def test_a_private_ray_has_a_folder_in_which_sockets_have_paths_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    session = "/ray/session_2026-11-30_11-05-19_081361_4194304/sockets/plasma_store"  # with the largest process id
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    for length in (10, LONGEST_TMPDIR, LONGEST_TMPDIR + 1, 90):
        monkeypatch.setenv("TMPDIR", folder := f"/{'t' * (length - 1)}")
        assert temporary_folder() == (folder if length <= LONGEST_TMPDIR else "/tmp")
        assert len(temporary_folder() + session) <= 107
    monkeypatch.setenv("RAY_TMPDIR", "/chosen")
    assert temporary_folder() == "/chosen"


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
