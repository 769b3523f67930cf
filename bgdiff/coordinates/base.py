"""What a coordinate map is."""

from typing import Any, Protocol, runtime_checkable

from torch import Tensor

__all__ = ["Coordinates"]


@runtime_checkable
class Coordinates(Protocol):
    """A bijection between conformations x ``(B, N, D)`` and dimensionless latents z ``(B, d)``.

    ``periodic`` is a bool tensor ``(d,)``: where it is true the axis is an angle in radian on
    [-pi, pi); the other axes are real numbers, whitened to mean 0 and covariance 1 on the data.

    Both maps return the log absolute determinant of their own Jacobian, float64 ``(B,)``. A latent
    outside the image of the map (a negative bond length, say) gets ``-inf`` from :meth:`to_x`, so that
    its density is zero and it can be counted; it is never moved to a legal place.
    """

    @property
    def dim(self) -> int: ...

    @property
    def periodic(self) -> Tensor: ...

    def to_x(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``x`` and log|det dx/dz|."""
        ...

    def to_z(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``z`` and log|det dz/dx|."""
        ...

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON-able metadata from which the map can be rebuilt."""
        ...
