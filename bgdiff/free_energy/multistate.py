r"""MBAR: free energies of several states from the samples of all, by pymbar, with errors for any question.

With N_k samples of each state k, all N together are samples of the mixture D(x) = Σ_k N_k e^(f_k - u_k(x)),
where the free energies f_k = -log Z_k solve f_k = -log Σ_n e^(-u_k(x_n))/D(x_n). Any state, sampled or not,
has the normalised weights W_kn = e^(f_k - u_k(x_n))/D(x_n); energies of +inf have weight zero.

An estimate (a difference of free energies or of regions, an average) changes with sample n, to first order,
by ψ_n = q_n + (H⁺ P q)·P_n. Here q_n is the direct share: W_an - W_bn for F_b - F_a, W_n (A_n - ⟨A⟩) for ⟨A⟩;
P_kn = N_k W_kn is the probability that sample n is of state k, and H = diag(Σ_n P_n) - P Pᵀ. Then

    error² = Σ_n ψ_n² - Σ_k N_k (Σ_n W_kn ψ_n)²                independent samples: MBAR's Θ, as in pymbar
    error² = Σ_units (Σ_{n in unit} ψ_n - mean of n's state)²  units of correlated samples

or that of the block bootstrap, which resamples units. A unit may hold samples of several states (a path that
visits all rungs, a replica); units are resampled among those of states that units connect.

References: Shirts & Chodera, J. Chem. Phys. 129, 124105 (2008), eqs. 8, 11-14, D8; Kong et al., J. R.
Statist. Soc. B 65, 585 (2003); Gill, Vardi & Wellner, Ann. Statist. 16, 1069 (1988), on when a solution
exists; Geyer, Univ. Minnesota Tech. Rep. 568 (1994), on dependent samples; Klimovich, Shirts & Mobley, J.
Comput. Aided Mol. Des. 29, 397 (2015), on the overlap matrix.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bgdiff.errors import ConfigError, DataError
from bgdiff.free_energy.bootstrap import (
    bootstrap_error,
    exchangeable_units,
    few_units,
    multiplicities,
    unit_labels,
)
from bgdiff.free_energy.connectivity import (
    require_connection,
    require_support,
    shared_samples,
    state_links,
    widest_ways,
)
from bgdiff.free_energy.estimate import EmptyBasinError, Estimate, NotConvergedError
from bgdiff.free_energy.mbar_solver import (
    CONVERGED,
    bounded,
    inverse_hessian,
    log_mixture,
    membership,
    neighbour_guess,
    resolve,
    solve,
)
from bgdiff.free_energy.perturbation import kish

__all__ = ["Multistate", "mbar"]

Array = NDArray[np.float64]
Rows = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Multistate:
    """Free energies of K states and what N samples say about them; made by :func:`mbar`.

    Attributes:
        free_energies: (K,) f_k in kT, that of the first state 0.
        counts: (K,) samples of each state.
        diagnostics: ``solver`` ("default" or "robust"), ``newton_step`` left in kT, ``n_nonfinite`` energies.
    """

    free_energies: Array
    counts: NDArray[np.int64]
    diagnostics: Mapping[str, float | int | str | bool]
    _energy: Array = field(repr=False)
    _links: Array = field(repr=False)
    _unit: Rows = field(repr=False)
    _grouped: bool = field(repr=False)
    _strata: list[Rows] = field(repr=False)  # rows of the samples of exchangeable units
    _tilts: Array = field(repr=False)  # (repeats, K_sampled), the solutions of resamples
    _seed: int = field(repr=False)

    def log_weight(self, state: int) -> Array:
        """Normalised log weights (N,) that turn all samples into one sample of a state."""
        return np.asarray(self.free_energies[state] - self._energy[state] - self._log_mixture)

    def difference(self, initial: int, final: int) -> Estimate:
        """F_final - F_initial in kT of two states.

        n_eff is the smaller of Kish's numbers of units of both states' weights. The overlap is that of the
        weakest link on the best connected way between the states, measured pair by pair as in
        :func:`~bgdiff.free_energy.bennett.bar`; for a ladder, the smallest between neighbours. A state
        without samples is linked by the Kish fraction that the best sampled state has for it.
        """
        a, b = self._weights(initial), self._weights(final)
        value = float(self.free_energies[final] - self.free_energies[initial])
        asymptotic = self._error(a - b)
        error, lost = asymptotic, 0
        if len(self._tilts):
            error, lost = self._spread(self._replicates[:, final] - self._replicates[:, initial])
        return self._estimate(
            value,
            error,
            asymptotic,
            lost,
            "MBAR",
            min(self.effective_samples(initial), self.effective_samples(final)),
            float(self._ways[initial, final]),
        )

    def expectation(self, state: int, values: ArrayLike) -> Estimate:
        """Average at a state of an observable from its ``values`` (N,) at all samples.

        Raises:
            DataError: the shape is wrong, or a sample of non-zero weight has a value that is not finite.
        """
        weight = self._weights(state)
        observed = np.asarray(values, dtype=np.float64)
        if observed.shape != weight.shape:
            raise DataError(f"values: shape {observed.shape} does not match {weight.size} samples")
        bad = ~np.isfinite(observed) & (weight > 0)
        if bad.any():
            raise DataError(
                f"values: {int(bad.sum())} samples of non-zero weight have no finite value "
                f"(first: sample {int(bad.argmax())}); check the observable"
            )
        observed = np.where(weight > 0, observed, 0.0)
        mean = float(weight @ observed)

        def replicate(resampled: Array) -> float:
            return float(resampled @ observed)

        asymptotic = self._error(weight * (observed - mean))
        error, lost = self._resampled(state, replicate) or (asymptotic, 0)
        return self._estimate(
            mean,
            error,
            asymptotic,
            lost,
            "MBAR average",
            self.effective_samples(state),
            self._own_link(state),
        )

    def region_difference(
        self,
        state: int,
        initial: ArrayLike,
        final: ArrayLike,
        *,
        names: tuple[str, str] = ("initial", "final"),
    ) -> Estimate:
        """F_final - F_initial = -log(p_final/p_initial) in kT of two regions at one state.

        Args:
            state: whose energy counts.
            initial, final: (N,) booleans, which of all samples lie in the region.
            names: what the regions are called, for error messages.

        Returns:
            n_eff is that of the poorer region; the overlap is the smallest of all links between states, as in
            :meth:`difference`.

        Raises:
            EmptyBasinError: a region holds no sample with weight at this state; it is named.
        """
        weight = self._weights(state)
        parts = [
            weight * self._mask(basin, name) for basin, name in zip((initial, final), names, strict=True)
        ]
        for part, basin, name in zip(parts, (initial, final), names, strict=True):
            if not part.any():
                found = int(np.asarray(basin).sum())
                raise EmptyBasinError(
                    f"basin {name}: {f'{found} samples, none of non-zero weight' if found else 'no sample'} "
                    f"among {weight.size}; draw more samples, or start from data that visits this basin"
                )
        (in_a, in_b), (sum_a, sum_b) = parts, (float(part.sum()) for part in parts)
        in_initial, in_final = (np.asarray(basin, dtype=np.bool_) for basin in (initial, final))

        def replicate(resampled: Array) -> float:
            return float(np.log(resampled @ in_initial) - np.log(resampled @ in_final))

        asymptotic = self._error(in_a / sum_a - in_b / sum_b)
        error, lost = self._resampled(state, replicate) or (asymptotic, 0)
        n_eff = min(self._kish(part) for part in parts)
        method = "MBAR, ratio of region weights"
        return self._estimate(
            math.log(sum_a / sum_b), error, asymptotic, lost, method, n_eff, self._own_link(state)
        )

    def effective_samples(self, state: int) -> float:
        """Kish's effective number of units behind averages at a state."""
        return self._kish(self._weights(state))

    @cached_property
    def overlap_matrix(self) -> Array:
        """(K, K), probability that a sample of state i is taken for one of state j (N_j Σ_n W_in W_jn)."""
        weights = np.exp(np.array([self.log_weight(k) for k in range(len(self.counts))]))
        return np.asarray((weights @ weights.T) * self.counts)

    @property
    def overlap(self) -> float:
        """The weakest link that holds the sampled states together, from 0 to 1; see :meth:`difference`."""
        sampled = np.flatnonzero(self.counts)
        return float(self._ways[np.ix_(sampled, sampled)].min())

    @cached_property
    def _log_mixture(self) -> Array:
        return log_mixture(self._energy, self.counts, self.free_energies)

    @cached_property
    def _ways(self) -> Array:
        return widest_ways(self._links, self.counts)

    @cached_property
    def _membership(self) -> Array:
        """P (K_sampled, N)."""
        return membership(self._energy, self.counts, self.free_energies)

    @cached_property
    def _replicates(self) -> Array:
        """Free energies (repeats, K) of the resamples."""
        weights = np.exp(np.array([self.log_weight(k) for k in range(self.counts.size)]))
        draws = multiplicities(self._strata, self._unit, len(self._tilts), self._seed)
        sums = [
            weights @ (multiplicity / (np.exp(tilt) @ self._membership))
            for multiplicity, tilt in zip(draws, self._tilts, strict=True)
        ]
        with np.errstate(divide="ignore"):
            return self.free_energies - np.log(sums)

    @cached_property
    def _curvature(self) -> Array:
        """H⁺ (K_sampled, K_sampled)."""
        return inverse_hessian(self._membership)

    def _own_link(self, state: int) -> float:
        others = self.counts > 0
        return self.overlap if others[state] else min(self.overlap, float(self._links[state, others].max()))

    def _weights(self, state: int) -> Array:
        return np.exp(self.log_weight(state))

    def _kish(self, weight: Array) -> float:
        return kish(np.bincount(self._unit, weights=weight) if self._grouped else weight)

    def _mask(self, basin: ArrayLike, name: str) -> NDArray[np.bool_]:
        mask, n = np.asarray(basin), self._energy.shape[1]
        if mask.shape != (n,) or mask.dtype != np.bool_:
            raise DataError(f"basin {name}: expected booleans of shape ({n},), got {mask.dtype} {mask.shape}")
        return mask

    def _error(self, direct: Array) -> float:
        """Standard error of what changes by ``direct`` (N,) = q with each sample."""
        p = self._membership
        change = direct + (self._curvature @ (p @ direct)) @ p
        sampled = self.counts[self.counts > 0]
        if not self._grouped:
            mean = p @ change / sampled  # at each sampled state, Σ_n W_kn ψ_n
            return math.sqrt(max(float(change @ change) - float(sampled @ mean**2), 0.0))
        owner = np.repeat(np.arange(sampled.size), sampled)
        centred = change - (np.bincount(owner, weights=change) / sampled)[owner]
        variance, poorest = 0.0, self._unit.size
        sums = np.bincount(self._unit, weights=centred)
        for rows in self._strata:
            part = sums[np.unique(self._unit[rows])]
            poorest = min(poorest, part.size)
            if part.size < 2:
                return math.inf
            variance += part.size * float(np.var(part, ddof=1))
        return math.sqrt(variance) * few_units(poorest)

    def _resampled(self, state: int, statistic: Callable[[Array], float]) -> tuple[float, int] | None:
        """Bootstrap error of a statistic of all samples' weights (N,) at a state, if asked for."""
        if not len(self._tilts):
            return None
        values = []
        draws = multiplicities(self._strata, self._unit, len(self._tilts), self._seed)
        weight = self._weights(state)
        for multiplicity, tilt in zip(draws, self._tilts, strict=True):
            resampled = weight * multiplicity / (np.exp(tilt) @ self._membership)
            with np.errstate(divide="ignore", invalid="ignore"):
                values.append(statistic(resampled / resampled.sum()))
        return self._spread(np.array(values))

    def _spread(self, values: Array) -> tuple[float, int]:
        error, lost = bootstrap_error(values, [self._unit[rows] for rows in self._strata])
        return float(error), lost

    def _estimate(
        self,
        value: float,
        error: float,
        asymptotic: float,
        lost: int,
        name: str,
        n_eff: float,
        overlap: float,
    ) -> Estimate:
        repeats = len(self._tilts)
        how = f"bootstrap error ({repeats} resamplings)" if repeats else "asymptotic error"
        method = f"{name}, {how}" + (" over units" if self._grouped else "")
        diagnostics = dict(self.diagnostics) | {"asymptotic_std_error": asymptotic}
        if lost:
            diagnostics["resamples_without_value"] = lost
        return Estimate(value, error, method, n_eff, overlap, diagnostics)


