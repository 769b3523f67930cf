"""Analytic ladders with several modes on real and periodic axes, and tests of invariance."""

import math
from collections.abc import Callable

import torch
from scipy.stats import ks_2samp
from torch import Tensor

from bgdiff.coordinates import MeanFreeCoordinates
from bgdiff.coordinates.mean_free import helmert
from bgdiff.ladder.densities import State
from bgdiff.models import GaussianMixtureModel, GaussianModel, log_density_and_score


class MixedModel:
    """A mixture of products of (wrapped) normals: every rung normalised and known in closed form.

    With ``shift`` the rungs are known only up to constants that vary along the ladder, as a network's are.
    """

    def __init__(self, weights: list[float], parts: list[GaussianModel], shift: float = 0.0) -> None:
        self.weights = torch.tensor(weights, dtype=torch.float64)
        self.parts = parts
        self.periodic = parts[0].periodic
        self.shift = shift

    def log_density(self, z: Tensor, sigma: Tensor) -> Tensor:
        logs = [part.log_density(z.to(torch.float64), sigma.to(torch.float64)) for part in self.parts]
        value = torch.logsumexp(self.weights.log() + torch.stack(logs, -1), -1)
        return value + self.shift * torch.sin(3 * sigma)

    def sample(self, n: int, generator: torch.Generator, sigma: float = 0.0) -> Tensor:
        """n exact samples of the rung with noise ``sigma``."""
        which = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        blurred = [GaussianModel(p.mean, p.variance + sigma**2, p.periodic) for p in self.parts]
        drawn = torch.stack([part.sample(n, generator) for part in blurred])
        return drawn[which, torch.arange(n)]


def torus_and_plane(shift: float = 0.0) -> MixedModel:
    """Two modes on two real and two periodic axes; one periodic axis is uniform in one mode."""
    periodic = torch.tensor([False, False, True, True])

    def part(mean: list[float], variance: list[float]) -> GaussianModel:
        return GaussianModel(torch.tensor(mean), torch.tensor(variance), periodic)

    return MixedModel(
        [0.35, 0.65],
        [
            part([-1.0, 0.4, 2.9, 0.0], [0.15, 0.6, 0.1, math.inf]),
            part([0.7, -0.2, 0.3, -1.0], [0.4, 0.25, 0.2, 0.3]),
        ],
        shift,
    )


class ModelTarget:
    """The clean rung of a model as an unnormalised target with a known log Z; counts its evaluations."""

    def __init__(self, model: MixedModel | GaussianModel, log_z: float = 3.7) -> None:
        self.model, self.log_z, self.evaluations = model, log_z, 0
        self.clean = torch.zeros(1, dtype=torch.float64)

    def log_density(self, z: Tensor) -> Tensor:
        self.evaluations += len(z)
        return self.log_z + self.model.log_density(z, self.clean)

    def log_density_and_score(self, z: Tensor) -> tuple[Tensor, Tensor]:
        self.evaluations += len(z)
        value, score = log_density_and_score(self.model, z, self.clean)
        return self.log_z + value, score


def features(z: Tensor, periodic: Tensor) -> Tensor:
    """Moments that tell densities apart: z, z², pair products; cos and sin of angles and twice the angles."""
    real, angle = z[:, ~periodic], z[:, periodic]
    columns = [real, real**2, angle.cos(), angle.sin(), (2 * angle).cos(), (2 * angle).sin()]
    flat = torch.cat([real, angle.cos(), angle.sin()], 1)
    products = [flat[:, i] * flat[:, j] for i in range(flat.shape[1]) for j in range(i)]
    return torch.cat([*columns, torch.stack(products, 1)], 1) if products else torch.cat(columns, 1)


def differences(first: Tensor, second: Tensor, periodic: Tensor) -> tuple[float, float]:
    """How two sets of independent samples ``(n, d)`` differ: the largest z-score of any moment, and the
    smallest p-value of any axis in a Kolmogorov-Smirnov test, times the number of axes."""
    ours, theirs = features(first, periodic), features(second, periodic)
    error = (ours.var(0) / len(ours) + theirs.var(0) / len(theirs)).sqrt()
    scores = (ours.mean(0) - theirs.mean(0)) / error
    p = min(ks_2samp(first[:, i].numpy(), second[:, i].numpy()).pvalue for i in range(first.shape[1]))
    return float(scores.abs().max()), p * first.shape[1]


