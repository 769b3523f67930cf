"""What an energy model is, and the score that follows from it."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Protocol, Self, TypeGuard, runtime_checkable

import torch
from torch import Tensor, nn

__all__ = [
    "EnergyModel",
    "Network",
    "ParticleModel",
    "ScoredModel",
    "is_particle_model",
    "is_scored_model",
    "log_density_and_score",
    "mean_of_equal_axes",
]


@runtime_checkable
class EnergyModel(Protocol):
    """Unnormalised log densities of all rungs: log p̃(z, σ) = -E(z, σ), with z ``(B, d)``, σ ``(B,)``.

    ``periodic`` is bool ``(d,)``. A σ of shape ``(1,)`` stands for the whole batch.
    """

    periodic: Tensor

    def log_density(self, z: Tensor, sigma: Tensor) -> Tensor:
        """Unnormalised log density ``(B,)``, differentiable in z."""
        ...


class ScoredModel(EnergyModel, Protocol):
    """An energy model that computes its score faster than by differentiating ``log_density``."""

    def log_density_and_score(
        self, z: Tensor, sigma: Tensor, *, create_graph: bool = False
    ) -> tuple[Tensor, Tensor]:
        """As the function :func:`log_density_and_score`."""
        ...


class ParticleModel(EnergyModel, Protocol):
    """An energy model on mean-free coordinates that has the symmetry of its particles.

    ``log_density`` does not change when all particles are turned or reflected, or when particles of equal
    type are exchanged. So no axis of z is special: what is measured per axis is the same for all of them.

    ``event_shape`` is (N, D); ``types`` is int64 ``(N,)``, the same number for equal particles. The latents
    are those of :class:`bgdiff.coordinates.MeanFreeCoordinates`, z ``(B, (N-1)·D)``; no axis is periodic.
    """

    event_shape: tuple[int, int]
    types: Tensor


class Network(nn.Module, ABC):
    """An :class:`EnergyModel` with parameters, which can be stored.

    ``kind`` is its name in descriptions and in the settings (``network.kind``).
    """

    kind: ClassVar[str]
    periodic: Tensor

    @abstractmethod
    def log_density(self, z: Tensor, sigma: Tensor) -> Tensor:
        """Unnormalised log p̃(z, σ) ``(B,)`` for z ``(B, d)``, σ ``(B,)`` or ``(1,)``."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """JSON-able description with its ``kind``, from which :meth:`from_description` rebuilds an
        untrained copy."""

    @classmethod
    @abstractmethod
    def from_description(cls, description: dict[str, Any]) -> Self:
        """An untrained network of the described shape."""


def is_scored_model(model: EnergyModel) -> TypeGuard[ScoredModel]:
    """Whether a model has a way of its own to its score.

    Like :func:`is_particle_model` instead of ``isinstance``, which from Python 3.12 on does not see the
    buffers of a module.
    """
    return callable(getattr(model, "log_density_and_score", None))


def is_particle_model(model: EnergyModel) -> TypeGuard[ParticleModel]:
    """Whether a model has the symmetry of particles."""
    return hasattr(model, "event_shape") and hasattr(model, "types")


def log_density_and_score(
    model: EnergyModel, z: Tensor, sigma: Tensor, *, create_graph: bool = False
) -> tuple[Tensor, Tensor]:
    """Log density ``(B,)`` and score ∇_z log p̃ ``(B, d)``.

    By automatic differentiation, or by the model's own method of this name where it knows a faster way. With
    ``create_graph`` both stay differentiable in the model's parameters (for training), though not always in
    z; without it both are detached.
    """
    if is_scored_model(model):
        return model.log_density_and_score(z, sigma, create_graph=create_graph)
    with torch.enable_grad():
        z = z.detach().requires_grad_(True)
        value = model.log_density(z, sigma)
        (score,) = torch.autograd.grad(value.sum(), z, create_graph=create_graph)
    return (value, score) if create_graph else (value.detach(), score.detach())


def mean_of_equal_axes(model: EnergyModel, values: Tensor) -> Tensor:
    """Values per axis ``(…, d)``, averaged over the axes where the model's symmetry makes them equal.

    Sampling errors that differ from axis to axis would break the symmetry of all that is built on them.
    """
    if is_particle_model(model):
        return values.mean(-1, keepdim=True).expand_as(values).contiguous()
    return values
