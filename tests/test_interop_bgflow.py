"""bgflow's contract, against a small stand-in and, where it is installed, against bgflow itself."""

import importlib
import logging
import math
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from bgflow_package import BUILT_ON_IT, bgflow_fixture, of_bgflow  # noqa: F401 (a fixture)
from checks import seeded
from torch import Tensor

import bgdiff
from bgdiff.coordinates import InternalCoordinates, ZMatrix, wrap
from bgdiff.errors import ConfigError
from bgdiff.interop import bgflow as interop
from bgdiff.models import GaussianModel
from bgdiff.targets.double_well import DoubleWell


class TestImport:
    PACKAGE = """
import logging, warnings
import numpy as np
warnings.warn("loud", stacklevel=1)
def unlikely(bound=np.infty):
    return max(bound, np.infty), np.zeros(2)
"""

    @pytest.fixture
    def package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        for name in list(sys.modules):
            if of_bgflow(name):
                monkeypatch.delitem(sys.modules, name)
        folder = tmp_path / "bgflow"
        folder.mkdir()
        (folder / "inner.py").write_text(self.PACKAGE)
        (folder / "__init__.py").write_text("from .inner import unlikely\n")
        monkeypatch.syspath_prepend(tmp_path)
        yield folder  # type: ignore[misc]
        for name in list(sys.modules):
            if of_bgflow(name):
                del sys.modules[name]

    def test_names_that_numpy_removed_exist_for_bgflow_alone(
        self, package: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        had = hasattr(np, "infty")
        with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
            warnings.simplefilter("error")
            module = interop.import_bgflow()
        assert module.unlikely()[0] == math.inf  # when it runs, too
        assert module.unlikely()[1].shape == (2,)
        assert hasattr(np, "infty") == had
        assert capsys.readouterr() == ("", "")
        assert not caplog.records
        assert interop.import_bgflow() is module

    def test_numpy_is_restored_after_a_failure(self, package: Path) -> None:
        (package / "inner.py").write_text("import no_such_package_that_bgflow_needs\n")
        had = hasattr(np, "infty")
        with pytest.raises(ConfigError, match=r"no_such_package.*pip install .bgdiff\[bgflow\]"):
            interop.import_bgflow()
        assert hasattr(np, "infty") == had
        assert not any(of_bgflow(name) for name in sys.modules)

    def test_its_absence_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "bgflow", None)
        monkeypatch.delitem(sys.modules, BUILT_ON_IT, raising=False)
        with pytest.raises(ConfigError, match="not on PyPI; install it"):
            interop.target_energy(DoubleWell())


