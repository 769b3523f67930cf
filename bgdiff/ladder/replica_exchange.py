"""Replica exchange over rungs: the target at the bottom, independent draws of the prior on top.

Every rung holds one conformation of each replica set. Rounds alternate HMC at every rung with exchanges of
neighbours, in the deterministic even-odd order (Syed et al., J. R. Stat. Soc. B 84, 321, 2022). The top
rung is the prior itself and is drawn anew in every round, so that what comes down from it is independent of
everything before: no mode that the prior and the rungs connect can be missed for good.

Noise makes rungs differ mostly in width, so an exchange stretches: with a = width_{k+1}/width_k on the real
axes, (z_k, z_{k+1}) becomes (z_{k+1}/a, a z_k). That map has determinant 1 and is its own inverse, so
Metropolis' rule needs no correction, and between rungs of Gaussian data every exchange is accepted.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from bgdiff.errors import ConfigError, CorrectionError
from bgdiff.ladder.densities import State, TargetDensity
from bgdiff.ladder.moves import LONGEST_STEP, Hamiltonian, move_scale
from bgdiff.ladder.paths import Ladder
from bgdiff.models.base import log_density_and_score
from bgdiff.progress import Progress, silent

__all__ = ["Exchange", "Replicas", "exchange_ladder", "run_exchange", "tune_exchange"]


@dataclass(frozen=True)
class Exchange:
    """What decides how replicas move.

    Args:
        ladder: rungs 0 … R; rung 0 is the target and rung R the prior.
        steps: leapfrog step of rungs 0 … R-1, in units of their widths, ``(R,)``.
        leapfrog_steps: evaluations of each move.
        stretch: whether exchanges stretch.
    """

    ladder: Ladder
    target: TargetDensity
    steps: Tensor
    leapfrog_steps: int = 3
    stretch: bool = True

    @classmethod
    def untuned(cls, ladder: Ladder, target: TargetDensity, leapfrog_steps: int = 3) -> "Exchange":
        """Steps to start adapting from."""
        d = ladder.moments.shape[1]
        steps = torch.full((ladder.n_rungs,), d ** (-0.25), dtype=torch.float64, device=ladder.sigma.device)
        return cls(ladder, target, steps, leapfrog_steps)

    @property
    def widths(self) -> Tensor:
        """Width of each axis at each rung, ``(R+1, d)``; the target's is taken for that of rung 1."""
        ladder = self.ladder
        rows = [
            move_scale(moment, float(sigma), ladder.model.periodic)
            for moment, sigma in zip(ladder.moments, ladder.sigma[1:], strict=True)
        ]
        return torch.stack([rows[0], *rows])

    @property
    def stretches(self) -> Tensor:
        """a of each pair (k, k+1), ``(R, d)``; 1 on periodic axes."""
        widths = self.widths
        ratio = torch.where(self.ladder.model.periodic, 1.0, widths[1:] / widths[:-1])
        return ratio if self.stretch else torch.ones_like(ratio)

    def evaluate(self, z: Tensor, rungs: Tensor) -> State:
        """Log density and score of points ``(B, d)``, each at its own rung ``(B,)``."""
        ladder, top = self.ladder, self.ladder.n_rungs
        value, score = torch.zeros_like(z[:, 0]), torch.zeros_like(z)
        low, high = rungs == 0, rungs == top
        middle = ~(low | high)
        if bool(low.any()):
            state = self.target.evaluate(z[low])
            value[low], score[low] = state.log_density, state.score
        if bool(middle.any()):
            inner, gradient = log_density_and_score(
                ladder.model, z[middle], ladder.sigma[rungs[middle]].to(z)
            )
            value[middle], score[middle] = inner.to(torch.float64), gradient.to(torch.float64)
        value[high] = ladder.prior.log_prob(z[high])
        return State(z, torch.where(value.isnan(), -torch.inf, value), score)


