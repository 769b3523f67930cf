"""Conformations of a run for its report: a few of the corrected samples, superposed."""

import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bgdiff.analysis.alignment import superposed
from bgdiff.analysis.cluster_geometry import clearest_view, contact_length, rigid_rotation
from bgdiff.analysis.cluster_pictures import BOND
from bgdiff.analysis.results import Results
from bgdiff.analysis.run_figure import basin_conditions
from bgdiff.analysis.run_files import Arrays, RunFiles
from bgdiff.analysis.weights import normalised_weights
from bgdiff.errors import CheckpointError

if TYPE_CHECKING:
    import mdtraj

__all__ = ["RunStructures", "basin_of", "read_structures"]

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]
Indices = NDArray[np.intp]

_DRAWS = 40
_COORDINATES = 40_000  # of all conformations that are shown; more would make the report slow to open


@dataclass(frozen=True)
class RunStructures:
    """Corrected samples, superposed: a molecule's by its backbone or heavy atoms, a cluster's by exchanging
    equal particles too.

    Attributes:
        x: ``(n, N, 3)``, nm or reduced units, centred at the origin; z is 0 for what lies in a plane.
        row: ``(n,)`` of each among the run's samples.
        symbols: element of each atom; argon and so on for particles.
        bonds: ``(M, 2)`` of a molecule; None for a cluster.
        dimensions: 2 or 3.
        atoms: what conformations are superposed by, in words.
        weighted: whether they were drawn by their weights, not evenly from chains.
    """

    x: Array
    row: Indices
    symbols: tuple[str, ...]
    bonds: Indices | None
    dimensions: int
    atoms: str
    weighted: bool

    @property
    def n_distinct(self) -> int:
        """Different samples among them."""
        return int(np.unique(self.row).size)

    @cached_property
    def contact(self) -> float:
        """Median distance of a particle to its nearest neighbour."""
        return contact_length(self.x)

    def neighbours(self, frame: int) -> Indices:
        """Pairs of a cluster's particles ``(M, 2)`` that are closer than 1.3 times the contact length."""
        first, second = np.triu_indices(self.x.shape[1], 1)
        apart = np.linalg.norm(self.x[frame, first] - self.x[frame, second], axis=1)
        close = apart < BOND * self.contact
        return np.stack([first[close], second[close]], axis=1)


