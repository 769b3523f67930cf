"""Reverse steps of particles whose covariance follows the pairs of particles.

An exact reverse step has the covariance C = D (I + D ∇² log p), with the Hessian of the rung above
(Tweedie's formula to second order). Averaged over all configurations it is isotropic. But two particles in
contact are stiff along the line that joins them and soft across, so that C is far from isotropic at each
configuration, and that is much of what scatters path weights. The Hessian is like that of pair potentials,

    -∇² log p ≈ E[s²] I + Σ_{i<j} (e_i - e_j)(e_i - e_j)ᵀ ⊗ [α(r_ij) r̂r̂ᵀ + β(r_ij) (I - r̂r̂ᵀ)],

with radial functions α, β for every rung (:mod:`bgdiff.ladder.pair_fit` finds them). Any covariance that
depends on where a step starts is exact; a good one costs fewer rungs. As all of it is made of distances and
directions, it turns with the particles.

Reference for the covariance: Meng, Song, Li & Ermon, NeurIPS 34, 25359 (2021).
"""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from bgdiff.coordinates.mean_free import helmert
from bgdiff.ladder.kernels import CorrelatedStep, NormalStep, reverse_step
from bgdiff.ladder.levels import interpolate_moments

__all__ = ["PairCurvature", "Pairs", "position"]

_LEAST = 1e-3  # share of the noising step's variance that a reverse step has at least
_NUMBERS = 500_000  # of matrices that are worked on at a time
_SHRINK = (0.5, 0.25)  # of what pairs add, where all of it is too much


