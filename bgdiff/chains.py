"""Markov chains for a trained generator: a pilot first, then one stretch of all chains after the other.

A stretch depends on the pilot, on where the chains stand before it, on the seed and on its number, and on
nothing else. The chains' state is kept in the same file as the draws, so an interrupted run goes on exactly.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from bgdiff.chunk_files import Stretch
from bgdiff.config import CorrectionConfig, RunConfig
from bgdiff.coordinates import LatentTarget
from bgdiff.correction import CountedTarget, check_settings
from bgdiff.errors import CheckpointError, ConfigError, CorrectionError
from bgdiff.generator import BoltzmannGenerator
from bgdiff.io import load_tensors, save_tensors
from bgdiff.ladder.densities import State, TargetDensity
from bgdiff.ladder.imh import PathChains, advance
from bgdiff.ladder.moves import Hamiltonian, adapt_step, mala, move_scale
from bgdiff.ladder.paths import Ladder, Paths
from bgdiff.ladder.replica_exchange import (
    Exchange,
    Replicas,
    exchange_ladder,
    run_exchange,
    tune_exchange,
)
from bgdiff.ladder.resampling import shares
from bgdiff.progress import Progress, silent
from bgdiff.random import generator_for

__all__ = ["ChainPilot", "ChainPlan", "ChainSampler", "ExchangeChains", "WalkChains"]

_LEAST_DRAWS = 4  # what convergence diagnostics need of every chain
_LADDER_POINTS = 300


@dataclass(frozen=True)
class ChainPlan:
    """How many draws the chains make, and in which stretches.

    Args:
        chains: C.
        length: draws of each chain, the burn-in included.
        dropped: draws of each chain that are its burn-in.
        stretch: draws of each chain in one stretch; the last may be shorter.
    """

    chains: int
    length: int
    dropped: int
    stretch: int

    @classmethod
    def of(cls, config: RunConfig, method: str) -> "ChainPlan":
        """``imh`` uses the run's N walks once each; ``replica-exchange`` draws N samples after the burn-in.

        Raises:
            ConfigError: the chains are too short to judge.
        """
        n, settings = config.sampling.n_samples, config.correction
        if method == "imh":
            length = n // settings.chains
            dropped = math.ceil(settings.burn_in * length)
        else:
            kept = math.ceil(n / settings.chains)
            length = math.ceil(kept / (1 - settings.burn_in))
            dropped = length - kept
        if length - dropped < _LEAST_DRAWS:
            raise ConfigError(
                f"{n} samples in {settings.chains} chains leave {max(length - dropped, 0)} draws of each, "
                f"and {_LEAST_DRAWS} is the least that can be judged; raise sampling.n_samples or lower "
                "correction.chains"
            )
        return cls(settings.chains, length, dropped, max(config.sampling.chunk // settings.chains, 1))

    @property
    def stretches(self) -> list[tuple[int, int]]:
        """First draw and number of draws of each stretch."""
        return [
            (start, min(self.stretch, self.length - start)) for start in range(0, self.length, self.stretch)
        ]

    def kept(self, index: int) -> slice:
        """Draws of stretch ``index`` that are not burn-in."""
        start, rounds = self.stretches[index]
        return slice(min(max(self.dropped - start, 0), rounds), rounds)


@dataclass(frozen=True)
class ChainPilot:
    """What a pilot found.

    Args:
        tensors: steps, rungs, and where the chains start, by name.
        target_evaluations: what the pilot cost.
    """

    tensors: dict[str, Tensor]
    target_evaluations: int = 0

    def save(self, path: Path, config: CorrectionConfig) -> None:
        """Write with the settings it belongs to, atomically."""
        facts = {"settings": config.model_dump(mode="json"), "target_evaluations": self.target_evaluations}
        save_tensors(path, self.tensors, {"kind": "pilot of chains", **facts})

    @classmethod
    def load(cls, path: Path, config: CorrectionConfig) -> "ChainPilot":
        """Read what :meth:`save` wrote.

        Raises:
            CheckpointError: the file is missing or damaged, or the settings are others.
        """
        tensors, metadata = load_tensors(path)
        if metadata.get("kind") != "pilot of chains":
            raise CheckpointError(f"{path}: is not the pilot of a chain method; delete its folder")
        check_settings(path, metadata["settings"], config)
        return cls(tensors, metadata["target_evaluations"])


class ChainSampler(Protocol):
    """Draws from the target with several Markov chains."""

    def pilot(self, progress: Progress = silent) -> ChainPilot:
        """Tune and place the chains; no estimate uses what the pilot visits."""
        ...

    def stretch(
        self,
        index: int,
        pilot: ChainPilot,
        before: dict[str, Tensor] | None,
        progress: Progress = silent,
    ) -> Stretch:
        """Stretch number ``index``, from the state that the one before it ended in."""
        ...


@dataclass(frozen=True)
class WalkChains:
    """Independent Metropolis-Hastings: chains that take the run's walks as proposals, each walk once.

    Args:
        walks: gives the walks number ``start`` to ``stop`` - 1 of the run.
    """

    generator: BoltzmannGenerator
    config: CorrectionConfig
    plan: ChainPlan
    seed: int
    walks: Callable[[int, int], Paths]

    def pilot(self, progress: Progress = silent) -> ChainPilot:
        """Tune the local moves, from walks drawn by weight.

        Raises:
            CorrectionError: no walk has any weight, or the move is never accepted.
        """
        if not self.config.local_moves:
            return ChainPilot({})
        counted, target = _target(self.generator)
        total = self.plan.chains * self.plan.length
        state, log_weight = self._weigh(target, 0, min(self.config.pilot_particles, total))
        progress(1, 2)
        stream = _stream(self.generator, self.seed, "imh", "pilot")
        if not bool(torch.isfinite(log_weight).any()):
            raise _no_weight(len(log_weight))
        rows = torch.multinomial(shares(log_weight), self.plan.chains, replacement=True, generator=stream)
        move, _ = adapt_step(self._move(), state.take(rows), target, stream, self.config.tuning_rounds)
        return ChainPilot({"step": torch.tensor(move.step, dtype=torch.float64)}, counted.evaluations)

    def stretch(
        self,
        index: int,
        pilot: ChainPilot,
        before: dict[str, Tensor] | None,
        progress: Progress = silent,
    ) -> Stretch:
        """As the protocol says; the first stretch starts from each chain's first walk of non-zero weight.

        Raises:
            CorrectionError: a chain has no such walk.
        """
        start, rounds = self.plan.stretches[index]
        width, ladder = self.plan.chains, self.generator.ladder
        counted, target = _target(self.generator)
        state, log_weight = self._weigh(target, start * width, (start + rounds) * width)
        proposals = PathChains(state, log_weight)
        if before is None:
            chains = self._first(proposals)
        else:
            known = {name: value.to(ladder.sigma.device) for name, value in before.items()}
            log_weight = known.pop("log_weight")
            chains = PathChains(State(**known), log_weight)
        moves = [self._move(float(pilot.tensors["step"]))] * self.config.local_moves if pilot.tensors else []
        ends: list[Tensor] = []
        energies: list[Tensor] = []

        def observe(now: PathChains) -> None:
            ends.append(now.state.z)
            energies.append(now.state.log_density)
            progress(len(ends), rounds)

        stream = _stream(self.generator, self.seed, "imh", index)
        chains, rates = advance(chains, ladder, target, moves, rounds, stream, observe, proposals)
        return Stretch(
            torch.cat(ends),
            torch.cat(energies),
            {**vars(chains.state), "log_weight": chains.log_weight},
            acceptance=rates[0],
            target_evaluations=counted.evaluations,
            walk_log_weight=proposals.log_weight,
        )

    def _weigh(self, target: TargetDensity, start: int, stop: int) -> tuple[State, Tensor]:
        """Walks as states under the target, with their log weights; forces only if moves need them."""
        paths, device = self.walks(start, stop), self.generator.ladder.sigma.device
        z, log_ratio = paths.z.to(device), paths.log_ratio.to(device)
        if self.config.local_moves:
            state = target.evaluate(z)
        else:
            state = State(z, target.target.log_density(z).to(device), torch.zeros_like(z))
        return state, state.log_density + log_ratio

    def _first(self, proposals: PathChains) -> PathChains:
        """Each chain's first walk of non-zero weight; what that makes of the start is left to the burn-in."""
        width = self.plan.chains
        usable = torch.isfinite(proposals.log_weight).reshape(-1, width)
        if not bool(usable.any(0).all()):
            raise _no_weight(len(usable))
        rows = usable.int().argmax(0) * width + torch.arange(width, device=usable.device)
        return PathChains(proposals.state.take(rows), proposals.log_weight[rows])

    def _move(self, step: float | None = None) -> Hamiltonian:
        scale = _target_scale(self.generator.ladder)
        return mala(scale, 1.65 * len(scale) ** (-1 / 6) if step is None else step)


