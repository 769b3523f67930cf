"""Metropolis-adjusted Langevin chains on a cheap density, all chains advanced together."""

import torch
from torch import Tensor

from bgdiff.progress import Progress, silent
from bgdiff.targets.base import Target

__all__ = ["mala_chains"]


def mala_chains(
    target: Target,
    x: Tensor,
    *,
    step: float,
    frames: int,
    spacing: int,
    equilibration: int,
    generator: torch.Generator,
    progress: Progress = silent,
) -> tuple[Tensor, float]:
    """Run MALA (Roberts & Tweedie, Bernoulli 2, 341, 1996) from ``x`` ``(C, N, D)``, one chain per row.

    The proposal is overdamped Langevin dynamics, x' = x + step · force + √(2 step) ε; accepting it by
    Metropolis' rule makes exp(-u) exactly stationary, while the chains still cross barriers as slowly as
    dynamics does.

    Returns:
        Frames ``(C, frames, N, D)`` float64, one every ``spacing`` steps, and the fraction accepted.
    """
    x = x.to(torch.float64)
    energy, force = target.energy_and_force(x)
    kept = torch.empty((len(x), frames, *x.shape[1:]), dtype=torch.float64)
    accepted, steps = 0.0, equilibration + frames * spacing
    for k in range(steps):
        noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        proposed = x + step * force + (2 * step) ** 0.5 * noise
        new_energy, new_force = target.energy_and_force(proposed)
        back = x - proposed - step * new_force
        log_ratio = (
            energy - new_energy - back.square().sum((1, 2)) / (4 * step) + noise.square().sum((1, 2)) / 2
        )
        accept = torch.rand(len(x), generator=generator, dtype=torch.float64).log() < log_ratio
        x = torch.where(accept[:, None, None], proposed, x)
        force = torch.where(accept[:, None, None], new_force, force)
        energy = torch.where(accept, new_energy, energy)
        accepted += accept.double().mean().item()
        if k >= equilibration and (k - equilibration + 1) % spacing == 0:
            kept[:, (k - equilibration) // spacing] = x
        if k % 500 == 0:
            progress(k, steps, "")
    progress(steps, steps, "")
    return kept, accepted / steps
