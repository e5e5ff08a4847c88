"""Draws the figures of ``losses/RESULTS.md``: test curves of all studies with pairs, and dose-responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .dose import Dose
    from .dose_tables import Response

COLOURS = {  # Okabe and Ito's palette for colour-blind readers
    "guided": "#0072B2",
    "plain": "#D55E00",
    "strongest": "#009E73",
    "placebo": "#CC79A7",
}
DPI = 120


def draw(made: Mapping[str, Mapping[str, Any]], file: Path) -> None:
    """Draws one panel for each study with pairs."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = {name: evidence for name, evidence in made.items() if evidence["curves"]}
    if not drawn:
        return
    columns = min(4, len(drawn))
    rows = -(-len(drawn) // columns)
    figure = Figure(figsize=(3.2 * columns, 2.6 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for panel, (name, evidence) in zip(panels, drawn.items(), strict=False):
        _curves(panel, name, evidence)
    for panel in list(panels)[len(drawn) :]:
        panel.set_visible(False)
    lines = {str(line.get_label()): line for panel in figure.axes for line in panel.get_lines()}
    figure.legend(handles=[*lines.values()], loc="outside upper center", ncols=len(lines), frameon=False)
    figure.savefig(file, dpi=DPI)


def _curves(axes: Axes, name: str, evidence: Mapping[str, Any]) -> None:
    """Draws the mean over seeds of each arm by epoch, and the range of the seeds."""
    shown: Sequence[str] = [arm for arm in COLOURS if arm in evidence["curves"]]
    for arm in shown:
        curves = [curve for curve in evidence["curves"][arm].values() if None not in curve]
        if not curves:
            continue
        whole = np.array([curve for curve in curves if len(curve) == max(map(len, curves))])
        epochs = np.arange(1, whole.shape[1] + 1)
        axes.plot(epochs, whole.mean(axis=0), color=COLOURS[arm], label=arm, linewidth=1.4)
        axes.fill_between(epochs, whole.min(axis=0), whole.max(axis=0), color=COLOURS[arm], alpha=0.15, linewidth=0)
    if evidence["confirm"]["direction"] == "minimize":
        axes.set_yscale("log")
    axes.set_title(name, fontsize=9)
    axes.set_xlabel("epoch", fontsize=8)
    axes.set_ylabel(evidence["confirm"]["metric"], fontsize=8)
    axes.tick_params(labelsize=7)
    axes.tick_params(which="minor", labelsize=6)
    axes.spines[["top", "right"]].set_visible(False)


def draw_doses(found: Mapping[str, Sequence[Response]], doses: Mapping[str, Dose], file: Path) -> None:
    """Draws one panel for each dose-response: gains in percent of the control's loss, by lambda1.

    Points are pairs, bars means with 95 % intervals; the band is that of equivalence.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from .dose_tables import MARGIN

    if not found:
        return
    figure = Figure(figsize=(4 * len(found), 3), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (name, responses) in zip(figure.subplots(1, len(found), squeeze=False).flat, found.items(), strict=True):
        axes.axhspan(-100 * MARGIN, 100 * MARGIN, color="0.9")
        axes.axhline(0, color="0.5", linewidth=0.8)
        for each in responses:
            final, scale = each.pair.final, 100 / each.pair.final_means[1]
            axes.plot(
                [each.lambda1] * len(final.values), np.array(final.values) * scale, ".", color="0.6", markersize=3
            )
            reach = [[(final.value - (final.low or 0)) * scale], [((final.high or 0) - final.value) * scale]]
            axes.errorbar([each.lambda1], [final.value * scale], reach, color=COLOURS["guided"], marker="o", capsize=3)
        axes.set_xscale("log")
        axes.set_title(doses[name].label, fontsize=9)
        axes.set_xlabel("lambda1", fontsize=8)
        axes.set_ylabel("gain over lambda1 0, % of its loss", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=DPI)
