"""Self-correcting training: a generator's own samples, corrected, become its next training data.

A model that was trained on data in the wrong proportions draws in the wrong proportions, and every correction
pays for that. But the weights say what the proportions should have been. So each round draws walks, or
populations by sequential Monte Carlo, weights them with the target, resamples them by their weights into a
data set of (nearly) independent conformations in the right proportions, with energies and forces known
already, and trains further on it. The weights of all rounds enter the final estimates: each is exact by
itself, whatever its model had learned.
"""

import json
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from bgdiff.analysis.weights import ess_kish
from bgdiff.coordinates import LatentTarget
from bgdiff.errors import CorrectionError
from bgdiff.free_energy.importance import family_log_weights
from bgdiff.generator import BoltzmannGenerator, finish, make_trainer
from bgdiff.io import (
    atomic_path,
    load_tensors,
    make_directory,
    save_tensors,
    write_json,
    write_text,
)
from bgdiff.ladder.densities import TargetDensity
from bgdiff.ladder.moves import AdaptiveMove, adapt_step, apply_moves, mala, move_scale
from bgdiff.ladder.resampling import effective_size, systematic
from bgdiff.preparation import Prepared, basin_index, prepare
from bgdiff.progress import Progress
from bgdiff.random import generator_for
from bgdiff.round_samples import PROPOSAL, RECORD, draw_round, round_draws, round_files
from bgdiff.training_data import TrainingData

if TYPE_CHECKING:
    from bgdiff.run import Run, Stages

__all__ = ["round_log_weight", "tempering_power", "train_rounds"]

_LOG = logging.getLogger(__name__)
_CORRECTED = "corrected.safetensors"
_MOVE_ROUNDS = 12
_RARE = 0.02  # of the training frames
_LEAST_EFFECTIVE = 0.05  # of the walks; weights that keep less are tempered


def train_rounds(run: "Run", stages: "Stages") -> None:
    """The training on the data and then every round; what is finished already is kept.

    Raises:
        CorrectionError: all walks of a round have weight zero.
        DataError, CheckpointError: as :func:`bgdiff.preparation.prepare` and the trainer say.
    """
    n_rounds = run.config.rounds.n_rounds
    with run.timed("train"), stages("label data") as progress:
        prepared = prepare(run.system, run.data, run.config, progress=progress)
    for index in range(n_rounds + 1):
        if run.trained_generator(index).is_file():
            continue
        prefix = f"round {index}: " if index else ""
        with run.timed("rounds" if index else "train"):
            make_directory(run.training_folder(index))
            seen = prepared
            if index:
                seen = replace(prepared, training=_corrected(run, prepared, index, stages, prefix))
            elif run.config.rounds.least_share:
                seen = replace(prepared, training=_balanced(run, prepared.training))
            else:
                _warn_of_rare_basins(run, prepared.training.basin)
            _fit(run, seen, index, stages, prefix)


def _fit(run: "Run", prepared: Prepared, index: int, stages: "Stages", prefix: str) -> None:
    folder, checkpoint = run.training_folder(index), run.checkpoint(index)
    config = run.config.of_round(index)
    trainer = make_trainer(prepared, config)
    if checkpoint.is_file():
        trainer.load(checkpoint)
    elif index:
        trainer.warm_start(run.checkpoint(index - 1))
    with stages(f"{prefix}train") as progress:
        trainer.run(checkpoint, progress)
    lines = [json.dumps(record) for record in trainer.history]
    write_text(folder / "history.jsonl", "\n".join(lines) + "\n")
    with stages(f"{prefix}measure steps") as progress:
        generator = finish(run.system, prepared, trainer, progress)
    generator.save(run.trained_generator(index))


def _balanced(run: "Run", data: TrainingData) -> TrainingData:
    """The data with rare basins repeated, so that the first model visits them; weights make up for it."""
    level = torch.zeros(len(data.z), dtype=torch.float64)
    stream = generator_for(run.config.seed, "balance")
    chosen = systematic(round_log_weight(level, data.basin, run.config.rounds.least_share), stream)
    score = None if data.score is None else data.score[chosen]
    return TrainingData(data.z[chosen], data.log_density[chosen], score, data.basin[chosen])


