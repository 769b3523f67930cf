"""Energies made differentiable from evaluators that are not: against automatic differentiation and theory."""

import math

import pytest
import torch
from checks import seeded
from torch import Tensor

from bgdiff.errors import DataError
from bgdiff.targets.differentiable import (
    check_conformations,
    differentiable_energy,
    differentiable_energy_and_force,
)


def potential(x: Tensor) -> Tensor:
    """Smooth, anharmonic, with every pair of coordinates of the first two particles coupled."""
    return (0.3 * x**4).sum((-2, -1)) + torch.sin(3 * (x[..., 0, :] * x[..., 1, :]).sum(-1))


class Evaluator:
    """The potential as a black box that counts its calls."""

    def __init__(self) -> None:
        self.calls: list[torch.dtype] = []

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        assert not x.requires_grad
        self.calls.append(x.dtype)
        with torch.enable_grad():
            leaf = x.clone().requires_grad_()
            energy = potential(leaf)
            (gradient,) = torch.autograd.grad(energy.sum(), leaf)
        return energy.detach(), -gradient


@pytest.fixture
def x() -> Tensor:
    return torch.randn((2, 3, 4, 3), generator=seeded(1), dtype=torch.float64).requires_grad_()


def test_first_and_second_derivatives_of_the_energy(x):
    evaluate = Evaluator()
    assert torch.autograd.gradcheck(lambda y: differentiable_energy(evaluate, y), x)
    assert torch.autograd.gradgradcheck(lambda y: differentiable_energy(evaluate, y), x, atol=1e-5)


def test_first_derivative_of_the_force(x):
    assert torch.autograd.gradcheck(lambda y: differentiable_energy_and_force(Evaluator(), y), x)


def test_the_gradient_is_minus_the_force_itself_and_costs_no_further_evaluation(x):
    evaluate = Evaluator()
    energy, force = differentiable_energy_and_force(evaluate, x)
    weights = torch.rand(energy.shape, generator=seeded(2), dtype=torch.float64)
    (gradient,) = torch.autograd.grad((weights * energy).sum(), x)
    assert torch.equal(gradient, -weights[..., None, None] * force)
    assert len(evaluate.calls) == 1


def test_a_loss_of_forces_has_the_gradient_that_torch_gives(x):
    _, force = differentiable_energy_and_force(Evaluator(), x)
    (found,) = torch.autograd.grad((force**2).sum(), x)
    (slope,) = torch.autograd.grad(potential(x).sum(), x, create_graph=True)
    (expected,) = torch.autograd.grad((slope**2).sum(), x)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("length", [1e-8, 1.0, 1e8])
def test_the_length_of_the_vector_does_not_matter(x, length):
    """The displacement is a length in nm, not a multiple of whatever comes down the graph."""
    vector = length * torch.randn(x.shape, generator=seeded(3), dtype=torch.float64)
    found = torch.autograd.functional.vhp(lambda y: differentiable_energy(Evaluator(), y).sum(), x, vector)[1]
    expected = torch.autograd.functional.vhp(lambda y: potential(y).sum(), x, vector)[1]
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7 * length)


def test_rows_without_sense_and_rows_without_weight_stay_apart(x):
    broken = x.detach().clone()
    broken[0, 1, 0, 0] = math.nan
    broken.requires_grad_()
    _, force = differentiable_energy_and_force(Evaluator(), broken)
    vector = torch.randn(x.shape, generator=seeded(4), dtype=torch.float64)
    vector[1, 0] = 0
    (product,) = torch.autograd.grad(force, broken, vector)
    expected = torch.autograd.functional.vhp(lambda y: potential(y).sum(), x.detach(), vector)[1]
    good = torch.ones(2, 3, dtype=torch.bool)
    good[0, 1] = False
    torch.testing.assert_close(product[good], -expected[good], rtol=1e-7, atol=1e-7)
    assert (product[1, 0] == 0).all()
    assert not torch.isfinite(product[0, 1, :2]).any()


def test_single_precision_takes_second_derivatives_from_the_precise_evaluator():
    x = torch.randn((5, 4, 3), generator=seeded(5)).requires_grad_()
    fast, precise = Evaluator(), Evaluator()
    energy = differentiable_energy(fast, x, precise=precise)
    assert energy.dtype == torch.float32
    (gradient,) = torch.autograd.grad(energy.sum(), x, create_graph=True)
    (product,) = torch.autograd.grad((gradient**2).sum(), x)
    assert product.dtype == torch.float32
    assert fast.calls == [torch.float32]
    assert precise.calls == [torch.float64, torch.float64]
    double = x.detach().double().requires_grad_()
    (slope,) = torch.autograd.grad(potential(double).sum(), double, create_graph=True)
    (expected,) = torch.autograd.grad((slope**2).sum(), double)
    torch.testing.assert_close(product.double(), expected, rtol=1e-5, atol=1e-4)


def test_third_derivatives_are_refused_rather_than_wrong(x):
    (gradient,) = torch.autograd.grad(differentiable_energy(Evaluator(), x).sum(), x, create_graph=True)
    (product,) = torch.autograd.grad((gradient**2).sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="third derivatives"):
        torch.autograd.grad(product.sum(), x)


def test_empty_batches_have_empty_derivatives():
    x = torch.zeros((0, 4, 3), dtype=torch.float64, requires_grad=True)
    _, force = differentiable_energy_and_force(Evaluator(), x)
    (product,) = torch.autograd.grad((force**2).sum(), x)
    assert product.shape == (0, 4, 3)


def test_what_is_no_conformation_is_refused():
    check_conformations(torch.zeros(0, 5, 3), 5)
    check_conformations(torch.zeros(2, 7, 5, 3, dtype=torch.float16), 5)
    for wrong in (torch.zeros(5, 3), torch.zeros(1, 4, 3), torch.zeros(1, 5, 2), torch.tensor(0.0)):
        with pytest.raises(DataError, match=r"must have shape \(B, 5, 3\)"):
            check_conformations(wrong, 5)
    for dtype in (torch.int64, torch.complex128, torch.bool):
        with pytest.raises(DataError, match=f"floating-point numbers .*{dtype}"):
            check_conformations(torch.zeros(1, 5, 3, dtype=dtype), 5)
    with pytest.raises(DataError, match=r"torch\.Tensor, not ndarray"):
        check_conformations(torch.zeros(1, 5, 3).numpy(), 5)
