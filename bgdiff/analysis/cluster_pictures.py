"""Pictures of structures side by side: in space as balls and sticks, in the plane as discs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.ticker import FixedLocator
from numpy.typing import ArrayLike, NDArray

from bgdiff.analysis.alignment import superposed
from bgdiff.analysis.cluster_geometry import clearest_view, contact_length
from bgdiff.analysis.cluster_render import Scene, render
from bgdiff.analysis.style import COLOURS, DPI, WIDTH, styled
from bgdiff.errors import ConfigError

__all__ = ["BOND", "Canvas", "Picture", "neighbour_colours", "strip", "structures"]

Array = NDArray[np.float64]

BOND = 1.3
"""Particles closer than this many contact lengths are joined by a stick: a Lennard-Jones cluster's first
shell ends at 1.2 to 1.4 of them."""

_BALL, _STICK = 0.30, 0.055  # radii in contact lengths
_TITLE, _CAPTION, _LEGEND = 0.24, 0.26, 0.46  # inches above and below a structure, and at the bottom
# few to many neighbours: light to dark of one blue, and orange for the few that are buried
_RAMP = ("#d6e6f4", "#abd0e6", "#6aaed6", "#3787c0", "#1561a9", "#083674")
_BURIED = "#D55E00"


class Picture(NamedTuple):
    """A structure ``(N, D)`` with what is written above and below it."""

    x: Array
    title: str = ""
    caption: str = ""


@styled
def structures(
    pictures: Sequence[Picture],
    *,
    types: ArrayLike | None = None,
    bond: float | None = None,
    unit: str = "",
    columns: int = 6,
) -> Figure:
    """Draw structures, each superposed on the first by rotation and exchange of equal particles.

    Colours say how many neighbours a particle has.

    Args:
        pictures: clusters of the same particles in two or three dimensions.
        types: ``(N,)``, particles with the same number are equal; default all.
        bond: largest distance of neighbours; default :data:`BOND` times the median distance to a nearest
            neighbour.
        unit: of lengths; empty for reduced units.
        columns: structures in a row.

    Raises:
        ConfigError: there is nothing to draw, or not in two or three dimensions.
    """
    if not pictures:
        raise ConfigError("no structure to draw")
    x = np.stack([np.asarray(picture.x, dtype=np.float64) for picture in pictures])
    if x.shape[2] not in (2, 3):
        raise ConfigError(f"only clusters in 2 or 3 dimensions can be drawn, not in {x.shape[2]}")
    kinds = np.zeros(x.shape[1]) if types is None else types
    first = clearest_view(x[0])
    x = np.concatenate([first[None], superposed(x[1:], first, kinds)])
    contact = contact_length(x)
    bond = BOND * contact if bond is None else bond
    neighbours = [_neighbours(points, bond) for points in x]
    number = [np.bincount(pairs.ravel(), minlength=x.shape[1]) for pairs in neighbours]
    most, least = (int(pick([pick(found) for found in number])) for pick in (max, min))
    colours = neighbour_colours(least, most)
    radius = _BALL * contact
    figure, canvases = strip(pictures, x, 1.2 * radius, columns)
    for canvas, points, pairs, found in zip(canvases, x, neighbours, number, strict=True):
        shades = colours(found - least)[:, :3]
        if x.shape[2] == 3:
            canvas.draw(Scene(points, np.full(len(points), radius), shades, pairs, _STICK * contact))
        else:
            _in_the_plane(canvas.axes, points, pairs, shades, radius)
    _legend(figure, colours, least, most, f"{bond:.3g}{' ' + unit if unit else ''}")
    return figure


@dataclass(frozen=True)
class Canvas:
    """Where one structure of a strip is drawn."""

    axes: Axes
    half_width: float
    pixels: int

    def draw(self, scene: Scene) -> None:
        """Draw a scene on it."""
        box, limits = self.half_width, (self.axes.get_xlim(), self.axes.get_ylim())
        image = render(scene, box, self.pixels)
        self.axes.imshow(image, extent=(-box, box, -box, box), interpolation="antialiased")
        self.axes.set(xlim=limits[0], ylim=limits[1])


def strip(
    pictures: Sequence[Picture], x: Array, margin: float, columns: int, *, legend: bool = True
) -> tuple[Figure, list[Canvas]]:
    """A figure with room for structures ``x`` ``(n, N, D)`` side by side on one scale, with their texts.

    Args:
        margin: around the particles, in their unit.
        legend: leave room for one below.

    Returns:
        The figure, and a canvas for each structure.
    """
    low, high = x[:, :, :2].min((0, 1)) - margin, x[:, :, :2].max((0, 1)) + margin
    columns = min(columns, len(x))
    rows = -(-len(x) // columns)
    panel = WIDTH / max(columns, 3)
    height = panel * (high[1] - low[1]) / (high[0] - low[0])
    width, row = panel * columns, _TITLE + height + _CAPTION
    total = rows * row + (_LEGEND if legend else 0.0)
    figure = Figure(figsize=(width, total))
    axes = []
    for place in range(len(x)):
        down, across = divmod(place, columns)
        bottom = total - down * row - _TITLE - height
        box = (across * panel / width, bottom / total, panel / width, height / total)
        ax = figure.add_axes(box, xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
        ax.set_axis_off()
        axes.append(ax)
    half = float(np.maximum(-low, high).max())
    pixels = round(2 * half * panel * DPI / float(high[0] - low[0]))
    canvases = []
    for ax, picture in zip(axes, pictures, strict=True):
        ax.set_title(picture.title, fontsize=7.5, fontweight="bold", pad=2)
        ax.annotate(
            picture.caption, (0.5, 0), xycoords="axes fraction", ha="center", va="top", fontsize=7.0,
            color=COLOURS["muted"],
        )  # fmt: skip
        canvases.append(Canvas(ax, half, pixels))
    return figure, canvases


def _neighbours(points: Array, bond: float) -> NDArray[np.intp]:
    first, second = np.triu_indices(len(points), 1)
    close = np.linalg.norm(points[first] - points[second], axis=1) < bond
    return np.stack([first[close], second[close]], axis=1)


def neighbour_colours(least: int, most: int) -> ListedColormap:
    """One colour for each number of neighbours from ``least`` to ``most``; a full shell, 12, stands out."""
    count = most - least + 1
    last = _BURIED if most >= 12 else _RAMP[-1]
    ramp = np.linspace(0, len(_RAMP) - 1, max(count, 2))
    base = np.array([[int(code[k : k + 2], 16) / 255 for k in (1, 3, 5)] for code in _RAMP])
    mixed = np.stack([np.interp(ramp, np.arange(len(_RAMP)), base[:, k]) for k in range(3)], axis=1)[:count]
    names = [tuple(colour) for colour in mixed]
    shades = [last if least + k >= 12 else names[k] for k in range(count)]
    return ListedColormap(shades)


def _in_the_plane(ax: Axes, points: Array, pairs: NDArray[np.intp], shades: Array, radius: float) -> None:
    sticks = LineCollection([points[pair] for pair in pairs], colors=COLOURS["muted"], linewidths=1.6)
    ax.add_collection(sticks)
    for point, shade in zip(points, shades, strict=True):
        ax.add_patch(
            Circle(tuple(point), radius, facecolor=shade, edgecolor="black", linewidth=0.8, zorder=3)
        )


def _legend(figure: Figure, colours: ListedColormap, least: int, most: int, bond: str) -> None:
    from matplotlib.cm import ScalarMappable

    width, height = figure.get_size_inches()
    bar = figure.colorbar(
        ScalarMappable(BoundaryNorm(np.arange(least, most + 2) - 0.5, colours.N), colours),
        cax=figure.add_axes((0.5 - 1.2 / width, 0.34 / height, 2.4 / width, 0.09 / height)),
        orientation="horizontal",
    )
    bar.set_label(f"neighbours within {bond}", fontsize=7.0, labelpad=1)
    step = 1 if most - least < 13 else 2
    bar.ax.xaxis.set_major_locator(FixedLocator(list(range(least, most + 1, step))))
    bar.ax.minorticks_off()
    bar.ax.tick_params(length=0, labelsize=6.5)
    bar.outline.set_linewidth(0.5)
