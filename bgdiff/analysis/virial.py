r"""The virial identity: the cheapest test of any pair of an energy and samples.

For a density p ∝ exp(-u) on R^d that vanishes at infinity, integration by parts gives

    < x·∇u > = d .

A cluster or a molecule does not feel where its centroid is, so d counts the coordinates about the centroid:
(N-1) D of N particles in D dimensions, 3N-3 for a molecule. Rotations stay among them, since exp(-u) can be
normalised over all orientations; neither is x·∇u changed by a rotation, so that conformations in any
orientation, such as those from internal coordinates, serve as well. In an external field d is N D.

It is the virial theorem, <Σ x_i·F_i> = -d kT. As it holds within each metastable basin too, it finds samples
and forces that do not belong together (another temperature, wrong weights, a force that is not the energy's
gradient, chains that are not in equilibrium), not basins in wrong proportion.
"""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from bgdiff.errors import DataError
from bgdiff.free_energy.estimate import Estimate
from bgdiff.free_energy.importance import expectation

if TYPE_CHECKING:
    from bgdiff.systems import System
    from bgdiff.targets.base import Target

__all__ = [
    "VirialAverage",
    "average_over_blocks",
    "compared",
    "degrees_of_freedom",
    "feels_centroid",
    "virial",
    "virial_terms",
]

Array = NDArray[np.float64]

_CHUNK = 1024
_UNITS = 20  # independent units, at least, from which an error is taken: Student's factor is near 1


@dataclass(frozen=True, slots=True)
class VirialAverage:
    """<x·∇u> of a set of samples beside what it must be.

    Attributes:
        value: the average, in kT.
        std_error: its standard error.
        expected: number of degrees of freedom.
        z_score: (value - expected) / std_error.
        n: samples whose forces were computed.
        method: estimator of the value and of its error.
    """

    value: float
    std_error: float
    expected: int
    z_score: float
    n: int
    method: str

    def to_dict(self) -> dict[str, Any]:
        """The same as a dict; an error that is not known is infinite."""
        return asdict(self)


def feels_centroid(system: "System") -> bool:
    """Whether the energy depends on where the centroid is: particles in an external field."""
    return system.spec.coordinates == "identity"


def degrees_of_freedom(system: "System") -> int:
    """What <x·∇u> must be: N·D in an external field, (N-1)·D of particles that only feel one another."""
    particles, dimensions = system.target.event_shape
    return (particles if feels_centroid(system) else particles - 1) * dimensions


def virial_terms(target: "Target", x: Tensor, *, centred: bool = True, chunk: int = _CHUNK) -> Array:
    """x·∇u ``(n,)`` of conformations ``(n, N, D)``, a force each.

    Args:
        centred: measure x from the centroid. Makes no difference to an energy that does not feel where the
            centroid is, but for rounding; must be off for one that does.
    """
    parts = []
    for part in x.to(torch.float64).split(chunk):
        if centred:
            part = part - part.mean(1, keepdim=True)
        _, force = target.energy_and_force(part)
        parts.append(-(part * force.to(part)).sum((1, 2)))
    return torch.cat(parts).detach().cpu().numpy() if parts else np.zeros(0)


def virial(
    system: "System",
    x: Tensor,
    *,
    log_weight: ArrayLike | None = None,
    family: ArrayLike | None = None,
    chain: ArrayLike | None = None,
) -> VirialAverage:
    """Average x·∇u over samples ``(n, N, D)`` and compare it with the number of degrees of freedom.

    Args:
        log_weight: (n,) log weights, if the samples are weighted.
        family: (n,) labels of weighted samples that share an ancestor and are not independent.
        chain: (n,) labels of unweighted samples from several simulations, each in the order of time; without
            weights and labels the samples are one simulation.

    Raises:
        DataError: there are no samples, lengths differ, or a sample of non-zero weight has no finite force.
    """
    terms = virial_terms(system.target, x, centred=not feels_centroid(system))
    if log_weight is None:
        estimate = average_over_blocks(terms, np.zeros(len(terms), dtype=int) if chain is None else chain)
    else:
        number = None if family is None else np.unique(np.asarray(family), return_inverse=True)[1]
        estimate = expectation(log_weight, terms, family=number)
    return compared(estimate, degrees_of_freedom(system), len(terms))


def compared(estimate: Estimate, expected: int, n: int) -> VirialAverage:
    """An estimate of <x·∇u> from n samples beside the number of degrees of freedom."""
    score = estimate.z_score(expected)
    return VirialAverage(estimate.value, estimate.std_error, expected, score, n, estimate.method)


def average_over_blocks(values: ArrayLike, chain: ArrayLike) -> Estimate:
    """Mean of ``values`` (n,) of several simulations with an error that allows for their memory.

    Simulations are the independent units if there are at least twenty of them; fewer are each cut into
    blocks of consecutive frames, twenty or more in all, which are taken to be independent. The mean is a
    ratio of sums over units, so that they need not be of the same length.

    Args:
        chain: (n,) labels, the frames of a simulation one after the other.

    Raises:
        DataError: lengths differ, or there are no values.
    """
    terms, label = np.asarray(values, dtype=np.float64), np.asarray(chain)
    if terms.ndim != 1 or terms.shape != label.shape or terms.size == 0:
        raise DataError(f"values of shape {terms.shape} do not belong to frames of shape {label.shape}")
    starts = np.flatnonzero(np.concatenate([[True], label[1:] != label[:-1]]))
    pieces = -(-_UNITS // len(starts))
    lengths = np.diff(np.append(starts, terms.size))
    units = np.concatenate(
        [start + np.unique(np.arange(pieces) * n // pieces) for start, n in zip(starts, lengths, strict=True)]
    )
    size = np.diff(np.append(units, terms.size))
    found = expectation(np.log(size), np.add.reduceat(terms, units) / size)
    return Estimate(
        found.value, found.std_error, f"mean, error from {len(units)} blocks of frames", float(len(units))
    )
