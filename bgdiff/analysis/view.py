"""Structures to look at: in a notebook with nglview, and as a static picture for everywhere else.

A notebook whose ipywidgets and JupyterLab do not fit nglview shows an empty widget and no error, so put the
:func:`picture` beside it::

    from bgdiff.analysis.view import picture, show
    display(show(ensemble, weighted=True), picture(ensemble, weighted=True))
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bgdiff.errors import BgdiffError, ConfigError

if TYPE_CHECKING:
    import mdtraj
    import nglview
    from matplotlib.figure import Figure

    from bgdiff.generator import Ensemble
    from bgdiff.systems import System

__all__ = ["MissingViewerError", "chosen_frames", "picture", "show", "shown_trajectory"]

_CONTACT = 0.38  # nm: about the distance of two argon atoms where they attract most


class MissingViewerError(BgdiffError):
    """nglview is not installed."""


def show(
    source: "Ensemble | NDArray[np.floating[Any]]",
    system: "System | None" = None,
    *,
    weighted: bool | None = None,
    n: int = 50,
    seed: int = 0,
) -> "nglview.NGLWidget":
    """An nglview widget that plays conformations of a molecule or a cluster, superposed on the first.

    Args:
        source: an ensemble, or conformations ``(n, N, D)`` or ``(N, D)`` of ``system``.
        system: whose conformations they are; ensembles know.
        weighted: True draws conformations in proportion to their weights, the ensemble of the target; False
            takes them as they are, evenly spaced, the ensemble of the proposal. To be said for ensembles
            whose weights differ; arrays have none.
        n: conformations shown; those of an array all, if there are fewer.
        seed: of the draws.

    Raises:
        ConfigError: it is not clear what to show, or mdtraj has no topology for it.
        MissingViewerError: nglview is not installed.
    """
    try:
        import nglview
    except ImportError as error:
        raise MissingViewerError(
            "nglview is not installed; install it with: pip install nglview ipywidgets, or look at "
            "bgdiff.analysis.view.picture instead"
        ) from error
    system = _system_of(source, system)
    trajectory = shown_trajectory(chosen_frames(source, weighted=weighted, n=n, seed=seed), system)
    widget = nglview.show_mdtraj(trajectory, default_representation=False)
    if system.topology is None:
        widget.add_representation("spacefill", selection="all", radius_type="size", radius=1.3)
    else:
        widget.add_representation("ball+stick", selection="all")
    widget.center()
    return widget


def picture(
    source: "Ensemble | NDArray[np.floating[Any]]",
    system: "System | None" = None,
    *,
    weighted: bool | None = None,
    n: int = 6,
    seed: int = 0,
) -> "Figure":
    """A static picture of conformations chosen as :func:`show` chooses them, with the same arguments.

    Raises:
        ConfigError: it is not clear what to show, or it cannot be drawn.
    """
    system = _system_of(source, system)
    x = chosen_frames(source, weighted=weighted, n=n, seed=seed)
    from bgdiff.analysis.cluster_pictures import Picture, structures
    from bgdiff.analysis.molecule_pictures import molecule_structures

    pictures = [Picture(points, str(number)) for number, points in enumerate(x, 1)]
    if system.topology is not None:
        return molecule_structures(pictures, system.topology)
    return structures(pictures, types=_types(system))


def chosen_frames(
    source: "Ensemble | NDArray[np.floating[Any]]", *, weighted: bool | None, n: int, seed: int = 0
) -> NDArray[np.float64]:
    """The conformations to show, ``(m, N, D)``; arguments as for :func:`show`.

    Draws by weight are with replacement, and the first k of n draws are those of k draws with the same seed.

    Raises:
        ConfigError: ``weighted`` is wanted but not given, or cannot be, or ``n`` is not positive.
    """
    if n < 1:
        raise ConfigError(f"the number of conformations to show must be positive, not {n}")
    if isinstance(source, np.ndarray):
        if weighted:
            raise ConfigError("these conformations have no weights; leave weighted out, or show an ensemble")
        x = np.asarray(source, dtype=np.float64)
        x = x[None] if x.ndim == 2 else x
        if x.ndim != 3 or len(x) == 0:
            raise ConfigError(f"conformations must have the shape (n, N, D), not {np.shape(source)}")
        return _evenly(x, n)
    known = source.log_weight[np.isfinite(source.log_weight)]
    differ = known.size < len(source) or np.ptp(known) > 0
    if weighted is None and differ:
        raise ConfigError(
            "the samples have different weights: say weighted=True to draw them in proportion, or "
            "weighted=False to see them as the model proposes them"
        )
    if weighted and differ:
        cumulative = np.cumsum(source.weights)
        draws = np.random.default_rng(seed).random(n) * cumulative[-1]
        return np.asarray(source.x[np.searchsorted(cumulative, draws, side="right")])
    return _evenly(source.x, n)


def shown_trajectory(x: NDArray[np.float64], system: "System") -> "mdtraj.Trajectory":
    """Conformations ``(n, N, D)`` as an mdtraj trajectory for viewers, superposed on the first, nm.

    A molecule is superposed by its heavy atoms, a cluster by rotation and by exchanging equal particles.
    Those become argon atoms, and the median distance to a nearest neighbour is scaled to 0.38 nm, which
    viewers are made for; what lies in a plane has z = 0.

    Raises:
        ConfigError: the system is neither a molecule nor a cluster.
    """
    import mdtraj

    from bgdiff.analysis.alignment import superposed
    from bgdiff.analysis.cluster_geometry import contact_length
    from bgdiff.conformations import in_space, topology_of

    topology = topology_of(system)
    if topology is None:
        raise ConfigError(f"system {system.name} is neither a molecule nor a cluster: nothing to look at")
    if x.shape[1:] != system.target.event_shape:
        particles, dimensions = system.target.event_shape
        raise ConfigError(
            f"conformations of {system.name} have the shape (n, {particles}, {dimensions}), not {x.shape}"
        )
    if system.topology is None:
        x = superposed(x, x[0] - x[0].mean(0), _types(system)) * (_CONTACT / contact_length(x))
        return mdtraj.Trajectory(in_space(x).astype(np.float32), topology)
    trajectory = mdtraj.Trajectory(x.astype(np.float32), topology)
    heavy = [atom.index for atom in topology.atoms if atom.element is None or atom.element.symbol != "H"]
    return trajectory.superpose(trajectory[0], atom_indices=heavy if len(heavy) > 2 else None, parallel=False)


def _evenly(x: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    x = x[np.isfinite(x).all(axis=(1, 2))]
    return x[np.linspace(0, len(x) - 1, min(n, len(x))).round().astype(np.intp)]


def _types(system: "System") -> NDArray[np.int64] | None:
    types = system.particle_types
    return None if types is None else np.asarray(types.numpy())


def _system_of(source: "Ensemble | NDArray[np.floating[Any]]", system: "System | None") -> "System":
    own = None if isinstance(source, np.ndarray) else source.system
    found = own or system
    if found is None:
        raise ConfigError("say which system these conformations are of: show(x, system)")
    return found
