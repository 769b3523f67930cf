"""Free-energy surfaces: of two torsions, the Ramachandran map, and of any two observables."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, MultipleLocator
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from bgdiff.analysis.style import LABELS, WIDTH, styled
from bgdiff.analysis.text import percent

__all__ = [
    "AngleSample",
    "PlaneSample",
    "Region",
    "observable_free_energy",
    "plane_free_energy",
    "ramachandran_free_energy",
    "torsion_free_energy",
]

Array = NDArray[np.float64]

_COLOURMAP = "viridis"


class AngleSample(NamedTuple):
    """Two torsions of n conformations, in radian, with their weights (None: all equal)."""

    x: Array
    y: Array
    weight: Array | None = None


class PlaneSample(NamedTuple):
    """Two real observables of n conformations with their weights (None: all equal)."""

    x: Array
    y: Array
    weight: Array | None = None


class Surface(NamedTuple):
    """Free energy by cell, in kT ``(cells of x, cells of y)``, nan where nothing was seen; and the edges."""

    x: Array
    y: Array
    energy: Array


class Region(NamedTuple):
    """A basin: intervals [lo, hi) of the observable on one axis, torsions in degrees, and its populations.

    These are by panel.
    """

    name: str
    axis: str
    """``x`` or ``y``; anything else is listed but not drawn."""
    intervals: Sequence[tuple[float, float]]
    populations: Mapping[str, float]


def torsion_free_energy(sample: AngleSample, bins: int = 72, smoothing: float = 0.8) -> tuple[Array, Array]:
    """Free energy -ln p of a pair of torsions on a periodic grid, lowest value 0.

    Args:
        sample: the torsions and weights; weights of zero and undefined angles are left out.
        bins: per axis; 72 are 5° wide.
        smoothing: width of the periodic Gaussian kernel, in bins.

    Returns:
        ``(edges, free_energy)``: bin edges in degrees (bins + 1,), and kT (bins, bins) indexed [x, y]; nan
        where the sample has nothing to say.
    """
    x, y = (np.degrees(np.asarray(angle, dtype=np.float64)) for angle in sample[:2])
    weight = np.ones(x.size) if sample.weight is None else np.asarray(sample.weight, dtype=np.float64)
    used = np.isfinite(x) & np.isfinite(y) & (weight > 0)
    edges = np.linspace(-180.0, 180.0, bins + 1)
    x, y = ((angle[used] + 180.0) % 360.0 - 180.0 for angle in (x, y))
    mass = np.histogram2d(x, y, bins=[edges, edges], weights=weight[used])[0]
    number = np.histogram2d(x, y, bins=[edges, edges])[0]
    mass = gaussian_filter(mass, smoothing, mode="wrap", truncate=3.0)
    # An empty bin is filled only where its neighbours surround it
    filled = (number > 0) | (gaussian_filter(number, smoothing, mode="wrap", truncate=3.0) > 0.5)
    energy = np.full_like(mass, np.nan)
    energy[filled] = -np.log(mass[filled])
    return edges, energy - np.nanmin(energy) if filled.any() else energy


@styled
def ramachandran_free_energy(
    samples: Mapping[str, AngleSample],
    regions: Sequence[Region] = (),
    *,
    labels: tuple[str, str] = ("φ", "ψ"),
    bins: int = 72,
    limit: float | None = None,
    marks: Mapping[str, tuple[float, float]] | None = None,
) -> Figure:
    """Draw free-energy surfaces side by side, on one colour scale.

    Args:
        samples: by panel, usually ``data``, ``proposal`` and ``reweighted``; each surface is -ln p with its
            own lowest bin at 0.
        regions: basins; their boundaries are drawn and their populations written above the panel.
        labels: names of the two torsions.
        bins: per axis.
        limit: largest free energy of the colour scale in kT; default the largest that occurs, up to 10.
        marks: points to mark on every panel, by what is written beside them, degrees.
    """
    surfaces = {
        name: Surface(edges, edges, energy)
        for name, (edges, energy) in (
            (name, torsion_free_energy(sample, bins)) for name, sample in samples.items()
        )
    }

    def finish(ax: Axes, surface: Surface, highest: float) -> None:
        _torsion_contours(ax, surface, highest)
        for region in regions:
            _boundaries(ax, region.axis, {(end + 180) % 360 - 180 for end in _ends(region)} - {-180.0})
        _mark(ax, marks or {})
        _torsion_axes(ax, labels)

    figure, axes = _panels(surfaces, regions, limit, finish)
    axes[0].set_ylabel(f"{labels[1]} / degree")
    return figure


@styled
def observable_free_energy(
    samples: Mapping[str, PlaneSample],
    edges: tuple[Array, Array],
    regions: Sequence[Region] = (),
    *,
    labels: tuple[str, str],
    limit: float | None = None,
) -> Figure:
    """Draw free-energy surfaces of two real observables side by side, on one colour scale.

    Args:
        samples: by panel; each surface is -ln p with its own lowest cell at 0.
        edges: of the cells along x and y, ascending and of equal width; centred at whole numbers for an
            observable that counts.
        regions: basins; their boundaries are drawn and their populations written above the panel.
        labels: of the two axes, with their units.
        limit: largest free energy of the colour scale in kT; default the largest that occurs, up to 10.
    """
    surfaces = {name: Surface(*edges, plane_free_energy(sample, edges)) for name, sample in samples.items()}

    def finish(ax: Axes, surface: Surface, highest: float) -> None:
        _contour_lines(ax, _centres(surface.x), _centres(surface.y), surface.energy, highest)
        for region in regions:
            _boundaries(ax, region.axis, set(_ends(region)))
        ax.set(xlim=edges[0][[0, -1]], ylim=edges[1][[0, -1]], xlabel=labels[0], box_aspect=1)
        ax.xaxis.set_major_locator(MaxNLocator(5))
        for side in ("top", "right"):
            ax.spines[side].set_visible(True)

    figure, axes = _panels(surfaces, regions, limit, finish)
    axes[0].set_ylabel(labels[1])
    return figure


def plane_free_energy(sample: PlaneSample, edges: tuple[Array, Array], smoothing: float = 0.8) -> Array:
    """Free energy -ln p of a pair of real observables by cell, lowest value 0, nan where nothing was seen.

    Args:
        sample: values and weights; weights of zero and values that are not finite are left out.
        edges: of the cells along x and y.
        smoothing: width of the Gaussian kernel, in cells; 0 along an observable with fewer than 20 cells.

    Returns:
        kT ``(cells of x, cells of y)``.
    """
    x, y = (np.asarray(values, dtype=np.float64) for values in sample[:2])
    weight = np.ones(x.size) if sample.weight is None else np.asarray(sample.weight, dtype=np.float64)
    used = np.isfinite(x) & np.isfinite(y) & (weight > 0)
    cells = list(edges)
    mass = np.histogram2d(x[used], y[used], bins=cells, weights=weight[used])[0]
    number = np.histogram2d(x[used], y[used], bins=cells)[0]
    widths = tuple(smoothing if edge.size > 20 else 0.0 for edge in edges)
    mass = gaussian_filter(mass, widths, mode="constant", truncate=3.0)
    filled = (number > 0) | (gaussian_filter(number, widths, mode="constant", truncate=3.0) > 0.5)
    energy = np.full_like(mass, np.nan)
    energy[filled] = -np.log(mass[filled])
    return energy - np.nanmin(energy) if filled.any() else energy


def _panels(
    surfaces: Mapping[str, Surface],
    regions: Sequence[Region],
    limit: float | None,
    finish: Callable[[Axes, Surface, float], None],
) -> tuple[Figure, list[Axes]]:
    """Surfaces side by side with one colour bar; ``finish(axes, surface, limit)`` adds lines and ticks."""
    if limit is None:
        highest = [np.nanmax(one.energy) for one in surfaces.values() if np.isfinite(one.energy).any()]
        limit = float(np.clip(math.ceil(max(highest, default=1.0)), 1, 10))
    panels = len(surfaces)
    figure = Figure(
        figsize=(WIDTH, 0.8 * WIDTH / max(panels, 2) + 0.85),
        layout=ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0.06, compress=True),
    )
    axes = list(figure.subplots(1, panels, sharex=True, sharey=True, squeeze=False)[0])
    mesh = None
    for ax, (name, surface) in zip(axes, surfaces.items(), strict=True):
        mesh = ax.pcolormesh(
            surface.x, surface.y, np.ma.masked_invalid(surface.energy.T), cmap=_COLOURMAP,
            vmin=0.0, vmax=limit, shading="flat", rasterized=True,
        )  # fmt: skip
        finish(ax, surface, limit)
        _heading(ax, LABELS.get(name, name), _populations(regions, name))
    if mesh is not None:
        extend = "max" if any((one.energy > limit).any() for one in surfaces.values()) else "neither"
        bar = figure.colorbar(mesh, ax=axes, extend=extend, aspect=18, pad=0.02)
        bar.set_label(r"free energy / $k_\mathrm{B}T$")
        bar.locator = MultipleLocator(2 if limit > 5 else 1)
    return figure, axes


def _torsion_axes(ax: Axes, labels: tuple[str, str]) -> None:
    ax.set(xlim=(-180, 180), ylim=(-180, 180), aspect="equal", xlabel=f"{labels[0]} / degree")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MultipleLocator(90))
        axis.set_minor_locator(MultipleLocator(30))
    for side in ("top", "right"):
        ax.spines[side].set_visible(True)


def _mark(ax: Axes, marks: Mapping[str, tuple[float, float]]) -> None:
    """Crosses with names, inwards of the panel."""
    halo = [patheffects.withStroke(linewidth=2.2, foreground="black")]
    for name, (x, y) in marks.items():
        ax.plot(x, y, "P", color="white", markersize=5, markeredgecolor="black", markeredgewidth=0.7)
        right, top = x < 60, y < 120
        ax.annotate(
            name, (x, y), xytext=(5 if right else -5, 4 if top else -4), textcoords="offset points",
            color="white", fontweight="bold", ha="left" if right else "right",
            va="bottom" if top else "top", path_effects=halo,
        )  # fmt: skip


def _torsion_contours(ax: Axes, surface: Surface, limit: float) -> None:
    """Drawn on one period more than is shown so that they cross its border."""
    centres, margin = _centres(surface.x), 4
    wide = np.concatenate([centres[-margin:] - 360, centres, centres[:margin] + 360])
    _contour_lines(ax, wide, wide, np.pad(surface.energy, margin, mode="wrap"), limit)


def _contour_lines(ax: Axes, x: Array, y: Array, energy: Array, limit: float) -> None:
    """Thin lines every 2 kT, every 1 kT if there is little to show."""
    levels = np.arange(1.0, limit, 2.0 if limit > 5 else 1.0)
    if levels.size == 0 or not np.isfinite(energy).any() or min(x.size, y.size) < 20:
        return
    ax.contour(
        x, y, np.ma.masked_invalid(energy.T), levels=levels, colors="white", linewidths=0.45, alpha=0.75
    )


def _centres(edges: Array) -> Array:
    return np.asarray((edges[:-1] + edges[1:]) / 2)


def _ends(region: Region) -> list[float]:
    return [round(end, 6) for interval in region.intervals for end in interval if math.isfinite(end)]


def _boundaries(ax: Axes, axis: str, bounds: set[float]) -> None:
    draw = {"x": ax.axvline, "y": ax.axhline}.get(axis)
    if draw is None:
        return
    for bound in bounds:
        draw(
            bound,
            color="black",
            linewidth=0.8,
            linestyle=(0, (4, 3)),
            path_effects=[patheffects.withStroke(linewidth=1.8, foreground="white", alpha=0.7)],
        )


def _populations(regions: Sequence[Region], panel: str) -> list[str]:
    return [
        f"{region.name.replace('_', ' ')}  {percent(region.populations[panel])}"
        for region in regions
        if panel in region.populations
    ]


def _heading(ax: Axes, title: str, populations: Sequence[str]) -> None:
    """Panel name in bold; below it the populations, each on a line if they are long."""
    joined = "   ".join(populations)
    text = joined if len(joined) <= 32 else "\n".join(populations)
    ax.set_title(text, fontsize=7.0, loc="left", pad=4)
    lines = text.count("\n") + 1 if text else 0
    ax.annotate(
        title,
        (0, 1),
        xycoords="axes fraction",
        xytext=(0, 4 + 8.6 * lines),
        textcoords="offset points",
        fontweight="bold",
        va="bottom",
    )
