"""Boltzmann generators from time-dependent energy models.

Train on molecular dynamics, reweight exactly, report free energies with error bars. The names below
are imported from their modules when they are first used, so that ``import bgdiff`` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bgdiff.data.dataset import Dataset
    from bgdiff.errors import BgdiffError
    from bgdiff.generator import BoltzmannGenerator, Ensemble, Proposal, train
    from bgdiff.systems import System, list_systems, load_system

__version__ = "0.1.0"

__all__ = [
    "BgdiffError",
    "BoltzmannGenerator",
    "Dataset",
    "Ensemble",
    "Proposal",
    "System",
    "__version__",
    "list_systems",
    "load_system",
    "train",
]

_MODULES = {
    "BgdiffError": "bgdiff.errors",
    "BoltzmannGenerator": "bgdiff.generator",
    "Dataset": "bgdiff.data.dataset",
    "Ensemble": "bgdiff.generator",
    "Proposal": "bgdiff.generator",
    "System": "bgdiff.systems",
    "list_systems": "bgdiff.systems",
    "load_system": "bgdiff.systems",
    "train": "bgdiff.generator",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'bgdiff' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
