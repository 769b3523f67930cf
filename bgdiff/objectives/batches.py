"""What one training step looks at: data points noised to neighbouring rungs."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bgdiff.coordinates.whitening import wrap

__all__ = ["Batch", "choose_rungs", "draw_batch"]


@dataclass(frozen=True)
class Batch:
    """G groups of n points; the points of a group sit on n neighbouring rungs."""

    z: Tensor
    """``(G, n, d)``: noised points"""
    displacement: Tensor
    """``(G, n, d)``: the noise that was added, before wrapping"""
    data_score: Tensor | None
    """``(G, n, d)``: ∇log p(z_0) of the clean points, where forces are known"""
    data_log_density: Tensor
    """``(G, n)``: log p(z_0) of the clean points up to a constant (nan where unknown)"""
    rungs: Tensor
    """int64 ``(G, n)``; rung 0 is the clean data"""


def choose_rungs(
    windows: Tensor, spacing: Tensor, n_groups: int, n_levels: int, lowest: int, generator: torch.Generator
) -> Tensor:
    """Draw ``n_levels`` distinct rungs for each group: one at random, the others from its window.

    Only rungs that overlap tell each other apart with signal, but the farther they are apart the larger
    the difference that shows. The others are therefore drawn evenly in statistical length, not by index:
    most rungs of a log-uniform ladder crowd at its low end, where they are all but the same density.

    Args:
        windows: int64 ``(K+1, 2)``, first and last rung of each rung's window.
        spacing: ``(K+1,)``, each rung's share of the ladder's statistical length, not negative.
        lowest: 0 or 1, the lowest rung that may be drawn.

    Returns:
        int64 ``(n_groups, n_levels)`` of rungs in [lowest, K].
    """
    device = generator.device
    rungs = torch.arange(len(windows), device=device)
    centre = torch.randint(lowest, len(windows), (n_groups, 1), generator=generator, device=device)
    first, last = windows[centre[:, 0]].clamp_min(lowest).T[..., None]
    # The first arrivals of exponential clocks whose rates are the weights: draws without replacement.
    rate = spacing.to(device, torch.float64)
    rate = rate.clamp_min(1e-9 * float(rate.max()))  # a rung may share its place with another
    arrival = torch.empty(n_groups, len(windows), dtype=torch.float64, device=device)
    arrival = arrival.exponential_(generator=generator) / rate
    arrival = arrival.masked_fill((rungs < first) | (rungs > last) | (rungs == centre), torch.inf)
    others = arrival.topk(n_levels - 1, -1, largest=False).indices
    return torch.cat([centre, others], -1)


def draw_batch(
    z0: Tensor,
    data_score: Tensor | None,
    data_log_density: Tensor,
    sigma: Tensor,
    periodic: Tensor,
    windows: Tensor,
    spacing: Tensor,
    n_groups: int,
    n_levels: int,
    generator: torch.Generator,
    *,
    lowest: int = 1,
) -> Batch:
    """Noise random data points to random neighbouring rungs.

    All points of a group start from the same data point, with noise of their own. What DiffCLF compares is
    one rung's density with another's; with different data points, chance differences between their
    modes would drown it (three times the variance in the learned weight of a mode).

    Args:
        z0: data ``(N, d)``; ``data_score`` ``(N, d)`` or None; ``data_log_density`` ``(N,)``.
        sigma: ``(K+1,)`` noise of the rungs.
        windows, spacing: ``(K+1, 2)`` and ``(K+1,)``, see :func:`choose_rungs`.
        lowest: 0 to include the clean rung (for classification against the target itself), else 1.
    """
    rungs = choose_rungs(windows, spacing, n_groups, n_levels, lowest, generator)
    index = torch.randint(len(z0), (n_groups, 1), generator=generator, device=generator.device)
    index = index.expand_as(rungs)
    noise = torch.randn(
        (*rungs.shape, z0.shape[1]), generator=generator, device=generator.device, dtype=z0.dtype
    )
    displacement = sigma.to(z0)[rungs][..., None] * noise
    z = z0[index] + displacement
    return Batch(
        torch.where(periodic, wrap(z), z),
        displacement,
        None if data_score is None else data_score[index],
        data_log_density[index],
        rungs,
    )
