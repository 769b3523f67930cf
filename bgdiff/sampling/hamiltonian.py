"""Rungs that differ in their potential: Hamiltonian replica exchange."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bgdiff.errors import ConfigError
from bgdiff.sampling.metropolis import HamiltonianMonteCarlo
from bgdiff.sampling.walkers import Move, Walkers
from bgdiff.targets.base import Target
from bgdiff.targets.mixed import MixedTarget, component_energies

__all__ = ["HamiltonianRungs", "TunedRungs"]


@dataclass(frozen=True)
class HamiltonianRungs:
    """Densities exp(-Σ_c w_kc u_c(x)) of several targets on the same coordinates, as rungs of a ladder.

    With two targets and weights (1-λ, λ) this is the linear alchemical path from one to the other. Reduced
    energies are mixed, so the two may be at different temperatures. Velocities need no change of rung: they
    follow the move's own masses and temperature, which are the same everywhere.

    Args:
        components: C targets.
        weights: ``(K, C)`` of the rungs.
        make_move: makes the move that leaves a target's density stationary.

    Raises:
        ConfigError: weights do not fit the components.
    """

    components: Sequence[Target]
    weights: Tensor
    make_move: Callable[[Target], Move]

    def __post_init__(self) -> None:
        if self.weights.ndim != 2 or self.weights.shape[1] != len(self.components):
            raise ConfigError(
                f"weights {tuple(self.weights.shape)} do not fit {len(self.components)} components"
            )

    def target(self, rung: Tensor) -> MixedTarget:
        """The densities of walkers at the given rungs ``(B,)``."""
        return MixedTarget(self.components, self.weights[rung])

    def advance(self, walkers: Walkers, rung: Tensor, generator: torch.Generator) -> Tensor:
        return self.make_move(self.target(rung))(walkers, generator)

    def energies(self, walkers: Walkers) -> Tensor:
        return component_energies(self.components, walkers.x)

    def enter(self, walkers: Walkers, old: Tensor, new: Tensor) -> None:
        """Give walkers the energy and force of their new density."""
        energy, force = self.target(new).energy_and_force(walkers.x)
        walkers.energy, walkers.force = energy, force.to(walkers.x.dtype)


@dataclass(frozen=True)
class TunedRungs:
    """Densities exp(-Σ_c w_kc u_c(x)) in reduced units, each moved by HMC with a step of its own.

    With one component and inverse temperatures for weights these are the rungs of parallel tempering:
    walkers then hold that component's energy, and need none beyond those of their trajectories. Otherwise
    they hold the energy of their rung, and both components are evaluated again for exchanges.

    Args:
        components: C targets.
        weights: ``(K, C)`` of the rungs; all positive if there is only one component.
        steps: ``(K,)`` of the leapfrog integrator.
        leapfrog_steps: in a trajectory.
        jitter: of the steps, see :class:`~bgdiff.sampling.metropolis.HamiltonianMonteCarlo`.

    Raises:
        ConfigError: weights or steps do not fit.
    """

    components: Sequence[Target]
    weights: Tensor
    steps: Tensor
    leapfrog_steps: int
    jitter: float = 0.2

    def __post_init__(self) -> None:
        if self.weights.ndim != 2 or self.weights.shape[1] != len(self.components):
            raise ConfigError(
                f"weights {tuple(self.weights.shape)} do not fit {len(self.components)} components"
            )
        if len(self.steps) != len(self.weights):
            raise ConfigError(f"{len(self.steps)} steps for {len(self.weights)} rungs")
        if self._single and not (self.weights > 0).all():
            raise ConfigError("the weights of a single component must be positive")

    @property
    def _single(self) -> bool:
        return len(self.components) == 1

    def target(self, rung: Tensor) -> Target:
        """What walkers at the given rungs ``(B,)`` hold the energies of."""
        return self.components[0] if self._single else MixedTarget(self.components, self.weights[rung])

    def advance(self, walkers: Walkers, rung: Tensor, generator: torch.Generator) -> Tensor:
        one = torch.ones((1, 1), dtype=torch.float64)
        move = HamiltonianMonteCarlo(
            self.target(rung), one, self.steps[rung], self.leapfrog_steps, self.jitter
        )
        return move(walkers, generator, 1 / self.weights[rung, 0] if self._single else None)

    def energies(self, walkers: Walkers) -> Tensor:
        return walkers.energy[:, None] if self._single else component_energies(self.components, walkers.x)

    def enter(self, walkers: Walkers, old: Tensor, new: Tensor) -> None:
        """Give walkers the energy and force of their new density."""
        if not self._single:
            walkers.energy, force = self.target(new).energy_and_force(walkers.x)
            walkers.force = force.to(walkers.x.dtype)
