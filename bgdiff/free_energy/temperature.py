r"""The same samples at another temperature.

The potential energy U does not depend on temperature (an implicit solvent's often does: then evaluate it
again), so reduced energies u = U/kT change to u' = u T/T' and weights by the factor exp(-(T/T' - 1) u). How
far this reaches is set by the width of the energy's distribution: with a configurational heat capacity C, in
units of k, the effective fraction falls about as exp(-C (ΔT/T)²), so the reach shrinks as 1/√(atoms).

Free energies are configurational, F = -log ∫ exp(-u) in kT of their own temperature; momenta are left out.

References: Zwanzig, J. Chem. Phys. 22, 1420 (1954); Ferrenberg & Swendsen, Phys. Rev. Lett. 61, 2635 (1988).
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bgdiff.errors import ConfigError, DataError
from bgdiff.free_energy.bootstrap import block_bootstrap, bootstrap_error, unit_error, unit_labels
from bgdiff.free_energy.estimate import Estimate, NoOverlapError
from bgdiff.free_energy.importance import scaled_weights
from bgdiff.free_energy.perturbation import kish

__all__ = [
    "LEAST_EFFECTIVE",
    "at_temperature",
    "temperature_difference",
    "temperature_reach",
    "temperature_scan",
]

Array = NDArray[np.float64]

LEAST_EFFECTIVE = 30.0
"""Effective samples below which a temperature counts as out of reach: errors are then not known to 13 %."""
_FARTHEST = 8.0  # the reach is searched from T/8 to 8 T


def at_temperature(
    log_weight: ArrayLike,
    energy: ArrayLike,
    temperature: float,
    new_temperature: float,
    *,
    unit: ArrayLike | None = None,
    least_effective: float = LEAST_EFFECTIVE,
) -> Array:
    """Log weights (n,) of the samples at ``new_temperature``, on the scale of the old ones.

    Args:
        log_weight: (n,) log weights at ``temperature``, log of exp(-u)/q; not finite: weight zero.
        energy: (n,) reduced energies u = U/kT at ``temperature``; a sample without a finite one has weight
            zero.
        temperature, new_temperature: in kelvin (any unit, the same for both).
        unit: (n,) labels of the independent units; by default every sample is its own.
        least_effective: units that must count effectively at the new temperature.

    Raises:
        ConfigError: a temperature is not positive.
        DataError: shapes differ.
        NoOverlapError: too few effective samples; says how many, and which temperatures are within reach.
    """
    weights, u = _checked(log_weight, energy, temperature)
    result = _shifted(weights, u, temperature, new_temperature)
    found = _effective(result, unit)
    if found < least_effective:
        low, high = temperature_reach(
            log_weight, energy, temperature, unit=unit, least_effective=least_effective
        )
        reach = (
            f"{low:.4g} to {high:.4g} are within reach; draw more samples, or sample nearer to it"
            if low < high
            else f"at {temperature:g} itself there are {_effective(weights, unit):.3g}; draw more samples"
        )
        raise NoOverlapError(
            f"temperature {new_temperature:g}: {found:.3g} effective samples of {u.size} drawn for "
            f"{temperature:g}, fewer than {least_effective:g}; {reach}"
        )
    return result


def temperature_scan(
    log_weight: ArrayLike,
    energy: ArrayLike,
    temperature: float,
    temperatures: ArrayLike,
    *,
    unit: ArrayLike | None = None,
) -> Array:
    """Effective number of independent units (Kish) at each of ``temperatures``, same shape.

    Arguments are those of :func:`at_temperature`; nothing is refused for being too few.
    """
    weights, u = _checked(log_weight, energy, temperature)
    grid = np.asarray(temperatures, dtype=np.float64)
    found = [_effective(_shifted(weights, u, temperature, float(one)), unit) for one in grid.ravel()]
    return np.array(found).reshape(grid.shape)


def temperature_reach(
    log_weight: ArrayLike,
    energy: ArrayLike,
    temperature: float,
    *,
    unit: ArrayLike | None = None,
    least_effective: float = LEAST_EFFECTIVE,
) -> tuple[float, float]:
    """Lowest and highest temperature with ``least_effective`` effective units, in an unbroken range.

    Both are ``temperature`` if it has too few itself; the search ends at an eighth and eight times of it.
    """
    weights, u = _checked(log_weight, energy, temperature)

    def enough(one: float) -> bool:
        return _effective(_shifted(weights, u, temperature, one), unit) >= least_effective

    if not enough(temperature):
        return temperature, temperature
    ends = []
    for direction in (-1, 1):
        inside, step = 0.0, 1 / 64
        while step < 1 and enough(temperature * _FARTHEST ** (direction * step)):
            inside, step = step, min(2 * step, 1.0)
        outside = step
        if step == 1 and enough(temperature * _FARTHEST**direction):
            inside = 1.0
        for _ in range(20):
            middle = 0.5 * (inside + outside)
            if enough(temperature * _FARTHEST ** (direction * middle)):
                inside = middle
            else:
                outside = middle
        ends.append(temperature * _FARTHEST ** (direction * inside))
    return ends[0], ends[1]


def temperature_difference(
    log_weight: ArrayLike,
    energy: ArrayLike,
    temperature: float,
    new_temperature: float,
    *,
    unit: ArrayLike | None = None,
    bootstrap: int = 0,
    seed: int = 0,
) -> Estimate:
    """F(T')/kT' - F(T)/kT, configurational, from samples weighted for T.

    It is -log of the mean of exp(-(T/T' - 1) u) under the weights; the mean energy cancels from its error.

    Args:
        bootstrap: number of resamplings of units for the error; 0: delta method. All others are those of
            :func:`at_temperature`.

    Returns:
        n_eff and overlap (its fraction of all units) are those of the weights at the new temperature.

    Raises:
        NoOverlapError: the new temperature is out of reach, as in :func:`at_temperature`.
    """
    old, _ = scaled_weights(_checked(log_weight, energy, temperature)[0])
    shifted = at_temperature(log_weight, energy, temperature, new_temperature, unit=unit)
    new, scale = scaled_weights(shifted)
    _, old_scale = scaled_weights(_checked(log_weight, energy, temperature)[0])
    labels = unit_labels(unit, old.size)
    value = old_scale - scale + float(np.log(old.sum() / new.sum()))
    lost = 0
    if bootstrap:

        def statistic(rows: list[NDArray[np.intp]]) -> float:
            return float(np.log(old[rows[0]].sum()) - np.log(new[rows[0]].sum()))

        errors, lost = bootstrap_error(block_bootstrap(statistic, [labels], bootstrap, seed), [labels])
        error, how = float(errors), f"bootstrap error ({bootstrap} resamplings)"
    else:
        error, how = unit_error([new / new.sum() - old / old.sum()], [labels]), "delta-method error"
    n_eff = kish(np.bincount(labels, weights=new))
    return Estimate(
        value,
        error,
        f"reweighting to another temperature, {how}" + ("" if unit is None else " over units"),
        n_eff,
        n_eff / (int(labels.max()) + 1),
        {"resamples_without_value": lost} if lost else {},
    )


def _checked(log_weight: ArrayLike, energy: ArrayLike, temperature: float) -> tuple[Array, Array]:
    weights, u = np.asarray(log_weight, dtype=np.float64), np.asarray(energy, dtype=np.float64)
    if u.shape != weights.shape or u.ndim != 1 or u.size == 0:
        raise DataError(f"energy: shape {u.shape} does not match log_weight {weights.shape}, both (n,)")
    _positive(temperature)
    used = np.isfinite(weights) & np.isfinite(u)
    return np.where(used, weights, -np.inf), np.where(used, u, 0.0)


def _shifted(log_weight: Array, energy: Array, temperature: float, new_temperature: float) -> Array:
    _positive(new_temperature)
    return log_weight - (temperature / new_temperature - 1) * energy


def _positive(temperature: float) -> None:
    if not (math.isfinite(temperature) and temperature > 0):
        raise ConfigError(f"temperature: expected a positive number, got {temperature}")


def _effective(log_weight: Array, unit: ArrayLike | None) -> float:
    weight, _ = scaled_weights(log_weight)
    return kish(np.bincount(unit_labels(unit, weight.size), weights=weight))
