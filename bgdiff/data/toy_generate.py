"""Data sets of toy densities: plain chains, and equilibrium from ladders of temperatures."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

import bgdiff
from bgdiff.data.chains import concatenate, run_chains
from bgdiff.data.frames import rounded, write_array
from bgdiff.data.ladder_analysis import convergence, mixing
from bgdiff.data.mala import mala_chains
from bgdiff.data.toy_starts import given_starts
from bgdiff.data.toy_tempering import tempering_settings, toy_ladder_task
from bgdiff.data.validation import heat_capacity, start_labels, validate
from bgdiff.errors import SystemDefinitionError
from bgdiff.progress import Progress
from bgdiff.random import generator_for
from bgdiff.systems import System
from bgdiff.targets.choose import describe_target
from bgdiff.tempering_spec import ChainsSpec

__all__ = ["generate_chains", "generate_equilibrium"]


def generate_chains(system: System, out: Path, seed: int, progress: Progress) -> dict[str, Any]:
    """Write the MALA chains of the ``generate`` section; return what their provenance says of them.

    Raises:
        SystemDefinitionError: there is no such section, or a start has the wrong length.
        StorageError: ``out`` cannot be written.
    """
    settings = system.spec.generate
    if not isinstance(settings, ChainsSpec):
        raise SystemDefinitionError(
            f"{system.path}/system.yaml: has no 'generate' section, which says how long to run"
        )
    try:
        starts = given_starts(settings.starts, system.target.event_shape)
    except ValueError as error:
        raise SystemDefinitionError(f"{system.path}/system.yaml: generate.starts: {error}") from error
    x = torch.stack([start for start in starts if start is not None])
    frames, acceptance = mala_chains(
        system.target,
        x.repeat_interleave(settings.chains_per_start, dim=0),
        step=settings.step,
        frames=settings.frames,
        spacing=settings.spacing,
        equilibration=settings.equilibration,
        generator=generator_for(seed, "mala"),
        progress=progress,
    )
    write_array(out, frames.flatten(0, 1).numpy())
    return {
        "method": "Metropolis-adjusted Langevin chains",
        "settings": settings.model_dump(mode="json"),
        "acceptance": acceptance,
        "chain_lengths": [settings.frames] * len(frames),
        "versions": _versions(),
    }


def generate_equilibrium(
    system: System, out: Path, parts: Path, seed: int, processes: int, frames: int, progress: Progress
) -> dict[str, Any]:
    """Write frames of the lowest of the ``replica_exchange`` section's temperatures, and return what their
    provenance says: how the ladders mixed and whether the frames stand the tests of
    :func:`~bgdiff.data.validation.validate`.

    Args:
        parts: directory of the finished chunks.
        frames: at least.

    Raises:
        ConfigError: ``parts`` belongs to other settings.
        SystemDefinitionError: there is no such section, or a start makes no sense.
        StorageError: ``out`` cannot be written.
    """
    settings = tempering_settings(system)
    labels = start_labels(settings.starts, settings.ladders)
    task = toy_ladder_task(system, seed, -(-frames // len(labels)))
    groups = [
        {key: concatenate(records, key) for key in records[0]}
        for records in run_chains(task, parts, processes, progress)
    ]
    x = np.concatenate([group["x"].swapaxes(0, 1) for group in groups])  # (ladders, n, N, D)
    x = rounded(x, settings.stored_bits)
    write_array(out, x.reshape(-1, *x.shape[2:]))
    draws = {
        name: np.concatenate([group["observables"][:, :, 0, column].T for group in groups])
        for column, name in enumerate(task.observables)
    }
    draws["energy"] = np.concatenate([group["energy"][:, :, 0, 0].T for group in groups])
    temperatures = [1 / weight for (weight,) in task.weights]
    return {
        "method": "parallel tempering, frames of the lowest temperature",
        "evaluator": describe_target(task.components[0]),
        "settings": settings.model_dump(mode="json", exclude={"interpolation", "samples"}),
        "temperatures": temperatures,
        "steps": np.mean([group["step"][-1] for group in groups], axis=0),
        "chain_lengths": [x.shape[1]] * len(x),
        **mixing(groups),
        "heat_capacity": heat_capacity([group["energy"][..., 0] for group in groups], temperatures),
        "convergence": convergence(draws),
        "validation": validate(system, x, labels),
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    return {"bgdiff": bgdiff.__version__, "torch": torch.__version__, "numpy": np.__version__}
