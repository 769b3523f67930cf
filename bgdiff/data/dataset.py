"""Data sets: checked conformations of a system, with their chains and their origin."""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from bgdiff.data.output import system_argument
from bgdiff.data.screening import TOLERATED, screen
from bgdiff.data.trajectories import read_array, read_trajectory
from bgdiff.errors import ConfigError, DataError
from bgdiff.random import generator_for

if TYPE_CHECKING:
    from bgdiff.systems import System

__all__ = ["Dataset", "load_dataset"]

log = logging.getLogger(__name__)

_HELD_OUT_WINDOWS = 5  # per chain


@dataclass(frozen=True)
class Dataset:
    """Conformations of a system in the order of simulation.

    ``x`` is ``(n, N, D)`` float64, for molecules in nm and with each frame's centroid at the origin;
    ``chain`` ``(n,)`` int64 says which independent simulation a frame belongs to. ``n_dropped`` faulty
    frames were left out when reading. ``temperature`` ``(n,)`` float64, K, says at which temperature each
    frame was drawn, if any was at another than the system's.
    """

    x: Tensor
    chain: Tensor
    provenance: dict[str, Any] = field(default_factory=dict)
    n_dropped: int = 0
    temperature: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def split(self, held_out: float, seed: int = 0) -> tuple["Dataset", "Dataset"]:
        """Split into (training, held-out) sets.

        The held-out frames are up to five windows of consecutive frames in each chain, so that all but
        the windows' ends are far in time from any training frame. Depends only on ``seed``.

        Args:
            held_out: fraction held out, met to within a frame.
            seed: of the windows' places.

        Raises:
            ConfigError: ``held_out`` is not in [0, 1).
            DataError: one of the two sets would be empty.
        """
        chosen = self.held_out_frames(held_out, seed)
        return self.select(~chosen), self.select(chosen)

    def held_out_frames(self, held_out: float, seed: int = 0) -> Tensor:
        """Mask ``(n,)`` of the frames that :meth:`split` holds out; same arguments, same errors."""
        if not 0 <= held_out < 1:
            raise ConfigError(f"held_out: must be a fraction in [0, 1), not {held_out}")
        chosen = torch.zeros(len(self), dtype=torch.bool)
        position, taken = 0, 0
        for label, length in zip(*self._runs(), strict=True):
            count = int(held_out * (position + length) + 1e-9) - taken
            generator = generator_for(seed, "split", label)
            for window in _windows(length, count, generator):
                chosen[position + window.start : position + window.stop] = True
            position, taken = position + length, taken + count
        if chosen.all() or (held_out > 0 and not chosen.any()):
            raise DataError(f"a data set of {len(self)} frames is too small to hold out {held_out:.0%} of it")
        return chosen

    def select(self, frames: Tensor) -> "Dataset":
        """Return the data set of some frames, given by a mask or indices in increasing order."""
        temperature = None if self.temperature is None else self.temperature[frames]
        return Dataset(self.x[frames], self.chain[frames], self.provenance, self.n_dropped, temperature)

    def frames_at(self, temperature: float) -> Tensor:
        """Mask ``(n,)`` of the frames drawn at a temperature (K), the system's own if none says otherwise."""
        if self.temperature is None:
            return torch.ones(len(self), dtype=torch.bool)
        return self.temperature == temperature

    def _runs(self) -> tuple[list[int], list[int]]:
        """Labels and lengths of the runs of frames of one chain."""
        labels, lengths = torch.unique_consecutive(self.chain, return_counts=True)
        return labels.tolist(), lengths.tolist()


def load_dataset(system: "System", path: Path | str | Sequence[Path | str] | None = None) -> Dataset:
    """Read and check a data set of a system.

    Molecules come from any trajectory format of mdtraj, toy densities from ``.npz`` or ``.npy``. A provenance
    file written by bgdiff beside the data (``.json``) tells the chains apart, and the temperature if it is
    not the system's; otherwise each file is one chain. Up to 1 % of faulty frames are dropped with a warning.

    Args:
        system: the system the data belong to.
        path: a file, or several with one chain each; the shipped data set if None.

    Raises:
        DataError: a file is missing, empty or damaged, its atoms are not those of the system, or more than
            1 % of its frames are faulty.
    """
    if path is None:
        if system.data_path is None or not system.data_path.exists():
            raise _no_data(system)
        parts = [_load_file(system, system.data_path)]
    else:
        files = [path] if isinstance(path, Path | str) else list(path)
        if not files:
            raise DataError("the list of trajectories is empty")
        parts = [_load_file(system, Path(file)) for file in files]
    if len(parts) == 1:
        return parts[0]
    offsets = np.cumsum([0] + [int(part.chain[-1]) + 1 for part in parts])
    return Dataset(
        torch.cat([part.x for part in parts]),
        torch.cat([part.chain + int(offset) for part, offset in zip(parts, offsets, strict=False)]),
        {"files": [part.provenance for part in parts]},
        sum(part.n_dropped for part in parts),
        _joined_temperature(system, parts),
    )


