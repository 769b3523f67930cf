"""Numbers computed from conformations: torsions, angles, distances, shapes, whatever mdtraj computes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bgdiff.data.intervals import in_intervals, on_arcs
from bgdiff.data.pair_observables import measure_pairs
from bgdiff.errors import SystemDefinitionError
from bgdiff.observable_spec import ConditionSpec, ObservableSpec

if TYPE_CHECKING:
    import mdtraj

__all__ = [
    "Molecule",
    "Observable",
    "angle",
    "dihedral",
    "in_all",
    "make_observable",
]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Molecule:
    """What some observables need to know of a molecule."""

    topology: "mdtraj.Topology"
    structure: Array
    """``(N, 3)`` nm."""
    folder: Path
    """Where the files lie that observables name."""


def dihedral(x: Array, atoms: Sequence[int]) -> Array:
    """Torsion angles ``(B,)`` in (-π, π] of four atoms in ``x`` ``(B, N, 3)``, IUPAC sign (cis is 0)."""
    a, b, c, d = (x[:, index] for index in atoms)
    axis = c - b
    first, second = np.cross(b - a, axis), np.cross(axis, d - c)
    sine = np.linalg.norm(axis, axis=1) * np.einsum("bi,bi->b", b - a, second)
    torsion = np.arctan2(sine, np.einsum("bi,bi->b", first, second))
    return np.where(torsion == -np.pi, np.pi, torsion)


def angle(x: Array, atoms: Sequence[int]) -> Array:
    """Angles ``(B,)`` in [0, π] at the second of three atoms in ``x`` ``(B, N, D)``.

    2 atan2(|u - v|, |u + v|) of the unit vectors is accurate at both ends (Kahan, "How futile are mindless
    assessments of roundoff", 2006, section 12).
    """
    a, b, c = (x[:, index] for index in atoms)
    u, v = (arm / np.linalg.norm(arm, axis=1, keepdims=True) for arm in (a - b, c - b))
    return np.asarray(2 * np.arctan2(np.linalg.norm(u - v, axis=1), np.linalg.norm(u + v, axis=1)))


@dataclass(frozen=True)
class Observable:
    """A number computed from conformations; call it on ``x`` ``(B, N, D)`` for values ``(B,)``.

    Values are radian for angles and torsions, mdtraj's unit for its functions, else that of ``x``. It
    pickles. :func:`make_observable` makes and checks it.
    """

    spec: ObservableSpec
    topology: "mdtraj.Topology | None" = None
    reference: Array | None = None
    """Structure ``(1, N, 3)`` that an RMSD is measured from."""

    @property
    def periodic(self) -> bool:
        """Whether values are angles on the full circle."""
        return self.spec.periodic

    def __call__(self, x: Array) -> Array:
        spec = self.spec
        if spec.dihedral is not None:
            return dihedral(x, spec.dihedral)
        if spec.angle is not None:
            return angle(x, spec.angle)
        if spec.distance is not None:
            first, second = spec.distance
            return np.asarray(np.linalg.norm(x[:, first] - x[:, second], axis=1))
        if spec.component is not None:
            particle, axis = spec.component
            return x[:, particle, axis].copy()
        if spec.count is not None:
            return in_intervals(x[:, :, spec.count.axis], spec.count.intervals).sum(1).astype(np.float64)
        if spec.radius_of_gyration is not None:
            return self._radius_of_gyration(x)
        if spec.of_pairs is not None:
            return measure_pairs(spec.of_pairs, x)
        if len(x) == 0:
            return np.zeros(0)
        if spec.rmsd is not None:
            return self._rmsd(x)
        from bgdiff.data.mdtraj_functions import evaluate

        assert spec.mdtraj is not None
        return evaluate(spec.mdtraj, x, self.topology)

    def _radius_of_gyration(self, x: Array) -> Array:
        spec = self.spec.radius_of_gyration
        assert spec is not None
        chosen = x if spec.atoms == "all" else x[:, spec.atoms]
        mass = np.ones(chosen.shape[1])
        if spec.mass_weighted:
            assert self.topology is not None
            masses = np.array([atom.element.mass for atom in self.topology.atoms])
            mass = masses if spec.atoms == "all" else masses[spec.atoms]
        share = mass / mass.sum()
        centre = np.einsum("n,bnd->bd", share, chosen)
        return np.asarray(np.sqrt(np.einsum("n,bnd->b", share, (chosen - centre[:, None]) ** 2)))

    def _rmsd(self, x: Array) -> Array:
        import mdtraj

        spec = self.spec.rmsd
        assert spec is not None
        assert self.topology is not None
        assert self.reference is not None
        atoms = _chosen(spec.atoms, self.topology)
        # mdtraj rounds to single precision, so centre before; its threads would compete with torch's
        moved, fixed = (
            mdtraj.Trajectory(part - part.mean(1, keepdims=True), None)
            for part in (x[:, atoms], self.reference[:, atoms])
        )
        return np.asarray(mdtraj.rmsd(moved, fixed, parallel=False), dtype=np.float64)


def make_observable(
    name: str, spec: ObservableSpec, shape: tuple[int, int], molecule: Molecule | None = None
) -> Observable:
    """Make an observable of conformations of ``shape`` ``(N, D)``, with its names and indices checked.

    Args:
        name: what messages call it.
        molecule: None for toy densities, which have no topology.

    Raises:
        SystemDefinitionError: it makes no sense for this system; the message begins with ``name``.
    """
    particles, dimensions = shape
    needed = 1 + max(spec.component[1] if spec.component else 0, spec.count.axis if spec.count else 0)
    if max(spec.particles, default=0) >= particles or needed > dimensions:
        raise SystemDefinitionError(
            f"{name}: index is out of range; the system has {particles} particles in {dimensions} "
            "dimensions, counted from 0"
        )
    if (spec.dihedral or spec.steinhardt) and dimensions != 3:
        what = "a torsion" if spec.dihedral else "the order of bonds"
        raise SystemDefinitionError(f"{name}: {what} needs 3 dimensions")
    if spec.of_pairs and particles < 2:
        raise SystemDefinitionError(f"{name}: a system of one particle has no pairs")
    if not spec.needs_molecule:
        return Observable(spec)
    if molecule is None:
        raise SystemDefinitionError(f"{name}: needs a molecule, whose topology names atoms and bonds")
    if spec.radius_of_gyration and (
        bare := [atom for atom in molecule.topology.atoms if not atom.element.mass]
    ):
        raise SystemDefinitionError(
            f"{name}: atom {bare[0].index} ({bare[0]}) has no element of known mass in the topology; "
            "leave mass_weighted out"
        )
    if spec.mdtraj is not None:
        from bgdiff.data.mdtraj_functions import check

        check(name, spec.mdtraj, molecule)
    reference = _reference(name, spec, molecule) if spec.rmsd else None
    return Observable(spec, molecule.topology, reference)


def in_all(
    conditions: Sequence[ConditionSpec],
    specs: Mapping[str, ObservableSpec],
    values: Mapping[str, Array],
) -> NDArray[np.bool_]:
    """Which conformations, given by values of any one shape by observable, fulfil all the conditions."""
    masks = []
    for condition in conditions:
        spec, seen = specs[condition.observable], values[condition.observable]
        if spec.periodic:
            masks.append(on_arcs(seen, condition.intervals))
        else:
            masks.append(in_intervals(seen, condition.intervals, degrees=spec.in_degrees))
    return np.asarray(np.logical_and.reduce(masks))


def _chosen(atoms: list[int] | str, topology: "mdtraj.Topology") -> list[int]:
    if atoms == "all":
        return list(range(topology.n_atoms))
    if atoms == "heavy":
        return [atom.index for atom in topology.atoms if atom.element.symbol not in ("H", "VS")]
    assert not isinstance(atoms, str)
    return atoms


def _reference(name: str, spec: ObservableSpec, molecule: Molecule) -> Array:
    assert spec.rmsd is not None
    if len(_chosen(spec.rmsd.atoms, molecule.topology)) < 3:
        raise SystemDefinitionError(f"{name}: a superposition needs at least three atoms")
    if spec.rmsd.file is None and spec.rmsd.frame == 0:
        return molecule.structure[None]
    if spec.rmsd.file is None:
        raise SystemDefinitionError(f"{name}: frame {spec.rmsd.frame} needs a file")
    from bgdiff.data.trajectories import read_trajectory
    from bgdiff.errors import DataError

    path = molecule.folder / spec.rmsd.file
    try:
        frames: Any = read_trajectory(path, molecule.topology)
    except DataError as error:
        raise SystemDefinitionError(f"{name}: {error}") from error
    if spec.rmsd.frame >= len(frames):
        raise SystemDefinitionError(f"{name}: {path} has {len(frames)} frames, counted from 0")
    return np.asarray(frames[spec.rmsd.frame][None], dtype=np.float64)
