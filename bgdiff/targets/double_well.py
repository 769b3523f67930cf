"""A two-dimensional double well: the smallest target with two modes and an exactly known answer."""

import itertools
import math

import torch
from torch import Tensor

from bgdiff.errors import DataError, SystemDefinitionError

__all__ = ["DoubleWell"]


class DoubleWell:
    """One particle in the plane, u(x, y) = a x + b x² + c x⁴ + ½ y².

    ``c > 0`` keeps it normalisable; ``b < 0`` makes two wells, which ``a`` tilts. Conformations are
    ``(B, 1, 2)`` in reduced units; the temperature is 1, so u = U. Computed in float64.

    Raises:
        SystemDefinitionError: ``c`` is not positive or a parameter is not finite.
    """

    def __init__(self, a: float = 1.0, b: float = -4.0, c: float = 1.0) -> None:
        if not (math.isfinite(a) and math.isfinite(b) and math.isfinite(c) and c > 0):
            raise SystemDefinitionError(f"double well needs finite a, b and c > 0, not a={a}, b={b}, c={c}")
        self.a, self.b, self.c = float(a), float(b), float(c)

    @property
    def event_shape(self) -> tuple[int, int]:
        return 1, 2

    def energy(self, x: Tensor) -> Tensor:
        """Reduced energies ``(B,)`` of positions ``(B, 1, 2)``; differentiable."""
        x, y = self._components(x)
        return self.a * x + self.b * x**2 + self.c * x**4 + 0.5 * y**2

    def energy_and_force(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Reduced energies ``(B,)`` and forces -du/dx ``(B, 1, 2)``."""
        energy = self.energy(x)
        x, y = self._components(x)
        force = torch.stack([-(self.a + 2 * self.b * x + 4 * self.c * x**3), -y], dim=-1)
        return energy, force.unsqueeze(1)

    def log_z(self) -> float:
        """log ∫∫ exp(-u) dx dy, by quadrature; relative error of Z below 1e-10."""
        return self.log_z_interval(-math.inf, math.inf)

    def log_z_interval(self, lo: float, hi: float) -> float:
        """log of the part of Z with ``lo <= x < hi``, by adaptive quadrature in x and exactly in y.

        Raises:
            ValueError: the interval is empty.
        """
        from scipy.integrate import quad
        from scipy.optimize import minimize_scalar

        if not lo < hi:
            raise ValueError(f"interval [{lo}, {hi}) is empty")
        # c x⁴ rules beyond this radius: there u exceeds its minimum by more than 750, where exp is 0.
        radius = 1 + math.sqrt((abs(self.b) + 1) / self.c) + (abs(self.a) / self.c) ** (1 / 3)
        radius += (800 / self.c) ** 0.25 + abs(self.b) / self.c
        lo, hi = max(lo, -radius), min(hi, radius)
        if not lo < hi:
            return -math.inf
        pieces = [lo + (hi - lo) * k / 64 for k in range(65)]
        lowest = min(
            minimize_scalar(self._profile, bounds=(left, right), method="bounded").fun
            for left, right in itertools.pairwise(pieces)
        )
        total = sum(
            quad(
                lambda x: math.exp(lowest - self._profile(x)), left, right, epsabs=0, epsrel=1e-12, limit=200
            )[0]
            for left, right in itertools.pairwise(pieces)
        )
        return math.log(total) - lowest + 0.5 * math.log(2 * math.pi)

    def _profile(self, x: float) -> float:
        return self.a * x + self.b * x**2 + self.c * x**4

    def _components(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if x.ndim != 3 or tuple(x.shape[1:]) != (1, 2):
            raise DataError(f"positions must have shape (B, 1, 2), not {tuple(x.shape)}")
        x = x.to(torch.float64)
        return x[:, 0, 0], x[:, 0, 1]

    def __repr__(self) -> str:
        return f"DoubleWell(a={self.a:g}, b={self.b:g}, c={self.c:g})"
