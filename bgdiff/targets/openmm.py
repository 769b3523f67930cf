"""Molecules whose energy OpenMM evaluates."""

from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self
from xml.etree import ElementTree

import numpy as np
import openmm
import torch
from openmm import unit
from torch import Tensor

from bgdiff.errors import SystemDefinitionError
from bgdiff.targets.differentiable import check_conformations, differentiable_energy_and_force
from bgdiff.targets.openmm_rows import RowEvaluator
from bgdiff.targets.pool import RowPool

__all__ = ["GAS_CONSTANT", "OpenMMTarget", "read_system"]

GAS_CONSTANT = 8.31446261815324e-3
"""Molar gas constant in kJ/(mol K), exact in the SI of 2019; kT of one mole is ``GAS_CONSTANT * T``."""

_MASSLESS = 0 * unit.dalton
_REFERENCE_LIMIT = 64  # atoms; below it OpenMM's Reference platform beats the single-threaded CPU platform


def read_system(path: Path | str) -> openmm.System:
    """Deserialise an ``openmm.System`` from its XML file.

    Raises:
        SystemDefinitionError: the file is missing or is not the XML of a System.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        ElementTree.fromstring(
            text
        )  # OpenMM reads a file that is cut off as a System without its last forces
        system = openmm.XmlSerializer.deserialize(text)
    except OSError as error:
        raise SystemDefinitionError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (openmm.OpenMMException, ElementTree.ParseError, ValueError) as error:
        raise SystemDefinitionError(f"{path}: is not a serialised OpenMM System ({error})") from error
    if not isinstance(system, openmm.System):
        raise SystemDefinitionError(f"{path}: holds an OpenMM {type(system).__name__}, not a System")
    return system


class OpenMMTarget:
    """Boltzmann density of an ``openmm.System`` at one temperature: u(x) = U(x) / (R T).

    Conformations ``x`` are ``(B, N, 3)`` in nm, with any number of batch dimensions B, any float dtype, on
    any device; energies ``(B,)`` and forces -du/dx ``(B, N, 3)`` in kT/nm come back as float64 on the device
    of ``x``. They are evaluated row by row, in double precision on the Reference platform, which is the
    fastest one for a small molecule in vacuum (26 000 energies/s for 22 atoms), or in mixed precision on the
    single-threaded CPU platform for more than 64 atoms or a ``CustomGBForce``. Nothing is remembered from
    one call to the next.

    Energies are differentiable twice and forces once, see :mod:`bgdiff.targets.differentiable`; second
    derivatives always come from the Reference platform.

    Contexts and worker processes start at first use and are left out of pickles, so a target can be sent to
    other processes. Threads may share a target; they wait for each other.

    Args:
        system: every degree of freedom must be free: no constraints, virtual sites, frozen particles or
            periodic box.
        temperature: in K.
        platform: name of an OpenMM platform; chosen by the rule above if None.
        processes: number of worker processes for large batches, see :class:`~bgdiff.targets.pool.RowPool`;
            1 for none. Results do not depend on it. Stop them with :meth:`close` or a ``with`` block.

    Raises:
        SystemDefinitionError: the system has no density on all 3N coordinates, or the platform is unknown.
        ConfigError: ``processes`` is not a positive number.
    """

    def __init__(
        self,
        system: openmm.System,
        temperature: float,
        platform: str | None = None,
        *,
        processes: int = 1,
    ) -> None:
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
        self._pool = RowPool(RowEvaluator(system, self.platform), processes)

    @property
    def event_shape(self) -> tuple[int, int]:
        return self.system.getNumParticles(), 3

    @property
    def kT(self) -> float:  # noqa: N802
        """Thermal energy R T in kJ/mol."""
        return GAS_CONSTANT * self.temperature

    @property
    def processes(self) -> int:
        """Worker processes used for large batches."""
        return self._pool.processes

    def energy(self, x: Tensor) -> Tensor:
        """Reduced energies ``(B,)``; nan in a row whose coordinates are not finite.

        Raises:
            DataError: x has another shape or dtype than conformations have.
            WorkerError: a worker process died.
        """
        check_conformations(x, self.event_shape[0])
        if x.requires_grad and torch.is_grad_enabled():
            return self.energy_and_force(x)[0]
        return self._evaluate(x, forces=False)[0]

    def energy_and_force(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Reduced energies ``(B,)`` and forces -du/dx ``(B, N, 3)`` in kT/nm; nan if a row is not finite.

        Raises:
            DataError: x has another shape or dtype than conformations have.
            WorkerError: a worker process died.
        """
        check_conformations(x, self.event_shape[0])
        return differentiable_energy_and_force(
            self._energy_and_force, x, precise=partial(self._energy_and_force, precise=True)
        )

    def describe(self) -> str:
        """Which program evaluates the energies, and how; one line for logs and results."""
        return f"OpenMM {openmm.__version__}, {self.platform} platform"

    def close(self) -> None:
        """Stop the worker processes, if any were started; a later call would start new ones."""
        self._pool.close()

    def _energy_and_force(self, x: Tensor, *, precise: bool = False) -> tuple[Tensor, Tensor]:
        energy, force = self._evaluate(x, forces=True, precise=precise)
        assert force is not None
        return energy, force

    def _evaluate(self, x: Tensor, *, forces: bool, precise: bool = False) -> tuple[Tensor, Tensor | None]:
        rows = x.detach().to("cpu", torch.float64).reshape(-1, *self.event_shape).numpy()
        energy, force = self._pool(rows, forces=forces, precise=precise)
        return (
            torch.from_numpy(energy / self.kT).to(x.device).reshape(x.shape[:-2]),
            None if force is None else torch.from_numpy(force / self.kT).to(x.device).reshape(x.shape),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

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
    for force in system.getForces():
        if "Barostat" in type(force).__name__:
            raise SystemDefinitionError(
                f"the OpenMM System has a barostat ({type(force).__name__}); remove it: a molecule alone in "
                "space has no pressure"
            )
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
