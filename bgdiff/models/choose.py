"""Which network fits a system, and networks from their descriptions."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bgdiff.coordinates import Coordinates, MeanFreeCoordinates
from bgdiff.errors import CheckpointError, ConfigError
from bgdiff.models.base import Network
from bgdiff.models.composition import Mixture, Product
from bgdiff.models.ebm import EnergyNetwork, NetworkShape
from bgdiff.models.particles import ParticleNetwork, ParticleShape
from bgdiff.models.quadratic import QuadraticNetwork

if TYPE_CHECKING:
    from bgdiff.config import NetworkConfig

__all__ = ["make_network", "network_from_description"]

_DENSE: dict[str, type[EnergyNetwork]] = {
    network.kind: network for network in (EnergyNetwork, QuadraticNetwork)
}
_KINDS: dict[str, type[Network]] = {
    **_DENSE,
    **{network.kind: network for network in (ParticleNetwork, Product, Mixture)},
}


def make_network(
    coordinates: Coordinates,
    particle_types: Tensor | None,
    sigma_min: float,
    sigma_max: float,
    settings: "NetworkConfig",
) -> Network:
    """An untrained network on latents of ``coordinates``; its weights are drawn from torch's own generator.

    Args:
        particle_types: int64 ``(N,)``, the same number for particles that may be exchanged; None if the
            system does not say. A network of particles then takes all of them for different.
        settings: kind and sizes.

    Raises:
        ConfigError: particles are asked for, but the coordinates are not mean-free.
    """
    mean_free = isinstance(coordinates, MeanFreeCoordinates)
    kind = settings.kind
    if kind == "auto":
        kind = "particles" if mean_free and particle_types is not None else "dense"
    if kind in _DENSE:
        shape = NetworkShape(settings.width, settings.depth, settings.harmonics)
        return _DENSE[kind](coordinates.periodic, sigma_min, sigma_max, shape)
    if not isinstance(coordinates, MeanFreeCoordinates):
        raise ConfigError(
            "network.kind: a network of particles needs mean-free coordinates, and this system has others; "
            "choose dense, quadratic or auto"
        )
    if particle_types is None:
        particle_types = torch.arange(coordinates.event_shape[0])
    return ParticleNetwork(
        coordinates.event_shape,
        particle_types,
        coordinates.scale,
        sigma_min,
        sigma_max,
        ParticleShape(**settings.particles.model_dump()),
    )


def network_from_description(description: dict[str, Any]) -> Network:
    """An untrained network as :meth:`Network.describe` described it.

    Raises:
        CheckpointError: it is of a kind that this version of bgdiff does not know.
    """
    kind = description.get("kind", EnergyNetwork.kind)  # the first format had no other kind
    if kind not in _KINDS:
        raise CheckpointError(f"there is no network of kind {kind!r}; known: {', '.join(_KINDS)}")
    return _KINDS[kind].from_description(description)
