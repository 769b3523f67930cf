"""Reference values by methods that share nothing with the learned model: quadrature, parallel tempering."""

import os
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import bgdiff
from bgdiff.data.chains import Arrays, concatenate, discard_chunks, run_chains
from bgdiff.data.ladder_analysis import (
    basin_changes,
    convergence,
    log_ratio,
    mbar_log_weights,
    mixing,
    profile,
    start_agreement,
)
from bgdiff.errors import ConfigError, DataError, SystemDefinitionError
from bgdiff.io import make_directory, write_json
from bgdiff.progress import Progress, silent
from bgdiff.system_spec import DifferenceSpec, DoubleWellSpec
from bgdiff.systems import System

if TYPE_CHECKING:
    from bgdiff.data.parallel_tempering import LadderTask
    from bgdiff.targets.choose import Engine

__all__ = ["compute_reference"]

_LASTING_PS = 1.0  # a change of basin counts if the conformation stays this long


def compute_reference(
    system: System,
    out: Path | str | None = None,
    seed: int = 0,
    processes: int | None = None,
    progress: Progress = silent,
    *,
    engine: "Engine" = "auto",
) -> Path:
    """Compute the free-energy differences that the system asks for, independently; write them as JSON.

    A molecule is simulated by parallel tempering in independent groups of ladders, as its
    ``replica_exchange`` section says, where starts should lie in all basins. Each group alone gives a value,
    by reweighting all its temperatures with MBAR; the result is their mean, and its standard error comes
    from their spread, not from an estimator's own formula. Beside it the file says whether groups agree
    whatever their start, what the lowest temperature says without MBAR, and how well the ladders mixed. The
    batched engine makes exact HMC moves of all ladders of a group together; OpenMM runs one ladder per start
    with Langevin dynamics. A double well is integrated numerically.

    An interrupted calculation leaves its finished chunks in ``<out>.parts`` and is continued by the
    same call.

    Args:
        system: the system.
        out: JSON file to write; ``<name>-reference.json`` in the current directory by default.
        seed: of all random numbers.
        processes: how many to use; by default one per core, at most one per group. With more than one, a
            script must call this under ``if __name__ == "__main__":``: they are spawned.
        progress: called after each chunk.
        engine: what evaluates a molecule, see :func:`~bgdiff.targets.choose.molecular_target`.

    Returns:
        The file written.

    Raises:
        ConfigError: ``out`` exists, or its directory of chunks belongs to other settings.
        DataError: a group never visited one of the basins, or the simulation is unstable.
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
        content = _parallel_tempering(system, parts, seed, processes or os.cpu_count() or 1, engine, progress)
    command = f"bgdiff reference {system.name} --seed {seed}"
    if engine != "auto":
        command += f" --engine {engine}"
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


def _parallel_tempering(
    system: System, parts: Path, seed: int, processes: int, engine: "Engine", progress: Progress
) -> dict[str, Any]:
    import mdtraj
    import openmm
    import torch

    from bgdiff.data.parallel_tempering import ladder_task

    if not system.differences:
        raise SystemDefinitionError(f"{system.path}/system.yaml: asks for no free_energy_differences")
    task = ladder_task(system, seed, engine)
    groups = [
        {key: concatenate(records, key) for key in records[0]}
        for records in run_chains(task, parts, processes, progress)
    ]
    beta = task.temperatures[0] / np.array(task.temperatures)
    weights = [
        mbar_log_weights(group["energy"].reshape(-1, len(beta)), beta).reshape(group["energy"].shape)
        for group in groups
    ]
    names = list(task.observables)
    lowest = {
        name: np.concatenate([group["observables"][:, :, 0, column].T for group in groups]).astype(np.float64)
        for column, name in enumerate(names)
    }
    lowest["energy"] = np.concatenate([group["energy"][:, :, 0].T for group in groups])
    settings = system.spec.replica_exchange  # type: ignore[union-attr]
    assert settings is not None
    return {
        "free_energy_differences": [
            _difference(system, item, task, groups, weights) for item in system.differences
        ],
        "log_z": None,
        "profiles": {
            name: profile(weights, [group["observables"][..., column] for group in groups])
            for column, (name, spec) in enumerate(task.observables.items())
            if spec.periodic
        },
        "settings": settings.model_dump(mode="json"),
        "temperatures": list(task.temperatures),
        "ladders_per_group": task.ladders,
        "total_ns": task.n_samples * task.sample_ps / 1000 * task.ladders * len(groups) * len(beta),
        **mixing(groups),
        "convergence": convergence(lowest, [name for name in names if task.observables[name].periodic]),
        "evaluator": task.simulator.describe(),
        "versions": {
            "bgdiff": bgdiff.__version__,
            "openmm": openmm.__version__,
            "mdtraj": mdtraj.__version__,
            "pymbar": version("pymbar"),
            "torch": torch.__version__,
        },
    }


def _difference(
    system: System,
    item: DifferenceSpec,
    task: "LadderTask",
    groups: list[Arrays],
    weights: list[NDArray[np.float64]],
) -> dict[str, Any]:
    values, counted, changes, occupancy, lowest = [], [], [], [], []
    lasting = max(1, round(_LASTING_PS / task.sample_ps))
    for index, (group, weight) in enumerate(zip(groups, weights, strict=True)):
        columns = np.moveaxis(group["observables"].astype(np.float64), 3, 0)
        observables = dict(zip(task.observables, columns, strict=True))
        initial, final = (system.basin(name, observables) for name in (item.initial, item.final))
        try:
            values.append(log_ratio(weight, initial, final))
        except DataError as error:
            raise DataError(f"difference {item.name}, ladders of start {index}: {error}") from error
        with np.errstate(divide="ignore"):
            counted.append(np.log(initial[:, :, 0].sum()) - np.log(final[:, :, 0].sum()))
        changes.append(basin_changes(group["walker"], initial, final, lasting))
        occupancy.append(final.mean(axis=(0, 1)))
        lowest.append(final[:, :, 0].T.astype(np.float64))
    return {
        "name": item.name,
        "initial": item.initial,
        "final": item.final,
        "value": float(np.mean(values)),
        "std_error": _std_error(values),
        "method": "parallel tempering, MBAR in each group of ladders; standard error from independent groups",
        "per_group": values,
        "per_start": start_agreement(np.array(values), task.starts_deg),
        "lowest_temperature_alone": {"value": float(np.mean(counted)), "std_error": _std_error(counted)},
        "basin_changes": changes,
        "final_basin_by_temperature": np.mean(occupancy, axis=0),
        "convergence": convergence({item.final: np.concatenate(lowest)}),
    }


def _std_error(values: list[float]) -> float:
    with np.errstate(invalid="ignore"):  # a basin that one group never saw at this temperature
        return float(np.std(values, ddof=1) / np.sqrt(len(values)))