def _corrected(run: "Run", prepared: Prepared, index: int, stages: "Stages", prefix: str) -> TrainingData:
    """Training data of a round: drawn, weighted, resampled; or what is stored of them."""
    folder = run.training_folder(index)
    if not (folder / _CORRECTED).is_file():
        generator = BoltzmannGenerator.load(
            run.trained_generator(index - 1), run.system, device=run.config.device
        )
        draw_round(run, generator, index, stages)
        with stages(f"{prefix}correct") as progress:
            _correct(run, prepared, generator, index, progress)
    tensors, _ = load_tensors(folder / _CORRECTED)
    score = tensors["score"] if run.config.training.forces else None
    return TrainingData(tensors["z"], tensors["log_density"], score, tensors["basin"])


def _correct(
    run: "Run",
    prepared: Prepared,
    generator: BoltzmannGenerator,
    index: int,
    progress: Progress,
) -> None:
    """Weight the walks, keep what they say, and resample them into training data."""
    system, settings, folder = run.system, run.config.rounds, run.training_folder(index)
    latent = LatentTarget(system.target, generator.coordinates)
    parts, families, n_chunks, evaluations = [], [], len(round_files(run, index)), 0
    for done, draws in enumerate(round_draws(run, index)):
        paths, z = draws.paths, draws.paths.z.cpu()
        log_density, score = latent.log_density_and_score(z)
        x, _ = generator.coordinates.to_x(z)
        log_weight = log_density + paths.log_ratio.cpu()
        log_weight = torch.where(torch.isfinite(log_weight), log_weight, -torch.inf)
        parts.append((z, log_density, score, basin_index(system, x), log_weight))
        families += [] if draws.family is None else [draws.family]
        evaluations += len(z) + draws.target_evaluations
        progress(done + 1, n_chunks)
    z, log_density, score, basin, log_weight = (torch.cat(column) for column in zip(*parts, strict=True))
    family = torch.cat(families).numpy() if families else None
    what = "walks" if family is None else "particles"
    if not bool(torch.isfinite(log_weight).any()):
        raise CorrectionError(
            f"round {index}, rung 0 (the target): all {len(z)} {what} have weight zero, so there is nothing "
            "to train on; train longer, or check that the data and the energy belong to the same system"
        )
    power = tempering_power(log_weight, _LEAST_EFFECTIVE)
    if power < 1:
        _LOG.warning(
            "round %d: the weights were raised to the power %.2g to keep %.0f %% of the walks effective; "
            "this round corrects a part of the way. Add rounds (rounds.n_rounds) until none says so",
            index, power, 100 * _LEAST_EFFECTIVE,
        )  # fmt: skip
    stream = generator_for(run.config.of_round(index).seed, "resample")
    chosen = systematic(round_log_weight(power * log_weight, basin, settings.least_share), stream)
    data = TrainingData(z[chosen], log_density[chosen], score[chosen], basin[chosen])
    if settings.moves:
        data, spent = _moved(generator, latent, data, settings.moves, settings.frames, stream)
        evaluations += spent
    _warn_of_empty_basins(run, prepared, basin, log_weight, index)
    stored = {"log_weight": log_weight.numpy()} | ({} if family is None else {"family": family})
    with atomic_path(folder / PROPOSAL) as temporary:
        np.savez(temporary, allow_pickle=False, **stored)
    record = {
        "n_samples": len(z),
        "effective_fraction": ess_kish(family_log_weights(stored["log_weight"], family)),
        "power": power,
        "distinct": len(chosen.unique()),
        "target_evaluations": evaluations,
    }
    write_json(folder / RECORD, record)
    assert data.score is not None
    save_tensors(
        folder / _CORRECTED,
        {"z": data.z, "log_density": data.log_density, "score": data.score, "basin": data.basin},
        {"kind": "corrected", "round": index},
    )