class TestEnergies:
    @pytest.mark.parametrize("flat", [True, False])
    def test_energies_and_forces_are_the_targets(self, bgflow: Any, flat: bool) -> None:
        target = bgdiff.load_system("dw4").target
        energy = interop.target_energy(target, flat=flat)
        assert isinstance(energy, bgflow.Energy)
        x = 2 * torch.randn(5, 4, 2, generator=seeded(0)).double()
        events = x.flatten(1) if flat else x
        u, force = target.energy_and_force(x)
        torch.testing.assert_close(energy.energy(events), u[:, None])
        torch.testing.assert_close(energy.energy(events, temperature=2.0), u[:, None] / 2)
        torch.testing.assert_close(energy.force(events.clone()), force.reshape(events.shape))
        single = energy.energy(events.float())
        assert single.dtype == torch.float32
        assert single.shape == (5, 1)
        two_batches = events.reshape(5, 1, *events.shape[1:])
        assert energy.energy(two_batches).shape == (5, 1, 1)

    def test_second_derivatives(self, bgflow: Any) -> None:
        target = DoubleWell(1.0, -4.0, 1.0)
        x = torch.tensor([[0.7, -0.3]]).double()
        force = interop.target_energy(target).force(x.requires_grad_(True))
        (hessian,) = torch.autograd.grad(force[0, 0], x)
        assert float(hessian[0, 0]) == pytest.approx(-(-8 + 12 * 0.7**2), rel=1e-6)

    def test_no_value_is_stale(self, bgflow: Any) -> None:
        """Two batches that differ in the middle look alike as text."""
        energy = interop.target_energy(DoubleWell())
        first = torch.zeros(2000, 2).double()
        second = first.clone()
        second[1000] = 1.0
        assert str(first) == str(second)
        assert float((energy.energy(first) - energy.energy(second)).abs().max()) > 0.1

    def test_rungs(self, bgflow: Any) -> None:
        model = GaussianModel(torch.zeros(3), torch.tensor([0.5, 1.0, 2.0]))
        ladder = SimpleNamespace(model=model, sigma=torch.tensor([0.0, 0.5, 1.0]))
        generator: Any = SimpleNamespace(ladder=ladder)
        z = torch.randn(4, 3, generator=seeded(1)).double()
        energy = interop.rung_energy(generator, 2)
        expected = -model.log_density(z, torch.ones(1).double())
        torch.testing.assert_close(energy.energy(z), expected[:, None])
        torch.testing.assert_close(energy.force(z.clone()), -z / (model.variance + 1))
        with pytest.raises(ConfigError, match="the target itself"):
            interop.rung_energy(generator, 0)
        with pytest.raises(ConfigError, match="rungs 0 … 2, not 3"):
            interop.rung_energy(generator, 3)

    def test_an_energy_of_bgflow_as_target_forgets_what_it_computed(self, bgflow: Any) -> None:
        base = bgflow if hasattr(bgflow, "_BridgeEnergy") else _module("bgflow.distribution.energy.base")

        class Bridge:
            n_atoms = 1000
            last_energies: Any = None

            def evaluate(self, x: Tensor) -> tuple[Tensor, Tensor]:
                self.last_energies = x.square().sum((1, 2))[:, None] / 2
                return self.last_energies, -x

        energy = base._BridgeEnergy(Bridge())
        first = torch.zeros(1, 1000, 3).double()
        second = first.clone()
        second[0, 500] = 1.0
        assert float(energy.energy(first)) == float(energy.energy(second)) == 0  # bgflow's own answer
        target = interop.BgflowTarget(energy, (1000, 3))
        assert float(target.energy(first)) == 0
        assert float(target.energy(second)) == 1.5

    def test_forces_of_an_energy_of_bgflow(self, bgflow: Any) -> None:
        target = interop.BgflowTarget(interop.target_energy(DoubleWell()), (1, 2))
        x = torch.randn(6, 1, 2, generator=seeded(2)).double()
        for ours, theirs in zip(target.energy_and_force(x), DoubleWell().energy_and_force(x), strict=True):
            torch.testing.assert_close(ours, theirs)


