"""MBAR's equations: pymbar's solvers, and whether what they return is the solution."""

import logging
import math
from copy import deepcopy
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from bgdiff.free_energy.bennett import bennett_root
from bgdiff.free_energy.quiet import pymbar, quietly

__all__ = [
    "CONVERGED",
    "bounded",
    "inverse_hessian",
    "log_mixture",
    "membership",
    "neighbour_guess",
    "newton_step",
    "resolve",
    "solve",
]

log = logging.getLogger(__name__)

Array = NDArray[np.float64]
Counts = NDArray[np.int64]

_OUTSIDE = 1e6  # kT above the lowest energy of a sample, in place of +inf: its weight underflows to zero
_ITERATIONS = 200  # Newton's method needs tens; where states hardly connect, none are enough

CONVERGED = 1e-6
"""kT; the longest Newton step that may be left at a solution."""


def bounded(energy: Array) -> Array:
    """Energies (K, N) with finite numbers for +inf, whose weights underflow to exactly zero."""
    return np.where(np.isfinite(energy), energy, energy.min(axis=0) + _OUTSIDE)


def log_mixture(energy: Array, counts: Counts, free_energies: Array) -> Array:
    """log Σ_k N_k exp(f_k - u_kn), (N,)."""
    sampled = counts > 0
    offset = free_energies[sampled] + np.log(counts[sampled])
    return np.asarray(logsumexp(offset[:, None] - energy[sampled], axis=0))


def membership(energy: Array, counts: Counts, free_energies: Array) -> Array:
    """Probability (K_sampled, N) that a sample is of each of the sampled states."""
    sampled = counts > 0
    offset = free_energies[sampled] + np.log(counts[sampled])
    return np.exp(offset[:, None] - energy[sampled] - log_mixture(energy, counts, free_energies))


def inverse_hessian(members: Array, multiplicity: Array | None = None) -> Array:
    """Pseudo-inverse (K_sampled, K_sampled) of diag(Σ_n P_n) - P Pᵀ, whose null vector is constant.

    Args:
        members: (K_sampled, N), P.
        multiplicity: (N,) how often each sample counts; by default once.
    """
    counted = members if multiplicity is None else members * multiplicity
    hessian = np.diag(counted.sum(axis=1)) - counted @ members.T
    size = len(hessian)
    scale = float(hessian.trace()) / size**2 or 1.0
    return np.asarray(np.linalg.inv(hessian + scale) - 1 / (scale * size**2), dtype=np.float64)


def newton_step(energy: Array, counts: Counts, free_energies: Array) -> float:
    """Longest distance (kT) by which one Newton step would still move a free energy of a sampled state."""
    members = membership(energy, counts, free_energies)
    try:
        step = inverse_hessian(members) @ (members.sum(axis=1) - counts[counts > 0])
    except np.linalg.LinAlgError:
        return math.inf
    largest = float(np.ptp(step))
    return largest if math.isfinite(largest) else math.inf


def neighbour_guess(energy: Array, counts: Counts, most: int = 500) -> Array:
    """Rough free energies (K,) by BAR between sampled states that follow each other, from few samples.

    pymbar's solvers may take for ever from zeros if free energies differ by tens of kT. Where neighbours do
    not overlap, the mean of both directions' median works has to do; states without samples are left at 0.
    """
    guess = np.zeros(counts.size)
    starts = np.cumsum(counts) - counts
    sampled = np.flatnonzero(counts)
    for a, b in pairwise(sampled):
        rows = [starts[k] + np.linspace(0, counts[k] - 1, min(most, counts[k])).astype(int) for k in (a, b)]
        forward = energy[b, rows[0]] - energy[a, rows[0]]
        reverse = energy[a, rows[1]] - energy[b, rows[1]]
        with np.errstate(invalid="ignore"):
            middle = 0.5 * (float(np.median(forward)) - float(np.median(reverse)))
        step = bennett_root(forward, reverse, middle if math.isfinite(middle) else 0.0)
        guess[b] = guess[a] + next((one for one in (step, middle) if math.isfinite(one)), 0.0)
    return guess


def solve(energy: Array, counts: Counts, guess: Array) -> tuple[Array, float, str]:
    """Free energies (K,), the Newton step left in kT, and the solver: "default" or "robust".

    If neither converges, the better of both is returned, with a step above :data:`CONVERGED`.

    Args:
        energy: (K, N), finite.
    """
    best = guess, math.inf, "none"
    for protocol in ("default", "robust"):
        found = _run(energy, counts, guess, protocol)
        step = newton_step(energy, counts, found)
        if step < best[1]:
            best = found, step, protocol
        if step < CONVERGED:
            break
        if protocol == "default":
            log.warning("MBAR: pymbar's default solver did not converge; trying its robust solver")
    return best


def resolve(members: Array, multiplicity: Array, counts: Counts, resampled: Counts) -> Array:
    """Solve MBAR's equations for a resample, starting from the solution for all samples, by Newton's method.

    The energies are not needed again: with tilts t_k = log(N'_k/N_k) + f'_k - f_k the mixture's density at
    sample n is D(x_n) Σ_k P_kn e^(t_k).

    Args:
        members: (K_sampled, N), P of all samples at their solution.
        multiplicity: (N,) how often each sample is in the resample.
        counts: (K_sampled,) samples of each sampled state.
        resampled: (K_sampled,) likewise in the resample; none is 0.

    Returns:
        (K_sampled,) tilts; nan if Newton's method does not converge.
    """
    tilt = np.log(resampled / counts)
    for _ in range(_ITERATIONS):
        tilted = np.exp(tilt)[:, None] * members
        tilted /= tilted.sum(axis=0)
        try:
            step = -inverse_hessian(tilted, multiplicity) @ (tilted @ multiplicity - resampled)
        except np.linalg.LinAlgError:
            break
        step -= step[0]
        length = float(np.ptp(step))
        if not math.isfinite(length):
            break
        tilt = tilt + step * min(1.0, 2.0 / length if length else 1.0)
        if length < CONVERGED:
            return tilt
    return np.full(len(members), np.nan)


def _run(energy: Array, counts: Counts, guess: Array, protocol: str) -> Array:
    """pymbar's solution by one of its protocols; nan if it raises."""
    library = pymbar()
    # a copy, since pymbar writes into what it is given
    steps = deepcopy(getattr(library.mbar_solvers, f"{protocol.upper()}_SOLVER_PROTOCOL"))
    for step in steps:
        step.setdefault("options", {})["maxiter"] = _ITERATIONS
    with quietly() as remarks:
        try:
            solved = library.MBAR(
                energy,
                counts,
                initial_f_k=guess.copy(),
                solver_protocol=steps,
                maximum_iterations=_ITERATIONS,
            )
            return np.array(solved.f_k)
        except Exception as error:  # pymbar, scipy and numpy.linalg each raise their own
            remarks.append(f"{type(error).__name__}: {error}")
            return np.full(counts.size, np.nan)
