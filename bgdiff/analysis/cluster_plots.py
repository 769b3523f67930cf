"""Figures of particle clusters: how the distances of all pairs are distributed."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bgdiff.analysis.cluster_record import Distribution
from bgdiff.analysis.style import COLOURS, LABELS, WIDTH, styled
from bgdiff.analysis.text import percent

__all__ = ["pair_distances"]

Array = NDArray[np.float64]

_REFERENCE = "data"


@styled
def pair_distances(
    distributions: Mapping[str, Distribution], *, unit: str = "", independent: float = 1.0
) -> Figure:
    """Draw distributions of the pair distance over each other, and below how they differ from the data.

    Args:
        distributions: by name, usually ``data``, ``proposal`` and ``reweighted`` or ``chains``, on the same
            bins. Bands are two standard errors wide to either side.
        unit: of the distance; empty for reduced units.
        independent: share of the last sample's draws that are independent, by which its squared errors are
            divided.
    """
    main = list(distributions)[-1]
    shown = {
        name: replace(one, std_error=one.std_error / np.sqrt(independent)) if name == main else one
        for name, one in distributions.items()
    }
    compared = _REFERENCE in shown and len(shown) > 1
    figure = Figure(figsize=(0.72 * WIDTH, 3.5 if compared else 2.7), layout="constrained")
    axes = figure.subplots(
        1 + compared, 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": [3, 1.25][: 1 + compared]}
    )[:, 0]
    top = axes[0]
    for name, one in shown.items():
        _line(top, one.edges, one.density, one.std_error, name, strong=name == main)
    tallest = max(float(np.nanmax(one.density, initial=0.0)) for one in shown.values())
    top.set_ylim(0, 1.22 * tallest or 1.0)  # with room for the legend
    top.set_ylabel("probability density" + (f" × {unit}" if unit else ""))
    top.legend(loc="upper right", borderaxespad=0.2, ncols=len(shown))
    top.axhline(0, color=COLOURS["muted"], linewidth=0.5, zorder=0)
    outside = [
        f"{LABELS.get(name, name)} {percent(one.outside)}"
        for name, one in shown.items()
        if one.outside > 5e-4
    ]
    if outside:
        top.annotate(
            "beyond the axis: " + ", ".join(outside), (0.01, 0.97), xycoords="axes fraction", va="top",
            fontsize=6.5, color=COLOURS["muted"],
        )  # fmt: skip
    if compared:
        _differences(axes[1], shown, main)
    edges = shown[main].edges
    axes[-1].set_xlim(edges[0], edges[-1])
    axes[-1].set_xlabel(f"distance of a pair / {unit}" if unit else "distance of a pair (reduced units)")
    return figure


def _differences(ax: Axes, shown: Mapping[str, Distribution], main: str) -> None:
    reference = shown[_REFERENCE]
    ax.axhline(0, color=COLOURS[_REFERENCE], linewidth=0.9)
    band = 2 * reference.std_error
    _band(ax, reference.edges, -band, band, COLOURS[_REFERENCE])
    reach = [float(np.nanmax(band, initial=0.0))]
    for name, one in shown.items():
        if name == _REFERENCE:
            continue
        difference = one.density - reference.density
        _line(ax, one.edges, difference, one.std_error, name, strong=name == main)
        size = np.abs(difference) + 2 * one.std_error
        reach.append(float(np.nanmax(size, initial=0.0)))
    largest = max(reach)
    ax.set_ylim(-1.1 * largest or -1.0, 1.1 * largest or 1.0)
    ax.set_ylabel("minus data")


def _line(ax: Axes, edges: Array, density: Array, error: Array, name: str, *, strong: bool) -> None:
    colour = COLOURS.get(name, COLOURS["muted"])
    ax.stairs(
        density, edges, baseline=None, color=colour, linewidth=1.4 if strong else 1.0,
        label=LABELS.get(name, name), zorder=4 if strong else 3,
    )  # fmt: skip
    _band(ax, edges, density - 2 * error, density + 2 * error, colour)


def _band(ax: Axes, edges: Array, low: Array, high: Array, colour: str) -> None:
    ax.fill_between(
        np.repeat(edges, 2)[1:-1], np.repeat(low, 2), np.repeat(high, 2),
        color=colour, alpha=0.22, linewidth=0, zorder=1,
    )  # fmt: skip