@dataclass
class Replicas:
    """M sets of replicas, one point at every rung of each; and what has happened to them so far.

    Args:
        state: ``(M (R+1), …)``, set by set, in each from rung 0 up.
        from_top: whether a point has come from the prior since it was last counted at the bottom,
            ``(M, R+1)``.
    """

    state: State
    from_top: Tensor
    rounds: int = 0
    arrivals: int = 0
    """Points that came from the prior to the target: round trips of the exchange."""
    target_evaluations: int = 0
    tried: Tensor = field(default_factory=lambda: torch.zeros(0))
    """Exchanges tried between rungs k and k+1, ``(R,)``."""
    exchanged: Tensor = field(default_factory=lambda: torch.zeros(0))
    """Their summed probabilities of acceptance, ``(R,)``."""
    acceptance: Tensor = field(default_factory=lambda: torch.zeros(0))
    """Mean acceptance of the moves at rungs 0 … R-1 in the last round, ``(R,)``."""

    @classmethod
    def at(cls, exchange: Exchange, z: Tensor) -> "Replicas":
        """Replicas at points ``(M, R+1, d)``."""
        sets, levels, _ = z.shape
        if levels != exchange.ladder.n_rungs + 1:
            raise ConfigError(f"{levels} points do not fill a ladder of rungs 0 to {exchange.ladder.n_rungs}")
        state = exchange.evaluate(z.reshape(-1, z.shape[2]), _rungs(sets, levels, z.device))
        counts = torch.zeros(levels - 1, dtype=torch.float64, device=z.device)
        from_top = torch.zeros(sets, levels, dtype=torch.bool, device=z.device)
        return cls(state, from_top, target_evaluations=sets, tried=counts, exchanged=counts.clone())

    @classmethod
    def from_walks(cls, exchange: Exchange, sets: int, generator: torch.Generator) -> "Replicas":
        """Replicas along independent walks down the ladder: near their densities already."""
        ladder = exchange.ladder
        z = ladder.prior.sample(sets, generator)
        points = [z]
        for k in range(ladder.n_rungs - 1, -1, -1):
            z = ladder.down(k, z).sample(ladder.centre(z, k), generator)
            points.append(z)
        return cls.at(exchange, torch.stack(points[::-1], 1))

    @property
    def z(self) -> Tensor:
        """Points by set and rung, ``(M, R+1, d)``."""
        return self.state.z.reshape(*self.from_top.shape, -1)

    @property
    def swap_rates(self) -> Tensor:
        """Mean acceptance of the exchanges between rungs k and k+1, ``(R,)``."""
        return self.exchanged / self.tried.clamp_min(1)


def run_exchange(
    exchange: Exchange,
    replicas: Replicas,
    rounds: int,
    generator: torch.Generator,
    observe: Callable[[Replicas], None] | None = None,
    progress: Progress = silent,
) -> None:
    """Run rounds in place: a move at every rung, a new prior draw on top, exchanges of every other pair.

    Args:
        observe: called after every round, when every rung holds samples of its density.
    """
    for index in range(rounds):
        _move(exchange, replicas, generator)
        _swap(exchange, replicas, generator)
        replicas.rounds += 1
        if observe is not None:
            observe(replicas)
        progress(index + 1, rounds)