class TestCoordinates:
    def polar(self, bgflow: Any) -> Any:
        """(x, y) ↔ radius, angle in units of the circle, with dlogp = -log(2π r)."""

        class Polar(bgflow.Flow):  # type: ignore[misc,name-defined]
            def _forward(self, x: Tensor, **_: Any) -> tuple[Tensor, Tensor, Tensor]:
                radius = x.norm(dim=1, keepdim=True)
                turn = torch.atan2(x[:, 1:], x[:, :1]) / (2 * math.pi) + 0.5
                return radius, turn, -(2 * math.pi * radius).log()

            def _inverse(self, radius: Tensor, turn: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
                angle = (turn - 0.5) * 2 * math.pi
                radius = radius.clamp_min(1e-6)  # as bgflow "enforces boundaries"
                x = torch.cat([radius * angle.cos(), radius * angle.sin()], 1)
                return x, (2 * math.pi * radius).log()

        return Polar()

    def test_a_transform_becomes_a_coordinate_map(self, bgflow: Any) -> None:
        x = torch.tensor([1.0, 0.4]) + 0.3 * torch.randn(200, 1, 2, generator=seeded(0)).double()
        coordinates = interop.FlowCoordinates(self.polar(bgflow), x, periodic=[1])
        assert coordinates.periodic.tolist() == [False, True]
        assert isinstance(coordinates, bgdiff.coordinates.Coordinates)
        z, log_det = coordinates.to_z(x)
        assert float(z[:, 0].mean()) == pytest.approx(0, abs=1e-10)
        assert float(z[:, 0].std()) == pytest.approx(1)
        torch.testing.assert_close(z[:, 1], torch.atan2(x[:, 0, 1], x[:, 0, 0]))
        back, log_det_back = coordinates.to_x(z)
        torch.testing.assert_close(back, x)
        torch.testing.assert_close(log_det_back, -log_det)
        jacobian = torch.autograd.functional.jacobian(
            lambda one: coordinates.to_x(one[None])[0].flatten(), z[3]
        )
        assert float(torch.linalg.slogdet(jacobian).logabsdet) == pytest.approx(float(log_det_back[3]))
        impossible = z[:2].clone()
        impossible[0, 0] = -50.0  # a negative radius
        assert torch.isneginf(coordinates.to_x(impossible)[1]).tolist() == [True, False]
        turned = z + torch.tensor([0.0, 2 * math.pi], dtype=torch.float64)
        torch.testing.assert_close(coordinates.to_x(turned)[0], x)

    def test_the_target_in_these_latents_has_the_same_log_z(self, bgflow: Any) -> None:
        """A normal density in the plane, seen in polar coordinates: its integral is a quadrature away."""
        x = torch.randn(300, 1, 2, generator=seeded(1)).double()
        coordinates = interop.FlowCoordinates(self.polar(bgflow), x, periodic=[1], whiten=False)
        target: Any = SimpleNamespace(event_shape=(1, 2), energy=lambda x: x.square().sum((1, 2)) / 2)
        latent = bgdiff.coordinates.LatentTarget(target, coordinates)
        radius = torch.linspace(0.002, 7, 1400).double()
        z = torch.stack([radius, torch.full_like(radius, 0.3)], 1)
        integral = torch.trapezoid(latent.log_density(z).exp(), radius) * 2 * math.pi
        assert float(integral) == pytest.approx(2 * math.pi, rel=1e-4)

    def test_refusals(self, bgflow: Any) -> None:
        x = torch.randn(50, 1, 2, generator=seeded(1)).double()
        polar = self.polar(bgflow)
        with pytest.raises(ConfigError, match="outputs 0 … 1"):
            interop.FlowCoordinates(polar, x, periodic=[2])
        with pytest.raises(ConfigError, match="cannot be stored"):
            interop.FlowCoordinates(polar, x).state()
        with pytest.raises(ConfigError, match="lower end first"):
            interop.FlowCoordinates(polar, x, circle=(1.0, 0.0))

    def test_bgflows_internal_coordinates_are_bgdiffs(self, bgflow: Any) -> None:
        """The same Z-matrix in both packages: the same angles, and the same volume but for the whitening."""
        if not hasattr(bgflow, "GlobalInternalCoordinateTransformation"):
            pytest.skip("the stand-in has no internal coordinates; bgflow has")
        bonds = [(0, 1), (1, 2), (2, 3), (3, 4)]
        zmatrix = ZMatrix.from_bonds(5, bonds, [True] * 5)
        x = torch.tensor([[0, 0, 0], [1, 0, 0], [1.5, 1, 0], [2.5, 1, 0.5], [3, 2, 0]]).double()
        x = x + 0.15 * torch.randn(800, 5, 3, generator=seeded(0)).double()
        ours = InternalCoordinates.fit(zmatrix, x)
        table = np.stack([zmatrix.atom, zmatrix.bond, zmatrix.angle, zmatrix.torsion], 1)
        root, first, second = zmatrix.atom[:3]
        # bgflow's frame is a chain of three atoms, ours two bonds of one atom
        table[:3] = [[first, -1, -1, -1], [root, first, -1, -1], [second, root, first, -1]]
        flow = bgflow.GlobalInternalCoordinateTransformation(table)
        theirs = interop.FlowCoordinates(
            flow, x, periodic=[2], fixed=[3, 4], log_constant=-2 * math.log(2 * math.pi), whiten=False
        )
        assert theirs.dim == ours.dim == 9
        z, log_det = theirs.to_z(x[:30])
        bonds_and_angles = ours.map.to_internal(x[:30])[:2]
        # bgflow's angles are in units of π
        expected = -ours.map.log_det(*bonds_and_angles) - 3 * math.log(math.pi)
        torch.testing.assert_close(log_det, expected, atol=1e-6, rtol=0)
        back, there = theirs.to_x(z)
        torch.testing.assert_close(there, -log_det)
        again = theirs.to_z(back)[0]
        torch.testing.assert_close(wrap(again - z), torch.zeros_like(z), atol=1e-6, rtol=0)


def _module(name: str) -> Any:
    return importlib.import_module(name)
