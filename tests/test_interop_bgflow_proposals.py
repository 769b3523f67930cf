"""Boltzmann generators of bgflow as proposals, and priors that are not normalised; as test_interop_bgflow."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from bgflow_package import affine, bgflow_fixture, normal  # noqa: F401 (a fixture)
from ladders import ModelTarget, torus_and_plane
from test_interop_proposals import DIFFERENCE, LOG_Z, exact_samples
from torch import Tensor

import bgdiff
from bgdiff.coordinates import MeanFreeCoordinates, WhitenedCoordinates
from bgdiff.errors import ConfigError, DataError
from bgdiff.interop import bgflow as interop
from bgdiff.interop.proposal_annealing import anneal
from bgdiff.interop.proposal_checks import UnnormalisedError, check_normalised
from bgdiff.interop.proposals import log_weights, reweight
from bgdiff.targets.double_well import DoubleWell


@pytest.fixture(scope="module")
def double_well() -> bgdiff.System:
    return bgdiff.load_system("double_well")


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
