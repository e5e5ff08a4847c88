"""Jupyter's kernel, which runs a notebook; and a stand-in, which keeps as HTML what a cell of it would show."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any


class Kernel:
    """Has what `IPython` gives to the program in a kernel: ``get_ipython`` and ``display``."""

    def __init__(self, on_display: Callable[[str], object] = lambda _: None):
        self.shown: list[str] = []  # a display that is updated keeps its place
        self._on_display = on_display

    def modules(self) -> dict[str, ModuleType]:
        """The modules to put into ``sys.modules``."""
        ipython, display = ModuleType("IPython"), ModuleType("IPython.display")
        ipython.version_info = (9, 0, 0)  # type: ignore[attr-defined]
        ipython.get_ipython = lambda: SimpleNamespace(kernel=self)  # type: ignore[attr-defined]
        display.display = self.display  # type: ignore[attr-defined]
        display.display_html = lambda html, **_: self.shown.append(html)  # type: ignore[attr-defined]
        return {"IPython": ipython, "IPython.display": display}

    def display(self, shown: Any, **_: object) -> SimpleNamespace:
        place = len(self.shown)
        self.shown.append("")

        def update(again: Any) -> None:
            as_html = getattr(again, "_repr_html_", None)
            self.shown[place] = as_html() if as_html else repr(again)
            self._on_display(self.shown[place])

        update(shown)
        return SimpleNamespace(update=update)


def executed(notebook: Path, folder: Path) -> list[str]:
    """Runs a notebook in a folder, by Jupyter's own kernel; returns what each cell of code shows."""
    import nbformat
    from nbclient import NotebookClient

    read = nbformat.read(notebook, as_version=4)  # type: ignore[no-untyped-call]
    place = {"metadata": {"path": str(folder)}}
    NotebookClient(read, timeout=1200, kernel_name="python3", resources=place).execute()
    return ["".join(map(_shown, cell.outputs)) for cell in read.cells if cell.cell_type == "code"]


def _shown(output: Any) -> str:
    """Returns an output's HTML, or text, or else the names of its types: a figure of plotly's is data."""
    data = output.get("data", {"text/plain": output.get("text", "")})
    return str(data.get("text/html", data.get("text/plain", " ".join(data))))
