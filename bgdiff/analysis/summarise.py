"""From the arrays of a run to its :class:`~bgdiff.analysis.results.Results`."""

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bgdiff.analysis.results import (
    BasinPopulation,
    FreeEnergyDifference,
    LogZ,
    ObservableInfo,
    Results,
    z_score,
)
from bgdiff.analysis.weights import ess_forward, ess_kish, normalised_weights, weight_diagnostics
from bgdiff.errors import DataError
from bgdiff.free_energy.estimate import EmptyBasinError
from bgdiff.free_energy.importance import (
    expectation,
    family_log_weights,
    free_energy_difference,
    log_z,
)

if TYPE_CHECKING:
    from bgdiff.system_spec import DifferenceSpec
    from bgdiff.systems import System

__all__ = ["rebalancing_log_weight", "summarise"]

logger = logging.getLogger(__name__)

Observables = Mapping[str, NDArray[np.float64]]
Masks = Mapping[str, NDArray[np.bool_]]


def summarise(
    system: "System",
    log_weight: ArrayLike,
    proposal: Observables,
    data: Observables,
    *,
    preset: str,
    seed: int,
    bgdiff_version: str,
    target_evaluations: int,
    timings: Mapping[str, float],
    versions: Mapping[str, str],
    held_out: Observables | None = None,
    held_out_log_weight: ArrayLike | None = None,
    method: Literal["is", "smc"] = "is",
    family: ArrayLike | None = None,
    n_resamplings: int = 0,
    n_populations: int = 0,
    warnings: Sequence[str] = (),
) -> Results:
    """Estimate everything the system asks for.

    Args:
        system: basins, differences and reference values.
        log_weight: (n,) log weights of the proposal's samples.
        proposal: observables of the same samples, each (n,); torsions in radian.
        data: observables of the whole data set.
        held_out: observables of the held-out frames, each (m,).
        held_out_log_weight: (m,) log weights of the held-out frames.
        method: how the samples were corrected.
        family: (n,) numbers of the samples' first-generation ancestors, if samples were ever copied.
        n_resamplings, n_populations: of sequential Monte Carlo.
        warnings: what earlier stages have to say; notes about the estimates are appended.

    Raises:
        ZeroWeightsError: no sample carries any weight.
        DataError: an array has the wrong length.
    """
    weights = np.asarray(log_weight, dtype=np.float64)
    _check_lengths("proposal", proposal, weights.size)
    # copies of one particle are one draw, so the shape of the weights is judged by family
    diagnostics = weight_diagnostics(family_log_weights(weights, family), held_out_log_weight)
    notes = list(warnings)
    in_proposal, in_data = _masks(system, proposal), _masks(system, data)
    reference = system.reference
    rebalanced = None
    if held_out is not None and held_out_log_weight is not None:
        m = np.size(held_out_log_weight)
        _check_lengths("held_out", held_out, m)
        in_held_out = _masks(system, held_out)
        importance = rebalancing_log_weight(weights, in_proposal, in_held_out, m)
        rebalanced = None if importance is None else ess_forward(held_out_log_weight, importance)
    return Results(
        bgdiff_version=bgdiff_version,
        system=system.name,
        title=system.spec.title,
        temperature=system.temperature if system.spec.kind == "openmm" else None,
        preset=preset,
        seed=seed,
        n_samples=diagnostics.n_samples,
        n_nonfinite=int(np.count_nonzero(~np.isfinite(weights))),
        n_data=_length(data),
        n_held_out=0 if held_out_log_weight is None else int(np.size(held_out_log_weight)),
        method=method,
        effective_fraction=diagnostics.ess_kish,
        n_resamplings=n_resamplings,
        n_populations=n_populations,
        surviving_ancestors=None if family is None else int(np.unique(family).size),
        ess_kish=ess_kish(weights),
        ess_forward=diagnostics.ess_forward,
        ess_forward_rebalanced=rebalanced,
        ess_clipped_1e4=diagnostics.ess_clipped_1e4,
        ess_trimmed_0p2pct=diagnostics.ess_trimmed_0p2pct,
        max_weight_share=diagnostics.max_weight_share,
        pareto_k=diagnostics.pareto_k,
        log_z=_log_z(weights, family, reference.get("log_z")),
        free_energy_differences=[
            _difference(spec, weights, family, in_proposal, in_data, _named(reference, spec.name), notes)
            for spec in system.differences
        ],
        basins=[
            _basin(system, name, weights, family, in_proposal[name], in_data[name]) for name in in_proposal
        ],
        observables=[_observable(system, name) for name in system.spec.observables],
        target_evaluations=target_evaluations,
        timings=dict(timings),
        versions=dict(versions),
        warnings=notes,
    )


