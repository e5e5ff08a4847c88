"""Commands for the services that studies live on: up, down, status."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from .options import AsJson, Storage, Workspace, make_settings
from .output import make_console, print_json

if TYPE_CHECKING:
    from ..tracking.server import Service


services = typer.Typer(
    name="services", help="An MLflow server with passwords, and PostgreSQL, on this machine.", no_args_is_help=True
)


@services.command()
def up(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is all of this machine's.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="MLflow's port.")] = 5000,
    name: Annotated[list[str] | None, typer.Option(help="Another name that it may be called by.")] = None,
    backend: Annotated[
        str, typer.Option(envvar="MLFLOW_BACKEND_STORE_URI", help="MLflow's database; a file in the workspace.")
    ] = "",
    postgres: Annotated[bool, typer.Option("--postgres", help="Start PostgreSQL too, by docker compose.")] = False,
    workspace: Workspace = None,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Start an MLflow server with a password, on this machine's loopback address unless asked otherwise.

    It keeps the artifacts too, so that nobody else needs access to them. Example: `sweep services up`
    """
    from ..config.errors import ConfigError
    from ..tracking import server as running

    if postgres and backend:
        raise ConfigError("options", ["--postgres brings a database for MLflow; --backend names one: give one of them"])
    settings, console = make_settings(workspace=workspace, storage=storage), make_console(to_stderr=as_json)
    found = running.up(settings, host=host, port=port, names=name or [], backend=backend, postgres=postgres)
    _show(found, as_json=as_json)
    file = running.environment_file(settings)
    console.print(f"Studies go there after:  set -a; . {file}; set +a", soft_wrap=True)
    console.print(f"The password of the user admin is in {file}.", soft_wrap=True)


@services.command()
def down(workspace: Workspace = None, as_json: AsJson = False) -> None:
    """End what `services up` has started, and nothing else; what it holds stays.

    Example: `sweep services down`
    """
    from ..tracking import server as running

    ended = running.down(make_settings(workspace=workspace))
    if as_json:
        print_json([dataclasses.asdict(service) for service in ended])
        return
    for service in ended:
        what = "had ended by itself" if service.state == "ended" else "ended"
        make_console().print(f"{service.name}: {what} ({service.url})", soft_wrap=True)
    if not ended:
        make_console().print("Nothing was started here.")


@services.command()
def status(workspace: Workspace = None, as_json: AsJson = False) -> None:
    """Show what `services up` has started and whether it answers. Exit code 1 if something does not.

    Example: `sweep services status`
    """
    from ..tracking import server as running

    found = running.status(make_settings(workspace=workspace))
    _show(found, as_json=as_json)
    if any(service.state != "running" for service in found):
        raise typer.Exit(1)


def _show(found: list[Service], *, as_json: bool) -> None:
    if as_json:
        print_json([dataclasses.asdict(service) for service in found])
        return
    for service in found:
        where = f"process {service.pid}" if service.pid else "in a container"
        line = f"{service.name:9s} {service.state}  {service.url}  {where}, log: {service.log}"
        make_console().print(line, soft_wrap=True, markup=False)
    if not found:
        make_console().print("Nothing was started here. Start it with: sweep services up")