def mbar(
    energy: ArrayLike,
    counts: ArrayLike,
    *,
    initial: ArrayLike | None = None,
    unit: ArrayLike | None = None,
    bootstrap: int = 0,
    seed: int = 0,
) -> Multistate:
    """Solve MBAR's equations.

    Args:
        energy: (K, N) energies u_k(x_n) in kT of all samples in all states; the first ``counts[0]`` samples
            are of state 0, the next of state 1. +inf (or nan): the sample is outside of the state.
        counts: (K,) samples of each state; 0 for states of which only the free energy is asked.
        initial: (K,) guess of the free energies, for example learned normalisers; by default BAR between
            neighbours in the order given.
        unit: (N,) labels of the independent units; by default every sample is its own. Samples of different
            states may share a unit.
        bootstrap: number of resamplings of units for all errors; 0: asymptotic errors.

    Raises:
        DataError: shapes do not match, or a sample has no finite energy in its own state.
        NoOverlapError: states do not connect; they are named.
        NotConvergedError: neither solver of pymbar converges.
    """
    if bootstrap < 0 or bootstrap == 1:
        raise ConfigError(f"bootstrap: expected 0 or at least 2 resamplings, got {bootstrap}")
    u, n_k, bad = _checked(energy, counts)
    require_support(u, n_k)
    guess = neighbour_guess(u, n_k) if initial is None else np.asarray(initial, dtype=np.float64)
    if guess.shape != n_k.shape or not np.isfinite(guess).all():
        raise DataError(f"initial: expected {n_k.size} finite free energies")
    finite = bounded(u)
    free_energies, step, solver = solve(finite, n_k, guess)
    shared = shared_samples(u, n_k, free_energies)
    if math.isfinite(step):
        require_connection(shared, n_k)
    if not step < CONVERGED:
        raise NotConvergedError(
            f"MBAR of {n_k.size} states did not converge: a step of {step:.2g} kT is left after pymbar's "
            "default and robust solvers; look for states of poor overlap and for outliers among the energies"
        )
    labels = unit_labels(unit, u.shape[1])
    strata = exchangeable_units(labels, np.repeat(np.arange(n_k.size), n_k))
    sampled = n_k[n_k > 0]
    tilts = np.empty((bootstrap, sampled.size))
    if bootstrap:
        members, starts = membership(u, n_k, free_energies), np.cumsum(sampled) - sampled
        for number, multiplicity in enumerate(multiplicities(strata, labels, bootstrap, seed)):
            resampled = np.add.reduceat(multiplicity, starts).astype(np.int64)
            tilts[number] = resolve(members, multiplicity, sampled, resampled)
    return Multistate(
        free_energies=free_energies,
        counts=n_k,
        diagnostics={"solver": solver, "newton_step": step, "n_nonfinite": bad},
        _energy=u,
        _links=state_links(u, n_k, shared),
        _unit=labels,
        _grouped=unit is not None,
        _strata=strata,
        _tilts=tilts,
        _seed=seed,
    )


def _checked(energy: ArrayLike, counts: ArrayLike) -> tuple[Array, NDArray[np.int64], int]:
    u, n_k = np.array(energy, dtype=np.float64), np.asarray(counts)
    if n_k.ndim != 1 or n_k.dtype.kind not in "iu" or n_k.size == 0 or (n_k < 0).any() or not n_k.any():
        raise DataError("counts: expected the whole numbers of samples of each state, not all zero")
    if u.shape != (n_k.size, n_k.sum()):
        raise DataError(f"energy: shape {u.shape} does not match {n_k.size} states with {n_k.sum()} samples")
    if np.isneginf(u).any():
        state, sample = np.argwhere(np.isneginf(u))[0]
        raise DataError(f"energy: -inf in state {state} at sample {sample}")
    bad = ~np.isfinite(u)
    own = bad[np.repeat(np.arange(n_k.size), n_k), np.arange(u.shape[1])]
    if own.any():
        raise DataError(
            f"energy: {int(own.sum())} samples have no finite energy in the state they were drawn from "
            f"(first: sample {int(own.argmax())}); leave them out of energy and counts"
        )
    u[bad] = np.inf
    return u, n_k.astype(np.int64), int(bad.sum())
