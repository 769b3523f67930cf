"""Monte Carlo moves in an OpenMM simulation whose proposals come from a trained generator.

MD explores a basin; a walk down the ladder starts afresh anywhere. Alternating the two samples the
Boltzmann distribution of the simulation's own potential, whatever the quality of the model, which decides
only how often proposals are accepted.

One move: the current conformation is noised up the ladder, which gives the path whose end it is (a Gibbs step
on the extended space), and the walks that are proposed replace it one after the other with probability
min(1, W'/W), as in :mod:`bgdiff.ladder.imh`. W contains the simulation's energy of the path's end, at the
place where it would be put: turned at random about the current centre of mass.

References: Tierney, Ann. Statist. 22, 1701 (1994); Nilmeier, Crooks, Minh & Chodera, PNAS 108, E1009 (2011).
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import openmm
import torch
from openmm import unit
from torch import Tensor

from bgdiff.errors import ConfigError, SystemDefinitionError
from bgdiff.ladder.imh import independent_chains
from bgdiff.random import derive_seed, generator_for
from bgdiff.targets.openmm import GAS_CONSTANT, OpenMMTarget

if TYPE_CHECKING:
    from openmm import app

    from bgdiff.generator import BoltzmannGenerator

__all__ = ["GeneratorMoves"]


class GeneratorMoves:
    """Jumps of a simulation to conformations that a generator proposes.

    The move is exact for the potential that the simulation integrates, biases and restraints included, at
    the temperature given. It adds no error to that of the integrator's finite step.

    When a proposal is accepted, velocities are drawn anew at the temperature; otherwise nothing changes.
    One move costs 2 K calls of the model for K rungs, each with all proposals, and one energy of OpenMM for
    each proposal.

    Args:
        simulation: all of its degrees of freedom must be free, as bgdiff wants it of its systems: no
            constraints, virtual sites or periodic box.
        generator: of the same atoms in the same order; another force field or temperature only costs
            acceptances.
        temperature: K; the integrator's own if None.
        proposals: how many walks are proposed in each move.
        seed: of the moves' random numbers; a simulation that is continued needs another one.

    Raises:
        ConfigError: there is no proposal, or no temperature to be found.
        SystemDefinitionError: the simulation is about other atoms, or not all of them are free.
    """

    def __init__(
        self,
        simulation: "app.Simulation",
        generator: "BoltzmannGenerator",
        *,
        temperature: float | None = None,
        proposals: int = 16,
        seed: int = 0,
    ) -> None:
        if proposals < 1:
            raise ConfigError(f"proposals: a move needs at least one, not {proposals}")
        self.generator, self.proposals, self.seed = generator, proposals, seed
        self._context: openmm.Context = simulation.context
        self.temperature = _temperature(simulation.integrator) if temperature is None else float(temperature)
        self._groups = simulation.integrator.getIntegrationForceGroups()
        system = self._context.getSystem()
        shape = OpenMMTarget(system, self.temperature).event_shape  # refuses what is not free
        if shape != generator.system.target.event_shape:
            raise SystemDefinitionError(
                f"the simulation has {shape[0]} particles, but system {generator.system.name}, which the "
                f"generator was trained for, has {generator.system.target.event_shape[0]}"
            )
        mass = [system.getParticleMass(k).value_in_unit(unit.dalton) for k in range(shape[0])]
        self._mass = torch.tensor(mass, dtype=torch.float64)[:, None] / sum(mass)
        self.n_moves = 0
        """Moves made so far."""
        self.n_proposed = 0
        """Walks proposed in them."""
        self.n_accepted = 0
        """Proposals accepted; in one move several may follow each other."""

    @property
    def acceptance(self) -> float:
        """Share of the proposals that were accepted so far; nan before the first move."""
        return self.n_accepted / self.n_proposed if self.n_proposed else float("nan")

    def attempt(self) -> bool:
        """Make one move; returns whether the simulation has jumped to another conformation.

        Raises:
            CorrectionError: the model's scores are not finite, or neither the current conformation nor any
                proposal has a finite energy.
        """
        before = self._context.getState(positions=True)
        try:
            return self._attempt(before)
        except BaseException:  # Ctrl-C as well: proposals lie in the Context while they are weighed
            self._context.setPositions(before.getPositions())
            raise

    def _attempt(self, before: openmm.State) -> bool:
        random = self._random("walks", self.generator.ladder.sigma.device)
        x = before.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
        x = torch.from_numpy(np.array(x, dtype=np.float64))
        proposed, log_weight = self._walks(x, random)
        log_weight = torch.cat([self._weight_of(x, random), log_weight])
        held = independent_chains(log_weight[None], self._random("acceptance"))[0]
        self.n_moves += 1
        self.n_proposed += self.proposals
        self.n_accepted += int((held.diff() != 0).sum())
        last = int(held[-1])
        if last == 0:
            self._context.setPositions(before.getPositions())
            return False
        self._context.setPositions(proposed[last - 1].numpy())
        seed = derive_seed(self.seed, "velocities", self.n_moves) % (2**31 - 1) + 1
        self._context.setVelocitiesToTemperature(self.temperature * unit.kelvin, seed)
        return True

    def _weight_of(self, x: Tensor, random: torch.Generator) -> Tensor:
        """log W ``(1,)`` of a path drawn upwards from x ``(N, 3)``."""
        z, log_det = self.generator.coordinates.to_z(x[None])
        up = self.generator.ladder.walk_up(z.to(self.generator.ladder.sigma.device), random)
        return up.log_ratio.cpu() - log_det - self._energies(x[None])

    def _walks(self, x: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Ends ``(P, N, 3)`` of new walks, placed where x ``(N, 3)`` is, and their log W ``(P,)``."""
        walks = self.generator.ladder.walk_down(self.proposals, random)
        ends, log_det = self.generator.coordinates.to_x(walks.z.cpu())
        turned = (ends - self._centre(ends)) @ _rotations(self.proposals, self._random("rotations"))
        placed = turned + self._centre(x)
        possible = torch.isfinite(log_det) & torch.isfinite(placed).all(-1).all(-1)
        log_weight = torch.full_like(log_det, -torch.inf)
        energy = self._energies(placed[possible])
        log_weight[possible] = (walks.log_ratio.cpu() + log_det)[possible] - energy
        return placed, log_weight

    def _energies(self, x: Tensor) -> Tensor:
        """Reduced energies ``(B,)`` of x ``(B, N, 3)`` in the simulation; inf where there is none."""
        found = []
        for one in x.numpy():
            self._context.setPositions(one)
            try:
                state = self._context.getState(energy=True, groups=self._groups)
                energy = state.getPotentialEnergy().value_in_unit(unit.kilojoules_per_mole)
            except openmm.OpenMMException:  # atoms on top of each other
                energy = np.inf
            found.append(energy if np.isfinite(energy) else np.inf)
        return torch.tensor(found, dtype=torch.float64) / (GAS_CONSTANT * self.temperature)

    def _centre(self, x: Tensor) -> Tensor:
        return (self._mass * x).sum(-2, keepdim=True)

    def _random(self, purpose: str, device: "torch.device | str" = "cpu") -> torch.Generator:
        return generator_for(self.seed, "generator moves", self.n_moves, purpose, device=device)


def _temperature(integrator: Any) -> float:
    try:
        return float(integrator.getTemperature().value_in_unit(unit.kelvin))
    except AttributeError as error:
        raise ConfigError(
            f"temperature: {type(integrator).__name__} has none; say at which temperature to move"
        ) from error


def _rotations(n: int, random: torch.Generator) -> Tensor:
    """n uniform rotation matrices ``(n, 3, 3)``, from uniform unit quaternions."""
    q = torch.randn(n, 4, generator=random, dtype=torch.float64)
    w, x, y, z = torch.nn.functional.normalize(q, dim=-1).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, -1).reshape(n, 3, 3)
