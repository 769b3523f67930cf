"""Pictures of a run's structures for its report, for print and where the interactive view cannot be."""

from collections.abc import Iterator

import numpy as np

from bgdiff.analysis.cluster_pictures import Picture
from bgdiff.analysis.molecule_pictures import ball_and_sticks
from bgdiff.analysis.overlay_pictures import overlays
from bgdiff.analysis.run_figure import RunFigure
from bgdiff.analysis.run_files import RunFiles
from bgdiff.analysis.run_structures import RunStructures
from bgdiff.analysis.structure_view import basin_groups, structure_captions
from bgdiff.analysis.view_groups import Group

__all__ = ["structure_figures"]

_SHOWN = 6
_FEW_PARTICLES = 20  # of larger clusters, superposed, only a ball is to be seen


def structure_figures(run: RunFiles, structures: RunStructures) -> Iterator[RunFigure]:
    """All conformations superposed, by basin; of a molecule also the first few by themselves."""
    molecule = structures.bonds is not None
    if molecule:
        yield _conformations(run, structures)
    groups = basin_groups(run, structures)
    if groups and (molecule or structures.x.shape[1] <= _FEW_PARTICLES):
        yield _superposed(structures, groups)


def _conformations(run: RunFiles, structures: RunStructures) -> RunFigure:
    assert structures.bonds is not None
    captions = structure_captions(run, structures, short=True)[:_SHOWN]
    pictures = [
        Picture(points, str(number), caption.replace(", ", "\n"))
        for number, (points, caption) in enumerate(zip(structures.x, captions, strict=False), 1)
    ]
    return RunFigure(
        "structures",
        "Conformations",
        f"The first {len(pictures)} of the conformations described above, seen from one side; below each its "
        "reduced energy"
        + (" and basin." if run.results.basins else ".")
        + " Grey: carbon; white: hydrogen; blue: nitrogen; red: oxygen; yellow: sulphur.",
        f"Ball-and-stick drawings of {len(pictures)} conformations: {'; '.join(captions)}.",
        ball_and_sticks(pictures, structures.symbols, structures.bonds),
        section="structures",
    )


def _superposed(structures: RunStructures, groups: list[Group]) -> RunFigure:
    names = ", ".join(f"{group.name} ({len(group.members)})" for group in groups)
    x, bonds = structures.x[:, :, : structures.dimensions], structures.bonds
    if bonds is not None:  # hydrogens would hide the rest
        heavy = np.array([symbol != "H" for symbol in structures.symbols])
        number = np.cumsum(heavy) - 1
        x, bonds = x[:, heavy], number[bonds[heavy[bonds].all(axis=1)]]
    several = sum(len(group.members) > 0 for group in groups) > 1
    return RunFigure(
        "superposed",
        "All of them superposed",
        f"The {len(x)} conformations over each other"
        + (", and those of each basin by themselves" if several else "")
        + (", from three sides" if not several and x.shape[2] == 3 else "")
        + (", without hydrogens." if bonds is not None else "; dots are particles."),
        f"Superposed conformations coloured by basin: {names}.",
        overlays(groups, x, bonds),
        section="structures",
    )
