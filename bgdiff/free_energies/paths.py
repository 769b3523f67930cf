"""Estimates from walks down the ladder and walks of data up, by region: path BAR, and the walks up alone."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from bgdiff.analysis.free_energy_results import Histogram
from bgdiff.free_energies.estimates import Found, Repeats
from bgdiff.free_energies.samples import SampleSet, UpWalks
from bgdiff.free_energy.estimate import Estimate
from bgdiff.free_energy.judgement import Candidate
from bgdiff.free_energy.paths import ELSEWHERE, BidirectionalPaths, Walks
from bgdiff.free_energy.perturbation import kish

__all__ = ["FRAMES", "PATH_BAR", "REVERSE", "PathSides", "cells", "work_range"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

PATH_BAR = "path BAR"
REVERSE = "FEP reverse"
FRAMES = "walks up"
_BINS = 60
_ASSUMPTION = "the data are in equilibrium within every region"


def work_range(forward: Array, reverse: Array, crossing: float) -> tuple[float, float]:
    """The part of an axis of works on which two sets of them are drawn.

    It reaches two interquartile ranges beyond the quartiles of either, 3.4 standard deviations of a normal
    distribution from its middle, or to all but a per cent on each side where tails are heavier, but for
    two works at least: of the few walks into a rare region one that went astray would squeeze the others
    together. No further than the samples, and as far as the crossing.
    """
    ends = [crossing]
    for work in (forward, reverse):
        tail = min(0.25, max(0.01, 2 / work.size))
        first, lower, upper, last = np.quantile(work, [tail, 0.25, 0.75, 1 - tail])
        reach = 2 * (upper - lower)
        ends += [max(work.min(), min(first, lower - reach)), min(work.max(), max(last, upper + reach))]
    margin = 0.08 * float(np.ptp(ends)) or 0.5
    return float(min(ends) - margin), float(max(ends) + margin)


def cells(masks: Mapping[str, Sequence[Mask]]) -> tuple[list[str], list[NDArray[np.int64]]]:
    """Cut space into the cells that regions make, one for each combination of memberships.

    Args:
        masks: by region, one mask for every set of samples.

    Returns:
        Names of the cells that hold a sample, and for every set the number of each sample's cell; -1 outside
        all regions.
    """
    names = list(masks)
    codes = [
        sum(
            (mask.astype(np.int64) << bit for bit, mask in enumerate(parts)),
            np.zeros(parts[0].size, np.int64),
        )
        for parts in zip(*masks.values(), strict=True)
    ]
    seen = [code for code in np.unique(np.concatenate(codes)).tolist() if code]
    labels = [" and ".join(name for bit, name in enumerate(names) if code >> bit & 1) for code in seen]
    lookup = {code: number for number, code in enumerate(seen)}
    return labels, [np.array([lookup.get(code, -1) for code in part.tolist()]) for part in codes]


class PathSides:
    """Walks of both directions, their regions numbered.

    Args:
        walks: independent walks down.
        frames: held-out frames walked up.
        names: of the regions.
        down, up: number of each walk's region, -1 for none.
    """

    def __init__(
        self,
        walks: SampleSet,
        frames: UpWalks,
        names: Sequence[str],
        down: NDArray[np.int64],
        up: NDArray[np.int64],
        repeats: Repeats,
    ) -> None:
        self._walks, self._frames, self._down, self._up = walks, frames, down, up
        self._samples = {walks.name: len(walks), FRAMES: len(frames)}
        self._both = BidirectionalPaths(
            Walks(walks.log_weight, down),
            Walks(frames.log_weight, up, frames.chain),
            names,
            bootstrap=repeats.bootstrap,
            seed=repeats.seed,
        )

    def has_both(self, name: str) -> bool:
        """Whether walks down end in a region, and walks up start there."""
        return all(self._both.counts[name])

    def difference(self, found: Found, initial: str, final: str) -> None:
        """Add the estimates of F_final - F_initial."""
        self._add(found, lambda: self._both.difference(initial, final), (initial, final), False)

    def log_z(self, found: Found) -> None:
        """Add the estimates of log Z."""
        self._add(found, self._both.log_z, self._both.names, True)

    def works(self, name: str | None = None) -> Histogram:
        """Distributions of -log W of the walks down that end in a region, and of those up from it.

        They cross at -log(Z_A/q_A), q_A being the share of walks down that end in the region.
        """
        down, up = self._walks.log_weight, self._frames.log_weight
        share = self._shares()
        crossing = -(self._both.log_z() if name is None else self._both.region(name)).value
        if name is not None:
            number = self._both.names.index(name)
            down, up, share = down[self._down == number], up[self._up == number], share[self._up == number]
            crossing += math.log(len(down) / len(self._down))
        forward, reverse = -down[np.isfinite(down)], -up
        low, high = work_range(forward, reverse, crossing)
        bins = int(np.clip(4 * min(forward.size, reverse.size) ** (1 / 3), 16, _BINS))
        edges = np.linspace(low, high, bins + 1)
        return Histogram(
            label=name or "all conformations",
            edges=edges.tolist(),
            forward=(np.histogram(forward, edges)[0] / len(down)).tolist(),
            reverse=np.histogram(reverse, edges, weights=share / share.sum())[0].tolist(),
            crossing=crossing,
        )

    def _shares(self) -> Array:
        """Weights of the walks up ``(m,)`` that give every region its population, whatever the data hold."""
        share = np.ones(len(self._up))
        for number, name in enumerate(self._both.names):
            here = self._up == (number if name != ELSEWHERE else -1)
            if here.any() and self.has_both(name):
                share[here] = self._both.population(name).value / here.sum()
            else:
                share[here] = 0.0
        return share

    def _add(self, found: Found, make: Callable[[], Estimate], regions: Sequence[str], whole: bool) -> None:
        empty = [name for name in regions if self._both.counts[name][0] and not self._both.counts[name][1]]
        known = [name for name in empty if name != ELSEWHERE]
        if known:
            reason = f"no held-out frame lies in {', '.join(known)}; give data there, or more with --frames"
            found.missing |= {PATH_BAR: reason, REVERSE: reason}
            return
        found.attempt(
            PATH_BAR, lambda: Candidate(PATH_BAR, make(), self._samples, two_sided=True, assumes=_ASSUMPTION)
        )
        found.attempt(REVERSE, lambda: self._reverse(make(), regions, whole))

    def _reverse(self, both: Estimate, regions: Sequence[str], whole: bool) -> Candidate | None:
        """What the walks up say by themselves; only the shares of the regions come from the walks down."""
        value, error = both.diagnostics.get("reverse"), both.diagnostics.get("reverse_std_error")
        if not isinstance(value, float) or not isinstance(error, float):
            return None
        regions = [name for name in regions if self._both.counts[name][0]]
        shares = [self._both.population(name).value for name in regions]
        fractions, m = [], 0
        for name in regions:
            number = self._both.names.index(name)
            log_weight = self._frames.log_weight[self._up == (number if name != ELSEWHERE else -1)]
            m += log_weight.size
            inverse = np.exp(log_weight.min(initial=np.inf) - log_weight)
            fractions.append(kish(inverse) / log_weight.size if log_weight.size else 0.0)
        # of a whole, regions count by their share; of a difference the poorer one decides
        overlap = float(np.average(fractions, weights=shares)) if whole else min(fractions)
        method = "perturbation from the side of the data, shares of regions from the walks down"
        n_eff = 1 / (error**2 + 1 / max(m, 1)) if math.isfinite(error) else 0.0
        return Candidate(
            REVERSE, Estimate(value, error, method, n_eff, overlap), self._samples, assumes=_ASSUMPTION
        )
