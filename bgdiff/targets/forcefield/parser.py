"""Read an ``openmm.System`` into tables, and refuse every system whose energy the tables cannot express.

A force is accepted only if each of its settings is understood: a setting ignored here would be a wrong energy
everywhere else.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import openmm
from numpy.typing import NDArray
from openmm import unit

from bgdiff.errors import UnsupportedSystem
from bgdiff.targets.forcefield.born_parser import COULOMB, parse_custom_born, parse_obc
from bgdiff.targets.forcefield.cmap import spline_coefficients
from bgdiff.targets.forcefield.tables import (
    MAX_PERIODICITY,
    AngleTable,
    BondTable,
    CMAPTable,
    ForceFieldTables,
    GeneralizedBornTable,
    PairTable,
    TorsionTable,
)

__all__ = ["parse_system"]

_IGNORED = {"CMMotionRemover"}  # acts on velocities only
_KNOWN = {
    "HarmonicBondForce",
    "HarmonicAngleForce",
    "PeriodicTorsionForce",
    "CMAPTorsionForce",
    "NonbondedForce",
    "GBSAOBCForce",
    "CustomGBForce",
}
_METHODS = ("NoCutoff", "CutoffNonPeriodic", "CutoffPeriodic", "Ewald", "PME", "LJPME")

Forces = Sequence[Any]


def parse_system(system: openmm.System) -> ForceFieldTables:
    """Return the tables of a molecule in vacuum or in a generalised Born solvent.

    Understood are HarmonicBondForce, HarmonicAngleForce, PeriodicTorsionForce up to periodicity 6,
    CMAPTorsionForce, NonbondedForce without cutoff, GBSAOBCForce, and CustomGBForce with the expressions
    that OpenMM 8 writes for HCT, OBC1, OBC2, GBn and GBn2 without salt. Forces of one kind add up, except
    implicit solvents, of which there may be one. CMMotionRemover and force groups do not touch the energy and
    are ignored.

    Raises:
        UnsupportedSystem: the system has anything else. The message names the force and the term.
    """
    _check_particles(system)
    n_atoms = system.getNumParticles()
    forces: dict[str, list[Any]] = {name: [] for name in _KNOWN}
    for force in system.getForces():
        name = type(force).__name__
        if name not in _IGNORED:
            _check_force(force)
            forces[name].append(force)
    return ForceFieldTables(
        n_atoms=n_atoms,
        mass=np.array([_number(system.getParticleMass(i)) for i in range(n_atoms)]),
        bonds=_bonds(forces["HarmonicBondForce"], n_atoms),
        angles=_angles(forces["HarmonicAngleForce"], n_atoms),
        torsions=_torsions(forces["PeriodicTorsionForce"], n_atoms),
        cmaps=_cmaps(forces["CMAPTorsionForce"], n_atoms),
        pairs=_pairs(forces["NonbondedForce"], n_atoms),
        born=_born(forces["GBSAOBCForce"] + forces["CustomGBForce"], n_atoms),
    )


def _check_particles(system: openmm.System) -> None:
    n_atoms = system.getNumParticles()
    if not n_atoms:
        raise UnsupportedSystem("System: has no atoms")
    if system.getNumConstraints():
        raise UnsupportedSystem(
            f"System: has {system.getNumConstraints()} constraints, so its density is not one on all "
            "coordinates; create it with constraints=None and rigidWater=False"
        )
    for atom in range(n_atoms):
        if system.isVirtualSite(atom):
            raise UnsupportedSystem(f"System: atom {atom} is a virtual site")
        if not _number(system.getParticleMass(atom)) > 0:
            raise UnsupportedSystem(f"System: atom {atom} has no mass, which means that it is frozen")


def _check_force(force: Any) -> None:
    name = type(force).__name__
    if name not in _KNOWN:
        raise UnsupportedSystem(f"{name}: is not among the forces that the batched engine evaluates")
    method = force.getNonbondedMethod() if hasattr(force, "getNonbondedMethod") else 0
    if method:
        raise UnsupportedSystem(f"{name}: has the method {_METHODS[method]}; only NoCutoff is evaluated")
    if force.usesPeriodicBoundaryConditions():
        raise UnsupportedSystem(f"{name}: uses periodic boundary conditions")


def _bonds(forces: Forces, n_atoms: int) -> BondTable:
    rows = [force.getBondParameters(i) for force in forces for i in range(force.getNumBonds())]
    atoms, (length, k) = _terms("HarmonicBondForce", rows, 2, 2, n_atoms)
    used = k != 0
    return BondTable(atoms[used], length[used], k[used])


def _angles(forces: Forces, n_atoms: int) -> AngleTable:
    rows = [force.getAngleParameters(i) for force in forces for i in range(force.getNumAngles())]
    atoms, (angle, k) = _terms("HarmonicAngleForce", rows, 3, 2, n_atoms)
    used = k != 0
    return AngleTable(atoms[used], angle[used], k[used])


def _torsions(forces: Forces, n_atoms: int) -> TorsionTable:
    """Merge k (1 + cos(m φ - phase)) = k + k cos(phase) cos(m φ) + k sin(phase) sin(m φ) per four atoms."""
    rows = [force.getTorsionParameters(i) for force in forces for i in range(force.getNumTorsions())]
    atoms, (periodicity, phase, k) = _terms("PeriodicTorsionForce", rows, 4, 3, n_atoms)
    wrong = np.flatnonzero((periodicity < 1) | (periodicity > MAX_PERIODICITY))
    if wrong.size:
        raise UnsupportedSystem(
            f"PeriodicTorsionForce: torsion {wrong[0]} (atoms {_names(atoms[wrong[0]])}) has periodicity "
            f"{periodicity[wrong[0]]:g}, not one of 1 to {MAX_PERIODICITY}"
        )
    atoms, m = atoms[k != 0], periodicity[k != 0].astype(np.int64)
    phase, k = phase[k != 0], k[k != 0]
    backwards = atoms[:, 0] > atoms[:, 3]
    atoms[backwards] = atoms[backwards, ::-1]
    merged, row = np.unique(atoms, axis=0, return_inverse=True)
    row = row.reshape(-1)  # NumPy 2.0 returned a column
    cosine, sine = np.zeros((2, len(merged), MAX_PERIODICITY + 1))
    np.add.at(cosine[:, 0], row, k)
    np.add.at(cosine, (row, m), k * np.cos(phase))
    np.add.at(sine, (row, m), k * np.sin(phase))
    return TorsionTable(merged, cosine, sine)


def _cmaps(forces: Forces, n_atoms: int) -> CMAPTable:
    maps: list[tuple[int, Any]] = []
    rows: list[tuple[int, ...]] = []
    for force in forces:
        for i in range(force.getNumTorsions()):
            index, *atoms = force.getTorsionParameters(i)
            if not 0 <= index < force.getNumMaps():
                raise UnsupportedSystem(f"CMAPTorsionForce: term {i} uses map {index}, which does not exist")
            rows.append((*atoms, len(maps) + index))
        maps += [force.getMapParameters(i) for i in range(force.getNumMaps())]
    sizes = {size for size, _ in maps}
    if len(sizes) > 1:
        raise UnsupportedSystem(f"CMAPTorsionForce: has maps of different sizes: {sorted(sizes)}")
    size = sizes.pop() if sizes else 0
    atoms, (index,) = _terms("CMAPTorsionForce", rows, 8, 1, n_atoms, groups=2)
    # OpenMM lists the energies with the first torsion running fastest.
    grids = np.array([_numbers(energy) for _, energy in maps]).reshape(len(maps), size, size).swapaxes(1, 2)
    if not np.isfinite(grids).all():
        raise UnsupportedSystem("CMAPTorsionForce: a map has energies that are not finite")
    coefficients = np.empty((len(maps), size, size, 4, 4))
    for i, grid in enumerate(grids):
        coefficients[i] = spline_coefficients(grid)
    return CMAPTable(atoms, index.astype(np.int32), coefficients)


def _pairs(forces: Forces, n_atoms: int) -> PairTable:
    pairs = np.stack(np.triu_indices(n_atoms, 1), axis=1).astype(np.int32)
    charges, c12, c6 = np.zeros((3, len(pairs)))
    for force in forces:
        charge_product, sigma, epsilon = _pair_parameters(force, pairs, n_atoms)
        charges += COULOMB * charge_product
        c12 += 4 * epsilon * sigma**12
        c6 += 4 * epsilon * sigma**6
    used = (charges != 0) | (c12 != 0) | (c6 != 0)
    return PairTable(pairs[used], charges[used], c12[used], c6[used])


def _pair_parameters(
    force: openmm.NonbondedForce, pairs: NDArray[np.int32], n_atoms: int
) -> tuple[NDArray[np.float64], ...]:
    """Return q_i q_j, σ_ij and ε_ij of all pairs: Lorentz-Berthelot means, replaced by the exceptions."""
    for count, what in (
        (force.getNumParticleParameterOffsets(), "particle parameter offsets"),
        (force.getNumExceptionParameterOffsets(), "exception parameter offsets"),
        (force.getNumGlobalParameters(), "global parameters"),
        (force.getUseSwitchingFunction(), "a switching function"),
        (force.getExceptionsUsePeriodicBoundaryConditions(), "periodic exceptions"),
        (not force.getIncludeDirectSpace(), "its direct interactions turned off"),
    ):
        if count:
            raise UnsupportedSystem(f"NonbondedForce: has {what}")
    _check_count(force, n_atoms)
    particles = [_numbers(force.getParticleParameters(i)) for i in range(n_atoms)]
    charge, sigma, epsilon = np.array(particles).T
    for atom in range(n_atoms):
        if not (np.isfinite(particles[atom]).all() and sigma[atom] >= 0 and epsilon[atom] >= 0):
            raise UnsupportedSystem(f"NonbondedForce: atom {atom} has the parameters {particles[atom]}")
    i, j = pairs.T
    parameters = np.stack(
        [charge[i] * charge[j], (sigma[i] + sigma[j]) / 2, np.sqrt(epsilon)[i] * np.sqrt(epsilon)[j]]
    )
    rows = [force.getExceptionParameters(k) for k in range(force.getNumExceptions())]
    atoms, exceptions = _terms("NonbondedForce", rows, 2, 3, n_atoms)
    low, high = np.sort(atoms, axis=1).astype(np.int64).T
    parameters[:, low * n_atoms - low * (low + 1) // 2 + high - low - 1] = (
        exceptions  # their places in ``pairs``
    )
    return tuple(parameters)


def _born(forces: Forces, n_atoms: int) -> GeneralizedBornTable | None:
    if not forces:
        return None
    if len(forces) > 1:
        names = " and ".join(type(force).__name__ for force in forces)
        raise UnsupportedSystem(f"{names}: more than one implicit solvent")
    force = forces[0]
    _check_count(force, n_atoms)
    parse: Callable[[Any], GeneralizedBornTable] = (
        parse_obc if isinstance(force, openmm.GBSAOBCForce) else parse_custom_born
    )
    return parse(force)


def _check_count(force: Any, n_atoms: int) -> None:
    if force.getNumParticles() != n_atoms:
        raise UnsupportedSystem(
            f"{type(force).__name__}: has {force.getNumParticles()} particles, the System has {n_atoms}"
        )


def _terms(
    name: str, rows: Sequence[Sequence[Any]], n_indices: int, n_parameters: int, n_atoms: int, groups: int = 1
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Split rows of atoms and parameters into arrays ``(n, n_indices)`` and ``(n_parameters, n)``.

    Within each of ``groups`` equal parts of its atoms a term must name different ones.
    """
    atoms = np.array([row[:n_indices] for row in rows], dtype=np.int32).reshape(-1, n_indices)
    parameters = np.array([_numbers(row[n_indices:]) for row in rows]).reshape(-1, n_parameters)
    ordered = np.sort(atoms.reshape(-1, groups, n_indices // groups), axis=-1)
    bad = ((ordered < 0) | (ordered >= n_atoms)).any((1, 2)) | (np.diff(ordered) == 0).any((1, 2))
    bad |= ~np.isfinite(parameters).all(1)
    if bad.any():
        term = int(np.argmax(bad))
        raise UnsupportedSystem(
            f"{name}: term {term} (atoms {_names(atoms[term])}, parameters {parameters[term].tolist()}) "
            f"names an atom twice or one that does not exist, or is not finite"
        )
    return atoms, np.ascontiguousarray(parameters.T)


def _names(atoms: Iterable[int]) -> str:
    return "-".join(str(int(atom)) for atom in atoms)


def _numbers(values: Any) -> list[float]:
    return [_number(value) for value in values]


def _number(value: Any) -> float:
    return float(value.value_in_unit_system(unit.md_unit_system) if unit.is_quantity(value) else value)