def rebalancing_log_weight(
    log_weight: ArrayLike, proposal: Masks, held_out: Masks, n_held_out: int
) -> NDArray[np.float64] | None:
    """Log weights (m,) that give held-out frames the reweighted populations of the basins.

    The basins cut space into cells, one for every combination of memberships; each cell's frames are
    weighted by its reweighted population over its share of the frames.

    Returns:
        None when a cell of the held-out frames has no weight among the samples, or the reverse: then
        the proportions are not known, and one of the two sets misses a region.
    """
    shares = normalised_weights(log_weight)
    ours, theirs = _cells(proposal, shares.size), _cells(held_out, n_held_out)
    n_cells = 2 ** len(proposal)
    true = np.bincount(ours, weights=shares, minlength=n_cells)
    seen = np.bincount(theirs, minlength=n_cells) / n_held_out
    if ((true > 0) != (seen > 0)).any():
        return None
    used = seen > 0
    ratio = np.zeros(n_cells)
    ratio[used] = np.log(true[used] / seen[used])
    return np.asarray(ratio[theirs])


def _cells(masks: Masks, n: int) -> NDArray[np.intp]:
    cell = np.zeros(n, dtype=np.intp)
    for bit, mask in enumerate(masks.values()):
        cell += mask.astype(np.intp) << bit
    return cell


def _masks(system: "System", observables: Observables) -> dict[str, NDArray[np.bool_]]:
    return {name: system.basin(name, observables) for name in system.spec.basins}


def _log_z(
    log_weight: NDArray[np.float64], family: ArrayLike | None, reference: Mapping[str, Any] | None
) -> LogZ:
    estimate = log_z(log_weight, family=family)
    value, error = _reference(reference)
    return LogZ(
        value=estimate.value,
        std_error=estimate.std_error,
        method=estimate.method,
        n_eff=estimate.n_eff,
        reference=value,
        reference_std_error=error,
        reference_method=(reference or {}).get("method"),
        z_score=z_score(estimate.value, estimate.std_error, value, error),
    )


def _difference(
    spec: "DifferenceSpec",
    log_weight: NDArray[np.float64],
    family: ArrayLike | None,
    in_proposal: Masks,
    in_data: Masks,
    reference: Mapping[str, Any] | None,
    notes: list[str],
) -> FreeEnergyDifference:
    names = (spec.initial, spec.final)

    def counted(masks: Masks) -> float | None:
        n = masks[spec.initial].size
        try:
            return free_energy_difference(np.zeros(n), masks[spec.initial], masks[spec.final]).value
        except DataError:  # an empty basin or an empty set: no such number
            return None

    value, error = _reference(reference)
    try:
        estimate = free_energy_difference(
            log_weight, in_proposal[spec.initial], in_proposal[spec.final], names=names, family=family
        )
    except EmptyBasinError as problem:
        logger.warning("free-energy difference %s: %s", spec.name, problem)
        notes.append(f"free-energy difference {spec.name} could not be estimated: {problem}")
        numbers: dict[str, Any] = {"value": None, "std_error": None, "n_eff": None, "method": "none"}
    else:
        numbers = {
            "value": estimate.value,
            "std_error": estimate.std_error,
            "n_eff": estimate.n_eff,
            "method": estimate.method,
        }
    return FreeEnergyDifference(
        name=spec.name,
        initial=spec.initial,
        final=spec.final,
        **numbers,
        reference=value,
        reference_std_error=error,
        reference_method=(reference or {}).get("method"),
        z_score=z_score(numbers["value"], numbers["std_error"], value, error),
        data_value=counted(in_data),
        proposal_value=counted(in_proposal),
    )


def _basin(
    system: "System",
    name: str,
    log_weight: NDArray[np.float64],
    family: ArrayLike | None,
    in_proposal: NDArray[np.bool_],
    in_data: NDArray[np.bool_],
) -> BasinPopulation:
    spec = system.spec.basins[name]
    population = expectation(log_weight, in_proposal, family=family)
    return BasinPopulation(
        name=name,
        observable=spec.observable,
        intervals=[(lo, hi) for lo, hi in spec.intervals],
        data=float(in_data.mean()) if in_data.size else None,
        proposal=float(in_proposal.mean()),
        reweighted=population.value,
        reweighted_std_error=population.std_error,
    )


def _observable(system: "System", name: str) -> ObservableInfo:
    spec = system.spec.observables[name]
    if spec.dihedral is not None:
        return ObservableInfo(name=name, kind="dihedral", unit="rad")
    kind: Any = "distance" if spec.distance is not None else "component"
    return ObservableInfo(name=name, kind=kind, unit="nm" if system.spec.kind == "openmm" else "reduced")


def _reference(entry: Mapping[str, Any] | None) -> tuple[float | None, float | None]:
    return (None, None) if not entry else (entry.get("value"), entry.get("std_error"))


def _named(reference: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    entries = reference.get("free_energy_differences") or []
    return next((entry for entry in entries if entry.get("name") == name), None)


def _length(observables: Observables) -> int:
    return len(next(iter(observables.values()), ()))


def _check_lengths(what: str, observables: Observables, n: int) -> None:
    for name, values in observables.items():
        if np.shape(values) != (n,):
            raise DataError(
                f"{what}: observable {name} has shape {np.shape(values)}, but there are {n} log weights"
            )
