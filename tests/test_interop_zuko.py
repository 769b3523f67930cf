"""Flows of zuko: densities on the line and on the circle, training, and exact answers after correction."""

import math
import sys

import numpy as np
import pytest
import torch
from test_interop_proposals import DIFFERENCE, LOG_Z, Flat

import bgdiff
from bgdiff.coordinates import WhitenedCoordinates
from bgdiff.data.dataset import Dataset
from bgdiff.errors import ConfigError, DataError
from bgdiff.interop.proposal_annealing import anneal
from bgdiff.interop.proposal_checks import check_normalised
from bgdiff.interop.proposals import forward_ess, log_weights, reweight
from bgdiff.interop.zuko import (
    FittedFlow,
    TorsionFlow,
    ZukoProposal,
    fit_flow,
    import_zuko,
    log_prob_of,
    make_flow,
)

SMALL = {"transforms": 2, "hidden_features": (16,), "bins": 6}


def test_its_absence_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zuko", None)
    with pytest.raises(ConfigError, match=r"pip install 'bgdiff\[zuko\]'"):
        import_zuko()


class TestCircle:
    @pytest.fixture(autouse=True)
    def _zuko(self) -> None:
        pytest.importorskip("zuko")
        torch.manual_seed(0)

    def bent(self, periodic: list[bool]) -> TorsionFlow:
        """A flow with random parameters, in float64."""
        return TorsionFlow(torch.tensor(periodic), **SMALL).double().requires_grad_(False)

    def test_the_density_integrates_to_one_and_is_periodic(self) -> None:
        """q(φ) over the circle, and q(r | φ) over the line; zuko's own q(φ) misses 1 by 3e-6."""
        flow = self.bent([False, True])
        angle = (torch.arange(40_000).double() + 0.5) / 40_000 * 2 * math.pi - math.pi
        marginal = ZukoProposal(flow.circular, Flat(torch.tensor([True])))
        density = marginal.log_prob(angle[:, None]).exp()
        assert float(density.mean() * 2 * math.pi) == pytest.approx(1, abs=1e-6)
        assert float(density.max() / density.min()) > 10

        real = torch.linspace(-9, 9, 901).double()
        chosen = angle[::9000]
        grid = torch.stack(torch.meshgrid(chosen, real, indexing="ij"), -1).flip(-1)
        joint = flow.log_prob(grid.reshape(-1, 2)).exp().reshape(grid.shape[:2])
        torch.testing.assert_close(torch.trapezoid(joint, real), density[::9000], atol=0, rtol=1e-3)
        turned = grid + torch.tensor([0.0, 2 * math.pi], dtype=torch.float64)
        torch.testing.assert_close(flow.log_prob(turned.reshape(-1, 2)).exp().reshape(joint.shape), joint)

    def test_samples_know_their_density(self) -> None:
        periodic = [True, False, True, False]
        flow = self.bent(periodic)
        proposal = ZukoProposal(flow, Flat(torch.tensor(periodic)))
        z, log_q = proposal.sample(500, seed=1)
        torch.testing.assert_close(log_q, proposal.log_prob(z), atol=1e-8, rtol=0)
        assert bool((z[:, [0, 2]].abs() <= math.pi).all())
        assert abs(check_normalised(proposal, 1500).z_score(0.0)) < 4
        assert torch.equal(z, proposal.sample(500, seed=1)[0])

    def test_a_circular_flow_where_every_axis_is_an_angle(self) -> None:
        flow = import_zuko().flows.NCSF(2, **SMALL).double().requires_grad_(False)
        proposal = ZukoProposal(flow, Flat(torch.tensor([True, True])))
        z, log_q = proposal.sample(100, seed=0)
        torch.testing.assert_close(log_q, proposal.log_prob(z), atol=1e-8, rtol=0)
        # zuko's base is uniform on an interval that is 2e-5 wider on each axis
        torch.testing.assert_close(
            flow().log_prob(z), log_q - 2 * math.log1p(1e-5 / math.pi), atol=1e-6, rtol=0
        )

    def test_flows_that_do_not_fit_the_axes_are_refused(self) -> None:
        flows = import_zuko().flows
        mixed = Flat(torch.tensor([False, True]))
        with pytest.raises(ConfigError, match="1 periodic axes .* but NSF is a flow over the real line"):
            ZukoProposal(flows.NSF(2), mixed)
        with pytest.raises(ConfigError, match="but NCSF"):
            ZukoProposal(flows.NCSF(2), mixed)
        with pytest.raises(ConfigError, match="other coordinates"):
            ZukoProposal(self.bent([True, False]), mixed)
        with pytest.raises(ConfigError, match="at least one periodic"):
            TorsionFlow(torch.tensor([False]))
        with pytest.raises(ConfigError, match="either latents"):
            ZukoProposal(flows.NSF(2))
        assert isinstance(make_flow(mixed), TorsionFlow)
        assert isinstance(make_flow(Flat(torch.tensor([False, False]))), flows.NSF)


