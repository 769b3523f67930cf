r"""Bidirectional path BAR by region: log Z from walks down the ladder and walks up from data, together.

Walks down have weights W with E[W 1_A] = Z_A, the target's integral over a region A, where the sum runs over
the walks that end there (:mod:`bgdiff.ladder.paths`). Walks up start at data. If the data that lie in A are
in equilibrium *within* A, whatever share of all data they are, walks up from there are drawn from the density
of walks down times W 1_A / Z_A. So for every function h of walks (Meng & Wong 1996, eq. 2.1)

    E_down[W 1_A h] = Z_A E_up,A[h],

of which the best h is Bennett's. With n walks down, m_A walks up from A and M = log(n/m_A), log Z_A is the
root of

    Σ_{down, in A} 1/(1 + e^(M + log Z_A - log W)) = Σ_{up, from A} 1/(1 + e^(log W - log Z_A - M)),

which is Bennett's equation for works -log W down, +inf for walks that end elsewhere, and +log W up (Crooks).
A walk that ends elsewhere adds nothing to the sum and counts in n. Regions share the walks down, so that

    log Z = log Σ_A Z_A over a partition,   F_B - F_A = log Z_A - log Z_B,   p_A = Z_A / Z

do not ask in which proportion the data hold the regions. One-sided estimates of the same are

    forward   log Z_A = log (1/n) Σ_{down, in A} W
    reverse   log Z_A = log (n_A/n) - log (1/m_A) Σ_{up, from A} 1/W,       n_A walks down that end in A.

Both are limits of h = 1/(W + e^κ), of which Bennett's choice is κ = M + log Z_A. Their tails are too heavy
for a test, so two milder choices, κ ± 2, are compared: they disagree beyond errors if the data are not in
equilibrium within A, or walks down miss parts of it. Errors are those of one block bootstrap of the units of
both sets, or of sums over units to first order.

References: Bennett, J. Comput. Phys. 22, 245 (1976), eqs. 10-12; Meng & Wong, Statistica Sinica 6, 831
(1996); Crooks, Phys. Rev. E 61, 2361 (2000), eq. 9; Shirts, Bair, Hooker & Pande, Phys. Rev. Lett. 91, 140601
(2003).
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logsumexp

from bgdiff.errors import ConfigError, DataError
from bgdiff.free_energy.bootstrap import block_bootstrap, bootstrap_error, unit_error, unit_labels
from bgdiff.free_energy.estimate import EmptyBasinError, Estimate, NotConvergedError

__all__ = ["ELSEWHERE", "BidirectionalPaths", "Walks"]

log = logging.getLogger(__name__)

Array = NDArray[np.float64]
Rows = NDArray[np.intp]
Combination = Callable[[Array], Array]

ELSEWHERE = "elsewhere"
"""Name of the region of all ends that lie in no other region."""

_BENNETT, _FORWARD, _REVERSE, _DOWNWARD, _UPWARD = range(5)  # ways to choose κ
_LEAN = 2.0  # kT by which the last two lean to one side
_MOST_ITERATIONS = 200


@dataclass(frozen=True)
class Walks:
    """Walks of one direction.

    Args:
        log_weight: log W ``(n,)``. Down: not finite means weight zero. Up: must be finite.
        region: ``(n,)`` number of the region in which the walk ends at the target (down) or starts there
            (up); -1 for those in none.
        unit: ``(n,)`` labels of what is independent: by default every walk; families or populations of
            sequential Monte Carlo, chains of molecular dynamics.
    """

    log_weight: ArrayLike
    region: ArrayLike
    unit: ArrayLike | None = None


class BidirectionalPaths:
    """Free energies from walks in both directions, with the estimates of either direction in the diagnostics.

    ``n_eff`` is the Kish number of walks down that importance sampling would need for the same error, of the
    poorer region. ``disagreement_z`` is that of the two mild sides. A region without
    data is estimated from the walks down alone, one where no walk down ends cannot be estimated; both are
    said in the diagnostics.

    Args:
        down, up: the walks; there may be none up.
        names: of the regions, which must not overlap; :data:`ELSEWHERE` is added.
        bootstrap: resamplings of units for the errors; 0: first-order errors.

    Raises:
        DataError: shapes do not match, a walk up has no finite weight, or region numbers are out of range.
        EmptyBasinError: no walk down has weight.
        NotConvergedError: Bennett's equation has no root within rounding.
    """

    def __init__(
        self, down: Walks, up: Walks, names: Sequence[str] = (), *, bootstrap: int = 200, seed: int = 0
    ) -> None:
        if bootstrap < 0 or bootstrap == 1:
            raise ConfigError(f"bootstrap: expected 0 or at least 2 resamplings, got {bootstrap}")
        self.names = (*names, ELSEWHERE)
        weight, self._region_down, self._unit_down = _checked(down, "walks down", len(names))
        self.n_nonfinite = int((~np.isfinite(weight)).sum())
        self._down = np.where(np.isfinite(weight), weight, -np.inf)
        if not np.isfinite(self._down).any():
            raise EmptyBasinError(f"walks down: none of {weight.size} walks has a weight; train longer")
        self._up, self._region_up, self._unit_up = _checked(up, "walks up", len(names))
        bad = ~np.isfinite(self._up)
        if bad.any():
            raise DataError(
                f"walks up: {int(bad.sum())} of {bad.size} have no finite weight (first: "
                f"{int(bad.argmax())}); their data have no finite energy, or the model none: check that both "
                "belong to the same system"
            )
        self._units = [self._unit_down] + ([self._unit_up] if self._up.size else [])
        everything = [np.arange(self._down.size), np.arange(self._up.size)][: len(self._units)]
        self._log_z = self._solve(everything)
        self._replicates = np.empty((0, 5, len(self.names)))
        if bootstrap:
            self._replicates = block_bootstrap(self._solve, self._units, bootstrap, seed)
        self._influence = self._first_order()
        missed = [name for name, (n, m) in self.counts.items() if m and not n]
        if missed:
            log.warning("regions with data, in which no walk down ends: %s", ", ".join(missed))

    @property
    def counts(self) -> dict[str, tuple[int, int]]:
        """Walks down that end in each region with a weight, and walks up from it."""
        with_weight = np.isfinite(self._down)
        return {
            name: (int((with_weight & (self._region_down == r)).sum()), int((self._region_up == r).sum()))
            for r, name in enumerate(self.names)
        }

    def log_z(self) -> Estimate:
        """log Z of the target over all regions; the overlap is the regions' mean, weighted by their Z_A."""
        share = np.exp(self._log_z[_BENNETT] - _total(self._log_z[_BENNETT]))
        overlaps = [self._overlap(r) for r in range(len(self.names))]
        overlap = float(sum(p * (o or 0.0) for p, o in zip(share, overlaps, strict=True)))
        return self._estimate(_total, "log Z, path BAR", range(len(self.names)), overlap, together=True)

    def region(self, name: str) -> Estimate:
        """log Z_A of a region.

        Overlap: of the walks down that end in the region with those up from it, as that of
        :func:`~bgdiff.free_energy.bennett.bar`; None without data there.
        """
        r = self._number(name)
        return self._estimate(lambda z: z[..., r], f"log Z of {name}, path BAR", [r], self._overlap(r))

    def difference(self, initial: str, final: str) -> Estimate:
        """F_final - F_initial in kT of two regions; the overlap is the smaller one of both."""
        a, b = self._number(initial), self._number(final)
        overlaps = [o for o in (self._overlap(a), self._overlap(b)) if o is not None]
        return self._estimate(
            lambda z: z[..., a] - z[..., b],
            "path BAR by region",
            [a, b],
            min(overlaps) if len(overlaps) == 2 else None,
        )

    def population(self, name: str) -> Estimate:
        """The target's probability of a region."""
        r = self._number(name)
        return self._estimate(
            lambda z: np.exp(z[..., r] - _total(z)), f"population of {name}, path BAR", [r], self._overlap(r)
        )

    def _number(self, name: str) -> int:
        if name not in self.names:
            raise ConfigError(f"there is no region {name!r}; the regions are: {', '.join(self.names)}")
        r = self.names.index(name)
        n, m = self.counts[name]
        if not n:
            raise EmptyBasinError(
                f"region {name}: none of {self._down.size} walks down ends there with a weight"
                + (f", though {m} data frames lie in it: the model misses it; train longer, or" if m else ";")
                + " draw more walks"
            )
        return r

    def _solve(self, rows: list[Rows]) -> Array:
        """log Z of every region in five ways ``(5, R)``; -inf where no walk ends."""
        down, at_down = self._down[rows[0]], self._region_down[rows[0]]
        up, at_up = self._up, self._region_up
        if len(rows) > 1:
            up, at_up = up[rows[1]], at_up[rows[1]]
        found = np.full((5, len(self.names)), -np.inf)
        for r in range(len(self.names)):
            a, b = down[at_down == r], up[at_up == r]
            a = a[np.isfinite(a)]
            for way, (f, g, kappa) in enumerate(_bridges(a, b)):
                found[way, r] = _log_sum(f) - math.log(down.size) + kappa
                if b.size:
                    found[way, r] -= _log_sum(g) - math.log(b.size)
        return found

    def _first_order(self) -> list[Array]:
        """What each walk adds to log Z_A, in each way and region: ``(5, R, n)`` and ``(5, R, m)``."""
        changes = [np.zeros((5, len(self.names), size)) for size in (self._down.size, self._up.size)]
        for r in range(len(self.names)):
            a = np.flatnonzero((self._region_down == r) & np.isfinite(self._down))
            b = np.flatnonzero(self._region_up == r)
            for way, (f, g, _) in enumerate(_bridges(self._down[a], self._up[b])):
                of_down, of_up = np.exp(f - _log_sum(f)), np.exp(g - _log_sum(g)) if b.size else g
                if way == _BENNETT and b.size:
                    # κ follows the root: the sums of f and g agree, and change together
                    here, there = np.exp(f), np.exp(g)
                    slope = float((here * (1 - here)).sum() + (there * (1 - there)).sum())
                    of_down, of_up = here / slope, there / slope
                changes[0][way, r, a] = of_down
                changes[1][way, r, b] = of_up.mean() - of_up if b.size else of_up
        return changes[: len(self._units)]

    def _overlap(self, r: int) -> float | None:
        a = self._down[self._region_down == r]
        a, b = a[np.isfinite(a)], self._up[self._region_up == r]
        if not a.size or not b.size:
            return None
        centre = self._log_z[_BENNETT, r] + math.log(self._down.size / b.size)
        f, g = expit(a - centre), expit(centre - b)
        shared = float((f * (1 - f)).sum() + (g * (1 - g)).sum())
        return min(shared * (1 / a.size + 1 / b.size), 1.0)

    def _estimate(
        self,
        combine: Combination,
        method: str,
        regions: Sequence[int],
        overlap: float | None,
        *,
        together: bool = False,
    ) -> Estimate:
        ways = range(5)
        value, forward, reverse, downward, upward = (float(combine(self._log_z[way])) for way in ways)
        gradients = [_gradient(combine, self._log_z[way]) for way in ways]
        changes = [
            [gradient @ part[way] for part in self._influence]
            for way, gradient in zip(ways, gradients, strict=True)
        ]
        changes.append([a - b for a, b in zip(changes[_DOWNWARD], changes[_UPWARD], strict=True)])
        asymptotic = [unit_error(change, self._units) for change in changes]
        errors, lost, how = asymptotic, 0, "first-order error"
        if len(self._replicates):
            with np.errstate(invalid="ignore"):
                values = [combine(self._replicates[:, way]) for way in ways]
                values.append(values[_DOWNWARD] - values[_UPWARD])
            pairs = [bootstrap_error(one, self._units) for one in values]
            errors, lost = [float(error) for error, _ in pairs], pairs[_BENNETT][1]
            how = f"bootstrap error ({len(self._replicates)} resamplings)"
        grouped = any(int(unit.max()) + 1 < unit.size for unit in self._units)
        named = [self.names[r] for r in regions]
        diagnostics: dict[str, float | int | str | bool] = {
            "asymptotic_std_error": asymptotic[_BENNETT],
            "forward": forward,
            "forward_std_error": errors[_FORWARD],
            "n_down": self._down.size,
            "n_up": sum(self.counts[name][1] for name in named),
            "n_nonfinite": self.n_nonfinite,
        }
        if diagnostics["n_up"]:
            diagnostics |= {
                "reverse": reverse,
                "reverse_std_error": errors[_REVERSE],
                "disagreement_z": (downward - upward) / errors[-1] if errors[-1] > 0 else 0.0,
            }
        one_sided = [name for name in named if self.counts[name][0] and not self.counts[name][1]]
        missed = [name for name in named if self.counts[name][1] and not self.counts[name][0]]
        for key, which in (("regions_without_data", one_sided), ("regions_without_walks", missed)):
            if which:
                diagnostics[key] = ", ".join(which)
        if lost:
            diagnostics["resamples_without_value"] = lost
        # the Kish number of walks down at which importance sampling would have this error
        n_units = int(self._unit_down.max()) + 1
        poorest = asymptotic[0] if together else max(self._region_error(r) for r in regions)
        return Estimate(
            value,
            errors[_BENNETT],
            f"{method}, {how}" + (" over units" if grouped else ""),
            1 / (poorest**2 + 1 / n_units),
            overlap,
            diagnostics,
        )

    def _region_error(self, r: int) -> float:
        return unit_error([part[_BENNETT, r] for part in self._influence], self._units)


