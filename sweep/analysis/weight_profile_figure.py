"""Draws weight profiles with matplotlib, one column for each network (`sweep profile`)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..config.errors import SweepError
from .weight_profile import LayerProfile, WeightProfile

SHOWN = 40  # layers drawn in one figure, the first ones


def draw_profile(profiles: Sequence[WeightProfile], file: Path) -> None:
    """Draws a column for each profile: entropies, corner taps, singular values; raises SweepError for other endings."""
    columns, layers = len(profiles), [layer for p in profiles for layer in p.layers[:SHOWN]]
    # In inches. The margins are set by hand because matplotlib's own layout draws all texts a second time.
    left, width, gap = 1 + 0.055 * max(len(layer.name) for layer in layers), 5.0, 0.8
    row = max(2.4, 0.145 * max(len(p.layers[:SHOWN]) for p in profiles))
    total, height = columns * (left + width) + 0.1, 3 * row + 2 * gap + 1
    figure = Figure(figsize=(total, height))
    figure.subplots_adjust(left / total, 0.6 / height, 1 - 0.1 / total, 1 - 0.4 / height, left / width, gap / row)
    grid = figure.subplots(3, columns, squeeze=False)
    entropies = np.array([h for p in profiles for values in _epochs(p).values() for h in values.values()])
    limit = float(np.max(np.abs(entropies[np.isfinite(entropies)]), initial=1e-9))
    for column, profile in zip(grid.T, profiles, strict=True):
        if column[0] is not grid[0, 0]:  # side by side on the same scales
            column[1].sharex(grid[1, 0])
            column[2].sharey(grid[2, 0])
        _draw_epochs(column[0], profile, limit)
        for axes, kind, name, draw in (
            (column[1], "conv", "convolutions", _draw_taps),
            (column[2], "dense", "dense layers", _draw_singular_values),
        ):
            if shown := [layer for layer in profile.layers if layer.kind == kind][:SHOWN]:
                draw(axes, shown)
            else:
                axes.text(0.5, 0.5, f"no {name}", ha="center", va="center", transform=axes.transAxes)
        column[0].set_title(profile.title)
    try:
        figure.savefig(file, dpi=110)
    except ValueError as error:
        raise SweepError(f"--out {file}: {error}") from None


def _epochs(profile: WeightProfile) -> dict[int, dict[str, float]]:
    """Returns entropy by epoch and layer; a network without a history counts as epoch 0."""
    return profile.epochs or {0: {layer.name: layer.entropy for layer in profile.layers}}


def _draw_epochs(axes: Axes, profile: WeightProfile, limit: float) -> None:
    """Draws a heat map of entropy changes, layer x epoch, on a colour scale from -limit to limit."""
    epochs, names = _epochs(profile), [layer.name for layer in profile.layers[:SHOWN]]
    cells = np.array([[values.get(name, np.nan) for values in epochs.values()] for name in names])
    image = axes.imshow(cells, aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set_xticks(sorted({0, len(epochs) - 1}), [str(e) for e in sorted({min(epochs), max(epochs)})])
    axes.set_xlabel("epoch" if profile.epochs else "as made")
    axes.figure.colorbar(image, ax=axes).set_label("entropy change, nats per dimension", fontsize=7)


def _draw_taps(axes: Axes, layers: Sequence[LayerProfile]) -> None:
    """Draws a box plot for each layer, in four artists altogether; matplotlib's own has six for each."""
    rows, outliers = np.arange(len(layers)), [layer.outliers for layer in layers]
    least, low, median, high, greatest = np.array([layer.box for layer in layers]).T
    axes.hlines(rows, least, greatest, color="black", linewidth=1)
    axes.hlines(rows, low, high, color="tab:blue", linewidth=6)
    axes.plot(median, rows, "|", color="white", markersize=6)
    axes.plot(np.concatenate(outliers), np.repeat(rows, [len(o) for o in outliers]), "k.", markersize=3)
    axes.set_yticks(rows, [f"{x.name} ({len(o)})" for x, o in zip(layers, outliers, strict=True)], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("log|c11| of each filter; in brackets: outliers, drawn as dots")


def _draw_singular_values(axes: Axes, layers: Sequence[LayerProfile]) -> None:
    for layer in layers:
        positive = layer.values[layer.values > 0]
        axes.semilogy(np.linspace(0, 1, len(positive)), positive, label=layer.name, linewidth=1)
    axes.set_xlabel("rank / k")
    axes.set_ylabel("singular value")
    if len(layers) <= 12:
        axes.legend(fontsize=7)
