"""Sums of a potential over all pairs of particles: energy, force, product with the Hessian, in closed form.

A pair energy is written as a function ψ of the *squared* distance s = |x_i - x_j|², so that no square root is
differentiated and everything stays smooth where two particles coincide:

    u = Σ_{i<j} ψ(s_ij),   -∂u/∂x_i = -2 Σ_j ψ'(s_ij) (x_i - x_j),
    (H v)_i = Σ_j [2 ψ'(s_ij) δ + 4 ψ''(s_ij) (x_ij · δ) x_ij],   δ = v_i - v_j.

Below a small core, where a potential diverges or has a cusp, ψ is continued by its Taylor polynomial of
second order in s: twice continuously differentiable, and finite even for particles on top of each other.

Pairs are taken by shifts, i with i+1, then i with i+2 and so on around a circle, over a block of
conformations at a time: the working memory is a few MB, whatever the batch and the number of pairs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from bgdiff.errors import DataError, SystemDefinitionError

__all__ = ["PairPotential", "Pairs", "check_particles", "pair_energy_and_force", "pair_factor", "positions"]

_BLOCK = 32_768  # pairs at a time: enough to hide the cost of calling torch, few enough for the cache

Pairs = Literal["once", "twice"]
"""How often a sum counts each pair: as i < j, or as i ≠ j."""


class PairPotential(Protocol):
    """ψ(s) of the squared distance s for ``s >= core``; all take and return tensors of one shape."""

    @property
    def core(self) -> float:
        """The squared distance below which ψ is continued; positive."""
        ...

    def energy_and_slope(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """ψ and ψ' = dψ/ds."""
        ...

    def slope_and_curvature(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """ψ' and ψ'' = d²ψ/ds²."""
        ...


def pair_energy_and_force(x: Tensor, potential: PairPotential) -> tuple[Tensor, Tensor]:
    """Energies ``(B,)`` and forces ``(B, N, D)`` of ψ summed over i < j, for ``x`` ``(B, N, D)`` in float64.

    Both are differentiable: the energy twice, the force once.

    Raises:
        NotImplementedError: in a backward pass that asks for a third derivative of the energy.
    """
    energy, force = _EnergyAndForce.apply(x, potential)
    return energy, force


def positions(x: Tensor, shape: tuple[int, int]) -> Tensor:
    """``x`` in float64 if it is a batch ``(B, N, D)`` of conformations of this shape.

    Raises:
        DataError: it is not.
    """
    if x.ndim != 3 or tuple(x.shape[1:]) != shape:
        raise DataError(f"positions must have shape (B, {shape[0]}, {shape[1]}), not {tuple(x.shape)}")
    return x.to(torch.float64)


def check_particles(what: str, particles: int, dimensions: int) -> None:
    """Refuse a cluster of fewer than two particles or in no dimension.

    Raises:
        SystemDefinitionError: it is one; ``what`` names it.
    """
    if particles < 2 or dimensions < 1:
        raise SystemDefinitionError(
            f"{what} needs at least 2 particles in at least 1 dimension, not {particles} in {dimensions}"
        )


def pair_factor(what: str, pairs: str) -> float:
    """What a sum over i < j is multiplied with: 1 if it counts pairs ``once``, 2 if ``twice``.

    Raises:
        SystemDefinitionError: ``pairs`` is another word.
    """
    factors = {"once": 1.0, "twice": 2.0}
    if pairs not in factors:
        raise SystemDefinitionError(f"{what}: pairs are counted 'once' or 'twice', not {pairs!r}")
    return factors[pairs]


class _EnergyAndForce(torch.autograd.Function):
    """(u, F)(x). As F is an output, the graph of the backward pass leads through F to this node again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, potential: PairPotential) -> tuple[Tensor, Tensor]:
        energy, force = torch.empty_like(x[:, 0, 0]), torch.empty_like(x)
        for rows in _blocks(x):
            energy[rows], force[rows] = _evaluate(x[rows], potential)
        ctx.save_for_backward(x, force)
        ctx.potential = potential
        ctx.set_materialize_grads(False)
        return energy, force

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None]:
        by_energy, by_force = gradients
        x, force = ctx.saved_tensors
        total: Tensor | None = None
        if by_energy is not None:
            total = -by_energy[:, None, None] * force
        if by_force is not None:
            product = _HessianProduct.apply(x, by_force, ctx.potential)
            total = -product if total is None else total - product
        return total, None


class _HessianProduct(torch.autograd.Function):
    """H(x) v with H = ∂²u/∂x², row by row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, v: Tensor, potential: PairPotential) -> Tensor:
        product = torch.empty_like(x)
        for rows in _blocks(x):
            product[rows] = _hessian_product(x[rows], v[rows], potential)
        return product

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, None]:
        raise NotImplementedError("third derivatives of pair energies are not available")


