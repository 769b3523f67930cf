"""The free-energy difference between two runs: two ladders from one prior, perturbation between the two."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit

from bgdiff.analysis.free_energy_results import Histogram
from bgdiff.errors import ConfigError
from bgdiff.free_energies.estimates import Found
from bgdiff.free_energies.samples import SampleSet
from bgdiff.free_energy.bootstrap import unit_error, unit_labels
from bgdiff.free_energy.estimate import Estimate, NoOverlapError
from bgdiff.free_energy.importance import normalised_weights
from bgdiff.free_energy.judgement import Candidate
from bgdiff.free_energy.perturbation import kish
from bgdiff.progress import Progress

if TYPE_CHECKING:
    from bgdiff.systems import System

__all__ = ["DIRECT", "DirectSides", "check_comparable", "two_ladders"]

Array = NDArray[np.float64]

DIRECT = "direct BAR"
_FORWARD, _REVERSE = "direct FEP forward", "direct FEP reverse"
_BINS = 60
_SHARED = 0.01  # samples that could be of either system; see bgdiff.free_energy.bennett


def check_comparable(first: "System", second: "System") -> None:
    """Refuse two systems whose energies cannot be evaluated at the same conformations.

    Raises:
        SystemDefinitionError: atoms differ; the first that does is named.
        ConfigError: they are not of the same kind, or leave out different motions.
    """
    if first.spec.kind == second.spec.kind == "openmm":
        from bgdiff.same_atoms import check_same_atoms

        check_same_atoms(first, second)
    elif first.target.event_shape != second.target.event_shape:
        shapes = " and ".join("×".join(map(str, one.target.event_shape)) for one in (first, second))
        raise ConfigError(f"systems {first.name} and {second.name} have conformations of {shapes} numbers")
    if first.spec.coordinates != second.spec.coordinates:
        raise ConfigError(
            f"systems {first.name} and {second.name} use {first.spec.coordinates} and "
            f"{second.spec.coordinates} coordinates, which leave out different motions: their log Z cannot "
            "be compared"
        )


def two_ladders(initial: Found, final: Found) -> Found:
    """F_final - F_initial as the difference of two log Z by the same estimator, whose errors add up.

    Args:
        initial, final: estimates of log Z of both runs.
    """
    found = Found()
    others = {one.name: one for one in final.candidates}
    for one in initial.candidates:
        if one.name in others:
            found.candidates.append(_difference(one, others[one.name]))
        else:
            found.missing[f"two ladders, {one.name}"] = final.missing.get(one.name, "the other run has none")
    return found


def _difference(initial: Candidate, final: Candidate) -> Candidate:
    a, b = initial.estimate, final.estimate
    overlaps = [one.overlap for one in (a, b) if one.overlap is not None]
    gaps = [_gap(one) for one in (a, b)]
    diagnostics: dict[str, float | int | str | bool] = {"log_z_initial": a.value, "log_z_final": b.value}
    if gaps[0] is not None and gaps[1] is not None:
        error = math.hypot(gaps[0][1], gaps[1][1])
        diagnostics["disagreement_z"] = (gaps[1][0] - gaps[0][0]) / error if error > 0 else 0.0
    estimate = Estimate(
        a.value - b.value,
        math.hypot(a.std_error, b.std_error),
        f"difference of two log Z: {a.method}",
        min(a.n_eff, b.n_eff),
        min(overlaps) if overlaps else None,
        diagnostics,
    )
    samples = {f"initial: {name}": n for name, n in initial.samples.items()}
    samples |= {f"final: {name}": n for name, n in final.samples.items()}
    return Candidate(
        f"two ladders, {initial.name}",
        estimate,
        samples,
        two_sided=initial.two_sided,
        exact=initial.exact and final.exact,
        assumes=initial.assumes or final.assumes,
        least_overlap=initial.least_overlap,
    )


def _gap(estimate: Estimate) -> tuple[float, float] | None:
    """Forward minus reverse, and the error of that."""
    facts = [estimate.diagnostics.get(key) for key in ("forward", "reverse", "disagreement_z")]
    if not all(isinstance(fact, float) and math.isfinite(fact) for fact in facts):
        return None
    forward, reverse, z = (float(fact) for fact in facts)  # type: ignore[arg-type]
    return forward - reverse, abs((forward - reverse) / z) if z else 0.0


@dataclass(frozen=True)
class DirectSides:
    """Corrected samples of both systems, each with the energies of both: perturbation without a ladder.

    Samples of a carry normalised weights p, those of b weights q; with w = u_b - u_a,

        F_b - F_a = -log Σ_a p e^(-w) = log Σ_b q e^w,

    and Bennett's estimate is the root Δ of n_a Σ_a p f(M + w - Δ) = n_b Σ_b q f(Δ - M - w), with f(y) =
    1/(1 + e^y), effective numbers n of samples and M = log(n_a/n_b); it holds for any n, these are near the
    best. Errors are those of first order, with samples summed over independent units.

    Args:
        initial, final: samples of a and b with their weights.
        initial_system, final_system: whose energies are compared.
    """

    initial: SampleSet
    final: SampleSet
    initial_system: "System"
    final_system: "System"
    progress: Progress

    def add(self, found: Found) -> None:
        """Add both perturbations and Bennett's estimate."""
        found.attempt(_FORWARD, self._forward)
        found.attempt(_REVERSE, self._reverse)
        found.attempt(DIRECT, self._bennett)

    def works(self, crossing: float | None) -> Histogram:
        """Distributions of u_b - u_a under either system; they cross at F_b - F_a."""
        parts = [(self._works[0], self._weights[0]), (self._works[1], self._weights[1])]
        ends = [_quantiles(work, weight) for work, weight in parts]
        low, high = min(end[0] for end in ends), max(end[1] for end in ends)
        margin = 0.08 * (high - low) or 0.5
        edges = np.linspace(low - margin, high + margin, _BINS + 1)
        shares = [np.histogram(work, edges, weights=weight)[0].tolist() for work, weight in parts]
        return Histogram(
            label="u(final) − u(initial)", edges=edges.tolist(), forward=shares[0], reverse=shares[1],
            crossing=crossing,
        )  # fmt: skip

    @cached_property
    def _weights(self) -> tuple[Array, Array]:
        return normalised_weights(self.initial.log_weight), normalised_weights(self.final.log_weight)

    @cached_property
    def _works(self) -> tuple[Array, Array]:
        """u_b - u_a at the samples of a, and at those of b; ±inf where one of them has no energy."""
        total, done, found = len(self.initial) + len(self.final), 0, []
        for samples in (self.initial, self.final):
            parts = []
            for x in samples.conformations():
                energies = [
                    _energy(system, torch.from_numpy(x))
                    for system in (self.initial_system, self.final_system)
                ]
                with np.errstate(invalid="ignore"):
                    parts.append(energies[1] - energies[0])
                done += len(x)
                self.progress(done, total)
            found.append(np.concatenate(parts))
        # a conformation without energy in the other system weighs nothing from either side
        return np.where(np.isfinite(found[0]), found[0], np.inf), np.where(
            np.isfinite(found[1]), found[1], -np.inf
        )

    @cached_property
    def _units(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        return tuple(unit_labels(one.unit, len(one)) for one in (self.initial, self.final))  # type: ignore[return-value]

    def _forward(self) -> Candidate:
        value, error, n_eff = _perturbation(
            self._weights[0], self._works[0], self._units[0], "the initial system"
        )
        return self._one_sided(_FORWARD, value, error, n_eff, "initial", self.initial)

    def _reverse(self) -> Candidate:
        value, error, n_eff = _perturbation(
            self._weights[1], -self._works[1], self._units[1], "the final system"
        )
        return self._one_sided(_REVERSE, -value, error, n_eff, "final", self.final)

    def _one_sided(
        self, name: str, value: float, error: float, n_eff: float, side: str, samples: SampleSet
    ) -> Candidate:
        method = "perturbation of weighted samples, first-order error"
        estimate = Estimate(value, error, method, n_eff, n_eff / len(samples))
        return Candidate(name, estimate, {f"{side}: {samples.name}": len(samples)})

    def _bennett(self) -> Candidate:
        (p, q), (w, v) = self._weights, self._works
        n_a, n_b = (
            kish(np.bincount(unit, weights=one)) for unit, one in zip(self._units, (p, q), strict=True)
        )
        shift = math.log(n_a / n_b)

        def terms(difference: float) -> tuple[Array, Array]:
            return expit(difference - shift - w), expit(shift + v - difference)

        def excess(difference: float) -> float:
            f, g = terms(difference)
            return float(n_a * (p @ f) - n_b * (q @ g))

        ends = [one[np.isfinite(one) & (weight > 0)] for one, weight in ((w, p), (v, q))]
        if not all(end.size for end in ends):
            raise NoOverlapError("one of the systems has no sample with a finite energy in the other")
        finite = np.concatenate(ends)
        value = float(brentq(excess, finite.min() - 50 + shift, finite.max() + 50 + shift, xtol=1e-10))
        f, g = terms(value)
        shared = float(n_a * (p @ (f * (1 - f))) + n_b * (q @ (g * (1 - g))))
        if shared < _SHARED:
            raise NoOverlapError(
                f"the two systems share {shared:.2g} of {n_a:.0f} + {n_b:.0f} effective samples: they do not "
                "overlap; use the two ladders instead"
            )
        influence = [n_a * p * (f - p @ f) / shared, n_b * q * (g - q @ g) / shared]
        sides = [self._forward().estimate, self._reverse().estimate]
        estimate = Estimate(
            value,
            unit_error(influence, list(self._units)),
            "Bennett acceptance ratio of weighted samples, first-order error",
            min(
                kish(np.bincount(self._units[0], weights=p * f)),
                kish(np.bincount(self._units[1], weights=q * g)),
            ),
            min(shared * (1 / n_a + 1 / n_b), 1.0),
            {
                "forward": sides[0].value,
                "forward_std_error": sides[0].std_error,
                "reverse": sides[1].value,
                "reverse_std_error": sides[1].std_error,
                "disagreement_z": sides[0].z_score(sides[1].value, sides[1].std_error),
            },
        )
        samples = {f"initial: {self.initial.name}": len(p), f"final: {self.final.name}": len(q)}
        return Candidate(DIRECT, estimate, samples, two_sided=True)


def _perturbation(
    weight: Array, work: Array, unit: NDArray[np.intp], name: str
) -> tuple[float, float, float]:
    """-log Σ weight e^(-work), its error, and the effective number of units."""
    used = np.isfinite(work) & (weight > 0)
    if not used.any():
        raise NoOverlapError(f"no sample of {name} has a finite energy in the other system")
    lowest = float(work[used].min())
    factor = np.where(used, np.exp(lowest - np.where(used, work, np.inf)), 0.0)
    new = weight * factor
    total = float(new.sum())
    error = unit_error([new / total - weight], [unit])
    return lowest - math.log(total), error, kish(np.bincount(unit, weights=new))


def _energy(system: "System", x: torch.Tensor) -> Array:
    energy = np.concatenate([system.target.energy(part).numpy() for part in x.split(4096)])
    return np.where(np.isfinite(energy), energy, np.inf)


def _quantiles(values: Array, weight: Array) -> tuple[float, float]:
    used = np.isfinite(values) & (weight > 0)
    order = np.argsort(values[used])
    below = np.cumsum(weight[used][order])
    rows = np.searchsorted(below / below[-1], [2e-3, 1 - 2e-3]).clip(0, order.size - 1)
    low, high = values[used][order][rows]
    return float(low), float(high)
