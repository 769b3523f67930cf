"""The network of particles: its symmetry, its ends, and how settings and files choose it."""

import math

import pytest
import scipy.linalg
import torch
from checks import level, seeded
from torch import Tensor

from bgdiff.config import NetworkConfig, ParticleNetworkConfig
from bgdiff.coordinates import MeanFreeCoordinates, WhitenedCoordinates
from bgdiff.errors import CheckpointError, ConfigError
from bgdiff.ladder.kernels import Prior
from bgdiff.models import (
    EnergyNetwork,
    Network,
    ParticleNetwork,
    ParticleShape,
    is_particle_model,
    is_scored_model,
    log_density_and_score,
    make_network,
    mean_of_equal_axes,
    network_from_description,
    particles,
)
from bgdiff.models.pairs import noise_features

SIGMA_MIN, SIGMA_MAX = 0.02, 12.0
COORDINATES = MeanFreeCoordinates(5, 3, 0.7)
TYPES = torch.tensor([0, 0, 1, 0, 1])
SMALL = NetworkConfig(particles=ParticleNetworkConfig())


def trained(types: Tensor | None = TYPES, seed: int = 0) -> Network:
    """A network with random weights in all layers, float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = make_network(COORDINATES, types, SIGMA_MIN, SIGMA_MAX, SMALL)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return network.double().requires_grad_(False)


def points(n: int, seed: int, spread: float = 1.0) -> Tensor:
    return spread * torch.randn(n, COORDINATES.dim, generator=seeded(seed), dtype=torch.float64)


def changed(z: Tensor, change: Tensor, order: Tensor) -> Tensor:
    """Particles turned by an orthogonal matrix and put in another order."""
    x, _ = COORDINATES.to_x(z)
    return COORDINATES.to_z(x[:, order] @ change)[0]


def orthogonal(seed: int, sign: float) -> Tensor:
    matrix, _ = torch.linalg.qr(torch.randn(3, 3, generator=seeded(seed), dtype=torch.float64))
    return matrix * (sign * torch.linalg.det(matrix).sign())


@pytest.mark.parametrize("sigma", [0.02, 0.5, 8.0])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_symmetry(sigma: float, sign: float) -> None:
    """Rotations (determinant 1), reflections (-1), exchange of equal particles; not of different ones."""
    network, z = trained(), points(30, 1)
    value = network.log_density(z, level(sigma))
    equal = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(
        network.log_density(changed(z, orthogonal(2, sign), equal), level(sigma)), value, rtol=1e-9, atol=1e-9
    )
    different = network.log_density(
        changed(z, torch.eye(3).double(), torch.tensor([2, 1, 0, 3, 4])), level(0.5)
    )
    assert float((different - network.log_density(z, level(0.5))).abs().max()) > 1e-3


def test_particles_in_one_place_have_finite_derivatives() -> None:
    network = trained()
    z = torch.zeros(1, COORDINATES.dim, dtype=torch.float64, requires_grad=True)
    (score,) = torch.autograd.grad(network.log_density(z, level(0.3)).sum(), z, create_graph=True)
    (second,) = torch.autograd.grad(score[0, 0], z)
    assert torch.isfinite(score).all()
    assert torch.isfinite(second).all()


def test_top_rung_is_the_prior() -> None:
    network, z = trained(), points(40, 3, 10.0)
    prior = Prior(SIGMA_MAX, COORDINATES.periodic)
    torch.testing.assert_close(
        network.log_density(z, level(SIGMA_MAX)), prior.log_prob(z), rtol=1e-6, atol=1e-6
    )
    below = network.log_density(points(40, 4), level(0.5)) - Prior(0.5, COORDINATES.periodic).log_prob(
        points(40, 4)
    )
    assert float(below.std()) > 1e-3


def test_untrained_network_is_nearly_gaussian() -> None:
    """But for the repulsive core."""
    network = make_network(COORDINATES, TYPES, SIGMA_MIN, SIGMA_MAX, SMALL).double()
    z = points(200, 5, math.hypot(1, 0.4))
    difference = network.log_density(z, level(0.4)).detach() - Prior(0.4, COORDINATES.periodic).log_prob(z)
    assert float(difference.max()) < 0
    assert float(difference.std()) < 0.5


@pytest.mark.parametrize("types", [TYPES, torch.zeros(5, dtype=torch.int64)])
def test_own_score_is_that_of_automatic_differentiation(types: Tensor) -> None:
    """Values, scores, and the gradients that training takes of both."""
    network, z = trained(types).requires_grad_(True), points(12, 11)
    sigma = torch.logspace(-1.6, 1, 12, dtype=torch.float64)
    assert is_scored_model(network)
    weights = torch.randn(z.shape, generator=seeded(12), dtype=torch.float64)

    def gradients(value: Tensor, score: Tensor) -> list[Tensor]:
        loss = (weights * score).sum() + value.square().mean()
        found = torch.autograd.grad(
            loss, list(network.parameters()), allow_unused=True, materialize_grads=True
        )
        return list(found)

    varied = z.clone().requires_grad_(True)
    value = network.log_density(varied, sigma)
    (score,) = torch.autograd.grad(value.sum(), varied, create_graph=True)
    own_value, own_score = log_density_and_score(network, z, sigma, create_graph=True)
    torch.testing.assert_close(own_value, value)
    torch.testing.assert_close(own_score, score)
    for ours, theirs in zip(gradients(own_value, own_score), gradients(value, score), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-7)
    detached = log_density_and_score(network, z, sigma)
    torch.testing.assert_close(detached[0], value.detach())
    torch.testing.assert_close(detached[1], score.detach())


def test_energy_is_the_documented_formula() -> None:
    """Particle by particle, with loops in place of the pairs' tensors."""
    network, z, sigma = trained(), points(3, 16), 0.7
    assert isinstance(network, ParticleNetwork)
    shape, silu, spread = network.shape, torch.nn.functional.silu, 1 + sigma**2
    x = COORDINATES.to_x(z)[0] / COORDINATES.scale / math.sqrt(spread)
    features = noise_features(level(sigma), SIGMA_MIN, SIGMA_MAX)
    noise = network.embed(features)[0]
    height, steepness = network.core(noise)
    kinds = {(0, 0): 0, (0, 1): 1, (1, 1): 2}
    centres = torch.linspace(0.2, shape.reach, shape.radial, dtype=torch.float64)
    width = centres[1] - centres[0]
    # overlaps of the Gaussians by quadrature, normalised; a hundredth of the largest eigenvalue is added
    grid = torch.linspace(-10, 20, 6001, dtype=torch.float64)[:, None]
    gaussians = torch.exp(-0.5 * ((grid - centres) / width) ** 2)
    overlap = gaussians.T @ gaussians
    overlap = overlap / overlap[0, 0]
    top = torch.linalg.matrix_norm(overlap, 2)
    root = scipy.linalg.sqrtm((overlap / top + 0.01 * torch.eye(shape.radial)).numpy())
    condition = torch.linalg.inv(torch.as_tensor(root))
    for row in range(3):
        pair = torch.zeros((), dtype=torch.float64)
        functions, direction = {}, {}
        for i in range(5):
            for j in (j for j in range(5) if j != i):
                apart = x[row, i] - x[row, j]
                r = (apart.square().sum() + 0.2**2).sqrt()
                radial = torch.exp(-0.5 * ((r - centres) / width) ** 2)
                kind = kinds[tuple(sorted((int(TYPES[i]), int(TYPES[j]))))]  # type: ignore[index]
                weight = network.weigh(noise).reshape(shape.radial, -1)
                shared = radial @ torch.cat([condition @ weight[:, :1], weight[:, 1:]], -1)
                functions[i, j] = shared + network.kind_gates(noise) * (radial @ network.kind_weights[kind])
                direction[i, j] = apart / r
                pair = pair + 0.5 * (
                    functions[i, j][0] + torch.exp(height - 4 - (4 + 5 * steepness) * (r - 1))
                )

        def parts(i: int, j: int, functions: dict = functions) -> tuple[Tensor, ...]:  # type: ignore[type-arg]
            return functions[i, j].split([1, shape.scalars, shape.vectors, shape.tensors, shape.messages])

        def around(i: int) -> list[int]:
            return [j for j in range(5) if j != i]

        hidden = []
        for i in range(5):
            scalars = sum(parts(i, j)[1] for j in around(i))
            vectors = sum(parts(i, j)[2][:, None] * direction[i, j] for j in around(i))
            eye = torch.eye(3).double() / 3
            tensors = sum(
                parts(i, j)[3][:, None, None] * torch.outer(direction[i, j], direction[i, j])
                for j in around(i)
            )
            trace = torch.einsum("caa->c", tensors)[:, None, None] * eye  # type: ignore[arg-type]
            found = [
                0.5 * scalars,
                0.3 * vectors.square().sum(1),  # type: ignore[union-attr]
                0.3 * (tensors - trace).square().sum((1, 2)),
            ]
            first = network.enter(torch.cat(found)) + network.type_bias[TYPES[i]]  # type: ignore[arg-type]
            hidden.append(network._block(0, first[None, None], noise[None])[0, 0])
        energy = torch.zeros((), dtype=torch.float64)
        for i in range(5):
            heard = sum(parts(i, j)[4] * network.send(silu(hidden[j])) for j in around(i))
            own = hidden[i] + 0.3 * network.receive(heard)
            for block in range(1, shape.depth):
                own = network._block(block, own[None, None], noise[None])[0, 0]
            energy = energy + network.leave(silu(own))[0]
        total = pair + energy + network.quadratic(noise)[0] * x[row].square().sum()
        amplitude = 1 / math.sqrt(spread) - 1 / math.sqrt(1 + SIGMA_MAX**2)
        expected = Prior(0.0, COORDINATES.periodic).log_prob(z[row : row + 1] / math.sqrt(spread))
        expected = expected - 0.5 * COORDINATES.dim * math.log(spread) - amplitude * total
        torch.testing.assert_close(network.log_density(z[row : row + 1], level(sigma)), expected)


