"""Where bonds, angles and stiff torsions lie on average, given the torsions that turn.

Turning a torsion opens angles, twists planes and stretches bonds by a good part of their own fluctuations.
One covariance over all conformations takes these shifts for noise. Subtracting the mean given the torsions
first leaves coordinates that are closer to a Gaussian of unit covariance, wherever the torsions are.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["TorsionMean"]

_HARMONICS = 3
"""At most: those of a methyl group, which every third of a turn takes to itself."""
_RIDGE = 1e-3
"""In units of each feature's variance."""
_BLOCKS, _BLOCK = 200, 50
"""Blocks of consecutive frames, at most, and frames in a block, at least. Every other block is kept from the
fit that chooses how many harmonics to use. Few long blocks would keep whole basins from it, where data begin
from several structures one after the other."""
_FRAMES_PER_FEATURE = 10


@dataclass(frozen=True)
class TorsionMean:
    """μ(θ) = A (h(θ) - h̄), with h the first harmonics of P angles: smooth, and the same after a full turn.

    h(θ) holds cos mθ_i and sin mθ_i, m = 1 … M, of each angle. The map y → y - μ(θ) of real coordinates y,
    at fixed θ, has determinant 1.
    """

    coefficients: Tensor
    """A transposed, ``(2 M P, r)``, for r real coordinates"""
    centre: Tensor
    """h̄ ``(2 M P,)``: the mean over the data"""
    harmonics: int
    """M"""

    @classmethod
    def fit(cls, angles: Tensor, y: Tensor) -> "TorsionMean | None":
        """Ridge regression of y ``(n, r)`` on harmonics of angles ``(n, P)``, n frames in order of time.

        M is what makes blocks of consecutive frames most likely, under a Gaussian of the residuals, that
        were kept from the fit: frames that are close in time resemble each other, and a count of them says
        little about how many features they can determine.

        Returns:
            None if no harmonics are better than none, or if the data cannot tell.
        """
        n = len(angles)
        block = max(_BLOCK, n // _BLOCKS)
        fitted = (torch.arange(n, device=angles.device) // block) % 2 == 0
        best, chosen = _likelihood(y[fitted], y[~fitted]), 0
        for harmonics in range(1, _HARMONICS + 1):
            if 2 * harmonics * angles.shape[1] * _FRAMES_PER_FEATURE > n:
                break
            mean = cls._regress(angles[fitted], y[fitted], harmonics)
            residual = y - mean(angles)
            value = _likelihood(residual[fitted], residual[~fitted])
            if value > best:
                best, chosen = value, harmonics
        return cls._regress(angles, y, chosen) if chosen and angles.shape[1] else None

    @classmethod
    def _regress(cls, angles: Tensor, y: Tensor, harmonics: int) -> "TorsionMean":
        features = _harmonics(angles, harmonics)
        centre = features.mean(0)
        features = features - centre
        gram = features.T @ features / len(features)
        # A torsion that hardly turned has features that hardly vary: the floor keeps them out.
        ridge = _RIDGE * torch.diag(gram.diagonal().clamp_min(_RIDGE))
        coefficients = torch.linalg.solve(gram + ridge, features.T @ (y - y.mean(0)) / len(features))
        return cls(coefficients, centre, harmonics)

    def __call__(self, angles: Tensor) -> Tensor:
        """μ ``(B, r)`` at angles ``(B, P)`` in radian."""
        features = _harmonics(angles, self.harmonics) - self.centre.to(angles)
        return features @ self.coefficients.to(angles)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON-able metadata from which the mean can be rebuilt."""
        return {"coefficients": self.coefficients, "centre": self.centre}, {"harmonics": self.harmonics}

    @classmethod
    def from_state(cls, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> "TorsionMean":
        """Rebuild what :meth:`state` described."""
        return cls(tensors["coefficients"], tensors["centre"], metadata["harmonics"])


def _harmonics(angles: Tensor, count: int) -> Tensor:
    """cos mθ, sin mθ, m = 1 … count, of angles ``(B, P)``: ``(B, 2 count P)``."""
    multiples = [m * angles for m in range(1, count + 1)]
    return torch.cat([wave(angle) for angle in multiples for wave in (torch.cos, torch.sin)], -1)


def _likelihood(fitted: Tensor, kept: Tensor) -> float:
    """Mean log density of rows ``kept`` under a Gaussian fitted to rows ``fitted``, but for a constant.

    -inf if there is no such Gaussian: that the coordinates depend on each other is told by the whitening.
    """
    if len(fitted) <= fitted.shape[1] or not len(kept):
        return -math.inf
    factor, failed = torch.linalg.cholesky_ex(torch.cov(fitted.T).reshape(fitted.shape[1], -1))
    if failed:
        return -math.inf
    z = torch.linalg.solve_triangular(factor, (kept - fitted.mean(0)).T, upper=False)
    return float(-0.5 * z.square().sum(0).mean() - torch.log(factor.diagonal()).sum())