def tune_exchange(
    exchange: Exchange,
    replicas: Replicas,
    rounds: int,
    generator: torch.Generator,
    *,
    least_swap: float = 0.05,
) -> Exchange:
    """Adapt the steps of all rungs at once in a pilot, and freeze them; the counts of the pilot are dropped.

    Args:
        least_swap: a pair of rungs that exchanges less often ends the pilot.

    Raises:
        CorrectionError: moves are never accepted at a rung, or two rungs do not overlap; they are named.
    """
    wanted = 0.574 if exchange.leapfrog_steps == 1 else 0.8
    log_step, kept = exchange.steps.log(), []
    for index in range(rounds):
        current = replace(exchange, steps=log_step.exp())
        _move(current, replicas, generator)
        _swap(current, replicas, generator)
        replicas.rounds += 1
        change = ((replicas.acceptance - wanted) / (wanted * (1 - wanted))).clamp(-1, 1)
        log_step = (log_step + change / math.sqrt(1 + index / 4)).clamp(-9.0, math.log(LONGEST_STEP))
        if index >= rounds // 2:
            kept.append(log_step)
    sigma = exchange.ladder.sigma
    for k, rate in enumerate(replicas.acceptance.tolist()):
        if rate < 0.01:
            raise CorrectionError(
                f"rung {k} (sigma = {float(sigma[k]):.3g}): moves are accepted in {100 * rate:.1f} % of "
                "cases whatever their step; the energy there is not smooth or not finite: train longer"
            )
    for k, rate in enumerate(replicas.swap_rates.tolist()):
        if rate < least_swap:
            raise CorrectionError(
                f"rungs {k} and {k + 1} (sigma = {float(sigma[k]):.3g} and {float(sigma[k + 1]):.3g}): "
                f"{100 * rate:.1f} % of exchanges are accepted, so nothing passes; use more rungs, or train "
                "longer"
            )
    _forget_counts(replicas)
    return replace(exchange, steps=torch.stack(kept).mean(0).exp())


def exchange_ladder(
    ladder: Ladder, z: Tensor, acceptance: float, generator: torch.Generator, stretch: bool = True
) -> Ladder:
    """Thin a ladder out so that neighbouring rungs exchange about as often as asked for.

    Args:
        z: data ``(n, d)``, noised afresh for every rung; a few hundred points.
        acceptance: of exchanges, in (0, 1); rungs 0 and 1 are always kept.
    """
    if not 0 < acceptance < 1:
        raise ConfigError(f"the acceptance of exchanges must lie between 0 and 1, not {acceptance}")
    chosen, top = [0, 1], ladder.n_rungs

    def rate(low: int, high: int) -> float:
        points = [_noised(ladder, z, k, generator) for k in (low, high)]
        pair = Ladder(ladder.model, ladder.sigma[[0, low, high]], ladder.moments[[low - 1, high - 1]])
        return _pair_rate(pair, points[0], points[1], stretch)

    while chosen[-1] < top:
        low, high = chosen[-1] + 1, top
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if rate(chosen[-1], middle) >= acceptance else (low, middle - 1)
        chosen.append(low)
    index = torch.tensor(chosen, device=ladder.sigma.device)
    return Ladder(ladder.model, ladder.sigma[index], ladder.moments[index[1:] - 1])


def _pair_rate(pair: Ladder, low: Tensor, high: Tensor, stretch: bool) -> float:
    """Mean acceptance of exchanges between independent points at rungs 1 and 2 of a ladder of two."""
    periodic = pair.model.periodic
    widths = [move_scale(pair.moments[k], float(pair.sigma[k + 1]), periodic) for k in (0, 1)]
    a = torch.where(periodic, 1.0, widths[1] / widths[0]) if stretch else torch.ones_like(widths[0])

    def log_density(points: Tensor, k: int) -> Tensor:
        with torch.no_grad():
            return pair.model.log_density(points, pair.sigma[k].to(points).reshape(1)).to(torch.float64)

    gain = log_density(high / a, 1) + log_density(a * low, 2) - log_density(low, 1) - log_density(high, 2)
    return float(gain.clamp(max=0).exp().mean())


def _noised(ladder: Ladder, z: Tensor, k: int, generator: torch.Generator) -> Tensor:
    from bgdiff.ladder.kernels import NormalStep

    return NormalStep.isotropic(float(ladder.sigma[k] ** 2), ladder.model.periodic).sample(z, generator)


