"""Molecular force fields evaluated for whole batches of conformations.

:func:`parse_system` turns an OpenMM System into tables; :class:`ForceFieldTarget` is their Boltzmann density,
evaluated by a compiled kernel or in torch. The names below are imported when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bgdiff.targets.forcefield.dense import dense_energies, dense_energy
    from bgdiff.targets.forcefield.kernel import (
        KernelEvaluator,
        KernelStatus,
        KernelUnavailable,
        kernel_status,
        load_kernel,
    )
    from bgdiff.targets.forcefield.parser import parse_system
    from bgdiff.targets.forcefield.tables import ForceFieldTables
    from bgdiff.targets.forcefield.target import ForceFieldTarget

__all__ = [
    "ForceFieldTables",
    "ForceFieldTarget",
    "KernelEvaluator",
    "KernelStatus",
    "KernelUnavailable",
    "dense_energies",
    "dense_energy",
    "kernel_status",
    "load_kernel",
    "parse_system",
]

_MODULES = {
    "ForceFieldTables": "tables",
    "ForceFieldTarget": "target",
    "KernelEvaluator": "kernel",
    "KernelStatus": "kernel",
    "KernelUnavailable": "kernel",
    "dense_energies": "dense",
    "dense_energy": "dense",
    "kernel_status": "kernel",
    "load_kernel": "kernel",
    "parse_system": "parser",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
