"""ForceFieldTarget: the density of a molecule on either engine, its derivatives, and what it refuses."""

import copy
import logging
import math
import pickle

import pytest
import torch
from forcefield_tables import empty_tables
from peptides import peptide, peptide_structure, peptide_system

import bgdiff.targets.forcefield as package
from bgdiff.errors import DataError, SystemDefinitionError
from bgdiff.targets.base import Target
from bgdiff.targets.forcefield import ForceFieldTarget, KernelUnavailable, load_kernel, parse_system
from bgdiff.targets.forcefield import target as module
from bgdiff.targets.forcefield.dense import dense_energy
from bgdiff.targets.openmm import GAS_CONSTANT, OpenMMTarget

ENGINES = ["kernel", "torch"] if load_kernel() else ["torch"]
DTYPES = [torch.float64, torch.float32]
TEMPERATURE = 310.0

needs_kernel = pytest.mark.skipif(load_kernel() is None, reason="no compiled kernel on this machine")


@pytest.fixture(scope="module")
def system():
    return peptide_system(peptide("ALA"), "ff96", "OBC1")


@pytest.fixture(scope="module")
def tables(system):
    return parse_system(system)


@pytest.fixture(scope="module")
def x():
    structure = torch.from_numpy(peptide_structure(peptide("ALA")))
    generator = torch.Generator().manual_seed(4)
    return structure + 0.005 * torch.randn(12, 22, 3, generator=generator, dtype=torch.float64)


@pytest.fixture(params=ENGINES)
def target(request, tables):
    return ForceFieldTarget(tables, TEMPERATURE, engine=request.param)


class TestDensity:
    def test_is_the_one_of_openmm(self, target, system, x):
        expected = OpenMMTarget(system, TEMPERATURE, platform="Reference").energy_and_force(x)
        energy, force = target.energy_and_force(x)
        assert energy.dtype == force.dtype == torch.float64
        torch.testing.assert_close(energy, expected[0], rtol=0, atol=1e-9)
        torch.testing.assert_close(force, expected[1], rtol=0, atol=1e-9)
        torch.testing.assert_close(target.energy(x), energy, rtol=0, atol=0)

    def test_single_precision(self, tables, target, x):
        """Answers are float32, right to 1e-2 kJ/mol and 0.1 kJ/mol/nm, wherever the molecule is."""
        single = ForceFieldTarget(tables, TEMPERATURE, dtype=torch.float32, engine=target.engine)
        expected = target.energy_and_force(x)
        energy, force = single.energy_and_force(x + 50.0)
        assert energy.dtype == force.dtype == single.energy(x).dtype == torch.float32
        torch.testing.assert_close(energy.double(), expected[0], rtol=0, atol=1e-2 / target.kT)
        torch.testing.assert_close(force.double(), expected[1], rtol=0, atol=0.1 / target.kT)

    def test_says_what_it_is(self, target, tables):
        assert isinstance(target, Target)
        assert target.event_shape == (22, 3)
        assert target.tables is tables
        assert target.temperature == TEMPERATURE
        assert target.kT == pytest.approx(GAS_CONSTANT * TEMPERATURE)
        how = f"compiled kernel {load_kernel().variant}" if target.engine == "kernel" else "in torch"
        assert how in target.describe()
        assert "float64" in target.describe()
        assert "22 atoms, 310 K" in repr(target)

    def test_torch_evaluates_large_batches_in_parts(self, tables, x, monkeypatch):
        target = ForceFieldTarget(tables, TEMPERATURE, engine="torch")
        expected = target.energy_and_force(x)
        sizes = []
        monkeypatch.setattr(module, "_DENSE_PAIRS", 5 * 22**2)
        monkeypatch.setattr(module, "dense_energy", lambda t, x: sizes.append(len(x)) or dense_energy(t, x))
        torch.testing.assert_close(target.energy_and_force(x), expected)
        assert sizes == [5, 5, 2]
        torch.testing.assert_close(target.energy(x), expected[0])
        assert sizes == [5, 5, 2] * 2


