r"""Which of bgflow's distributions are normalised, and by how much the others are off.

bgflow trains with energies, whose constants do not matter, so some of its priors leave them out. Weights need
them: log Z would be wrong by the constant. With energy E(z) and log C = log ∫ exp(-E) dz, log q = -E - log C:

- ``NormalDistribution``, ``UniformDistribution``, ``TorchDistribution``: log C = 0.
- ``MeanFreeNormalDistribution`` of N particles in D dimensions, on conformations whose centroid is 0:
  log C = ½ (N-1) D log(2πσ²), in the Euclidean volume of that subspace.
- ``TruncatedNormalDistribution`` on [a, b]: log C = Σ log(σ √(2π) [Φ((b-μ)/σ) - Φ((a-μ)/σ)]).
- ``CircularNormalDistribution``, a von Mises density of angles whose unit is the whole circle:
  log C = -d log 2π.
- products, mixtures and custom distributions follow from their parts.
"""

import math
from typing import Any

import torch
from torch import Tensor

__all__ = ["forget", "inside_support", "prior_log_z"]

_ORTHOGONAL = 1e-4


def prior_log_z(prior: Any) -> float | None:
    """log ∫ exp(-energy) of a bgflow distribution, in closed form; None for one that is not known here.

    A Boltzmann generator has that of its prior, as its flow conserves probability.
    """
    name = _name(prior)
    found: float | None = None
    if name == "NormalDistribution":
        found = _normal(prior)
    elif name in ("UniformDistribution", "TorchDistribution"):
        found = 0.0
    elif name == "MeanFreeNormalDistribution":
        free = (prior._n_particles - 1) * prior._spacial_dims
        found = 0.5 * free * math.log(2 * math.pi * float(prior._std) ** 2)
    elif name == "TruncatedNormalDistribution":
        found = _truncated(prior)
    elif name == "CircularNormalDistribution":
        found = -math.prod(prior.event_shape) * math.log(2 * math.pi)
    elif name in ("ProductEnergy", "ProductDistribution", "CustomDistribution"):
        found = _sum(_parts(prior))
    elif name == "MixtureDistribution":
        parts = [prior_log_z(part) for part in prior._components]
        if all(part is not None for part in parts):
            values = torch.tensor(parts, dtype=torch.float64)
            found = float(torch.logsumexp(prior._log_weights.detach().double() + values, 0))
    elif name == "BoltzmannGenerator":
        found = prior_log_z(prior.prior)
    return found


def inside_support(prior: Any, *z: Tensor) -> Tensor:
    """bool ``(B,)``: where the density of the prior is not zero.

    bgflow's ``UniformDistribution`` answers for points outside its box as if they were inside, and its
    ``TruncatedNormalDistribution`` does not answer at all.
    """
    name = _name(prior)
    inside = torch.ones(len(z[0]), dtype=torch.bool, device=z[0].device)
    if name == "UniformDistribution":
        box = prior._modules["uniform"]  # its own __getattr__ hides it
        low, high = box.low - box.tol, box.high + box.tol
        return ((z[0] >= low) & (z[0] <= high)).flatten(1).all(1)
    if name == "TruncatedNormalDistribution":
        return ((z[0] >= prior.lower_bound) & (z[0] <= prior.upper_bound)).flatten(1).all(1)
    if name in ("ProductEnergy", "ProductDistribution"):
        energy = prior if name == "ProductEnergy" else prior._delegate_energy
        if energy._cat_dim is not None:
            z = z[0].split(energy._lengths, dim=energy._cat_dim)
        for part, own in zip(energy._components, z, strict=True):
            inside = inside & inside_support(part, own)
    elif name == "CustomDistribution":
        inside = inside_support(prior._delegate_energy, *z)
    return inside


def forget(energy: Any) -> None:
    """Empty the caches of an energy.

    bgflow's energies that call other programs recognise a batch by ``hash(str(batch))``, and a tensor's text
    leaves out its middle: two batches that differ only there would get the energies of the first.
    """
    modules = energy.modules() if hasattr(energy, "modules") else [energy]
    for module in modules:
        if hasattr(module, "_last_batch"):
            module._last_batch = None


def _normal(prior: Any) -> float | None:
    if getattr(prior, "_has_cov", False):
        # eigenvectors of equal eigenvalues need not be orthogonal as bgflow computes them
        rotation = prior._rot.detach().double()
        eye = torch.eye(len(rotation), dtype=torch.float64, device=rotation.device)
        if float((rotation.T @ rotation - eye).abs().max()) > _ORTHOGONAL:
            return None
    return 0.0


def _truncated(prior: Any) -> float | None:
    mu, sigma, low, high = (
        value.detach().double() for value in (prior.mu, prior.sigma, prior.lower_bound, prior.upper_bound)
    )
    bounds = [torch.special.ndtr((bound - mu) / sigma) for bound in (low, high)]
    drawn = [getattr(prior, name, None) for name in ("_cdf_lower_bound", "_cdf_upper_bound")]
    if drawn[0] is not None and drawn[1] is not None:
        # of a learnable one, samples keep the bounds it began with
        moved = max(float((a - b).abs().max()) for a, b in zip(bounds, drawn, strict=True))
        if moved > _ORTHOGONAL:
            return None
    value = (sigma * math.sqrt(2 * math.pi) * (bounds[1] - bounds[0])).log()
    return float(value.expand(mu.shape).sum())


def _parts(prior: Any) -> list[Any]:
    return list(prior) if _name(prior) == "ProductEnergy" else [prior._delegate_energy]


def _sum(parts: list[Any]) -> float | None:
    values = [prior_log_z(part) for part in parts]
    return None if any(value is None for value in values) else float(sum(value or 0.0 for value in values))


def _name(prior: Any) -> str:
    """Name of the class if it is bgflow's own: what a subclass changes is not known."""
    kind = type(prior)
    return kind.__name__ if kind.__module__.split(".")[0] == "bgflow" else ""
