"""Whitened Cartesian coordinates, for particles in an external field (double wells, toy densities)."""

from typing import Any

import torch
from torch import Tensor

from bgdiff.coordinates.whitening import Whitening

__all__ = ["WhitenedCoordinates"]


class WhitenedCoordinates:
    """z = whitened x: no symmetry is removed, every axis is real."""

    kind = "whitened"

    def __init__(self, whitening: Whitening, event_shape: tuple[int, int]) -> None:
        self.whitening = whitening
        self.event_shape = event_shape
        self._log_det = whitening.log_det

    @classmethod
    def fit(cls, x: Tensor, *, frames_per_axis: int = 10) -> "WhitenedCoordinates":
        """Fit to data x ``(n, N, D)``; raises DataError when there is too little of it."""
        return cls(Whitening.fit(x.flatten(1), frames_per_axis=frames_per_axis), (x.shape[1], x.shape[2]))

    @property
    def dim(self) -> int:
        return self.whitening.mean.numel()

    @property
    def periodic(self) -> Tensor:
        return torch.zeros(self.dim, dtype=torch.bool, device=self.whitening.mean.device)

    def to_x(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z ``(B, d)`` → x ``(B, N, D)``, log|det dx/dz| ``(B,)``."""
        x = self.whitening.to_y(z).reshape(-1, *self.event_shape)
        return x, torch.full_like(z[:, 0], self._log_det)

    def to_z(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x ``(B, N, D)`` → z ``(B, d)``, log|det dz/dx| ``(B,)``."""
        z = self.whitening.to_z(x.flatten(1))
        return z, torch.full_like(z[:, 0], -self._log_det)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {
            "mean": self.whitening.mean,
            "scale": self.whitening.scale,
            "inverse": self.whitening.inverse,
        }
        return tensors, {"kind": self.kind, "event_shape": list(self.event_shape)}

    @classmethod
    def from_state(cls, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> "WhitenedCoordinates":
        """Rebuild what :meth:`state` described."""
        n, d = metadata["event_shape"]
        return cls(Whitening(tensors["mean"], tensors["scale"], tensors["inverse"]), (n, d))
