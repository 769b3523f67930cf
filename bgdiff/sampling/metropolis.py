"""Metropolised moves of many walkers: Hamiltonian Monte Carlo, and MALA as its one-step case."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bgdiff.errors import ConfigError
from bgdiff.sampling.walkers import Walkers, relative_temperatures
from bgdiff.targets.base import Target

__all__ = ["HamiltonianMonteCarlo", "adapt_step", "mala"]


@dataclass(frozen=True)
class HamiltonianMonteCarlo:
    """Hamiltonian Monte Carlo (Duane et al., Phys. Lett. B 195, 216, 1987): exp(-u/τ) is exactly stationary.

    Gaussian velocities, ``leapfrog_steps`` steps of velocity Verlet, then Metropolis' rule on the total
    energy. The masses behind ``speed`` precondition: each coordinate moves in proportion to it. A trajectory
    that meets a non-finite energy is rejected.

    With ``persistence`` a > 0 velocities are refreshed only partly, v ← a v + √(1 - a²) √(kT/m) ξ, and turned
    round after a rejection (Horowitz, Phys. Lett. B 268, 247, 1991). With a = exp(-γ t), t the length of a
    trajectory, walkers then move like Langevin dynamics of friction γ, but without its error of the step.

    Args:
        target: the density.
        speed: √(kT/m) ``(N, 1)`` at the target's temperature, from
            :func:`~bgdiff.sampling.walkers.thermal_speed`; ones for a density in reduced units.
        step: in ps (or reduced time); of each walker, ``(B,)``, if it is a tensor.
        leapfrog_steps: in one trajectory; 1 makes MALA.
        jitter: each trajectory's step is drawn uniformly from step · [1 - jitter, 1 + jitter], because a
            fixed length can be a whole number of periods of some vibration.
        persistence: a in [0, 1).
    """

    target: Target
    speed: Tensor
    step: float | Tensor
    leapfrog_steps: int
    jitter: float = 0.0
    persistence: float = 0.0

    def __post_init__(self) -> None:
        if not (bool(torch.as_tensor(self.step > 0).all()) and self.leapfrog_steps >= 1):
            raise ConfigError("HMC needs a positive step and at least one leapfrog step")
        if not (0 <= self.jitter < 1 and 0 <= self.persistence < 1):
            raise ConfigError("HMC needs a jitter and a persistence in [0, 1)")

    def __call__(
        self, walkers: Walkers, generator: torch.Generator, temperature: Tensor | None = None
    ) -> Tensor:
        """Propose one trajectory to every walker; as :class:`~bgdiff.sampling.walkers.Move` says."""
        tau = relative_temperatures(temperature, walkers)
        shape, batch = walkers.x.shape, len(walkers)
        x = walkers.x.flatten(1)
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        step = x.new_ones(batch, 1) * torch.as_tensor(self.step).to(x).reshape(-1, 1)
        if self.jitter:
            uniform = torch.rand(batch, 1, generator=generator, dtype=x.dtype, device=x.device)
            step *= 1 + self.jitter * (2 * uniform - 1)
        speed = self.speed.to(x).expand(shape[1:]).reshape(1, -1)
        thermal = speed * tau.sqrt().to(x)[:, None]
        if self.persistence and walkers.velocity is not None:  # noise: the velocity in units of its width
            fresh = (1 - self.persistence**2) ** 0.5
            noise = fresh * noise + self.persistence * (walkers.velocity.flatten(1) / thermal)
        # w = step · velocity, so that a leapfrog step is two fused operations.
        scale = step * thermal
        acceleration = (step * speed).square_()
        w = scale * noise
        w.addcmul_(walkers.force.reshape(x.shape), acceleration, value=0.5)
        proposed = x.clone()
        for index in range(self.leapfrog_steps):
            proposed += w
            energy, force = self.target.energy_and_force(proposed.view(shape))
            last = index + 1 == self.leapfrog_steps
            w.addcmul_(force.to(x.dtype).reshape(x.shape), acceleration, value=0.5 if last else 1.0)
        final = w.div_(scale)
        kinetic_change = final.double().square().sum(1) - noise.double().square().sum(1)
        log_ratio = (walkers.energy.double() - energy.double()) / tau - kinetic_change / 2
        uniform = torch.rand(batch, generator=generator, dtype=torch.float64, device=x.device)
        accept = (uniform.log() < log_ratio) & torch.isfinite(energy)
        rows = accept[:, None, None]
        walkers.x = torch.where(rows, proposed.view(shape), walkers.x)
        walkers.force = torch.where(rows, force.to(x.dtype), walkers.force)
        walkers.energy = torch.where(accept, energy, walkers.energy)
        if self.persistence:
            walkers.velocity = (torch.where(accept[:, None], final, -noise) * thermal).view(shape)
        return torch.where(torch.isfinite(energy), log_ratio.clamp(max=0).exp(), 0.0).nan_to_num(nan=0.0)


def mala(target: Target, speed: Tensor, step: float) -> HamiltonianMonteCarlo:
    """Metropolis-adjusted Langevin (Roberts & Tweedie, Bernoulli 2, 341, 1996) with mass preconditioning.

    The proposal x' = x + ½ (h s)² F + h s ξ, s = ``speed``, is one leapfrog step; overdamped dynamics would
    call ½ h² its time step.
    """
    return HamiltonianMonteCarlo(target, speed, step, leapfrog_steps=1)


def adapt_step(
    move: HamiltonianMonteCarlo,
    walkers: Walkers,
    generator: torch.Generator,
    temperature: Tensor | None = None,
    rounds: int = 200,
    acceptance: float | None = None,
) -> HamiltonianMonteCarlo:
    """Run a pilot that adjusts the step, and return the move with the step frozen.

    While it adapts, the chain has no exact stationary density: discard what the pilot visits, but keep the
    walkers, which it leaves nearer to equilibrium.

    Args:
        move: with one step for all walkers.
        rounds: trajectories of every walker; the step is averaged over the second half (Polyak averaging of
            a Robbins-Monro search on log step).
        acceptance: mean acceptance to reach; by default 0.574 for MALA and 0.8 for longer trajectories.

    Raises:
        ConfigError: no step was found, so the density, or its force, is not what it seems.
    """
    wanted = acceptance or (0.574 if move.leapfrog_steps == 1 else 0.8)
    first = float(move.step)
    log_step, kept = math.log(first), []
    for index in range(rounds):
        current = replace(move, step=math.exp(log_step))
        excess = current(walkers, generator, temperature).mean().item() - wanted
        log_step += max(-1.0, min(1.0, excess / (wanted * (1 - wanted)))) / (1 + index) ** 0.5
        if index >= rounds // 2:
            kept.append(log_step)
    step = math.exp(sum(kept) / len(kept))
    if not 1e-6 < step / first < 1e6:
        raise ConfigError(f"no step gives an acceptance of {wanted:g} (the search ended at {step:.2g})")
    return replace(move, step=step)
