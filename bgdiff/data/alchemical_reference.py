"""The reference free-energy difference between two systems of the same atoms, by alchemical simulation."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bgdiff.data.chains import Arrays, concatenate, discard_chunks, run_chains
from bgdiff.data.ladder_analysis import convergence, log_ratio, mixing, start_agreement
from bgdiff.data.ladder_averages import of_groups
from bgdiff.data.reference import new_file, parts_of, simulation_versions
from bgdiff.errors import ConfigError, DataError
from bgdiff.io import write_json
from bgdiff.progress import Progress, silent
from bgdiff.systems import System

if TYPE_CHECKING:
    from bgdiff.data.alchemy import AlchemicalTask
    from bgdiff.targets.choose import Engine

__all__ = ["compute_transformation"]

_CONVENTION = (
    "F = -log Z, each end in kT of its own temperature; Z = ∫ exp(-U/kT) over the Cartesian coordinates, "
    "momenta left out"
)
_CHECKED = 256  # conformations whose energies OpenMM computes again

Array = NDArray[np.float64]


def compute_transformation(
    system: System,
    other: System,
    out: Path | str | None = None,
    seed: int = 0,
    processes: int | None = None,
    progress: Progress = silent,
    *,
    engine: "Engine" = "auto",
    length_ns: float | None = None,
) -> Path:
    """Compute F(other) - F(system) in kT, independently of any model; write it as JSON.

    The two share their atoms. Molecules are simulated at K values of λ with u_λ = (1-λ) u_system + λ u_other
    (from vacuum to implicit solvent: the solvation scaled by λ), by Metropolised moves and with exchanges
    between neighbours, in independent groups of ladders with different starts, as the entry of
    ``transformations`` in the first system's ``system.yaml`` says. Each group alone gives a value by MBAR;
    the result is their mean, and its standard error comes from their spread. Beside it the file holds MBAR of
    decorrelated samples with its asymptotic error, Bennett's acceptance ratio along the path and in one step,
    the integral over λ, the overlap of neighbours, how well the ladders mixed, the differences between the
    system's basins in both ends, and how far OpenMM's energies are from those used.

    The temperatures may differ (:meth:`~bgdiff.systems.System.at_temperature`): reduced energies are mixed.

    Args:
        system: where λ = 0.
        other: where λ = 1.
        out, seed, processes, progress, engine: as of
            :func:`~bgdiff.data.reference.compute_reference`; by default ``<system>-to-<other>.json``.
        length_ns: of every replica, instead of what the section says.

    Returns:
        The file written.

    Raises:
        ConfigError: ``out`` exists, its directory of chunks belongs to other settings, the length is not
            positive, or the two are the same density.
        DataError: a simulation is unstable, or OpenMM does not confirm the energies.
        StorageError: ``out`` cannot be written.
        SystemDefinitionError: atoms differ, or nothing says how long to run.
    """
    from bgdiff.data.alchemy import alchemical_task, find_transformation

    if system.ensemble_digest == other.ensemble_digest:
        raise ConfigError(
            f"{other.name} has the potential and the temperature of {system.name}: there is no difference; "
            "name another system with --to or another temperature with --to-temperature"
        )
    settings = find_transformation(system, other)
    if length_ns is not None:
        if not 0 < length_ns < float("inf"):
            raise ConfigError(f"the length of a simulation must be positive, not {length_ns:g} ns")
        settings = settings.model_copy(update={"length_ns": length_ns})
    out = new_file(f"{system.name}-to-{other.name}.json" if out is None else out)
    task = alchemical_task(system, other, settings, seed, engine)
    groups = [
        {key: concatenate(records, key) for key in records[0]}
        for records in run_chains(task, parts_of(out), processes or os.cpu_count() or 1, progress)
    ]
    header = {
        "schema_version": 1,
        "initial": _end(system),
        "final": _end(other),
        "command": _command(system, other, seed, length_ns, engine),
        "seed": seed,
        "convention": _CONVENTION,
    }
    write_json(out, header | _content(system, task, groups) | {"settings": settings.model_dump(mode="json")})
    discard_chunks(parts_of(out))
    return out


def _content(system: System, task: "AlchemicalTask", groups: Sequence[Arrays]) -> dict[str, Any]:
    from bgdiff.data.alchemical_analysis import cross_checks, group_mbar

    lambdas = np.array(task.lambdas)
    energies = [group["energy"] for group in groups]
    solved = [group_mbar(energy, lambdas) for energy in energies]
    profiles = np.array([free_energies for free_energies, _ in solved])
    values = profiles[:, -1]
    difference = of_groups(values)
    return {
        "free_energy_difference": {
            **difference,
            "method": "alchemical replica exchange, MBAR in each group of ladders; standard error from "
            "independent groups",
            "per_group": values,
            "per_start": start_agreement(values, task.starts_deg),
        },
        "lambdas": lambdas,
        "free_energy_by_lambda": [of_groups(column) for column in profiles.T],
        "cross_checks": cross_checks(energies, lambdas),
        "basin_differences": _basin_differences(system, task, groups, [weights for _, weights in solved]),
        "ladders_per_group": task.ladders,
        "total_ns": task.total_ns,
        **mixing(groups),
        "convergence": _convergence(task, groups),
        "openmm": _confirmed(task, groups, difference["std_error"]),
        "evaluator": f"{task.simulator.describe()}; hybrid Monte Carlo",
        "versions": simulation_versions(),
    }


def _basin_differences(
    system: System, task: "AlchemicalTask", groups: Sequence[Arrays], log_weights: Sequence[Array]
) -> dict[str, list[dict[str, Any]]]:
    """F_final - F_initial of the first system's pairs of basins, in both ends; those all groups have seen."""
    result: dict[str, list[dict[str, Any]]] = {"initial": [], "final": []}
    for item in system.differences:
        per_end: list[list[float]] = [[], []]
        for group, weights in zip(groups, log_weights, strict=True):
            columns = np.moveaxis(group["observables"].astype(np.float64), 3, 0)
            observables = dict(zip(task.observables, columns, strict=True))
            initial, final = (system.basin(name, observables) for name in (item.initial, item.final))
            if initial.any() and final.any():
                for values, weight in zip(per_end, weights, strict=True):
                    values.append(log_ratio(weight, initial, final))
        for end, values in zip(result.values(), per_end, strict=True):
            if len(values) == len(groups):
                end.append(
                    {"name": item.name, "initial": item.initial, "final": item.final, **of_groups(values)}
                )
    return result


