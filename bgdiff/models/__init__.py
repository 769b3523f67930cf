"""Time-dependent energy models, and compositions of them."""

from bgdiff.models.analytic import GaussianMixtureModel, GaussianModel
from bgdiff.models.base import (
    EnergyModel,
    Network,
    ParticleModel,
    ScoredModel,
    is_particle_model,
    is_scored_model,
    log_density_and_score,
    mean_of_equal_axes,
)
from bgdiff.models.choose import make_network, network_from_description
from bgdiff.models.composition import (
    Composition,
    Mixture,
    Product,
    mixture,
    negated,
    product,
    tempered,
)
from bgdiff.models.composition_parts import ChangedLatents, Potential, RungTarget
from bgdiff.models.ebm import EnergyNetwork, NetworkShape
from bgdiff.models.particles import ParticleNetwork, ParticleShape
from bgdiff.models.quadratic import QuadraticNetwork

__all__ = [
    "ChangedLatents",
    "Composition",
    "EnergyModel",
    "EnergyNetwork",
    "GaussianMixtureModel",
    "GaussianModel",
    "Mixture",
    "Network",
    "NetworkShape",
    "ParticleModel",
    "ParticleNetwork",
    "ParticleShape",
    "Potential",
    "Product",
    "QuadraticNetwork",
    "RungTarget",
    "ScoredModel",
    "is_particle_model",
    "is_scored_model",
    "log_density_and_score",
    "make_network",
    "mean_of_equal_axes",
    "mixture",
    "negated",
    "network_from_description",
    "product",
    "tempered",
]
