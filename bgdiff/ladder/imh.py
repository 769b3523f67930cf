"""Markov chains that take whole walks down the ladder as proposals: independent Metropolis-Hastings.

A chain's state is a path with weight W; a fresh path with weight W' replaces it with probability min(1,
W'/W). As E[W] = Z over proposals, the ends of the chain's paths sample the target, whatever the model. With
populations of sequential Monte Carlo and their estimates of Z in place of paths and weights it is the
particle independent Metropolis-Hastings sampler. Proposals are independent of the chain, so they can be
drawn beforehand.

Between proposals, a local move under the target may change the path's end; the rest of the path is then
drawn afresh by noising the new end, which is a Gibbs step on the extended space and leaves everything
exact.

References: Tierney, Ann. Statist. 22, 1701 (1994); Andrieu, Doucet & Holenstein, J. R. Stat. Soc. B 72, 269
(2010).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bgdiff.errors import ConfigError, CorrectionError
from bgdiff.ladder.densities import State, TargetDensity
from bgdiff.ladder.moves import Move, apply_moves
from bgdiff.ladder.paths import Ladder
from bgdiff.sampling.diagnostics import effective_draws, rhat

__all__ = ["ChainHealth", "PathChains", "advance", "chain_health", "independent_chains"]


def independent_chains(log_weight: Tensor, generator: torch.Generator) -> Tensor:
    """Which proposal each chain holds at each time, ``(C, T)``.

    Chains start at their first proposal, so their first steps are not in equilibrium yet; the largest weight
    over the mean is about how many steps to leave out.

    Args:
        log_weight: of the proposals, ``(C, T)``, one row per chain, in the order in which they are proposed.

    Raises:
        CorrectionError: a chain has no proposal of non-zero weight.
    """
    chains, length = log_weight.shape
    uniform = torch.rand(chains, length, generator=generator, dtype=torch.float64, device=log_weight.device)
    value = torch.where(torch.isfinite(log_weight), log_weight.to(torch.float64), -torch.inf)
    if bool(torch.isinf(value.amax(1)).any()):
        raise CorrectionError(
            f"chain {int(torch.isinf(value.amax(1)).nonzero()[0])}: all {length} proposals have weight zero; "
            "train longer, or check that the data and the energy belong to the same system"
        )
    held = torch.zeros(chains, dtype=torch.int64, device=value.device)
    current, index = value[:, 0], []
    for time in range(length):
        # a start of weight zero gives way to anything, and nothing gives way to weight zero
        accept = (uniform[:, time].log() < value[:, time] - current) & (value[:, time] > -torch.inf)
        held = torch.where(accept, time, held)
        current = torch.where(accept, value[:, time], current)
        index.append(held)
    return torch.stack(index, 1)


@dataclass(frozen=True)
class PathChains:
    """C chains whose states are paths.

    Args:
        state: the paths' ends under the target.
        log_weight: log W of each path, ``(C,)``.
    """

    state: State
    log_weight: Tensor

    @classmethod
    def at(cls, ladder: Ladder, target: TargetDensity, z: Tensor, generator: torch.Generator) -> "PathChains":
        """Chains at ends ``z`` ``(C, d)``, with paths drawn by noising them."""
        return cls._with_new_paths(ladder, target.evaluate(z), generator)

    @classmethod
    def walked(
        cls, ladder: Ladder, target: TargetDensity, n: int, generator: torch.Generator
    ) -> "PathChains":
        """n independent walks down the ladder, weighed: what chains take as proposals."""
        walks = ladder.walk_down(n, generator)
        state = target.evaluate(walks.z)
        return cls(state, state.log_density + walks.log_ratio)

    @classmethod
    def _with_new_paths(cls, ladder: Ladder, state: State, generator: torch.Generator) -> "PathChains":
        return cls(state, state.log_density + ladder.walk_up(state.z, generator).log_ratio)


def advance(
    chains: PathChains,
    ladder: Ladder,
    target: TargetDensity,
    moves: Sequence[Move],
    rounds: int,
    generator: torch.Generator,
    observe: Callable[[PathChains], None] | None = None,
    proposals: PathChains | None = None,
) -> tuple[PathChains, list[float]]:
    """Alternate a proposal from the ladder with local moves under the target.

    Costs one target evaluation per chain and round, unless proposals are given, and those of the moves.

    Args:
        moves: none or some; each leaves the target invariant.
        observe: called after each round.
        proposals: walks that were drawn and weighed beforehand, round by round, one per chain in each; they
            must be independent of the chains. By default walks are drawn here.

    Returns:
        The chains, and the mean acceptance of the proposals and of each move.
    """
    if rounds < 1:
        raise ConfigError(f"a chain needs at least one round, not {rounds}")
    rates = torch.zeros(1 + len(moves), dtype=torch.float64)
    width = len(chains.log_weight)
    if proposals is not None and len(proposals.log_weight) != rounds * width:
        raise ConfigError(
            f"{rounds} rounds of {width} chains need {rounds * width} proposals, not "
            f"{len(proposals.log_weight)}"
        )
    for index in range(rounds):
        if proposals is None:
            proposed = PathChains.walked(ladder, target, width, generator)
        else:
            rows = torch.arange(index * width, (index + 1) * width, device=chains.log_weight.device)
            proposed = PathChains(proposals.state.take(rows), proposals.log_weight[rows])
        log_ratio = proposed.log_weight - chains.log_weight
        possible = torch.isfinite(proposed.log_weight) & ~log_ratio.isnan()
        probability = torch.where(possible, log_ratio.clamp(max=0).exp(), 0.0)
        uniform = torch.rand(
            probability.shape, generator=generator, dtype=torch.float64, device=probability.device
        )
        accept = uniform < probability
        chains = PathChains(
            proposed.state.where(accept, chains.state),
            torch.where(accept, proposed.log_weight, chains.log_weight),
        )
        accepted: list[float] = []
        if moves:
            state, accepted = apply_moves(moves, chains.state, target, generator)
            chains = PathChains._with_new_paths(ladder, state, generator)
        rates += torch.tensor([float(probability.mean()), *accepted], dtype=torch.float64) / rounds
        if observe is not None:
            observe(chains)
    return chains, rates.tolist()


@dataclass(frozen=True)
class ChainHealth:
    """What several chains say about one observable."""

    effective_draws: float
    """Independent draws that the chains are worth."""
    autocorrelation_time: float
    """Steps per independent draw; 1 for independent draws."""
    rhat: float
    """Rank-normalised split R-hat; near 1 if the chains agree."""


def chain_health(draws: Tensor) -> ChainHealth:
    """Judge draws ``(C, T)`` of one observable; antithetic chains count for no more than their length.

    Raises:
        DataError: fewer than four draws per chain, or draws that are not finite.
    """
    values = draws.cpu().double().numpy()
    size = min(effective_draws(values), float(values.size))
    return ChainHealth(size, values.size / size, rhat(values))
