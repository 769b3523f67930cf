r"""Bennett's acceptance ratio: the free-energy difference from samples of both ensembles.

With forward works w = u_b - u_a of n_F samples of a, reverse works w = u_a - u_b of n_R samples of b,
f(y) = 1/(1 + exp(y)) and M = log(n_F/n_R), ΔF = F_b - F_a is the root of

    Σ_F f(M + w - ΔF) = Σ_R f(-M + w + ΔF),

the maximum-likelihood estimate given all works. Crooks' theorem makes it hold for works of driven paths.

A work of +inf adds nothing to either sum but counts in n_F or n_R. The equation depends on M - ΔF only, so
the root Δ' for the m_F and m_R finite works alone, with M' = log(m_F/m_R), gives ΔF = Δ' + M - M'.

With S = Σ f(1-f) over all samples, the number of samples that could be of either ensemble,

    overlap = S (1/n_F + 1/n_R)       (pymbar's scalar: 1 minus the second eigenvalue of the overlap matrix)
    error²  = 1/S - 1/n_F - 1/n_R     (MBAR's asymptotic error for two states)

Bennett's own error, Σ_F f²/(Σ_F f)² + Σ_R f²/(Σ_R f)² - 1/n_F - 1/n_R, agrees where the overlap is good and
is too small where it is poor; it is among the diagnostics. For units of correlated samples the error is that
of the sums Σ f over units, divided by S; or of the block bootstrap.

References: Bennett, J. Comput. Phys. 22, 245 (1976), eqs. 10-12; Shirts, Bair, Hooker & Pande, Phys. Rev.
Lett. 91, 140601 (2003), eqs. 7-8; Crooks, Phys. Rev. E 61, 2361 (2000); Klimovich, Shirts & Mobley, J.
Comput. Aided Mol. Des. 29, 397 (2015) on the overlap matrix.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from bgdiff.free_energy.bootstrap import block_bootstrap, bootstrap_error, unit_error, unit_labels
from bgdiff.free_energy.estimate import Estimate, NoOverlapError, NotConvergedError
from bgdiff.free_energy.perturbation import fep, fep_reverse, finite_work, kish
from bgdiff.free_energy.quiet import pymbar, quietly

__all__ = ["bar", "bennett_root"]

Array = NDArray[np.float64]

_FLAT = 1e-3  # slope below which Newton's steps are not trusted
_PRECISE = 1e-9  # kT
_SHARED = 0.01  # samples that could be of either ensemble; with fewer the error is above 10 kT


@dataclass(frozen=True)
class _Works:
    """Works of both directions with ``shift`` = M: +inf where there is none."""

    forward: Array
    reverse: Array

    @property
    def shift(self) -> float:
        return math.log(self.forward.size / self.reverse.size)

    def terms(self, difference: float) -> tuple[Array, Array]:
        """f of every forward and reverse sample, at ``difference`` = ΔF; 0 where the work is infinite."""
        return (
            expit(difference - self.shift - self.forward),
            expit(self.shift - difference - self.reverse),
        )

    def solve(self) -> float:
        """The root ΔF; nan where pymbar finds none."""
        forward, reverse = (works[np.isfinite(works)] for works in (self.forward, self.reverse))
        if not forward.size or not reverse.size:
            return math.nan
        offset = self.shift - math.log(forward.size / reverse.size)
        # Works are centred for pymbar, whose tolerance is relative to the root; equal works are a root.
        centre = 0.5 * (float(np.median(forward)) - float(np.median(reverse)))
        forward, reverse = forward - centre, reverse + centre
        solver = pymbar().other_estimators.bar
        for method in ("false-position", "bisection"):
            with quietly():
                try:
                    root = solver(forward, reverse, method=method, compute_uncertainty=False)["Delta_f"]
                except Exception:  # pymbar raises ParameterError, its subclasses and FloatingPointError
                    continue
            found = float(root) + centre + offset
            if self.is_root(found):
                return found
        return math.nan

    def refine(self, guess: float) -> float:
        """The root by Newton's method from a good guess, on log Σ_F f - log Σ_R f, which is nearly straight.

        Falls back to :meth:`solve`; it saves most of the time where works are resampled.
        """
        difference = guess
        for _ in range(20):
            parts = self.terms(difference)
            sums = [float(part.sum()) for part in parts]
            if not (math.isfinite(difference) and min(sums) > 0):
                break
            slope = sum(float((f * (1 - f)).sum()) / total for f, total in zip(parts, sums, strict=True))
            if slope < _FLAT:
                break
            step = (math.log(sums[0]) - math.log(sums[1])) / slope
            difference -= step
            if abs(step) < _PRECISE:
                return difference
        return self.solve()

    def is_root(self, difference: float) -> bool:
        """Whether both sums agree; pymbar returns 0 in silence where it overflows."""
        if not math.isfinite(difference):
            return False
        forward, reverse = (float(part.sum()) for part in self.terms(difference))
        return math.isclose(forward, reverse, rel_tol=1e-6)


def bar(
    forward: ArrayLike,
    reverse: ArrayLike,
    *,
    forward_unit: ArrayLike | None = None,
    reverse_unit: ArrayLike | None = None,
    bootstrap: int = 0,
    seed: int = 0,
    names: tuple[str, str] = ("a", "b"),
) -> Estimate:
    """Estimate F_b - F_a in kT from works of both directions.

    Args:
        forward: (n_F,) works u_b - u_a of samples of a, or of paths driven from a to b; +inf allowed.
        reverse: (n_R,) works u_a - u_b of samples of b, or of paths driven from b to a; +inf allowed.
        forward_unit: (n_F,) labels of the independent units; by default every sample is its own.
        reverse_unit: (n_R,) likewise.
        bootstrap: number of resamplings of units for the error; 0: asymptotic error.
        names: of the ensembles a and b, for error messages.

    Returns:
        n_eff is the smaller of Kish's numbers of units of both sums, weighted by their share Σ f: how many
        independent samples of the poorer side decide. The overlap is as above. Diagnostics: forward and
        reverse perturbation (``forward``, ``reverse``, with ``…_std_error``) and ``disagreement_z``, their
        difference in combined errors; ``shared_samples`` S; ``bennett_std_error``, ``asymptotic_std_error``;
        ``n_forward``, ``n_reverse``, ``n_nonfinite`` of both.

    Raises:
        DataError: works are empty, -inf, or of another shape.
        NoOverlapError: no work of one direction is finite, or the ensembles share less than 0.01 samples.
        NotConvergedError: pymbar found no root.

    >>> estimate = bar([0.4, 1.6], [-1.6, -0.4])  # works of normal distributions about 1
    >>> round(estimate.value, 6)
    1.0
    """
    w_f, bad_f = finite_work(forward, "forward work")
    w_r, bad_r = finite_work(reverse, "reverse work")
    for bad, here, there in ((bad_f, names[0], names[1]), (bad_r, names[1], names[0])):
        if bad.all():
            raise NoOverlapError(
                f"none of {bad.size} samples of {here} has a finite work to {there}: the ensembles do not "
                "overlap; put intermediate states between them"
            )
    units = [unit_labels(forward_unit, w_f.size, "forward_unit")]
    units.append(unit_labels(reverse_unit, w_r.size, "reverse_unit"))
    works = _Works(w_f, w_r)
    value = works.solve()
    if math.isnan(value):
        raise NotConvergedError(
            f"BAR from {names[0]} to {names[1]}: pymbar finds no root for {w_f.size} forward and "
            f"{w_r.size} reverse works; look at their range for outliers"
        )
    f_f, f_r = works.terms(value)
    shared = float((f_f * (1 - f_f)).sum() + (f_r * (1 - f_r)).sum())
    if shared < _SHARED:
        raise NoOverlapError(
            f"{names[0]} and {names[1]} share {shared:.2g} of {w_f.size} + {w_r.size} samples: the ensembles "
            "do not overlap; put intermediate states between them"
        )
    inverse = 1 / w_f.size + 1 / w_r.size
    bennett = max(f_f @ f_f / f_f.sum() ** 2 + f_r @ f_r / f_r.sum() ** 2 - inverse, 0.0)
    asymptotic = math.sqrt(max(1 / shared - inverse, 0.0))
    grouped = forward_unit is not None or reverse_unit is not None
    error, how, lost = asymptotic, "asymptotic error", 0
    if grouped:
        error, how = unit_error([f_f / shared, f_r / shared], units), "asymptotic error over units"
    if bootstrap:
        error, lost = _bootstrap(works, value, units, bootstrap, seed)
        how = f"bootstrap error ({bootstrap} resamplings)" + (" over units" if grouped else "")
    sides = fep(w_f, unit=units[0]), fep_reverse(w_r, unit=units[1])
    diagnostics: dict[str, float | int | str | bool] = {
        "forward": sides[0].value,
        "forward_std_error": sides[0].std_error,
        "reverse": sides[1].value,
        "reverse_std_error": sides[1].std_error,
        "disagreement_z": sides[0].z_score(sides[1].value, sides[1].std_error),
        "shared_samples": shared,
        "asymptotic_std_error": asymptotic,
        "bennett_std_error": math.sqrt(bennett),
        "n_forward": w_f.size,
        "n_reverse": w_r.size,
        "n_nonfinite": int(bad_f.sum() + bad_r.sum()),
    }
    if lost:
        diagnostics["resamples_without_value"] = lost
    n_eff = min(kish(np.bincount(unit, weights=f)) for unit, f in zip(units, (f_f, f_r), strict=True))
    overlap = min(shared * inverse, 1.0)
    return Estimate(value, error, f"Bennett acceptance ratio, {how}", n_eff, overlap, diagnostics)


def bennett_root(forward: Array, reverse: Array, guess: float) -> float:
    """F_b - F_a alone, without checks, from works of :func:`bar`; nan where there is no solution."""
    return _Works(forward, reverse).refine(guess)


def _bootstrap(
    works: _Works, value: float, units: list[NDArray[np.intp]], repeats: int, seed: int
) -> tuple[float, int]:
    def statistic(rows: list[NDArray[np.intp]]) -> float:
        return _Works(works.forward[rows[0]], works.reverse[rows[1]]).refine(value)

    error, lost = bootstrap_error(block_bootstrap(statistic, units, repeats, seed), units)
    return float(error), lost