def read_structures(directory: Path, run: RunFiles) -> RunStructures | None:
    """Draw corrected samples of a molecule or cluster from ``samples.dcd``, always the same of one run.

    By their weights and with replacement, so that they are an unweighted sample of the target; from chains
    evenly. None if the run is neither about a molecule nor a cluster, or its files are gone.

    Raises:
        CheckpointError: the files are damaged, or do not belong to the run's other files.
    """
    files = directory / "topology.pdb", directory / "samples.dcd"
    if not all(file.is_file() for file in files):
        return None
    import mdtraj

    try:
        topology = mdtraj.load_topology(str(files[0]))
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise CheckpointError(
            f"{files[0]}: is damaged ({error}); write it anew with: bgdiff reweight"
        ) from error
    n_atoms = topology.n_atoms
    row = _draws(run, min(_DRAWS, _COORDINATES // (3 * n_atoms)))
    if row.size == 0:
        return None
    x = _read(files[1], row, n_atoms, run.results.n_samples)
    symbols = tuple("" if atom.element is None else atom.element.symbol for atom in topology.atoms)
    weighted = not run.results.n_chains
    types = run.cluster.get("types")
    if types is not None:
        dimensions = 2 if not x[:, :, 2].any() else 3
        first = clearest_view(x[0, :, :dimensions])
        first -= first.mean(0)
        x = superposed(x[:, :, :dimensions], first, types)
        x = np.pad(x, ((0, 0), (0, 0), (0, 3 - dimensions)))
        return RunStructures(x, row, symbols, None, dimensions, "all particles", weighted)
    chosen, atoms = _rigid_part(topology)
    bonds = [(one.index, other.index) for one, other in topology.bonds]
    return RunStructures(
        _superposed(x, chosen),
        row,
        symbols,
        np.array(bonds, dtype=np.intp).reshape(-1, 2),
        3,
        atoms,
        weighted,
    )


def basin_of(results: Results, values: Arrays) -> Indices:
    """Index of the first basin each conformation lies in, -1 outside all, ``(n,)``.

    Args:
        values: ``obs_<name>`` of each observable ``(n,)``, radian for angles, as in the run's arrays.
    """
    kinds = {info.name: info for info in results.observables}
    sizes = [value.shape[0] for name, value in values.items() if name.startswith("obs_")]
    which = np.full(sizes[0] if sizes else 0, -1, dtype=np.intp)
    for index, basin in reversed(list(enumerate(results.basins))):
        inside = np.ones(which.size, dtype=bool)
        for name, intervals in basin_conditions(basin):
            if name not in kinds or f"obs_{name}" not in values:
                inside[:] = False
                continue
            value = values[f"obs_{name}"]
            if kinds[name].unit == "rad":
                value = np.degrees(value)
            if kinds[name].kind == "dihedral":
                value = (value + 180.0) % 360.0 - 180.0
            inside &= np.any(
                [
                    (value >= (-np.inf if lo is None else lo)) & (value < (np.inf if hi is None else hi))
                    for lo, hi in intervals
                ],
                axis=0,
            )
        which[inside] = index
    return which


def _draws(run: RunFiles, n: int) -> Indices:
    """Rows of the samples, in an order without meaning."""
    weight = normalised_weights(run.proposal["log_weight"])
    stream = np.random.default_rng(run.results.seed)
    if run.results.n_chains:
        evenly = np.linspace(0, weight.size - 1, min(n, weight.size)).round().astype(np.intp)
        return np.asarray(stream.permutation(evenly))
    return np.asarray(stream.choice(weight.size, n, p=weight), dtype=np.intp)


def _read(path: Path, row: Indices, n_atoms: int, n_samples: int) -> Array:
    """Those conformations ``(n, N, 3)``, nm; the file holds Å."""
    from mdtraj.formats import DCDTrajectoryFile

    from bgdiff.data.trajectories import quiet_stdout

    frames = []
    try:
        with quiet_stdout(), DCDTrajectoryFile(str(path)) as stream:
            if len(stream) != n_samples:
                raise CheckpointError(
                    f"{path}: holds {len(stream)} conformations, but results.json speaks of {n_samples}; "
                    "bring them together with: bgdiff reweight"
                )
            for index in row:
                stream.seek(int(index))
                frames.append(stream.read(n_frames=1)[0][0])
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error}); write it anew with: bgdiff reweight"
        ) from error
    x = np.asarray(frames, dtype=np.float64) / 10
    if x.shape[1:] != (n_atoms, 3) or not np.isfinite(x).all():
        raise CheckpointError(
            f"{path}: its conformations do not belong to topology.pdb; write both anew with: bgdiff reweight"
        )
    return x


def _rigid_part(topology: "mdtraj.Topology") -> tuple[Indices, str]:
    """Atoms to superpose a molecule by: its backbone, or all heavy atoms if it has none."""
    backbone = topology.select("backbone")
    if len(backbone) >= 4:
        return np.asarray(backbone, dtype=np.intp), "the backbone"
    heavy = [atom.index for atom in topology.atoms if atom.element is None or atom.element.symbol != "H"]
    return (np.array(heavy), "heavy atoms") if len(heavy) > 2 else (np.arange(topology.n_atoms), "all atoms")


def _superposed(x: Array, chosen: Indices) -> Array:
    """On the first conformation, turned so that its atoms hide each other as little as possible."""
    x = x - x[:, chosen].mean(1, keepdims=True)
    first = clearest_view(x[0])
    first -= first[chosen].mean(0)
    turned = np.stack([points @ rigid_rotation(points[chosen], first[chosen]) for points in x])
    return np.asarray(turned - turned.mean((0, 1)))