def _checked(walks: Walks, name: str, n_regions: int) -> tuple[Array, Rows, Rows]:
    weight, region = np.asarray(walks.log_weight, dtype=np.float64), np.asarray(walks.region)
    if weight.ndim != 1 or region.shape != weight.shape:
        raise DataError(
            f"{name}: log weights of shape {weight.shape} and regions of shape {region.shape}; both must "
            "be (n,)"
        )
    if region.size and (region.dtype.kind not in "iu" or not -1 <= region.min() <= region.max() < n_regions):
        raise DataError(f"{name}: regions must be whole numbers from -1 (none) to {n_regions - 1}")
    region = np.where(region < 0, n_regions, region).astype(np.intp)
    return weight, region, unit_labels(walks.unit, weight.size, f"unit of {name}")


def _bridges(down: Array, up: Array) -> list[tuple[Array, Array, float]]:
    """log W h of walks down, log h of walks up with a common factor e^κ, and κ, in each of five ways."""
    if not down.size:
        return []
    if not up.size:
        return [(down, up, 0.0)] * 5
    root = _root(down, up, float(_log_sum(down)) - math.log(up.size))
    found = [(down - np.logaddexp(down, root), root - np.logaddexp(up, root), root)]
    found.append((down, np.zeros_like(up), 0.0))
    found.append((np.zeros_like(down), -up, 0.0))
    for kappa in (root + _LEAN, root - _LEAN):
        found.append((down - np.logaddexp(down, kappa), kappa - np.logaddexp(up, kappa), kappa))
    return found


