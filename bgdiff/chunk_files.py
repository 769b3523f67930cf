"""Files of samples that a run draws chunk by chunk: walks, populations, stretches of chains."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bgdiff.errors import CheckpointError
from bgdiff.generator import join_paths
from bgdiff.io import load_tensors, save_tensors
from bgdiff.ladder.paths import Paths
from bgdiff.ladder.smc import Arrivals, StageRecord

__all__ = [
    "CHAIN_PILOT",
    "PILOT",
    "Stretch",
    "WalkRows",
    "chunk_is_good",
    "load_population",
    "load_stretch",
    "load_walks",
    "save_chunk",
    "save_population",
    "save_stretch",
]

PILOT = "pilot.json"
"""What the pilots of sequential Monte Carlo found, beside the populations."""
CHAIN_PILOT = "pilot.safetensors"
"""What the pilot of chains found, beside their stretches."""
_FIELDS = ("z", "log_ratio", "z_low", "log_weight_low")


def chunk_is_good(path: Path, n: int, kind: str = "walks") -> bool:
    """Whether the file holds ``n`` samples of a kind: walks, a population or chains.

    A damaged file counts as missing.
    """
    if not path.is_file():
        return False
    try:
        tensors, metadata = load_tensors(path)
    except CheckpointError:
        return False
    return metadata.get("kind") == kind and len(tensors["z"]) == n


def save_chunk(path: Path, paths: Paths) -> None:
    """Write the walks of one chunk, atomically."""
    save_tensors(path, {name: getattr(paths, name) for name in _FIELDS}, {"kind": "walks"})


def load_walks(path: Path) -> Paths:
    """Read what :func:`save_chunk` wrote.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    return _paths(load_tensors(path)[0])


class WalkRows:
    """The walks of all chunks by their number in the run; holds one chunk in memory at a time."""

    def __init__(self, chunks: Sequence[tuple[Path, int]]) -> None:
        self._chunks = list(chunks)
        self._held: tuple[Path, Paths] | None = None

    def __call__(self, start: int, stop: int) -> Paths:
        """Walks number ``start`` to ``stop`` - 1."""
        parts, first = [], 0
        for path, n in self._chunks:
            low, high = max(start - first, 0), min(stop - first, n)
            if low < high:
                if self._held is None or self._held[0] != path:
                    self._held = None  # before the next is read, so that there are never two
                    self._held = (path, load_walks(path))
                parts.append(Paths(*(getattr(self._held[1], name)[low:high] for name in _FIELDS)))
            first += n
        return join_paths(parts)


def save_population(path: Path, arrivals: Arrivals) -> None:
    """Write the particles of one population with their ancestors and history, atomically."""
    tensors = {name: getattr(arrivals.paths, name) for name in _FIELDS}
    tensors["family"] = arrivals.genealogy.ancestors()
    metadata = {
        "kind": "population",
        "n_resamplings": len(arrivals.genealogy),
        "target_evaluations": arrivals.target_evaluations,
        "records": [asdict(record) for record in arrivals.records],
    }
    save_tensors(path, tensors, metadata)


def load_population(path: Path) -> tuple[Paths, Tensor, dict[str, Any]]:
    """Particles, the row ``(n,)`` of each one's first ancestor, and the population's history.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    tensors, metadata = load_tensors(path)
    records = [StageRecord(**record) for record in metadata["records"]]
    return _paths(tensors), tensors["family"], metadata | {"records": records}


@dataclass(frozen=True)
class Stretch:
    """Consecutive draws of all chains, round by round, and where the chains stand after them.

    Args:
        z: ``(rounds · chains, d)`` float64.
        log_density: of the target at z, ``(rounds · chains,)``.
        state: what the next stretch starts from.
        acceptance: mean, of walks as proposals or of moves at the target.
        target_evaluations: spent on this stretch.
        walk_log_weight: log weights of the walks that were proposed, ``(rounds · chains,)`` or empty.
        arrivals: points that came from the prior to the target before each round's draw, ``(rounds,)`` or
            empty.
        tried, exchanged: exchanges between neighbouring rungs and their summed probabilities, ``(R,)``, or
            empty.
    """

    z: Tensor
    log_density: Tensor
    state: dict[str, Tensor]
    acceptance: float
    target_evaluations: int
    walk_log_weight: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    arrivals: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    tried: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    exchanged: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))


_STRETCH = ("z", "log_density", "walk_log_weight", "arrivals", "tried", "exchanged")


def save_stretch(path: Path, stretch: Stretch) -> None:
    """Write draws and state together, atomically: a chain goes on exactly where its samples end."""
    tensors = {name: getattr(stretch, name) for name in _STRETCH}
    tensors |= {f"state.{name}": value for name, value in stretch.state.items()}
    facts = {"acceptance": stretch.acceptance, "target_evaluations": stretch.target_evaluations}
    save_tensors(path, tensors, {"kind": "chains", **facts})


def load_stretch(path: Path) -> Stretch:
    """Read what :func:`save_stretch` wrote.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    tensors, metadata = load_tensors(path)
    state = {name.removeprefix("state."): value for name, value in tensors.items() if name[:6] == "state."}
    return Stretch(
        **{name: tensors[name] for name in _STRETCH},
        state=state,
        acceptance=metadata["acceptance"],
        target_evaluations=metadata["target_evaluations"],
    )


def _paths(tensors: dict[str, Tensor]) -> Paths:
    return Paths(*(tensors[name] for name in _FIELDS))
