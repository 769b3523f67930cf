"""Every algorithm on analytic ladders with a wrong model: log Z is unbiased, densities are left invariant."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch
from checks import assert_mean, seeded, z_scores
from ladders import Isomers, ModelTarget, SpringNetwork, assert_same_density, differences, torus_and_plane
from test_smc import Lopsided
from torch import Tensor

from bgdiff.coordinates import LatentTarget, MeanFreeCoordinates
from bgdiff.free_energy import expectation
from bgdiff.ladder.bridge import Bridge, cross
from bgdiff.ladder.densities import Density, LatentDensity, RungDensity, State, TargetDensity
from bgdiff.ladder.imh import PathChains, advance
from bgdiff.ladder.levels import noise_levels
from bgdiff.ladder.moves import Hamiltonian, Move, RandomWalk, TorsionJump, mala, move_scale
from bgdiff.ladder.paths import Ladder, measure_moments
from bgdiff.ladder.replica_exchange import Exchange, Replicas, run_exchange
from bgdiff.ladder.resampling import log_mean_weight
from bgdiff.ladder.smc import Arrivals, Plan, Resampler, descend, smc
from bgdiff.models import EnergyModel, GaussianMixtureModel, GaussianModel, log_density_and_score


@dataclass(frozen=True)
class Case:
    """A target whose log Z, samples and blurred rungs are known, and a model of it that is wrong."""

    target: LatentDensity
    log_z: float
    rungs: EnergyModel
    sample: Callable[[int, torch.Generator, float], Tensor]
    """(n, generator, sigma) → exact samples of the blurred target."""
    model: EnergyModel

    @property
    def periodic(self) -> Tensor:
        return self.model.periodic

    @property
    def density(self) -> TargetDensity:
        return TargetDensity(self.target, self.periodic)

    def ladder(self, model: EnergyModel, n_rungs: int = 6) -> Ladder:
        sigma = noise_levels(n_rungs, 0.15, 7.0)
        z = self.sample(4000, seeded(90), 0.0)
        return Ladder(model, sigma, measure_moments(model, sigma, z, seeded(91)))


def gaussian() -> Case:
    """Two real axes and an angle, and a model with other widths and places."""
    periodic = torch.tensor([False, False, True])

    def normal(mean: list[float], variance: list[float]) -> GaussianModel:
        return GaussianModel(torch.tensor(mean), torch.tensor(variance), periodic)

    truth, model = normal([0.3, -0.2, 2.8], [0.8, 1.2, 0.4]), normal([0.1, 0.0, 2.9], [1.0, 1.0, 0.5])

    def sample(n: int, generator: torch.Generator, sigma: float) -> Tensor:
        return GaussianModel(truth.mean, truth.variance + sigma**2, periodic).sample(n, generator)

    return Case(ModelTarget(truth, -5.2), -5.2, truth, sample, model)


def torus() -> Case:
    model = torus_and_plane()
    return Case(ModelTarget(model), 3.7, model, model.sample, Lopsided())


def isomers() -> Isomers:
    """Four particles in the plane: a rhombus, and a chain with the particles in another order."""
    rhombus = torch.tensor([[0.0, 3, 1, 3], [3, 0, 3, 1], [1, 3, 0, 3], [3, 1, 3, 0]])
    chain = torch.tensor([[0.0, 0, 4, 1], [0, 0, 4, 4], [4, 4, 0, 0], [1, 4, 0, 0]])
    corners = torch.tensor([[1.2, 0.0], [0.0, 0.7], [-1.2, 0.0], [0.0, -0.7]])
    bent = torch.tensor([[-1.0, 0.6], [0.4, -0.4], [-0.4, -0.4], [1.0, 0.6]])
    networks = [SpringNetwork(0.8 * rhombus, 2, corners), SpringNetwork(0.8 * chain, 2, bent)]
    return Isomers([-11.0, -11.8], networks)


class Skewed:
    """The rungs of the cluster, too wide, and tilted by up to 1 kT where there is little noise."""

    def __init__(self, exact: GaussianMixtureModel) -> None:
        self.wide = GaussianMixtureModel(exact.weights, 0.9 * exact.means, 1.2 * exact.covariances)
        self.periodic = exact.periodic

    def log_density(self, z: Tensor, sigma: Tensor) -> Tensor:
        return self.wide.log_density(z, sigma) + torch.tanh(2 * z[:, 1]) * torch.exp(-(sigma**2))


def clusters() -> Case:
    """Through the coordinates themselves, with log Z from the matrix-tree theorem."""
    cluster = isomers()
    coordinates = MeanFreeCoordinates.fit(cluster.sample(5000, seeded(80)))
    exact = cluster.rungs(coordinates)

    def sample(n: int, generator: torch.Generator, sigma: float) -> Tensor:
        z, _ = coordinates.to_z(cluster.sample(n, generator))
        return z + sigma * torch.randn(z.shape, generator=generator, dtype=z.dtype)

    return Case(LatentTarget(cluster, coordinates), cluster.log_z, exact, sample, Skewed(exact))


@cache
def case(name: str) -> Case:
    return {"gaussian": gaussian, "torus": torus, "clusters": clusters}[name]()


@cache
def wrong_ladder(name: str) -> Ladder:
    return case(name).ladder(case(name).model)


def moves(name: str, ladder: Ladder, k: int) -> dict[str, Move]:
    """Moves for rung k ≥ 1."""
    periodic = case(name).periodic
    scale = move_scale(ladder.moments[k - 1], float(ladder.sigma[k]), periodic)
    made: dict[str, Move] = {
        "mala": mala(scale, 0.9),
        "hmc": Hamiltonian(scale, 0.5, leapfrog_steps=4, jitter=0.3),
        "random walk": RandomWalk(scale, 0.9),
    }
    if bool(periodic.any()):
        made["torsion jump"] = TorsionJump(torch.nonzero(periodic)[:, 0])
    return made


def plan(name: str) -> Plan:
    ladder = wrong_ladder(name)
    at = [tuple(moves(name, ladder, k)[kind] for kind in ("mala",) if k % 2) for k in range(1, 6)]
    return Plan(ladder, ((), *at), Resampler(0.8))


def relative_z(name: str, z: Tensor, log_ratio: Tensor) -> Tensor:
    """Mean weight over the true Z."""
    log_weight = case(name).target.log_density(z) + log_ratio
    return (log_mean_weight(log_weight) - case(name).log_z).exp()


CASES = ["gaussian", "torus", "clusters"]


@pytest.mark.parametrize("name", CASES)
def test_the_rungs_are_those_of_the_target(name: str) -> None:
    """What the tests below take for granted: at σ = 0 the exact rung is the target over Z."""
    one = case(name)
    z = one.sample(50, seeded(0), 0.0)
    clean = one.rungs.log_density(z, torch.zeros(1, dtype=torch.float64))
    assert torch.allclose(one.target.log_density(z), one.log_z + clean, atol=1e-9)
    blurred = one.sample(40_000, seeded(1), 0.7)
    _, score = log_density_and_score(one.rungs, blurred, torch.tensor([0.7], dtype=torch.float64))
    # E[∇log p] = 0 and E[z_i ∂_i log p] = -1 on real axes hold only for samples of p
    assert_mean(score, 0.0)
    real = ~one.periodic
    assert_mean((blurred * score)[:, real], -1.0)


@pytest.mark.parametrize("name", CASES)
def test_log_z_of_walks_is_unbiased(name: str) -> None:
    """200 runs of 40 walks down, in one go, and as many upwards."""
    one, n = case(name), 200 * 40
    down = wrong_ladder(name).walk_down(n, seeded(2))
    log_weight = one.target.log_density(down.z) + down.log_ratio
    found = (log_weight - one.log_z).exp().reshape(200, 40).mean(1)
    assert_mean(found, 1.0)
    assert float(found.std()) > 0.02, "there is something to correct"
    up = wrong_ladder(name).walk_up(one.sample(n, seeded(3), 0.0), seeded(4))
    upward = one.target.log_density(up.z) + up.log_ratio
    assert_mean((one.log_z - upward).exp().reshape(200, 40).mean(1), 1.0)


@pytest.mark.parametrize("name", CASES)
def test_log_z_of_smc_is_unbiased(name: str) -> None:
    """200 runs of 40 particles with adaptive resampling and moves."""
    generator, found, resampled = seeded(5), [], 0
    for _ in range(200):
        arrivals = smc(plan(name), 40, generator)
        found.append(relative_z(name, arrivals.paths.z, arrivals.paths.log_ratio))
        resampled += len(arrivals.genealogy)
    assert_mean(torch.stack(found), 1.0)
    assert resampled > 20


def crossings(name: str, n: int, repeats: int) -> list[Arrivals]:
    """SMC with moves under the target's own forces on the last stretch."""
    generator, made = seeded(6), []
    at = tuple(moves(name, wrong_ladder(name), 1).values())[:1]
    for _ in range(repeats):
        low, weighed = descend(plan(name), n, generator)
        bridge = Bridge((0.3, 0.7, 1.0), (at, at, ()))
        made.append(cross(plan(name), bridge, case(name).density, low, weighed, generator))
    return made


