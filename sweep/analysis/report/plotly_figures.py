"""The report's interactive figures (plotly); parallel coordinates and slices are Optuna's own.

To add a figure: write its function here, add a row to `FIGURES`, and write its caption in ``report.html``.
"""

import html
import json
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from ...config.search_space import Choices, Range
from ...study.visualization import parallel_coordinate, shared_names, slice_plots
from ..expected_best import budgets
from .contents import ReportContents
from .curves import Role

FIRST, TOTAL = "#1f5f99", "#a9c8e6"
ROLES: dict[Role, tuple[str, str]] = {  # dash, and colour of Okabe and Ito's palette for colour-blind readers
    "best": ("#0072B2", "solid"),
    "finalist": ("#0072B2", "dash"),
    "median": ("#777777", "solid"),
    "control": ("#D55E00", "dash"),
    "tuned": ("#009E73", "dash"),
}
LINES = 200  # maximum in parallel coordinates; more lines are a blur, and slow
LAYERS = 40  # maximum in the figure of entropies, the first layers
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


def indices(contents: ReportContents) -> go.Figure:
    """Draws bars of the first-order and total index of each hyperparameter, or its Shapley effect, with intervals."""
    analysis = contents.analysis
    ordered = sorted(analysis.parameters.items(), key=lambda item: item[1].total)
    names = [name for name, _ in ordered]
    figure = go.Figure()
    bars = [("total, with interactions", TOTAL, [i.total for _, i in ordered], [i.total_ci for _, i in ordered])]
    bars += [("first order, alone", FIRST, [i.first for _, i in ordered], [i.first_ci for _, i in ordered])]
    for label, colour, values, spans in [("Shapley effect", *bars[1][1:])] if analysis.dependent else bars:
        low, high = np.array(spans).T
        span = {"type": "data", "symmetric": False, "color": "#444", "array": high - values, "arrayminus": values - low}
        figure.add_bar(x=values, y=names, orientation="h", name=label, marker_color=colour, error_x=span)
    figure.update_layout(barmode="group", height=90 + 55 * len(names), legend_traceorder="reversed")
    figure.update_xaxes(title_text=f"share of the variance of {analysis.objective}", range=[0, 1.02])
    return figure.update_yaxes(type="category")


def effect(contents: ReportContents, name: str) -> go.Figure:
    """Draws the expected objective over a hyperparameter, with its band."""
    figure, found, dimension = go.Figure(), contents.effects[name], contents.searched[name]
    mean, low, high = found.mean, found.low, found.high
    if isinstance(dimension, Choices):
        reach = {"type": "data", "symmetric": False, "array": high - mean, "arrayminus": mean - low}
        x = [str(value) for value in found.values]
        figure.add_scatter(x=x, y=mean, mode="markers", error_y=reach, marker={"color": FIRST, "size": 9})
    else:
        band = go.Scatter(x=[*found.values, *found.values[::-1]], y=np.concatenate([low, high[::-1]]), fill="toself")
        figure.add_trace(band.update(mode="lines", fillcolor=TOTAL, opacity=0.6, line_width=0, hoverinfo="skip"))
        mode = "lines+markers" if len(found.values) < 12 else "lines"
        figure.add_scatter(x=found.values, y=mean, mode=mode, line_color=FIRST)
    _scale(figure.update_xaxes, dimension)
    figure.update_xaxes(title_text=name)
    figure.update_yaxes(title_text=contents.analysis.objective, range=contents.y_limits)
    return figure.update_layout(showlegend=False, height=260)


