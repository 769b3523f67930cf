"""Pairs of particles on mean-free latents, their distances, and radial functions of them."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from bgdiff.coordinates.mean_free import helmert

__all__ = ["N_NOISE_FEATURES", "PairGeometry", "noise_features"]

_FREQUENCIES = 8
N_NOISE_FEATURES = 2 * _FREQUENCIES + 1
"""Numbers that stand for a noise level."""


def noise_features(sigma: Tensor, sigma_min: float, sigma_max: float) -> Tensor:
    """Place t ∈ [-1, 1] of log σ between the ends, and cos, sin of π/2 m t: ``(B, 17)`` for σ ``(B,)``."""
    low, high = math.log(sigma_min), math.log(sigma_max)
    level = 2 * (sigma.log()[:, None] - low) / (high - low) - 1
    wave = level * torch.arange(1, _FREQUENCIES + 1, device=level.device) * (0.5 * math.pi)
    return torch.cat([level, wave.cos(), wave.sin()], -1)


class PairGeometry(nn.Module):
    """What pairs i < j of N particles in D dimensions look like; no parameters.

    Distances are smoothed, r = √(|x_i - x_j|² + δ²) in units of the noisy cluster's width, so that every
    smooth function of r has smooth derivatives where particles overlap, as they do at high noise. Radial
    functions are Gaussians exp(-½ ((r - c_b)/h)²) on evenly spaced centres from δ to ``reach``, as far apart
    as they are wide.

    Args:
        event_shape: (N, D).
        radial: number of radial functions.
        reach: centre of the last.
    """

    basis: Tensor
    """Helmert's, ``(N-1, N)``."""
    centres: Tensor
    _first: Tensor
    _second: Tensor
    _sum: Tensor
    _difference: Tensor

    def __init__(self, event_shape: tuple[int, int], radial: int, reach: float) -> None:
        super().__init__()
        n, self.dim = event_shape
        self.n = n
        first, second = torch.triu_indices(n, n, 1)
        pair = torch.arange(len(first))
        difference = torch.zeros(n, len(first))
        difference[first, pair], difference[second, pair] = 1.0, -1.0
        for name, value in (
            ("basis", helmert(n)),
            ("centres", torch.linspace(_SMOOTH, reach, radial, dtype=torch.float64)),
            ("_first", first),
            ("_second", second),
            ("_sum", difference.abs()),
            ("_difference", difference),
        ):
            self.register_buffer(name, value, persistent=False)
        self.width = (reach - _SMOOTH) / (radial - 1)

    @property
    def n_pairs(self) -> int:
        return len(self._first)

    def both(self, v: Tensor) -> Tensor:
        """v_i + v_j ``(B, P, C)`` of numbers v ``(B, N, C)`` that particles have."""
        return self._incidence(v, self._sum, 1)

    def collect(self, v: Tensor) -> Tensor:
        """Σ_j v_ij ``(B, N, C)`` over the pairs of every particle, v ``(B, P, C)``."""
        return self._collected(v, self._sum, 1)

    def collect_signed(self, v: Tensor) -> Tensor:
        """The same for v_ij = -v_ji."""
        return self._collected(v, self._difference, -1)

    def separations(self, v: Tensor) -> Tensor:
        """v_i - v_j ``(B, P, D)`` of vectors given on latents, v ``(B, (N-1)·D)``."""
        particles = self.basis.T.to(v) @ v.reshape(len(v), self.n - 1, self.dim)
        return self._incidence(particles, self._difference, -1)

    def gather(self, v: Tensor) -> Tensor:
        """The transpose of :meth:`separations`: ``(B, P, D)`` → ``(B, (N-1)·D)``."""
        return (self.basis.to(v) @ self.collect_signed(v)).flatten(1)

    def directions(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """(x_i - x_j)/r ``(B, P, D)`` and r ``(B, P)`` for scaled latents y; the first is ∂r/∂(x_i - x_j)."""
        apart = self.separations(y)
        distance = (apart.square().sum(-1) + _SMOOTH**2).sqrt()
        return apart / distance[..., None], distance

    def radial(self, distance: Tensor) -> Tensor:
        """The radial functions ``(B, P, radial)``."""
        return _gaussian(self._standard(distance))

    def orthonormal(self) -> Tensor:
        """S^(-1/2) ``(radial, radial)`` of the radial functions' overlap S.

        S_bc = ∫ φ_b φ_c dr ∝ exp(-¼ ((c_b - c_c)/h)²).
        Symmetric orthogonalisation (Löwdin, J. Chem. Phys. 18, 365, 1950), with a hundredth of the largest
        eigenvalue added to all: the smallest belong to functions too rough to be wanted.
        """
        overlap = torch.exp(-0.25 * ((self.centres[:, None] - self.centres) / self.width) ** 2)
        eigenvalue, vector = torch.linalg.eigh(overlap.to(torch.float64))
        scale = (eigenvalue / eigenvalue[-1] + _ROUGHEST).rsqrt()
        return ((vector * scale) @ vector.T).to(torch.float32)

    def radial_and_slope(self, distance: Tensor) -> tuple[Tensor, Tensor]:
        """The radial functions and their derivatives, both ``(B, P, radial)``."""
        standard = self._standard(distance)
        value = _gaussian(standard)
        return value, value * standard * (-1 / self.width)

    def _standard(self, distance: Tensor) -> Tensor:
        return (distance[..., None] - self.centres.to(distance)) / self.width

    def _incidence(self, v: Tensor, matrix: Tensor, sign: int) -> Tensor:
        out: Tensor = _Spread.apply(v, self._first, self._second, matrix, sign)
        return out

    def _collected(self, v: Tensor, matrix: Tensor, sign: int) -> Tensor:
        out: Tensor = _Collect.apply(v, self._first, self._second, matrix, sign)
        return out


class _Spread(Function):
    """From particles to pairs, by two lookups: the product with a transposed incidence matrix, nearly empty,
    would take longer. Its transpose is :class:`_Collect`."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, first: Tensor, second: Tensor, matrix: Tensor, sign: int) -> Tensor:
        ctx.save_for_backward(first, second, matrix)
        ctx.sign = sign
        return torch.add(v.index_select(1, first), v.index_select(1, second), alpha=sign)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return _Collect.apply(grads[0], *ctx.saved_tensors, ctx.sign), None, None, None, None


class _Collect(Function):
    """From pairs to particles, the product with the incidence matrix ``(N, P)``, nearly empty."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, first: Tensor, second: Tensor, matrix: Tensor, sign: int) -> Tensor:
        ctx.save_for_backward(first, second, matrix)
        ctx.sign = sign
        if v.device.type != "cpu":
            return matrix.to(v) @ v  # elsewhere sums over an index come in any order: not reproducible
        out = v.new_zeros(len(v), len(matrix), v.shape[-1])
        return out.index_add_(1, first, v).index_add_(1, second, v, alpha=sign)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return _Spread.apply(grads[0], *ctx.saved_tensors, ctx.sign), None, None, None, None


def _gaussian(standard: Tensor) -> Tensor:
    """exp(-½ s²), but no smaller than float32's normal numbers: others are ten times slower."""
    return torch.exp((-0.5 * standard.square()).clamp_min(_FAINTEST))


_FAINTEST = -60.0
_ROUGHEST = 0.01
_SMOOTH = 0.2  # δ: no longer than the structure of a cluster that is blurred to width 1
