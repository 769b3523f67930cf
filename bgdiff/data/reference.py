"""Reference values by methods that share nothing with the learned model: quadrature or replica exchange."""

import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import bgdiff
from bgdiff.data.chains import Arrays, concatenate, discard_chunks, run_chains
from bgdiff.data.generate import molecule_of
from bgdiff.data.ladder_analysis import (
    basin_changes,
    log_ratio,
    mbar_log_weights,
    profile,
    round_trips,
    start_agreement,
)
from bgdiff.errors import ConfigError, DataError, SystemDefinitionError
from bgdiff.io import make_directory, write_json
from bgdiff.progress import Progress, silent
from bgdiff.system_spec import DifferenceSpec, DoubleWellSpec, OpenMMSpec, ReplicaExchangeSpec
from bgdiff.systems import System
from bgdiff.targets.openmm import GAS_CONSTANT

__all__ = ["compute_reference"]

_LASTING_PS = 1.0  # a change of basin counts if the conformation stays this long


def compute_reference(
    system: System,
    out: Path | str | None = None,
    seed: int = 0,
    processes: int | None = None,
    progress: Progress = silent,
) -> Path:
    """Compute the free-energy differences that the system asks for, independently; write them as JSON.

    A molecule is simulated by replica exchange in independent ladders, half of them started in each basin,
    as its ``replica_exchange`` section says. Each ladder alone gives a value, by reweighting all its
    temperatures with MBAR; the result is their mean, and its standard error comes from their spread, not
    from an estimator's own formula. A double well is integrated numerically.

    An interrupted calculation leaves its finished chunks in ``<out>.parts`` and is continued by the
    same call.

    Args:
        system: the system.
        out: JSON file to write; ``<name>-reference.json`` in the current directory by default.
        seed: of all random numbers.
        processes: how many to use; by default one per core, at most one per ladder.
        progress: called after each chunk.

    Returns:
        The file written.

    Raises:
        ConfigError: ``out`` exists, or its directory of chunks belongs to other settings.
        DataError: a ladder never visited one of the basins.
        StorageError: ``out`` cannot be written.
        SystemDefinitionError: the system does not say how.
    """
    out = Path(f"{system.name}-reference.json") if out is None else Path(out)
    if out.exists():
        raise ConfigError(f"{out}: exists already; remove it or choose another file with --out")
    make_directory(out.parent)
    parts = out.with_name(out.name + ".parts")
    if isinstance(system.spec, DoubleWellSpec):
        content = _integrate(system, progress)
    else:
        content = _replica_exchange(system, parts, seed, processes or os.cpu_count() or 1, progress)
    command = f"bgdiff reference {system.name} --seed {seed}"
    for difference in content["free_energy_differences"]:
        difference["command"] = command
    header = {
        "schema_version": 1,
        "system": system.name,
        "question_digest": system.question_digest,
        "command": command,
        "seed": seed,
    }
    write_json(out, header | content)
    discard_chunks(parts)
    return out


def _integrate(system: System, progress: Progress) -> dict[str, Any]:
    import scipy

    from bgdiff.targets.double_well import DoubleWell

    target = system.target
    assert isinstance(target, DoubleWell)

    def log_z_of(basin: str) -> float:
        spec = system.spec.basins[basin]
        if system.spec.observables[spec.observable].component != (0, 0):
            raise SystemDefinitionError(
                f"{system.path}/system.yaml: basins.{basin}: only intervals of x can be integrated"
            )
        return float(np.logaddexp.reduce([target.log_z_interval(lo, hi) for lo, hi in spec.intervals]))

    method = "adaptive quadrature"
    differences = [
        {
            "name": item.name,
            "initial": item.initial,
            "final": item.final,
            "value": log_z_of(item.initial) - log_z_of(item.final),
            "std_error": 0.0,
            "method": method,
        }
        for item in system.differences
    ]
    progress(1, 1, "")
    return {
        "free_energy_differences": differences,
        "log_z": {"value": target.log_z(), "std_error": 0.0, "method": method},
        "versions": {"bgdiff": bgdiff.__version__, "scipy": scipy.__version__},
    }


