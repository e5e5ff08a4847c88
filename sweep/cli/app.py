"""The command line: assembles the commands, and turns a caller's mistake into one message and exit code 2."""

import sys
import traceback
from collections.abc import Callable
from typing import Annotated, NoReturn

import typer

from ..config.errors import SweepError, printable, reason
from ..config.secrets import redact
from .analyse import confirm, report, sensitivity
from .cluster import cluster, jobs, logs, stop, submit
from .files import export, gc, import_, init
from .inspect import best, doctor, profile, schema, status, ui
from .options import with_shared_options
from .run import enqueue, resume, retry, run, simulate, train
from .server import services

app = typer.Typer(
    name="sweep",
    help="Hyperparameter sweeps for entropy-guided networks: Optuna decides, Ray executes, MLflow remembers.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
COMMANDS: list[Callable[..., None]] = [init, run, resume, status, best, sensitivity, report, confirm, enqueue, retry]
COMMANDS += [train, profile, ui, gc, submit, jobs, logs, stop, export, schema, doctor, simulate]
for command in COMMANDS:
    app.command()(with_shared_options(command))
app.command("import")(with_shared_options(import_))
for group in (cluster, services):
    for each in group.registered_commands:
        each.callback = each.callback and with_shared_options(each.callback)
    app.add_typer(group)


def _print_version(asked: bool) -> None:
    if asked:
        from .. import __version__

        print(f"sweep {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> NoReturn:
    """Runs the command line; a caller's mistake or an unreachable service ends it with one message and code 2."""
    try:
        app(prog_name="sweep")
    except BrokenPipeError:
        sys.exit(0)
    except (SweepError, OSError) as error:
        said = error if isinstance(error, SweepError) else redact(reason(error))
        print(printable(f"error: {said}"), file=sys.stderr)
        sys.exit(2)
    except Exception as error:  # noqa: BLE001 (its traceback may hold a secret: Python would print it as it is)
        from ..study.storages.storage import UNREACHABLE

        if not isinstance(error, UNREACHABLE):
            print(printable(redact(traceback.format_exc())), end="", file=sys.stderr)
            sys.exit(1)
        print(printable(f"error: storage: unreachable, nothing is lost: {redact(reason(error))}"), file=sys.stderr)
        sys.exit(2)
    sys.exit(0)
