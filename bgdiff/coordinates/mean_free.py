"""Cartesian coordinates without the centroid, for clusters of particles that only feel one another."""

import math
from typing import Any

import torch
from torch import Tensor

from bgdiff.errors import ConfigError, DataError

__all__ = ["MeanFreeCoordinates", "helmert"]


class MeanFreeCoordinates:
    """z = x without its centroid, on an orthonormal basis of what is left, in units of one scale.

    With the Helmert basis H ``(N-1, N)``, whose rows are orthonormal and sum to zero, z = H x / scale for
    each dimension: (N-1)·D real axes. One scale for all of them keeps rotations, reflections and permutations
    of the particles what they are, isometries, which a full whitening would not.

    :meth:`to_z` ignores where the centroid is; :meth:`to_x` puts it at the origin. The Jacobian is that of
    the mean-free subspace with its Euclidean volume, so log Z is the integral of exp(-u) over conformations
    whose centroid stands still. Over a volume V for the centroid the full integral is
    log Z + log V + (D/2) log N, because a shift of the centroid by c moves x by √N c.

    Args:
        n_particles: N, at least 2.
        dim: D, dimensions of space.
        scale: length of one unit of z, in units of x (nm for molecules); about the width of the data.

    Raises:
        ConfigError: fewer than two particles, no dimension, or a scale that is not positive and finite.
    """

    kind = "mean_free"

    def __init__(self, n_particles: int, dim: int, scale: float) -> None:
        if n_particles < 2 or dim < 1:
            raise ConfigError(
                "mean-free coordinates need at least 2 particles in at least 1 dimension, not "
                f"{n_particles} in {dim}"
            )
        if not (scale > 0 and math.isfinite(scale)):
            raise ConfigError(f"the scale of mean-free coordinates must be positive and finite, not {scale}")
        self.event_shape = (n_particles, dim)
        self.scale = float(scale)
        self._basis = helmert(n_particles)
        self._log_det = self.dim * math.log(self.scale)

    @classmethod
    def fit(cls, x: Tensor) -> "MeanFreeCoordinates":
        """Take the root-mean-square of all mean-free coordinates of x ``(n, N, D)`` for the scale.

        Raises:
            DataError: no frames, coordinates that are not finite, or all particles in one place.
        """
        if x.ndim != 3 or x.shape[1] < 2 or 0 in x.shape:
            raise DataError(
                f"mean-free coordinates need conformations (n, N, D) of N >= 2, not {tuple(x.shape)}"
            )
        centred = x.to(torch.float64)
        centred = centred - centred.mean(1, keepdim=True)
        n, particles, d = centred.shape
        scale = math.sqrt(float(centred.square().sum()) / (n * (particles - 1) * d))
        if not (scale > 0 and math.isfinite(scale)):
            raise DataError(
                "mean-free coordinates have no scale: the data set's coordinates are not finite, or all "
                "particles are in one place"
            )
        return cls(particles, d, scale)

    @property
    def dim(self) -> int:
        particles, d = self.event_shape
        return (particles - 1) * d

    @property
    def periodic(self) -> Tensor:
        return torch.zeros(self.dim, dtype=torch.bool)

    def to_x(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z ``(B, (N-1)·D)`` → x ``(B, N, D)`` with its centroid at 0, log|det dx/dz| ``(B,)``."""
        particles, d = self.event_shape
        x = self.scale * (self._basis.T.to(z) @ z.reshape(-1, particles - 1, d))
        return x, self._constant(z, self._log_det)

    def to_z(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x ``(B, N, D)``, wherever its centroid is → z ``(B, (N-1)·D)``, log|det dz/dx| ``(B,)``."""
        z = (self._basis.to(x) @ (x - x.mean(1, keepdim=True)) / self.scale).flatten(1)
        return z, self._constant(z, -self._log_det)

    @staticmethod
    def _constant(z: Tensor, value: float) -> Tensor:
        return torch.full((len(z),), value, dtype=torch.float64, device=z.device)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {"scale": torch.tensor(self.scale, dtype=torch.float64)}
        return tensors, {"kind": self.kind, "event_shape": list(self.event_shape)}

    @classmethod
    def from_state(cls, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> "MeanFreeCoordinates":
        """Rebuild what :meth:`state` described."""
        n, d = metadata["event_shape"]
        return cls(n, d, float(tensors["scale"]))


def helmert(n: int) -> Tensor:
    """Orthonormal rows ``(n-1, n)`` that sum to zero, float64.

    Row k compares the first k entries with the next: (1, …, 1, -k, 0, …) / √(k (k+1)), k = 1 … n-1
    (Lancaster, Am. Math. Monthly 72, 4, 1965).
    """
    k = torch.arange(1, n, dtype=torch.float64)[:, None]
    column = torch.arange(n, dtype=torch.float64)
    row = torch.where(column < k, 1.0, torch.where(column == k, -k, 0.0))
    return row / (k * (k + 1)).sqrt()