def test_batches_are_cut_without_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    network, z = trained(), points(9, 13)
    sigma = torch.logspace(-1.6, 1, 9, dtype=torch.float64)
    whole = log_density_and_score(network, z, sigma)
    monkeypatch.setattr(particles, "_PAIRS_AT_ONCE", 25)
    cut = log_density_and_score(network, z, sigma)
    torch.testing.assert_close(cut[0], whole[0])
    torch.testing.assert_close(cut[1], whole[1])
    torch.testing.assert_close(network.log_density(z, sigma), whole[0])
    torch.testing.assert_close(
        network.log_density(z, level(0.3)),
        torch.cat([network.log_density(one[None], level(0.3)) for one in z]),
    )


def test_overlapping_particles_are_repelled_at_low_noise_and_pass_at_high_noise() -> None:
    """The core grows without end towards the lowest rungs, and fades with the noise."""
    network = make_network(COORDINATES, TYPES, SIGMA_MIN, SIGMA_MAX, SMALL).double()
    assert isinstance(network, ParticleNetwork)
    with torch.no_grad():
        network.core.bias[0] = 5.0
    x = torch.randn(1, 5, 3, generator=seeded(14), dtype=torch.float64)
    x[:, 1] = x[:, 0]
    z, _ = COORDINATES.to_z(x)

    def excess(sigma: float) -> float:
        prior, typical = Prior(sigma, COORDINATES.periodic), math.hypot(1, sigma) * z
        return float((network.log_density(typical, level(sigma)) - prior.log_prob(typical)).detach())

    assert excess(SIGMA_MIN) < -20
    assert excess(SIGMA_MIN) < excess(2.0) < excess(10.0) < 0
    assert excess(10.0) > -2