class TestDerivatives:
    def test_first(self, target, x):
        x = x[:2].clone().requires_grad_()
        torch.autograd.gradcheck(target.energy, x, eps=1e-6, atol=1e-4, rtol=1e-6)
        energy, force = target.energy_and_force(x)
        (gradient,) = torch.autograd.grad(energy.sum(), x)
        torch.testing.assert_close(gradient, -force, rtol=0, atol=1e-9)

    def test_second(self, target, tables, x):
        """Through the gradient of the energy and through the force, against the torch version."""
        x = x[:3].clone().requires_grad_()
        v = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
        (gradient,) = torch.autograd.grad(dense_energy(tables, x).sum() / target.kT, x, create_graph=True)
        (expected,) = torch.autograd.grad((gradient * v).sum(), x)
        (gradient,) = torch.autograd.grad(target.energy(x).sum(), x, create_graph=True)
        (through_gradient,) = torch.autograd.grad((gradient * v).sum(), x)
        (through_force,) = torch.autograd.grad((target.energy_and_force(x)[1] * -v).sum(), x)
        for found in (through_gradient, through_force):
            assert (found - expected).norm() < 1e-8 * expected.norm()

    @needs_kernel
    def test_of_a_single_precision_target(self, tables, x):
        """First derivatives are the float32 forces, second ones are computed in float64."""
        target = ForceFieldTarget(tables, TEMPERATURE, dtype=torch.float32, engine="kernel")
        x = x[:3].clone().requires_grad_()
        energy, force = target.energy_and_force(x)
        (gradient,) = torch.autograd.grad(energy.sum(), x, create_graph=True)
        assert gradient.dtype == x.dtype
        torch.testing.assert_close(gradient, -force.double(), rtol=0, atol=0)
        (found,) = torch.autograd.grad(gradient.square().sum(), x)
        reference = ForceFieldTarget(tables, TEMPERATURE, engine="torch")
        (gradient,) = torch.autograd.grad(reference.energy(x).sum(), x, create_graph=True)
        (expected,) = torch.autograd.grad(gradient.square().sum(), x)
        assert (found - expected).norm() < 1e-4 * expected.norm()

    def test_no_graph_without_need(self, target, x):
        assert not target.energy(x).requires_grad
        with torch.no_grad():
            energy, force = target.energy_and_force(x.clone().requires_grad_())
        assert not energy.requires_grad
        assert not force.requires_grad


