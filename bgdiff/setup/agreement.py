"""Whether a System and a topology are of the same atoms, and whether every degree of freedom is free."""

from pathlib import Path
from typing import TYPE_CHECKING

from bgdiff.errors import SystemDefinitionError
from bgdiff.setup.molecule import atom_label, bond_pairs, listed

if TYPE_CHECKING:
    import openmm
    from openmm import app

__all__ = ["bonds_of", "check_charges", "check_free", "check_same_atoms"]

_TOLERANCE = 1e-4  # elementary charges; force field files round to more digits


def bonds_of(system: "openmm.System") -> list[tuple[int, int]]:
    """Pairs of atoms that a HarmonicBondForce or a CustomBondForce joins, each once."""
    import openmm

    pairs: dict[tuple[int, int], None] = {}
    for force in system.getForces():
        if isinstance(force, openmm.HarmonicBondForce | openmm.CustomBondForce):
            for index in range(force.getNumBonds()):
                first, second = force.getBondParameters(index)[:2]
                pairs[min(first, second), max(first, second)] = None
    return list(pairs)


def check_same_atoms(path: Path, topology: "app.Topology", system: "openmm.System") -> None:
    """Refuse a topology whose atoms are not those of the potential, in the same order.

    Masses tell hydrogens from heavy atoms; bonds of the potential must be bonds of the topology.

    Raises:
        SystemDefinitionError: it names the first atom or bond that differs.
    """
    import openmm
    from openmm import unit

    atoms = list(topology.atoms())
    if len(atoms) != system.getNumParticles():
        raise SystemDefinitionError(
            f"{path}: has {len(atoms)} atoms, but the System has {system.getNumParticles()} particles; give "
            "the topology that the System was made of"
        )
    for atom in atoms:
        mass = system.getParticleMass(atom.index).value_in_unit(unit.dalton)
        light = atom.element.symbol == "H"
        if mass > 0 and light != (mass < 4.5):  # hydrogens may have been made heavier, up to 4
            raise SystemDefinitionError(
                f"{path}: atom {atom.index}, {atom_label(atom)}, is {atom.element.name}, but particle "
                f"{atom.index} of the System has mass {mass:g}; give the topology that the System was made "
                "of, in the same order"
            )
    harmonic = [force for force in system.getForces() if isinstance(force, openmm.HarmonicBondForce)]
    known = {(min(pair), max(pair)) for pair in bond_pairs(topology)}
    if not harmonic or not known:
        return
    for index in range(harmonic[0].getNumBonds()):
        first, second = harmonic[0].getBondParameters(index)[:2]
        if (min(first, second), max(first, second)) not in known:
            raise SystemDefinitionError(
                f"{path}: has no bond of {atom_label(atoms[first])} with {atom_label(atoms[second])} (atoms "
                f"{first} and {second}), which the System has; give the topology that the System was made "
                "of, in the same order and with CONECT records for residues that are not standard"
            )


def check_free(topology: "app.Topology", system: "openmm.System", source: str) -> None:
    """Refuse a potential that has no density on all coordinates, or that changes what is sampled.

    Args:
        source: what to call the potential.

    Raises:
        SystemDefinitionError: constraints, virtual sites, frozen atoms, a periodic box or a barostat;
            atoms are named.
    """
    from openmm import unit

    atoms = list(topology.atoms())
    if count := system.getNumConstraints():
        first, second, _ = system.getConstraintParameters(0)
        raise SystemDefinitionError(
            f"{source}: has {count} constraints, the first between {atom_label(atoms[first])} and "
            f"{atom_label(atoms[second])}; all degrees of freedom must be free: create it with "
            "constraints=None and rigidWater=False"
        )
    if sites := [atom for atom in atoms if system.isVirtualSite(atom.index)]:
        raise SystemDefinitionError(
            f"{source}: has {len(sites)} virtual sites: {listed(map(atom_label, sites))}; take a force "
            "field without"
        )
    massless = 0 * unit.dalton
    if frozen := [atom for atom in atoms if system.getParticleMass(atom.index) == massless]:
        raise SystemDefinitionError(
            f"{source}: has {len(frozen)} frozen atoms (of mass 0): {listed(map(atom_label, frozen))}; give "
            "them their masses"
        )
    names = [type(force).__name__ for force in system.getForces()]
    if barostats := [name for name in names if "Barostat" in name]:
        raise SystemDefinitionError(
            f"{source}: has a barostat ({barostats[0]}), which changes the volume of a box; remove it: a "
            "molecule alone in space has no pressure"
        )
    if system.usesPeriodicBoundaryConditions():
        raise SystemDefinitionError(
            f"{source}: is periodic; create it with nonbondedMethod=NoCutoff, without solvent"
        )


def check_charges(topology: "app.Topology", system: "openmm.System", source: str) -> None:
    """Refuse a generalised Born force whose charges are not those of the NonbondedForce.

    OpenMM's old files of implicit solvent number atom types as one force field does; with another they load
    silently and give nonsense.

    Raises:
        SystemDefinitionError: it names the first atom.
    """
    import openmm
    from openmm import unit

    forces = system.getForces()
    nonbonded = [force for force in forces if isinstance(force, openmm.NonbondedForce)]
    born = [force for force in forces if isinstance(force, openmm.GBSAOBCForce)]
    if len(nonbonded) != 1 or not born:
        return
    for atom in topology.atoms():
        own = nonbonded[0].getParticleParameters(atom.index)[0].value_in_unit(unit.elementary_charge)
        other = born[0].getParticleParameters(atom.index)[0].value_in_unit(unit.elementary_charge)
        if abs(own - other) > _TOLERANCE:
            raise SystemDefinitionError(
                f"{source}: {atom_label(atom)} has charge {own:.4f}, but {other:.4f} in its implicit "
                "solvent (GBSAOBCForce), as if the file of the solvent were made for another force field; "
                "use --implicit obc2"
            )
