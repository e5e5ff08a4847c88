"""The report's figures as PNG files (matplotlib, without a browser and without pyplot's global state)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from ...config.search_space import Choices, Range
from .plotly_figures import FIRST, LAYERS, ROLES, TOTAL, evenly, spans_decades

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .contents import ReportContents

LOOK: Any = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
DPI = 120


def png_figures(findings: ReportContents, folder: Path) -> Iterator[Path]:
    """Draws all pictures that there are grounds for; yields their files."""
    indexed, searched = len(findings.analysis.parameters), len(findings.searched)
    trials = bool(findings.best and searched)
    wanted: list[tuple[str, object, Callable[[Figure, ReportContents], None], float, float]] = [
        ("indices", findings.analysis.trusted, indices, 7, 1 + 0.6 * indexed),
        ("effects", findings.effects, effects, 9, 2.4 * math.ceil(indexed / 3)),
        ("surface", findings.surface, surface, 6.5, 5),
        ("learning-curves", findings.curves, learning_curves, 7, 4.5),
        ("parallel", trials and searched > 1, parallel, 9, 4.5),
        ("slices", trials, slices, 9, 2.4 * math.ceil(searched / 3)),
        ("entropies", findings.networks, entropies, 7, 5),
    ]
    for name, grounds, drawn, width, height in wanted:  # inches
        (folder / f"{name}.png").unlink(missing_ok=True)  # of an earlier report that had them
        if grounds:
            with mpl.rc_context(LOOK):
                figure = Figure(figsize=(width, height), layout="constrained")
                drawn(figure, findings)
                figure.savefig(folder / f"{name}.png", dpi=DPI)
            yield folder / f"{name}.png"


def indices(figure: Figure, findings: ReportContents) -> None:
    """Bars of the first-order and total Sobol index of each hyperparameter, with their intervals."""
    analysis = findings.analysis
    ordered = sorted(analysis.parameters.items(), key=lambda item: item[1].total)
    axes, places = figure.subplots(), np.arange(len(ordered))
    for shift, label, colour, values, spans in (
        (0.2, "first order, alone", FIRST, [i.first for _, i in ordered], [i.first_ci for _, i in ordered]),
        (-0.2, "total, with interactions", TOTAL, [i.total for _, i in ordered], [i.total_ci for _, i in ordered]),
    ):
        reach = np.abs(np.array(spans).T - np.array(values))
        axes.barh(places + shift, values, 0.38, xerr=reach, color=colour, label=label, ecolor="#444", capsize=2)
    axes.set_yticks(places, [_text(name) for name, _ in ordered])
    axes.set_xlim(0, 1.02)
    axes.set_xlabel(_text(f"share of the variance of {analysis.objective}"))
    axes.legend(frameon=False, loc="lower right")


def effects(figure: Figure, findings: ReportContents) -> None:
    """The expected objective over each hyperparameter, with its band."""
    for axes, (name, effect) in zip(_grid(figure, len(findings.effects)), findings.effects.items(), strict=True):
        dimension = findings.searched[name]
        if isinstance(dimension, Choices):
            reach = [effect.mean - effect.low, effect.high - effect.mean]
            axes.errorbar([_text(v) for v in effect.values], effect.mean, reach, fmt="o", color=FIRST, capsize=3)
        else:
            x = np.array(effect.values, float)
            axes.fill_between(x, effect.low, effect.high, color=TOTAL, alpha=0.6)
            axes.plot(x, effect.mean, color=FIRST, marker="." if len(x) < 12 else "")
            _scale(axes.set_xscale, dimension)
        axes.set_ylim(findings.reach)
        axes.set_xlabel(_text(name))
        axes.set_ylabel(_text(findings.analysis.objective))


def surface(figure: Figure, findings: ReportContents) -> None:
    """The expected objective over two hyperparameters; completed trials are dots, the best one a star."""
    assert findings.surface is not None
    a, b, found = findings.surface
    axes, dimensions = figure.subplots(), [findings.searched[name] for name in (a, b)]
    x, y = (_places(values, dimension) for values, dimension in zip((found.a, found.b), dimensions, strict=True))
    smooth = not any(isinstance(dimension, Choices) for dimension in dimensions)
    mesh = axes.pcolormesh(x, y, found.mean.T, shading="gouraud" if smooth else "nearest")
    figure.colorbar(mesh, ax=axes, label=_text(findings.analysis.objective))
    dots = [
        _places([row.hyperparameters[name] for row in findings.best], dimension)
        for name, dimension in zip((a, b), dimensions, strict=True)
    ]
    axes.plot(dots[0][1:], dots[1][1:], "o", color="white", markeredgecolor="black", markersize=4)
    axes.plot(dots[0][:1], dots[1][:1], "*", color="#E69F00", markeredgecolor="black", markersize=13)
    for name, dimension, scale, label, ticks in (
        (a, dimensions[0], axes.set_xscale, axes.set_xlabel, axes.set_xticks),
        (b, dimensions[1], axes.set_yscale, axes.set_ylabel, axes.set_yticks),
    ):
        if isinstance(dimension, Choices):
            ticks(range(len(dimension.choices)), [_text(choice) for choice in dimension.choices])
        _scale(scale, dimension)
        label(_text(name))


def learning_curves(figure: Figure, findings: ReportContents) -> None:
    """The objective's metric over the epochs."""
    axes = figure.subplots()
    for curve in findings.curves:
        colour, dash = ROLES[curve.role]
        points = np.array(curve.values(findings.metric))
        axes.plot(*points.T, color=colour, linestyle="--" if dash == "dash" else "-", label=curve.label)
    axes.set_yscale("log" if spans_decades(findings) else "linear")
    axes.set_xlabel("epoch")
    axes.set_ylabel(_text(findings.metric))
    axes.legend(frameon=False)