@pytest.fixture(scope="module")
def system() -> bgdiff.System:
    return bgdiff.load_system("double_well")


@pytest.fixture(scope="module")
def fitted(system: bgdiff.System) -> FittedFlow:
    pytest.importorskip("zuko")
    data = system.load_data()
    data = data.select(torch.arange(len(data)) % 8 == 0)
    coordinates = WhitenedCoordinates.fit(data.x)
    flow = make_flow(coordinates, transforms=2, hidden=(24,), seed=1)
    return fit_flow(system, data, flow, steps=120, learning_rate=1e-2, coordinates=coordinates)


class TestDoubleWell:
    def test_correction_is_exact(self, system: bgdiff.System, fitted: FittedFlow) -> None:
        """Both wells are equally populated in the data; the weights put that right."""
        ensemble = reweight(system, fitted.proposal, 4000, seed=5)
        assert ensemble.ess > 0.6
        assert abs(ensemble.log_z.z_score(LOG_Z)) < 4
        difference = ensemble.free_energy_difference("wells")
        assert abs(difference.z_score(DIFFERENCE)) < 4
        assert difference.std_error < 0.2
        annealed = anneal(system, fitted.proposal, 1000, seed=6, pilot=200).ensemble
        assert abs(annealed.log_z.z_score(ensemble.log_z.value, ensemble.log_z.std_error)) < 4

    def test_training_learned(self, system: bgdiff.System, fitted: FittedFlow) -> None:
        losses = [loss for _, loss in fitted.held_out_loss]
        assert min(losses) < losses[0] - 0.01
        assert dict(fitted.held_out_loss)[fitted.best_step] == min(losses)
        # the held-out loss is that of the kept parameters: mean of -log q(z), here in float64
        z = fitted.coordinates.to_z(fitted.held_out)[0]
        assert float(-fitted.proposal.log_prob(z).mean()) == pytest.approx(min(losses), abs=1e-4)
        assert forward_ess(system, fitted.proposal, fitted.held_out) > 0.3
        assert log_weights(system, fitted.proposal, fitted.held_out).shape == (len(fitted.held_out),)

    def test_flows_over_conformations(self, system: bgdiff.System) -> None:
        flows = pytest.importorskip("zuko").flows
        torch.manual_seed(0)
        proposal = ZukoProposal(flows.MAF(2, transforms=1).double(), shape=(1, 2))
        x, log_q = proposal.sample(50, seed=0)
        assert x.shape == (50, 1, 2)
        energy = system.target.energy(x).numpy()
        np.testing.assert_allclose(log_weights(system, proposal, x), -energy - log_q.numpy(), atol=1e-8)
        with pytest.raises(ConfigError, match=r"draws 2 numbers, but shape is \(2, 3\)"):
            ZukoProposal(proposal.flow, shape=(2, 3)).sample(5, seed=0)

    def test_wrong_requests(self, system: bgdiff.System) -> None:
        pytest.importorskip("zuko")
        data = Dataset(torch.randn(200, 1, 2).double(), torch.zeros(200, dtype=torch.int64))
        with pytest.raises(ConfigError, match="positive number of steps"):
            fit_flow(system, data, steps=0)
        with pytest.raises(DataError, match="not finite in step"):
            fit_flow(system, data, steps=30, learning_rate=1e18)


def test_a_molecule_with_torsions() -> None:
    """All the machinery on real and periodic axes together: a flow of two steps, corrected."""
    pytest.importorskip("zuko")
    system = bgdiff.load_system("alanine_dipeptide_vacuum")
    data = system.load_data()
    data = data.select(torch.arange(len(data)) % (len(data) // 1000) == 0)
    fitted = fit_flow(system, data, steps=2, batch_size=64, coordinates=None, seed=2)
    periodic = fitted.coordinates.periodic
    assert bool(periodic.any())
    assert isinstance(fitted.proposal.flow, TorsionFlow)
    ensemble = reweight(system, fitted.proposal, 8, seed=1)
    assert ensemble.x.shape == (8, *system.target.event_shape)
    z = fitted.coordinates.to_z(fitted.held_out)[0]
    assert torch.isfinite(log_prob_of(fitted.proposal.flow, z)).all()
