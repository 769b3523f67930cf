"""Free-energy surfaces of two torsions: the Ramachandran map."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MultipleLocator
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from bgdiff.analysis.style import LABELS, WIDTH, styled
from bgdiff.analysis.text import percent

__all__ = ["AngleSample", "Region", "ramachandran_free_energy", "torsion_free_energy"]

Array = NDArray[np.float64]

_COLOURMAP = "viridis"


class AngleSample(NamedTuple):
    """Two torsions of n conformations, in radian, with their weights (None: all equal)."""

    x: Array
    y: Array
    weight: Array | None = None


class Region(NamedTuple):
    """A basin: intervals [lo, hi) in degrees of the torsion on one axis, with populations by panel."""

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
) -> Figure:
    """Draw free-energy surfaces side by side, on one colour scale.

    Args:
        samples: by panel, usually ``data``, ``proposal`` and ``reweighted``; each surface is -ln p with its
            own lowest bin at 0.
        regions: basins; their boundaries are drawn and their populations written above the panel.
        labels: names of the two torsions.
        bins: per axis.
        limit: largest free energy of the colour scale in kT; default the largest that occurs, up to 10.
    """
    surfaces = {name: torsion_free_energy(sample, bins) for name, sample in samples.items()}
    if limit is None:
        highest = [np.nanmax(energy) for _, energy in surfaces.values() if np.isfinite(energy).any()]
        limit = float(np.clip(math.ceil(max(highest, default=1.0)), 1, 10))
    panels = len(surfaces)
    figure = Figure(
        figsize=(WIDTH, 0.8 * WIDTH / max(panels, 2) + 0.85),
        layout=ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0.06, compress=True),
    )
    axes = figure.subplots(1, panels, sharex=True, sharey=True, squeeze=False)[0]
    mesh = None
    for ax, (name, (edges, energy)) in zip(axes, surfaces.items(), strict=True):
        mesh = ax.pcolormesh(
            edges,
            edges,
            np.ma.masked_invalid(energy.T),
            cmap=_COLOURMAP,
            vmin=0.0,
            vmax=limit,
            shading="flat",
            rasterized=True,
        )
        _contours(ax, edges, energy, limit)
        for region in regions:
            _boundaries(ax, region)
        _torsion_axes(ax, labels)
        _heading(ax, LABELS.get(name, name), _populations(regions, name))
    axes[0].set_ylabel(f"{labels[1]} / degree")
    if mesh is not None:
        extend = "max" if any((energy > limit).any() for _, energy in surfaces.values()) else "neither"
        bar = figure.colorbar(mesh, ax=list(axes), extend=extend, aspect=18, pad=0.02)
        bar.set_label(r"free energy / $k_\mathrm{B}T$")
        bar.locator = MultipleLocator(2 if limit > 5 else 1)
    return figure


def _torsion_axes(ax: Axes, labels: tuple[str, str]) -> None:
    ax.set(xlim=(-180, 180), ylim=(-180, 180), aspect="equal", xlabel=f"{labels[0]} / degree")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MultipleLocator(90))
        axis.set_minor_locator(MultipleLocator(30))
    for side in ("top", "right"):
        ax.spines[side].set_visible(True)


def _contours(ax: Axes, edges: Array, energy: Array, limit: float) -> None:
    """Thin lines every 2 kT, drawn on one period more than is shown so that they cross its border."""
    levels = np.arange(1.0, limit, 2.0 if limit > 5 else 1.0)
    if levels.size == 0 or not np.isfinite(energy).any():
        return
    centres = (edges[:-1] + edges[1:]) / 2
    margin = 4
    wide = np.concatenate([centres[-margin:] - 360, centres, centres[:margin] + 360])
    padded = np.pad(energy, margin, mode="wrap")
    ax.contour(
        wide, wide, np.ma.masked_invalid(padded.T), levels=levels, colors="white", linewidths=0.45, alpha=0.75
    )


def _boundaries(ax: Axes, region: Region) -> None:
    draw = {"x": ax.axvline, "y": ax.axhline}.get(region.axis)
    if draw is None:
        return
    for bound in {round((end + 180) % 360 - 180, 6) for interval in region.intervals for end in interval}:
        if abs(bound) < 179.999:  # the border of the plot shows that one
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
