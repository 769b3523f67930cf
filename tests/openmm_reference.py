"""Energies and forces from OpenMM's Reference platform, group by group: the truth for the batched engine."""

import numpy as np
import openmm
from numpy.typing import NDArray
from openmm import unit

GROUP_OF_FORCE = {
    "HarmonicBondForce": "bonds",
    "HarmonicAngleForce": "angles",
    "PeriodicTorsionForce": "torsions",
    "CMAPTorsionForce": "cmaps",
    "NonbondedForce": "pairs",
    "GBSAOBCForce": "born",
    "CustomGBForce": "born",
}


def reference_groups(
    system: openmm.System, x: NDArray[np.float64]
) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Energies ``(B,)`` in kJ/mol and forces ``(B, N, 3)`` in kJ/mol/nm of each group the System has."""
    system = openmm.XmlSerializer.clone(system)
    names = [GROUP_OF_FORCE.get(type(force).__name__) for force in system.getForces()]
    groups = sorted({name for name in names if name})
    for force, name in zip(system.getForces(), names, strict=True):
        force.setForceGroup(groups.index(name) if name else 31)
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    results = {name: (np.empty(len(x)), np.empty_like(x)) for name in groups}
    for row, positions in enumerate(x):
        context.setPositions(positions)
        for index, name in enumerate(groups):
            state = context.getState(energy=True, forces=True, groups={index})
            energy, force = results[name]
            energy[row] = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
            force[row] = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer)
    return results
