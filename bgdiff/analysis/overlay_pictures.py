"""Many superposed conformations in one picture, coloured by group, and captions that stay with a picture."""

import textwrap
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.collections import EllipseCollection, LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bgdiff.analysis.cluster_geometry import clearest_view, contact_length, rigid_rotation
from bgdiff.analysis.cluster_pictures import BOND, Canvas, Picture, strip
from bgdiff.analysis.cluster_render import Scene
from bgdiff.analysis.style import COLOURS, WIDTH, styled
from bgdiff.analysis.view_groups import Group
from bgdiff.errors import ConfigError

__all__ = ["overlays", "viewing_rotation", "with_caption"]

Array = NDArray[np.float64]

_TUBE = 0.010  # nm: bonds of a superposed molecule
_DOT = {2: 0.06, 3: 0.13}  # radius of a particle in contact lengths, by dimensions
_LINE = 0.125  # inches
_CHARACTERS = 18.3  # per inch, of a caption; of notes below panels somewhat fewer
# what is turned towards the reader: the top (y), and the right-hand side (x)
_SIDES: dict[str, Callable[[Array], Array]] = {
    "from above": lambda x: x[..., [0, 2, 1]] * [1.0, -1.0, 1.0],
    "from the right": lambda x: x[..., [2, 1, 0]] * [-1.0, 1.0, 1.0],
}


class _Panel(NamedTuple):
    """Groups of the conformations ``x``, and what is written above and below them."""

    title: str
    colour: str
    note: str
    groups: Sequence[Group]
    x: Array


@styled
def overlays(
    groups: Sequence[Group], x: Array, bonds: NDArray[np.intp] | None = None, *, columns: int = 6
) -> Figure:
    """Draw conformations over each other: all of them, then each group by itself, in one orientation.

    A single group in space is drawn from three sides instead.

    Args:
        groups: of the conformations; those in none are not drawn.
        x: superposed conformations ``(m, N, D)`` in two or three dimensions, seen along -z.
        bonds: ``(M, 2)`` of a molecule; None for clusters of particles, which become dots.
        columns: panels in a row.

    Raises:
        ConfigError: there is nothing to draw.
    """
    groups = [group for group in groups if len(group.members)]
    if not groups or x.shape[2] not in (2, 3):
        raise ConfigError("nothing to draw, or not in two or three dimensions")
    radius = _TUBE if bonds is not None else _DOT[x.shape[2]] * contact_length(x)
    sides = _SIDES if len(groups) == 1 and x.shape[2] == 3 else {}
    x = x - x[groups[0].members].mean((0, 1)) if sides else x
    panels = [_Panel("all together", COLOURS["exact"], "", groups, x)] if len(groups) > 1 else []
    panels += [_Panel(group.name, group.colour, group.note, [group], x) for group in groups]
    panels += [panels[0]._replace(title=title, note="", x=turn(x)) for title, turn in sides.items()]
    shown = np.concatenate([panel.x[group.members] for panel in panels for group in panel.groups])
    room = int(0.9 * _CHARACTERS * WIDTH / max(min(columns, len(panels)), 3))
    texts = [Picture(x[0], panel.title, textwrap.fill(panel.note, room)) for panel in panels]
    # limits of the figure follow from what it is told to draw, so it is told the extremes
    extremes = np.stack([shown.min((0, 1)), shown.max((0, 1))])
    figure, canvases = strip(
        texts, np.broadcast_to(extremes, (len(panels), *extremes.shape)), 1.5 * radius, columns, legend=False
    )
    for canvas, panel in zip(canvases, panels, strict=True):
        canvas.axes.title.set_color(panel.colour)
        _draw(canvas, panel.groups, panel.x, bonds, radius)
    return figure


@styled
def with_caption(figure: Figure, text: str) -> Figure:
    """Make a figure with a settled layout taller, and write a caption below."""
    width, height = (float(size) for size in figure.get_size_inches())
    lines = textwrap.wrap(text, int(_CHARACTERS * width))
    more = _LINE * len(lines) + 0.12
    boxes = [(ax, ax.get_position()) for ax in figure.axes]
    figure.set_size_inches(width, height + more)
    for ax, box in boxes:
        low, high = ((edge * height + more) / (height + more) for edge in (box.y0, box.y1))
        ax.set_position((box.x0, low, box.width, high - low))
    figure.text(
        0.02 / width, (more - 0.06) / (height + more), "\n".join(lines), ha="left", va="top", fontsize=6.6,
        color=COLOURS["muted"], linespacing=1.25,
    )  # fmt: skip
    return figure


def viewing_rotation(x: Array) -> Array:
    """Rotation ``(D, D)`` of superposed conformations ``(m, N, D)`` in which little is hidden."""
    first = x[0] - x[0].mean(0)
    turn = rigid_rotation(first, clearest_view(first))
    return turn @ _levelled((x @ turn).reshape(-1, x.shape[2]))


def _levelled(points: Array) -> Array:
    """Rotation ``(D, D)`` about the line of sight that lays what is seen of ``(M, D)`` along the page."""
    seen = points[:, :2] - points[:, :2].mean(0)
    along = np.linalg.svd(seen.T @ seen)[0][:, 0]
    turn = np.eye(points.shape[1])
    turn[:2, :2] = np.array([[along[0], -along[1]], [along[1], along[0]]])
    return turn


def _contacts(x: Array, shades: Array) -> LineCollection:
    """Faint lines between neighbours of each conformation ``(m, N, 2)``, which tell its shape."""
    first, second = np.triu_indices(x.shape[1], 1)
    ends = np.stack([x[:, first], x[:, second]], axis=2)
    close = np.linalg.norm(ends[:, :, 0] - ends[:, :, 1], axis=2) < BOND * contact_length(x)
    colours = np.repeat(shades, close.sum(1), axis=0)
    return LineCollection(list(ends[close]), colors=list(colours), linewidths=0.6, alpha=0.35, zorder=0)


def _draw(
    canvas: Canvas, groups: Sequence[Group], x: Array, bonds: NDArray[np.intp] | None, radius: float
) -> None:
    members = np.concatenate([group.members for group in groups])
    shades = np.concatenate([np.tile(to_rgb(group.colour), (len(group.members), 1)) for group in groups])
    particles = x.shape[1]
    points, colours = x[members].reshape(-1, x.shape[2]), np.repeat(shades, particles, axis=0)
    if x.shape[2] == 2:
        # those of the groups turn about, so that no group hides all others
        order = np.random.default_rng(0).permutation(len(points))
        size = np.full(len(points), 2 * radius)
        dots = EllipseCollection(
            size, size, np.zeros(len(points)), units="xy", offsets=points[order],
            offset_transform=canvas.axes.transData, facecolors=colours[order], edgecolors="white",
            linewidths=0.3,
        )  # fmt: skip
        canvas.axes.add_collection(dots)
        canvas.axes.add_collection(_contacts(x[members], shades))
        return
    sticks = np.zeros((0, 2), dtype=np.intp)
    if bonds is not None:
        first = particles * np.arange(len(members))[:, None, None]
        sticks = (first + bonds[None]).reshape(-1, 2)
    canvas.draw(Scene(points, np.full(len(points), radius), colours, sticks, radius, colours[sticks[:, 0]]))
