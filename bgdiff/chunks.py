"""Drawing what is missing of a run's samples, chunk by chunk: memory stays flat, and kills cost little."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from bgdiff import chunk_files, outputs
from bgdiff.chains import ChainPilot, ChainPlan, ChainSampler, ExchangeChains, WalkChains
from bgdiff.correction import Corrector, Pilot, run_pilot
from bgdiff.io import make_directory
from bgdiff.parallel import for_each_chunk
from bgdiff.progress import Progress

if TYPE_CHECKING:
    from bgdiff.config import Method
    from bgdiff.generator import BoltzmannGenerator
    from bgdiff.run import Run, Stages

__all__ = ["draw_chains", "draw_populations", "draw_samples", "draw_walks"]


def draw_samples(run: "Run", stages: "Stages", method: "Method") -> None:
    """Draw what a method of correction still needs; what was drawn before is kept.

    Raises:
        CorrectionError: the method cannot go on; the message names the rung.
        ConfigError: there are too few samples for it.
    """
    if method == "is":
        draw_walks(run, stages)
    elif method == "smc":
        draw_populations(run, stages)
    else:
        draw_chains(run, stages, method)


def draw_walks(run: "Run", stages: "Stages") -> None:
    """Draw independent walks down the ladder."""
    chunks = run.chunks()
    missing = _missing(chunks, "walks")
    if not missing:
        return
    with run.timed(outputs.timing_key(run.config, "sample", "is")):
        generator = run.generator()
        make_directory(chunks[0][0].parent)
        with stages("sample") as progress:

            def walk(index: int, report: Progress) -> None:
                file, n = chunks[index]
                chunk_files.save_chunk(file, generator.walk(index, n, seed=run.config.seed, progress=report))

            sizes = [(index, chunks[index][1]) for index in missing]
            for_each_chunk(walk, sizes, progress, "walks", device=run.config.device)


def draw_populations(run: "Run", stages: "Stages") -> None:
    """Draw populations by sequential Monte Carlo, after a pilot whose findings are stored beside them.

    Raises:
        CorrectionError: a population collapses, or energies are not finite; what was drawn before is kept.
    """
    chunks = run.chunks("smc")
    missing = _missing(chunks, "population")
    if not missing:
        return
    config, seed = run.config.correction, run.config.seed
    with run.timed(outputs.timing_key(run.config, "sample", "smc")):
        generator = run.generator()
        pilot_file = make_directory(chunks[0][0].parent) / chunk_files.PILOT
        if not pilot_file.is_file():
            with stages("tune moves") as progress:
                run_pilot(generator, config, seed=seed, progress=progress).save(pilot_file, config)
        corrector = Corrector(generator, config, Pilot.load(pilot_file, config))
        with stages("sample") as progress:

            def descend(index: int, report: Progress) -> None:
                file, n = chunks[index]
                chunk_files.save_population(file, corrector.population(index, n, seed=seed, progress=report))

            sizes = [(index, chunks[index][1]) for index in missing]
            for_each_chunk(descend, sizes, progress, "particles", device=run.config.device)


def draw_chains(run: "Run", stages: "Stages", method: "Method") -> None:
    """Draw stretches of Markov chains, each from where the one before it ended.

    Raises:
        CorrectionError: the chains cannot start or do not move; what was drawn before is kept.
        ConfigError: there are too few samples for as many chains.
    """
    chunks = run.chunks(method)
    if method == "imh":
        draw_walks(run, stages)
    missing = _missing(chunks, "chains")
    if not missing:
        return
    config = run.config.correction
    with run.timed(outputs.timing_key(run.config, "sample", method)):
        sampler = _sampler(run, run.generator(), method)
        pilot_file = make_directory(chunks[0][0].parent) / chunk_files.CHAIN_PILOT
        if not pilot_file.is_file():
            with stages("tune moves") as progress:
                sampler.pilot(progress).save(pilot_file, config)
        pilot = ChainPilot.load(pilot_file, config)
        with stages("sample") as progress:
            for index in missing:
                file, _ = chunks[index]
                before = None if index == 0 else chunk_files.load_stretch(chunks[index - 1][0]).state
                report = _share(progress, [chunks[i][1] for i in missing], missing.index(index), "draws")
                chunk_files.save_stretch(file, sampler.stretch(index, pilot, before, report))


def _sampler(run: "Run", generator: "BoltzmannGenerator", method: "Method") -> ChainSampler:
    config, plan = run.config, ChainPlan.of(run.config, method)
    if method == "imh":
        walks = chunk_files.WalkRows(run.chunks())
        return WalkChains(generator, config.correction, plan, config.seed, walks)
    points = partial(_some_data, run, generator)
    return ExchangeChains(generator, config.correction, plan, config.seed, points)


def _some_data(run: "Run", generator: "BoltzmannGenerator", n: int) -> torch.Tensor:
    """Up to n training frames, evenly spaced, as latents."""
    x = run.data.split(run.config.training.held_out, run.config.seed)[0].x
    rows = torch.linspace(0, len(x) - 1, min(n, len(x)), dtype=torch.float64).round().long()
    return generator.coordinates.to_z(x[rows])[0]


def _missing(chunks: list[tuple[Path, int]], kind: str) -> list[int]:
    return [i for i, (file, n) in enumerate(chunks) if not chunk_files.chunk_is_good(file, n, kind)]


def _share(progress: Progress, sizes: list[int], position: int, what: str) -> Progress:
    """Progress of one chunk as a part of all that are missing."""
    done, n, total = sum(sizes[:position]), sizes[position], sum(sizes)

    def report(k: int, of: int, text: str = "") -> None:
        progress(done * of + k * n, total * of, f"{done + k * n // of} of {total} {what}")

    return report
