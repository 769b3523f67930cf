"""Replica exchange: ladders of walkers at several densities that exchange conformations.

The rungs of a ladder are temperatures (parallel tempering) or, more generally, any reduced energies
u_k(x) = Σ_c w_kc e_c(x) that weight the same components e_c differently. Neighbouring rungs exchange by
Metropolis' rule (Sugita & Okamoto, Chem. Phys. Lett. 314, 141, 1999; Sugita, Kitao & Okamoto, J. Chem. Phys.
113, 6042, 2000, for Hamiltonians) in the deterministic even-odd order, which makes conformations travel
rather than diffuse: a non-reversible scheme (Syed et al., J. R. Stat. Soc. B 84, 321, 2022).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from bgdiff.errors import ConfigError
from bgdiff.sampling.walkers import Move, Walkers

__all__ = ["Ladders", "Round", "Rungs", "TemperatureRungs", "exchange", "exchange_replicas", "temper"]

_UP, _DOWN = 1, 2  # a walker's heading: towards the highest rung, or back from it


@dataclass
class Ladders:
    """M independent ladders of K rungs: walker w of ladder m is row ``m K + w`` of ``walkers``.

    Conformations keep their row and change their rung, so an exchange moves no coordinates.
    """

    walkers: Walkers
    at_rung: Tensor
    """Walker at each rung, ``(M, K)``, a permutation of 0 … K-1 in every row."""
    rounds: int = 0
    """Rounds done; its parity says which pairs exchange next."""
    heading: Tensor = field(default_factory=lambda: torch.empty(0))
    """Per walker ``(M, K)``: 0 never at the lowest rung, 1 on its way up, 2 on its way down."""
    trips: Tensor = field(default_factory=lambda: torch.empty(0))
    """Round trips lowest - highest - lowest of each walker, ``(M, K)``."""

    def __post_init__(self) -> None:
        if self.at_rung.ndim != 2 or self.at_rung.numel() != len(self.walkers):
            raise ConfigError(f"{len(self.walkers)} walkers do not fill ladders {tuple(self.at_rung.shape)}")
        if not self.heading.numel():
            self.heading = torch.zeros(self.at_rung.shape, dtype=torch.int64)
            self.trips = torch.zeros_like(self.heading)

    @classmethod
    def in_order(cls, walkers: Walkers, rungs: int) -> "Ladders":
        """Ladders whose walker w starts at rung w."""
        if rungs < 2 or len(walkers) % rungs:
            raise ConfigError(f"{len(walkers)} walkers do not fill ladders of {rungs} rungs")
        return cls(walkers, torch.arange(rungs).repeat(len(walkers) // rungs, 1))

    @property
    def rung(self) -> Tensor:
        """Rung of each walker, ``(M, K)``."""
        return self.at_rung.argsort(dim=1)

    def by_rung(self, values: Tensor) -> Tensor:
        """Sort a number per walker ``(B,)`` or array ``(B, ...)`` by rung: ``(M, K, ...)``."""
        ladders, rungs = self.at_rung.shape
        rows = self.at_rung + rungs * torch.arange(ladders)[:, None]
        return values[rows.to(values.device)]


@dataclass(frozen=True)
class Round:
    """What one round did."""

    index: int
    """Number of the round, from 1, since the ladders began."""
    acceptance: Tensor
    """Acceptance probability of the moves, by rung, ``(M, K)``."""
    energy: Tensor
    """Energies of the conformation at each rung, ``(M, K)``, or of their components, ``(M, K, C)``."""
    exchanged: Tensor
    """By pair of rungs, ``(M, K-1)``: 1 exchanged, 0 refused, nan not tried."""


class Rungs(Protocol):
    """K densities exp(-u_k) on the same conformations, u_k(x) = Σ_c weights[k, c] e_c(x)."""

    @property
    def weights(self) -> Tensor:
        """``(K, C)``, or ``(K,)`` if there is only one component."""
        ...

    def advance(self, walkers: Walkers, rung: Tensor, generator: torch.Generator) -> Tensor:
        """Move walkers in place, each at its rung ``(B,)``; return the acceptance ``(B,)``."""
        ...

    def energies(self, walkers: Walkers) -> Tensor:
        """Components e_c of the walkers' energies, ``(B, C)``, or ``(B,)``."""
        ...

    def enter(self, walkers: Walkers, old: Tensor, new: Tensor) -> None:
        """Adapt walkers that stayed where they are but went from rungs ``old`` to ``new``, ``(B,)`` each."""
        ...


