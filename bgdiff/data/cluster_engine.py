"""Lennard-Jones clusters on the compiled engine for molecules, an order of magnitude faster than torch."""

import torch
from torch import Tensor

from bgdiff.targets.base import Target
from bgdiff.targets.lennard_jones import LennardJones
from bgdiff.targets.pairs import pair_factor

__all__ = ["EngineCluster", "fastest"]

_LEAST_INSIDE = 59_000.0  # energy of a pair nearer than 0.4 r_m in units of its well's depth, or more


def fastest(target: Target) -> Target:
    """The same density by the fastest evaluator there is on this machine: for long simulations."""
    if not isinstance(target, LennardJones) or target.dimensions != 3:
        return target
    from bgdiff.targets.forcefield.kernel import kernel_status

    return target if kernel_status().variant is None else EngineCluster(target)


class EngineCluster:
    """A Lennard-Jones cluster in three dimensions, evaluated by the compiled kernel.

    To the kernel it is a molecule whose atoms are all bonded by springs of length 0, as
    ½ k Σ|x_i - x̄|² = k/2N Σ_{i<j} r_ij². Conformations whose energy says that two particles may be within
    0.4 r_m, where :class:`~bgdiff.targets.lennard_jones.LennardJones` is softer, are left to that class: both
    are the same function.

    Raises:
        KernelUnavailable: there is no compiled kernel on this machine.
    """

    def __init__(self, cluster: LennardJones) -> None:
        self.cluster = cluster
        depth = pair_factor("Lennard-Jones", cluster.pairs) * cluster.epsilon
        particles = cluster.particles
        self._limit = (_LEAST_INSIDE - particles * (particles - 1) / 2) * depth  # others attract at most so
        self._engine = _engine(particles, depth, cluster.r_min, cluster.oscillator)

    @property
    def event_shape(self) -> tuple[int, int]:
        return self.cluster.event_shape

    def energy(self, x: Tensor) -> Tensor:
        """Reduced energies ``(B,)`` of positions ``(B, N, 3)``."""
        return self.energy_and_force(x)[0]

    def energy_and_force(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Reduced energies ``(B,)`` and forces -du/dx ``(B, N, 3)``."""
        x = x.to(torch.float64)
        energy, force = self._engine.energy_and_force(x)
        near = ~(energy < self._limit)
        if near.any():
            energy, force = energy.clone(), force.clone()
            energy[near], force[near] = self.cluster.energy_and_force(x[near])
        return energy, force

    def __repr__(self) -> str:
        return f"{self.cluster!r} on {self._engine.describe()}"  # type: ignore[attr-defined]


def _engine(particles: int, depth: float, r_min: float, oscillator: float) -> Target:
    import openmm

    from bgdiff.targets.forcefield import ForceFieldTarget
    from bgdiff.targets.forcefield.parser import parse_system
    from bgdiff.targets.openmm import GAS_CONSTANT

    kelvin = 1.0 / GAS_CONSTANT  # where kT is 1 kJ/mol
    system = openmm.System()
    pairs, springs = openmm.NonbondedForce(), openmm.HarmonicBondForce()
    for i in range(particles):
        system.addParticle(1.0)
        pairs.addParticle(0.0, r_min / 2 ** (1 / 6), depth)
        for j in range(i):
            springs.addBond(j, i, 0.0, oscillator / particles)
    system.addForce(pairs)
    system.addForce(springs)
    return ForceFieldTarget(parse_system(system), kelvin, dtype=torch.float64, threads=1, engine="kernel")
