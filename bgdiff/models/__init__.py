"""Time-dependent energy models."""

from bgdiff.models.analytic import GaussianMixtureModel, GaussianModel
from bgdiff.models.base import (
    EnergyModel,
    Network,
    ParticleModel,
    ScoredModel,
    log_density_and_score,
    mean_of_equal_axes,
)
from bgdiff.models.choose import make_network, network_from_description
from bgdiff.models.ebm import EnergyNetwork, NetworkShape
from bgdiff.models.particles import ParticleNetwork, ParticleShape

__all__ = [
    "EnergyModel",
    "EnergyNetwork",
    "GaussianMixtureModel",
    "GaussianModel",
    "Network",
    "NetworkShape",
    "ParticleModel",
    "ParticleNetwork",
    "ParticleShape",
    "ScoredModel",
    "log_density_and_score",
    "make_network",
    "mean_of_equal_axes",
    "network_from_description",
]
