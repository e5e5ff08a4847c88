"""The command line: assembles the commands, and turns a caller's mistake into one message and exit code 2."""

import sys
from collections.abc import Callable
from typing import NoReturn

import typer

from ..config.errors import SweepError, reason
from .analyse import confirm, report, sensitivity
from .cluster import cluster, jobs, logs, stop, submit
from .files import export, gc, import_
from .inspect import best, doctor, profile, schema, status, ui
from .options import with_shared_options
from .run import enqueue, resume, run, simulate, train
from .server import services

app = typer.Typer(
    name="sweep",
    help="Hyperparameter sweeps for entropy-guided networks: Optuna decides, Ray executes, MLflow remembers.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
COMMANDS: list[Callable[..., None]] = [run, resume, status, best, sensitivity, report, confirm, enqueue, train]
COMMANDS += [profile, ui, gc, submit, jobs, logs, stop, export, schema, doctor, simulate]
for command in COMMANDS:
    app.command()(with_shared_options(command))
app.command("import")(with_shared_options(import_))
for group in (cluster, services):
    for each in group.registered_commands:
        each.callback = each.callback and with_shared_options(each.callback)
    app.add_typer(group)


def main() -> NoReturn:
    """Runs the command line; a caller's mistake or an unreachable service ends it with one message and code 2."""
    try:
        app(prog_name="sweep")
    except BrokenPipeError:
        sys.exit(0)
    except (SweepError, OSError) as error:
        print(f"error: {error if isinstance(error, SweepError) else reason(error)}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        from ..study.storages.storage import UNREACHABLE

        if not isinstance(error, UNREACHABLE):
            raise
        print(f"error: storage: out of reach, nothing is lost: {reason(error)}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0)
