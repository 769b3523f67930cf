"""What a user should know of imported trajectories before training on them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bgdiff.data.importing_source import Source
from bgdiff.data.inspection_ensemble import Agreement

if TYPE_CHECKING:
    from bgdiff.systems import System

__all__ = ["by_files", "import_warnings"]

_FAR = 4.0  # standard errors that are no chance
_SLACK = 0.04  # of the temperature; rounding in XTC files makes 0.02, and so do long time steps
_DRIFT = 0.1  # of a trajectory that should be left out
_FEW = 10  # independent values


def import_warnings(system: "System", sources: Sequence[Source], agreement: Agreement) -> tuple[str, ...]:
    """Sentences, each about a file or about the ensemble.

    Args:
        system: at the temperature that the data are said to have.
    """
    lines = by_files(sources, _of_source)
    return (*(f"{files}: {line}" for line, files in lines.items()), *_of_ensemble(system, agreement))


def by_files(sources: Sequence[Source], facts: Callable[[Source], Iterable[str]]) -> dict[str, str]:
    """Facts about sources, each with the names of the files it is true of."""
    files: dict[str, list[str]] = {}
    for source in sources:
        for fact in facts(source):
            files.setdefault(fact, []).append(source.file)
    every = len(sources)
    return {
        fact: "all trajectories" if len(names) == every > 1 else ", ".join(names)
        for fact, names in files.items()
    }


def _of_source(source: Source) -> Iterator[str]:
    for fault, frames in source.findings.dropped:
        shown = ", ".join(map(str, frames[:5])) + (", …" if len(frames) > 5 else "")
        yield f"{len(frames)} faulty frames were dropped, with {fault}: {shown}"
    if source.renamed:
        one, two = source.renamed[0]
        yield (
            f"{len(source.renamed)} atoms have other names than in the system, such as {one} for {two}; "
            "elements and bonds agree in order"
        )
    if not source.named:
        yield "its atoms have no names; their order was judged by lengths of bonds (--top FILE names them)"
    memory = source.memory
    if source.suggested_burn_in > max(source.burn_in, _DRIFT * source.frames):
        yield f"the energy drifts until frame {source.suggested_burn_in}; --burn-in auto leaves that out"
    name, slow = memory.slowest
    if slow * _FEW > memory.frames:
        yield (
            f"{name} changes so slowly (one frame in {slow:.0f} is independent) that basins may be in wrong "
            "proportion; the correction makes up for that as long as every basin is visited"
        )
    for bond, count in source.findings.cis.items():
        if count:
            yield f"the peptide bond {bond} is cis in {count} frames"


def _of_ensemble(system: "System", agreement: Agreement) -> Iterator[str]:
    if not np.isfinite(agreement.ratio_error):
        yield "too few frames to judge whether they were drawn with this force field at this temperature"
        return
    remedy = (
        "if they are from another force field (periodic, solvated, with a cutoff) or biased, train with "
        "--set training.forces=false"
    )
    if agreement.n_pulled:
        yield (
            "the frames were not drawn with this force field: its forces do not average to zero along "
            f"{agreement.n_pulled} of {agreement.n_axes} coordinates, but to as much as "
            f"{agreement.largest_pull:.2g} kT per standard deviation; {remedy}"
        )
    ratio = agreement.ratio
    if abs(agreement.virial.z_score) <= _FAR or abs(ratio - 1) <= _SLACK:
        return
    if system.topology is None:
        yield (
            f"the frames were not drawn from this density: they look {ratio:.2f} times as hot; train with "
            "--set training.forces=false"
        )
        return
    kelvin, error = system.temperature * ratio, system.temperature * agreement.ratio_error
    yield (
        f"with this force field the frames look like {kelvin:.0f} ± {error:.0f} K, not like "
        f"{system.temperature:g} K; if that was the simulation's temperature, import them with "
        f"--temperature {kelvin:.0f}; {remedy}"
    )
