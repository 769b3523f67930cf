"""Free energies in kT, each with an uncertainty."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bgdiff.free_energy.estimate import (
    EmptyBasinError,
    Estimate,
    NoOverlapError,
    NotConvergedError,
    ZeroWeightsError,
)
from bgdiff.free_energy.importance import expectation, free_energy_difference, log_z
from bgdiff.free_energy.pooling import PooledSets, WeightedSet

if TYPE_CHECKING:
    from bgdiff.free_energy.bennett import bar
    from bgdiff.free_energy.bootstrap import block_bootstrap, effective_subsample
    from bgdiff.free_energy.integration import thermodynamic_integration
    from bgdiff.free_energy.multistate import Multistate, mbar
    from bgdiff.free_energy.perturbation import fep, fep_reverse
    from bgdiff.free_energy.profile import FreeEnergyProfile, free_energy_profile
    from bgdiff.free_energy.temperature import (
        at_temperature,
        temperature_difference,
        temperature_reach,
        temperature_scan,
    )

__all__ = [
    "EmptyBasinError",
    "Estimate",
    "FreeEnergyProfile",
    "Multistate",
    "NoOverlapError",
    "NotConvergedError",
    "PooledSets",
    "WeightedSet",
    "ZeroWeightsError",
    "at_temperature",
    "bar",
    "block_bootstrap",
    "effective_subsample",
    "expectation",
    "fep",
    "fep_reverse",
    "free_energy_difference",
    "free_energy_profile",
    "log_z",
    "mbar",
    "temperature_difference",
    "temperature_reach",
    "temperature_scan",
    "thermodynamic_integration",
]

_MODULES = {
    "FreeEnergyProfile": "profile",
    "Multistate": "multistate",
    "at_temperature": "temperature",
    "bar": "bennett",
    "block_bootstrap": "bootstrap",
    "effective_subsample": "bootstrap",
    "fep": "perturbation",
    "fep_reverse": "perturbation",
    "free_energy_profile": "profile",
    "mbar": "multistate",
    "temperature_difference": "temperature",
    "temperature_reach": "temperature",
    "temperature_scan": "temperature",
    "thermodynamic_integration": "integration",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
