"""A table that becomes a list on a narrow terminal, so that no digit is ever cut."""

from collections.abc import Iterator, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

GAP = 2  # cells between two pairs on a line


class StackingTable:
    """Rows under column names; where these do not fit, each row is a list of names and values.

    The first column identifies a row; the first ``left`` columns are aligned to the left.
    """

    def __init__(self, columns: Sequence[str], *, title: str = "", left: int = 0):
        self.columns, self.title, self.left = list(columns), title, left
        self.rows: list[tuple[str, ...]] = []

    def add_row(self, *cells: str) -> None:
        """Adds a row with a cell for each column."""
        self.rows.append(cells)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.title:
            yield Text(self.title, style="italic")
        widths = self._widths(options.max_width)
        if widths is None:
            yield from self._stacked(options.max_width)
            return
        table = Table(box=box.SIMPLE_HEAD)
        for number, (name, width) in enumerate(zip(self.columns, widths, strict=True)):
            table.add_column(Text(name), justify="left" if number < self.left else "right", width=width)
        for row in self.rows:
            table.add_row(*map(Text, row))
        yield table

    def _widths(self, most: int) -> list[int] | None:
        """Returns the columns' widths, headers wrapped between words if need be; None if cells or words do not fit."""
        cells = [max((cell_len(row[i]) for row in self.rows), default=0) for i in range(len(self.columns))]
        words = [max(map(cell_len, name.split()), default=0) for name in self.columns]
        widths = [max(pair) for pair in zip(cells, words, strict=True)]
        free = most - sum(widths) - 3 * len(widths) - 1  # padding, dividers and edges
        if free < 0:
            return None
        for number, name in enumerate(self.columns):
            more = min(free, max(0, cell_len(name) - widths[number]))
            widths[number] += more
            free -= more
        return widths

    def _stacked(self, most: int) -> Iterator[Text]:
        """Yields each row as lines of "name value", as many to a line as fit; breaks only between pairs."""
        for row in self.rows:
            yield Text("  " + " ".join(filter(None, (self.columns[0], row[0]))), style="bold")
            lines: list[str] = []
            for name, value in zip(self.columns[1:], row[1:], strict=True):
                pair = f"{name} {value}"
                if lines and cell_len(lines[-1]) + GAP + cell_len(pair) <= most:
                    lines[-1] += " " * GAP + pair
                else:
                    lines.append(f"    {pair}")
            yield from map(Text, lines)
