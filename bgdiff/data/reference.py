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
from bgdiff.system_spec import DifferenceSpec, OpenMMSpec
from bgdiff.systems import System

if TYPE_CHECKING:
    from bgdiff.data.parallel_tempering import TemperingTask
    from bgdiff.targets.choose import Engine

__all__ = ["compute_reference", "new_file", "parts_of", "simulation_versions"]

_LASTING_PS = 1.0  # a change of basin counts if the conformation stays this long


def compute_reference(
    system: System,
    out: Path | str | None = None,
    seed: int = 0,
    processes: int | None = None,
    progress: Progress = silent,
    *,
    engine: "Engine" = "auto",
    temperature: float | None = None,
    length_ns: float | None = None,
) -> Path:
    """Compute the free-energy differences that the system asks for, independently; write them as JSON.

    A molecule is simulated by parallel tempering in independent groups of ladders, as its
    ``replica_exchange`` section says, where starts should lie in all basins. Each group alone gives a value,
    by reweighting all its temperatures with MBAR; the result is their mean, and its standard error comes
    from their spread, not from an estimator's own formula. Beside it the file says whether groups agree
    whatever their start, what the lowest temperature says without MBAR, how well the ladders mixed, averages
    at the lowest temperature, and the free energies of the temperatures. The
    batched engine makes exact HMC moves of all ladders of a group together; OpenMM runs one ladder per start
    with Langevin dynamics. Clusters in reduced units have log Z besides
    (:func:`~bgdiff.data.cluster_reference.cluster_reference`). Double wells are integrated numerically.

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
        temperature: the lowest (K), instead of the system's own: the reference of
            ``system.at_temperature(temperature)``.
        length_ns: of every replica, instead of ``replica_exchange.length_ns``.

    Returns:
        The file written.

    Raises:
        ConfigError: ``out`` exists, its directory of chunks belongs to other settings, or the temperature or
            the length is none this system can have.
        DataError: a group never visited one of the basins, or the simulation is unstable.
        StorageError: ``out`` cannot be written.
        SystemDefinitionError: the system does not say how.
    """
    own, toy = system.temperature, not isinstance(system.spec, OpenMMSpec)
    if length_ns is not None and not 0 < length_ns < float("inf"):
        raise ConfigError(f"the length of a simulation must be positive, not {length_ns:g} ns")
    if length_ns is not None and toy:
        why = (
            "is integrated, not simulated: it"
            if system.spec.coordinates == "identity"
            else "in reduced units"
        )
        raise ConfigError(f"system {system.name} {why} has no length")
    command = f"bgdiff reference {system.name} --seed {seed}"
    default = f"{system.name}-reference.json"
    if temperature is not None:
        system = system.at_temperature(temperature)
        command += f" --temperature {temperature:g}"
        default = f"{system.name}-reference-{temperature:g}K.json"
    if length_ns is not None:
        command += f" --length-ns {length_ns:g}"
    if engine != "auto":
        command += f" --engine {engine}"
    out = new_file(default if out is None else out)
    parts = parts_of(out)
    processes = processes or os.cpu_count() or 1
    if toy and system.spec.coordinates == "mean_free":
        from bgdiff.data.cluster_reference import cluster_reference

        content = cluster_reference(system, parts, seed, processes, progress)
    elif toy:
        from bgdiff.data.quadrature import quadrature_reference

        content = quadrature_reference(system)
        progress(1, 1, "")
    else:
        from bgdiff.data.parallel_tempering import ladder_task

        if not system.differences:
            raise SystemDefinitionError(f"{system.path}/system.yaml: asks for no free_energy_differences")
        task = ladder_task(system, seed, engine, length_ns=length_ns)
        content = _parallel_tempering(system, task, parts, processes, progress, own)
    for difference in content["free_energy_differences"]:
        difference["command"] = command
    header = {
        "schema_version": 1,
        "system": system.name,
        "temperature": system.temperature,
        "question_digest": system.question_digest,
        "command": command,
        "seed": seed,
    }
    write_json(out, header | content)
    discard_chunks(parts)
    return out


def new_file(out: Path | str) -> Path:
    """Return where a reference is to be written, with its directory made.

    Raises:
        ConfigError: something is there.
        StorageError: the directory cannot be made.
    """
    out = Path(out)
    if out.exists():
        raise ConfigError(f"{out}: exists already; remove it or choose another file with --out")
    make_directory(out.parent)
    return out


def parts_of(out: Path) -> Path:
    """Directory of the finished chunks of a calculation that is to become ``out``."""
    return out.with_name(out.name + ".parts")


def _parallel_tempering(
    system: System, task: "TemperingTask", parts: Path, processes: int, progress: Progress, own: float
) -> dict[str, Any]:
    """The content of a reference; ``own`` is the temperature that the system's folder says."""
    from bgdiff.data.ladder_averages import lowest_averages, temperature_free_energies

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
    settings = system.spec.replica_exchange
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
        "averages": lowest_averages(system, task, groups, weights),
        "temperature_free_energies": temperature_free_energies(task, groups, weights, [own]),
        "settings": settings.model_dump(mode="json") | {"length_ns": task.length_ns},
        "temperatures": list(task.temperatures),
        "ladders_per_group": task.ladders,
        "total_ns": task.total_ns,
        **mixing(groups),
        "convergence": convergence(lowest, [name for name in names if task.observables[name].periodic]),
        "evaluator": task.simulator.describe(),
        "versions": simulation_versions(),
    }


def simulation_versions() -> dict[str, str]:
    """What made a simulated reference."""
    import mdtraj
    import openmm
    import torch

    return {
        "bgdiff": bgdiff.__version__,
        "openmm": openmm.__version__,
        "mdtraj": mdtraj.__version__,
        "pymbar": version("pymbar"),
        "torch": torch.__version__,
    }


def _difference(
    system: System,
    item: DifferenceSpec,
    task: "TemperingTask",
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