@pytest.mark.parametrize("name", ["gaussian", "clusters"])
def test_log_z_over_the_bridge_is_unbiased(name: str) -> None:
    found = [relative_z(name, a.paths.z, a.paths.log_ratio) for a in crossings(name, 40, 200)]
    assert_mean(torch.stack(found), 1.0)


def test_the_test_of_log_z_can_fail() -> None:
    """The deliberate bug: a Jacobian of N D axes, where (N-1) D are free."""
    one = case("clusters")
    assert isinstance(one.target, LatentTarget)
    down = wrong_ladder("clusters").walk_down(200 * 40, seeded(2))
    bug = 2 * math.log(one.target.coordinates.scale)  # type: ignore[attr-defined]
    log_weight = one.target.log_density(down.z) + down.log_ratio + bug
    found = (log_weight - one.log_z).exp().reshape(200, 40).mean(1)
    assert abs(float(z_scores(found, 1.0))) > 6


def test_virial_of_a_corrected_cluster() -> None:
    """⟨x·∇u⟩ = (N-1) D, under the weights of walks, and after the bridge; not without the weights."""
    one, cluster = case("clusters"), isomers()
    assert isinstance(one.target, LatentTarget)
    down = wrong_ladder("clusters").walk_down(20_000, seeded(7))
    (arrivals,) = crossings("clusters", 4000, 1)
    for paths, family in ((down, None), (arrivals.paths, arrivals.genealogy.ancestors().numpy())):
        x, _ = one.target.coordinates.to_x(paths.z)
        virial = -(x * cluster.energy_and_force(x)[1]).sum((1, 2))
        log_weight = one.target.log_density(paths.z) + paths.log_ratio
        mean = expectation(log_weight.numpy(), virial.numpy(), family=family)
        assert abs(mean.value - 6) < 4 * mean.std_error
        if family is None:
            assert abs(float(z_scores(virial, 6.0))) > 8


