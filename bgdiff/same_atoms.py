"""Do two molecules have the same atoms in the same order? Only then can their potentials be compared."""

import math

from bgdiff.errors import SystemDefinitionError
from bgdiff.systems import System

__all__ = ["check_same_atoms"]

_MASS_TOLERANCE = 1e-3  # dalton: force fields round masses differently


def check_same_atoms(first: System, second: System) -> None:
    """Refuse two systems whose atoms differ in number, element, name, order or mass.

    Potentials may differ in everything else: charges, solvent, bonded terms, even bonds. Residues may have
    different names (as protonation states do), but must hold the same atoms.

    Raises:
        SystemDefinitionError: an atom differs, which the message names; or one of the systems is no molecule.
    """
    for system in (first, second):
        if system.topology is None:
            raise SystemDefinitionError(f"system {system.name} is not a molecule: it has no atoms to compare")
    assert first.topology is not None
    assert second.topology is not None
    names = f"systems {first.name} and {second.name} do not have the same atoms"
    pairs = list(zip(first.topology.atoms, second.topology.atoms, strict=False))
    for index, (one, two) in enumerate(pairs):
        if (one.name, one.element.symbol, one.residue.index) != (
            two.name,
            two.element.symbol,
            two.residue.index,
        ):
            hint = ""
            if sorted(map(str, first.topology.atoms)) == sorted(map(str, second.topology.atoms)):
                hint = (
                    "; they hold the same atoms in another order: reorder one of them, potential and topology"
                )
            raise SystemDefinitionError(
                f"{names}: atom {index} (counted from 0) is {one} ({one.element.symbol}) in the first and "
                f"{two} ({two.element.symbol}) in the second{hint}"
            )
    counts = first.topology.n_atoms, second.topology.n_atoms
    if counts[0] != counts[1]:
        longer = first.topology if counts[0] > counts[1] else second.topology
        raise SystemDefinitionError(
            f"{names}: {counts[0]} and {counts[1]}; atom {len(pairs)} (counted from 0) of the larger is "
            f"{longer.atom(len(pairs))}"
        )
    for index, masses in enumerate(zip(_masses(first), _masses(second), strict=True)):
        if not math.isclose(*masses, abs_tol=_MASS_TOLERANCE, rel_tol=0):
            raise SystemDefinitionError(
                f"{names}: atom {index} (counted from 0, {first.topology.atom(index)}) has a mass of "
                f"{masses[0]:g} in the first and {masses[1]:g} dalton in the second"
            )


def _masses(system: System) -> list[float]:
    """Of every atom, in dalton."""
    potential, atoms = system.openmm_system, system.target.event_shape[0]  # which checks their number
    return [float(potential.getParticleMass(index)._value) for index in range(atoms)]
