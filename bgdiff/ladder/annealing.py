"""Works of switching from one density to another through a sequence of densities, with moves in between.

Forward, a point of the first density changes densities t → t+1 one by one; at each of them but the last,
moves follow that leave it invariant. Backward, a point of the last density goes the same way back, with the
moves of each density in reversed order. In units of kT

    forward   w = Σ_t [log p̃_t(z) - log p̃_{t+1}(z)]
    backward  w = Σ_t [log p̃_{t+1}(z) - log p̃_t(z)],

each term at the point at which that change is made. Moves that satisfy detailed balance, as all of
:mod:`bgdiff.ladder.moves` do, are their own reversals. So both ensembles of paths are connected by Crooks'
theorem, however few steps and moves there are: ⟨e^-w⟩ = Z_T/Z_0 (:func:`bgdiff.free_energy.perturbation.fep`,
Jarzynski's equality), and both works together feed :func:`bgdiff.free_energy.bennett.bar`.

:func:`climb` is the same for a whole ladder: the reverse of a walk down with moves at the rungs and without
resampling, for :mod:`bgdiff.free_energy.paths`.

References: Neal, Stat. Comput. 11, 125 (2001); Jarzynski, Phys. Rev. Lett. 78, 2690 (1997), eq. 2; Crooks,
Phys. Rev. E 61, 2361 (2000), eq. 9.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bgdiff.errors import ConfigError, DataError
from bgdiff.ladder.bridge import Bridge
from bgdiff.ladder.densities import BridgeDensity, BridgeState, Density, State
from bgdiff.ladder.moves import Move, apply_moves
from bgdiff.ladder.paths import Paths
from bgdiff.ladder.smc import Plan
from bgdiff.progress import Progress, silent

__all__ = ["Schedule", "Switched", "bridge_schedule", "climb", "switch_backward", "switch_forward"]


@dataclass(frozen=True)
class Schedule:
    """Densities from the first to the last, and the moves made at each of them.

    Args:
        densities: at least two.
        moves: for each density; those of the first and the last are not used.
    """

    densities: Sequence[Density]
    moves: Sequence[Sequence[Move]] = ()

    def __post_init__(self) -> None:
        if len(self.densities) < 2 or (self.moves and len(self.moves) != len(self.densities)):
            raise ConfigError(
                "switching needs two densities or more and moves for each of them, not "
                f"{len(self.densities)} densities and moves for {len(self.moves)}"
            )

    def moves_at(self, t: int) -> Sequence[Move]:
        return self.moves[t] if self.moves and 0 < t < len(self.densities) - 1 else ()


@dataclass(frozen=True)
class Switched:
    """Where n switched points are, and what it took.

    Args:
        z: ``(n, d)`` float64; means nothing where the work is infinite.
        work: ``(n,)`` float64, in kT; +inf where a point is impossible under a density on the way.
        acceptance: mean acceptance of all moves, in the order in which they were made.
    """

    z: Tensor
    work: Tensor
    acceptance: tuple[float, ...] = ()


def bridge_schedule(low: Density, high: Density, bridge: Bridge) -> Schedule:
    """The places of a bridge as a schedule from ``low`` (a rung, or another target) to ``high``.

    Each place costs no evaluation besides those of its moves.
    """
    places = (0.0, *bridge.places)
    return Schedule([BridgeDensity(low, high, b) for b in places], ((), *bridge.moves))


def switch_forward(schedule: Schedule, z: Tensor, generator: torch.Generator) -> Switched:
    """Switch points z ``(n, d)`` of the first density to the last one.

    Raises:
        DataError: a point has no finite log density in the first one.
    """
    return _switch(schedule, range(len(schedule.densities)), z, generator)


def switch_backward(schedule: Schedule, z: Tensor, generator: torch.Generator) -> Switched:
    """Switch points z ``(n, d)`` of the last density to the first one.

    Raises:
        DataError: a point has no finite log density in the last one.
    """
    return _switch(schedule, range(len(schedule.densities) - 1, -1, -1), z, generator, backward=True)


def _switch(
    schedule: Schedule, order: range, z: Tensor, generator: torch.Generator, *, backward: bool = False
) -> Switched:
    here = schedule.densities[order[0]]
    state = here.evaluate(z.to(torch.float64))
    outside = ~torch.isfinite(state.log_density)
    if bool(outside.any()):
        raise DataError(
            f"{here.name}: {int(outside.sum())} of {len(z)} points have no finite log density there (first: "
            f"{int(outside.to(torch.uint8).argmax())}), so they cannot be its samples"
        )
    work, rates = torch.zeros_like(state.log_density), []
    for t in order[1:]:
        before = state.log_density
        state, here = _seen(schedule.densities[t], state, here), schedule.densities[t]
        change = before - state.log_density
        # once impossible, always of weight zero, wherever moves take the point from there
        work = torch.where(torch.isfinite(change), work + change, torch.inf)
        moves = schedule.moves_at(t)
        state, accepted = apply_moves(moves[::-1] if backward else moves, state, here, generator)
        rates += accepted
    return Switched(state.z, work, tuple(rates))


def _seen(density: Density, state: State, before: Density) -> State:
    """The same points under another density; two places of one bridge know each other's."""
    if (
        isinstance(state, BridgeState)
        and isinstance(density, BridgeDensity)
        and isinstance(before, BridgeDensity)
        and density.low is before.low
        and density.target is before.target
    ):
        return density.view(state)
    return density.evaluate(state.z)


def climb(plan: Plan, z: Tensor, generator: torch.Generator, progress: Progress = silent) -> Paths:
    """Take ends z ``(n, d)`` up a ladder with moves at its rungs; the weights of the same walks taken
    downwards.

    The reverse of :func:`bgdiff.ladder.smc.smc` with the same moves and without resampling (a threshold of
    0). Without moves it is :meth:`bgdiff.ladder.paths.Ladder.walk_up`.

    Args:
        plan: its resampler is not used.

    Returns:
        As for ``walk_up``; ``log_ratio`` lacks the target's log density.
    """
    ladder, top = plan.ladder, plan.ladder.n_rungs
    start = z = z.to(torch.float64)
    log_ratio = torch.zeros_like(z[:, 0])
    first, z_low, energy_low = log_ratio, z, log_ratio
    for k in range(top):
        step, density = ladder.up(k), plan.density(k + 1)
        arrived = density.evaluate(step.sample(z, generator))
        centre = arrived.z + ladder.step_variance(k) * arrived.score
        down = ladder.down(k, arrived.z).log_prob(z, centre)
        log_ratio = log_ratio + step.log_prob(arrived.z, z) - down
        state = arrived
        if k + 1 < top:
            state, _ = apply_moves(list(plan.moves_at(k + 1))[::-1], arrived, density, generator)
            log_ratio = log_ratio + state.log_density - arrived.log_density
        if k == 0:
            first, z_low, energy_low = log_ratio, state.z, state.log_density
        z = state.z
        progress(k + 1, top)
    log_ratio = log_ratio - ladder.prior.log_prob(z)
    return Paths(start, log_ratio, z_low, log_ratio - first + energy_low)