@pytest.mark.parametrize("sigma", [0.0, 0.5])
@pytest.mark.parametrize(
    ("name", "kind"),
    [("gaussian", kind) for kind in ("mala", "hmc", "random walk", "torsion jump")]
    + [("clusters", kind) for kind in ("mala", "hmc", "random walk")],
)
def test_moves_leave_rungs_and_target_invariant(name: str, kind: str, sigma: float) -> None:
    one = case(name)
    made = moves(name, wrong_ladder(name), 1)
    density: Density = one.density
    if sigma:
        density = RungDensity(one.rungs, 1, torch.tensor(sigma, dtype=torch.float64))
    start, generator = one.sample(3000, seeded(8), sigma), seeded(9)
    state = density.evaluate(start)
    for _ in range(8):
        state, probability = made[kind](state, density, generator)
    assert 0.1 < float(probability.mean()) < 0.999
    assert float((state.z != start).any(1).double().mean()) > 0.6
    assert_same_density(state.z, one.sample(12_000, seeded(10), sigma), one.periodic)


def test_chains_of_walks_leave_clusters_invariant() -> None:
    one, ladder = case("clusters"), wrong_ladder("clusters")
    local = [moves("clusters", ladder, 1)["mala"]]
    start, generator = one.sample(3000, seeded(11), 0.0), seeded(12)
    chains = PathChains.at(ladder, one.density, start, generator)
    chains, rates = advance(chains, ladder, one.density, local, 5, generator)
    assert all(0.1 < rate < 0.95 for rate in rates)
    assert float((chains.state.z != start).any(1).double().mean()) > 0.9
    assert_same_density(chains.state.z, one.sample(12_000, seeded(13), 0.0), one.periodic)


@cache
def exchange(name: str) -> Exchange:
    """Over exact rungs, so that every rung can be started from its own density."""
    one = case(name)
    made = Exchange.untuned(one.ladder(one.rungs, 5), one.density)
    return replace(made, steps=torch.full((5,), 0.6, dtype=torch.float64))


def exact_replicas(name: str, sets: int, seed: int) -> Tensor:
    one, ladder, generator = case(name), exchange(name).ladder, seeded(seed)
    rungs = [one.sample(sets, generator, float(sigma)) for sigma in ladder.sigma[:-1]]
    return torch.stack([*rungs, ladder.prior.sample(sets, generator)], 1)


@pytest.mark.parametrize("name", ["gaussian", "clusters"])
def test_replica_exchange_leaves_every_rung_invariant(name: str) -> None:
    replicas = Replicas.at(exchange(name), exact_replicas(name, 2000, 14))
    run_exchange(exchange(name), replicas, 5, seeded(15))
    fresh = exact_replicas(name, 8000, 16)
    for k in range(6):
        assert_same_density(replicas.z[:, k], fresh[:, k], case(name).periodic)
    assert (replicas.swap_rates > 0.2).all()


@dataclass(frozen=True)
class Rescaled:
    """The deliberate bug: what comes back from each step is in units of a scale that is 2 % larger."""

    inner: Move
    name: str = "rescaled"
    evaluations: int = 1

    def __call__(self, state: State, density: Density, generator: torch.Generator) -> tuple[State, Tensor]:
        new, probability = self.inner(state, density, generator)
        return density.evaluate(new.z / 1.02), probability


def test_the_test_of_invariance_can_fail() -> None:
    one = case("clusters")
    move = Rescaled(moves("clusters", wrong_ladder("clusters"), 1)["mala"])
    state, generator = one.density.evaluate(one.sample(3000, seeded(8), 0.0)), seeded(9)
    for _ in range(8):
        state, _ = move(state, one.density, generator)
    score, p = differences(state.z, one.sample(12_000, seeded(10), 0.0), one.periodic)
    assert score > 8
    assert p < 1e-6