@dataclass(frozen=True)
class ExchangeChains:
    """Replica exchange over rungs chosen to exchange evenly.

    Args:
        points: a few hundred data points ``(n, d)``, for choosing the rungs.
    """

    generator: BoltzmannGenerator
    config: CorrectionConfig
    plan: ChainPlan
    seed: int
    points: Callable[[int], Tensor]

    def pilot(self, progress: Progress = silent) -> ChainPilot:
        """Choose rungs, place replicas along walks, tune the moves.

        Raises:
            CorrectionError: a move is never accepted, or two rungs do not exchange; they are named.
        """
        fine, config = self.generator.ladder, self.config
        stream = _stream(self.generator, self.seed, "replica-exchange", "pilot")
        points = self.points(_LADDER_POINTS).to(fine.sigma.device)
        ladder = exchange_ladder(fine, points, config.swap_acceptance, stream)
        counted, target = _target(self.generator)
        exchange = Exchange.untuned(ladder, target, config.leapfrog_steps)
        replicas = Replicas.at(exchange, _along_walks(fine, ladder, self.plan.chains, stream))
        progress(1, 2)
        exchange = tune_exchange(exchange, replicas, config.tuning_rounds, stream)
        found = {"sigma": ladder.sigma, "moments": ladder.moments, "steps": exchange.steps}
        return ChainPilot(found | _replica_state(replicas), counted.evaluations)

    def stretch(
        self,
        index: int,
        pilot: ChainPilot,
        before: dict[str, Tensor] | None,
        progress: Progress = silent,
    ) -> Stretch:
        """As the protocol says; the first stretch starts where the pilot ended."""
        _, rounds = self.plan.stretches[index]
        device, thinning = self.generator.ladder.sigma.device, self.config.thinning
        found = {name: value.to(device) for name, value in pilot.tensors.items()}
        counted, target = _target(self.generator)
        ladder = Ladder(self.generator.ladder.model, found["sigma"], found["moments"])
        exchange = Exchange(ladder, target, found["steps"], self.config.leapfrog_steps)
        replicas = _replicas(found if before is None else before, device)
        ends: list[Tensor] = []
        energies: list[Tensor] = []
        arrivals: list[int] = []
        accepted = []

        def observe(now: Replicas) -> None:
            accepted.append(float(now.acceptance[0]))
            if len(accepted) % thinning == 0:
                ends.append(now.z[:, 0].clone())
                energies.append(now.state.log_density.reshape(now.from_top.shape)[:, 0].clone())
                arrivals.append(now.arrivals)

        stream = _stream(self.generator, self.seed, "replica-exchange", index)
        run_exchange(exchange, replicas, rounds * thinning, stream, observe, progress)
        return Stretch(
            torch.cat(ends),
            torch.cat(energies),
            _replica_state(replicas),
            acceptance=sum(accepted) / len(accepted),
            target_evaluations=counted.evaluations,
            arrivals=torch.tensor(arrivals).diff(prepend=torch.zeros(1, dtype=torch.int64)),
            tried=replicas.tried,
            exchanged=replicas.exchanged,
        )


