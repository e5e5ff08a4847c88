"""Commands print texts as they are, whatever markup, emoji or orders to a terminal they look like."""

from __future__ import annotations

import io
import logging

import pytest
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sweep.cli.output import PlainConsole, set_verbosity

HOSTILE = "[/red]x [bold]y[/] :smile: \x1b]0;TITLE\x1b[31mred \x9b1m \u202edlo"
SHOWN = r"[/red]x [bold]y[/] :smile: \x1b]0;TITLE\x1b[31mred \x9b1m \u202edlo"


@pytest.mark.parametrize("shown", [str, Text, Text.assemble, lambda text: Text(text, style="bold")])
def test_a_text_is_a_text(shown: object) -> None:
    stream = io.StringIO()
    PlainConsole(stream, 200).print(shown(HOSTILE))  # type: ignore[operator]
    assert stream.getvalue() == f"{SHOWN}\n"


def test_a_text_is_a_text_in_a_table_and_in_a_live_view() -> None:
    stream, table = io.StringIO(), Table.grid()
    table.add_row(Text(HOSTILE))
    with Live(table, console=PlainConsole(stream, 200)):
        pass
    assert SHOWN[:45] in stream.getvalue()
    assert "\x1b]0" not in stream.getvalue()


def test_a_text_is_a_text_in_the_debug_log(capsys: pytest.CaptureFixture[str]) -> None:
    set_verbosity(verbose=True, quiet=False)
    try:
        logging.getLogger("sweep.test").debug("%s", HOSTILE)
    finally:
        set_verbosity(verbose=False, quiet=False)
    assert SHOWN in capsys.readouterr().err
