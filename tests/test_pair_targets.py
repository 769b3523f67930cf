"""Lennard-Jones clusters and multi double wells against OpenMM, loops, autograd and known global minima."""

import math
from typing import Any

import numpy as np
import openmm
import pytest
import torch
from checks import seeded
from cluster_shapes import icosahedron, mackay_icosahedron, truncated_octahedron
from openmm import unit
from scipy.optimize import minimize
from scipy.stats import ortho_group
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode

import bgdiff.targets.pairs
from bgdiff.errors import DataError, SystemDefinitionError
from bgdiff.targets.base import Target
from bgdiff.targets.lennard_jones import LennardJones, lennard_jones
from bgdiff.targets.multi_double_well import MultiDoubleWell, multi_double_well

Cluster = LennardJones | MultiDoubleWell

CLUSTERS: list[Cluster] = [
    lennard_jones(2),
    lennard_jones(13),
    lennard_jones(6, 2, epsilon=0.7, r_min=1.3, oscillator=0.4, pairs="once"),
    lennard_jones(7, oscillator=0.0),
    multi_double_well(),
    multi_double_well(5, 3, a=0.3, b=-1.0, c=0.2, offset=2.0, pairs="twice"),
]
CORES = {"LennardJones": 0.4, "MultiDoubleWell": 0.05}


def positions(target: Cluster, n: int, seed: int = 0) -> Tensor:
    """Particles on a coarse grid, shaken: energies of a size that can be compared."""
    particles, dimensions = target.event_shape
    sites = torch.cartesian_prod(*[torch.arange(3.0, dtype=torch.float64)] * dimensions)[:particles]
    spacing = target.r_min if isinstance(target, LennardJones) else target.offset / 1.5
    noise = torch.randn(n, *target.event_shape, generator=seeded(seed), dtype=torch.float64)
    return spacing * (sites + 0.1 * noise) + 5.0


def by_loop(target: Cluster, x: Tensor) -> float:
    """The energy of one conformation as it is written in the literature."""
    total, factor = 0.0, {"once": 1, "twice": 2}[target.pairs]
    for i in range(len(x)):
        for j in range(i):
            d = math.dist(x[i].tolist(), x[j].tolist())
            if isinstance(target, LennardJones):
                total += factor * target.epsilon * ((target.r_min / d) ** 12 - 2 * (target.r_min / d) ** 6)
            else:
                t = d - target.offset
                total += factor * (target.a * t + target.b * t**2 + target.c * t**4)
    if isinstance(target, LennardJones):
        total += 0.5 * target.oscillator * float((x - x.mean(0)).square().sum())
    return total


def by_openmm(target: Cluster, x: Tensor) -> tuple[float, np.ndarray]:
    if isinstance(target, LennardJones):
        formula = "epsilon*((r_min/r)^12 - 2*(r_min/r)^6) + k*r^2/(2*n)"  # Σ |x - x̄|² = Σ_{i<j} r²/n
        values = {"epsilon": target.epsilon, "r_min": target.r_min, "n": len(x)}
        values |= {"k": target.oscillator / {"once": 1, "twice": 2}[target.pairs]}
    else:
        formula = "a*(r - offset) + b*(r - offset)^2 + c*(r - offset)^4"
        values = {"a": target.a, "b": target.b, "c": target.c, "offset": target.offset}
    force = openmm.CustomNonbondedForce(f"{ {'once': 1, 'twice': 2}[target.pairs] }*({formula})")
    for name, value in values.items():
        force.addGlobalParameter(name, value)
    system = openmm.System()
    for _ in x:
        system.addParticle(1.0)
        force.addParticle()
    system.addForce(force)
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    context.setPositions(x.numpy())
    state = context.getState(getEnergy=True, getForces=True)
    energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
    forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer)
    return energy, np.asarray(forces)


@pytest.mark.parametrize("target", CLUSTERS, ids=repr)
def test_energies_are_those_of_the_formula(target: Cluster) -> None:
    assert isinstance(target, Target)
    x = positions(target, 5)
    energy = target.energy(x)
    assert energy.dtype == torch.float64
    torch.testing.assert_close(energy, torch.tensor([by_loop(target, one) for one in x], dtype=torch.float64))


