"""Reference values of clusters in reduced units: parallel tempering, and log Z from a known density.

Nothing here knows of models. log Z is the integral of exp(-u) over the mean-free subspace, see
:class:`~bgdiff.coordinates.MeanFreeCoordinates`.
"""

import logging
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import bgdiff
from bgdiff.data.alchemical_analysis import bar_chain, decorrelated_mbar, group_mbar
from bgdiff.data.chains import Arrays, concatenate, run_chains
from bgdiff.data.ladder_analysis import convergence, log_ratio, mbar_log_weights, mixing
from bgdiff.data.ladder_averages import common_averages, of_groups
from bgdiff.data.oscillator import MeanFreeOscillator
from bgdiff.data.toy_tempering import ToyLadderTask, ladder_task, tempering_settings, toy_ladder_task
from bgdiff.data.validation import heat_capacity, start_labels
from bgdiff.errors import DataError
from bgdiff.progress import Progress
from bgdiff.system_spec import DifferenceSpec
from bgdiff.systems import System
from bgdiff.targets.choose import describe_target

__all__ = ["cluster_reference", "interpolation_task"]

log = logging.getLogger(__name__)

_LEAST_OVERLAP = (
    0.03  # of neighbouring rungs (Klimovich, Shirts & Mobley, J. Comput. Aided Mol. Des. 29, 397, 2015)
)
_BLOCKS = 4  # of the independent ladders of a group, so that errors come from more than a few values
_LEAST_LADDERS = 2  # in a block: with too few samples MBAR hardly converges

Array = NDArray[np.float64]


def cluster_reference(
    system: System, parts: Path, seed: int, processes: int, progress: Progress
) -> dict[str, Any]:
    """What ``reference.json`` says of a cluster: free-energy differences, averages, log Z.

    Differences and averages come from ladders of temperatures, by MBAR; log Z, if the ``interpolation``
    section is there, from ladders of u_λ = λ u + (1 - λ) ½ k Σ|x_i - x̄|² with λ from 1 to 0, where it is
    known. All ladders are independent of each other; each start's are divided into blocks, every block gives
    values of its own, and standard errors are those of their mean.

    Args:
        parts: directory of the finished chunks.

    Raises:
        ConfigError: ``parts`` belongs to other settings.
        DataError: a block of ladders never visited a basin.
        SystemDefinitionError: there is no ``replica_exchange`` section, or a start makes no sense.
    """
    settings = tempering_settings(system)
    tempering = toy_ladder_task(system, seed, keep=False)
    interpolation = interpolation_task(system, seed)
    tasks = [task for task in (tempering, interpolation) if task is not None]
    counts = [task.n_chains * task.n_chunks for task in tasks]
    first = _part(progress, 0, sum(counts))
    content = _tempered(system, tempering, run_chains(tempering, parts / "temperatures", processes, first))
    log_z = None
    if interpolation is not None:
        second = _part(progress, counts[0], sum(counts))
        records = run_chains(interpolation, parts / "interpolation", processes, second)
        log_z = _log_z(interpolation, records, start_labels(settings.starts, 1))
    return content | {
        "log_z": log_z,
        "settings": settings.model_dump(mode="json"),
        "evaluator": describe_target(tempering.components[0]),
        "versions": {
            "bgdiff": bgdiff.__version__,
            "numpy": np.__version__,
            "pymbar": version("pymbar"),
            "torch": version("torch"),
        },
    }


def interpolation_task(system: System, seed: int) -> ToyLadderTask | None:
    """Ladders from the system's density to a harmonic one; None if the system does not ask for log Z."""
    settings = tempering_settings(system).interpolation
    if settings is None or system.spec.coordinates != "mean_free":
        return None
    oscillator = MeanFreeOscillator(*system.target.event_shape, settings.stiffness)
    lambdas = np.linspace(1.0, 0.0, settings.rungs) ** settings.power
    weights = np.stack([lambdas, 1 - lambdas], axis=1)
    return ladder_task(
        system, (system.target, oscillator), weights, settings, seed, keep=False, measure=False
    )


def _part(progress: Progress, done_before: int, total: int) -> Progress:
    """Reports one of several calculations as part of the whole."""

    def report(done: int, _: int, text: str = "", /) -> None:
        progress(done_before + done, total, text)

    return report


