"""Free-energy surfaces: of two torsions, the Ramachandran map, and of any two observables."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, MultipleLocator
from numpy.typing import NDArray

from bgdiff.analysis.style import LABELS, WIDTH, styled
from bgdiff.analysis.surface_estimates import (
    PairSample,
    Surface,
    plane_surface,
    torsion_surface,
)
from bgdiff.analysis.text import percent

__all__ = [
    "UNSURE",
    "PairSample",
    "Region",
    "observable_free_energy",
    "ramachandran_free_energy",
]

Array = NDArray[np.float64]

UNSURE = 0.5
"""Standard error in kT from which on a free energy is not shown: fewer than four samples are behind it."""

_LINE = 32  # letters above a panel
_COLOURMAP, _ERRORS, _GREY = "viridis", "plasma", "#B9BDC2"


class Region(NamedTuple):
    """A basin: intervals [lo, hi) of the observable on one axis, torsions in degrees, and its populations.

    These are by panel.
    """

    name: str
    axis: str
    """``x`` or ``y``; anything else is listed but not drawn."""
    intervals: Sequence[tuple[float, float]]
    populations: Mapping[str, float]


@styled
def ramachandran_free_energy(
    samples: Mapping[str, PairSample],
    regions: Sequence[Region] = (),
    *,
    labels: tuple[str, str] = ("φ", "ψ"),
    bins: int = 72,
    limit: float | None = None,
    marks: Mapping[str, tuple[float, float]] | None = None,
    error_of: str | None = None,
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
        error_of: the panel whose standard error is drawn beside it; it is grey where that is above 0.5 kT.
    """
    surfaces = {name: torsion_surface(sample, bins) for name, sample in samples.items()}

    def finish(ax: Axes, surface: Surface, highest: float) -> None:
        _torsion_contours(ax, surface, highest)
        for region in regions:
            _boundaries(ax, region.axis, {(end + 180) % 360 - 180 for end in _ends(region)} - {-180.0})
        _mark(ax, marks or {})
        _torsion_axes(ax, labels)

    return _panels(surfaces, regions, limit, finish, f"{labels[1]} / degree", error_of)


@styled
def observable_free_energy(
    samples: Mapping[str, PairSample],
    edges: tuple[Array, Array],
    regions: Sequence[Region] = (),
    *,
    labels: tuple[str, str],
    limit: float | None = None,
    error_of: str | None = None,
) -> Figure:
    """Draw free-energy surfaces of two real observables side by side, on one colour scale.

    Args:
        samples: by panel; each surface is -ln p with its own lowest cell at 0.
        edges: of the cells along x and y, ascending and of equal width; centred at whole numbers for an
            observable that counts.
        regions: basins; their boundaries are drawn and their populations written above the panel.
        labels: of the two axes, with their units.
        limit: largest free energy of the colour scale in kT; default the largest that occurs, up to 10.
        error_of: the panel whose standard error is drawn beside it; it is grey where that is above 0.5 kT.
    """
    surfaces = {name: plane_surface(sample, edges) for name, sample in samples.items()}

    def finish(ax: Axes, surface: Surface, highest: float) -> None:
        _contour_lines(ax, _centres(surface.x), _centres(surface.y), surface.energy, highest)
        for region in regions:
            _boundaries(ax, region.axis, set(_ends(region)))
        ax.set(xlim=edges[0][[0, -1]], ylim=edges[1][[0, -1]], xlabel=labels[0], box_aspect=1)
        for axis, part in ((ax.xaxis, surface.x), (ax.yaxis, surface.y)):
            counts = bool(np.allclose(part % 1, 0.5))
            axis.set_major_locator(MaxNLocator(5, integer=counts))
        for side in ("top", "right"):
            ax.spines[side].set_visible(True)

    return _panels(surfaces, regions, limit, finish, labels[1], error_of)