def _evaluate(x: Tensor, potential: PairPotential) -> tuple[Tensor, Tensor]:
    core, slope_at, curvature_at = _at_core(potential)
    circle = _around(x)
    energy, pull = x.new_zeros(len(x)), torch.zeros_like(circle)
    for group in _groups(x.shape[1], len(x)):
        apart = group.differences(circle)
        s = _squared(apart)
        if bool((s < core).any()):
            outside = s.clamp(min=core)
            value, slope = potential.energy_and_slope(outside)
            below = s.sub_(outside)  # zero outside the core
            value.addcmul_(below, below * (0.5 * curvature_at) + slope_at)
            slope.add_(below, alpha=curvature_at)
        else:
            value, slope = potential.energy_and_slope(s)
        energy += value.sum((0, 1))
        apart *= slope
        group.gather(apart, pull)
    return energy, -2 * _back(pull)


def _hessian_product(x: Tensor, v: Tensor, potential: PairPotential) -> Tensor:
    core, _, curvature_at = _at_core(potential)
    circle, shifted = _around(x), _around(v)
    product = torch.zeros_like(circle)
    for group in _groups(x.shape[1], len(x)):
        apart, change = group.differences(circle), group.differences(shifted)
        s = _squared(apart)
        outside = s.clamp(min=core)
        slope, curvature = potential.slope_and_curvature(outside)  # ψ'' is constant in the core
        slope = slope + curvature_at * (s - outside)
        group.gather(2 * slope * change + (4 * curvature * (apart * change).sum(0)) * apart, product)
    return _back(product)


def _squared(apart: Tensor) -> Tensor:
    """Sum over the first axis of squares."""
    s = apart[0].square()
    for component in apart[1:]:
        s.addcmul_(component, component)
    return s


def _at_core(potential: PairPotential) -> tuple[float, float, float]:
    """The core and there ψ' and ψ''."""
    slope, curvature = potential.slope_and_curvature(torch.tensor(potential.core, dtype=torch.float64))
    return potential.core, float(slope), float(curvature)


def _blocks(x: Tensor) -> Iterator[slice]:
    size = max(1, _BLOCK // x.shape[1])
    for start in range(0, len(x), size):
        yield slice(start, start + size)


@dataclass(frozen=True)
class _Group:
    """Pairs (i, i + shift) of particles on a circle, for successive shifts; a circle is :func:`_around`."""

    shift: int
    """The first."""
    count: int
    """How many shifts."""
    length: int
    """How many pairs each: i < length."""

    def differences(self, circle: Tensor) -> Tensor:
        """x_i - x_(i+shift), ``(D, count, length, B)``."""
        windows = circle.unfold(1, self.length, 1)[:, self.shift : self.shift + self.count]
        return circle[:, None, : self.length] - windows.transpose(2, 3)

    def gather(self, parts: Tensor, circle: Tensor) -> None:
        """Add the parts ``(D, count, length, B)`` to i, and subtract them from i + shift."""
        circle[:, : self.length] += parts.sum(1) if self.count > 1 else parts[:, 0]
        for k in range(self.count):
            start = self.shift + k
            circle[:, start : start + self.length] -= parts[:, k]


def _groups(n: int, batch: int) -> Iterator[_Group]:
    """Together every pair of n particles once."""
    last, size = (n - 1) // 2, max(1, _BLOCK // (n * batch))
    for shift in range(1, last + 1, size):
        yield _Group(shift, min(size, last + 1 - shift), n)
    if n % 2 == 0:
        yield _Group(n // 2, 1, n // 2)


def _around(x: Tensor) -> Tensor:
    """``(B, N, D)`` → ``(D, 2N, B)``, the particles twice, one conformation beside the next in memory."""
    moved = x.permute(2, 1, 0)
    return torch.cat([moved, moved], dim=1)


def _back(circle: Tensor) -> Tensor:
    """Sum of the two copies, ``(B, N, D)``."""
    n = circle.shape[1] // 2
    return (circle[:, :n] + circle[:, n:]).permute(2, 1, 0)
