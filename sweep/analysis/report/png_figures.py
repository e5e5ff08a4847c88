"""Three of the report's figures as PNG files (matplotlib, without a browser or pyplot's global state)."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from ...config.search_space import Choices
from .contents import ReportContents
from .plotly_figures import FIRST, ROLES, TOTAL, spans_decades

STYLE: Any = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
DPI = 120


def png_figures(contents: ReportContents, folder: Path) -> Iterator[Path]:
    """Draws the figures that MLflow previews and the README shows; yields their files."""
    indexed = len(contents.analysis.parameters)
    for name, shown, draw, inches in (
        ("indices", contents.analysis.trusted, indices, (7, 1 + 0.6 * indexed)),
        ("effects", contents.effects, effects, (9, 2.4 * math.ceil(indexed / 3))),
        ("learning-curves", contents.curves, learning_curves, (7, 4.5)),
    ):
        file = folder / f"{name}.png"
        file.unlink(missing_ok=True)  # an earlier report may have had the figure
        if shown:
            with mpl.rc_context(STYLE):
                figure = Figure(figsize=inches, layout="constrained")
                draw(figure, contents)
                figure.savefig(file, dpi=DPI)
            yield file


def indices(figure: Figure, contents: ReportContents) -> None:
    """Draws bars of the first-order and total index of each hyperparameter, or its Shapley effect, with intervals."""
    analysis = contents.analysis
    ordered = sorted(analysis.parameters.items(), key=lambda item: item[1].total)
    axes, places = figure.subplots(), np.arange(len(ordered))
    bars = [(0.2, "first order, alone", FIRST, [i.first for _, i in ordered], [i.first_ci for _, i in ordered])]
    bars += [(-0.2, "total, with interactions", TOTAL, [i.total for _, i in ordered], [i.total_ci for _, i in ordered])]
    for shift, label, colour, values, spans in [(0.0, "Shapley effect", *bars[0][2:])] if analysis.dependent else bars:
        reach = np.abs(np.array(spans).T - np.array(values))
        axes.barh(places + shift, values, 0.38, xerr=reach, color=colour, label=label, ecolor="#444", capsize=2)
    axes.set_yticks(places, [_text(name) for name, _ in ordered])
    axes.set_xlim(0, 1.02)
    axes.set_xlabel(_text(f"share of the variance of {analysis.objective}"))
    axes.legend(frameon=False, loc="lower right")


def effects(figure: Figure, contents: ReportContents) -> None:
    """Draws the expected objective over each hyperparameter, with its band."""
    count = len(contents.effects)
    grid = figure.subplots(math.ceil(count / 3), min(3, count), squeeze=False).flatten()
    for unused in grid[count:]:
        unused.remove()
    for axes, (name, effect) in zip(grid, contents.effects.items(), strict=False):
        dimension = contents.searched[name]
        if isinstance(dimension, Choices):
            reach = [effect.mean - effect.low, effect.high - effect.mean]
            axes.errorbar([_text(v) for v in effect.values], effect.mean, reach, fmt="o", color=FIRST, capsize=3)
        else:
            x = np.array(effect.values, float)
            axes.fill_between(x, effect.low, effect.high, color=TOTAL, alpha=0.6)
            axes.plot(x, effect.mean, color=FIRST, marker="." if len(x) < 12 else "")
            axes.set_xscale("log" if dimension.log else "linear")
        axes.set_ylim(contents.y_limits)
        axes.set_xlabel(_text(name))
        axes.set_ylabel(_text(contents.analysis.objective))


def learning_curves(figure: Figure, contents: ReportContents) -> None:
    """Draws the objective's metric over the epochs."""
    axes = figure.subplots()
    for curve in contents.curves:
        colour, dash = ROLES[curve.role]
        values = curve.values(contents.metric)
        axes.plot([*values], [*values.values()], "--" if dash == "dash" else "-", color=colour, label=curve.label)
    axes.set_yscale("log" if spans_decades(contents) else "linear")
    axes.set_xlabel("epoch")
    axes.set_ylabel(_text(contents.metric))
    axes.legend(frameon=False)


def _text(value: object) -> str:
    """Escapes dollar signs, between which matplotlib reads mathematics."""
    return str(value).replace("$", r"\$")
