"""Pictures of a molecule's conformations side by side: balls and sticks in the usual colours of elements."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bgdiff.analysis.cluster_geometry import clearest_view, rigid_rotation
from bgdiff.analysis.cluster_pictures import Picture, strip
from bgdiff.analysis.cluster_render import Scene
from bgdiff.analysis.style import styled
from bgdiff.errors import ConfigError

if TYPE_CHECKING:
    import mdtraj

__all__ = ["ball_and_sticks", "molecule_structures"]

Array = NDArray[np.float64]

# Corey, Pauling and Koltun's colours, toned down
_COLOURS = {
    "H": (0.93, 0.93, 0.93),
    "C": (0.36, 0.38, 0.41),
    "N": (0.20, 0.38, 0.80),
    "O": (0.83, 0.18, 0.15),
    "S": (0.90, 0.75, 0.15),
    "P": (0.90, 0.52, 0.10),
}
_OTHER = (0.45, 0.66, 0.45)
_RADII, _HEAVY, _STICK = {"H": 0.026}, 0.038, 0.014  # nm


def molecule_structures(
    pictures: Sequence[Picture], topology: "mdtraj.Topology", *, columns: int = 6
) -> Figure:
    """Draw conformations of a molecule, their heavy atoms superposed on those of the first.

    Args:
        pictures: conformations ``(N, 3)`` in nm.
        topology: elements and bonds.
        columns: conformations in a row.

    Raises:
        ConfigError: there is nothing to draw.
    """
    if not pictures:
        raise ConfigError("no structure to draw")
    symbols = ["" if atom.element is None else atom.element.symbol for atom in topology.atoms]
    heavy = np.array([symbol != "H" for symbol in symbols])
    chosen = heavy if heavy.sum() > 2 else np.ones_like(heavy)
    x = np.stack([np.asarray(picture.x, dtype=np.float64) for picture in pictures])
    x = x - x[:, chosen].mean(1, keepdims=True)
    first = clearest_view(x[0])
    first -= first[chosen].mean(0)
    x = np.stack([points @ rigid_rotation(points[chosen], first[chosen]) for points in x])
    bonds = np.array([(one.index, other.index) for one, other in topology.bonds], dtype=np.intp).reshape(
        -1, 2
    )
    superposed = [picture._replace(x=points) for picture, points in zip(pictures, x, strict=True)]
    return ball_and_sticks(superposed, symbols, bonds, columns=columns)


@styled
def ball_and_sticks(
    pictures: Sequence[Picture], symbols: Sequence[str], bonds: NDArray[np.intp], *, columns: int = 6
) -> Figure:
    """Draw conformations of a molecule as they lie, on one scale.

    Args:
        pictures: conformations ``(N, 3)`` in nm.
        symbols: element of each atom, empty if unknown.
        bonds: ``(M, 2)``.
        columns: conformations in a row.
    """
    x = np.stack([picture.x for picture in pictures])
    radii = np.array([_RADII.get(symbol, _HEAVY) for symbol in symbols])
    colours = np.array([_COLOURS.get(symbol, _OTHER) for symbol in symbols])
    figure, canvases = strip(pictures, x, 1.2 * float(radii.max()), columns, legend=False)
    for canvas, points in zip(canvases, x, strict=True):
        canvas.draw(Scene(points, radii, colours, bonds, _STICK))
    return figure