@pytest.mark.parametrize("target", [one for one in CLUSTERS if one.dimensions == 3], ids=repr)
def test_energies_and_forces_agree_with_openmm(target: Cluster) -> None:
    x = positions(target, 3)
    energy, force = target.energy_and_force(x)
    for row, one in enumerate(x):
        expected_energy, expected_force = by_openmm(target, one)
        assert float(energy[row]) == pytest.approx(expected_energy, rel=1e-10)
        np.testing.assert_allclose(force[row].numpy(), expected_force, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("target", CLUSTERS, ids=repr)
def test_derivatives(target: Cluster) -> None:
    """First and second derivatives by finite differences; some pairs are in the core, one is on one spot."""
    x = positions(target, 2)
    x[1, 1] = x[1, 0]
    if target.particles > 2:
        x[0, 2] = x[0, 0] + 0.6 * CORES[type(target).__name__] / math.sqrt(target.dimensions)
    x.requires_grad_()
    energy, force = target.energy_and_force(x)
    (gradient,) = torch.autograd.grad(energy.sum(), x)
    torch.testing.assert_close(force, -gradient, rtol=1e-14, atol=1e-14)
    force = force.detach()
    assert float(force.sum(1).abs().max()) < 1e-13 * float(force.abs().max()) + 1e-12
    largest = float(energy.detach().abs().max())  # cores are huge: compare in units of their energy

    def scaled(x: Tensor) -> Tensor:
        return target.energy(x) / largest

    assert gradcheck(scaled, (x,), eps=1e-6, atol=1e-7, rtol=1e-5)
    assert gradgradcheck(scaled, (x,), eps=1e-6, atol=1e-6, rtol=1e-5)


def test_third_derivatives_are_refused() -> None:
    target = lennard_jones(4)
    x = positions(target, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(target.energy(x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(gradient[0, 0, 0], x, create_graph=True)
    with pytest.raises(NotImplementedError, match="third derivatives"):
        torch.autograd.grad(second.sum(), x)


@pytest.mark.parametrize("target", CLUSTERS, ids=repr)
def test_continuation_into_the_core_is_smooth(target: Cluster) -> None:
    """Energy, slope and curvature along the distance of two particles have no step at the core's edge."""
    pair: Cluster
    if isinstance(target, LennardJones):
        pair = lennard_jones(2, target.dimensions, r_min=target.r_min, oscillator=0.0)
        edge = 0.4 * target.r_min
    else:
        pair = multi_double_well(2, target.dimensions, a=target.a, b=target.b, c=target.c)
        edge = 0.05
    step = 1e-7 * edge
    r = torch.tensor([edge - step, edge + step], dtype=torch.float64, requires_grad=True)
    axis = torch.zeros(2, 2, target.dimensions, dtype=torch.float64)
    axis[:, 1, 0] = 1.0
    energy = pair.energy(r[:, None, None] * axis)
    (slope,) = torch.autograd.grad(energy.sum(), r, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), r)
    for values in (energy.detach(), slope.detach(), curvature):
        assert float(values[0]) == pytest.approx(float(values[1]), rel=1e-4)


@pytest.mark.parametrize("target", CLUSTERS, ids=repr)
def test_overlaps_and_vast_clusters_are_huge_but_finite(target: Cluster) -> None:
    usual = float(target.energy(positions(target, 10)).abs().max())
    together = torch.full((1, *target.event_shape), 3.0)  # all on one spot
    partly = positions(target, 1)
    partly[:, 1] = partly[:, 0]
    near = partly.clone()
    near[:, 1] += 1e-200
    far = 1e38 * positions(target, 1)  # about the largest float32
    for x in (together, partly, near, far):
        energy, force = target.energy_and_force(x)
        assert torch.isfinite(energy).all()
        assert torch.isfinite(force).all()
        if isinstance(target, LennardJones) and x is not far:
            assert float(energy.min()) > 1e5
    if not isinstance(target, LennardJones) or target.oscillator:
        assert float(target.energy(far)) > 1e30 * usual


@pytest.mark.parametrize("target", [lennard_jones(2), multi_double_well(2, 3)], ids=repr)
def test_repulsion_grows_all_the_way_in(target: Cluster) -> None:
    x = torch.zeros(300, 2, 3, dtype=torch.float64)
    x[:, 1, 0] = torch.linspace(0.0, 0.9, 300)
    assert (target.energy(x).diff() < 0).all()


def test_a_broken_conformation_leaves_the_others_alone() -> None:
    target = lennard_jones(13)
    x = positions(target, 3)
    good = target.energy(x)
    x[1, 4, 2] = math.nan
    energy = target.energy(x)
    assert not math.isfinite(energy[1])
    assert torch.equal(energy[[0, 2]], good[[0, 2]])


@pytest.mark.parametrize("target", CLUSTERS, ids=repr)
def test_nothing_but_distances_matters(target: Cluster) -> None:
    """Translations, rotations, reflections and exchanges of particles leave the energy and turn the force."""
    x = positions(target, 20)
    energy, force = target.energy_and_force(x)
    rotation = torch.from_numpy(ortho_group.rvs(target.dimensions, random_state=1))
    order = torch.randperm(target.particles, generator=seeded(2))
    for sign in (1.0, -1.0):
        moved, turned = target.energy_and_force((sign * x @ rotation + 0.7)[:, order])
        torch.testing.assert_close(moved, energy, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(turned, (sign * force @ rotation)[:, order], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    ("start", "alone", "trapped"),
    [
        (icosahedron, -44.326801, -83.089644),
        (truncated_octahedron, -173.928427, -311.594627),
        (mackay_icosahedron, -279.248470, -491.641269),
    ],
)
def test_global_minima(start: Any, alone: float, trapped: float) -> None:
    """Of Hoare and Pal, Northby, and Gomez and Romero as in the Cambridge Cluster Database; and of the
    literature's samplers, which count pairs twice and trap the cluster."""
    x = start()
    for options, expected in (({"pairs": "once", "oscillator": 0.0}, alone), ({}, trapped)):
        target = lennard_jones(len(x), **options)

        def function(flat: np.ndarray, target: LennardJones = target) -> tuple[float, np.ndarray]:
            energy, force = target.energy_and_force(torch.from_numpy(flat).reshape(1, *target.event_shape))
            return float(energy), -force.flatten().numpy()

        found = minimize(function, x.flatten().numpy(), jac=True, method="L-BFGS-B", options={"maxiter": 500})
        assert found.fun == pytest.approx(expected, abs=2e-6)


def test_conventions_differ_by_what_they_say() -> None:
    x = positions(lennard_jones(13), 4)
    once, twice = (lennard_jones(13, pairs=pairs, oscillator=0.0) for pairs in ("once", "twice"))
    torch.testing.assert_close(twice.energy(x), 2 * once.energy(x))
    deep = lennard_jones(13, epsilon=2.0, pairs="once")
    torch.testing.assert_close(deep.energy(x), lennard_jones(13).energy(x))
    y = positions(multi_double_well(), 4)
    torch.testing.assert_close(multi_double_well(pairs="twice").energy(y), 2 * multi_double_well().energy(y))


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for n in (4, 7, 8):
        target = lennard_jones(n)
        x = positions(target, 33)
        whole = target.energy_and_force(x)
        monkeypatch.setattr(bgdiff.targets.pairs, "_BLOCK", 20)
        for one, other in zip(whole, target.energy_and_force(x), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
        monkeypatch.undo()
    empty = target.energy_and_force(x[:0])
    assert [tuple(part.shape) for part in empty] == [(0,), (0, 8, 3)]


class LargestTensor(TorchDispatchMode):
    """Remembers the most bytes behind one tensor that an operation returned."""

    nbytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.nbytes = max(self.nbytes, result.untyped_storage().nbytes())
        return result


def test_memory_does_not_grow_with_pairs() -> None:
    """Nothing larger than the conformations themselves; their pairs would take 27 times as much."""
    target = lennard_jones(55)
    x = torch.randn(1200, 55, 3, generator=seeded(1), dtype=torch.float64).requires_grad_()
    with LargestTensor() as largest:
        (gradient,) = torch.autograd.grad(target.energy(x).sum(), x, create_graph=True)
        torch.autograd.grad(gradient.square().sum(), x)
    assert largest.nbytes == x.nbytes


def test_nonsense_is_refused() -> None:
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (lennard_jones, {"particles": 1}, "at least 2 particles in at least 1 dimension, not 1 in 3"),
        (lennard_jones, {"particles": 3, "dimensions": 0}, "not 3 in 0"),
        (lennard_jones, {"particles": 3, "epsilon": 0.0}, "epsilon must be positive"),
        (lennard_jones, {"particles": 3, "r_min": math.inf}, "r_min must be positive"),
        (lennard_jones, {"particles": 3, "oscillator": -1.0}, "oscillator must be finite and >= 0"),
        (lennard_jones, {"particles": 3, "pairs": "thrice"}, "'once' or 'twice', not 'thrice'"),
        (multi_double_well, {"particles": 1}, "a multi double well needs at least 2"),
        (multi_double_well, {"c": 0.0}, "c > 0"),
        (multi_double_well, {"b": math.nan}, "finite a, b"),
        (multi_double_well, {"pairs": "both"}, "multi double well: pairs are counted"),
    ]
    for make, arguments, message in cases:
        with pytest.raises(SystemDefinitionError, match=message):
            make(**arguments)
    with pytest.raises(DataError, match=r"must have shape \(B, 13, 3\), not \(4, 12, 3\)"):
        lennard_jones(13).energy(torch.zeros(4, 12, 3))
    assert not lennard_jones(13, oscillator=0.0).normalisable
    assert lennard_jones(13).normalisable