def surface(contents: ReportContents) -> go.Figure:
    """Draws the expected objective over two hyperparameters; completed trials are dots, the best one a star."""
    assert contents.surface is not None
    a, b, found = contents.surface
    dimensions = {name: contents.searched[name] for name in (a, b)}
    numbers = not any(isinstance(dimension, Choices) for dimension in dimensions.values())
    x, y = found.a if numbers else [*map(str, found.a)], found.b if numbers else [*map(str, found.b)]
    trace = go.Contour(contours_coloring="heatmap", line_width=0.5) if numbers else go.Heatmap()
    bar = {"orientation": "h", "y": -0.2, "yanchor": "top", "thickness": 12}  # below: a phone has no room beside
    bar["title"] = {"text": contents.analysis.objective, "side": "bottom"}
    figure = go.Figure(trace.update(x=x, y=y, z=found.mean.T, colorscale="Viridis", colorbar=bar))
    for rows, name, marker in (
        (contents.best[1:], "trials", {"size": 6, "color": "white", "line": {"color": "black", "width": 1}}),
        (contents.best[:1], "the best", {"size": 14, "symbol": "star", "color": "#E69F00", "line": {"width": 1}}),
    ):
        x, y = ([row.hyperparameters[each] for row in rows] for each in (a, b))
        dots = go.Scatter(x=x, y=y, mode="markers", name=name, marker=marker)
        text = [f"trial {row.number}: {row.value:.4g}" for row in rows]
        figure.add_trace(dots.update(text=text, hovertemplate="%{text}<br>%{x}, %{y}<extra></extra>"))
    _scale(figure.update_xaxes, dimensions[a])
    _scale(figure.update_yaxes, dimensions[b])
    return figure.update_layout(height=470, xaxis_title_text=a, yaxis_title_text=b)


def _scale(update: Any, dimension: Range | Choices) -> None:
    if isinstance(dimension, Choices):
        update(type="category")
    elif dimension.log:
        update(type="log", exponentformat="power", dtick=1)
        update(range=[float(np.log10(float(edge))) for edge in (dimension.low, dimension.high)])
    elif dimension.is_int:
        values = range(int(dimension.low), int(dimension.high) + 1, int(dimension.step or 1))
        update(tickvals=list(values[:: math.ceil(len(values) / 12)]))  # at most a dozen


def learning_curves(contents: ReportContents) -> go.Figure:
    """Draws the objective's metric over the epochs."""
    figure = go.Figure()
    for curve in contents.curves:
        colour, dash = ROLES[curve.role]
        _add_line(figure, curve.values(contents.metric), colour, dash, name=curve.label)
    figure.update_yaxes(title_text=contents.metric)
    if spans_decades(contents):
        figure.update_yaxes(type="log", dtick="D2", tickformat="~g")
    return figure.update_layout(height=400)


def _add_line(figure: go.Figure, values: Mapping[int, float], colour: str, dash: str, **options: Any) -> None:
    """Draws values by epoch; ticks are at whole numbers."""
    figure.add_scatter(x=[*values], y=[*values.values()], mode="lines", line={"color": colour, "dash": dash}, **options)
    last = max((epoch for line in figure.data for epoch in line.x), default=0)
    figure.update_xaxes(title_text="epoch", dtick=1 if last < 12 else None)


def spans_decades(contents: ReportContents) -> bool:
    """Returns True if the learning curves need a logarithmic scale."""
    values = [value for curve in contents.curves for value in curve.values(contents.metric).values()]
    return min(values) > 0 and max(values) > 10 * min(values)


def entropies(contents: ReportContents) -> go.Figure:
    """Draws the entropy of each layer over the epochs; lines of a guided network are solid, of its control dashed."""
    assert contents.networks is not None
    guided, control = contents.networks
    figure, shown = go.Figure(), guided.layers[:LAYERS]
    places = [0.92 * i / max(1, len(shown) - 1) for i in range(len(shown))]  # the end of the scale is too light
    for layer, colour in zip(shown, sample_colorscale("Viridis", places), strict=True):
        for curve, dash in ((guided, "solid"), (control, "dash")):
            values = curve.values(f"entropy/{layer}") if curve else {}
            _add_line(figure, values, colour, dash, name=layer, legendgroup=layer, showlegend=curve is guided)
    figure.update_yaxes(title_text="entropy change, nats per dimension")
    return figure.update_layout(height=400 + 8 * len(shown))


def parallel(contents: ReportContents) -> go.Figure:
    """Draws parallel coordinates of completed trials; of more than ``LINES``, those at evenly spaced ranks."""
    ranks = np.linspace(0, len(contents.best) - 1, min(len(contents.best), LINES))
    rows = [contents.best[round(rank)] for rank in ranks]
    figure = parallel_coordinate(contents.summary.config, rows, contents.metric, _shared(contents))
    figure.update_layout(height=430, margin_l=48)
    axes = [None, *(contents.searched[name] for name in _shared(contents))]
    whole = [isinstance(axis, Range) and axis.is_int and not axis.log for axis in axes]
    texts = figure.layout.annotations
    figure.layout.annotations = [a for a in texts if not whole[a.x] or float(a.text).is_integer()]
    for trace in figure.data:
        if trace.mode == "lines":
            trace.line.color = _darker(trace.line.color)
        else:
            trace.marker.colorscale = [[place, _darker(colour)] for place, colour in trace.marker.colorscale]
    return figure


