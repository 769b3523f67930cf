"""Averages over the ladders of a reference calculation, with errors from the spread of independent groups."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from bgdiff.targets.openmm import GAS_CONSTANT

if TYPE_CHECKING:
    from bgdiff.data.chains import Arrays
    from bgdiff.data.observables import Observable
    from bgdiff.data.parallel_tempering import TemperingTask
    from bgdiff.systems import System

__all__ = ["common_averages", "lowest_averages", "of_groups", "temperature_free_energies"]

Array = NDArray[np.float64]


def of_groups(values: Sequence[float] | Array) -> dict[str, Any]:
    """Mean of independent groups' values and its standard error from their spread; nan for a single group."""
    with np.errstate(invalid="ignore", divide="ignore"):
        error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
    return {"value": float(np.mean(values)), "std_error": error}


def common_averages(
    system: "System",
    observables: "Mapping[str, Observable]",
    groups: "Sequence[Arrays]",
    log_weights: Sequence[Array],
) -> dict[str, dict[str, Any]]:
    """Averages at the lowest temperature, by name: what :func:`lowest_averages` says, without kJ/mol."""
    columns = [_columns(observables, group) for group in groups]
    energies = [group["energy"] for group in groups]
    samples: dict[str, list[NDArray[Any]]] = {"potential_energy_kT": energies}
    for name, observable in observables.items():
        if observable.periodic:
            samples[f"cos_{name}"] = [np.cos(values[name]) for values in columns]
            samples[f"sin_{name}"] = [np.sin(values[name]) for values in columns]
        else:
            samples[f"mean_{name}"] = [values[name] for values in columns]
    for basin in system.spec.basins:
        samples[f"population_{basin}"] = [system.basin(basin, values) for values in columns]
    result = {name: _both(*_means(log_weights, values)) for name, values in samples.items()}
    energy = _means(log_weights, energies)
    square = _means(log_weights, [values**2 for values in energies])
    spreads = [np.sqrt(second - first**2) for first, second in zip(energy, square, strict=True)]
    result["potential_energy_std_kT"] = _both(*spreads)
    return result


def lowest_averages(
    system: "System", task: "TemperingTask", groups: "Sequence[Arrays]", log_weights: Sequence[Array]
) -> dict[str, dict[str, Any]]:
    """Averages at the lowest temperature, by name.

    The mean potential energy (kJ/mol and kT), its standard deviation (kT), cosine and sine of the torsions,
    other observables themselves (nm), and the population of every basin.

    Args:
        groups: records of the task, joined; energies are in kT.
        log_weights: of all samples of each group, ``(n, M, K)``, towards the lowest temperature.

    Returns:
        Of each: ``value`` and ``std_error`` from all temperatures by MBAR, and the same from the samples of
        the lowest temperature alone.
    """
    result = common_averages(system, task.observables, groups, log_weights)
    kT = GAS_CONSTANT * task.temperatures[0]
    energy = _means(log_weights, [group["energy"] for group in groups])
    result["potential_energy_kJ_per_mol"] = _both(*(kT * of for of in energy))
    return result


def temperature_free_energies(
    task: "TemperingTask",
    groups: "Sequence[Arrays]",
    log_weights: Sequence[Array],
    others: Sequence[float] = (),
) -> list[dict[str, Any]]:
    """F(T) - F(T_lowest) of the rungs and of ``others`` (K).

    F = -log Z, Z = ∫ exp(-U/kT) dx over the Cartesian coordinates, momenta left out.

    Args:
        groups, log_weights: as of :func:`lowest_averages`.
        others: temperatures to reweight to besides; they must lie among the rungs or near them.
    """
    lowest = task.temperatures[0]
    result = []
    for temperature in sorted({*task.temperatures, *others}):
        excess = lowest / temperature - 1
        values = [
            -logsumexp(weight - excess * group["energy"])
            for weight, group in zip(log_weights, groups, strict=True)
        ]
        result.append({"temperature": temperature, **of_groups(values)})
    return result


def _columns(observables: "Mapping[str, Observable]", group: "Arrays") -> dict[str, Array]:
    columns = np.moveaxis(group["observables"].astype(np.float64), -1, 0)
    return dict(zip(observables, columns, strict=True))


def _means(log_weights: Sequence[Array], values: Sequence[NDArray[Any]]) -> tuple[Array, Array]:
    """Averages in each group: over all samples under the weights, and over the lowest rung alone."""
    pairs = zip(log_weights, values, strict=True)
    weighted = np.array([(np.exp(weight) * value).sum() for weight, value in pairs])
    return weighted, np.array([value[:, :, 0].mean() for value in values])


def _both(weighted: Array, alone: Array) -> dict[str, Any]:
    return {**of_groups(weighted), "lowest_temperature_alone": of_groups(alone)}