class TestInput:
    def test_batch_dimensions_and_strides(self, target, x):
        energy, force = target.energy_and_force(x)
        found = target.energy_and_force(x.reshape(2, 3, 2, 22, 3))
        torch.testing.assert_close(found, (energy.reshape(2, 3, 2), force.reshape(2, 3, 2, 22, 3)))
        strided = x.permute(2, 0, 1).contiguous().permute(1, 2, 0)
        torch.testing.assert_close(target.energy_and_force(strided[::2]), (energy[::2], force[::2]))

    @pytest.mark.parametrize("shape", [(0,), (4, 0)])
    @pytest.mark.parametrize("gradient", [False, True])
    def test_empty_batches(self, target, shape, gradient):
        energy, force = target.energy_and_force(torch.empty(*shape, 22, 3, requires_grad=gradient))
        assert energy.shape == target.energy(torch.empty(*shape, 22, 3)).shape == shape
        assert force.shape == (*shape, 22, 3)

    def test_duplicates_are_evaluated_alike(self, target, x):
        """Also rows that differ in the middle of the batch only."""
        rows = x[[0, 1, 0, 2, 0]]
        energy = target.energy(rows)
        torch.testing.assert_close(energy, target.energy(x)[[0, 1, 0, 2, 0]], rtol=0, atol=1e-9)
        rows[2] += 0.01 * torch.randn(22, 3, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
        changed = target.energy(rows)
        assert changed[2] != energy[2]
        torch.testing.assert_close(changed[[0, 1, 3, 4]], energy[[0, 1, 3, 4]], rtol=0, atol=1e-9)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("gradient", [False, True])
    def test_rows_that_are_not_finite(self, tables, target, x, dtype, gradient):
        target = ForceFieldTarget(tables, TEMPERATURE, dtype=dtype, engine=target.engine)
        energy, force = target.energy_and_force(x)
        x = x.clone()
        x[1, 0, 0], x[3, 21, 2], x[4, 11, 1] = math.nan, math.inf, -math.inf
        bad = [1, 3, 4]
        energy[bad], force[bad] = math.nan, math.nan
        x.requires_grad_(gradient)
        found = target.energy_and_force(x)
        torch.testing.assert_close([t.detach() for t in found], [energy, force], equal_nan=True)
        torch.testing.assert_close(target.energy(x).detach(), energy, equal_nan=True)

    def test_results_in_place(self, target, x):
        energy, force = torch.empty(12, dtype=torch.float64), torch.empty_like(x)
        out = (energy, force)
        assert target.energy_and_force(x, out=out) is out
        torch.testing.assert_close(out, target.energy_and_force(x))

    def test_what_is_no_conformation_is_refused(self, target, x):
        for wrong in (x[:, :21], x[..., :2], x[0], x.long(), x.to(torch.complex128), x.numpy()):
            for method in (target.energy, target.energy_and_force):
                with pytest.raises(DataError, match="conformations must"):
                    method(wrong)

    def test_settings_that_make_no_sense_are_refused(self, tables):
        for temperature in (0.0, -300.0, math.nan, math.inf):
            with pytest.raises(SystemDefinitionError, match="temperature: must be a positive number"):
                ForceFieldTarget(tables, temperature)
        with pytest.raises(ValueError, match="engine: must be"):
            ForceFieldTarget(tables, 300.0, engine="openmm")
        with pytest.raises(ValueError, match="dtype: must be"):
            ForceFieldTarget(tables, 300.0, dtype=torch.float16)
        for engine in ENGINES:
            with pytest.raises(ValueError, match="threads: must be at least 1"):
                ForceFieldTarget(tables, 300.0, threads=0, engine=engine)
            with pytest.raises(ValueError, match="at least one atom"):
                ForceFieldTarget(empty_tables(0), 300.0, engine=engine)


class TestEngine:
    @needs_kernel
    def test_kernel_is_preferred_on_the_cpu_only(self, tables, x):
        target = ForceFieldTarget(tables, TEMPERATURE)
        assert target.engine == "kernel"
        assert not target._uses_kernel(x.to("meta"))

    def test_without_kernel_torch_answers_and_one_line_says_so(self, tables, x, monkeypatch, caplog):
        expected = ForceFieldTarget(tables, TEMPERATURE, engine="torch").energy(x)
        monkeypatch.setattr(module, "load_kernel", lambda: None)
        monkeypatch.setattr(module, "kernel_status", lambda: package.KernelStatus(None, "it rained", ()))
        module._tell_of_torch.cache_clear()
        with caplog.at_level(logging.WARNING, logger="bgdiff"):
            targets = [ForceFieldTarget(tables, TEMPERATURE) for _ in range(3)]
        module._tell_of_torch.cache_clear()
        assert [target.engine for target in targets] == ["torch"] * 3
        assert [record.message for record in caplog.records] == [
            "force fields are evaluated in torch, about 20 times slower than compiled: it rained"
        ]
        torch.testing.assert_close(targets[0].energy(x), expected)
        with pytest.raises(KernelUnavailable, match="cannot be used: it rained"):
            ForceFieldTarget(tables, TEMPERATURE, engine="kernel")

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_copies_and_pickles_evaluate_alike(self, tables, target, x, dtype):
        target = ForceFieldTarget(tables, TEMPERATURE, dtype=dtype, threads=2, engine=target.engine)
        expected = target.energy_and_force(x)
        for other in (pickle.loads(pickle.dumps(target)), copy.deepcopy(target)):
            assert repr(other) == repr(target)
            assert other.threads == 2
            torch.testing.assert_close(other.energy_and_force(x), expected, rtol=0, atol=0)


def test_package_offers_what_it_says():
    for name in package.__all__:
        assert getattr(package, name).__name__ == name
    assert set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = package.nothing
