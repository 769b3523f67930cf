"""The part of bgflow's interface that bgdiff.interop.bgflow relies on, for machines without bgflow.

Written from that interface, for tests only: names, shapes and constants are bgflow's, including what is
missing in its energies. The tests load this file as a module named ``bgflow``.
"""

import math

import torch
from torch import nn


class Energy(nn.Module):
    """``energy(*x)`` is ``(..., 1)`` for events of the given shapes."""

    def __init__(self, dim) -> None:
        super().__init__()
        if isinstance(dim, int):
            shapes = [(dim,)]
        elif isinstance(dim[0], int):
            shapes = [tuple(dim)]
        else:
            shapes = [tuple(one) for one in dim]
        self.event_shapes = [torch.Size(one) for one in shapes]

    @property
    def event_shape(self):
        (shape,) = self.event_shapes
        return shape

    @property
    def dim(self):
        return self.event_shape.numel()

    def energy(self, *x, temperature=1.0):
        assert len(x) == len(self.event_shapes)
        for one, shape in zip(x, self.event_shapes, strict=True):
            assert one.shape[one.ndim - len(shape) :] == shape
        return self._energy(*x) / temperature

    def force(self, *x, temperature=1.0):
        with torch.enable_grad():
            x = [one.requires_grad_(True) for one in x]
            total = self.energy(*x, temperature=temperature).sum()
            forces = tuple(-one for one in torch.autograd.grad(total, x, create_graph=True))
        return forces[0] if len(forces) == 1 else forces


class Sampler(nn.Module):
    """``sample(n)`` is a tensor of n events, or a tuple of such tensors."""

    def sample(self, n_samples, temperature=1.0):
        samples = self._sample(n_samples)
        return samples if torch.is_tensor(samples) or len(samples) > 1 else samples[0]


class Flow(nn.Module):
    """``flow(*x)`` and ``flow(*z, inverse=True)`` are ``(*outputs, dlogp)``."""

    def forward(self, *x, inverse=False, **settings):
        return self._inverse(*x, **settings) if inverse else self._forward(*x, **settings)


class SequentialFlow(Flow):
    def __init__(self, blocks) -> None:
        super().__init__()
        self._blocks = nn.ModuleList(blocks)

    def forward(self, *x, inverse=False, **settings):
        total = 0.0
        for block in reversed(self._blocks) if inverse else self._blocks:
            *x, dlogp = block(*x, inverse=inverse, **settings)
            total = total + dlogp
        return (*x, total)


class NormalDistribution(Energy, Sampler):
    def __init__(self, dim, mean=None) -> None:
        super().__init__(dim)
        self.register_buffer("_mean", torch.zeros(dim) if mean is None else mean)

    def _energy(self, x):
        return 0.5 * (x - self._mean).square().sum(-1, keepdim=True) + self.dim / 2 * math.log(2 * math.pi)

    def _sample(self, n):
        return self._mean + torch.randn(n, self.dim, dtype=self._mean.dtype)