def test_highest_core_goes_on_rising() -> None:
    """Far above its bound the core is a parabola: finite, and its force is the gradient of its energy."""
    network = make_network(COORDINATES, TYPES, SIGMA_MIN, SIGMA_MAX, SMALL)
    assert isinstance(network, ParticleNetwork)
    with torch.no_grad():
        network.core.bias[0] = 200.0
    z = points(8, 15).float().requires_grad_(True)
    value = network.log_density(z, level(0.1))
    (score,) = torch.autograd.grad(value.sum(), z)
    own_value, own_score = log_density_and_score(network, z, level(0.1))
    assert torch.isfinite(value).all()
    assert float(score.norm(dim=1).min()) > 1e4  # a clipped energy would have no force
    torch.testing.assert_close(own_value, value.detach())
    torch.testing.assert_close(own_score, score, rtol=1e-4, atol=1e-4 * float(score.abs().max()))


def test_core_beyond_its_bound_is_the_parabola_of_the_same_slope_and_curvature() -> None:
    """e² (1 + v + ½ v²), v = k (r_2 - r), below the distance r_2 where the exponential has reached e²."""
    network = trained()
    assert isinstance(network, ParticleNetwork)
    noise = network.embed(noise_features(level(0.3), SIGMA_MIN, SIGMA_MAX))
    height, steepness = network.core(noise)[0].detach()
    steepness = 4 + 5 * steepness
    bound = 1 + (height - 4 - 2) / steepness
    distance = (bound + torch.linspace(-2.0, 1.0, 61, dtype=torch.float64) / steepness.abs())[None]
    v = steepness * (bound - distance)
    below = torch.exp(2 + v)
    expected = torch.where(v > 0, math.exp(2) * (1 + v + 0.5 * v**2), below)
    value, slope = network._core(distance, noise)
    torch.testing.assert_close(value, expected)
    by_difference = (value[0, 2:] - value[0, :-2]) / (distance[0, 2:] - distance[0, :-2])
    torch.testing.assert_close(slope[0, 1:-1], by_difference, rtol=2e-3, atol=2e-3)


