"""From the arrays of a run to its :class:`~bgdiff.analysis.results.Results`."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bgdiff.analysis.chains import ChainRecord, chain_diagnostics
from bgdiff.analysis.estimators import ChainDraws, Estimator, PooledSamples, WeightedSamples
from bgdiff.analysis.results import (
    BasinCondition,
    BasinPopulation,
    FreeEnergyDifference,
    LogZ,
    ObservableInfo,
    Results,
    SwapRates,
    z_score,
)
from bgdiff.analysis.weights import ess_forward, ess_kish, normalised_weights, weight_diagnostics
from bgdiff.config import Method
from bgdiff.errors import DataError
from bgdiff.free_energy.estimate import EmptyBasinError
from bgdiff.free_energy.importance import family_log_weights, free_energy_difference
from bgdiff.free_energy.pooling import PooledSets, WeightedSet

if TYPE_CHECKING:
    from bgdiff.system_spec import DifferenceSpec
    from bgdiff.systems import System

__all__ = ["rebalancing_log_weight", "summarise"]

logger = logging.getLogger(__name__)

_NO_LOG_Z = "replica exchange samples the target without its normaliser; is, smc and imh give log Z"

Observables = Mapping[str, NDArray[np.float64]]
Masks = Mapping[str, NDArray[np.bool_]]
EarlierSamples = tuple[ArrayLike, Observables, ArrayLike | None]
"""Log weights, observables and numbers of families (None for independent walks) of a set of samples."""


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
    method: Method = "is",
    family: ArrayLike | None = None,
    n_resamplings: int = 0,
    n_populations: int = 0,
    chains: ChainRecord | None = None,
    energy: ArrayLike | None = None,
    walk_log_weight: ArrayLike | None = None,
    earlier: Sequence[EarlierSamples] = (),
    seconds: float | None = None,
    warnings: Sequence[str] = (),
) -> Results:
    """Estimate everything the system asks for.

    Args:
        system: basins, differences and reference values.
        log_weight: (n,) log weights of the proposal's samples; all equal if they are draws of chains.
        proposal: observables of the same samples, each (n,); torsions in radian.
        data: observables of the whole data set.
        held_out: observables of the held-out frames, each (m,).
        held_out_log_weight: (m,) log weights of the held-out frames.
        method: how the samples were corrected.
        family: (n,) numbers of the samples' first-generation ancestors, if samples were ever copied.
        n_resamplings, n_populations: of sequential Monte Carlo.
        chains: what is known about the chains, if the samples are draws of chains, round by round.
        energy: (n,) reduced energies of the draws, by which chains are judged too.
        walk_log_weight: log weights of the walks that chains took as proposals; they give log Z.
        earlier: what was drawn and corrected before, in rounds of training. Free
            energies and populations pool them with the samples, unless those are draws of chains; what
            describes the samples themselves, such as the effective fraction, leaves them out.
        seconds: what the samples took, training included.
        warnings: what earlier stages have to say; notes about the estimates are appended.

    Raises:
        ZeroWeightsError: no sample carries any weight.
        DataError: an array has the wrong length.
    """
    weights = np.asarray(log_weight, dtype=np.float64)
    _check_lengths("proposal", proposal, weights.size)
    notes = list(warnings)
    in_proposal, in_data = _masks(system, proposal), _masks(system, data)
    reference = system.reference
    estimator: Estimator
    in_estimate: Masks = in_proposal
    if chains is None:
        sets: PooledSets | None = _pooled(weights, family, earlier)
        estimator = PooledSamples(sets) if earlier and sets else WeightedSamples(weights, family)
        in_estimate = _joined([in_proposal, *(_masks(system, seen) for _, seen, _ in earlier)])
        diagnosed: ArrayLike | None = family_log_weights(weights, family)
        health: dict[str, Any] = {}
    else:
        sets = None if walk_log_weight is None else _pooled(np.asarray(walk_log_weight), None, ())
        estimator = ChainDraws(chains.n_chains)
        diagnosed = walk_log_weight
        health = _health(chains, system, proposal, in_proposal, energy)
    rebalanced = None
    if held_out is not None and held_out_log_weight is not None:
        m = np.size(held_out_log_weight)
        _check_lengths("held_out", held_out, m)
        in_held_out = _masks(system, held_out)
        importance = rebalancing_log_weight(weights, in_proposal, in_held_out, m)
        rebalanced = None if importance is None else ess_forward(held_out_log_weight, importance)
    quality = _weight_quality(diagnosed, held_out_log_weight)
    if chains is None:
        # copies of one particle are one draw, so the shape of the weights is judged by family
        health["effective_fraction"] = quality["ess_kish"]
        quality["ess_kish"] = ess_kish(weights)
    proposed = weights if walk_log_weight is None else np.asarray(walk_log_weight)
    worth = health["effective_fraction"] * weights.size
    return Results(
        bgdiff_version=bgdiff_version,
        system=system.name,
        title=system.spec.title,
        temperature=system.temperature if system.spec.kind == "openmm" else None,
        preset=preset,
        seed=seed,
        n_samples=weights.size,
        n_nonfinite=int(np.count_nonzero(~np.isfinite(proposed))),
        n_data=_length(data),
        n_held_out=0 if held_out_log_weight is None else int(np.size(held_out_log_weight)),
        method=method,
        effective_samples_per_evaluation=worth / target_evaluations if target_evaluations else None,
        effective_samples_per_second=worth / seconds if seconds else None,
        n_resamplings=n_resamplings,
        n_populations=n_populations,
        surviving_ancestors=None if family is None else int(np.unique(family).size),
        **health,
        **quality,
        ess_forward_rebalanced=rebalanced,
        log_z=None if sets is None else _log_z(sets, reference.get("log_z")),
        log_z_missing=_NO_LOG_Z if sets is None else None,
        free_energy_differences=[
            _difference(
                spec, estimator, in_estimate, in_proposal, in_data, _named(reference, spec.name), notes
            )
            for spec in system.differences
        ],
        basins=[
            _basin(system, name, estimator, in_estimate[name], in_proposal[name], in_data[name])
            for name in in_proposal
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


def _weight_quality(log_weight: ArrayLike | None, held_out: ArrayLike | None) -> dict[str, Any]:
    """What weights say about themselves; all None without weights, but for the held-out frames."""
    if log_weight is None:
        names = ("ess_kish", "ess_clipped_1e4", "ess_trimmed_0p2pct", "max_weight_share", "pareto_k")
        forward = None if held_out is None else ess_forward(held_out)
        return {**dict.fromkeys(names), "ess_forward": forward}
    known = asdict(weight_diagnostics(log_weight, held_out))
    del known["n_samples"], known["n_nonfinite"]
    return known


def _health(
    chains: ChainRecord,
    system: "System",
    observables: Observables,
    basins: Masks,
    energy: ArrayLike | None,
) -> dict[str, Any]:
    """Diagnostics of chains, by every observable (angles by cosine and sine), basin, and the energy."""
    quantities: dict[str, ArrayLike] = {} if energy is None else {"energy": energy}
    for name, values in observables.items():
        if system.spec.observables[name].periodic:
            quantities |= {f"cos {name}": np.cos(values), f"sin {name}": np.sin(values)}
        else:
            quantities[name] = values
    quantities |= {f"basin {name}": mask for name, mask in basins.items()}
    n = next((np.size(values) for values in quantities.values()), 0)
    states = n if energy is None else _n_states(np.asarray(energy), chains.n_chains)
    found = chain_diagnostics(quantities, chains.n_chains, states)
    rates = chains.swap_rates
    return {
        "effective_fraction": min(found.effective_draws / n, 1.0),
        "n_chains": chains.n_chains,
        "acceptance": chains.acceptance,
        "autocorrelation_time": n / found.effective_draws,
        "slowest": found.slowest,
        "rhat": found.rhat,
        "round_trips": chains.round_trips,
        "swap_rates": None if not rates else SwapRates(min=min(rates), mean=float(np.mean(rates))),
    }


def _n_states(energy: NDArray[np.float64], n_chains: int) -> int:
    """How many states chains have been in: a draw that repeats the one before is the same state."""
    rounds = energy.reshape(-1, n_chains)
    return n_chains + int(np.count_nonzero(rounds[1:] != rounds[:-1]))


def _pooled(
    log_weight: NDArray[np.float64],
    family: ArrayLike | None,
    earlier: Sequence[EarlierSamples],
) -> PooledSets:
    return PooledSets(
        [WeightedSet(log_weight, family), *(WeightedSet(weights, theirs) for weights, _, theirs in earlier)]
    )


def _joined(masks: Sequence[Masks]) -> Masks:
    """The masks of several sets of samples as one, set after set."""
    return {name: np.concatenate([part[name] for part in masks]) for name in masks[0]}


def _log_z(sets: PooledSets, reference: Mapping[str, Any] | None) -> LogZ:
    estimate = sets.log_z()
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
    estimator: Estimator,
    in_estimate: Masks,
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
        estimate = estimator.difference(in_estimate[spec.initial], in_estimate[spec.final], names)
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
        proposal_value=None if isinstance(estimator, ChainDraws) else counted(in_proposal),
    )


def _basin(
    system: "System",
    name: str,
    estimator: Estimator,
    in_estimate: NDArray[np.bool_],
    in_proposal: NDArray[np.bool_],
    in_data: NDArray[np.bool_],
) -> BasinPopulation:
    first, *others = system.spec.basins[name].terms
    population = estimator.average(in_estimate)
    return BasinPopulation(
        name=name,
        observable=first.observable,
        intervals=list(first.intervals),
        and_conditions=[
            BasinCondition(observable=term.observable, intervals=list(term.intervals)) for term in others
        ],
        data=float(in_data.mean()) if in_data.size else None,
        proposal=None if isinstance(estimator, ChainDraws) else float(in_proposal.mean()),
        reweighted=population.value,
        reweighted_std_error=population.std_error,
    )


def _observable(system: "System", name: str) -> ObservableInfo:
    spec = system.spec.observables[name]
    if spec.in_degrees:
        return ObservableInfo(name=name, kind="dihedral" if spec.periodic else "angle", unit="rad")
    kind: Any = spec.kind
    if not spec.is_length:
        return ObservableInfo(name=name, kind=kind, unit="own")
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
