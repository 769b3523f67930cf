"""Drawing what is missing of a run's samples, chunk by chunk: memory stays flat, and kills cost little."""

from typing import TYPE_CHECKING

from bgdiff import outputs
from bgdiff.correction import Corrector, Pilot, run_pilot
from bgdiff.io import make_directory
from bgdiff.progress import Progress

if TYPE_CHECKING:
    from bgdiff.run import Run, Stages

__all__ = ["draw_populations", "draw_walks"]


def draw_walks(run: "Run", stages: "Stages") -> None:
    """Draw independent walks down the ladder."""
    chunks = run.chunks()
    missing = [index for index, (file, n) in enumerate(chunks) if not outputs.chunk_is_good(file, n)]
    if not missing:
        return
    with run.timed("sample"):
        generator = run.generator()
        make_directory(chunks[0][0].parent)
        with stages("sample") as progress:
            for index in missing:
                file, n = chunks[index]
                report = _share(progress, [chunks[i][1] for i in missing], missing.index(index), "walks")
                outputs.save_chunk(file, generator.walk(index, n, seed=run.config.seed, progress=report))


def draw_populations(run: "Run", stages: "Stages") -> None:
    """Draw populations by sequential Monte Carlo, after a pilot whose findings are stored beside them.

    Raises:
        CorrectionError: a population collapses, or energies are not finite; what was drawn before is kept.
    """
    chunks = run.chunks("smc")
    missing = [
        index for index, (file, n) in enumerate(chunks) if not outputs.chunk_is_good(file, n, "population")
    ]
    if not missing:
        return
    config, seed = run.config.correction, run.config.seed
    with run.timed("sample"):
        generator = run.generator()
        pilot_file = make_directory(chunks[0][0].parent) / outputs.PILOT
        if not pilot_file.is_file():
            with stages("tune moves") as progress:
                run_pilot(generator, config, seed=seed, progress=progress).save(pilot_file, config)
        corrector = Corrector(generator, config, Pilot.load(pilot_file, config))
        with stages("sample") as progress:
            for index in missing:
                file, n = chunks[index]
                report = _share(progress, [chunks[i][1] for i in missing], missing.index(index), "particles")
                outputs.save_population(file, corrector.population(index, n, seed=seed, progress=report))


def _share(progress: Progress, sizes: list[int], position: int, what: str) -> Progress:
    """Progress of one chunk as a part of all that are missing."""
    done, n, total = sum(sizes[:position]), sizes[position], sum(sizes)

    def report(k: int, of: int, text: str = "") -> None:
        progress(done * of + k * n, total * of, f"{done + k * n // of} of {total} {what}")

    return report
