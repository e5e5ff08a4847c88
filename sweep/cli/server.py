"""The command that serves MLflow with a password."""

import contextlib
import sys
from typing import Annotated

import typer

from ..config.errors import ConfigError
from .options import AsJson, StudySettings
from .output import make_console, print_json

services = typer.Typer(
    name="services", help="An MLflow server with a password, and PostgreSQL, on this machine.", no_args_is_help=True
)


@services.callback()
def group() -> None:
    """Keeps `up` a command of its own group."""


@services.command()
def up(
    settings: StudySettings,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is all of this machine's.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="MLflow's port.")] = 5000,
    name: Annotated[list[str] | None, typer.Option(help="Another host name that clients may use.")] = None,
    backend: Annotated[
        str, typer.Option(envvar="MLFLOW_BACKEND_STORE_URI", help="MLflow's database; a file in the workspace.")
    ] = "",
    password: Annotated[
        str,
        typer.Option(envvar="MLFLOW_AUTH_ADMIN_PASSWORD", help="Password of the user admin; the last one, or random."),
    ] = "",
    postgres: Annotated[bool, typer.Option("--postgres", help="Run PostgreSQL too, by docker compose.")] = False,
    as_json: AsJson = False,
) -> None:
    """Serve MLflow with a password until Ctrl-C, on this machine's loopback address unless asked otherwise.

    The server keeps the artifacts too, so that clients need no access to them. To keep it running, use docker
    compose, systemd or tmux. Example: `sweep services up`
    """
    from ..service import password_server

    if postgres and backend:
        raise ConfigError("options", ["--postgres brings a database for MLflow; --backend names one: give one of them"])
    console = make_console(to_stderr=as_json)
    with (
        contextlib.suppress(KeyboardInterrupt),
        password_server(
            settings, host=host, port=port, names=name or [], backend=backend, password=password, postgres=postgres
        ) as server,
    ):
        if as_json:
            print_json({"url": server.url, "log": str(server.log), "variables": str(server.variables)})
            sys.stdout.flush()  # the command goes on
        console.print(f"MLflow is at {server.url}, its log is {server.log}. Ctrl-C ends it.", soft_wrap=True)
        console.print(f"Studies go there after:  set -a; . {server.variables}; set +a", soft_wrap=True)
        console.print(f"The password of the user admin is in {server.variables}.", soft_wrap=True)
        code = server.process.wait()
        raise typer.Exit(code if code >= 0 else 128 - code)