def entropies(figure: Figure, findings: ReportContents) -> None:
    """Entropy of each layer over the epochs; a guided network's lines are solid, its control's dashed."""
    assert findings.networks is not None
    guided, control = findings.networks
    axes, shown = figure.subplots(), guided.layers[:LAYERS]
    colours = mpl.colormaps["viridis"](np.linspace(0, 0.92, max(2, len(shown))))
    for layer, colour in zip(shown, colours, strict=False):
        for curve, dash in ((guided, "-"), (control, "--")):
            points = np.array(curve.values(f"entropy/{layer}") if curve else []).reshape(-1, 2)
            axes.plot(*points.T, color=colour, linestyle=dash, label=_text(layer) if curve is guided else None)
    axes.set_xlabel("epoch")
    axes.set_ylabel("entropy change, nats per dimension")
    figure.legend(frameon=False, fontsize=7, loc="outside right upper")


def slices(figure: Figure, findings: ReportContents) -> None:
    """The objective over each hyperparameter, of completed trials; darker ones came later."""
    values, numbers = [row.value or 0.0 for row in findings.best], [row.number for row in findings.best]
    grid = _grid(figure, len(findings.searched))
    for axes, (name, dimension) in zip(grid, findings.searched.items(), strict=True):
        x = _places([row.hyperparameters[name] for row in findings.best], dimension)
        axes.scatter(x, values, c=numbers, cmap="Blues", s=14, edgecolors="grey", linewidths=0.4)
        if isinstance(dimension, Choices):
            axes.set_xticks(range(len(dimension.choices)), [_text(choice) for choice in dimension.choices])
        _scale(axes.set_xscale, dimension)
        axes.set_xlabel(_text(name))
        axes.set_ylabel(_text(findings.metric))


def parallel(figure: Figure, findings: ReportContents) -> None:
    """Parallel coordinates of completed trials, each on a scale of its own; darker lines are better."""
    chosen = evenly(findings.best)[::-1]  # the best on top
    columns = [[row.value or 0.0 for row in chosen]]
    for name, dimension in findings.searched.items():
        places = _places([row.hyperparameters[name] for row in chosen], dimension)
        columns.append([math.log(v) for v in places] if isinstance(dimension, Range) and dimension.log else places)
    heights = np.array(columns, float)
    low, high = heights.min(1, keepdims=True), heights.max(1, keepdims=True)
    lines = (heights - low) / np.where(high > low, high - low, 1.0)
    axes, names = figure.subplots(), [findings.metric, *findings.searched]
    for line, colour in zip(lines.T, mpl.colormaps["Blues"](np.linspace(0.15, 1.0, len(chosen))), strict=True):
        axes.plot(line, color=colour, linewidth=0.8)
    for place, name in enumerate(names):
        for end in {int(lines[place].argmin()), int(lines[place].argmax())}:
            value = chosen[end].hyperparameters[name] if place else chosen[end].value
            text = _text(f"{value:.3g}" if isinstance(value, float) else value)
            axes.annotate(text, (place, lines[place][end]), (2, 3), textcoords="offset points", fontsize=7)
    axes.set_xticks(range(len(names)), [_text(name) for name in names])
    axes.set_yticks([])


def _grid(figure: Figure, count: int) -> list[Axes]:
    """So many axes, in rows of three."""
    columns = min(3, count)
    grid: list[Axes] = figure.subplots(math.ceil(count / columns), columns, squeeze=False).flatten().tolist()
    for unused in grid[count:]:
        unused.remove()
    return grid[:count]


def _places(values: Sequence[Any], dimension: Range | Choices) -> list[float]:
    """Where values are on an axis: choices one after the other."""
    return [float(v if isinstance(dimension, Range) else dimension.choices.index(v)) for v in values]


def _scale(update: Callable[[str], None], dimension: Range | Choices) -> None:
    if isinstance(dimension, Range) and dimension.log:
        update("log")


def _text(value: object) -> str:
    """As it was written: matplotlib reads mathematics between dollar signs."""
    return str(value).replace("$", r"\$")
