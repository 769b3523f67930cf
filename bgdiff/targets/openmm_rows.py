"""Energies and forces of an ``openmm.System`` for NumPy batches, one conformation after the other.

This module knows nothing of torch, so that worker processes start quickly and stay small.
"""

import threading
from typing import Any

import numpy as np
import openmm
from numpy.typing import NDArray
from openmm import unit

from bgdiff.errors import SystemDefinitionError

__all__ = ["PRECISE_PLATFORM", "Floats", "RowEvaluator"]

Floats = NDArray[np.float64]

PRECISE_PLATFORM = "Reference"
"""The platform that computes everything in double precision."""

_ENERGY = unit.kilojoule_per_mole
_FORCE = unit.kilojoule_per_mole / unit.nanometer
_PROPERTIES = {"CPU": {"Threads": "1"}}  # processes share the cores; threads on top would oversubscribe them


class RowEvaluator:
    """Potential energy in kJ/mol and force in kJ/mol/nm of every row of a batch.

    Contexts are created at first use and left out of pickles. Calls from several threads wait for each
    other, because a context holds one set of positions.
    """

    def __init__(self, system: openmm.System, platform: str) -> None:
        self.system = system
        self.platform = platform
        self._reset()

    def __call__(self, x: Floats, *, forces: bool, precise: bool = False) -> tuple[Floats, Floats | None]:
        """Evaluate conformations ``(B, N, 3)`` in nm.

        A row whose coordinates are not finite, or which OpenMM refuses, is nan and leaves the others alone.

        Args:
            forces: whether to compute forces; None comes in their place otherwise.
            precise: use the Reference platform, in double precision, whatever the evaluator's own.

        Raises:
            SystemDefinitionError: the platform cannot take the System.
        """
        energy = np.full(len(x), np.nan)
        force = np.full(x.shape, np.nan) if forces else None
        with self._lock:
            context = self._context(PRECISE_PLATFORM if precise else self.platform)
            for row in np.flatnonzero(np.isfinite(x).all(axis=(1, 2))):
                try:
                    context.setPositions(x[row])
                    state = context.getState(energy=True, forces=forces)
                except openmm.OpenMMException:  # some platforms refuse coincident or far-away atoms
                    continue
                energy[row] = state.getPotentialEnergy().value_in_unit(_ENERGY)
                if force is not None:
                    force[row] = state.getForces(asNumpy=True).value_in_unit(_FORCE)
        return energy, force

    def _context(self, platform: str) -> openmm.Context:
        if platform not in self._contexts:
            integrator = openmm.VerletIntegrator(0.001)
            try:
                chosen = openmm.Platform.getPlatformByName(platform)
                context = openmm.Context(self.system, integrator, chosen, _PROPERTIES.get(platform, {}))
            except openmm.OpenMMException as error:
                raise SystemDefinitionError(
                    f"OpenMM's {platform} platform cannot take this System: {error}"
                ) from error
            self._contexts[platform] = context
        return self._contexts[platform]

    def _reset(self) -> None:
        self._contexts: dict[str, openmm.Context] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"system": self.system, "platform": self.platform}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()
