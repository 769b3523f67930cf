"""What is minimised: terms of the loss, each known by a name in ``training.objectives``.

The names below are imported from their modules when they are first used, so that settings can be checked
without loading torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bgdiff.objectives.base import Objective, Options, Problem, Setup
    from bgdiff.objectives.batches import Batch
    from bgdiff.objectives.registry import OBJECTIVES, Entry, make_objective, objective_class

__all__ = [
    "OBJECTIVES",
    "Batch",
    "Entry",
    "Objective",
    "Options",
    "Problem",
    "Setup",
    "make_objective",
    "objective_class",
]

_MODULES = {
    "OBJECTIVES": "registry",
    "Batch": "batches",
    "Entry": "registry",
    "Objective": "base",
    "Options": "base",
    "Problem": "base",
    "Setup": "base",
    "make_objective": "registry",
    "objective_class": "registry",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'bgdiff.objectives' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
