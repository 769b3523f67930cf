"""Whether a molecule can be sampled: its energy, its minimum, its coordinates, what evaluates it."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bgdiff.errors import SystemDefinitionError, UnsupportedSystem
from bgdiff.setup.agreement import check_charges, check_free
from bgdiff.setup.geometry import handedness, stereocentres, unusual_forms
from bgdiff.setup.molecule import (
    Array,
    Molecule,
    Tell,
    atom_label,
    bond_pairs,
    listed,
    residue_label,
)

if TYPE_CHECKING:
    import openmm
    from openmm import app

__all__ = ["check_molecule", "minimised"]

_STEPS = 5000
_STRETCH = 1.25  # of a bond's length before and after minimisation, either way
_STRAINED = 0.45  # rad from the rest of an angle at a minimum; rings of four are at 0.35
_STRAIGHT = 0.05  # rad from a straight angle, where a Z-matrix is singular


def check_molecule(molecule: Molecule, source: str, temperature: float, tell: Tell) -> Molecule:
    """Check a molecule, and tell what was found.

    Args:
        source: what to call its files in messages.
        temperature: K.

    Returns:
        The molecule at a minimum of its energy.

    Raises:
        SystemDefinitionError: it cannot be sampled; atoms are named.
    """
    topology, system = molecule.topology, molecule.system
    check_free(topology, system, source)
    check_charges(topology, system, source)
    residues = list(topology.residues())
    tell("atoms", f"{topology.getNumAtoms()} in {len(residues)} residue{'s' if len(residues) > 1 else ''}")
    molecule = minimised(molecule, source, temperature, tell)
    if forms := unusual_forms(topology, molecule.positions):
        tell("unusual", f"{listed(forms)}; samples will have them, too")
    _check_coordinates(molecule, source, tell)
    _tell_engine(molecule, temperature, tell)
    return molecule


def minimised(molecule: Molecule, source: str, temperature: float, tell: Tell) -> Molecule:
    """The molecule at the minimum of its energy near its structure, with the same bonds and handedness.

    Raises:
        SystemDefinitionError: the energy is not finite, or minimisation tears or inverts the molecule.
    """
    import openmm
    from openmm import unit

    from bgdiff.targets.openmm import OpenMMTarget

    platform = OpenMMTarget(molecule.system, temperature).platform
    properties = {"Threads": "1", "DeterministicForces": "true"} if platform == "CPU" else {}
    integrator = openmm.VerletIntegrator(0.001)
    try:
        context = openmm.Context(
            molecule.system, integrator, openmm.Platform.getPlatformByName(platform), properties
        )
    except openmm.OpenMMException as error:
        raise SystemDefinitionError(f"{source}: OpenMM cannot evaluate the potential ({error})") from error
    context.setPositions(molecule.positions)
    before = _energy(context)
    if not np.isfinite(before):
        raise SystemDefinitionError(
            f"{source}: the energy is not finite; {_closest(molecule)}: mend the structure"
        )
    openmm.LocalEnergyMinimizer.minimize(context, 1.0, _STEPS)
    after = _energy(context)
    state: Any = context.getState(positions=True)
    x = np.array(state.getPositions(asNumpy=True).value_in_unit(unit.nanometer), dtype=np.float64)
    if not np.isfinite(after) or not np.isfinite(x).all():
        raise SystemDefinitionError(
            f"{source}: minimising the energy leads nowhere finite; mend the structure"
        )
    _check_same_molecule(molecule, x, source)
    _tell_strain(replace(molecule, positions=x), tell)
    tell("energy", f"{before:.1f} kJ/mol as given, {after:.1f} at the minimum nearby")
    return replace(molecule, positions=x)


def _check_same_molecule(molecule: Molecule, x: Array, source: str) -> None:
    atoms = list(molecule.topology.atoms())
    pairs = np.array(bond_pairs(molecule.topology), dtype=int).reshape(-1, 2)
    old, new = (np.linalg.norm(p[pairs[:, 0]] - p[pairs[:, 1]], axis=1) for p in (molecule.positions, x))
    torn = np.flatnonzero((new > 0.3) | ((new > _STRETCH * old) & (new > 0.2)))
    if len(torn):
        first, second = pairs[torn[0]]
        raise SystemDefinitionError(
            f"{source}: minimising the energy tears the bond of {atom_label(atoms[first])} with "
            f"{atom_label(atoms[second])} (to {10 * new[torn[0]]:.1f} Å): the potential does not hold it"
        )
    centres = stereocentres(molecule.topology)
    inverted = np.flatnonzero(handedness(molecule.positions, centres) != handedness(x, centres))
    if len(inverted):
        names = listed(atom_label(atoms[centres[int(index)][0]]) for index in inverted)
        raise SystemDefinitionError(
            f"{source}: minimising the energy turns the handedness of {names} around; mend the structure "
            "there (it is far from its minimum, or hydrogens are misplaced)"
        )


def _tell_strain(molecule: Molecule, tell: Tell) -> None:
    """Tell of the angle that is farthest from its rest, if that is as far as in a knot."""
    import openmm

    atoms = list(molecule.topology.atoms())
    worst, text = _STRAINED, ""
    for force in molecule.system.getForces():
        if not isinstance(force, openmm.HarmonicAngleForce):
            continue
        for index in range(force.getNumAngles()):
            i, j, k, rest, _ = force.getAngleParameters(index)
            first, second = molecule.positions[[i, k]] - molecule.positions[j]
            angle = np.arctan2(np.linalg.norm(np.cross(first, second)), first @ second)
            if abs(angle - rest._value) > worst:
                worst = abs(angle - rest._value)
                names = "-".join(atoms[index].name for index in (i, j, k))
                text = (
                    f"the angle {names} of {residue_label(atoms[j].residue)} is {np.degrees(angle):.0f} "
                    f"degrees, {np.degrees(worst):.0f} from its rest: the structure may be caught in a knot"
                )
    if text:
        tell("strain", text)


def _check_coordinates(molecule: Molecule, source: str, tell: Tell) -> None:
    """Internal coordinates must exist, and give the structure back."""
    import mdtraj
    import torch

    from bgdiff.coordinates import ZMatrixMap
    from bgdiff.preparation import molecular_zmatrix

    topology = molecule.topology
    try:
        zmatrix = molecular_zmatrix(mdtraj.Topology.from_openmm(topology))
    except SystemDefinitionError as error:
        raise SystemDefinitionError(f"{source}: {error}") from error
    x = torch.from_numpy(molecule.positions)[None]
    bonds, angles, torsions = ZMatrixMap(zmatrix).to_internal(x)
    straight = torch.nonzero(torch.sin(angles[0]) < _STRAIGHT)[:, 0].tolist()
    if straight:
        atoms = list(topology.atoms())
        row = straight[0] + 2
        names = (zmatrix.atom[row], zmatrix.bond[row], zmatrix.angle[row])
        raise SystemDefinitionError(
            f"{source}: the angle of {', '.join(atom_label(atoms[int(index)]) for index in names)} is "
            "straight, where internal coordinates break down; molecules with linear groups (nitriles, "
            "alkynes) are not covered"
        )
    again = ZMatrixMap(zmatrix).to_cartesian(bonds, angles, torsions)
    worst = float((torch.pdist(again[0]) - torch.pdist(x[0])).abs().max())
    if worst > 1e-6:
        raise SystemDefinitionError(
            f"{source}: internal coordinates do not give the structure back (distances are off by "
            f"{worst:.1g} nm)"
        )
    count = 3 * topology.getNumAtoms() - 6
    tell("coordinates", f"{count} internal coordinates; data need at least {10 * count} frames")


def _tell_engine(molecule: Molecule, temperature: float, tell: Tell) -> None:
    from bgdiff.targets.forcefield.parser import parse_system
    from bgdiff.targets.openmm import OpenMMTarget

    try:
        parse_system(molecule.system)
    except UnsupportedSystem as error:
        platform = OpenMMTarget(molecule.system, temperature).platform
        tell("evaluated by", f"OpenMM's {platform} platform, one conformation at a time, because {error}")
    else:
        tell("evaluated by", "the batched engine")


def _energy(context: "openmm.Context") -> float:
    """kJ/mol."""
    from openmm import unit

    state: Any = context.getState(energy=True)
    return float(state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole))


def _closest(molecule: Molecule) -> str:
    from scipy.spatial.distance import pdist, squareform

    distances = squareform(pdist(molecule.positions)) + np.diag(np.full(len(molecule.positions), np.inf))
    first, second = np.unravel_index(int(distances.argmin()), distances.shape)
    atoms: list[app.topology.Atom] = list(molecule.topology.atoms())
    return (
        f"the closest atoms are {atom_label(atoms[first])} and {atom_label(atoms[second])}, "
        f"{10 * distances[first, second]:.2f} Å apart"
    )
