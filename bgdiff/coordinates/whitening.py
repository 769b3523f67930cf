"""Linear whitening: z = W (y - mean), with W the inverse symmetric square root of the covariance."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bgdiff.errors import DataError

__all__ = ["TWO_PI", "Whitening", "wrap"]

# A constrained bond still varies by the tolerance of the constraint and by the rounding of the file, up
# to 1e-6 nm; the stiffest flexible one by 1e-3 nm.
_RIGID = 1e-5


@dataclass(frozen=True)
class Whitening:
    """ZCA whitening of real coordinates y ``(B, d)`` to z ``(B, d)`` with mean 0 and covariance 1.

    The symmetric square root is used because, of all whitenings, it moves the axes least (Kessy,
    Lewin & Strimmer 2018): z_i is still mostly about the i-th bond, angle or torsion, so that kernel
    variances per axis remain meaningful.
    """

    mean: Tensor
    """``(d,)``"""
    scale: Tensor
    """``(d, d)``: y = mean + scale z"""
    inverse: Tensor
    """``(d, d)``: z = inverse (y - mean)"""

    @classmethod
    def fit(cls, y: Tensor, *, frames_per_axis: int = 10, names: list[str] | None = None) -> "Whitening":
        """Fit to data y ``(n, d)``.

        Raises:
            DataError: fewer than ``frames_per_axis`` frames per axis, or an axis that does not vary.
        """
        n, d = y.shape
        if n < frames_per_axis * d:
            raise DataError(
                f"the data set has {n} frames, too few to whiten {d} coordinates: "
                f"at least {frames_per_axis * d} are needed"
            )
        y = y.to(torch.float64)
        mean = y.mean(0)
        covariance = torch.cov(y.T).reshape(d, d)
        spread = covariance.diagonal().sqrt()
        if bool((spread <= _RIGID * (1 + mean.abs())).any()):
            axis = int(torch.argmin(spread / (1 + mean.abs())))
            name = names[axis] if names else f"coordinate {axis}"
            raise DataError(f"{name} does not vary in the data set; a rigid coordinate cannot be whitened")
        correlation = covariance / torch.outer(spread, spread)
        values, vectors = torch.linalg.eigh(correlation)
        if float(values[0]) < 1e-10:
            raise DataError(
                "the coordinates of the data set are linearly dependent "
                f"(smallest eigenvalue of their correlation matrix {float(values[0]):.1e}); "
                "are there constraints in the force field? bgdiff needs flexible bonds"
            )
        # ZCA-cor: standardise, then the symmetric root of the *correlation* matrix, so that nm and
        # radian do not compete in deciding which axes move.
        root = (vectors * values.sqrt()) @ vectors.T
        inverse_root = (vectors / values.sqrt()) @ vectors.T
        return cls(mean, spread[:, None] * root, inverse_root / spread)

    @property
    def log_det(self) -> float:
        """log|det dy/dz|."""
        if self.mean.numel() == 0:
            return 0.0
        return float(torch.linalg.slogdet(self.scale).logabsdet)

    def to_y(self, z: Tensor) -> Tensor:
        """z ``(B, d)`` → y ``(B, d)``."""
        return self.mean + z @ self.scale.T

    def to_z(self, y: Tensor) -> Tensor:
        """y ``(B, d)`` → z ``(B, d)``."""
        return (y - self.mean) @ self.inverse.T

    def to(self, device: torch.device | str) -> "Whitening":
        """The same map on another device."""
        return Whitening(self.mean.to(device), self.scale.to(device), self.inverse.to(device))


TWO_PI = 2 * math.pi


def wrap(angle: Tensor) -> Tensor:
    """Angles shifted by multiples of 2 pi into [-pi, pi)."""
    return torch.remainder(angle + math.pi, TWO_PI) - math.pi
