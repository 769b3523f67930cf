"""bgflow's contract, against a small stand-in and, where it is installed, against bgflow itself."""

import importlib
import importlib.util
import logging
import math
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from checks import seeded
from ladders import ModelTarget, torus_and_plane
from test_interop_proposals import DIFFERENCE, LOG_Z, exact_samples
from torch import Tensor

import bgdiff
from bgdiff.coordinates import InternalCoordinates, MeanFreeCoordinates, WhitenedCoordinates, ZMatrix, wrap
from bgdiff.errors import ConfigError, DataError
from bgdiff.interop import bgflow as interop
from bgdiff.interop.proposal_annealing import anneal
from bgdiff.interop.proposal_checks import UnnormalisedError, check_normalised
from bgdiff.interop.proposals import log_weights, reweight
from bgdiff.models import GaussianModel
from bgdiff.targets.double_well import DoubleWell

_STAND_IN = Path(__file__).with_name("bgflow_stand_in.py")
_BUILT_ON_IT = "bgdiff.interop.bgflow_energies"


def _ours(name: str) -> bool:
    return name == "bgflow" or name.startswith("bgflow.") or name == _BUILT_ON_IT


_INSTALLED = importlib.util.find_spec("bgflow") is not None


@pytest.fixture(scope="module", params=["stand-in", "bgflow"] if _INSTALLED else ["stand-in"])
def bgflow(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The package, or what stands in for it, as ``import bgflow`` finds it during the tests."""
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if _ours(name)}
    try:
        if request.param == "bgflow":
            yield interop.import_bgflow()
        else:
            spec = importlib.util.spec_from_file_location("bgflow", _STAND_IN)
            assert spec is not None
            assert spec.loader is not None
            module = sys.modules["bgflow"] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            yield interop.import_bgflow()
    finally:
        for name in [name for name in sys.modules if _ours(name)]:
            del sys.modules[name]
        sys.modules.update(before)


@pytest.fixture(scope="module")
def double_well() -> bgdiff.System:
    return bgdiff.load_system("double_well")


def affine(bgflow: Any, scale: list[float], shift: list[float]) -> Any:
    """x = shift + scale z as a flow of bgflow."""

    class Affine(bgflow.Flow):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.tensor(scale).double())
            self.register_buffer("shift", torch.tensor(shift).double())

        def _forward(self, z: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
            return self.shift + self.scale * z, self.scale.abs().log().sum().expand(len(z), 1)

        def _inverse(self, x: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
            return (x - self.shift) / self.scale, -self.scale.abs().log().sum().expand(len(x), 1)

    return Affine()


def normal(bgflow: Any, dim: int) -> Any:
    return bgflow.NormalDistribution(dim, mean=torch.zeros(dim).double())


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
            if _ours(name):
                monkeypatch.delitem(sys.modules, name)
        folder = tmp_path / "bgflow"
        folder.mkdir()
        (folder / "inner.py").write_text(self.PACKAGE)
        (folder / "__init__.py").write_text("from .inner import unlikely\n")
        monkeypatch.syspath_prepend(tmp_path)
        yield folder  # type: ignore[misc]
        for name in list(sys.modules):
            if _ours(name):
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
        assert not any(_ours(name) for name in sys.modules)

    def test_its_absence_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "bgflow", None)
        monkeypatch.delitem(sys.modules, _BUILT_ON_IT, raising=False)
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


class TestProposals:
    def generator(self, bgflow: Any, target: Any = None) -> Any:
        flow = bgflow.SequentialFlow([affine(bgflow, [1.3, 1.1], [-0.6, 0.1])])
        return bgflow.BoltzmannGenerator(normal(bgflow, 2), flow, target)

    def test_a_boltzmann_generator_is_corrected(self, bgflow: Any, double_well: bgdiff.System) -> None:
        generator = self.generator(bgflow, interop.target_energy(double_well))
        proposal = interop.BgflowProposal(generator, shape=(1, 2))
        x = exact_samples(20, seed=1)
        torch.testing.assert_close(proposal.log_prob(x), -generator.energy(x.flatten(1))[:, 0])
        weighed = reweight(double_well, proposal, 4000, seed=2)
        assert abs(weighed.log_z.z_score(LOG_Z)) < 4
        assert abs(weighed.free_energy_difference("wells").z_score(DIFFERENCE)) < 4
        annealed = anneal(double_well, proposal, 1000, seed=3, pilot=200).ensemble
        assert abs(annealed.log_z.z_score(weighed.log_z.value, weighed.log_z.std_error)) < 4
        assert abs(check_normalised(proposal, 1000).z_score(0)) < 4

    def test_its_weights_are_bgflows(self, bgflow: Any, double_well: bgdiff.System) -> None:
        generator = self.generator(bgflow, interop.target_energy(double_well))
        torch.manual_seed(4)
        *drawn, energy = generator.sample(50, with_energy=True)
        x = drawn[0].reshape(50, 1, 2)
        own = (energy - double_well.target.energy(x)[:, None])[:, 0]
        ours = log_weights(double_well, interop.BgflowProposal(generator, shape=(1, 2)), x)
        np.testing.assert_allclose(ours, own.numpy(), atol=1e-10)

    def test_a_sampler_with_its_energy(self, bgflow: Any, double_well: bgdiff.System) -> None:
        prior = bgflow.NormalDistribution(2, mean=torch.tensor([-1.0, 0.0]).double())
        for proposal in (
            interop.BgflowProposal(prior, shape=(1, 2)),
            interop.BgflowProposal(prior, prior, shape=(1, 2)),
        ):
            x, log_q = proposal.sample(30, seed=1)
            shifted = x.flatten(1) - torch.tensor([-1.0, 0.0])
            expected = -0.5 * shifted.square().sum(1) - math.log(2 * math.pi)
            torch.testing.assert_close(log_q, expected.double())
            torch.testing.assert_close(proposal.log_prob(x), log_q)

    def test_latents_of_bgdiffs_coordinates(self, bgflow: Any, double_well: bgdiff.System) -> None:
        """A flow over latents, and the same flow with the coordinates as its last layer."""
        coordinates = WhitenedCoordinates.fit(exact_samples(300, seed=0))
        layers = [affine(bgflow, [1.2, 0.9], [0.1, 0.0])]
        in_z = interop.BgflowProposal(
            bgflow.BoltzmannGenerator(normal(bgflow, 2), bgflow.SequentialFlow(layers), None),
            coordinates=coordinates,
        )
        layers = [*layers, interop.coordinates_flow(coordinates, (1, 2))]
        in_x = interop.BgflowProposal(
            bgflow.BoltzmannGenerator(normal(bgflow, 2), bgflow.SequentialFlow(layers), None), shape=(1, 2)
        )
        both = [reweight(double_well, proposal, 200, seed=1) for proposal in (in_z, in_x)]
        np.testing.assert_allclose(both[0].log_weight, both[1].log_weight, atol=1e-8)
        np.testing.assert_allclose(both[0].x, both[1].x, atol=1e-10)
        x = exact_samples(20, seed=4)
        np.testing.assert_allclose(*(log_weights(double_well, one, x) for one in (in_z, in_x)), atol=1e-8)

    def test_wrong_requests(self, bgflow: Any) -> None:
        prior = normal(bgflow, 2)
        with pytest.raises(ConfigError, match="either latents"):
            interop.BgflowProposal(prior)
        with pytest.raises(ConfigError, match="events of 2 numbers, but conformations have 6"):
            interop.BgflowProposal(prior, shape=(2, 3))
        with pytest.raises(ConfigError, match="has no energy"):
            interop.BgflowProposal(SimpleNamespace(sample=prior.sample), shape=(1, 2))
        several = bgflow.ProductDistribution([normal(bgflow, 1), normal(bgflow, 1)])
        with pytest.raises(ConfigError, match="draws 2 tensors"):
            interop.BgflowProposal(several, shape=(1, 2))


class TestPriors:
    def test_mean_free_normals_are_refused_by_name(self, bgflow: Any) -> None:
        """log ∫ exp(-E) over conformations without centroid is ½ (N-1) D log(2πσ²)."""
        prior = bgflow.MeanFreeNormalDistribution(8, 4, std=torch.tensor(1.5).double())
        with pytest.raises(UnnormalisedError, match=r"MeanFreeNormalDistribution.*7\.946.*log_prior_z="):
            interop.BgflowProposal(prior, shape=(4, 2))
        constant = interop.prior_log_z(prior)
        assert constant == pytest.approx(3 * math.log(2 * math.pi * 1.5**2))
        proposal = interop.BgflowProposal(prior, shape=(4, 2), log_prior_z=constant)
        chart = MeanFreeCoordinates(4, 2, 1.0)
        assert abs(check_normalised(proposal, 1000, chart=chart).z_score(0)) < 4
        annealed = anneal(
            bgdiff.load_system("dw4"), proposal, 200, seed=1, pilot=50, places=(0.01, 0.1, 1.0), threshold=0.0
        )
        assert np.abs(annealed.ensemble.x.mean(1)).max() < 1e-9
        with pytest.raises(UnnormalisedError, match="log_prior_z = 1, but .* is 7.946"):
            interop.BgflowProposal(prior, shape=(4, 2), log_prior_z=1.0)

    def test_truncated_normals_are_refused_by_name(self, bgflow: Any) -> None:
        mu, sigma = torch.tensor([0.3, 1.0]).double(), torch.tensor(0.8).double()
        low, high = torch.tensor(0.0).double(), torch.tensor(2.0).double()
        prior = bgflow.TruncatedNormalDistribution(mu, sigma, low, high)
        with pytest.raises(UnnormalisedError, match="TruncatedNormalDistribution"):
            interop.BgflowProposal(prior, shape=(1, 2))
        constant = interop.prior_log_z(prior)
        proposal = interop.BgflowProposal(prior, shape=(1, 2), log_prior_z=constant)
        axis = torch.linspace(0, 2, 201).double()
        grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 1, 2)
        density = proposal.log_prob(grid).exp().reshape(201, 201)
        assert float(torch.trapezoid(torch.trapezoid(density, axis), axis)) == pytest.approx(1, abs=1e-4)
        outside = torch.tensor([[[0.5, 2.5]], [[0.5, 0.5]]]).double()
        assert torch.isneginf(proposal.log_prob(outside)).tolist() == [True, False]

    def test_uniform_priors_end_where_their_box_ends(self, bgflow: Any) -> None:
        box = bgflow.UniformDistribution(torch.zeros(1).double(), 2 * torch.ones(1).double())
        prior = bgflow.ProductDistribution([box, normal(bgflow, 1)])

        class Join(bgflow.Flow):  # type: ignore[misc,name-defined]
            def _forward(self, *z: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
                return torch.cat(z, 1), torch.zeros(len(z[0]), 1)

            def _inverse(self, x: Tensor, **_: Any) -> tuple[Tensor, Tensor, Tensor]:
                return x[:, :1], x[:, 1:], torch.zeros(len(x), 1)

        generator = bgflow.BoltzmannGenerator(prior, Join(), interop.target_energy(DoubleWell()))
        proposal = interop.BgflowProposal(generator, shape=(1, 2))
        points = torch.tensor([[[1.0, 0.0]], [[2.5, 0.0]]]).double()
        inside = -math.log(2) - 0.5 * math.log(2 * math.pi)
        torch.testing.assert_close(proposal.log_prob(points), torch.tensor([inside, -math.inf]).double())

    def test_an_unknown_prior_is_measured(self, bgflow: Any) -> None:
        class Careless(bgflow.NormalDistribution):  # type: ignore[misc,name-defined]
            def energy(self, x: Tensor, temperature: float = 1.0) -> Tensor:
                return 0.5 * x.square().sum(-1, keepdim=True)

        class Careful(bgflow.NormalDistribution):  # type: ignore[misc,name-defined]
            pass

        mean = torch.zeros(2).double()
        with pytest.raises(UnnormalisedError, match=r"prior Careless is not normalised.* 1\.8\d\d ± 0\.0"):
            interop.BgflowProposal(Careless(2, mean=mean), shape=(1, 2))
        right = interop.BgflowProposal(
            Careless(2, mean=mean), shape=(1, 2), log_prior_z=math.log(2 * math.pi)
        )
        good = interop.BgflowProposal(Careful(2, mean=mean), shape=(1, 2))
        x = torch.zeros(1, 1, 2).double()
        torch.testing.assert_close(right.log_prob(x), good.log_prob(x))
        assert interop.prior_log_z(Careful(2, mean=mean)) is None

    def test_circular_normals_are_refused_by_name(self, bgflow: Any) -> None:
        prior = bgflow.CircularNormalDistribution(torch.tensor([0.4]).double(), torch.tensor(0.2).double())
        with pytest.raises(UnnormalisedError, match="CircularNormalDistribution"):
            interop.BgflowProposal(prior, coordinates=SimpleNamespace(dim=1))  # type: ignore[arg-type]
        turn = (torch.arange(1000).double()[:, None] + 0.5) / 1000
        integral = float((-prior.energy(turn)).exp().mean())
        assert interop.prior_log_z(prior) == pytest.approx(math.log(integral), abs=1e-6)

    def test_mixtures_have_the_constants_of_their_parts(self, bgflow: Any) -> None:
        free = [
            bgflow.MeanFreeNormalDistribution(4, 2, std=torch.tensor(std).double(), two_event_dims=False)
            for std in (0.5, 2.0)
        ]
        logits = torch.tensor([0.3, 1.1]).double()
        share = logits.softmax(0)
        constants = torch.tensor([2 * math.pi * 0.5**2, 2 * math.pi * 2.0**2])
        expected = float((share * constants).sum().log())
        assert interop.prior_log_z(bgflow.MixtureDistribution(free, logits)) == pytest.approx(expected)

    def test_compounds_follow_from_their_parts(self, bgflow: Any) -> None:
        free = bgflow.MeanFreeNormalDistribution(4, 2, two_event_dims=False)
        product = bgflow.ProductDistribution([normal(bgflow, 1), free])
        assert interop.prior_log_z(product) == pytest.approx(math.log(2 * math.pi))
        generator = bgflow.BoltzmannGenerator(free, affine(bgflow, [1.0] * 4, [0.0] * 4), None)
        assert interop.prior_log_z(generator) == pytest.approx(math.log(2 * math.pi))

    def test_a_wrong_energy_shape_is_named(self, bgflow: Any) -> None:
        class Wide(bgflow.NormalDistribution):  # type: ignore[misc,name-defined]
            def energy(self, x: Tensor, temperature: float = 1.0) -> Tensor:
                return x.square()

        with pytest.raises(DataError, match=r"energy of Wide must have the shape \(2, 1\), not \(2, 2\)"):
            interop.BgflowProposal(Wide(2, mean=torch.zeros(2).double()), shape=(1, 2), log_prior_z=0.0)


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


def test_a_target_on_a_torus_in_latents(bgflow: Any) -> None:
    """A prior over angles is a box; bgflow's answer outside of it does not count."""
    box = bgflow.UniformDistribution(torch.full((4,), -math.pi).double(), torch.full((4,), math.pi).double())
    model = torus_and_plane()
    target = ModelTarget(model)
    coordinates: Any = SimpleNamespace(dim=4, periodic=model.periodic)
    proposal = interop.BgflowProposal(box, coordinates=coordinates)
    z, log_q = proposal.sample(20_000, seed=1)
    weight = (target.log_density(z) - log_q).exp()
    assert float(weight.mean() / math.exp(target.log_z)) == pytest.approx(1, abs=0.2)
    assert torch.isneginf(proposal.log_prob(z + 2 * math.pi)).all()


def _module(name: str) -> Any:
    return importlib.import_module(name)