def _panels(
    surfaces: Mapping[str, Surface],
    regions: Sequence[Region],
    limit: float | None,
    finish: Callable[[Axes, Surface, float], None],
    vertical: str,
    error_of: str | None,
) -> Figure:
    """Surfaces side by side with one colour bar; ``finish(axes, surface, limit)`` adds lines and ticks.

    With an error map there are two columns if that makes a square, so that no panel becomes too small.
    """
    if error_of is not None:
        surfaces = {
            name: _masked(surface) if name == error_of else surface for name, surface in surfaces.items()
        }
    if limit is None:
        highest = [np.nanmax(one.energy) for one in surfaces.values() if np.isfinite(one.energy).any()]
        limit = float(np.clip(math.ceil(max(highest, default=1.0)), 1, 10))
    panels = len(surfaces) + (error_of is not None)
    columns = 2 if error_of is not None and panels == 4 else panels
    rows = -(-panels // columns)
    width = WIDTH if rows == 1 else 0.78 * WIDTH
    figure = Figure(
        figsize=(width, rows * (0.8 * width / max(columns, 2) + 0.85 / rows**0.5)),
        layout=ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0.06, compress=True),
    )
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    axes = list(grid.ravel())
    mesh: QuadMesh | None = None
    for ax, (name, surface) in zip(axes, surfaces.items(), strict=False):
        mesh = _mesh(ax, surface, surface.energy, _COLOURMAP, limit)
        finish(ax, surface, limit)
        _heading(ax, LABELS.get(name, name), _populations(regions, name))
    if mesh is not None:
        extend = "max" if any((one.energy > limit).any() for one in surfaces.values()) else "neither"
        beside = axes[: len(surfaces)] if rows == 1 else list(grid[0])
        bar = figure.colorbar(mesh, ax=beside, extend=extend, aspect=18, pad=0.02)
        bar.set_label(r"free energy / $k_\mathrm{B}T$")
        bar.locator = MultipleLocator(2 if limit > 5 else 1)
    if error_of is not None:
        ax, surface = axes[len(surfaces)], surfaces[error_of]
        mesh = _mesh(ax, surface, surface.std_error, _ERRORS, UNSURE)
        finish(ax, surface, 0.0)
        _heading(ax, f"error of {LABELS.get(error_of, error_of)}", [])
        bar = figure.colorbar(mesh, ax=ax, aspect=18, pad=0.02)
        bar.set_label(r"standard error / $k_\mathrm{B}T$")
        bar.locator = MultipleLocator(UNSURE / 5)
    for ax in grid[:-1].ravel():
        ax.set_xlabel("")
    for ax in grid[:, 0]:
        ax.set_ylabel(vertical)
    return figure


def _masked(surface: Surface) -> Surface:
    """Without the energies that are not known well enough."""
    return surface._replace(energy=np.where(surface.std_error > UNSURE, np.nan, surface.energy))


def _mesh(ax: Axes, surface: Surface, values: Array, colours: str, limit: float) -> QuadMesh:
    """Cells by colour; white where nothing was seen, grey where the energy is not known well enough."""
    unknown = np.isnan(surface.energy)
    unsure = unknown & np.isfinite(surface.std_error)
    if unsure.any():
        grey = ListedColormap([_GREY])
        ax.pcolormesh(surface.x, surface.y, np.ma.array(unsure.T, mask=~unsure.T), cmap=grey, rasterized=True)
    return ax.pcolormesh(
        surface.x, surface.y, np.ma.array(values.T, mask=unknown.T), cmap=colours, vmin=0.0, vmax=limit,
        shading="flat", rasterized=True,
    )  # fmt: skip


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
    """Panel name in bold; below it the populations, as many on a line as fit."""
    filled: list[str] = []
    for one in populations:
        if filled and len(filled[-1]) + 3 + len(one) <= _LINE:
            filled[-1] += f"   {one}"
        else:
            filled.append(one)
    text = "\n".join(filled)
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
