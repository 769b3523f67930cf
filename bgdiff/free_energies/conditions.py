"""What the samples of a run say at other temperatures and along a variable."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bgdiff.analysis.free_energy_results import Average, EstimateRecord, ProfileRecord, TemperaturePoint
from bgdiff.analysis.results import z_score
from bgdiff.errors import DataError
from bgdiff.free_energies.estimates import Repeats
from bgdiff.free_energies.samples import SampleSet
from bgdiff.free_energy.bootstrap import unit_error, unit_labels
from bgdiff.free_energy.estimate import Estimate, NoOverlapError
from bgdiff.free_energy.importance import scaled_weights
from bgdiff.free_energy.judgement import ENOUGH
from bgdiff.free_energy.perturbation import kish
from bgdiff.free_energy.profile import free_energy_profile
from bgdiff.free_energy.temperature import at_temperature, temperature_difference
from bgdiff.observable_spec import ObservableSpec

__all__ = ["at_another_temperature", "profile_along"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

_FEWEST_BINS, _MOST_BINS = 24, 72
_LEAST_RESAMPLINGS = 200


def at_another_temperature(
    samples: SampleSet,
    temperature: float,
    new_temperature: float,
    differences: Mapping[str, tuple[Mask, Mask]],
    averaged: Mapping[str, tuple[Array, str]],
    repeats: Repeats,
    references: Mapping[str, Mapping[str, Any]],
) -> TemperaturePoint:
    """Differences, populations and the mean energy at another temperature; refused where it is out of reach.

    Args:
        samples: with their energies.
        temperature, new_temperature: K, or relative to the run's for systems in reduced units.
        differences: masks ``(n,)`` of the initial and final region, by name.
        averaged: what to average ``(n,)`` and its unit, by name.
        references: independent values of the differences at the new temperature, by name.
    """
    assert samples.energy is not None
    try:
        shifted = at_temperature(
            samples.log_weight, samples.energy, temperature, new_temperature, unit=samples.unit,
            least_effective=ENOUGH,
        )  # fmt: skip
    except NoOverlapError as problem:
        return TemperaturePoint(
            temperature=new_temperature, refused=str(problem), n_eff=None, overlap=None, change=None,
            differences=[], averages=[],
        )  # fmt: skip
    weight, _ = scaled_weights(shifted)
    labels = unit_labels(samples.unit, len(samples))
    n_eff = kish(np.bincount(labels, weights=weight))
    change = temperature_difference(
        samples.log_weight, samples.energy, temperature, new_temperature, unit=samples.unit,
        bootstrap=repeats.bootstrap, seed=repeats.seed,
    )  # fmt: skip
    energy = np.where(weight > 0, samples.energy * (temperature / new_temperature), 0.0)
    averages = [_average("potential_energy_kT", weight, energy, labels, "kT")]
    averages += [_average(name, weight, values, labels, unit) for name, (values, unit) in averaged.items()]
    return TemperaturePoint(
        temperature=new_temperature,
        refused=None,
        n_eff=n_eff,
        overlap=n_eff / (int(labels.max()) + 1),
        change=_record("F(T')/kT' − F(T)/kT", change, len(samples), samples.name),
        differences=[
            _difference(name, weight, masks, labels, samples, references.get(name, {}))
            for name, masks in differences.items()
        ],
        averages=averages,
    )


def profile_along(
    samples: SampleSet,
    name: str,
    spec: ObservableSpec,
    values: Array,
    repeats: Repeats,
    *,
    molecule: bool,
    level: float = 0.95,
) -> ProfileRecord:
    """Free energy along a variable, with a band that covers the whole curve at once.

    Args:
        values: ``(n,)`` of the variable at the samples; radian for angles.
        molecule: lengths are in nm, not in reduced units.
    """
    scale = math.degrees(1.0) if spec.in_degrees else 1.0
    shown = values * scale
    weight, _ = scaled_weights(samples.log_weight)
    bins = int(np.clip(1.5 * kish(weight) ** 0.4, _FEWEST_BINS, _MOST_BINS))
    edges = np.linspace(-180, 180, bins + 1) if spec.periodic else _edges(shown, weight, bins)
    unit = "degree" if spec.in_degrees else "nm" if spec.is_length and molecule else ""
    try:
        found = free_energy_profile(
            shown, edges, log_weight=samples.log_weight, period=360.0 if spec.periodic else None,
            unit=samples.unit, bootstrap=max(repeats.bootstrap, _LEAST_RESAMPLINGS), level=level,
            seed=repeats.seed,
        )  # fmt: skip
    except DataError as problem:
        return ProfileRecord(
            variable=name, unit=unit, periodic=spec.periodic, confidence=level, edges=edges.tolist(),
            free_energy=[], std_error=[], low=[], high=[], n_eff=[], outside=None, refused=str(problem),
        )  # fmt: skip
    lowest = float(np.min(found.free_energy))
    low, high = found.band
    return ProfileRecord(
        variable=name,
        unit=unit,
        periodic=spec.periodic,
        confidence=level,
        edges=edges.tolist(),
        free_energy=(found.free_energy - lowest).tolist(),
        std_error=found.std_error.tolist(),
        low=(low - lowest).tolist(),
        high=(high - lowest).tolist(),
        n_eff=found.n_eff.tolist(),
        outside=found.outside,
    )


def _difference(
    name: str,
    weight: Array,
    masks: tuple[Mask, Mask],
    labels: NDArray[np.intp],
    samples: SampleSet,
    reference: Mapping[str, Any],
) -> EstimateRecord:
    """F_final - F_initial of weighted samples, with the error of sums over units."""
    parts = [weight * mask for mask in masks]
    sums = [float(part.sum()) for part in parts]
    if not all(sums):
        estimate = Estimate(math.nan, math.inf, "ratio of region weights", 0.0)
        return _record(name, estimate, len(samples), samples.name, "a region is empty at this temperature")
    error = unit_error([parts[0] / sums[0] - parts[1] / sums[1]], [labels])
    n_eff = min(kish(np.bincount(labels, weights=part)) for part in parts)
    estimate = Estimate(math.log(sums[0] / sums[1]), error, "ratio of region weights", n_eff)
    problem = f"{n_eff:.3g} effective samples, {ENOUGH:.0f} are needed" if n_eff < ENOUGH else None
    record = _record(name, estimate, len(samples), samples.name, problem)
    value, value_error = reference.get("value"), reference.get("std_error")
    distance = None if problem else z_score(estimate.value, estimate.std_error, value, value_error)
    compared = {"reference": value, "reference_std_error": value_error, "z_score": distance}
    return record.model_copy(update=compared)


def _average(name: str, weight: Array, values: Array, labels: NDArray[np.intp], unit: str) -> Average:
    share = weight / weight.sum()
    mean = float(share @ values)
    n_eff = kish(np.bincount(labels, weights=weight))
    error = unit_error([share * (values - mean)], [labels])
    return Average(name=name, value=mean, std_error=error, n_eff=n_eff, unit=unit)


def _record(name: str, estimate: Estimate, n: int, source: str, problem: str | None = None) -> EstimateRecord:
    return EstimateRecord(
        estimator=name,
        value=estimate.value,
        std_error=estimate.std_error,
        n_eff=estimate.n_eff,
        overlap=estimate.overlap,
        method=estimate.method,
        two_sided=False,
        exact=True,
        samples={source: n},
        problem=problem,
        diagnostics=dict(estimate.diagnostics),
    )


def _edges(values: Array, weight: Array, bins: int) -> Array:
    """Bins over the central 99.98 % of the weight."""
    used = np.isfinite(values) & (weight > 0)
    order = np.argsort(values[used])
    below = np.cumsum(weight[used][order])
    ends = np.searchsorted(below / below[-1], [1e-4, 1 - 1e-4]).clip(0, order.size - 1)
    low, high = values[used][order][ends]
    margin = 0.02 * (high - low) or 0.5
    return np.linspace(low - margin, high + margin, bins + 1)
