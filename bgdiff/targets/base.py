"""What a target density is."""

from typing import Protocol, runtime_checkable

from torch import Tensor

__all__ = ["Target"]


@runtime_checkable
class Target(Protocol):
    """A Boltzmann density p(x) ∝ exp(-u(x)) with reduced energy u = U/kT.

    ``event_shape`` is ``(N, D)``: N particles in D dimensions; x is in nm for molecules, in reduced
    units otherwise. Energies are float64 of shape ``(B,)``; a row whose geometry makes no sense gets a
    non-finite energy and leaves the other rows alone.
    """

    @property
    def event_shape(self) -> tuple[int, int]: ...

    def energy(self, x: Tensor) -> Tensor:
        """Reduced energies ``(B,)`` of conformations ``(B, N, D)``."""
        ...

    def energy_and_force(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Reduced energies ``(B,)`` and forces -du/dx ``(B, N, D)``."""
        ...