def assert_same_density(first: Tensor, second: Tensor, periodic: Tensor) -> None:
    score, p = differences(first, second, periodic)
    assert score < 4.5, f"a moment is {score:.1f} standard errors away"
    assert p > 1e-4, f"the two-sample test has p = {p:.1g}"


def has_moved(before: State, after: State) -> float:
    """Share of the points that are elsewhere."""
    return float((before.z != after.z).any(1).double().mean())


class SpringNetwork:
    """Particles on springs: u(x) = ½ Σ_{i<j} k_ij |x_i - x_j - (m_i - m_j)|²; only the centroid is free.

    Args:
        stiffness: symmetric k ``(N, N)``, connected; its diagonal is not used.
        dim: D.
        rest: conformation m ``(N, D)`` in which all springs are at rest; by default all particles are in one
            place.
    """

    def __init__(self, stiffness: Tensor, dim: int, rest: Tensor | None = None) -> None:
        n = len(stiffness)
        self.stiffness = stiffness.to(torch.float64) * (1 - torch.eye(n, dtype=torch.float64))
        self.rest = torch.zeros(n, dim, dtype=torch.float64) if rest is None else rest.to(torch.float64)
        self.event_shape = (n, dim)

    @property
    def laplacian(self) -> Tensor:
        return torch.diag(self.stiffness.sum(0)) - self.stiffness

    @property
    def log_z(self) -> float:
        """log ∫ exp(-u) over the mean-free subspace: its N-1 eigenvalues multiply to N times the weighted
        number of spanning trees, which is any cofactor of the Laplacian (Kirchhoff's theorem)."""
        n, d = self.event_shape
        log_trees = float(torch.logdet(self.laplacian[1:, 1:]))
        return 0.5 * d * ((n - 1) * math.log(2 * math.pi) - math.log(n) - log_trees)

    def energy(self, x: Tensor) -> Tensor:
        apart = x.to(torch.float64) - self.rest
        pairs = apart[:, :, None] - apart[:, None]
        return 0.25 * (self.stiffness * pairs.square().sum(-1)).sum((1, 2))

    def energy_and_force(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return _by_autograd(self.energy, x)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n exact conformations ``(n, N, D)`` with their centroid at 0."""
        values, vectors = torch.linalg.eigh(self.laplacian)
        width = torch.where(values > 1e-9 * values[-1], values, math.inf).rsqrt()
        noise = torch.randn(n, *self.event_shape, generator=generator, dtype=torch.float64)
        return (vectors * width) @ noise + self.rest - self.rest.mean(0)


class Isomers:
    """A cluster with several structures: exp(-u) = Σ_a c_a exp(-u_a) of spring networks; not Gaussian.

    Every blurred rung in mean-free coordinates is a known mixture, log Z = log Σ_a c_a Z_a is exact.
    """

    def __init__(self, log_weights: list[float], networks: list[SpringNetwork]) -> None:
        self.log_weights = torch.tensor(log_weights, dtype=torch.float64)
        self.networks = networks
        self.event_shape = networks[0].event_shape

    @property
    def _log_parts(self) -> Tensor:
        return self.log_weights + torch.tensor([network.log_z for network in self.networks])

    @property
    def log_z(self) -> float:
        return float(torch.logsumexp(self._log_parts, 0))

    def energy(self, x: Tensor) -> Tensor:
        energies = torch.stack([network.energy(x) for network in self.networks], -1)
        return -torch.logsumexp(self.log_weights - energies, -1)

    def energy_and_force(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return _by_autograd(self.energy, x)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n exact conformations ``(n, N, D)`` with their centroid at 0."""
        which = torch.multinomial(self._log_parts.softmax(0), n, replacement=True, generator=generator)
        drawn = torch.stack([network.sample(n, generator) for network in self.networks])
        return drawn[which, torch.arange(n)]

    def rungs(self, coordinates: MeanFreeCoordinates) -> GaussianMixtureModel:
        """The density in z and all its blurred rungs, normalised."""
        basis, (_, d) = helmert(self.event_shape[0]) / coordinates.scale, self.event_shape
        means = torch.stack([(basis @ network.rest).flatten() for network in self.networks])
        precisions = [basis @ network.laplacian @ basis.T * coordinates.scale**4 for network in self.networks]
        covariances = [
            torch.kron(p.inverse().contiguous(), torch.eye(d, dtype=torch.float64)) for p in precisions
        ]
        return GaussianMixtureModel(self._log_parts.softmax(0), means, torch.stack(covariances))


def _by_autograd(energy: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        x = x.detach().to(torch.float64).requires_grad_(True)
        value = energy(x)
        (gradient,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), -gradient
