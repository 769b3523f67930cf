"""Starting structures of a molecule with chosen torsions."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import openmm
from numpy.typing import NDArray
from openmm import unit

from bgdiff.data.observables import dihedral
from bgdiff.errors import SystemDefinitionError

__all__ = ["far_side", "set_torsion", "start_structure"]

Array = NDArray[np.float64]

_RESTRAINT = 500.0  # kJ/mol/rad²: about 4 degrees of slack at 300 K


def set_torsion(x: Array, bonds: Sequence[tuple[int, int]], atoms: Sequence[int], angle: float) -> Array:
    """Turn the far side of a molecule ``(N, 3)`` about the middle bond of ``atoms`` to ``angle`` (rad).

    Raises:
        SystemDefinitionError: the middle two atoms are not bonded, or their bond is part of a ring.
    """
    _, b, c, _ = atoms
    moving = far_side(len(x), bonds, b, c)
    axis = (x[c] - x[b]) / np.linalg.norm(x[c] - x[b])
    turn = angle - float(dihedral(x[None], atoms)[0])
    arm = x[moving] - x[c]
    rotated = (
        arm * np.cos(turn)
        + np.cross(axis, arm) * np.sin(turn)
        + np.outer(arm @ axis, axis) * (1 - np.cos(turn))
    )
    result = x.copy()
    result[moving] = x[c] + rotated
    return result


def start_structure(
    system: openmm.System,
    x: Array,
    bonds: Sequence[tuple[int, int]],
    torsions: Mapping[tuple[int, ...], float],
) -> Array:
    """Turn ``x`` ``(N, 3)`` nm to torsions (rad, by atom indices) and minimise while holding them."""
    for atoms, angle in torsions.items():
        x = set_torsion(x, bonds, atoms, angle)
    held = openmm.XmlSerializer.clone(system)
    restraint = openmm.CustomTorsionForce("k * (1 - cos(theta - theta0))")
    restraint.addGlobalParameter("k", _RESTRAINT)
    restraint.addPerTorsionParameter("theta0")
    for atoms, angle in torsions.items():
        restraint.addTorsion(*atoms, [angle])
    held.addForce(restraint)
    context = openmm.Context(
        held, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    context.setPositions(x)
    openmm.LocalEnergyMinimizer.minimize(context, 1.0)
    state: Any = context.getState(positions=True)
    return np.array(state.getPositions(asNumpy=True).value_in_unit(unit.nanometer), dtype=np.float64)


def far_side(atoms: int, bonds: Sequence[tuple[int, int]], fixed: int, start: int) -> list[int]:
    """Atoms reached from ``start`` without crossing the bond to ``fixed``, ``start`` among them.

    Raises:
        SystemDefinitionError: the two are not bonded, or their bond is part of a ring.
    """
    neighbours: list[list[int]] = [[] for _ in range(atoms)]
    for first, second in bonds:
        neighbours[first].append(second)
        neighbours[second].append(first)
    if fixed not in neighbours[start]:
        raise SystemDefinitionError(f"cannot set a torsion: atoms {fixed} and {start} are not bonded")
    seen, queue = {start}, deque([start])
    while queue:
        current = queue.popleft()
        for following in neighbours[current]:
            if current == start and following == fixed:
                continue
            if following == fixed:
                raise SystemDefinitionError(
                    f"cannot set a torsion: the bond {fixed}-{start} is part of a ring"
                )
            if following not in seen:
                seen.add(following)
                queue.append(following)
    return sorted(seen)