def _replica_exchange(
    system: System, parts: Path, seed: int, processes: int, progress: Progress
) -> dict[str, Any]:
    import mdtraj
    import openmm

    from bgdiff.data.md import Dynamics
    from bgdiff.data.parallel_tempering import LadderTask

    assert isinstance(system.spec, OpenMMSpec)
    settings = system.spec.replica_exchange
    if settings is None:
        raise SystemDefinitionError(
            f"{system.path}/system.yaml: has no 'replica_exchange' section, which says how long to run"
        )
    if not system.differences:
        raise SystemDefinitionError(f"{system.path}/system.yaml: asks for no free_energy_differences")
    task = LadderTask(
        molecule=molecule_of(system, settings.starts),
        dynamics=Dynamics(settings.step_fs, settings.friction_per_ps),
        observables=system.spec.observables,
        temperatures=_temperatures(system.temperature, settings),
        length_ns=settings.length_ns,
        equilibration_ns=settings.equilibration_ns,
        swap_ps=settings.swap_ps,
        starts_deg=tuple(settings.starts),
        seed=seed,
        definition=system.ensemble_digest,
    )
    ladders = [
        {key: concatenate(records, key) for key in records[0]}
        for records in run_chains(task, parts, processes, progress)
    ]
    beta = task.temperatures[0] / np.array(task.temperatures)
    kT = GAS_CONSTANT * system.temperature
    weights = [mbar_log_weights(ladder["energy"] / kT, beta) for ladder in ladders]
    return {
        "free_energy_differences": [
            _difference(system, item, ladders, weights, settings) for item in system.differences
        ],
        "log_z": None,
        "profiles": {
            name: profile(weights, [ladder["observables"][:, :, column] for ladder in ladders])
            for column, (name, spec) in enumerate(system.spec.observables.items())
            if spec.periodic
        },
        "settings": settings.model_dump(mode="json"),
        "temperatures": list(task.temperatures),
        "swap_acceptance": np.nanmean([np.nanmean(ladder["accepted"], axis=0) for ladder in ladders], axis=0),
        "round_trips": [round_trips(ladder["walker"]) for ladder in ladders],
        "versions": {
            "bgdiff": bgdiff.__version__,
            "openmm": openmm.__version__,
            "mdtraj": mdtraj.__version__,
            "pymbar": version("pymbar"),
        },
    }


def _difference(
    system: System,
    item: DifferenceSpec,
    ladders: list[Arrays],
    weights: list[NDArray[np.float64]],
    settings: ReplicaExchangeSpec,
) -> dict[str, Any]:
    values, changes, occupancy = [], [], []
    lasting = max(1, round(_LASTING_PS / settings.swap_ps))
    for index, (ladder, weight) in enumerate(zip(ladders, weights, strict=True)):
        columns = np.moveaxis(ladder["observables"], 2, 0)
        observables = dict(zip(system.spec.observables, columns, strict=True))
        initial, final = (system.basin(name, observables) for name in (item.initial, item.final))
        try:
            values.append(log_ratio(weight, initial, final))
        except DataError as error:
            raise DataError(f"difference {item.name}, ladder {index}: {error}") from error
        changes.append(basin_changes(ladder["walker"], initial, final, lasting))
        occupancy.append(final.mean(axis=0))
    return {
        "name": item.name,
        "initial": item.initial,
        "final": item.final,
        "value": float(np.mean(values)),
        "std_error": float(np.std(values, ddof=1) / np.sqrt(len(values))),
        "method": "replica exchange, MBAR in each ladder; standard error from independent ladders",
        "per_ladder": values,
        "per_start": start_agreement(np.array(values), settings.starts),
        "basin_changes": changes,
        "final_basin_by_temperature": np.mean(occupancy, axis=0),
    }


def _temperatures(lowest: float, settings: ReplicaExchangeSpec) -> tuple[float, ...]:
    return tuple(np.geomspace(lowest, settings.t_max, settings.temperatures).tolist())