def _shared(contents: ReportContents) -> list[str]:
    return shared_names(contents.summary.config, contents.best)


def _darker(colour: str) -> str:
    """Darkens ``rgb(r,g,b)``: Optuna's scale begins with white, which is invisible on the page."""
    channels = [float(channel) for channel in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    return "rgb({:.0f},{:.0f},{:.0f})".format(*(c * part for c, part in zip(channels, (0.66, 0.8, 0.92), strict=True)))


def slices(contents: ReportContents) -> dict[str, go.Figure]:
    """Draws the objective of completed trials over each hyperparameter; darker dots are later trials."""
    found = slice_plots(contents.summary.config, contents.best, contents.metric)
    for name, figure in found.items():
        _scale(figure.update_xaxes, contents.searched[name])
        figure.update_layout(height=260).update_traces(marker_showscale=False, cliponaxis=False)
    return found


def expected_best(contents: ReportContents) -> go.Figure:
    """Draws the best of n design trials that each search is expected to find, with the middle 90 %."""
    figure = go.Figure()
    for (arm, found), (colour, _) in zip(contents.expected_best.items(), (ROLES["best"], ROLES["tuned"]), strict=False):
        n = [*range(1, len(found.mean) + 1)]
        band = go.Scatter(x=[*n, *n[::-1]], y=[*found.low, *found.high[::-1]], fill="toself", mode="none")
        figure.add_trace(band.update(fillcolor=colour, opacity=0.2, hoverinfo="skip", showlegend=False))
        line = go.Scatter(x=n, y=found.mean, mode="lines", name=f"{arm}, {found.trials} trials")
        figure.add_trace(line.update(line={"color": colour, "width": 2}))
    most = max((len(found.mean) for found in contents.expected_best.values()), default=0)
    figure.update_xaxes(title_text="trials", type="log", tickvals=budgets(most), tickformat="d")
    return figure.update_layout(height=330, yaxis_title_text=contents.metric)


class ReportFigure(NamedTuple):
    """A row of `FIGURES`: one figure, or one for each hyperparameter, called ``NAME of HYPERPARAMETER`` in the page."""

    name: str
    section: Literal["indices", "effects", "curves", "trials", "entropy"]  # part of the page that shows the figure
    draw: Callable[[ReportContents], go.Figure | dict[str, go.Figure]]
    shown: Callable[[ReportContents], bool]  # True if there is anything to draw


FIGURES = (
    ReportFigure("indices", "indices", indices, lambda c: c.analysis.trusted),
    ReportFigure("effect", "effects", lambda c: {n: effect(c, n) for n in c.effects}, lambda c: bool(c.effects)),
    ReportFigure("surface", "effects", surface, lambda c: c.surface is not None),
    ReportFigure("learning curves", "curves", learning_curves, lambda c: bool(c.curves)),
    ReportFigure("parallel", "trials", parallel, lambda c: bool(c.best) and len(_shared(c)) > 1),
    ReportFigure("slice", "trials", slices, lambda c: bool(c.best) and bool(c.searched)),
    ReportFigure("expected best", "trials", expected_best, lambda c: bool(c.expected_best)),
    ReportFigure("entropies", "entropy", entropies, lambda c: c.networks is not None),
)


def plotly_figures(contents: ReportContents) -> list[tuple[ReportFigure, dict[str, go.Figure]]]:
    """Draws the rows of `FIGURES` that have something to show; returns them with their plots by name in the page."""
    drawn = []
    for figure in FIGURES:
        if figure.shown(contents):
            plots = figure.draw(contents)
            each = {f"{figure.name} of {name}": plots[name] for name in plots} if isinstance(plots, dict) else {}
            drawn.append((figure, each or {figure.name: plots}))
    return drawn


def styled(figures: Mapping[str, go.Figure]) -> dict[str, go.Figure]:
    """Returns the figures as they look in the report, for a notebook."""
    return {name: figure.update_layout(template=SHARED_LAYOUT, title=None) for name, figure in figures.items()}


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
