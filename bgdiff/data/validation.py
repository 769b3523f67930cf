"""Checks of an equilibrium sample of a toy density that need no other sample of it."""

import itertools
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bgdiff.data.cluster_engine import fastest
from bgdiff.data.ladder_averages import of_groups
from bgdiff.data.quench import quench
from bgdiff.systems import System

__all__ = ["degrees_of_freedom", "heat_capacity", "start_labels", "validate", "verdicts"]

log = logging.getLogger(__name__)

_BINS = 60
_QUENCHED = 256  # frames
_SAME_MINIMUM = 1e-4  # kT
_BATCH = 4096
_FAR = 4.0  # standard errors that are no chance

Array = NDArray[np.float64]


def validate(system: System, x: NDArray[np.floating[Any]], labels: Sequence[str]) -> dict[str, Any]:
    """Judge frames ``(M, n, N, D)`` of M independent ladders or chains; all errors come from their spread.

    Logs a warning if the frames cannot be the equilibrium.

    Args:
        labels: where each of them started.

    Returns:
        - ``virial``: <x·∇u>, which equals the number of degrees of freedom in equilibrium
          (:func:`~bgdiff.data.validation.degrees_of_freedom`), with its error and z-score;
        - ``means``: of the energy and of each observable, over all, and over what had each start, with
          the largest |z| between two starts;
        - ``energy_histogram``: ``edges`` in kT and ``density``;
        - ``quenched``: the lowest minimum below some of the frames, and how many lead to the global one, if
          the system names it.
    """
    ladders, n = x.shape[:2]
    frames = x.reshape(-1, *x.shape[2:]).astype(np.float64)
    energy, virial = _energy_and_virial(system, frames)
    expected = degrees_of_freedom(system)
    found = of_groups(virial.reshape(ladders, n).mean(axis=1))
    draws = {"energy": energy.reshape(ladders, n)}
    for name, values in system.observables(frames).items():
        if not system.spec.observables[name].periodic:
            draws[name] = values.reshape(ladders, n)
    density, edges = np.histogram(energy, bins=_BINS, density=True)
    virial_z = (found["value"] - expected) / found["std_error"]
    means = {name: _by_start(values.mean(axis=1), labels) for name, values in draws.items()}
    if abs(virial_z) > _FAR:
        log.warning("virial: %.4g, but %d in equilibrium; simulate longer", found["value"], expected)
    for name, mean in means.items():
        if mean["largest_z"] is not None and mean["largest_z"] > _FAR:
            log.warning("%s: ladders of different starts disagree; simulate longer", name)
    return {
        "virial": found | {"expected": expected, "z": virial_z},
        "means": means,
        "energy_histogram": {"edges": edges, "density": density},
        "quenched": _quenched(system, frames),
    }


def verdicts(found: Mapping[str, Any]) -> list[str]:
    """What :func:`validate` found, in a few lines for people."""
    virial, quenched = found["virial"], found["quenched"]
    scores = [mean["largest_z"] for mean in found["means"].values() if mean["largest_z"] is not None]
    value = f"{virial['value']:.4g} ± {virial['std_error']:.2g}"
    lines = [f"virial ⟨x·∇u⟩ = {value}; {virial['expected']} in equilibrium"]
    if scores:
        lines.append(f"ladders of different starts differ by {max(scores):.1f} standard errors at most")
    text = f"lowest minimum below {quenched['frames']} frames: {quenched['lowest_energy']:.6f}"
    if "global_minimum" in quenched:
        text += f"; the global one, {quenched['global_minimum']:.6f}, {quenched['at_global_minimum']} times"
    return [*lines, text]


def degrees_of_freedom(system: System) -> int:
    """N·D, or (N-1)·D of a cluster, whose centroid is left out: what <x·∇u> is in equilibrium."""
    particles, dimensions = system.target.event_shape
    return (particles - (system.spec.coordinates == "mean_free")) * dimensions


def heat_capacity(energies: Sequence[Array], temperatures: Sequence[float]) -> list[dict[str, float]]:
    """Var(u)/T² of the configurations in units of k, at every temperature, with errors from the groups.

    Args:
        energies: ``(n, M, K)`` of each group, in kT of the lowest temperature.
        temperatures: ``(K,)``, in units of the lowest.
    """
    values = np.array([energy.var(axis=(0, 1)) for energy in energies]) / np.square(temperatures)
    return [
        {"temperature": float(temperature), **of_groups(column)}
        for temperature, column in zip(temperatures, values.T, strict=True)
    ]


def start_labels(starts: Sequence[list[float] | str], ladders: int) -> list[str]:
    """What :func:`validate` calls the starts of groups of so many ladders."""
    names = [start if isinstance(start, str) else str(start) for start in starts]
    return [name for name in names for _ in range(ladders)]


def _by_start(means: Array, labels: Sequence[str]) -> dict[str, Any]:
    starts: Mapping[str, Any] = {
        label: of_groups(means[[other == label for other in labels]]) for label in dict.fromkeys(labels)
    }
    scores = [
        abs(one["value"] - other["value"]) / np.hypot(one["std_error"], other["std_error"])
        for one, other in itertools.combinations(starts.values(), 2)
    ]
    return of_groups(means) | {"by_start": starts, "largest_z": max(scores, default=None)}


def _energy_and_virial(system: System, x: Array) -> tuple[Array, Array]:
    energies, virials = [], []
    for rows in torch.from_numpy(x).split(_BATCH):
        energy, force = system.target.energy_and_force(rows)
        energies.append(energy)
        virials.append(-(rows * force).sum((1, 2)))
    return torch.cat(energies).numpy(), torch.cat(virials).numpy()


def _quenched(system: System, x: Array) -> dict[str, Any]:
    chosen = np.linspace(0, len(x) - 1, min(_QUENCHED, len(x))).astype(int)
    energy = quench(fastest(system.target), x[chosen]).energy
    result = {"frames": len(chosen), "lowest_energy": energy.min(), "mean_energy": energy.mean()}
    known: float | None = getattr(system.spec, "global_minimum", None)
    if known is not None:
        result |= {"global_minimum": known, "at_global_minimum": int((energy < known + _SAME_MINIMUM).sum())}
    return result
