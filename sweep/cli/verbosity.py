"""The options --verbose and --quiet, which every command has."""

from __future__ import annotations

import functools
import inspect
import logging
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

Verbose = Annotated[bool, typer.Option("--verbose", help="Show the debug log on stderr.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show errors and the final result alone.")]

PACKAGES = ("sweep", "cluster", "losses", "models")  # whose loggers --verbose shows
FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


class _StderrHandler(logging.Handler):
    """Writes to the present sys.stderr: a live view replaces it, so that lines appear above the view."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr)
        except OSError:  # a reader that has gone, such as `head`
            self.handleError(record)


def set_verbosity(*, verbose: bool, quiet: bool) -> None:
    """Sets what a command shows beside its result: the debug log, or nothing."""
    from . import output

    output.quiet = quiet
    for name in PACKAGES:
        logger = logging.getLogger(name)
        for handler in [each for each in logger.handlers if isinstance(each, _StderrHandler)]:
            logger.removeHandler(handler)
        logger.setLevel(logging.DEBUG if verbose else logging.NOTSET)
        logger.propagate = not verbose
        if verbose:
            handler = _StderrHandler()
            handler.setFormatter(logging.Formatter(FORMAT))
            logger.addHandler(handler)


def with_verbosity(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options --verbose and --quiet to a command."""

    @functools.wraps(command)
    def run(*, verbose: bool, quiet: bool, **options: Any) -> None:
        from ..config.errors import ConfigError

        if verbose and quiet:
            raise ConfigError("options", ["--verbose and --quiet contradict each other: give one of them"])
        set_verbosity(verbose=verbose, quiet=quiet)
        command(**options)

    own = {
        name: inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)
        for name, annotation in (("verbose", Verbose), ("quiet", Quiet))
    }
    signature = inspect.signature(command, eval_str=True)
    # Typer reads both.
    setattr(run, "__signature__", signature.replace(parameters=[*signature.parameters.values(), *own.values()]))  # noqa: B010
    run.__annotations__ = {**command.__annotations__, "verbose": Verbose, "quiet": Quiet}
    return run
