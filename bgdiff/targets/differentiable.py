"""Energies and forces of any evaluator as differentiable functions of the coordinates.

An evaluator such as OpenMM or a compiled kernel knows the energy and the force of a conformation but nothing
of automatic differentiation. Saving the force in the forward pass makes the first derivative of the energy
exact and free of charge. A second derivative is only ever needed as a product H v with some vector, for
example when a loss contains forces; two more evaluations give it as the central difference of the force
along v, in double precision with an error near 1e-9 of its size.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bgdiff.errors import DataError

__all__ = [
    "HESSIAN_STEP",
    "Evaluator",
    "check_conformations",
    "differentiable_energy",
    "differentiable_energy_and_force",
]

Evaluator = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Energies ``(...)`` and forces -du/dx ``(..., N, D)`` of conformations ``(..., N, D)``; no gradients."""

HESSIAN_STEP = 1e-5
"""Largest displacement of a coordinate, in nm: truncation (~h²) and rounding (~1e-16/h) balance near it."""


def check_conformations(x: Tensor, n_atoms: int) -> None:
    """Refuse what is not a batch of conformations ``(..., n_atoms, 3)`` of floating-point numbers.

    Raises:
        DataError: x is no tensor, has another shape or dtype, or has no batch dimension.
    """
    if not isinstance(x, Tensor):
        raise DataError(f"conformations must be a torch.Tensor, not {type(x).__name__}")
    if x.ndim < 3 or tuple(x.shape[-2:]) != (n_atoms, 3):
        raise DataError(
            f"conformations must have shape (B, {n_atoms}, 3), with any number of batch dimensions B, "
            f"not {tuple(x.shape)}"
        )
    if not x.is_floating_point():
        raise DataError(f"conformations must be real floating-point numbers (nm), not {x.dtype}")


def differentiable_energy(evaluate: Evaluator, x: Tensor, *, precise: Evaluator | None = None) -> Tensor:
    """Return the energies ``(...)`` of :func:`differentiable_energy_and_force` alone."""
    return differentiable_energy_and_force(evaluate, x, precise=precise)[0]


def differentiable_energy_and_force(
    evaluate: Evaluator, x: Tensor, *, precise: Evaluator | None = None
) -> tuple[Tensor, Tensor]:
    """Evaluate, and let gradients flow through the energies and through the forces.

    Args:
        evaluate: called once, with x detached.
        x: conformations ``(..., N, D)``.
        precise: used in place of ``evaluate`` for second derivatives; it gets float64 coordinates and must
            answer in float64. Give it if ``evaluate`` computes in single precision.

    Returns:
        Energies ``(...)`` and forces ``(..., N, D)`` as ``evaluate`` gave them. The gradient of the energy is
        minus that force. The gradient of the force (the second derivative of the energy) is a central
        difference of forces with displacements up to :data:`HESSIAN_STEP`; it is itself not differentiable.

    Raises:
        NotImplementedError: in a backward pass that asks for a third derivative of the energy.
    """
    energy, force = _EnergyAndForce.apply(x, evaluate, precise or evaluate)
    return energy, force


class _EnergyAndForce(torch.autograd.Function):
    """(u, F)(x). As F is an output, the graph of the backward pass leads through F to this node again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, evaluate: Evaluator, precise: Evaluator) -> tuple[Tensor, Tensor]:
        energy, force = evaluate(x.detach())
        ctx.save_for_backward(x, force)
        ctx.precise = precise
        ctx.set_materialize_grads(False)
        return energy, force

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None, None]:
        by_energy, by_force = gradients
        x, force = ctx.saved_tensors
        total: Tensor | None = None
        if by_energy is not None:
            total = -by_energy[..., None, None] * force
        if by_force is not None:
            product = _HessianProduct.apply(x, by_force, ctx.precise)
            total = -product if total is None else total - product
        return None if total is None else total.to(x.dtype), None, None


class _HessianProduct(torch.autograd.Function):
    """H(x) v with H = ∂²u/∂x², row by row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, v: Tensor, evaluate: Evaluator) -> Tensor:
        x, direction = x.detach().double(), v.detach().double()
        # The largest component moves by the step, whatever the length of v; a row without v stays put.
        largest = direction.abs().amax(dim=(-2, -1), keepdim=True)
        scale = torch.where(largest == 0, torch.ones_like(largest), largest)
        shift = HESSIAN_STEP * (direction / scale)
        before, after = evaluate(x - shift)[1], evaluate(x + shift)[1]
        return (before - after).double() * (scale / (2 * HESSIAN_STEP))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, None]:
        raise NotImplementedError(
            "third derivatives of an energy are not available; differentiate at most twice, or use an energy "
            "written in torch throughout (bgdiff.targets.forcefield.dense)"
        )
