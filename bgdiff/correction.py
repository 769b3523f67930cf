"""Sequential Monte Carlo for a trained generator: pilots first, then one population per chunk.

The pilots' findings are stored with the run, so that an interrupted run goes on with the very same moves. A
chunk depends on them, on the seed and on its number, and on nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from bgdiff.config import CorrectionConfig
from bgdiff.coordinates import LatentTarget
from bgdiff.errors import CheckpointError
from bgdiff.generator import BoltzmannGenerator
from bgdiff.io import read_json, write_json
from bgdiff.ladder.bridge import Bridge, cross, plan_bridge
from bgdiff.ladder.densities import LatentDensity, TargetDensity
from bgdiff.ladder.moves import AdaptiveMove, Hamiltonian, mala, move_scale
from bgdiff.ladder.pilot import MoveRecipe, Steps, moves_with_steps, respaced, tuned_steps
from bgdiff.ladder.smc import Arrivals, Plan, Resampler, StageRecord, descend, land
from bgdiff.progress import Progress, silent
from bgdiff.random import generator_for

__all__ = ["Corrector", "CountedTarget", "Pilot", "check_settings", "run_pilot", "stage_notes"]

_FORMAT = 2
_KNOTS, _ROUNDS = 16, 12
_NEVER, _ALWAYS = 0.01, 0.999


@dataclass(frozen=True)
class Pilot:
    """What the pilots found.

    Args:
        steps: of each move, by rung.
        bridge_steps: of the moves at each place of the bridge, in order; empty without a bridge.
        target_evaluations: what the pilots cost.
        sigma: noise of the rungs that the pilot chose; empty if the generator's own are kept.
    """

    steps: tuple[Steps, ...] = ()
    bridge_steps: tuple[tuple[float, ...], ...] = ()
    target_evaluations: int = 0
    sigma: tuple[float, ...] = ()

    def save(self, path: Path, config: CorrectionConfig) -> None:
        """Write to JSON, with the settings they belong to."""
        content = {
            "format": _FORMAT,
            "settings": config.model_dump(mode="json"),
            "steps": self.steps,
            "bridge_steps": self.bridge_steps,
            "target_evaluations": self.target_evaluations,
            "sigma": self.sigma,
        }
        write_json(path, content)

    @classmethod
    def load(cls, path: Path, config: CorrectionConfig) -> "Pilot":
        """Read what :meth:`save` wrote.

        Raises:
            CheckpointError: the file is missing or damaged, or the settings are others.
        """
        content = read_json(path)
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise CheckpointError(f"{path}: was written by another version of bgdiff; delete its folder")
        check_settings(path, content.get("settings"), config)
        return cls(
            tuple({int(k): float(step) for k, step in steps.items()} for steps in content["steps"]),
            tuple(tuple(steps) for steps in content["bridge_steps"]),
            content["target_evaluations"],
            tuple(content["sigma"]),
        )


@dataclass(frozen=True)
class Corrector:
    """Draws corrected populations."""

    generator: BoltzmannGenerator
    config: CorrectionConfig
    pilot: Pilot

    @property
    def spaced(self) -> BoltzmannGenerator:
        """The generator with the rungs that the pilot chose."""
        ladder = self.generator.ladder
        if not self.pilot.sigma:
            return self.generator
        return replace(self.generator, ladder=ladder.at(torch.tensor(self.pilot.sigma).to(ladder.sigma)))

    @property
    def plan(self) -> Plan:
        ladder = self.spaced.ladder
        moves = moves_with_steps(ladder, _recipes(self.config), self.pilot.steps, self.config.every)
        return Plan(ladder, moves, Resampler(self.config.threshold, self.config.scheme))

    @property
    def bridge(self) -> Bridge | None:
        if not self.pilot.bridge_steps:
            return None
        template = _bridge_moves(self.spaced, self.config)
        moves = [
            tuple(move.with_step(step) for move, step in zip(template, steps, strict=True))
            for steps in self.pilot.bridge_steps
        ]
        # at its end the weights are settled, and a move would cost forces without improving them
        return Bridge(_places(self.config), (*moves[:-1], ()))

    def population(self, chunk: int, n: int, *, seed: int, progress: Progress = silent) -> Arrivals:
        """The population of one chunk; it depends on the pilot, seed, chunk and n only.

        Raises:
            CorrectionError: the weights collapse, or energies are not finite; the rung is named.
        """
        plan, bridge = self.plan, self.bridge
        stream = _stream(self.generator, seed, "smc", chunk)
        low, weighed = descend(plan, n, stream, progress)
        if bridge is None:
            return land(plan, low, weighed, stream)
        return cross(plan, bridge, _target(self.generator), low, weighed, stream)


def run_pilot(
    generator: BoltzmannGenerator, config: CorrectionConfig, *, seed: int, progress: Progress = silent
) -> Pilot:
    """Tune the moves with particles that no estimate will use.

    Raises:
        CorrectionError: a move is never accepted, or the pilot's weights collapse; the rung is named.
    """
    n, sigma = config.pilot_particles, ()
    recipes, stream = _recipes(config), _stream(generator, seed, "smc", "pilot")
    if config.overlap is not None:
        found, _ = respaced(generator.ladder, config.overlap, n, stream)
        generator, sigma = replace(generator, ladder=found), tuple(found.sigma.tolist())
    ladder = generator.ladder
    steps = tuned_steps(
        ladder,
        recipes,
        n,
        stream,
        resampler=Resampler(0.5, config.scheme),
        knots=_KNOTS,
        rounds=_ROUNDS,
        progress=progress,
    )
    tuned = Pilot(tuple(steps), sigma=sigma)
    if not config.bridge_places:
        return tuned
    plan = Corrector(generator, config, tuned).plan
    counted = CountedTarget(LatentTarget(generator.system.target, generator.coordinates))
    target = TargetDensity(counted, ladder.model.periodic)
    low, _ = descend(replace(plan, resampler=Resampler(0.5)), n, stream)
    template = _bridge_moves(generator, config)
    bridge = plan_bridge(
        plan.density(1), target, low, lambda: template, stream, places=_places(config), rounds=_ROUNDS
    )
    bridge_steps = tuple(
        tuple(move.step for move in moves if isinstance(move, AdaptiveMove)) for moves in bridge.moves
    )
    return replace(tuned, bridge_steps=bridge_steps, target_evaluations=counted.evaluations)


def check_settings(path: Path, stored: Any, config: CorrectionConfig) -> None:
    """Refuse a pilot that was made with other settings; settings it does not know have their defaults.

    Raises:
        CheckpointError: they differ.
    """
    try:
        same = CorrectionConfig.model_validate(stored) == config
    except ValidationError:
        same = False
    if not same:
        raise CheckpointError(f"{path}: belongs to other correction settings; delete its folder")


def stage_notes(populations: Sequence[Sequence[StageRecord]]) -> list[str]:
    """What the records of all populations have to say to a reader, in words."""
    notes = []
    for records in zip(*populations, strict=True):
        stage = records[0].stage
        for index in range(len(records[0].acceptance)):
            rate = sum(record.acceptance[index] for record in records) / len(records)
            if rate < _NEVER:
                notes.append(
                    f"{stage}: a move is accepted in {100 * rate:.1f} % of cases and does nothing there; "
                    "leave it out, or train longer"
                )
            elif rate > _ALWAYS:
                notes.append(f"{stage}: a move is always accepted; its step is too short, or the rung flat")
    return notes


def _recipes(config: CorrectionConfig) -> list[MoveRecipe]:
    recipes = []
    if config.move is not None:
        recipes.append(MoveRecipe(config.move, config.repeats, config.leapfrog_steps))
    if config.jumps:
        recipes.append(MoveRecipe("torsion_jump"))
    return recipes


def _places(config: CorrectionConfig) -> tuple[float, ...]:
    return tuple((i + 1) / config.bridge_places for i in range(config.bridge_places))


def _bridge_moves(generator: BoltzmannGenerator, config: CorrectionConfig) -> list[Hamiltonian]:
    """The moves of one place, their steps not tuned yet."""
    ladder = generator.ladder
    scale = move_scale(ladder.moments[0], float(ladder.sigma[1]), ladder.model.periodic)
    return [mala(scale, 1.65 * len(scale) ** (-1 / 6))] * config.bridge_moves


def _target(generator: BoltzmannGenerator) -> TargetDensity:
    latent = LatentTarget(generator.system.target, generator.coordinates)
    return TargetDensity(latent, generator.ladder.model.periodic)


def _stream(generator: BoltzmannGenerator, seed: int, *keys: int | str) -> torch.Generator:
    return generator_for(seed, *keys, device=generator.ladder.sigma.device)


@dataclass
class CountedTarget:
    """A target that counts its evaluations."""

    target: LatentDensity
    evaluations: int = field(default=0)

    def log_density(self, z: Tensor) -> Tensor:
        self.evaluations += len(z)
        return self.target.log_density(z)

    def log_density_and_score(self, z: Tensor) -> tuple[Tensor, Tensor]:
        self.evaluations += len(z)
        return self.target.log_density_and_score(z)
