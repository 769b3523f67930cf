"""Which program evaluates a molecule's energies: the batched engine where it can, else OpenMM."""

import logging
from typing import Literal

import openmm
import torch

from bgdiff.errors import UnsupportedSystem
from bgdiff.targets.base import Target
from bgdiff.targets.openmm import OpenMMTarget

__all__ = ["Engine", "describe_target", "molecular_target"]

_LOG = logging.getLogger(__name__)

Engine = Literal["auto", "kernel", "torch", "openmm"]
"""``auto``: the batched engine if it covers the System, else OpenMM. ``kernel``, ``torch``: that engine
compiled or in torch, an error if it cannot. ``openmm``: OpenMM, whatever the engine covers."""


def molecular_target(
    system: openmm.System,
    temperature: float,
    *,
    engine: Engine = "auto",
    dtype: torch.dtype = torch.float64,
    threads: int | None = None,
    processes: int = 1,
) -> Target:
    """Return the Boltzmann density of a System at a temperature (K), evaluated the fastest way there is.

    Energies of both evaluators agree to rounding; which one it is changes how long things take and nothing
    else. If ``auto`` has to fall back to OpenMM, one warning is logged that names the force and the term that
    the batched engine does not cover.

    Args:
        dtype, threads: of the batched engine, see :class:`~bgdiff.targets.forcefield.ForceFieldTarget`.
        processes: of the OpenMM evaluator, see :class:`~bgdiff.targets.openmm.OpenMMTarget`.

    Raises:
        SystemDefinitionError: the System has no density on all 3N coordinates.
        UnsupportedSystem: ``engine`` is ``kernel`` or ``torch`` and the engine does not cover the System.
        KernelUnavailable: ``engine`` is ``kernel`` and there is no compiled one on this machine.
    """
    slow = OpenMMTarget(system, temperature, processes=processes)  # refuses what has no density at all
    if engine == "openmm":
        return slow
    from bgdiff.targets.forcefield import ForceFieldTarget
    from bgdiff.targets.forcefield.parser import parse_system

    try:
        tables = parse_system(system)
    except UnsupportedSystem as error:
        if engine != "auto":
            raise
        _LOG.warning(
            "the batched engine does not cover this force field (%s); energies come from OpenMM's %s "
            "platform, which is slower",
            error,
            slow.platform,
        )
        return slow
    return ForceFieldTarget(
        tables, temperature, dtype=dtype, threads=threads, engine=None if engine == "auto" else engine
    )


def describe_target(target: Target) -> str:
    """Say in one line what evaluates a target's energies, for ``run.json`` and ``results.json``."""
    describe = getattr(target, "describe", None)
    return repr(target) if describe is None else str(describe())