def test_description_round_trip() -> None:
    network = trained()
    again = network_from_description(network.describe()).double()
    again.load_state_dict(network.state_dict())
    z = points(10, 6)
    assert torch.equal(again.log_density(z, level(0.3)), network.log_density(z, level(0.3)))
    assert again.describe() == network.describe()


def test_networks_saved_before_functions_were_orthonormal_keep_their_energy() -> None:
    """Such a description does not name the choice; the weights then are those of the Gaussians themselves."""
    network = trained()
    description = network.describe()
    del description["orthonormal"]
    old = network_from_description(description).double()
    old.load_state_dict(network.state_dict())
    assert isinstance(network, ParticleNetwork)
    assert isinstance(old, ParticleNetwork)
    z = points(10, 6)
    assert not torch.allclose(old.log_density(z, level(0.3)), network.log_density(z, level(0.3)))
    with torch.no_grad():
        for weights in (old.weigh.weight, old.weigh.bias):
            pair = weights.view(old.shape.radial, -1, *weights.shape[1:])[:, 0]
            pair.copy_(network.pairs.orthonormal().double() @ pair)
    torch.testing.assert_close(old.log_density(z, level(0.3)), network.log_density(z, level(0.3)))


def test_descriptions_without_a_kind_are_dense() -> None:
    dense = make_network(COORDINATES, None, SIGMA_MIN, SIGMA_MAX, NetworkConfig(width=8, depth=1))
    description = dense.describe()
    assert description.pop("kind") == "dense"
    assert isinstance(network_from_description(description), EnergyNetwork)
    with pytest.raises(CheckpointError, match="octopus"):
        network_from_description({"kind": "octopus"})


def test_choice_of_the_kind() -> None:
    whitened = WhitenedCoordinates.fit(torch.randn(50, 1, 2, generator=seeded(7)))

    def kind(coordinates: MeanFreeCoordinates | WhitenedCoordinates, types: Tensor | None, asked: str) -> str:
        settings = NetworkConfig.model_validate({"kind": asked, "width": 8, "depth": 1})
        return make_network(coordinates, types, SIGMA_MIN, SIGMA_MAX, settings).kind

    assert kind(COORDINATES, TYPES, "auto") == "particles"
    assert kind(COORDINATES, None, "auto") == "dense"
    assert kind(COORDINATES, TYPES, "dense") == "dense"
    assert kind(COORDINATES, None, "particles") == "particles"
    assert kind(whitened, None, "auto") == "dense"
    with pytest.raises(ConfigError, match=r"network\.kind"):
        kind(whitened, None, "particles")


def test_settings_are_the_sizes_of_the_network() -> None:
    """Name by name, with the same defaults."""
    assert ParticleShape(**ParticleNetworkConfig().model_dump()) == ParticleShape()


def test_axes_of_a_particle_model_are_equal() -> None:
    network = trained()
    assert isinstance(network, ParticleNetwork)
    assert is_particle_model(network)
    values = torch.rand(4, COORDINATES.dim, generator=seeded(8))
    mean = mean_of_equal_axes(network, values)
    torch.testing.assert_close(mean, values.mean(1, keepdim=True).expand(4, COORDINATES.dim))
    dense = make_network(COORDINATES, None, SIGMA_MIN, SIGMA_MAX, NetworkConfig(width=8, depth=1))
    assert torch.equal(mean_of_equal_axes(dense, values), values)


def test_second_derivatives_do_not_depend_on_the_frame() -> None:
    """E[s²] of turned data is E[s²] of the data: the reason why one number serves all axes."""
    network, z = trained(), points(20, 9)
    turn = orthogonal(10, 1.0)
    score = log_density_and_score(network, z, level(0.3))[1]
    turned = log_density_and_score(network, changed(z, turn, torch.arange(5)), level(0.3))[1]
    torch.testing.assert_close(changed(score, turn, torch.arange(5)), turned, rtol=1e-8, atol=1e-8)
    assert math.isclose(float(score.square().mean()), float(turned.square().mean()), rel_tol=1e-8)
