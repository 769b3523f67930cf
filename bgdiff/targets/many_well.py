"""Independent copies of the double well: many modes, and every answer still exactly known."""

import torch
from torch import Tensor

from bgdiff.errors import DataError, SystemDefinitionError
from bgdiff.targets.double_well import DoubleWell

__all__ = ["ManyWell"]


class ManyWell:
    """N particles in the plane, u = Σ_n [a x_n + b x_n² + c x_n⁴ + ½ y_n²]: 2^N modes if b < 0.

    As in Noé et al., Science 365, eaaw1147 (2019) and Midgley et al., ICLR 2023 (FAB), who use 16 copies of
    (-½, -6, 1). The particles do not see each other and can be told apart. Conformations are ``(B, N, 2)`` in
    reduced units; the temperature is 1, so u = U. Computed in float64.

    Args:
        copies: N.
        a, b, c: of each :class:`~bgdiff.targets.double_well.DoubleWell`.

    Raises:
        SystemDefinitionError: there is no copy, ``c`` is not positive or a parameter is not finite.
    """

    def __init__(self, copies: int, a: float = -0.5, b: float = -6.0, c: float = 1.0) -> None:
        if copies < 1:
            raise SystemDefinitionError(f"many-well needs at least one copy of the double well, not {copies}")
        self.copies = copies
        self.well = DoubleWell(a, b, c)

    @property
    def event_shape(self) -> tuple[int, int]:
        return self.copies, 2

    def energy(self, x: Tensor) -> Tensor:
        """Reduced energies ``(B,)`` of positions ``(B, N, 2)``; differentiable."""
        return self.well.energy(self._separated(x)).view(-1, self.copies).sum(1)

    def energy_and_force(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Reduced energies ``(B,)`` and forces -du/dx ``(B, N, 2)``."""
        energy, force = self.well.energy_and_force(self._separated(x))
        return energy.view(-1, self.copies).sum(1), force.view(-1, self.copies, 2)

    def log_z(self) -> float:
        """log ∫ exp(-u) dx: N times that of the double well, by quadrature."""
        return self.copies * self.well.log_z()

    def _separated(self, x: Tensor) -> Tensor:
        if x.ndim != 3 or tuple(x.shape[1:]) != self.event_shape:
            raise DataError(f"positions must have shape (B, {self.copies}, 2), not {tuple(x.shape)}")
        return x.to(torch.float64).reshape(-1, 1, 2)

    def __repr__(self) -> str:
        well = self.well
        return f"ManyWell({self.copies}, a={well.a:g}, b={well.b:g}, c={well.c:g})"
