"""What a round of self-correcting training draws: walks or populations, and what they say later."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bgdiff import chunk_files
from bgdiff.correction import Corrector, Pilot, run_pilot
from bgdiff.generator import BoltzmannGenerator
from bgdiff.io import make_directory, read_json
from bgdiff.ladder.paths import Paths
from bgdiff.parallel import for_each_chunk
from bgdiff.progress import Progress
from bgdiff.sources import Columns

if TYPE_CHECKING:
    from bgdiff.run import Run, Stages

__all__ = [
    "EarlierRound",
    "RoundDraws",
    "draw_round",
    "earlier_rounds",
    "round_draws",
    "round_files",
    "round_kind",
]

RECORD, PROPOSAL = "round.json", "proposal.npz"


@dataclass(frozen=True)
class RoundDraws:
    """One chunk of a round.

    Args:
        family: int64 ``(n,)``, numbers of first ancestors among all draws of the round; None for walks.
        target_evaluations: spent on the way to the target.
    """

    paths: Paths
    family: Tensor | None
    target_evaluations: int


def round_kind(run: "Run") -> str:
    """Kind of the files of a round's draws: ``walks`` or ``population``."""
    return "population" if run.config.rounds.method == "smc" else "walks"


def round_files(run: "Run", index: int) -> list[tuple[Path, int]]:
    """File and number of draws of every chunk of a round."""
    total, size = run.config.rounds.n_samples, run.config.sampling.chunk
    folder = run.training_folder(index) / "samples"
    return [
        (folder / f"chunk-{chunk:05d}.safetensors", min(size, total - start))
        for chunk, start in enumerate(range(0, total, size))
    ]


def draw_round(run: "Run", generator: BoltzmannGenerator, index: int, stages: "Stages") -> None:
    """Draw what a round is missing.

    Raises:
        CorrectionError: a population collapses; what was drawn before is kept.
    """
    chunks, seed, kind = round_files(run, index), run.config.of_round(index).seed, round_kind(run)
    missing = [
        (chunk, n) for chunk, (file, n) in enumerate(chunks) if not chunk_files.chunk_is_good(file, n, kind)
    ]
    if not missing:
        return
    folder, prefix = make_directory(chunks[0][0].parent), f"round {index}: "
    if kind == "walks":

        def draw(chunk: int, report: Progress) -> None:
            file, n = chunks[chunk]
            chunk_files.save_chunk(file, generator.walk(chunk, n, seed=seed, progress=report))

    else:
        corrector = _corrector(run, generator, folder, seed, stages, prefix)

        def draw(chunk: int, report: Progress) -> None:
            file, n = chunks[chunk]
            chunk_files.save_population(file, corrector.population(chunk, n, seed=seed, progress=report))

    with stages(f"{prefix}sample") as progress:
        what = "walks" if kind == "walks" else "particles"
        for_each_chunk(draw, missing, progress, what, device=run.config.device)


def _corrector(
    run: "Run", generator: BoltzmannGenerator, folder: Path, seed: int, stages: "Stages", prefix: str
) -> Corrector:
    config, file = run.config.correction, folder / chunk_files.PILOT
    if not file.is_file():
        with stages(f"{prefix}tune moves") as progress:
            run_pilot(generator, config, seed=seed, progress=progress).save(file, config)
    return Corrector(generator, config, Pilot.load(file, config))


def round_draws(run: "Run", index: int) -> Iterator[RoundDraws]:
    """The draws of a round, chunk by chunk.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    files, start = round_files(run, index), 0
    if round_kind(run) == "walks":
        for file, _ in files:
            yield RoundDraws(chunk_files.load_walks(file), None, 0)
        return
    spent = Pilot.load(files[0][0].parent / chunk_files.PILOT, run.config.correction).target_evaluations
    for file, n in files:
        paths, family, record = chunk_files.load_population(file)
        yield RoundDraws(paths, family.cpu() + start, record["target_evaluations"] + spent)
        start, spent = start + n, 0


@dataclass(frozen=True)
class EarlierRound:
    """What the draws of a finished round say about the target.

    Args:
        log_weight: exact log weights ``(n,)``.
        observables: of the same draws, each ``(n,)``.
        target_evaluations: what the round cost.
        power: that the weights were raised to before they made training data; 1 unless they were poor.
        family: ``(n,)`` numbers of first ancestors; None for independent walks.
    """

    log_weight: NDArray[np.float64]
    observables: dict[str, NDArray[np.float64]]
    target_evaluations: int
    power: float
    family: NDArray[np.int64] | None = None

    @classmethod
    def load(cls, run: "Run", index: int) -> "EarlierRound":
        """Read round ``index`` ≥ 1. Observables are computed anew: the system's may have changed since.

        Raises:
            CheckpointError: files of the round are missing or damaged.
        """
        from bgdiff.outputs import load_arrays

        folder = run.training_folder(index)
        arrays, record = load_arrays(folder / PROPOSAL), read_json(folder / RECORD)
        coordinates = BoltzmannGenerator.load(run.trained_generator(index - 1), run.system).coordinates
        columns = Columns()
        for draws in round_draws(run, index):
            columns.add(run.system.observables(coordinates.to_x(draws.paths.z)[0]))
        return cls(
            arrays["log_weight"],
            columns.joined(),
            int(record["target_evaluations"]),
            float(record["power"]),
            arrays.get("family"),
        )


def earlier_rounds(run: "Run") -> list[EarlierRound]:
    """The rounds of a run, in order; none if it was trained on its data alone."""
    return [EarlierRound.load(run, index) for index in range(1, run.config.rounds.n_rounds + 1)]
