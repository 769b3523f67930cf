"""Time-dependent energy models."""

from bgdiff.models.analytic import GaussianMixtureModel, GaussianModel
from bgdiff.models.base import EnergyModel, log_density_and_score
from bgdiff.models.ebm import EnergyNetwork, NetworkShape

__all__ = [
    "EnergyModel",
    "EnergyNetwork",
    "GaussianMixtureModel",
    "GaussianModel",
    "NetworkShape",
    "log_density_and_score",
]
