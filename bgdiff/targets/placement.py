"""Whether a potential cares where a molecule is and how it is turned."""

from pathlib import Path

import numpy as np
import openmm
from numpy.typing import NDArray
from openmm import unit

from bgdiff.errors import SystemDefinitionError
from bgdiff.targets.openmm import OpenMMTarget

__all__ = ["check_free_placement"]

_SHIFT = np.array([0.7, -0.4, 1.1])  # nm
_TURN = np.array([[0.36, 0.48, -0.80], [-0.80, 0.60, 0.0], [0.48, 0.64, 0.60]])  # a proper rotation
_ROUNDING = 1e-6  # relative, of tabulated functions and strained structures in double precision
_PLACED = (openmm.CustomExternalForce, openmm.CustomCentroidBondForce, openmm.CustomCompoundBondForce)


def check_free_placement(target: object, x: NDArray[np.float64], file: Path) -> None:
    """Refuse a potential that changes when the molecule is moved or turned as a whole.

    Internal coordinates leave rigid motions out, which is right only if the energy does not depend on them.
    The batched engine evaluates no force that could, so only targets that OpenMM evaluates are asked.

    Args:
        x: a conformation ``(N, 3)``, nm.
        file: that defines the potential, for the message.

    Raises:
        SystemDefinitionError: the energy depends on where the molecule is or how it is turned.
    """
    if not isinstance(target, OpenMMTarget):
        return
    here, *others = (_energy(target, place) for place in (x, x + _SHIFT, x @ _TURN.T))
    change = np.abs(np.array(others) - here)
    # atoms on top of each other have no energy to compare, which is told elsewhere
    if not np.isfinite(here) or (change < 1e-3 + _ROUNDING * abs(here)).all():
        return
    names = sorted(
        {type(force).__name__ for force in target.system.getForces() if isinstance(force, _PLACED)}
    )
    raise SystemDefinitionError(
        f"{file}: the potential depends on the molecule's place: the energy changes by {change[0]:.3g} kT if "
        f"it is moved and by {change[1]:.3g} kT if it is turned; internal coordinates leave both out. Remove "
        f"position restraints and external fields ({', '.join(names) or 'one of its forces'}), or restrain "
        "distances, angles or torsions instead"
    )


def _energy(target: OpenMMTarget, x: NDArray[np.float64]) -> float:
    """Reduced energy of x ``(N, 3)`` in double precision, by a Context that leaves no threads behind."""
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(target.system, openmm.VerletIntegrator(0.001), platform)
    try:
        context.setPositions(x)
        energy = context.getState(energy=True).getPotentialEnergy()
    except openmm.OpenMMException:
        return float("nan")
    return float(energy.value_in_unit(unit.kilojoules_per_mole)) / target.kT