class MeanFreeNormalDistribution(Energy, Sampler):
    def __init__(self, dim, n_particles, std=1.0, two_event_dims=True) -> None:
        super().__init__([n_particles, dim // n_particles] if two_event_dims else dim)
        self._n_particles, self._spacial_dims = n_particles, dim // n_particles
        self._flat = not two_event_dims
        self.register_buffer("_std", torch.as_tensor(std))

    def _centred(self, x):
        x = x.reshape(-1, self._n_particles, self._spacial_dims)
        return x - x.mean(1, keepdim=True)

    def _energy(self, x):
        return 0.5 * self._centred(x).flatten(1).square().sum(-1, keepdim=True) / self._std**2

    def _sample(self, n):
        noise = torch.randn(n, self._n_particles, self._spacial_dims, dtype=self._std.dtype)
        x = self._centred(self._std * noise)
        return x.flatten(1) if self._flat else x


class TruncatedNormalDistribution(Energy, Sampler):
    def __init__(self, mu, sigma, lower_bound, upper_bound) -> None:
        super().__init__(list(mu.shape))
        self.mu, self.sigma = mu, sigma.expand(mu.shape)
        self.lower_bound, self.upper_bound = lower_bound.expand(mu.shape), upper_bound.expand(mu.shape)

    def _energy(self, x):
        if (x < self.lower_bound).any() or (x > self.upper_bound).any():
            raise ValueError("out of bounds")
        return 0.5 * ((x - self.mu) / self.sigma).square().sum(-1, keepdim=True)

    def _sample(self, n):
        low, high = (
            torch.special.ndtr((bound - self.mu) / self.sigma)
            for bound in (self.lower_bound, self.upper_bound)
        )
        uniform = torch.rand(n, *self.mu.shape, dtype=self.mu.dtype)
        return self.mu + self.sigma * torch.special.ndtri(low + (high - low) * uniform)


class UniformDistribution(Energy, Sampler):
    def __init__(self, low, high, tol=1e-5) -> None:
        super().__init__(list(low.shape))
        self.uniform = nn.Module()
        self.uniform.low, self.uniform.high, self.uniform.tol = low, high, tol

    def _energy(self, x):
        volume = (self.uniform.high - self.uniform.low).log().sum()
        return volume.expand(*x.shape[:-1], 1)  # outside of the box too

    def _sample(self, n):
        low, high = self.uniform.low, self.uniform.high
        return low + (high - low) * torch.rand(n, *low.shape, dtype=low.dtype)


class CircularNormalDistribution(Energy, Sampler):
    """Von Mises, in units of the circle; its energy has no last axis, and the density of radians."""

    def __init__(self, mu, sigma) -> None:
        super().__init__(list(mu.shape))
        self._angles = torch.distributions.VonMises(2 * math.pi * (mu - 0.5), (2 * math.pi * sigma) ** -2)

    def _energy(self, x):
        return -self._angles.log_prob(2 * math.pi * (x - 0.5)).sum(-1)

    def _sample(self, n):
        return self._angles.sample((n,)) / (2 * math.pi) + 0.5


class MixtureDistribution(Energy, Sampler):
    def __init__(self, components, unnormed_log_weights) -> None:
        super().__init__(components[0].dim)
        self._components, self._logits = nn.ModuleList(components), unnormed_log_weights

    @property
    def _log_weights(self):
        return self._logits.log_softmax(-1)

    def _energy(self, x):
        energies = torch.stack([part.energy(x) for part in self._components], -1)
        return -torch.logsumexp(self._log_weights - energies, -1)

    def _sample(self, n):
        which = torch.multinomial(self._log_weights.exp(), n, replacement=True)
        drawn = torch.stack([part.sample(n) for part in self._components])
        return drawn[which, torch.arange(n)]


class ProductEnergy(Energy):
    def __init__(self, components) -> None:
        super().__init__([list(one.event_shape) for one in components])
        self._components, self._cat_dim = nn.ModuleList(components), None

    def _energy(self, *x):
        return sum(part.energy(one) for part, one in zip(self._components, x, strict=True))

    def __iter__(self):
        return iter(self._components)


class ProductDistribution(Energy, Sampler):
    def __init__(self, components) -> None:
        super().__init__([list(one.event_shape) for one in components])
        self._delegate_energy = ProductEnergy(components)

    def _energy(self, *x):
        return self._delegate_energy._energy(*x)

    def _sample(self, n):
        return tuple(part._sample(n) for part in self._delegate_energy)


class _BridgeEnergy(Energy):
    """Energies of another program, remembered by the text of the batch."""

    def __init__(self, bridge) -> None:
        super().__init__([bridge.n_atoms, 3])
        self._bridge, self._last_batch = bridge, None

    def _energy(self, x):
        if hash(str(x)) == self._last_batch:
            return self._bridge.last_energies
        self._last_batch = hash(str(x))
        return self._bridge.evaluate(x)[0]


class BoltzmannGenerator(Energy, Sampler):
    def __init__(self, prior, flow, target) -> None:
        super().__init__([list(shape) for shape in (target or prior).event_shapes])
        self._prior, self._flow, self._target = prior, flow, target

    @property
    def prior(self):
        return self._prior

    @property
    def flow(self):
        return self._flow

    def _pushed(self, n):
        z = self._prior.sample(n)
        z = (z,) if torch.is_tensor(z) else z
        *x, dlogp = self._flow(*z)
        return x, self._prior.energy(*z) + dlogp

    def sample(self, n_samples, with_energy=False):
        x, energy = self._pushed(n_samples)
        return (*x, energy) if with_energy else x[0]

    def energy(self, *x, temperature=1.0):
        *z, dlogp = self._flow(*x, inverse=True)
        return (self._prior.energy(*z) - dlogp) / temperature
