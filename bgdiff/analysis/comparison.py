r"""Samples beside an independent reference, by the distances that the literature on particle clusters uses.

- ``energy_w2``: W2 of the reduced energies, in kT;
- ``distance_w2``: W2 of all distances between two particles, in the unit of the coordinates;
- ``distance_tvd``: total variation of their histograms, 200 bins over the reference's range;
- ``configuration_w2``: W2 of conformations, any two of which are apart by the least Euclidean distance over
  translations, rotations, permutations of equal particles, and reflections if all particles are equal. The
  minimum itself for up to four equal particles, or none; else an upper bound
  (:func:`~bgdiff.analysis.alignment.distances`);
- ``configuration_w2_one_pass``: the same as in published code, with the looser
  :func:`~bgdiff.analysis.alignment.one_pass_distances`.

W2 is the root of the mean squared transport throughout. Published numbers are not always: the code of iDEM
leaves out the root for energies and distances, that of ASBS for distances. All of these fall with the number
of samples n even between sets from one density, so that each comes with its *floor*, reference against
reference at the same n. Samples of the target are at the floor, not at zero.

Each number is a mean over several repeats. Every time n samples and two disjoint parts A and B of the
reference, of n frames each, are drawn: the value is d(samples, A), the floor d(A, B). If the reference comes
from several independent chains, A and B are from different ones, so that the floor holds the error of the
reference itself.

Weights enter the transport of energies and distances exactly, and so many weighted samples are drawn as are
worth n by Kish's (Σw)²/Σw², if there are that many. Conformations are resampled by their weights (systematic
resampling) before they are compared.

References: Klein, Krämer & Noé, Equivariant flow matching, arXiv:2306.15030; Akhound-Sadegh et al., iDEM,
arXiv:2402.06121; OuYang et al., BNEM, arXiv:2409.09787; Liu et al., ASBS, arXiv:2506.22565.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from bgdiff.analysis.alignment import distances, is_exact, one_pass_distances
from bgdiff.analysis.transport import histogram_tvd, pair_distances, transport_distance, wasserstein_1d
from bgdiff.analysis.virial import feels_centroid
from bgdiff.errors import DataError
from bgdiff.ladder.resampling import systematic
from bgdiff.progress import Progress, silent
from bgdiff.random import derive_seed, generator_for

if TYPE_CHECKING:
    from bgdiff.systems import System

__all__ = ["Comparison", "Metric", "MetricName", "compare"]

Array = NDArray[np.float64]
Rows = NDArray[np.intp]
Distance = Callable[[Array, Array, Array | None], float]
"""From samples ``(n, ...)``, frames of the reference ``(n, ...)``, and weights ``(n,)`` of the samples."""
MetricName = Literal[
    "energy_w2", "distance_w2", "distance_tvd", "configuration_w2", "configuration_w2_one_pass"
]

_SAMPLES = 10_000
_DISTANCES = 600_000  # of all pairs of all conformations of a set
_CONFIGURATIONS, _CONFIGURATIONS_13 = 250, 100  # aligned exactly; by a search, of 13 particles
_WEIGHTED = 4  # times as many, if samples are weighted
_REPEATS, _REPEATS_ALIGNED = 5, 3
_FEWEST = 10  # samples to compare


@dataclass(frozen=True, slots=True)
class Metric:
    """One distance between samples and reference.

    Attributes:
        name: as in the table of this module.
        unit: ``kT``, ``nm``, ``reduced``, or empty for a pure number.
        value: of the samples with their weights, mean over the repeats.
        value_std: standard deviation over the repeats.
        unweighted: of the same samples without weights; None if they have none.
        floor: reference against reference, mean over the repeats.
        floor_std: standard deviation over the repeats.
        n: frames of the reference, and samples without weights or resampled.
        n_effective: what the weighted samples are worth: Kish's (Σw)²/Σw², or for resampled conformations the
            number of different ones.
        repeats: how many.
    """

    name: MetricName
    unit: str
    value: float
    value_std: float
    unweighted: float | None
    floor: float
    floor_std: float
    n: int
    n_effective: float
    repeats: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """What :func:`compare` finds.

    Attributes:
        n_samples: samples that were drawn from.
        n_reference: frames of the reference that were drawn from.
        n_chains: independent chains of the reference.
        metrics: the distances.
    """

    n_samples: int
    n_reference: int
    n_chains: int
    metrics: tuple[Metric, ...]

    def __getitem__(self, name: str) -> Metric:
        """One distance by its name."""
        return next(metric for metric in self.metrics if metric.name == name)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "metrics": [asdict(metric) for metric in self.metrics]}


def compare(
    system: "System",
    samples: Tensor | NDArray[Any],
    reference: Tensor | NDArray[Any],
    weights: ArrayLike | None = None,
    *,
    reference_chain: ArrayLike | None = None,
    energy: ArrayLike | None = None,
    reference_energy: ArrayLike | None = None,
    n: int = _SAMPLES,
    n_configurations: int | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Comparison:
    """Compare samples with an independent reference; see this module for what is computed.

    Distances are left out for particles in an external field, which do not see each other. Rows of weight
    zero, or without a finite energy, are left out.

    Args:
        samples: ``(a, N, D)``, in nm for molecules.
        reference: ``(b, N, D)``, from the target's equilibrium.
        weights: ``(a,)`` of the samples, not logarithms; they need not be normalised.
        reference_chain: ``(b,)`` labels of independent chains.
        energy, reference_energy: reduced energies ``(a,)`` and ``(b,)``, computed if not given.
        n: samples on each side, at most; of conformations fewer.
        n_configurations: conformations on each side, at most; default by the number of particles, for some
            ten seconds.

    Raises:
        DataError: there are fewer than ten samples or twenty frames to compare, shapes do not agree, or no
            sample has any weight.
    """
    x, y = _positions(system, "samples", samples), _positions(system, "reference", reference)
    ours, theirs = _energies(system, x, energy), _energies(system, y, reference_energy)
    weight = None if weights is None else np.asarray(weights, dtype=np.float64)
    chain = np.zeros(len(y), dtype=int) if reference_chain is None else np.asarray(reference_chain)
    for what, labels, of in (("samples", weight, x), ("reference", chain, y)):
        if labels is not None and labels.shape != (len(of),):
            raise DataError(f"{what}: an array of shape {labels.shape} does not belong to {len(of)} of them")
    used, known = np.isfinite(ours), np.isfinite(theirs)
    draws = _Draws(int(used.sum()), None if weight is None else weight[used], chain[known], seed)
    jobs = _jobs(system, n, n_configurations)
    found: list[Metric] = []
    for done, job in enumerate(jobs):
        progress(done, len(jobs), job.name)
        sides = (ours[used], theirs[known]) if job.name == "energy_w2" else (x[used], y[known])
        found.append(_measure(job, *sides, draws))
    progress(len(jobs), len(jobs), "")
    return Comparison(int(used.sum()), int(known.sum()), len(np.unique(chain[known])), tuple(found))


@dataclass(frozen=True, slots=True)
class _Job:
    name: MetricName
    unit: str
    distance: Distance
    most: int  # on each side
    most_weighted: int | None = None  # samples, if they are weighted; None for no limit
    repeats: int = _REPEATS
    resample: bool = False  # by weight, because the distance takes no weights


def _jobs(system: "System", n: int, n_configurations: int | None) -> list[_Job]:
    jobs = [_Job("energy_w2", "kT", wasserstein_1d, n)]
    if feels_centroid(system):
        return jobs
    particles = system.target.event_shape[0]
    types = np.arange(particles) if system.particle_types is None else system.particle_types.numpy()
    reflect = not types.any()  # a molecule and its mirror image are two
    unit = "nm" if system.spec.kind == "openmm" else "reduced"

    def least(a: Array, b: Array, weights: Array | None) -> float:
        return transport_distance(distances(a, b, types, reflect=reflect) ** 2, weights)

    def one_pass(a: Array, b: Array, weights: Array | None) -> float:
        return transport_distance(one_pass_distances(a, b, types) ** 2, weights)

    frames = max(_FEWEST, 2 * _DISTANCES // (particles * (particles - 1)))
    jobs += [
        _Job("distance_w2", unit, _of_pairs(wasserstein_1d), min(n, frames), _WEIGHTED * frames),
        _Job("distance_tvd", "", _of_pairs(histogram_tvd), min(n, frames), _WEIGHTED * frames),
    ]
    several = round(_CONFIGURATIONS_13 * (13 / particles) ** 0.75)
    most = n_configurations or (_CONFIGURATIONS if is_exact(types) else min(several, _CONFIGURATIONS))
    jobs.append(_Job("configuration_w2", unit, least, most, repeats=_REPEATS_ALIGNED, resample=True))
    if len(np.unique(types)) < particles:
        again = replace(jobs[-1], name="configuration_w2_one_pass", distance=one_pass)
        jobs.append(again)
    return jobs


def _of_pairs(measure: Callable[[Array, Array, Array | None], float]) -> Distance:
    """A distance between sets of numbers as one between the pair distances of conformations."""

    def distance(a: Array, b: Array, weights: Array | None) -> float:
        ours, theirs = pair_distances(a), pair_distances(b)
        spread = None if weights is None else np.repeat(weights, ours.shape[1])
        return measure(ours.ravel(), theirs.ravel(), spread)

    return distance


def _measure(job: _Job, samples: Array, reference: Array, draws: "_Draws") -> Metric:
    size = min(job.most, draws.size)
    values, unweighted, floors, effective = [], [], [], []
    for repeat in range(job.repeats):
        rows, (first, second) = draws.samples(repeat, size), draws.reference(repeat, size)
        frames, weight = reference[first], draws.weight
        floors.append(job.distance(frames, reference[second], None))
        plain = job.distance(samples[rows], frames, None)
        if weight is None:
            values.append(plain)
            effective.append(float(size))
            continue
        unweighted.append(plain)
        if job.resample:
            rows = draws.resampled(repeat, size)
            values.append(job.distance(samples[rows], frames, None))
            effective.append(float(len(np.unique(rows))))
        else:
            rows = draws.samples(repeat, draws.worth(size, job.most_weighted))
            values.append(job.distance(samples[rows], frames, weight[rows]))
            effective.append(float(weight[rows].sum() ** 2 / np.square(weight[rows]).sum()))
    return Metric(
        job.name,
        job.unit,
        *_mean_and_std(values),
        float(np.mean(unweighted)) if unweighted else None,
        *_mean_and_std(floors),
        size,
        float(np.mean(effective)),
        job.repeats,
    )


class _Draws:
    """Rows of samples and of the reference for every repeat; a function of the seed.

    Args:
        n: samples.
        weight: (n,) weights, or None.
        chain: (m,) labels of the reference's frames.

    Raises:
        DataError: there are too few of either, or no sample has any weight.
    """

    def __init__(self, n: int, weight: Array | None, chain: NDArray[Any], seed: int) -> None:
        self._n, self._seed = n, seed
        self.weight = weight
        if weight is not None and not ((weight >= 0).all() and 0 < weight.sum() < math.inf):
            raise DataError("samples: weights must be finite, not negative, and not all zero")
        self._parts = [_disjoint(chain, self._random("reference", r)) for r in range(_REPEATS)]
        self.size = min(n, *(len(part) for parts in self._parts for part in parts))
        if self.size < _FEWEST:
            raise DataError(
                f"{n} samples and {len(chain)} frames of reference are too few to compare: at least "
                f"{_FEWEST} and twice as many are needed, in two chains or more if there are several"
            )

    def samples(self, repeat: int, size: int) -> Rows:
        """Rows drawn without replacement."""
        return np.asarray(self._random("samples", repeat).permutation(self._n)[:size])

    def worth(self, size: int, most: int | None) -> int:
        """How many weighted samples are worth ``size``; no more than there are, or than ``most``."""
        assert self.weight is not None
        each = float(self.weight.sum() ** 2 / np.square(self.weight).sum()) / self._n
        return min(self._n, math.ceil(size / each), most or self._n)

    def resampled(self, repeat: int, size: int) -> Rows:
        """Rows in proportion to their weights; a row that weighs much comes several times."""
        assert self.weight is not None
        with np.errstate(divide="ignore"):
            log_weight = torch.from_numpy(np.log(self.weight))
        chosen = systematic(log_weight, generator_for(self._seed, "comparison", "resample", repeat)).numpy()
        return np.asarray(chosen[np.arange(size) * self._n // size])

    def reference(self, repeat: int, size: int) -> tuple[Rows, Rows]:
        """Rows of two disjoint parts."""
        first, second = self._parts[repeat]
        return first[:size], second[:size]

    def _random(self, what: str, repeat: int) -> np.random.Generator:
        return np.random.default_rng(derive_seed(self._seed, "comparison", what, repeat))


def _disjoint(chain: NDArray[Any], random: np.random.Generator) -> tuple[Rows, Rows]:
    """Rows of two halves, of different chains if there are several, each in random order."""
    labels, frames = np.unique(chain, return_counts=True)
    order = random.permutation(len(labels))
    if len(labels) == 1:
        rows = random.permutation(len(chain))
        return rows[: len(rows) // 2], rows[len(rows) // 2 :]
    before = np.cumsum(frames[order])
    cut = int(np.argmin(np.abs(2 * before[:-1] - before[-1]))) + 1
    first = np.isin(chain, labels[order[:cut]])
    halves = (np.flatnonzero(mask) for mask in (first, ~first))
    one, other = (random.permutation(half) for half in halves)
    return one, other


def _positions(system: "System", what: str, x: Tensor | NDArray[Any]) -> Array:
    values = np.asarray(x.detach().cpu() if isinstance(x, Tensor) else x, dtype=np.float64)
    shape = system.target.event_shape
    if values.ndim != 3 or values.shape[1:] != shape:
        raise DataError(f"{what}: expected conformations (n, {shape[0]}, {shape[1]}), not {values.shape}")
    return values


def _energies(system: "System", x: Array, known: ArrayLike | None) -> Array:
    if known is None:
        parts = torch.from_numpy(x).split(4096)
        return np.concatenate([system.target.energy(part).detach().numpy() for part in parts])
    energy = np.asarray(known, dtype=np.float64)
    if energy.shape != (len(x),):
        raise DataError(f"energies of shape {energy.shape} do not belong to {len(x)} conformations")
    return energy


def _mean_and_std(values: list[float]) -> tuple[float, float]:
    return float(np.mean(values)), float(np.std(values, ddof=1))