def _no_data(system: "System") -> DataError:
    name = system_argument(system)
    missing = "" if system.data_path is None else f" ({system.data_path}: there is no such file)"
    return DataError(
        f"system {system.name} has no data yet{missing}. Simulate some: bgdiff data generate {name}; or use "
        f"your own trajectory: bgdiff data import {name} TRAJ"
    )


def _joined_temperature(system: "System", parts: Sequence[Dataset]) -> Tensor | None:
    if all(part.temperature is None for part in parts):
        return None
    own = [torch.full((len(part),), system.temperature, dtype=torch.float64) for part in parts]
    each = zip(own, (part.temperature for part in parts), strict=True)
    return torch.cat([usual if other is None else other for usual, other in each])


def _load_file(system: "System", path: Path) -> Dataset:
    topology = system.topology
    if topology is not None and path.suffix not in (".npz", ".npy"):
        x = torch.from_numpy(read_trajectory(path, topology)).to(torch.float64)
    else:
        x = torch.from_numpy(read_array(path, system.target.event_shape)).to(torch.float64)
    if len(x) == 0:
        raise DataError(f"{path}: holds no frames")
    if topology is not None:
        x = x - x.mean(dim=1, keepdim=True)
    provenance = _provenance(system, path)
    chain = _chains(path, provenance, len(x))
    good = _good_frames(system, path, x)
    kelvin = _temperature(system, path, provenance)
    x, n_dropped = x[good], int((~good).sum())
    other = None if kelvin == system.temperature else torch.full((len(x),), kelvin, dtype=torch.float64)
    return Dataset(x, chain[good], provenance, n_dropped, other)


def _good_frames(system: "System", path: Path, x: Tensor) -> Tensor:
    good = torch.ones(len(x), dtype=torch.bool)
    defects = screen(system, x)
    if not defects:
        return good
    for defect in defects:
        good[torch.from_numpy(defect.frames)] = False
    n_bad = int((~good).sum())
    summary = f"{n_bad} of {len(x)} frames are faulty: " + ", ".join(str(defect) for defect in defects)
    if n_bad > TOLERATED * len(x):
        raise DataError(
            f"{path}: {summary}. At most {TOLERATED:.0%} may be. Check that coordinates are in the "
            "unit of the format, molecules are whole, atoms are in the system's order, and the simulation "
            "was stable"
        )
    log.warning("%s: %s; they were dropped", path, summary)
    return good


def _provenance(system: "System", path: Path) -> dict[str, Any]:
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    found: dict[str, Any] = {}
    beside = path.with_suffix(".json")
    if path == system.data_path and system.spec.data is not None and system.spec.data.provenance:
        beside = system.path / system.spec.data.provenance
        if not beside.is_file():
            raise DataError(f"{beside}: the provenance that system.yaml names is missing")
    if beside.is_file():
        try:
            content = json.loads(beside.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{beside}: is not JSON ({error}); remove it or repair it") from error
        if isinstance(content, dict) and content.get("file") == path.name:
            found = content
    if found.get("sha256", sha256) != sha256:
        raise DataError(
            f"{path}: is not the file that {beside.name} describes; it was changed or is incomplete. "
            f"Fetch it again, or remove {beside.name} if the change was meant"
        )
    return {**found, "file": path.name, "sha256": sha256}


def _temperature(system: "System", path: Path, provenance: dict[str, Any]) -> float:
    """At which temperature (K) the frames were drawn; a warning if it was with another potential."""
    said = None
    if path == system.data_path and system.spec.data is not None:
        said = system.spec.data.temperature
    recorded = provenance.get("temperature")
    if said is not None and recorded is not None and said != recorded:
        raise DataError(
            f"{path}: was drawn at {recorded:g} K according to its provenance, but system.yaml says "
            f"{said:g} K (data.temperature); correct one of them"
        )
    kelvin = float(said or recorded or system.temperature)
    molecule = system.topology is not None
    drawn = system.at_temperature(kelvin) if molecule and kelvin != system.temperature else system
    digest = provenance.get("ensemble_digest")
    if digest is not None and digest != drawn.ensemble_digest:
        log.warning("%s: was simulated with another potential than system %s now has", path, system.name)
    elif said is not None and not molecule:
        raise DataError(f"{path}: data.temperature is for molecules; {system.name} is in reduced units")
    return kelvin if molecule else system.temperature


def _chains(path: Path, provenance: dict[str, Any], frames: int) -> Tensor:
    lengths = provenance.get("chain_lengths", [frames])
    if sum(lengths) != frames:
        raise DataError(f"{path}: holds {frames} frames, but its provenance says {sum(lengths)}")
    return torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))


def _windows(length: int, count: int, generator: torch.Generator) -> list[range]:
    """Place ``count`` of ``length`` frames in disjoint windows, one in each of equal segments."""
    pieces = min(_HELD_OUT_WINDOWS, count)
    windows = []
    for piece in range(pieces):
        start, stop = piece * length // pieces, (piece + 1) * length // pieces
        size = (piece + 1) * count // pieces - piece * count // pieces
        slack = stop - start - size
        offset = int(torch.randint(slack + 1, (), generator=generator)) if slack > 0 else 0
        windows.append(range(start + offset, min(start + offset + size, stop)))
    return windows
