"""What moves a molecule: the batched engine, all walkers together, or OpenMM, one after the other."""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import openmm
import torch
from numpy.typing import NDArray
from openmm import unit
from torch import Tensor

from bgdiff.data.starts import far_side, start_structure
from bgdiff.errors import SystemDefinitionError
from bgdiff.random import derive_seed, generator_for
from bgdiff.sampling import (
    HamiltonianMonteCarlo,
    InTurn,
    LangevinMiddle,
    Move,
    Rotor,
    TorsionJump,
    UnstableDynamicsError,
    Walkers,
    thermal_speed,
)
from bgdiff.system_spec import ObservableSpec
from bgdiff.systems import System
from bgdiff.targets.base import Target
from bgdiff.targets.choose import Engine, describe_target, molecular_target
from bgdiff.targets.openmm import GAS_CONSTANT, OpenMMTarget

__all__ = ["Molecule", "OpenMMLangevin", "Simulator", "openmm_seed", "simulator_of"]

log = logging.getLogger(__name__)

_JITTER = 0.1  # of HMC's step


@dataclass(frozen=True)
class Molecule:
    """What a simulation needs of a system, in a form that pickles."""

    system_xml: str
    structure: NDArray[np.float64]
    """``(N, 3)`` nm."""
    bonds: tuple[tuple[int, int], ...]
    starts: tuple[dict[tuple[int, ...], float], ...]
    """Torsions (rad, by atom indices) of each start."""
    rotors: tuple[Rotor, ...] = ()
    """Bonds about which parallel tempering turns the molecule."""
    structures: NDArray[np.float64] | None = None
    """``(S, N, 3)`` nm: where starts are structures of their own instead of torsions."""

    @cached_property
    def system(self) -> openmm.System:
        return openmm.XmlSerializer.deserialize(self.system_xml)

    @cached_property
    def masses(self) -> Tensor:
        """``(N,)`` dalton."""
        particles = range(self.system.getNumParticles())
        masses = [self.system.getParticleMass(index).value_in_unit(unit.dalton) for index in particles]
        return torch.tensor(masses, dtype=torch.float64)

    def start(self, index: int) -> NDArray[np.float64]:
        """Return the minimised structure ``(N, 3)`` of start ``index``."""
        if self.structures is not None:
            return start_structure(self.system, self.structures[index], self.bonds, {})
        return start_structure(self.system, self.structure, self.bonds, self.starts[index])


@dataclass(frozen=True)
class Simulator:
    """Makes the moves of a molecule at a temperature (K).

    Mixed precision, as in MD programs: a batched ``target`` evaluates in single precision, everything else is
    double. HMC stays exact for the density of the rounded energies, which differ by 1e-4 kT for small
    molecules: its trajectories are reversible whatever the force. If ``target`` is OpenMM's evaluator, the
    moves are OpenMM's own integrators, in double precision on the Reference platform or in mixed precision
    on the CPU platform, whichever evaluates faster.
    """

    molecule: Molecule
    target: Target
    temperature: float
    step_fs: float
    friction_per_ps: float

    @property
    def batched(self) -> bool:
        """Whether walkers are advanced together, so that many cost little more than one."""
        return not isinstance(self.target, OpenMMTarget)

    def steps(self, picoseconds: float) -> int:
        return round(picoseconds * 1000 / self.step_fs)

    @cached_property
    def speed(self) -> Tensor:
        return thermal_speed(self.molecule.masses, self.temperature)

    def langevin(self, steps: int, seed: int) -> Move:
        """Langevin dynamics with the middle scheme.

        Args:
            steps: of every call.
            seed: of OpenMM's integrator, which makes its own random numbers.
        """
        if isinstance(self.target, OpenMMTarget):
            return OpenMMLangevin(self, self.target.platform, steps, seed)
        return LangevinMiddle(self.target, self.speed, self.step_fs / 1000, self.friction_per_ps, steps)

    def tempering_move(self, steps: int, seed: int) -> Move:
        """The move of parallel tempering: HMC, exact however long the step; with OpenMM, Langevin dynamics.

        HMC's velocities persist so that walkers cross barriers like Langevin dynamics of the same friction.
        Then a torsion jump, if there are bonds to turn: it makes hot walkers change basin several times as
        often, at the price of one energy.
        """
        if self.batched:
            step = self.step_fs / 1000
            persistence = math.exp(-self.friction_per_ps * step * steps)
            move: Move = HamiltonianMonteCarlo(self.target, self.speed, step, steps, _JITTER, persistence)
        else:
            move = self.langevin(steps, seed)
        rotors = self.molecule.rotors
        return InTurn([move, TorsionJump(self.target, rotors)]) if rotors else move

    def start_velocities(self, x: Tensor, seed: int, *keys: int | str) -> Tensor:
        """Draw Maxwell-Boltzmann velocities for conformations ``(B, N, 3)``."""
        if self.batched:
            shape = x.shape
            noise = torch.randn(shape, generator=generator_for(seed, *keys), dtype=torch.float64)
            return noise * self.speed
        assert isinstance(self.target, OpenMMTarget)
        number = openmm_seed(seed, *keys)
        context = OpenMMLangevin(self, self.target.platform, 0, number).context
        velocities = []
        for row, conformation in enumerate(x):
            context.setPositions(conformation.numpy())
            context.setVelocitiesToTemperature(self.temperature, number + row)
            state = context.getState(velocities=True)
            velocities.append(state.getVelocities(asNumpy=True).value_in_unit_system(unit.md_unit_system))
        return torch.from_numpy(np.array(velocities))

    def describe(self) -> str:
        """One line for provenance."""
        return describe_target(self.target)