@dataclass(frozen=True)
class TemperatureRungs:
    """One energy at several temperatures: the rungs of parallel tempering.

    Args:
        move: advances walkers at given temperatures.
        temperatures: ``(K,)`` in units of the target's, ascending.

    Raises:
        ConfigError: they do not ascend.
    """

    move: Move
    temperatures: Tensor

    def __post_init__(self) -> None:
        object.__setattr__(self, "temperatures", self.temperatures.to(torch.float64))
        if not (self.temperatures.diff() > 0).all():
            raise ConfigError("temperatures must ascend, one for every rung")

    @property
    def weights(self) -> Tensor:
        """Inverse temperatures ``(K,)``."""
        return 1 / self.temperatures

    def advance(self, walkers: Walkers, rung: Tensor, generator: torch.Generator) -> Tensor:
        return self.move(walkers, generator, self.temperatures[rung])

    def energies(self, walkers: Walkers) -> Tensor:
        return walkers.energy

    def enter(self, walkers: Walkers, old: Tensor, new: Tensor) -> None:
        """Scale velocities to the new temperature."""
        if walkers.velocity is not None:
            ratio = (self.temperatures[new] / self.temperatures[old]).sqrt()
            walkers.velocity *= ratio.to(walkers.velocity)[:, None, None]


def exchange(
    energy: Tensor, weights: Tensor, parity: int, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Try to exchange the conformations at rungs (k, k+1) with k of the given parity.

    A pair is exchanged with probability min(1, exp(Σ_c (w_kc - w_{k+1,c}) (e_c(x_k) - e_c(x_{k+1}))));
    never if that is not a finite number. For temperatures there is one component, the energy, and its weights
    are the inverse temperatures.

    Args:
        energy: ``(M, K)`` of the conformation at each rung, or its components ``(M, K, C)``.
        weights: ``(K,)`` or ``(K, C)`` of each rung: reduced energies are Σ_c weights · energy.
        parity: 0 for pairs (0, 1), (2, 3) …; 1 for (1, 2), (3, 4) ….
        generator: source of the uniform numbers.

    Returns:
        ``order`` ``(M, K)``, the old rung of what each rung now holds, and ``exchanged`` ``(M, K-1)``: 1 or 0
        for pairs that were tried and nan for the others.
    """
    ladders, rungs = energy.shape[:2]
    order = torch.arange(rungs).repeat(ladders, 1)
    exchanged = torch.full((ladders, rungs - 1), torch.nan, dtype=torch.float64)
    low = torch.arange(parity, rungs - 1, 2)
    uniform = torch.rand(ladders, len(low), generator=generator, dtype=torch.float64)
    energy = energy.to("cpu", torch.float64).reshape(ladders, rungs, -1)
    weights = weights.to("cpu", torch.float64).reshape(rungs, -1)
    log_ratio = ((weights[low] - weights[low + 1]) * (energy[:, low] - energy[:, low + 1])).sum(2)
    accept = (uniform.log() < log_ratio) & torch.isfinite(log_ratio)
    exchanged[:, low] = accept.double()
    order[:, low] += accept.long()
    order[:, low + 1] -= accept.long()
    return order, exchanged


def exchange_replicas(
    rungs: Rungs,
    ladders: Ladders,
    rounds: int,
    generator: torch.Generator,
    observe: Callable[[Ladders, Round], None] | None = None,
) -> None:
    """Run rounds of replica exchange in place: walkers advance at their rungs, then neighbours exchange.

    Args:
        rungs: the densities, as many as each ladder has rungs.
        rounds: how many.
        observe: called in every round before its exchanges, when every rung holds a sample of its density.
            (``Round.exchanged`` is what the round is about to do.)
    """
    walkers, top = ladders.walkers, len(rungs.weights) - 1
    if top + 1 != ladders.at_rung.shape[1]:
        raise ConfigError(f"{top + 1} densities for ladders of {ladders.at_rung.shape[1]} rungs")
    for _ in range(rounds):
        rung = ladders.rung
        acceptance = rungs.advance(walkers, rung.flatten(), generator)
        energy = ladders.by_rung(rungs.energies(walkers))
        order, exchanged = exchange(energy, rungs.weights, ladders.rounds % 2, generator)
        ladders.rounds += 1
        _count_trips(ladders, rung, top)
        if observe is not None:
            result = Round(ladders.rounds, ladders.by_rung(acceptance.cpu()), energy, exchanged)
            observe(ladders, result)
        ladders.at_rung = ladders.at_rung.gather(1, order)
        rungs.enter(walkers, rung.flatten(), ladders.rung.flatten())


def temper(
    move: Move,
    ladders: Ladders,
    temperatures: Tensor,
    rounds: int,
    generator: torch.Generator,
    observe: Callable[[Ladders, Round], None] | None = None,
) -> None:
    """Run rounds of parallel tempering in place: :func:`exchange_replicas` of :class:`TemperatureRungs`."""
    if len(temperatures) != ladders.at_rung.shape[1]:
        raise ConfigError("temperatures must ascend, one for every rung")
    exchange_replicas(TemperatureRungs(move, temperatures), ladders, rounds, generator, observe)


def _count_trips(ladders: Ladders, rung: Tensor, top: int) -> None:
    bottom = rung == 0
    ladders.trips += bottom & (ladders.heading == _DOWN)
    ladders.heading[bottom] = _UP
    ladders.heading[(rung == top) & (ladders.heading == _UP)] = _DOWN
