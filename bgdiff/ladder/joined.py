"""Two ladders met at one noise level: paths from one target to another without going through the prior.

A path starts at a point z_A of target A, takes A's noising steps up to the noise σ_m, and from there B's
reverse steps down to z_B. With q the noising steps and p_θ the reverse steps,

    log W = log p̃_B(z_B) + Σ_B [log q - log p_θ] - log p̃_A(z_A) - Σ_A [log q - log p_θ] + log J,
    E_A[W] = Z_B/Z_A,

whatever both models are, since the reverse of the path is the same construction from B to A. So -log W of
both directions are works for :func:`bgdiff.free_energy.bennett.bar`. What the noise σ_m has blurred in both
targets need not be crossed: the less they differ, the lower they can meet, and the less W scatters. A meeting
at the top is two ladders that share the prior.

Ladders trained apart have latents of their own, each whitened with its own data. A change of latents
(:func:`bgdiff.coordinates.change.change_latents`), a bijection with constant Jacobian J, then hands every
path over at σ_m as the same, noised, internal coordinates; log W gains log J. Without one the point is
handed over as it is: right if both maps are the same (:func:`same_coordinates`), and at the top, where both
densities are the same prior in any latents. Targets in latent coordinates include the Jacobian of their
own map, so both Z are integrals over Cartesian coordinates.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bgdiff.errors import ConfigError
from bgdiff.ladder.densities import LatentDensity
from bgdiff.ladder.failures import check_points
from bgdiff.ladder.paths import Ladder
from bgdiff.progress import Progress, silent

if TYPE_CHECKING:
    from bgdiff.coordinates import Coordinates, LatentChange

__all__ = ["Crossing", "JoinedLadders", "same_coordinates"]


@dataclass(frozen=True)
class Crossing:
    """Ends and weights of n paths between two targets.

    Args:
        z: ``(n, d)`` float64, at the second target.
        log_ratio: log W without both targets' log densities, ``(n,)`` float64.
    """

    z: Tensor
    log_ratio: Tensor


@dataclass(frozen=True)
class JoinedLadders:
    """Two ladders whose top rungs have the same noise; made by :meth:`meeting`.

    Args:
        first, second: from the target up to the rung at which they meet.
        change: from the first ladder's latents to the second's, and back; None if they are the same.
    """

    first: Ladder
    second: Ladder
    change: tuple["LatentChange", "LatentChange"] | None = None

    def __post_init__(self) -> None:
        a, b = self.first, self.second
        if not torch.equal(a.model.periodic.cpu(), b.model.periodic.cpu()):
            raise ConfigError(
                f"ladders on different axes cannot meet: {len(a.model.periodic)} axes, "
                f"{int(a.model.periodic.sum())} of them periodic, and {len(b.model.periodic)}, "
                f"{int(b.model.periodic.sum())} periodic"
            )
        if not math.isclose(float(a.sigma[-1]), float(b.sigma[-1]), rel_tol=1e-6):
            raise ConfigError(
                f"ladders must meet at the same noise, not at {float(a.sigma[-1]):g} and "
                f"{float(b.sigma[-1]):g}"
            )

    @classmethod
    def meeting(
        cls,
        first: Ladder,
        second: Ladder,
        sigma: float | None = None,
        change: tuple["LatentChange", "LatentChange"] | None = None,
    ) -> "JoinedLadders":
        """Two ladders, cut at noise ``sigma`` (by default at the top, where both must end).

        Raises:
            ConfigError: ``sigma`` does not lie between the first rung and the top of both ladders, or the
                axes differ.
        """
        if sigma is None:
            return cls(first, second, change)
        return cls(_cut(first, sigma), _cut(second, sigma), change)

    @property
    def swapped(self) -> "JoinedLadders":
        """The same from the second target to the first."""
        return JoinedLadders(self.second, self.first, self.change and self.change[::-1])

    def cross(self, z: Tensor, generator: torch.Generator, progress: Progress = silent) -> Crossing:
        """Paths from points z ``(n, d)`` of the first target to the second; one score per rung and path.

        Raises:
            CorrectionError: the second model's score is not finite for most of them; the rung is named.
        """
        z = z.to(torch.float64)
        log_ratio, total = torch.zeros_like(z[:, 0]), self.first.n_rungs + self.second.n_rungs
        for k in range(self.first.n_rungs):
            step = self.first.up(k)
            upper = step.sample(z, generator)
            reverse = self.first.down(k, upper).log_prob(z, self.first.centre(upper, k))
            log_ratio = log_ratio - step.log_prob(upper, z) + reverse
            z = upper
            progress(k + 1, total)
        if self.change is not None:
            z = self.change[0](z)
            log_ratio = log_ratio + self.change[0].log_det
        for k in range(self.second.n_rungs - 1, -1, -1):
            centre, down = self.second.centre(z, k), self.second.down(k, z)
            lower = down.sample(centre, generator)
            check_points(lower, f"rung {k + 1} (sigma = {float(self.second.sigma[k + 1]):.3g})")
            log_ratio = log_ratio + self.second.up(k).log_prob(z, lower) - down.log_prob(lower, centre)
            z = lower
            progress(total - k, total)
        return Crossing(z, log_ratio)

    def work(
        self,
        z: Tensor,
        first: LatentDensity,
        second: LatentDensity,
        generator: torch.Generator,
        progress: Progress = silent,
    ) -> Tensor:
        """-log W of paths from points z ``(n, d)`` of the first target, in kT ``(n,)``.

        One evaluation of each target per path. +inf where a path ends at an impossible geometry.
        """
        crossing = self.cross(z, generator, progress)
        ends = first.log_density(z), second.log_density(crossing.z)
        work = ends[0].to(z.device) - ends[1].to(z.device) - crossing.log_ratio
        return torch.where(work.isnan(), torch.inf, work)


def same_coordinates(first: "Coordinates", second: "Coordinates") -> bool:
    """Whether two coordinate maps are the same function, so that ladders in them may meet at any noise."""
    (tensors, description), (others, other_description) = first.state(), second.state()
    return (
        description == other_description
        and tensors.keys() == others.keys()
        and all(torch.equal(tensors[name], others[name]) for name in tensors)
    )


def _cut(ladder: Ladder, sigma: float) -> Ladder:
    levels = ladder.sigma
    if not float(levels[1]) < sigma <= float(levels[-1]) * (1 + 1e-6):
        raise ConfigError(
            f"ladders can meet at noise between {float(levels[1]):.3g} and {float(levels[-1]):.3g}, not at "
            f"{sigma:g}"
        )
    below = levels[levels < sigma * (1 - 1e-6)]
    return ladder.at(torch.cat([below, torch.full_like(levels[:1], sigma)]))
