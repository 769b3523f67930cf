"""Conformations sorted into clusters of similar ones: average linkage on a distance between conformations.

Molecules are compared by the RMSD of their heavy atoms after the best superposition (mdtraj; Theobald, Acta
Cryst. A61, 478, 2005). Particles that can be exchanged are compared by their sorted pair distances,
‖sort(d_x) - sort(d_y)‖ / √pairs, which neither rotation nor exchange changes. Average linkage (scipy) is
among what Shao et al., J. Chem. Theory Comput. 3, 2312 (2007) found to serve molecular dynamics well.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bgdiff.errors import ConfigError

if TYPE_CHECKING:
    from bgdiff.systems import System

__all__ = ["Clusters", "conformational_clusters", "conformational_distances"]

Array = NDArray[np.float64]


class Clusters(NamedTuple):
    """Clusters of m conformations, the largest first."""

    label: NDArray[np.intp]
    """``(m,)``: the number of each conformation's cluster, from 0."""
    medoid: NDArray[np.intp]
    """``(k,)``: of each cluster, the conformation with the least mean distance to its others."""
    radius: Array
    """``(k,)``: mean distance of the others to the medoid; nm for molecules."""


def conformational_clusters(x: Array, system: "System", n_clusters: int = 4) -> Clusters:
    """Sort conformations ``(m, N, D)`` into at most ``n_clusters``. Time and memory grow as m².

    Raises:
        ConfigError: ``n_clusters`` is not positive, or these are no conformations of a molecule or cluster.
    """
    from scipy.cluster.hierarchy import average, fcluster
    from scipy.spatial.distance import squareform

    if n_clusters < 1:
        raise ConfigError(f"the number of clusters must be positive, not {n_clusters}")
    apart = conformational_distances(x, system)
    found = np.ones(len(x), dtype=np.intp)
    if len(x) > 1:
        found = fcluster(average(squareform(apart, checks=False)), n_clusters, criterion="maxclust")
    _, first, size = np.unique(found, return_index=True, return_counts=True)
    order = np.lexsort((first, -size))  # the largest first; of equal ones that which comes first
    label = np.empty(len(order), dtype=np.intp)
    label[order] = np.arange(len(order))
    label = label[np.unique(found, return_inverse=True)[1].reshape(-1)]
    medoid, radius = np.empty(len(order), dtype=np.intp), np.zeros(len(order))
    for k in range(len(order)):
        members = np.flatnonzero(label == k)
        total = apart[np.ix_(members, members)].sum(1)
        best = int(np.argmin(total))
        medoid[k] = members[best]
        radius[k] = total[best] / max(len(members) - 1, 1)
    return Clusters(label, medoid, radius)


def conformational_distances(x: Array, system: "System") -> Array:
    """Distances ``(m, m)`` between conformations ``(m, N, D)``, as the module says; nm for molecules.

    Raises:
        ConfigError: the system is neither a molecule nor a cluster.
    """
    if system.topology is None:
        if system.particle_types is None:
            raise ConfigError(f"system {system.name} is neither a molecule nor a cluster: nothing to compare")
        from scipy.spatial.distance import pdist, squareform

        from bgdiff.analysis.transport import pair_distances

        pairs = np.sort(pair_distances(x), axis=1)
        return np.asarray(squareform(pdist(pairs)) / np.sqrt(pairs.shape[1]))
    import mdtraj

    heavy = heavy_atoms(system.topology)
    trajectory = mdtraj.Trajectory(x[:, heavy].astype(np.float32), system.topology.subset(heavy))
    trajectory.center_coordinates()
    apart = np.stack([mdtraj.rmsd(trajectory, trajectory, k, precentered=True) for k in range(len(x))])
    apart = (apart + apart.T).astype(np.float64) / 2
    np.fill_diagonal(apart, 0.0)
    return np.asarray(apart)


def heavy_atoms(topology: object) -> NDArray[np.intp]:
    """Atoms other than hydrogen; all, if that leaves too few to superpose."""
    atoms = list(topology.atoms)  # type: ignore[attr-defined]
    heavy = [atom.index for atom in atoms if atom.element is None or atom.element.symbol != "H"]
    return np.asarray(heavy if len(heavy) > 2 else range(len(atoms)), dtype=np.intp)
