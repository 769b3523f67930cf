"""Molecules whose energy OpenMM evaluates."""

from pathlib import Path
from typing import Any

import numpy as np
import openmm
import torch
from openmm import unit
from torch import Tensor

from bgdiff.errors import DataError, SystemDefinitionError

__all__ = ["GAS_CONSTANT", "OpenMMTarget", "read_system"]

GAS_CONSTANT = 8.31446261815324e-3
"""Molar gas constant in kJ/(mol K), exact in the SI of 2019; kT of one mole is ``GAS_CONSTANT * T``."""

_ENERGY = unit.kilojoule_per_mole
_FORCE = unit.kilojoule_per_mole / unit.nanometer
_MASSLESS = 0 * unit.dalton
_REFERENCE_LIMIT = 64  # atoms; below it OpenMM's Reference platform beats the single-threaded CPU platform


def read_system(path: Path | str) -> openmm.System:
    """Deserialise an ``openmm.System`` from its XML file.

    Raises:
        SystemDefinitionError: the file is missing or is not the XML of a System.
    """
    path = Path(path)
    try:
        system = openmm.XmlSerializer.deserialize(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SystemDefinitionError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (openmm.OpenMMException, ValueError) as error:
        raise SystemDefinitionError(f"{path}: is not a serialised OpenMM System ({error})") from error
    if not isinstance(system, openmm.System):
        raise SystemDefinitionError(f"{path}: holds an OpenMM {type(system).__name__}, not a System")
    return system


class OpenMMTarget:
    """Boltzmann density of an ``openmm.System`` at one temperature: u(x) = U(x) / (R T).

    Conformations ``x`` are ``(B, N, 3)`` in nm, any float dtype or device; energies ``(B,)`` and forces
    -du/dx ``(B, N, 3)`` in kT/nm come back as float64 on the device of ``x``. They are evaluated row by row
    in double precision on the Reference platform, which is the fastest one for a small molecule in vacuum
    (26 000 energies/s for 22 atoms), or in mixed precision on the single-threaded CPU platform for more
    than 64 atoms or a ``CustomGBForce``. Gradients do not flow through: use the forces.

    The context is created at first use and left out of pickles, so a target can be sent to other processes.

    Args:
        system: every degree of freedom must be free: no constraints, virtual sites, frozen particles or
            periodic box.
        temperature: in K.
        platform: name of an OpenMM platform; chosen by the rule above if None.

    Raises:
        SystemDefinitionError: the system has no density on all 3N coordinates, or the platform is unknown.
    """

    def __init__(self, system: openmm.System, temperature: float, platform: str | None = None) -> None:
        if not temperature > 0 or not np.isfinite(temperature):
            raise SystemDefinitionError(
                f"temperature: must be a positive number of kelvin, not {temperature}"
            )
        _check_free(system)
        if platform is not None:
            _check_platform(platform)
        self.system = system
        self.temperature = float(temperature)
        self.platform = platform or _default_platform(system)
        self._context: openmm.Context | None = None

    @property
    def event_shape(self) -> tuple[int, int]:
        return self.system.getNumParticles(), 3

    @property
    def kT(self) -> float:  # noqa: N802
        """Thermal energy R T in kJ/mol."""
        return GAS_CONSTANT * self.temperature

    def energy(self, x: Tensor) -> Tensor:
        """Reduced energies ``(B,)``; nan in a row whose coordinates are not finite."""
        return self._evaluate(x, forces=False)[0]

    def energy_and_force(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Reduced energies ``(B,)`` and forces -du/dx ``(B, N, 3)`` in kT/nm; nan if a row is not finite."""
        energy, force = self._evaluate(x, forces=True)
        assert force is not None
        return energy, force

    def _evaluate(self, x: Tensor, *, forces: bool) -> tuple[Tensor, Tensor | None]:
        atoms = self.event_shape[0]
        if x.ndim != 3 or tuple(x.shape[1:]) != (atoms, 3):
            raise DataError(f"conformations must have shape (B, {atoms}, 3), not {tuple(x.shape)}")
        positions = x.detach().to("cpu", torch.float64).numpy()
        energy = np.full(len(positions), np.nan)
        force = np.full(positions.shape, np.nan) if forces else None
        context = self._get_context()
        for row in np.flatnonzero(np.isfinite(positions).all(axis=(1, 2))):
            context.setPositions(positions[row])
            try:
                state = context.getState(energy=True, forces=forces)
            except openmm.OpenMMException:  # a platform that refuses coincident atoms: the row stays nan
                continue
            energy[row] = state.getPotentialEnergy().value_in_unit(_ENERGY)
            if force is not None:
                force[row] = state.getForces(asNumpy=True).value_in_unit(_FORCE)
        energy /= self.kT
        if force is not None:
            force /= self.kT
        return (
            torch.from_numpy(energy).to(x.device),
            None if force is None else torch.from_numpy(force).to(x.device),
        )

    def _get_context(self) -> openmm.Context:
        if self._context is None:
            platform = openmm.Platform.getPlatformByName(self.platform)
            properties = {"Threads": "1"} if self.platform == "CPU" else {}
            integrator = openmm.VerletIntegrator(0.001)
            self._context = openmm.Context(self.system, integrator, platform, properties)
        return self._context

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_context": None}

    def __repr__(self) -> str:
        return f"OpenMMTarget({self.event_shape[0]} atoms, {self.temperature:g} K, {self.platform})"


def _check_free(system: openmm.System) -> None:
    atoms = system.getNumParticles()
    if atoms == 0:
        raise SystemDefinitionError("the OpenMM System has no particles")
    if system.getNumConstraints():
        raise SystemDefinitionError(
            f"the OpenMM System has {system.getNumConstraints()} constraints, so its density does not "
            "cover all coordinates; create it with constraints=None and rigidWater=False"
        )
    if system.usesPeriodicBoundaryConditions():
        raise SystemDefinitionError("the OpenMM System is periodic; use nonbondedMethod=NoCutoff")
    for index in range(atoms):
        if system.isVirtualSite(index) or system.getParticleMass(index) == _MASSLESS:
            raise SystemDefinitionError(
                f"particle {index} of the OpenMM System is a virtual site or is frozen"
            )


def _check_platform(name: str) -> None:
    known = [openmm.Platform.getPlatform(i).getName() for i in range(openmm.Platform.getNumPlatforms())]
    if name not in known:
        raise SystemDefinitionError(
            f"OpenMM platform {name!r} is not available; choose one of {', '.join(known)}"
        )


def _default_platform(system: openmm.System) -> str:
    slow = any(isinstance(force, openmm.CustomGBForce) for force in system.getForces())
    return "CPU" if slow or system.getNumParticles() > _REFERENCE_LIMIT else "Reference"