def _along_walks(fine: Ladder, ladder: Ladder, n: int, stream: torch.Generator) -> Tensor:
    """Points ``(n, R+1, d)`` where n walks down the fine ladder pass the rungs of the coarse one."""
    wanted = torch.isin(fine.sigma, ladder.sigma).tolist()
    z = fine.prior.sample(n, stream)
    points = [z]
    for k in range(fine.n_rungs - 1, -1, -1):
        z = fine.down(k, z).sample(fine.centre(z, k), stream)
        if wanted[k]:
            points.append(z)
    return torch.stack(points[::-1], 1)


def _replica_state(replicas: Replicas) -> dict[str, Tensor]:
    rounds = torch.tensor(replicas.rounds)
    return {**vars(replicas.state), "from_top": replicas.from_top, "rounds": rounds}


def _replicas(known: dict[str, Tensor], device: torch.device) -> Replicas:
    """Replicas where they stood, with counts that start at zero."""
    state = State(*(known[name].to(device) for name in ("z", "log_density", "score")))
    from_top = known["from_top"].to(device)
    pairs = torch.zeros(from_top.shape[1] - 1, dtype=torch.float64, device=device)
    return Replicas(state, from_top, rounds=int(known["rounds"]), tried=pairs, exchanged=pairs.clone())


def _target_scale(ladder: Ladder) -> Tensor:
    """Widths of the target's axes, as the lowest rung knows them."""
    return move_scale(ladder.moments[0], float(ladder.sigma[1]), ladder.model.periodic)


def _target(generator: BoltzmannGenerator) -> tuple[CountedTarget, TargetDensity]:
    counted = CountedTarget(LatentTarget(generator.system.target, generator.coordinates))
    return counted, TargetDensity(counted, generator.ladder.model.periodic)


def _stream(generator: BoltzmannGenerator, seed: int, *keys: int | str) -> torch.Generator:
    return generator_for(seed, *keys, device=generator.ladder.sigma.device)


def _no_weight(n: int) -> CorrectionError:
    return CorrectionError(
        f"rung 0 (the target): a chain has no walk of non-zero weight among {n} to start from; train longer, "
        "or check that the data and the energy belong to the same system"
    )
