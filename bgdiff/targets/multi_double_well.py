"""Particles whose every distance lives in a double well: the smallest cluster with several modes."""

import math

from torch import Tensor

from bgdiff.errors import SystemDefinitionError
from bgdiff.targets.pairs import Pairs, check_particles, pair_energy_and_force, pair_factor, positions

__all__ = ["MultiDoubleWell", "multi_double_well"]

_CORE = 0.05


class MultiDoubleWell:
    """N particles, u = κ Σ_{i<j} [a t_ij + b t_ij² + c t_ij⁴], t_ij = |x_i - x_j| - offset.

    As in Köhler, Klein & Noé, ICML 2020, with τ = 1; κ is 1 if a pair counts ``once``, as there (½ of a sum
    over i ≠ j), 2 if ``twice``. ``c > 0`` keeps the particles together; ``b < 0`` gives every distance two
    wells, at offset ± √(-b/2c) if ``a`` does not tilt them. The energy does not depend on where the cluster
    is: it is a density only without the centroid's own motion
    (:class:`~bgdiff.coordinates.MeanFreeCoordinates`).

    Conformations are ``(B, N, D)`` in reduced units; the temperature is 1, so u = U. Computed in float64.
    As a function of x a term has a cusp where two particles coincide. Below a distance of 0.05 it is replaced
    by a polynomial of second order in r² with continuous second derivatives; with the default parameters
    such conformations have a weight of e⁻¹⁵⁰.

    Args:
        particles: N, at least 2.
        dimensions: D.
        a, b, c, offset: of the double well.
        pairs: whether the sum counts each pair ``once`` or ``twice``.

    Raises:
        SystemDefinitionError: a parameter makes no sense.
    """

    def __init__(
        self,
        particles: int = 4,
        dimensions: int = 2,
        a: float = 0.0,
        b: float = -4.0,
        c: float = 0.9,
        offset: float = 4.0,
        pairs: Pairs = "once",
    ) -> None:
        check_particles("a multi double well", particles, dimensions)
        if not (all(math.isfinite(value) for value in (a, b, c, offset)) and c > 0 and offset >= 0):
            raise SystemDefinitionError(
                "multi double well needs finite a, b, c > 0 and offset >= 0, not "
                f"a={a}, b={b}, c={c}, offset={offset}"
            )
        self.particles, self.dimensions = particles, dimensions
        self.a, self.b, self.c, self.offset = float(a), float(b), float(c), float(offset)
        self.pairs = pairs
        factor = pair_factor("multi double well", pairs)
        self._potential = _Potential(factor * self.a, factor * self.b, factor * self.c, self.offset)

    @property
    def event_shape(self) -> tuple[int, int]:
        return self.particles, self.dimensions

    def energy(self, x: Tensor) -> Tensor:
        """Reduced energies ``(B,)`` of positions ``(B, N, D)``; twice differentiable."""
        return self.energy_and_force(x)[0]

    def energy_and_force(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Reduced energies ``(B,)`` and forces -du/dx ``(B, N, D)``; the forces sum to 0."""
        return pair_energy_and_force(positions(x, self.event_shape), self._potential)

    def __repr__(self) -> str:
        return (
            f"MultiDoubleWell({self.particles}, {self.dimensions}, a={self.a:g}, b={self.b:g}, c={self.c:g}, "
            f"offset={self.offset:g}, pairs={self.pairs!r})"
        )


class _Potential:
    """ψ(s) = φ(√s - offset), φ(t) = a t + b t² + c t⁴."""

    core = _CORE**2

    def __init__(self, a: float, b: float, c: float, offset: float) -> None:
        self.a, self.b, self.c, self.offset = a, b, c, offset

    def energy_and_slope(self, s: Tensor) -> tuple[Tensor, Tensor]:
        r = s.sqrt()
        t = r - self.offset
        square = t * t
        energy = ((self.c * square).add_(self.b).mul_(t).add_(self.a)).mul_(t)
        slope = ((4 * self.c * square).add_(2 * self.b).mul_(t).add_(self.a)).div_(r.mul_(2))  # φ'/2r
        return energy, slope

    def slope_and_curvature(self, s: Tensor) -> tuple[Tensor, Tensor]:
        r = s.sqrt()
        t = r - self.offset
        first = self.a + t * (2 * self.b + 4 * self.c * t * t)
        second = 2 * self.b + 12 * self.c * t * t
        return first / (2 * r), (second - first / r) / (4 * s)


def multi_double_well(
    particles: int = 4,
    dimensions: int = 2,
    *,
    a: float = 0.0,
    b: float = -4.0,
    c: float = 0.9,
    offset: float = 4.0,
    pairs: Pairs = "once",
) -> MultiDoubleWell:
    """A multi double well, by default DW4 as in the literature; see :class:`MultiDoubleWell`.

    >>> multi_double_well()
    MultiDoubleWell(4, 2, a=0, b=-4, c=0.9, offset=4, pairs='once')
    """
    return MultiDoubleWell(particles, dimensions, a, b, c, offset, pairs)