class OpenMMLangevin:
    """OpenMM's LangevinMiddleIntegrator as a :class:`~bgdiff.sampling.walkers.Move`, walker by walker.

    Its random numbers follow from ``seed`` alone, as long as calls come in the same order.
    """

    def __init__(self, simulator: Simulator, platform: str, steps: int, seed: int) -> None:
        self.temperature, self.steps = simulator.temperature, steps
        self.kT = GAS_CONSTANT * simulator.temperature
        self.integrator = openmm.LangevinMiddleIntegrator(
            simulator.temperature, simulator.friction_per_ps, simulator.step_fs / 1000
        )
        self.integrator.setRandomNumberSeed(seed)
        properties = {"Threads": "1", "DeterministicForces": "true"} if platform == "CPU" else {}
        self.context = openmm.Context(
            simulator.molecule.system,
            self.integrator,
            openmm.Platform.getPlatformByName(platform),
            properties,
        )

    def __call__(
        self, walkers: Walkers, generator: torch.Generator, temperature: Tensor | None = None
    ) -> Tensor:
        """Advance by ``steps``.

        Raises:
            UnstableDynamicsError: OpenMM gave up, or the energy of a walker is no longer finite.
        """
        assert walkers.velocity is not None
        tau = [1.0] * len(walkers) if temperature is None else temperature.tolist()
        for row, scale in enumerate(tau):
            self.integrator.setTemperature(self.temperature * scale)
            self.context.setPositions(walkers.x[row].numpy())
            self.context.setVelocities(walkers.velocity[row].numpy())
            try:
                self.integrator.step(self.steps)
            except openmm.OpenMMException as error:
                raise UnstableDynamicsError(f"the dynamics of walker {row} exploded ({error})") from error
            state = self.context.getState(positions=True, velocities=True, energy=True, forces=True)
            energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
            walkers.energy[row] = energy / self.kT
            for tensor, quantity in (
                (walkers.x, state.getPositions(asNumpy=True)),
                (walkers.velocity, state.getVelocities(asNumpy=True)),
                (walkers.force, state.getForces(asNumpy=True) / self.kT),
            ):
                tensor[row] = torch.from_numpy(quantity.value_in_unit_system(unit.md_unit_system))
        if len(bad := walkers.non_finite()):
            raise UnstableDynamicsError(
                f"the dynamics of walker {bad[0]} exploded (its energy is not finite); reduce the time step"
            )
        return torch.ones(len(walkers), dtype=torch.float64)


def simulator_of(
    system: System,
    starts: Sequence[Mapping[str, float]],
    step_fs: float,
    friction_per_ps: float,
    engine: Engine = "auto",
    structures: NDArray[np.float64] | None = None,
) -> Simulator:
    """Collect what simulates a system, with the batched engine if it can and ``engine`` does not forbid it.

    Args:
        starts: torsions in degrees by observable name.
        structures: to start from instead, ``(S, N, 3)`` nm.

    Raises:
        SystemDefinitionError: the system is no molecule, or has no density on all coordinates.
        UnsupportedSystem: ``engine`` insists on an engine that does not cover the system.
    """
    topology, observables = system.topology, system.spec.observables
    if topology is None:
        raise SystemDefinitionError(f"system {system.name} is not a molecule")
    bonds = tuple((first.index, second.index) for first, second in topology.bonds)
    molecule = Molecule(
        system_xml=openmm.XmlSerializer.serialize(system.openmm_system),
        structure=system.structure,
        bonds=bonds,
        starts=tuple(
            {observables[name].particles: float(np.radians(angle)) for name, angle in start.items()}
            for start in starts
        ),
        rotors=_rotors(bonds, topology.n_atoms, observables.values()),
        structures=structures,
    )
    target = system.target  # its making checks that topology, potential and observables fit each other
    if engine != "auto" or not isinstance(target, OpenMMTarget):  # else its reasons are told already
        # One thread, because batches run side by side in processes.
        target = molecular_target(
            system.openmm_system, system.temperature, engine=engine, dtype=torch.float32, threads=1
        )
    simulator = Simulator(molecule, target, system.temperature, step_fs, friction_per_ps)
    log.info("%s: simulated by %s", system.name, simulator.describe())
    return simulator


def _rotors(
    bonds: Sequence[tuple[int, int]], n_atoms: int, observables: Iterable[ObservableSpec]
) -> tuple[Rotor, ...]:
    """Bonds that the observed torsions turn about, rings excepted."""
    rotors = {}
    for spec in observables:
        if spec.dihedral:
            bond = spec.dihedral[1], spec.dihedral[2]
            with suppress(SystemDefinitionError):
                rotors[frozenset(bond)] = Rotor(bond, tuple(far_side(n_atoms, bonds, *bond)))
    return tuple(rotors.values())


def openmm_seed(seed: int, *keys: int | str) -> int:
    """Return a seed in the range OpenMM takes; never 0, which means "a random one"."""
    return derive_seed(seed, *keys) % (2**31 - 1) + 1
