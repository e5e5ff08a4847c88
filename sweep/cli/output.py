"""Output of commands: data on stdout, and everything else on stderr if data was asked for; the debug log."""

import json
import logging
import sys
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from ..analysis.formats import finite_json
from ..config.errors import printable
from ..config.secrets import redact

if TYPE_CHECKING:
    from ..analysis.summary import Summary
    from ..analysis.weight_profile import WeightProfile

PACKAGES = ("sweep", "cluster", "losses", "models")  # whose loggers --verbose shows
is_quiet = False  # the command was given --quiet: `make_notes` then prints nothing


class PlainConsole(Console):
    """A console on which a text is a text: neither markup nor an emoji's name nor an order to the terminal."""

    def __init__(self, file: TextIO, width: int | None):
        super().__init__(file=file, width=width, highlight=False, markup=False, emoji=False)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yields segments, control characters of their texts spelled out."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else printable(text), style, control)


class _StderrHandler(logging.Handler):
    """Writes to the present sys.stderr: a live view replaces it, so that lines appear above the view."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(printable(redact(self.format(record))), file=sys.stderr)
        except OSError:  # a reader that has gone, such as `head`
            self.handleError(record)


HANDLER = _StderrHandler()
HANDLER.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))


def set_verbosity(*, verbose: bool, quiet: bool) -> None:
    """Sets what a command shows beside its result: the debug log, or nothing."""
    global is_quiet
    is_quiet = quiet
    for name in PACKAGES:
        logger = logging.getLogger(name)
        logger.setLevel(logging.DEBUG if verbose else logging.ERROR if quiet else logging.NOTSET)
        logger.propagate = not verbose
        (logger.addHandler if verbose else logger.removeHandler)(HANDLER)


def make_console(*, to_stderr: bool = False) -> Console:
    """Returns the console for results: stdout, or stderr if stdout is for data."""
    stream = sys.stderr if to_stderr else sys.stdout
    return PlainConsole(stream, None if stream.isatty() else 120)


def make_notes(*, to_stderr: bool = False) -> Console:
    """Returns the console for progress, notes and warnings, beside the result; with --quiet it prints nothing."""
    console = make_console(to_stderr=to_stderr)
    console.quiet = is_quiet
    return console


def print_json(value: Any) -> None:
    """Prints data as JSON; numbers that are not finite are null."""
    print(json.dumps(finite_json(value), indent=2, default=str, allow_nan=False))


def summary_json(summary: "Summary") -> dict[str, Any]:
    """Returns a study as data."""
    from ..analysis.health import health

    return {
        "study": summary.config.name,
        "objective": summary.config.objective.model_dump(),
        "interrupted": summary.interrupted,
        "seconds": summary.seconds,
        "trials": [asdict(row) for row in summary.rows],
        "best": [r.number for r in summary.best],
        "controls": [asdict(row) for row in summary.controls],
        "finalists": [
            {"trial": f.number, "guided": f.guided.values, "plain": f.plain.values, "tuned": f.tuned.values}
            for f in summary.comparison.finalists
        ],
        "health": [found._asdict() for found in health(summary)],
    }


def profile_json(profile: "WeightProfile") -> dict[str, Any]:
    """Returns a network as data: its layers, five numbers of a box plot of taps (log|c11|), and logged entropies."""
    layers = [
        {
            "name": layer.name,
            "kind": layer.kind,
            "shape": layer.shape,
            "entropy": layer.entropy,
            **({"singular_values": layer.values.tolist()} if layer.kind == "dense" else {"taps": layer.box.tolist()}),
            "outliers": len(layer.outliers),
        }
        for layer in profile.layers
    ]
    return {"title": profile.title, "layers": layers, "epochs": profile.epochs}