def _root(down: Array, up: Array, start: float) -> float:
    """c with Σ 1/(1 + e^(c - down)) = Σ 1/(1 + e^(up - c)), by Newton's steps within a shrinking bracket.

    pymbar has the same root, one at a time and far too slowly for thousands of resamples.
    """
    low = min(float(down.min()), float(up.min())) - 50.0
    high = max(float(down.max()), float(up.max())) + 50.0
    at = min(max(start, low), high)
    for _ in range(_MOST_ITERATIONS):
        f, g = expit(down - at), expit(at - up)
        excess = float(f.sum() - g.sum())
        low, high = (at, high) if excess > 0 else (low, at)
        slope = float((f * (1 - f)).sum() + (g * (1 - g)).sum())
        following = at + excess / slope if slope > 0 else math.nan
        if not low < following < high:
            following = 0.5 * (low + high)
        if abs(following - at) < 1e-10 * (1 + abs(at)):
            return following
        at = following
    raise NotConvergedError(f"path BAR: no root between {low:g} and {high:g}; look for outliers among log W")


def _log_sum(values: Array) -> float:
    """log Σ e^values of finite values; scipy's does more and takes long for thousands of small arrays."""
    largest = float(values.max())
    return largest + math.log(float(np.exp(values - largest).sum()))


def _total(log_z: Array) -> Array:
    return np.asarray(logsumexp(log_z, axis=-1))


def _gradient(combine: Combination, log_z: Array) -> Array:
    """d combine / d log Z_A by central differences ``(R,)``; 0 for regions that do not enter."""
    step, found = 1e-5, np.zeros(log_z.size)
    for r in np.flatnonzero(np.isfinite(log_z)):
        shifted = np.repeat(log_z[None], 2, axis=0)
        shifted[:, r] += (step, -step)
        above, below = combine(shifted)
        found[r] = (above - below) / (2 * step)
    return np.nan_to_num(found)
