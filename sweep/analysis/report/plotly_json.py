"""Embeds plotly figures in an HTML page: their JSON, with the user's texts escaped, and the layout they share."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import plotly.graph_objects as go

UNESCAPED = ("hovertemplate", "bdata")  # keys whose values plotly or this package writes, not the user
SHARED_LAYOUT: dict[str, Any] = {
    "layout": {
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": "#222"},
        "colorway": ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"],
        "xaxis": {"gridcolor": "#e6e6e6", "zerolinecolor": "#bbb", "automargin": True, "ticks": "outside"},
        "yaxis": {"gridcolor": "#e6e6e6", "zerolinecolor": "#bbb", "automargin": True, "ticks": "outside"},
        "margin": {"l": 8, "r": 20, "t": 12, "b": 8},
        "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0},
        "plot_bgcolor": "white",
        "hoverlabel": {"namelength": -1},
    }
}


def as_json(figures: Mapping[str, go.Figure]) -> str:
    """Returns the figures as JSON for the script of a page: name -> data and layout.

    Plotly renders some HTML in texts, so texts are escaped: what the user wrote is shown literally. The result has no
    ``<``, which could end the script element.
    """
    plain = {name: json.loads(figure.to_json(remove_uids=True)) for name, figure in figures.items()}
    for figure in plain.values():
        figure["layout"].pop("template", None)
        figure["layout"].pop("title", None)
    text = json.dumps({name: _escaped(figure) for name, figure in plain.items()}, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _escaped(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: v if k in UNESCAPED else _escaped(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_escaped(each) for each in value]
    if isinstance(value, str):
        return html.escape(value, quote=False)
    return float(f"{value:.6g}") if isinstance(value, float) else value  # more digits are invisible
