"""A learned energy of particles: invariant under rotations, reflections and exchange of equal particles."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from bgdiff.models.base import Network
from bgdiff.models.pairs import N_NOISE_FEATURES, PairGeometry, noise_features

__all__ = ["ParticleNetwork", "ParticleShape"]


@dataclass(frozen=True)
class ParticleShape:
    """Sizes of the network; see :class:`ParticleNetwork` for what they count."""

    radial: int = 32
    reach: float = 5.5
    scalars: int = 32
    vectors: int = 8
    tensors: int = 4
    messages: int = 16
    width: int = 64
    depth: int = 2
    embedding: int = 64


class ParticleNetwork(Network):
    """Time-dependent energy of particles on mean-free latents: pairs, surroundings and messages.

    With scaled particles y = Hᵀ z/√(1+σ²) (H: Helmert basis), their distances r_ij and directions r̂_ij,

        log p̃(z, σ) = log N(z; 0, 1+σ²) - a(σ) [Σ_{i<j} (φ_σ(r_ij) + core_σ(r_ij)) + Σ_i e_i + q(σ) |y|²].

    φ and all other functions of a distance are sums of Gaussians whose weights a network of log σ gives: at
    every noise level another pair potential. Neighbouring Gaussians are much alike, so that the weights of φ
    would be learned slowly: the network gives those of :meth:`PairGeometry.orthonormal` sums.
    core = exp(α - k (r - 1)), a parabola from e² up, repels where no data are. e_i is a
    residual network of particle i's surroundings (as in the embedded-atom method, Daw & Baskes, Phys. Rev. B
    29, 6443, 1984, and its angular extensions): ``scalars`` sums Σ_j G_c(r_ij), squared lengths of
    ``vectors`` sums Σ_j G_c(r_ij) r̂_ij, squared norms of ``tensors`` traceless sums of r̂_ij r̂_ijᵀ, and after
    the first block ``messages`` Σ_j G_c(r_ij) m_c(j), where m(j) is learned of the neighbour's surroundings.

    a(σ) = (1+σ²)^(-1/2) - (1+σ_max²)^(-1/2) vanishes at the top rung, the normalised prior, and all but the
    core starts at zero, close to the Gaussian. Where particles differ, so do the functions of their pairs.
    A molecule's two mirror images have the same energy here, as they have in nature.

    All large arrays are linear in the radial functions of the pairs, which depend on no parameter. The score
    therefore needs automatic differentiation only through the particles' networks, and training only once
    through everything: see :meth:`log_density_and_score`.

    Args:
        event_shape: (N, D).
        types: int64 ``(N,)``, the same number for particles that may be exchanged.
        scale: length of one unit of z, that of the coordinates.
        sigma_min, sigma_max: noise of the lowest and of the top rung.
        orthonormal: learn φ in the orthonormal sums.
    """

    kind = "particles"
    types: Tensor
    _condition: Tensor
    _pair_kind: Tensor
    _number: Tensor

    def __init__(
        self,
        event_shape: tuple[int, int],
        types: Tensor,
        scale: float,
        sigma_min: float,
        sigma_max: float,
        shape: ParticleShape,
        *,
        orthonormal: bool = True,
    ) -> None:
        super().__init__()
        n, dim = self.event_shape = event_shape
        self.orthonormal = orthonormal
        self.scale, self.shape = scale, shape
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
        self.register_buffer("types", types.clone())
        self.register_buffer("periodic", torch.zeros((n - 1) * dim, dtype=torch.bool), persistent=False)
        self.pairs = PairGeometry(event_shape, shape.radial, shape.reach)
        self._sizes = (1, shape.scalars, shape.vectors, shape.tensors, shape.messages)
        channels, width, embedding = sum(self._sizes), shape.width, shape.embedding
        condition = self.pairs.orthonormal() if orthonormal else torch.eye(shape.radial)
        self.register_buffer("_condition", condition, persistent=False)
        self.embed = nn.Sequential(
            nn.Linear(N_NOISE_FEATURES, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU()
        )
        self.weigh = nn.Linear(embedding, shape.radial * channels)
        self.core = nn.Linear(embedding, 2)
        self.quadratic = nn.Linear(embedding, 1)
        self.enter = nn.Linear(shape.scalars + shape.vectors + shape.tensors, width)
        self.inner = nn.ModuleList(nn.Linear(width, width) for _ in range(shape.depth))
        self.outer = nn.ModuleList(nn.Linear(width, width) for _ in range(shape.depth))
        self.modulate = nn.ModuleList(nn.Linear(embedding, 2 * width) for _ in range(shape.depth))
        self.send = nn.Linear(width, shape.messages)
        self.receive = nn.Linear(shape.messages, width)
        self.leave = nn.Linear(width, 1, bias=False)
        self._make_kinds(types, channels)
        self._initialise()

    def log_density(self, z: Tensor, sigma: Tensor) -> Tensor:
        parts = self._parts(z)
        if torch.is_grad_enabled() or len(parts) == 1:
            return self._log_density(z, sigma)
        return torch.cat([self._log_density(z[part], _of(sigma, part)) for part in parts])

    def log_density_and_score(
        self, z: Tensor, sigma: Tensor, *, create_graph: bool = False
    ) -> tuple[Tensor, Tensor]:
        """log p̃ ``(B,)`` and its gradient ``(B, d)``, as automatic differentiation gives them, but faster.

        The chain rule is written out from the particles' networks to the latents. With ``create_graph`` both
        are differentiable in the parameters, though not in z.
        """
        parts = self._parts(z)
        if create_graph or len(parts) == 1:
            return self._value_and_score(z.detach(), sigma, create_graph)
        done = [self._value_and_score(z[part].detach(), _of(sigma, part), False) for part in parts]
        values, scores = zip(*done, strict=True)
        return torch.cat(values), torch.cat(scores)

    def _log_density(self, z: Tensor, sigma: Tensor) -> Tensor:
        z, sigma = self._cast(z, sigma)
        spread = 1 + sigma**2
        y = z * spread.rsqrt()[:, None]
        level = self.embed(noise_features(sigma, self.sigma_min, self.sigma_max))
        direction, distance = self.pairs.directions(y)
        radial = self.pairs.radial(distance)
        own, *channels = self._project(radial, level)
        learned = own.sum((1, 2)) + self._core(distance, level)[0].sum(1)
        learned = learned + self._surroundings(channels, direction, level)
        return self._total(y, spread, level, learned)

    def _value_and_score(self, z: Tensor, sigma: Tensor, create_graph: bool) -> tuple[Tensor, Tensor]:
        z, sigma = self._cast(z, sigma)
        spread = 1 + sigma**2
        with torch.no_grad():
            y = z * spread.rsqrt()[:, None]
            direction, distance = self.pairs.directions(y)
            radial, slope = self.pairs.radial_and_slope(distance)
        with torch.set_grad_enabled(create_graph):
            level = self.embed(noise_features(sigma, self.sigma_min, self.sigma_max))
            (own, *channels), (own_slope, *slopes) = self._project(radial, level), self._project(slope, level)
            core, core_slope = self._core(distance, level)
            with torch.enable_grad():
                inputs = channels if create_graph else [c.detach().requires_grad_(True) for c in channels]
                inputs = [*inputs, direction.detach().requires_grad_(True)]
                many = self._surroundings(inputs[:-1], inputs[-1], level)
                grads = torch.autograd.grad(
                    many.sum(), inputs, create_graph=create_graph, allow_unused=True, materialize_grads=True
                )
            along = own_slope[..., 0] + core_slope
            for grad, channel_slope in zip(grads[:-1], slopes, strict=True):
                along = along + (grad * channel_slope).sum(-1)
            turn = grads[-1]  # with respect to directions, of which ∂r̂/∂x is (1 - r̂ r̂ᵀ)/r
            across = (turn - (turn * direction).sum(-1, keepdim=True) * direction) / distance[..., None]
            force = self.pairs.gather(along[..., None] * direction + across)
            gradient = force + 2 * self.quadratic(level) * y
            score = (-y - self._amplitude(spread)[:, None] * gradient) * spread.rsqrt()[:, None]
            learned = own.sum((1, 2)) + core.sum(1) + many
            value = self._total(y, spread, level, learned)
        return (value, score) if create_graph else (value.detach(), score.detach())

    def _project(self, radial: Tensor, level: Tensor) -> tuple[Tensor, ...]:
        """Learned functions of the distances, ``(B, P, channels)``, by their use."""
        weight = self.weigh(level).reshape(len(level), self.shape.radial, -1)
        weight = torch.cat([self._condition.to(weight) @ weight[..., :1], weight[..., 1:]], -1)
        functions = radial @ (weight[0] if len(weight) == 1 else weight)
        if self.n_pair_kinds > 1:
            own = (radial.transpose(0, 1) @ self.kind_weights[self._pair_kind]).transpose(0, 1)
            functions = functions + self.kind_gates(level)[:, None] * own
        return functions.split(self._sizes, -1)

    def _surroundings(self, channels: list[Tensor], direction: Tensor, level: Tensor) -> Tensor:
        """Σ_i e_i ``(B,)``."""
        scalars, vectors, tensors, messages = channels
        n_batch, n = len(scalars), self.event_shape[0]
        pairs = self.pairs
        features = [0.5 * pairs.collect(scalars)]
        if self.shape.vectors:
            sums = pairs.collect_signed((vectors[..., None] * direction[..., None, :]).flatten(2))
            features.append(_SECOND_ORDER * sums.reshape(n_batch, n, self.shape.vectors, -1).square().sum(-1))
        if self.shape.tensors:
            products, dim = _products(direction), self.event_shape[1]
            sums = pairs.collect((tensors[..., None] * products[..., None, :]).flatten(2))
            sums = sums.reshape(n_batch, n, self.shape.tensors, -1)
            trace = sums[..., :dim].sum(-1)
            features.append(_SECOND_ORDER * (sums.square().sum(-1) - trace.square() / dim))
        hidden = self.enter(torch.cat(features, -1))
        if self.n_types > 1:
            hidden = hidden + self.type_bias[self._number]
        for block in range(self.shape.depth):
            hidden = self._block(block, hidden, level)
            if block == 0 and self.shape.messages:
                sent = self.send(silu(hidden))
                # Σ_j G_ij m_j, from Σ_j G_ij (m_i + m_j) over the pairs of i
                heard = pairs.collect(messages * pairs.both(sent)) - pairs.collect(messages) * sent
                hidden = hidden + _SECOND_ORDER * self.receive(heard)
        energy: Tensor = self.leave(silu(hidden))
        return energy.sum((1, 2))

    def _block(self, index: int, hidden: Tensor, level: Tensor) -> Tensor:
        scale, shift = self.modulate[index](level)[:, None].chunk(2, -1)
        inside = self.inner[index](silu(hidden)) * (1 + scale) + shift
        out: Tensor = hidden + self.outer[index](silu(inside))
        return out

    def _core(self, distance: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """The repulsive core ``(B, P)`` and its derivative.

        Above exp(_HIGHEST) a parabola goes on, with two continuous derivatives: -log of a density that ends
        and is blurred is one, and rare close pairs of noised points would otherwise have exponential forces.
        """
        height, steepness = self.core(level).split(1, -1)
        steepness = 4 + 5 * steepness
        exponent = height - 4 - steepness * (distance - 1)
        bounded = exponent.clamp(max=_HIGHEST)
        rise, beyond = torch.exp(bounded), exponent - bounded
        return rise * (1 + beyond + 0.5 * beyond.square()), -steepness * rise * (1 + beyond)

    def _total(self, y: Tensor, spread: Tensor, level: Tensor, learned: Tensor) -> Tensor:
        square = y.square().sum(-1)
        gauss = -0.5 * square - 0.5 * y.shape[1] * torch.log(2 * math.pi * spread)
        total: Tensor = learned + self.quadratic(level)[:, 0] * square
        return gauss - self._amplitude(spread) * total

    def _amplitude(self, spread: Tensor) -> Tensor:
        return spread.rsqrt() - 1 / math.sqrt(1 + self.sigma_max**2)

    def _cast(self, z: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        dtype = self.leave.weight.dtype
        return z.to(dtype), sigma.to(dtype)

    def _parts(self, z: Tensor) -> list[slice]:
        """Parts of a batch whose pairs fit into the processor's caches, and into memory however many."""
        size = max(1, _PAIRS_AT_ONCE // self.pairs.n_pairs)
        return [slice(start, start + size) for start in range(0, max(1, len(z)), size)]

    def _make_kinds(self, types: Tensor, channels: int) -> None:
        """What particles and pairs of different types need."""
        first, second = torch.triu_indices(len(types), len(types), 1)
        unique, number = torch.unique(types, return_inverse=True)
        kinds = torch.stack([number[first], number[second]], -1).sort(-1).values
        _, pair_kind = torch.unique(kinds, dim=0, return_inverse=True)
        self.register_buffer("_pair_kind", pair_kind, persistent=False)
        self.n_types, self.n_pair_kinds = len(unique), int(pair_kind.max()) + 1
        if self.n_pair_kinds > 1:
            self.kind_weights = nn.Parameter(torch.zeros(self.n_pair_kinds, self.shape.radial, channels))
            self.kind_gates = nn.Linear(self.shape.embedding, channels)
        if self.n_types > 1:
            self.type_bias = nn.Parameter(0.5 * torch.randn(self.n_types, self.shape.width))
            self.register_buffer("_number", number, persistent=False)

    @torch.no_grad()
    def _initialise(self) -> None:
        """Functions of distances are random; the pair potential and all outputs start at zero."""
        shape = self.shape
        weight = self.weigh.weight.view(shape.radial, -1, shape.embedding)
        bias = self.weigh.bias.view(shape.radial, -1)
        weight.mul_(0.3)
        bias.normal_(0, 1 / math.sqrt(shape.radial))
        weight[:, 0], bias[:, 0] = 0, 0
        for layer in (*self.modulate, self.core, self.quadratic):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.leave.weight)

    def describe(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "event_shape": list(self.event_shape),
            "types": self.types.tolist(),
            "scale": self.scale,
            "sigma_min": self.sigma_min,
            "sigma_max": self.sigma_max,
            "shape": asdict(self.shape),
            "orthonormal": self.orthonormal,
        }

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> "ParticleNetwork":
        n, dim = description["event_shape"]
        return cls(
            (n, dim),
            torch.tensor(description["types"], dtype=torch.int64),
            description["scale"],
            description["sigma_min"],
            description["sigma_max"],
            ParticleShape(**description["shape"]),
            orthonormal=description.get("orthonormal", False),  # the first networks had none of them
        )


def _products(direction: Tensor) -> Tensor:
    """Components of r̂ r̂ᵀ, ``(B, P, D(D+1)/2)``: the diagonal, then √2 times the others."""
    axes = range(direction.shape[-1])
    diagonal = [direction[..., a].square() for a in axes]
    others = [math.sqrt(2) * direction[..., a] * direction[..., b] for a in axes for b in axes if b < a]
    return torch.stack([*diagonal, *others], -1)


def _of(sigma: Tensor, part: slice) -> Tensor:
    return sigma if len(sigma) == 1 else sigma[part]


_SECOND_ORDER = 0.3  # squares and messages of untrained surroundings are some three times larger than sums
_HIGHEST = 2.0  # of the exponent; pairs of data hardly ever reach it
_PAIRS_AT_ONCE = 40_000
