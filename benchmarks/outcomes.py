"""What a method of sampling achieved with its CPU time, judged alike whether samples are weighted or not."""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from bgdiff.analysis.chains import chain_diagnostics, chain_difference
from bgdiff.free_energy.estimate import EmptyBasinError, Estimate
from bgdiff.free_energy.importance import free_energy_difference
from bgdiff.ladder.genealogy import effective_number
from bgdiff.systems import System

__all__ = ["Outcome", "basins", "draws_behind", "from_chains", "from_weights", "independent_draws", "within"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Outcome:
    """The system's first free-energy difference by one method.

    Args:
        effective: independent samples of the target that the samples are worth.
        slowest: the quantity of the chains that is worth least, or what else decided.
        difference: None if the samples do not say: a basin was never seen, or no chain left its own.
        evaluations: target energies, with or without forces, pilots and burn-in included.
        cpu_seconds: of all threads, likewise.
        crossed: fraction of the chains that were in both basins.
    """

    method: str
    samples: int
    effective: float
    slowest: str
    difference: Estimate | None
    evaluations: int
    cpu_seconds: float
    crossed: float | None = None


def within(seconds: float) -> Iterator[int]:
    """0, 1, 2 … until so many seconds of CPU time have passed; 0 in any case."""
    started, index = time.process_time(), 0
    while index == 0 or time.process_time() - started < seconds:
        yield index
        index += 1


def basins(system: System, observables: Mapping[str, Array]) -> tuple[Mask, Mask]:
    """Which conformations are in the initial and in the final basin of the system's first difference."""
    spec = system.differences[0]
    return system.basin(spec.initial, observables), system.basin(spec.final, observables)


def from_weights(
    method: str,
    system: System,
    log_weight: Array,
    observables: Mapping[str, Array],
    evaluations: int,
    cpu_seconds: float,
    family: NDArray[np.int64] | None = None,
) -> Outcome:
    """Judge weighted samples, each ``(n,)``, by Kish's number; copies of one ancestor count once."""
    try:
        difference = free_energy_difference(log_weight, *basins(system, observables), family=family)
    except EmptyBasinError:
        difference = None
    families = None if family is None else torch.from_numpy(family)
    effective = effective_number(torch.from_numpy(log_weight), families)
    slowest = "weights" if family is None else "weights of families"
    return Outcome(method, len(log_weight), effective, slowest, difference, evaluations, cpu_seconds)


def from_chains(
    method: str,
    system: System,
    observables: Mapping[str, Array],
    n_chains: int,
    evaluations: int,
    cpu_seconds: float,
    *,
    n_states: int | None = None,
    difference: Estimate | None = None,
) -> Outcome:
    """Judge draws ``(n,)`` of chains, round by round, by whatever is slowest: the basins or a torsion.

    Args:
        n_states: different states among the draws, if some are repeated.
        difference: a better estimate than that from counts, if there is one.
    """
    initial, final = basins(system, observables)
    n = len(final)
    effective, slowest, crossed = independent_draws(system, observables, n_chains, n_states)
    if effective == 0:
        difference = None
    elif difference is None:
        difference = chain_difference(initial, final, n_chains)
    return Outcome(method, n, effective, slowest, difference, evaluations, cpu_seconds, crossed)


def independent_draws(
    system: System, observables: Mapping[str, Array], n_chains: int, n_states: int | None = None
) -> tuple[float, str, float]:
    """Draws that chains are worth by autocorrelation of the slowest quantity, and its name; and the fraction
    of the chains that were in both basins. Where no chain was, the draws are worth nothing."""
    initial, final = basins(system, observables)
    by_chain = [basin.reshape(-1, n_chains).any(0) for basin in (initial, final)]
    crossed = float(np.mean(by_chain[0] & by_chain[1]))
    if crossed == 0:
        return 0.0, "no chain was in both basins", 0.0
    quantities: dict[str, ArrayLike] = {f"in {system.differences[0].final}": final.astype(np.float64)}
    for name, values in observables.items():
        if system.spec.observables[name].periodic:
            quantities |= {f"cos {name}": np.cos(values), f"sin {name}": np.sin(values)}
    found = chain_diagnostics(quantities, n_chains, len(final) if n_states is None else n_states)
    return found.effective_draws, found.slowest, crossed


def draws_behind(difference: Estimate, true_value: float) -> float:
    """Independent samples of the target that would give a free-energy difference the same standard error.

    For two basins that fill the space, of populations p and 1 - p with -ln(p/(1-p)) = ΔF, n draws give a
    variance of 1/(n p (1-p)).
    """
    share = 1 / (1 + math.exp(true_value))
    return 1 / (share * (1 - share) * difference.std_error**2)