@dataclass(frozen=True)
class _AllRungs:
    """The densities of all rungs but the prior's, row by row, as one density for a move."""

    exchange: Exchange
    rungs: Tensor
    name: str = "all rungs"

    @property
    def periodic(self) -> Tensor:
        return self.exchange.ladder.model.periodic

    def evaluate(self, z: Tensor) -> State:
        return self.exchange.evaluate(z, self.rungs)


def _move(exchange: Exchange, replicas: Replicas, generator: torch.Generator) -> None:
    """HMC at rungs 0 … R-1, a new draw at rung R; changes the replicas' state, marks and counts."""
    sets, levels = replicas.from_top.shape
    rungs = _rungs(sets, levels, replicas.state.z.device)
    below = torch.nonzero(rungs < levels - 1)[:, 0]
    scale = (exchange.steps[:, None] * exchange.widths[:-1])[rungs[below]]
    move = Hamiltonian(scale, 1.0, exchange.leapfrog_steps, 0.2)
    moved, probability = move(replicas.state.take(below), _AllRungs(exchange, rungs[below]), generator)
    replicas.acceptance = probability.reshape(sets, -1).mean(0)
    replicas.target_evaluations += sets * exchange.leapfrog_steps
    top = torch.nonzero(rungs == levels - 1)[:, 0]
    fresh = exchange.evaluate(exchange.ladder.prior.sample(sets, generator), rungs[top])
    replicas.state = _put(_put(replicas.state, below, moved), top, fresh)
    replicas.from_top[:, -1] = True


def _swap(exchange: Exchange, replicas: Replicas, generator: torch.Generator) -> None:
    """Exchange every other pair of neighbouring rungs, and count what arrives at the bottom."""
    sets, levels = replicas.from_top.shape
    device = replicas.state.z.device
    parity = replicas.rounds % 2
    pairs = torch.arange(parity, levels - 1, 2, device=device)
    low = (levels * torch.arange(sets, device=device)[:, None] + pairs).flatten()
    high, a = low + 1, exchange.stretches[pairs].repeat(sets, 1)
    state, rungs = replicas.state, _rungs(sets, levels, device)
    rows = torch.cat([low, high])
    proposed = exchange.evaluate(torch.cat([state.z[high] / a, a * state.z[low]]), rungs[rows])
    replicas.target_evaluations += sets * (parity == 0)
    gain = (proposed.log_density - state.log_density[rows]).reshape(2, -1)
    log_ratio = gain[0] + gain[1]
    possible = torch.isfinite(proposed.log_density).reshape(2, -1).all(0)
    probability = torch.where(possible & ~log_ratio.isnan(), log_ratio.clamp(max=0).exp(), 0.0)
    uniform = torch.rand(len(low), generator=generator, dtype=torch.float64, device=device)
    accept = uniform < probability
    replicas.state = _put(state, rows, proposed.where(accept.repeat(2), state.take(rows)))
    marks = replicas.from_top.flatten()
    marks[low], marks[high] = (
        torch.where(accept, marks[high], marks[low]),
        torch.where(accept, marks[low], marks[high]),
    )
    replicas.from_top = marks.reshape(sets, levels)
    replicas.tried[pairs] += sets
    replicas.exchanged[pairs] += probability.reshape(sets, -1).sum(0)
    replicas.arrivals += int(replicas.from_top[:, 0].sum())
    replicas.from_top[:, 0] = False


def _put(state: State, rows: Tensor, values: State) -> State:
    """The state with some rows replaced."""
    return State(
        state.z.index_copy(0, rows, values.z),
        state.log_density.index_copy(0, rows, values.log_density),
        state.score.index_copy(0, rows, values.score),
    )


def _rungs(sets: int, levels: int, device: torch.device) -> Tensor:
    """Rung of each row."""
    return torch.arange(levels, device=device).repeat(sets)


def _forget_counts(replicas: Replicas) -> None:
    replicas.tried = torch.zeros_like(replicas.tried)
    replicas.exchanged = torch.zeros_like(replicas.exchanged)
    replicas.rounds = replicas.arrivals = replicas.target_evaluations = 0
