"""Proposals of any origin: exact weights, the same log Z whichever way, and what is refused."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from checks import assert_standard, seeded
from ladders import torus_and_plane
from torch import Tensor
from torch.distributions import MultivariateNormal

import bgdiff
from bgdiff.coordinates import MeanFreeCoordinates, WhitenedCoordinates
from bgdiff.errors import ConfigError, DataError
from bgdiff.interop.proposal_annealing import anneal, chart_of
from bgdiff.interop.proposal_checks import UnnormalisedError, check_normalised, log_integral
from bgdiff.interop.proposals import (
    DistributionProposal,
    FunctionProposal,
    ProposalDensity,
    bar_log_z,
    forward_ess,
    log_weights,
    reweight,
)
from bgdiff.interop.proposals import (
    seeded as foreign_seed,
)

LOG_Z, DIFFERENCE = 5.951223, 2.629382  # of the double well, by quadrature


def normal(mean: list[float], variance: list[float]) -> MultivariateNormal:
    return MultivariateNormal(torch.tensor(mean).double(), torch.diag(torch.tensor(variance).double()))


WIDE = DistributionProposal(normal([-0.7, 0.0], [1.8, 1.2]), shape=(1, 2))


@pytest.fixture(scope="module")
def double_well() -> bgdiff.System:
    return bgdiff.load_system("double_well")


def exact_samples(n: int, seed: int) -> Tensor:
    """Independent samples of the double well: by inversion in x, normal in y."""
    x = np.linspace(-3.5, 3.5, 20001)
    cumulative = np.cumsum(np.exp(-(x - 4 * x**2 + x**4)))
    rng = np.random.default_rng(seed)
    drawn = np.interp(rng.random(n), cumulative / cumulative[-1], x)
    return torch.tensor(np.stack([drawn, rng.standard_normal(n)], 1)[:, None])


class Flat:
    """Latents that are the conformation's own numbers, some of them angles."""

    def __init__(self, periodic: Tensor) -> None:
        self.periodic, self.dim = periodic, len(periodic)

    def to_x(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return z[:, None], torch.zeros(len(z), dtype=torch.float64)

    def to_z(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x[:, 0], torch.zeros(len(x), dtype=torch.float64)

    def state(self) -> Any:
        raise NotImplementedError


class TestWeights:
    def test_log_z_and_differences_are_exact(self, double_well: bgdiff.System) -> None:
        ensemble = reweight(double_well, WIDE, 6000, seed=1, chunk=2500)
        assert abs(ensemble.log_z.z_score(LOG_Z)) < 4
        assert abs(ensemble.free_energy_difference("wells").z_score(DIFFERENCE)) < 4
        assert ensemble.log_z.std_error < 0.03
        assert len(ensemble) == 6000

    def test_errors_of_log_z_are_calibrated(self, double_well: bgdiff.System) -> None:
        scores = [reweight(double_well, WIDE, 800, seed=seed).log_z.z_score(LOG_Z) for seed in range(60)]
        assert_standard(torch.tensor(scores))

    def test_latents_and_conformations_have_the_same_weights(self, double_well: bgdiff.System) -> None:
        coordinates = WhitenedCoordinates.fit(exact_samples(400, seed=0))
        in_z = DistributionProposal(normal([0.1, 0.0], [1.5, 1.0]), coordinates)
        mean, scale = coordinates.whitening.mean, coordinates.whitening.scale
        pushed = MultivariateNormal(
            mean + scale @ in_z.distribution.mean, scale @ in_z.distribution.covariance_matrix @ scale.T
        )
        in_x = DistributionProposal(pushed, shape=(1, 2))
        x = exact_samples(50, seed=1)
        both = [log_weights(double_well, proposal, x) for proposal in (in_z, in_x)]
        np.testing.assert_allclose(both[0], both[1], atol=1e-10)
        ensemble = reweight(double_well, in_z, 300, seed=4)
        again = log_weights(double_well.target, in_x, ensemble.x)
        np.testing.assert_allclose(ensemble.log_weight, again, atol=1e-10)
        np.testing.assert_allclose(
            ensemble.energy, double_well.target.energy(torch.tensor(ensemble.x)), atol=1e-9
        )

    def test_clusters_on_the_subspace_and_in_its_latents(self) -> None:
        system = bgdiff.load_system("dw4")
        coordinates = MeanFreeCoordinates(4, 2, 2.0)
        in_z = DistributionProposal(normal([0.0] * 6, [1.0] * 6), coordinates)
        in_x = FunctionProposal(
            lambda n, seed: (coordinates.to_x(in_z.sample(n, seed=seed)[0])[0], torch.zeros(n)),
            lambda x: -x.square().sum((1, 2)) / 8 - 3 * math.log(8 * math.pi),
        )
        x = in_x.sample(20, seed=0)[0]
        np.testing.assert_allclose(*(log_weights(system, one, x) for one in (in_z, in_x)), atol=1e-10)
        assert chart_of(system).dim == 6

    def test_a_drifting_cluster_is_refused(self) -> None:
        free = DistributionProposal(normal([0.0] * 8, [4.0] * 8), shape=(4, 2))
        with pytest.raises(DataError, match="drift about.*centroid"):
            reweight(bgdiff.load_system("dw4"), free, 50)

    def test_forward_ess_is_the_analytic_one(self) -> None:
        """For p = N(0, 1) and q = N(0, s²) in d dimensions, 1/E_q[w²] = ((2 s² - 1)/s⁴)^(d/2)."""
        target = SimpleNamespace(event_shape=(1, 2), energy=lambda x: x.square().sum((1, 2)) / 2)
        data = torch.randn(40_000, 1, 2, generator=seeded(0)).double()
        q = DistributionProposal(normal([0.0, 0.0], [1.5, 1.5]), shape=(1, 2))
        assert forward_ess(target, q, data) == pytest.approx((2 * 1.5 - 1) / 1.5**2, rel=0.01)  # type: ignore[arg-type]

    def test_forward_ess_sees_what_the_proposal_misses(self, double_well: bgdiff.System) -> None:
        left = DistributionProposal(normal([-1.5, 0.0], [0.05, 1.0]), shape=(1, 2))
        assert reweight(double_well, left, 1000).ess > 0.5
        assert forward_ess(double_well, left, exact_samples(1000, seed=2)) < 1e-3

    def test_bar_with_data(self, double_well: bgdiff.System) -> None:
        ensemble = reweight(double_well, WIDE, 2000, seed=7)
        estimate = bar_log_z(ensemble, log_weights(double_well, WIDE, exact_samples(2000, seed=3)))
        assert abs(estimate.z_score(LOG_Z)) < 4
        assert estimate.std_error < ensemble.log_z.std_error
        assert estimate.diagnostics["forward"] == pytest.approx(ensemble.log_z.value)

    def test_global_generators_are_left_alone(self, double_well: bgdiff.System) -> None:
        torch.manual_seed(0)
        before, legacy = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
        first, again = (WIDE.sample(5, seed=3)[0] for _ in range(2))
        assert torch.equal(first, again)
        assert torch.equal(before, torch.get_rng_state())
        with pytest.raises(KeyError), foreign_seed(3):
            raise KeyError
        assert (np.random.get_state()[1] == legacy).all()  # noqa: NPY002

    @pytest.mark.parametrize(
        ("points", "log_q", "match"),
        [
            (torch.zeros(3, 2), torch.zeros(3), r"shape \(B, 1, 2\), not \(3, 2\); give `coordinates`"),
            (torch.zeros(3, 1, 2), torch.zeros(3, 1), r"log q must have shape \(3,\)"),
            (torch.zeros(3, 1, 2), torch.tensor([0.0, math.nan, math.inf]), "for 2 of 3 .*first: 1"),
        ],
    )
    def test_damaged_samples_are_refused(
        self, double_well: bgdiff.System, points: Tensor, log_q: Tensor, match: str
    ) -> None:
        broken = FunctionProposal(lambda n, seed: (points, log_q), lambda x: torch.zeros(len(x)))
        assert isinstance(broken, ProposalDensity)
        with pytest.raises(DataError, match=match):
            reweight(double_well, broken, 3)

    def test_wrong_requests(self, double_well: bgdiff.System) -> None:
        with pytest.raises(ConfigError, match="positive"):
            reweight(double_well, WIDE, 0)
        nan = FunctionProposal(WIDE.sample, lambda x: torch.full((len(x),), math.nan))  # type: ignore[arg-type]
        with pytest.raises(DataError, match="nan for 4 of 4 conformations"):
            log_weights(double_well, nan, torch.zeros(4, 1, 2))


class TestAnnealing:
    def test_log_z_is_that_of_importance_weights(self, double_well: bgdiff.System) -> None:
        """The same proposal, twice: both estimates are right, and annealing's samples are worth more."""
        weighed = reweight(double_well, WIDE, 2000, seed=2)
        annealed = anneal(double_well, WIDE, 2000, seed=3, population=1000, pilot=200, threshold=0.8, moves=2)
        ensemble = annealed.ensemble
        assert abs(ensemble.log_z.z_score(weighed.log_z.value, weighed.log_z.std_error)) < 4
        assert abs(ensemble.log_z.z_score(LOG_Z)) < 4
        assert abs(ensemble.free_energy_difference("wells").z_score(DIFFERENCE)) < 4
        assert ensemble.ess > 1.3 * weighed.ess
        assert len(annealed.bridge.places) > 1
        assert annealed.bridge.places[-1] == 1
        assert any(record.resampled for one in annealed.records for record in one)
        steps = 1 + sum(len(moves) for moves in annealed.bridge.moves)
        assert annealed.target_evaluations > 2000 * steps
        assert np.unique(ensemble.family).size < 2000
        with pytest.raises(DataError, match="independent draws"):
            bar_log_z(ensemble, np.zeros(3))

    def test_errors_over_families_are_calibrated(self, double_well: bgdiff.System) -> None:
        def score(seed: int) -> float:
            found = anneal(
                double_well, WIDE, 300, seed=seed, pilot=50, places=(0.3, 1.0), threshold=1.0
            ).ensemble
            return found.log_z.z_score(LOG_Z)

        assert_standard(torch.tensor([score(seed) for seed in range(20)]))

    def test_periodic_axes(self) -> None:
        model = torus_and_plane()
        zero = torch.zeros(1, dtype=torch.float64)
        target = SimpleNamespace(
            event_shape=(1, 4),
            energy=lambda x: -model.log_density(x[:, 0], zero) - 2.0,
            energy_and_force=lambda x: _energy_and_force(
                lambda y: -model.log_density(y[:, 0], zero) - 2.0, x
            ),
        )
        system = SimpleNamespace(target=target, spec=SimpleNamespace(coordinates="internal"), name="torus")

        def log_q(z: Tensor) -> Tensor:
            real = MultivariateNormal(torch.zeros(2).double(), torch.diag(torch.tensor([1.2, 0.6]).double()))
            return real.log_prob(z[:, :2]) - 2 * math.log(2 * math.pi)

        def draw(n: int, seed: int) -> tuple[Tensor, Tensor]:
            generator = seeded(seed)
            real = torch.randn(n, 2, generator=generator) * torch.tensor([1.2, 0.6]).sqrt()
            angle = (2 * torch.rand(n, 2, generator=generator) - 1) * math.pi
            z = torch.cat([real, angle], 1).double()
            return z, log_q(z)

        proposal = FunctionProposal(draw, log_q, Flat(model.periodic))
        annealed = anneal(system, proposal, 1500, seed=1, pilot=150, overlap=0.8)  # type: ignore[arg-type]
        assert abs(annealed.ensemble.log_z.z_score(2.0)) < 4
        assert (np.abs(annealed.ensemble.x[:, 0, 2:]) <= math.pi).all()

    def test_refusals(self, double_well: bgdiff.System) -> None:
        with pytest.raises(ConfigError, match="at least 2 samples"):
            anneal(double_well, WIDE, 1)
        detached = FunctionProposal(
            lambda n, seed: WIDE.sample(n, seed=seed), lambda x: WIDE.log_prob(x).detach()
        )
        with pytest.raises(ConfigError, match="no gradient"):
            anneal(double_well, detached, 100, pilot=20)
        molecule = SimpleNamespace(
            target=SimpleNamespace(event_shape=(3, 3)), spec=SimpleNamespace(coordinates="internal"), name="m"
        )
        with pytest.raises(ConfigError, match="give `chart`"):
            chart_of(molecule)  # type: ignore[arg-type]


def _energy_and_force(energy: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        value = energy(x)
        return value.detach(), -torch.autograd.grad(value.sum(), x)[0]


def shifted(proposal: DistributionProposal, constant: float) -> FunctionProposal:
    """A density known up to a constant, from both ways."""

    def draw(n: int, seed: int) -> tuple[Tensor, Tensor]:
        points, log_q = proposal.sample(n, seed=seed)
        return points, log_q + constant

    return FunctionProposal(draw, lambda x: proposal.log_prob(x) + constant, proposal.coordinates)


class TestNormalisation:
    MIXTURE = DistributionProposal(
        torch.distributions.MixtureSameFamily(
            torch.distributions.Categorical(torch.tensor([0.3, 0.7])),
            MultivariateNormal(
                torch.tensor([[-1.5, 0.0, 0.0], [1.0, 0.5, 0.0]]).double(), torch.eye(3).double()
            ),
        ),
        shape=(1, 3),
    )

    def test_the_log_of_the_integral_is_calibrated(self) -> None:
        constant = 0.7
        scores = [
            log_integral(shifted(self.MIXTURE, constant), 200, seed=seed).z_score(constant)
            for seed in range(40)
        ]
        assert_standard(torch.tensor(scores))

    def test_a_normalised_density_passes(self) -> None:
        found = check_normalised(self.MIXTURE)
        assert found.std_error < 0.05
        assert found.overlap is not None
        assert found.overlap > 0.5

    def test_an_unnormalised_one_is_told_its_constant(self) -> None:
        with pytest.raises(UnnormalisedError, match=r"is not normalised.* 0\.2\d\d ± 0\.0"):
            check_normalised(shifted(self.MIXTURE, 0.25))

    def test_samples_of_another_density(self) -> None:
        lying = FunctionProposal(
            lambda n, seed: WIDE.sample(n, seed=seed), lambda x: WIDE.log_prob(x) + x[:, 0, 0]
        )
        with pytest.raises(UnnormalisedError, match="differs from its log_prob"):
            check_normalised(lying)

    def test_periodic_axes_are_circles(self) -> None:
        coordinates = Flat(torch.tensor([True, False]))
        mises = torch.distributions.VonMises(torch.tensor(3.0).double(), torch.tensor(1.0).double())
        real = torch.distributions.Normal(torch.zeros(()).double(), 1.0)

        def log_q(z: Tensor) -> Tensor:
            return mises.log_prob(z[:, 0]) + real.log_prob(z[:, 1])

        def draw(n: int, seed: int) -> tuple[Tensor, Tensor]:
            with foreign_seed(seed):
                z = torch.stack([mises.sample((n,)), real.sample((n,))], 1)
            return z, log_q(z)

        assert abs(check_normalised(FunctionProposal(draw, log_q, coordinates)).z_score(0.0)) < 4

    def test_a_subspace_needs_its_coordinates(self) -> None:
        coordinates = MeanFreeCoordinates(3, 2, 1.0)
        latent = DistributionProposal(normal([0.0] * 4, [1.0] * 4), coordinates)
        in_x = FunctionProposal(
            lambda n, seed: (
                coordinates.to_x(latent.sample(n, seed=seed)[0])[0],
                latent.sample(n, seed=seed)[1],
            ),
            lambda x: latent.log_prob(coordinates.to_z(x)[0]),
        )
        with pytest.raises(DataError, match="subspace.*`chart`"):
            check_normalised(in_x)
        assert abs(check_normalised(in_x, chart=coordinates).z_score(0.0)) < 4

    def test_what_cannot_be_told_is_said(self) -> None:
        far = DistributionProposal(
            torch.distributions.MixtureSameFamily(
                torch.distributions.Categorical(torch.ones(2)),
                MultivariateNormal(
                    torch.tensor([[-1.0, 0.0], [1.0, 0.0]]).double(), 1e-14 * torch.eye(2).double()
                ),
            ),
            shape=(1, 2),
        )
        with pytest.raises(DataError, match="cannot be told|nothing can be told"):
            check_normalised(far, 400)
        with pytest.raises(ConfigError, match="at least 20"):
            log_integral(WIDE, 5)