def _tempered(system: System, task: ToyLadderTask, records: list[list[Arrays]]) -> dict[str, Any]:
    groups = _joined(records)
    beta = np.array([weight for (weight,) in task.weights])
    blocks = [
        {key: part[key] for key in ("energy", "observables")} | {"energy": part["energy"][..., 0]}
        for group in groups
        for part in _blocks(group, ("energy", "observables"))
    ]
    weights = [
        mbar_log_weights(block["energy"].reshape(-1, len(beta)), beta).reshape(block["energy"].shape)
        for block in blocks
    ]
    lowest = {
        name: np.concatenate([group["observables"][:, :, 0, column].T for group in groups])
        for column, name in enumerate(task.observables)
    }
    lowest["energy"] = np.concatenate([group["energy"][:, :, 0, 0].T for group in groups])
    labels = start_labels(tempering_settings(system).starts, len(blocks) // len(groups))
    return {
        "free_energy_differences": [
            _difference(system, item, task, blocks, weights, labels) for item in system.differences
        ],
        "averages": common_averages(system, task.observables, blocks, weights),
        "heat_capacity": heat_capacity([block["energy"] for block in blocks], list(1 / beta)),
        "temperatures": 1 / beta,
        **mixing(groups),
        "convergence": convergence(lowest),
    }


def _difference(
    system: System,
    item: DifferenceSpec,
    task: ToyLadderTask,
    blocks: Sequence[Arrays],
    weights: Sequence[Array],
    labels: Sequence[str],
) -> dict[str, Any]:
    values = []
    for block, weight, label in zip(blocks, weights, labels, strict=True):
        columns = np.moveaxis(block["observables"].astype(np.float64), 3, 0)
        observables = dict(zip(task.observables, columns, strict=True))
        initial, final = (system.basin(name, observables) for name in (item.initial, item.final))
        try:
            values.append(log_ratio(weight, initial, final))
        except DataError as error:
            raise DataError(f"difference {item.name}, ladders that started from {label}: {error}") from error
    return {
        "name": item.name,
        "initial": item.initial,
        "final": item.final,
        **of_groups(values),
        "method": "parallel tempering, MBAR in each block of ladders; standard error from independent blocks",
        "per_start": _per_start(values, labels),
    }


def _log_z(task: ToyLadderTask, records: list[list[Arrays]], starts: Sequence[str]) -> dict[str, Any]:
    """log Z of the first rung from that of the last, which is known."""
    groups = _joined(records)
    oscillator = task.components[-1]
    assert isinstance(oscillator, MeanFreeOscillator)
    away = np.array([weight for _, weight in task.weights])  # 1 - λ: from 0 to 1
    blocks = [part["energy"] for group in groups for part in _blocks(group, ("energy",))]
    profiles = np.array([group_mbar(energy, away)[0] for energy in blocks])
    values = oscillator.log_z() + profiles[:, -1]
    checked = decorrelated_mbar([group["energy"] for group in groups], away)
    overlap = checked["smallest_overlap_of_neighbours"]
    if overlap < _LEAST_OVERLAP:
        log.warning(
            "log Z: neighbouring rungs of the interpolation overlap by only %.2g, so it may be further off "
            "than its error says; give replica_exchange.interpolation more rungs, or another power",
            overlap,
        )
    labels = [start for start in starts for _ in range(len(blocks) // len(groups))]
    return {
        **of_groups(values),
        "method": "replica exchange between the density and a harmonic one, MBAR in each block of ladders; "
        "standard error from independent blocks",
        "per_start": _per_start(values, labels),
        "harmonic": {"stiffness": oscillator.stiffness, "log_z": oscillator.log_z()},
        "lambdas": 1 - away,
        "free_energy_by_lambda": [of_groups(column) for column in profiles.T],
        "cross_checks": {
            "bar_chain": of_groups([oscillator.log_z() + bar_chain(energy, away) for energy in blocks]),
            "mbar_decorrelated": {
                "value": oscillator.log_z() + checked["value"],
                "std_error": checked["std_error"],
                "smallest_overlap_of_neighbours": overlap,
            },
        },
        **mixing(groups),
    }


def _joined(records: list[list[Arrays]]) -> list[Arrays]:
    return [{key: concatenate(chunks, key) for key in chunks[0]} for chunks in records]


def _blocks(group: Arrays, keys: Sequence[str]) -> list[Arrays]:
    """Parts of a group's ladders, along the second axis of the arrays."""
    number = max(1, min(_BLOCKS, group[keys[0]].shape[1] // _LEAST_LADDERS))
    parts = {key: np.array_split(group[key], number, axis=1) for key in keys}
    return [{key: parts[key][index] for key in keys} for index in range(number)]


def _per_start(values: Sequence[float] | Array, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Means of the blocks of each start; they agree if the ladders forgot it."""
    return [
        {"start": start}
        | of_groups([value for value, label in zip(values, labels, strict=True) if label == start])
        for start in dict.fromkeys(labels)
    ]
