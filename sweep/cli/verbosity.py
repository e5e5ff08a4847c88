"""The options that commands get from here: --verbose and --quiet, and those that set their settings."""

import functools
import inspect
import logging
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from ..config.errors import ConfigError
from . import output
from .options import SETTINGS, make_settings

Verbose = Annotated[bool, typer.Option("--verbose", help="Show the debug log on stderr.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show errors and the final result alone.")]

PACKAGES = ("sweep", "cluster", "losses", "models")  # whose loggers --verbose shows


class _StderrHandler(logging.Handler):
    """Writes to the present sys.stderr: a live view replaces it, so that lines appear above the view."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr)
        except OSError:  # a reader that has gone, such as `head`
            self.handleError(record)


HANDLER = _StderrHandler()
HANDLER.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))


def set_verbosity(*, verbose: bool, quiet: bool) -> None:
    """Sets what a command shows beside its result: the debug log, or nothing."""
    output.quiet = quiet
    for name in PACKAGES:
        logger = logging.getLogger(name)
        logger.setLevel(logging.DEBUG if verbose else logging.NOTSET)
        logger.propagate = not verbose
        (logger.addHandler if verbose else logger.removeHandler)(HANDLER)


def with_shared_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds --verbose and --quiet to a command; replaces its parameter ``settings`` by the options that set them."""
    parameters = dict(inspect.signature(command, eval_str=True).parameters)
    names = parameters.pop("settings").annotation.__metadata__ if "settings" in parameters else ()
    added = [("verbose", Verbose, False), ("quiet", Quiet, False)]
    for name, option, default in [*((name, SETTINGS[name], None) for name in names), *added]:
        parameters[name] = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=option)

    @functools.wraps(command)
    def run(*, verbose: bool, quiet: bool, **options: Any) -> None:
        if verbose and quiet:
            raise ConfigError("options", ["--verbose and --quiet contradict each other: give one of them"])
        set_verbosity(verbose=verbose, quiet=quiet)
        if names:
            options["settings"] = make_settings(**{name: options.pop(name) for name in names})
        command(**options)

    # Typer reads both.
    setattr(run, "__signature__", inspect.Signature(list(parameters.values())))  # noqa: B010
    run.__annotations__ = {name: parameter.annotation for name, parameter in parameters.items()}
    return run