@dataclass(frozen=True)
class PairCurvature:
    """What pairs add to the mean curvature E[s²] at rungs 1..K.

    Args:
        event_shape: (N, D).
        types: int64 ``(N,)``, the same number for equal particles; pairs of the same two types share their
            functions. C is the number of such kinds of pairs.
        knots: rising distances in units of √(1+σ²), ``(K, C, F)``; beyond the ends α and β stay constant.
        values: α and β at the knots, times 1+σ², ``(K, C, 2, F)``.
    """

    event_shape: tuple[int, int]
    types: Tensor
    knots: Tensor
    values: Tensor

    def at(self, sigma: Tensor, known_sigma: Tensor) -> "PairCurvature":
        """The same at other rungs 1..K' of ``sigma``, from those of ``known_sigma``."""
        shape = (len(sigma) - 1, *self.knots.shape[1:])
        flat = torch.cat([self.knots.flatten(1), self.values.flatten(1)], 1)
        # both vary slowly as they are
        slow = flat / (1 + known_sigma[1:] ** 2)[:, None]
        flat = interpolate_moments(sigma, known_sigma, slow) * (1 + sigma[1:] ** 2)[:, None]
        knots, values = flat.tensor_split([self.knots[0].numel()], 1)
        return replace(
            self, knots=knots.reshape(shape), values=values.reshape(*shape[:2], 2, shape[2]).contiguous()
        )

    def step(self, k: int, z: Tensor, sigma: Tensor, moment: Tensor) -> NormalStep | CorrelatedStep:
        """The reverse step from points z ``(B, d)`` at rung k+1 to rung k.

        Where the covariance would be smaller in some direction than half of what noise alone makes it, D σ²_k
        / σ²_{k+1}, or not positive, what pairs add is taken in part, or not at all.

        Args:
            sigma: noise of all rungs ``(K+1,)``.
            moment: E[s²] of rung k+1 ``(d,)``, the same on all axes.
        """
        low, high = float(sigma[k]) ** 2, float(sigma[k + 1]) ** 2
        plain = reverse_step(high - low, moment, torch.zeros_like(moment, dtype=torch.bool))
        variance = float(plain.variance[0])
        least = max(_LEAST, 0.5 * low / high) * (high - low) / variance
        size = self.event_shape[0] * self.event_shape[1]
        factor = z.new_empty(len(z), size, size)
        start = 0
        for part in z.split(max(1, _NUMBERS // size**2)):  # as many as stay in a processor's cache
            added = self.matrix(k, part, float(sigma[k + 1])) * (-((high - low) ** 2) / variance)
            factor[start : start + len(part)] = _factor(added, min(least, 0.5))
            start += len(part)
        return CorrelatedStep(variance, factor, self._basis(z))

    def matrix(self, k: int, z: Tensor, sigma: float) -> Tensor:
        """What pairs add at rung k+1 of noise ``sigma``, among all N particles: ``(B, N D, N D)``, symmetric.

        In units of the latents. It does not act on the centroid: latents are Hᵀ of particles, H the Helmert
        basis.
        """
        pairs = self._pairs
        width = (1 + sigma**2) ** 0.5
        apart, distance = pairs.apart(z)
        along, across = torch.empty_like(distance), torch.empty_like(distance)
        for kind, members in enumerate(pairs.members):
            where, share = position(distance[:, members] / width, self.knots[k, kind].to(z))
            table = self.values[k, kind].to(z) / width**2
            along[:, members] = torch.lerp(table[0][where], table[0][where + 1], share)
            across[:, members] = torch.lerp(table[1][where], table[1][where + 1], share)
        line = apart.movedim(-1, 0) / distance.clamp_min(torch.finfo(z.dtype).tiny)
        n, dim = self.event_shape
        full = z.new_empty(len(z), n, dim, n, dim)
        for row in range(dim):
            for column in range(row, dim):
                value = (along - across) * line[row] * line[column]
                plane = pairs.matrix(value + across if row == column else value)
                full[:, :, row, :, column] = plane
                if row != column:
                    full[:, :, column, :, row] = plane
        return full.reshape(len(z), n * dim, n * dim)

    def state(self) -> dict[str, Tensor]:
        """What :meth:`from_state` rebuilds it from."""
        return {
            "event_shape": torch.tensor(self.event_shape),
            "types": self.types.contiguous(),
            "knots": self.knots.contiguous(),
            "values": self.values.contiguous(),
        }

    @classmethod
    def from_state(cls, tensors: dict[str, Tensor]) -> "PairCurvature":
        """Rebuild what :meth:`state` described."""
        n, dim = tensors["event_shape"].tolist()
        return cls((n, dim), tensors["types"], tensors["knots"], tensors["values"])

    @cached_property
    def _pairs(self) -> "Pairs":
        return Pairs.of(self.event_shape, self.types)

    def _basis(self, like: Tensor) -> Tensor:
        return helmert(self.event_shape[0]).to(like)


@dataclass(frozen=True)
class Pairs:
    """All pairs i < j of N particles.

    Args:
        first, second: ``(P,)``.
        members: indices of the pairs of each kind.
        differences: from latents to x_i - x_j, ``(P, N-1)``.
        place: which pair each entry of an ``(N, N)`` matrix belongs to, flat; P on the diagonal.
    """

    event_shape: tuple[int, int]
    first: Tensor
    second: Tensor
    members: list[Tensor]
    differences: Tensor
    place: Tensor

    @classmethod
    def of(cls, event_shape: tuple[int, int], types: Tensor) -> "Pairs":
        n, _ = event_shape
        first, second = torch.triu_indices(n, n, 1, device=types.device)
        kinds = torch.stack([types[first], types[second]], -1).sort(-1).values
        _, kind = torch.unique(kinds, dim=0, return_inverse=True)
        members = [torch.nonzero(kind == c)[:, 0] for c in range(int(kind.max()) + 1)]
        basis = helmert(n).T.to(types.device)
        place = torch.full((n, n), len(first), device=types.device)
        place[first, second] = place[second, first] = torch.arange(len(first), device=types.device)
        return cls(event_shape, first, second, members, basis[first] - basis[second], place.flatten())

    def apart(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """x_i - x_j ``(B, P, D)`` and its length ``(B, P)``, in units of the latents."""
        n, dim = self.event_shape
        apart = self.differences.to(z) @ z.reshape(-1, n - 1, dim)
        return apart, apart.square().sum(-1).sqrt()

    def matrix(self, value: Tensor) -> Tensor:
        """Σ_{i<j} value_ij (e_i - e_j)(e_i - e_j)ᵀ, ``(B, N, N)`` for values ``(B, P)``."""
        n, _ = self.event_shape
        padded = torch.cat([value, torch.zeros_like(value[:, :1])], 1)
        full = padded.index_select(1, self.place).reshape(len(value), n, n)
        own = full.sum(-1)
        full = full.neg_()
        full.diagonal(dim1=1, dim2=2).copy_(own)
        return full


def position(distance: Tensor, knots: Tensor) -> tuple[Tensor, Tensor]:
    """The interval of each distance among the knots, and how far into it, from 0 to 1 (also beyond them)."""
    where = (torch.searchsorted(knots, distance.contiguous()) - 1).clamp(0, len(knots) - 2)
    low, high = knots[where], knots[where + 1]
    return where, ((distance - low) / (high - low)).clamp(0, 1)


def _factor(added: Tensor, least: float) -> Tensor:
    """Cholesky factors of 1 + ``added`` ``(B, m, m)``, whose eigenvalues are kept at ``least`` and above.

    Rows whose matrix is not finite get the identity.
    """
    eye = torch.eye(added.shape[-1], dtype=added.dtype, device=added.device)
    # eigenvalues are at least 1 - |added| in the maximum norm, which settles most rows
    doubtful = torch.nonzero(~(added.abs().sum(-1).amax(-1) <= 1 - least))[:, 0]
    if len(doubtful):
        added = added.clone()
        added[doubtful] = _tamed(added[doubtful], least, eye)
    return torch.linalg.cholesky(eye + added)


def _tamed(added: Tensor, least: float, eye: Tensor) -> Tensor:
    """The largest of some shares of ``added`` that keeps the eigenvalues of 1 + it at ``least``; or zero."""
    result = torch.zeros_like(added)
    open_rows = torch.arange(len(added), device=added.device)
    for share in (1.0, *_SHRINK):
        trial = share * added[open_rows]
        _, failed = torch.linalg.cholesky_ex((1 - least) * eye + trial)
        good = failed == 0
        result[open_rows[good]] = trial[good]
        open_rows = open_rows[~good]
        if not len(open_rows):
            break
    return result
