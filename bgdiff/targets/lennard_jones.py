"""Clusters of Lennard-Jones particles: the standard test of samplers for many equal particles."""

import math

from torch import Tensor

from bgdiff.errors import SystemDefinitionError
from bgdiff.targets.pairs import Pairs, check_particles, pair_energy_and_force, pair_factor, positions

__all__ = ["LennardJones", "lennard_jones"]

_CORE = 0.4  # of r_min


class LennardJones:
    """N particles, u = κ ε Σ_{i<j} [(r_m/r_ij)¹² - 2 (r_m/r_ij)⁶] + ½ k Σ_i |x_i - x̄|².

    κ is 2 if a pair counts ``twice``, as in the sums over i ≠ j of Köhler, Klein & Noé, ICML 2020, and of the
    work that compares itself with it; 1 if ``once``, as in tables of global minima. The oscillator keeps
    particles from evaporating. It pulls on distances from the centroid x̄, so that the energy does not
    depend on where the cluster is: it is a density only without the centroid's own motion
    (:class:`~bgdiff.coordinates.MeanFreeCoordinates`), and with k = 0 not even then, because the free
    particles' volume is infinite; the energy is defined all the same.

    Conformations are ``(B, N, D)`` in reduced units; the temperature is 1, so u = U. Computed in float64.
    Below 0.4 r_m, where a pair's energy is 59 000 κ ε, it continues as a polynomial of second order in r²,
    with continuous second derivatives: energies of overlapping particles are huge, but finite, and so are
    forces.

    Args:
        particles: N, at least 2.
        dimensions: D.
        epsilon: depth ε of the well, in kT.
        r_min: distance r_m of the minimum; σ is r_m / 2^(1/6).
        oscillator: k, kT per squared length; 0 for none.
        pairs: whether the sum counts each pair ``once`` or ``twice``.

    Raises:
        SystemDefinitionError: a parameter makes no sense.
    """

    def __init__(
        self,
        particles: int,
        dimensions: int = 3,
        epsilon: float = 1.0,
        r_min: float = 1.0,
        oscillator: float = 1.0,
        pairs: Pairs = "twice",
    ) -> None:
        check_particles("a Lennard-Jones cluster", particles, dimensions)
        for name, value in (("epsilon", epsilon), ("r_min", r_min)):
            if not (math.isfinite(value) and value > 0):
                raise SystemDefinitionError(f"Lennard-Jones: {name} must be positive, not {value}")
        if not (math.isfinite(oscillator) and oscillator >= 0):
            raise SystemDefinitionError(
                f"Lennard-Jones: oscillator must be finite and >= 0, not {oscillator}"
            )
        self.particles, self.dimensions = particles, dimensions
        self.epsilon, self.r_min, self.oscillator = float(epsilon), float(r_min), float(oscillator)
        self.pairs = pairs
        self._potential = _Potential(pair_factor("Lennard-Jones", pairs) * self.epsilon, self.r_min**2)

    @property
    def event_shape(self) -> tuple[int, int]:
        return self.particles, self.dimensions

    @property
    def normalisable(self) -> bool:
        """Whether exp(-u) has a finite integral when the centroid is held still."""
        return self.oscillator > 0

    def energy(self, x: Tensor) -> Tensor:
        """Reduced energies ``(B,)`` of positions ``(B, N, D)``; twice differentiable."""
        return self.energy_and_force(x)[0]

    def energy_and_force(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Reduced energies ``(B,)`` and forces -du/dx ``(B, N, D)``; the forces sum to 0."""
        x = positions(x, self.event_shape)
        energy, force = pair_energy_and_force(x, self._potential)
        if self.oscillator == 0:
            return energy, force
        centred = x - x.mean(1, keepdim=True)
        return energy + 0.5 * self.oscillator * centred.square().sum(
            (1, 2)
        ), force - self.oscillator * centred

    def __repr__(self) -> str:
        return (
            f"LennardJones({self.particles}, {self.dimensions}, epsilon={self.epsilon:g}, "
            f"r_min={self.r_min:g}, oscillator={self.oscillator:g}, pairs={self.pairs!r})"
        )


class _Potential:
    """ψ(s) = depth (q⁶ - 2 q³), q = r_m²/s."""

    def __init__(self, depth: float, r_min_squared: float) -> None:
        self.depth, self.r_min_squared = depth, r_min_squared
        self.core = _CORE**2 * r_min_squared

    def energy_and_slope(self, s: Tensor) -> tuple[Tensor, Tensor]:
        q = self.r_min_squared / s
        cube = q * q * q
        # ψ' = -6 depth (q⁶ - q³)/s = -6 depth/r_m² (q³ - 1) q⁴
        slope = (cube - 1).mul_(cube).mul_(q).mul_(-6 * self.depth / self.r_min_squared)
        return (cube - 2).mul_(cube).mul_(self.depth), slope

    def slope_and_curvature(self, s: Tensor) -> tuple[Tensor, Tensor]:
        q = self.r_min_squared / s
        cube = q**3
        scale = 6 * self.depth / self.r_min_squared
        return -scale * (cube - 1) * cube * q, scale / self.r_min_squared * (7 * cube - 4) * cube * q * q


def lennard_jones(
    particles: int,
    dimensions: int = 3,
    *,
    epsilon: float = 1.0,
    r_min: float = 1.0,
    oscillator: float = 1.0,
    pairs: Pairs = "twice",
) -> LennardJones:
    """A Lennard-Jones cluster by the convention of the literature; see :class:`LennardJones`.

    >>> lennard_jones(13)
    LennardJones(13, 3, epsilon=1, r_min=1, oscillator=1, pairs='twice')
    >>> lennard_jones(38, oscillator=0, pairs="once").event_shape  # as in tables of global minima
    (38, 3)
    """
    return LennardJones(particles, dimensions, epsilon, r_min, oscillator, pairs)
