"""Free energies in kT, each with an uncertainty."""

from bgdiff.free_energy.estimate import EmptyBasinError, Estimate, ZeroWeightsError
from bgdiff.free_energy.importance import expectation, free_energy_difference, log_z
from bgdiff.free_energy.pooling import PooledSets, WeightedSet

__all__ = [
    "EmptyBasinError",
    "Estimate",
    "PooledSets",
    "WeightedSet",
    "ZeroWeightsError",
    "expectation",
    "free_energy_difference",
    "log_z",
]