def _convergence(task: "AlchemicalTask", groups: Sequence[Arrays]) -> dict[str, Any]:
    """R-hat and effective draws of du/dλ and of the observables, in both ends."""
    periodic = [name for name, observable in task.observables.items() if observable.periodic]
    result = {}
    for end, rung in (("initial", 0), ("final", -1)):
        draws = {
            name: np.concatenate([group["observables"][:, :, rung, column].T for group in groups])
            for column, name in enumerate(task.observables)
        }
        draws["energy_difference"] = np.concatenate(
            [(group["energy"][:, :, rung, 1] - group["energy"][:, :, rung, 0]).T for group in groups]
        )
        result[end] = convergence({k: v.astype(np.float64) for k, v in draws.items()}, periodic)
    return result


def _confirmed(task: "AlchemicalTask", groups: Sequence[Arrays], std_error: float) -> dict[str, Any]:
    """Let OpenMM, in double precision, compute u_b - u_a of some conformations that the ladders visited.

    Raises:
        DataError: its mean differs so much that the result would change by more than its standard error.
    """
    import openmm
    import torch

    from bgdiff.targets.mixed import component_energies
    from bgdiff.targets.openmm import OpenMMTarget

    x = np.concatenate([group["last"].reshape(-1, *group["last"].shape[-2:]) for group in groups])
    chosen = np.linspace(0, len(x) - 1, min(_CHECKED, len(x))).astype(int)
    rows = torch.from_numpy(x[chosen])
    exact = [OpenMMTarget(potential, kelvin, "Reference") for potential, kelvin in task.potentials()]
    used = component_energies(task.ends, rows).diff(dim=1)
    deviation = (used - component_energies(exact, rows).diff(dim=1)).abs()
    mean, largest = float(deviation.mean()), float(deviation.max())
    if not mean <= std_error:
        raise DataError(
            f"{task.simulator.describe()}: energy differences are {mean:.2g} kT from OpenMM's on average, "
            f"more than the standard error of the result, {std_error:.2g} kT; use --engine openmm"
        )
    return {
        "conformations": len(rows),
        "mean_deviation": mean,
        "largest_deviation": largest,
        "of": f"u_final - u_initial in kT, OpenMM {openmm.__version__}, Reference platform",
    }


def _end(system: System) -> dict[str, Any]:
    return {
        "system": system.name,
        "temperature": system.temperature,
        "ensemble_digest": system.ensemble_digest,
        "question_digest": system.question_digest,
    }


def _command(system: System, other: System, seed: int, length_ns: float | None, engine: str) -> str:
    command = f"bgdiff reference {system.name} --to {other.name} --seed {seed}"
    for flag, end in (("temperature", system), ("to-temperature", other)):
        if end.temperature != System(end.path).temperature:
            command += f" --{flag} {end.temperature:g}"
    if length_ns is not None:
        command += f" --length-ns {length_ns:g}"
    return command if engine == "auto" else f"{command} --engine {engine}"
