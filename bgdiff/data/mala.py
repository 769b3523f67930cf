"""Metropolis-adjusted Langevin chains on a cheap density, all chains advanced together."""

import torch
from torch import Tensor

from bgdiff.progress import Progress, silent
from bgdiff.sampling import Walkers, mala
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
    """Run MALA from ``x`` ``(C, N, D)``, one chain per row.

    The proposal is overdamped Langevin dynamics, x' = x + step · force + √(2 step) ε. exp(-u) is exactly
    stationary, while the chains still cross barriers as slowly as dynamics does.

    Returns:
        Frames ``(C, frames, N, D)`` float64, one every ``spacing`` steps, and the mean acceptance.
    """
    walkers = Walkers.at(target, x.to(torch.float64))
    move = mala(target, torch.ones((1, 1), dtype=torch.float64), (2 * step) ** 0.5)
    kept = torch.empty((len(x), frames, *x.shape[1:]), dtype=torch.float64)
    accepted, steps = 0.0, equilibration + frames * spacing
    for k in range(steps):
        accepted += move(walkers, generator).mean().item()
        if k >= equilibration and (k - equilibration + 1) % spacing == 0:
            kept[:, (k - equilibration) // spacing] = walkers.x
        if k % 500 == 0:
            progress(k, steps, "")
    progress(steps, steps, "")
    return kept, accepted / steps
