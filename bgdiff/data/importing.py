"""A user's own trajectories made into a data set of a system, with a record of all that was done to them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bgdiff.data.frames import write_array, write_trajectory
from bgdiff.data.importing_options import ImportOptions
from bgdiff.data.importing_source import Source, read_source
from bgdiff.data.importing_warnings import import_warnings
from bgdiff.data.inspection_ensemble import Agreement, judge_ensemble
from bgdiff.data.output import (
    choose_output,
    data_versions,
    provenance_path,
    sha256_of,
    system_argument,
    system_of_data,
)
from bgdiff.errors import DataError
from bgdiff.io import write_json
from bgdiff.progress import Progress, silent

if TYPE_CHECKING:
    from bgdiff.systems import System

__all__ = ["Imported", "import_data"]

Array = NDArray[np.float64]

_FRAMES_PER_AXIS = 10  # that coordinates are fitted to, at least
_PROBES = 20_000  # frames that the ensemble is judged by


@dataclass(frozen=True)
class Imported:
    """What :func:`import_data` made.

    Attributes:
        path: the data set.
        sources: what was found, trajectory by trajectory.
        agreement: of the forces at the temperature of the data with the frames.
        temperature: K, of the data.
        warnings: what the user should know before training.
    """

    path: Path
    sources: tuple[Source, ...]
    agreement: Agreement
    temperature: float
    warnings: tuple[str, ...]

    @property
    def frames(self) -> int:
        return sum(source.kept for source in self.sources)


def import_data(
    system: "System",
    trajectories: Sequence[Path | str],
    options: ImportOptions | None = None,
    *,
    out: Path | str | None = None,
    progress: Progress = silent,
) -> Imported:
    """Check trajectories of a system, write them as one data set, and beside it its provenance (JSON).

    Every trajectory is one chain. Atoms are chosen and put in the system's order, molecules that periodic
    images broke are made whole, and equal hydrogens with exchanged labels get those of the topology file.
    Frames with broken bonds, the wrong chirality or impossible energies are dropped if they are at most 1 %.

    The force field and temperature of the data are judged by identities between frames and forces
    (:mod:`bgdiff.data.inspection_ensemble`); data that violate them are written all the same, with a warning.

    Args:
        out: data set to write; by default as :func:`~bgdiff.data.output.choose_output` says.
        progress: called after each trajectory.

    Raises:
        ConfigError: ``out`` exists, or an option does not fit the files or the system.
        DataError: a trajectory cannot be used, is given twice, or too few frames are left; the message names
            the file, the atom, residue or frame, and the remedy.
    """
    options = options or ImportOptions()
    paths = [Path(path) for path in trajectories]
    if not paths:
        raise DataError("no trajectory was named")
    out = choose_output(system, out)
    own = system_of_data(system, out, options.temperature)
    options = replace(options, temperature=own.temperature)
    parts: list[Array] = []
    sources: list[Source] = []
    for done, path in enumerate(paths):
        progress(done, len(paths), path.name)
        x, source = read_source(system, path, options)
        for earlier, other in zip(paths, sources, strict=False):
            if other.sha256 == source.sha256:
                raise DataError(f"{path}: is the same file as {earlier}; name each trajectory once")
        parts.append(x)
        sources.append(source)
    progress(len(paths), len(paths), "")
    x = np.concatenate(parts)
    _check_enough(system, sources)
    agreement = _agreement(own, x, [len(part) for part in parts])
    warnings = import_warnings(own, sources, agreement)
    if system.topology is None:
        write_array(out, x)
    else:
        write_trajectory(out, x.astype(np.float32), system.topology)
    imported = Imported(out, tuple(sources), agreement, own.temperature, warnings)
    write_json(provenance_path(out, system), dict(sorted(_record(system, own, imported, options).items())))
    return imported


def _check_enough(system: "System", sources: Sequence[Source]) -> None:
    kept = sum(source.kept for source in sources)
    particles, dimensions = system.target.event_shape
    internal = system.spec.coordinates == "internal"
    needed = _FRAMES_PER_AXIS * (particles * dimensions - (6 if internal else 0))
    if kept >= needed:
        return
    parts = "; ".join(
        f"{source.file}: {source.kept} of {source.frames} (burn-in {source.burn_in}, stride {source.stride})"
        for source in sources
    )
    raise DataError(
        f"{kept} frames are left ({parts}), but training needs {needed}, ten for every coordinate. Thin less "
        "(--stride, --burn-in), add trajectories, or make frames: "
        f"bgdiff data generate {system_argument(system)}"
    )


def _agreement(system: "System", x: Array, lengths: Sequence[int]) -> Agreement:
    chain = np.repeat(np.arange(len(lengths)), lengths)
    rows = np.linspace(0, len(x) - 1, min(len(x), _PROBES)).round().astype(np.intp)
    return judge_ensemble(system, x[rows], chain[rows])


def _record(system: "System", own: "System", imported: Imported, options: ImportOptions) -> dict[str, Any]:
    """The provenance, as that of generated data where both say the same."""
    spacing = {
        None if source.spacing_ps is None else source.spacing_ps * source.stride
        for source in imported.sources
    }
    return {
        "schema_version": 1,
        "system": system.name,
        "ensemble_digest": own.ensemble_digest,
        "temperature": own.temperature,
        "method": "imported trajectories",
        "file": imported.path.name,
        "sha256": sha256_of(imported.path),
        "chain_lengths": [source.kept for source in imported.sources],
        "spacing_ps": spacing.pop() if len(spacing) == 1 else None,
        "sources": [source.to_dict() for source in imported.sources],
        "options": {
            "top": None
            if options.top is None
            else {"file": options.top.name, "sha256": sha256_of(options.top)},
            "atoms": options.atoms,
            "reorder": options.reorder,
            "units": options.units,
            "burn_in": options.burn_in,
            "stride": options.stride,
        },
        "agreement": imported.agreement.to_dict(),
        "warnings": list(imported.warnings),
        "versions": data_versions(),
    }