def tempering_power(log_weight: Tensor, least: float) -> float:
    """The largest power, up to 1, at which weights ``(n,)`` keep Kish's effective fraction at ``least``."""

    def enough(power: float) -> bool:
        return effective_size(power * log_weight) >= least * len(log_weight)

    if enough(1.0):
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if enough(middle) else (low, middle)
    return low


def round_log_weight(log_weight: Tensor, basin: Tensor, least_share: float) -> Tensor:
    """Log weights ``(n,)`` under which every basin that has weight has at least ``least_share`` of it.

    Where basins are too many for that, poor ones get an equal share.

    Args:
        log_weight: ``(n,)``, -inf where the weight is zero.
        basin: int64 ``(n,)``, the basin of each sample, -1 outside all.
    """
    weight = torch.softmax(log_weight, 0)
    factor = torch.ones_like(weight)
    poor = torch.zeros_like(basin, dtype=torch.bool)
    raised, groups = 0.0, basin.unique().tolist()
    least = min(least_share, 1 / len(groups))
    for which in groups:
        members = basin == which
        share = float(weight[members].sum())
        if which >= 0 and 0 < share < least:
            factor[members] = least / share
            poor |= members
            raised += least
    rest = float(weight[~poor].sum())
    if raised and rest > 0:
        factor[~poor] = (1 - raised) / rest
    return torch.log(weight * factor)


def _moved(
    generator: BoltzmannGenerator,
    latent: LatentTarget,
    data: TrainingData,
    moves: int,
    frames: int,
    stream: torch.Generator,
) -> tuple[TrainingData, int]:
    """Let samples move under the target, which keeps their distribution, and take a frame of all of them
    every so many moves; also the target evaluations that took."""
    ladder = generator.ladder
    periodic = ladder.model.periodic.cpu()
    target = TargetDensity(latent, periodic)
    scale = move_scale(ladder.moments[0].cpu(), float(ladder.sigma[1]), periodic)
    move: AdaptiveMove = mala(scale, 1.65 * len(scale) ** (-1 / 6))
    pilot = torch.arange(min(len(data.z), 200))
    move, _ = adapt_step(move, target.evaluate(data.z[pilot]), target, stream, _MOVE_ROUNDS)
    state, taken = target.evaluate(data.z), []
    for _ in range(frames):
        state, _ = apply_moves([move] * moves, state, target, stream)
        taken.append(state)
    spent = len(pilot) * (1 + _MOVE_ROUNDS) + len(data.z) * (1 + moves * frames)
    return TrainingData(
        torch.cat([frame.z for frame in taken]),
        torch.cat([frame.log_density for frame in taken]),
        torch.cat([frame.score for frame in taken]),
        data.basin.repeat(frames),
    ), spent


def _warn_of_rare_basins(run: "Run", basin: Tensor) -> None:
    """Say which basins have so few frames that a model would hardly learn to visit them."""
    for number, name in enumerate(run.system.spec.basins):
        frames = int((basin == number).sum())
        if 0 < frames < _RARE * len(basin):
            _LOG.warning(
                "basin %s has %d of %d training frames; the model may never visit it. "
                "--set rounds.least_share=0.05 repeats them, which the weights make up for",
                name, frames, len(basin),
            )  # fmt: skip


def _warn_of_empty_basins(
    run: "Run", prepared: Prepared, basin: Tensor, log_weight: Tensor, index: int
) -> None:
    """Say which basins no data frame has ever shown to the model."""
    shown = torch.cat([prepared.training.basin, prepared.held_out.basin])
    weight = torch.softmax(log_weight, 0)
    for number, name in enumerate(run.system.spec.basins):
        if bool((shown == number).any()):
            continue
        here = basin == number
        _LOG.warning(
            "round %d: no frame of the data set lies in basin %s; %d of %d walks strayed there, with %.2g %% "
            "of the weight. Rounds cannot make up for that: add data that visit the basin",
            index,
            name,
            int(here.sum()),
            len(here),
            100 * float(weight[here].sum()),
        )
