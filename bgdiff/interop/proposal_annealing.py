r"""From a proposal of any origin to the target along a geometric bridge, with moves and resampling.

Importance weights punish a proposal for every place where it is wrong at once. Sequential Monte Carlo takes
its samples through log q + b (log p̃ - log q), b from 0 to 1, lets them move under each of these densities
(MALA with true forces) and resamples where the weights ask for it. The mean of the final weights estimates Z
without bias, as that of the importance weights does, so the two must agree within their errors.

References: Neal, Stat. Comput. 11, 125 (2001); Del Moral, Doucet & Jasra, J. R. Stat. Soc. B 68, 411 (2006);
Midgley et al., ICLR 2023, arXiv:2208.01893 on annealing from a flow.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bgdiff.coordinates import Coordinates, LatentTarget, MeanFreeCoordinates, WhitenedCoordinates, Whitening
from bgdiff.correction import CountedTarget
from bgdiff.errors import ConfigError
from bgdiff.generator import Ensemble
from bgdiff.interop.proposals import ProposalDensity, check_centroids, check_draws
from bgdiff.ladder.bridge import Bridge, plan_bridge, traverse
from bgdiff.ladder.densities import State, TargetDensity
from bgdiff.ladder.genealogy import Genealogy
from bgdiff.ladder.moves import Hamiltonian, mala
from bgdiff.ladder.smc import Population, Resampler, StageRecord
from bgdiff.progress import Progress, silent
from bgdiff.random import derive_seed, generator_for
from bgdiff.systems import System

__all__ = ["Annealed", "anneal", "chart_of"]

_ROUNDS = 12


@dataclass(frozen=True)
class Annealed:
    """What annealing yields.

    Args:
        ensemble: weighted samples; their families are those of common descent.
        bridge: the places that the pilot chose, with the moves it tuned.
        records: what happened at each place, population by population.
        target_evaluations: energies (with or without forces) spent, those of the pilot included.
    """

    ensemble: Ensemble
    bridge: Bridge
    records: tuple[tuple[StageRecord, ...], ...]
    target_evaluations: int


class _Start:
    """The proposal as a density of the latents in which particles move."""

    name = "the proposal"

    def __init__(self, proposal: ProposalDensity, chart: Coordinates) -> None:
        self.proposal, self.chart = proposal, chart

    @property
    def periodic(self) -> Tensor:
        return self.chart.periodic

    def evaluate(self, z: Tensor) -> State:
        with torch.enable_grad():
            z = z.detach().to(torch.float64).requires_grad_(True)
            if self.proposal.coordinates is None:
                x, log_det = self.chart.to_x(z)
                value = self.proposal.log_prob(x).to(torch.float64) + log_det
            else:
                value = self.proposal.log_prob(z).to(torch.float64)
            if not value.requires_grad:
                raise ConfigError(
                    "the proposal's log_prob has no gradient with respect to the points, which annealing "
                    "needs; compute it in torch without torch.no_grad() and without detaching"
                )
            (score,) = torch.autograd.grad(value.sum(), z)
        value = value.detach()
        return State(z.detach(), torch.where(value.isnan(), -torch.inf, value), score)


def chart_of(system: System) -> Coordinates:
    """Cartesian latents in which conformations of the system can move: isometric, without the centroid where
    the energy does not care about it.

    Raises:
        ConfigError: the system is a molecule in internal coordinates, which are fitted to data.
    """
    particles, dimensions = system.target.event_shape
    if system.spec.coordinates == "internal":
        raise ConfigError(
            f"the proposal draws conformations of {system.name}, whose latents are internal coordinates; "
            "give `chart`: fit_coordinates(system, data.x) of bgdiff.preparation"
        )
    if system.spec.coordinates == "mean_free":
        return MeanFreeCoordinates(particles, dimensions, 1.0)
    size = particles * dimensions
    eye = torch.eye(size, dtype=torch.float64)
    return WhitenedCoordinates(Whitening(torch.zeros(size).double(), eye, eye), (particles, dimensions))


def anneal(
    system: System,
    proposal: ProposalDensity,
    n: int,
    *,
    seed: int = 0,
    population: int = 2000,
    overlap: float = 0.9,
    places: Sequence[float] = (),
    moves: int = 1,
    threshold: float = 0.5,
    pilot: int = 500,
    chart: Coordinates | None = None,
    progress: Progress = silent,
) -> Annealed:
    """Correct n samples of a proposal by sequential Monte Carlo along log q + b (log p̃ - log q).

    A pilot, whose particles enter no estimate, chooses the places b and tunes the moves. n is divided into
    populations of nearly equal size, each a function of the pilot, the seed and its number only.

    Args:
        population: particles per population, at most.
        overlap: of neighbouring places, as a conditional effective fraction in (0, 1).
        places: rising b, the last one 1, instead of those that the pilot would choose.
        moves: MALA steps at each place but the last.
        threshold: resample when the effective fraction falls below it; 0 never (annealed importance
            sampling).
        pilot: particles of the pilot.
        chart: latents in which conformations move, if the proposal draws conformations; :func:`chart_of` by
            default. The proposal's density must be one in the volume of this map.

    Raises:
        ConfigError: a number is out of range, a molecule has no chart, or log q has no gradient.
        CorrectionError: the proposal and the target hardly overlap, or energies are not finite; says where.
        DataError: the proposal's samples are damaged.
    """
    if n < 2 or population < 2 or pilot < 10 or moves < 0:
        raise ConfigError(
            "annealing needs at least 2 samples, 2 per population, 10 in the pilot and 0 moves, not "
            f"{n}, {population}, {pilot}, {moves}"
        )
    resampler = Resampler(threshold)
    chart = proposal.coordinates or chart or chart_of(system)
    start = _Start(proposal, chart)
    counted = CountedTarget(LatentTarget(system.target, chart))
    target = TargetDensity(counted, chart.periodic, "the target")

    first = _enter(system, start, pilot, derive_seed(seed, "anneal", "pilot"))
    template = [_move(first.state, chart.periodic)] * moves
    stream = generator_for(seed, "anneal", "pilot", "moves")
    found = plan_bridge(
        start, target, first, lambda: template, stream, overlap=overlap, places=places, rounds=_ROUNDS
    )
    # at the end the weights are settled, and moves would cost forces without improving them
    bridge = Bridge(found.places, (*found.moves[:-1], ()))

    count = -(-n // population)
    arrived: list[Population] = []
    for index in range(count):
        size = n // count + (index < n % count)
        entered = _enter(system, start, size, derive_seed(seed, "anneal", index))
        stream = generator_for(seed, "anneal", index, "moves")
        arrived.append(traverse(start, target, bridge, entered, resampler, stream))
        progress(index + 1, count)
    records = tuple(one.records for one in arrived)
    return Annealed(_ensemble(system, chart, arrived), bridge, records, counted.evaluations)


def _enter(system: System, start: _Start, n: int, seed: int) -> Population:
    """n particles of the proposal. Their weights are 1 up to the rounding between both ways to log q."""
    points, log_q = start.proposal.sample(n, seed=seed)
    points, log_q = check_draws(system.target, start.proposal, points, log_q)
    if start.proposal.coordinates is None:
        check_centroids(system, points)
        points, log_det = start.chart.to_z(points)
        log_q = log_q - log_det
    state = start.evaluate(points)
    return Population(state, state.log_density - log_q, Genealogy(n))


def _move(state: State, periodic: Tensor) -> Hamiltonian:
    """MALA with the width of the proposal along each axis: E[s²]^(-1/2), and no more than its spread."""
    usable = torch.isfinite(state.score).all(1)
    moment = state.score[usable].square().mean(0).clamp_min(torch.finfo(torch.float64).tiny)
    widest = torch.where(periodic, torch.pi, state.z.std(0))
    scale = torch.minimum(moment.rsqrt(), widest)
    return mala(scale, 1.65 * len(scale) ** (-1 / 6))


def _ensemble(system: System, chart: Coordinates, arrived: Sequence[Population]) -> Ensemble:
    families, first = [], 0
    for one in arrived:
        families.append(one.genealogy.ancestors() + first)
        first += len(one.log_weight)
    z = torch.cat([one.state.z for one in arrived])
    log_density = torch.cat([one.state.log_density for one in arrived])
    with torch.no_grad():
        x, log_det = chart.to_x(z)
    energy = torch.where(torch.isfinite(log_density), log_det - log_density, torch.inf)
    log_weight = torch.cat([one.log_weight for one in arrived])
    return Ensemble(
        system, x.numpy(), energy.numpy(), log_weight.numpy(), torch.cat(families).numpy().astype(np.int64)
    )
