"""The samples of a run behind its free energies: walks down and up, populations, chains, rounds."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bgdiff.chains import ChainPlan
from bgdiff.chunk_files import load_population, load_stretch, load_walks
from bgdiff.coordinates import Coordinates, LatentTarget
from bgdiff.errors import CheckpointError, RunDirectoryError
from bgdiff.generator import BoltzmannGenerator
from bgdiff.io import atomic_path, make_directory, read_json
from bgdiff.outputs import load_arrays, load_held_out
from bgdiff.progress import Progress
from bgdiff.random import derive_seed, generator_for
from bgdiff.round_samples import EarlierRound, round_files, round_kind
from bgdiff.sources import Correction

if TYPE_CHECKING:
    from bgdiff.config import Method
    from bgdiff.run import Run

__all__ = ["FOLDER", "RunSamples", "SampleSet", "UpWalks"]

FOLDER = "free-energy"
"""Folder of a run with the samples that free energies need besides the run's own."""
_CHUNK = 500

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SampleSet:
    """Samples of the target, weighted or drawn by chains.

    Args:
        name: what the set is called; sets are told apart by it.
        log_weight: ``(n,)``, -inf for weight zero; all 0 for draws of chains.
        parts: latents of the samples, chunk by chunk.
        coordinates: that belong to the latents.
        energy: reduced energies ``(n,)``, if they are stored; inf where the geometry is impossible.
        family: ``(n,)`` numbers of the first-generation ancestors of samples that were ever copied.
        n_chains: chains whose draws they are, round by round; 0 for weighted samples.
    """

    name: str
    log_weight: Array
    parts: "Parts"
    coordinates: Coordinates
    energy: Array | None = None
    family: NDArray[np.int64] | None = None
    n_chains: int = 0

    def __len__(self) -> int:
        return len(self.log_weight)

    def conformations(self) -> Iterator[NDArray[np.float64]]:
        """Conformations ``(B, N, D)``, chunk by chunk, in the order of the samples."""
        for z in self.parts:
            yield self.coordinates.to_x(z)[0].numpy()

    @property
    def estimator(self) -> str:
        """What it is called to estimate from these samples alone."""
        names = {"populations": "sequential Monte Carlo", "chains": "Markov chains"}
        return names.get(self.name, "importance sampling")

    @property
    def unit(self) -> NDArray[np.int64] | None:
        """``(n,)`` numbers of the independent units: families or chains; None if every sample is one."""
        if self.n_chains:
            return np.arange(len(self)) % self.n_chains
        return self.family


class Parts:
    """Latents of a run's samples, one chunk in memory at a time; can be gone through again and again."""

    def __init__(self, files: list[Path], kind: str, kept: list[slice] | None = None) -> None:
        self._files, self._kind, self._kept = files, kind, kept

    def __iter__(self) -> Iterator[Tensor]:
        for number, file in enumerate(self._files):
            if self._kind == "population":
                z = load_population(file)[0].z
            elif self._kind == "chains":
                z = load_stretch(file).z
            else:
                z = load_walks(file).z
            if self._kept is not None:
                z = z[self._kept[number]]
            if len(z):
                yield z


@dataclass(frozen=True)
class UpWalks:
    """Held-out frames walked up the ladder.

    Args:
        log_weight: log W ``(m,)`` of the walks, taken downwards.
        index: rows ``(m,)`` of the frames in the run's data set.
        chain: ``(m,)`` simulation that each comes from: the independent units.
    """

    log_weight: Array
    index: NDArray[np.int64]
    chain: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.log_weight)


class RunSamples:
    """All samples of a finished run.

    Raises:
        RunDirectoryError: it has no weighted samples yet.
    """

    def __init__(self, run: "Run") -> None:
        self.run = run
        if not run.file("proposal.npz").is_file():
            raise RunDirectoryError(
                f"{run.path}: has no weighted samples yet; run: bgdiff run --resume {run.path}"
            )

    @cached_property
    def generator(self) -> BoltzmannGenerator:
        return self.run.generator()

    @cached_property
    def correction(self) -> Correction:
        file = self.run.file("correction.json")
        return Correction.from_json(read_json(file)) if file.is_file() else Correction()

    @cached_property
    def corrected(self) -> SampleSet:
        """The samples of the run's results."""
        method = self.correction.method
        stored = load_arrays(self.run.file("proposal.npz"))
        names = {"is": "walks down", "smc": "populations"}
        return SampleSet(
            names.get(method, "chains"),
            stored["log_weight"],
            self._parts(method),
            self.generator.coordinates,
            stored["energy"],
            stored.get("family"),
            0 if self.correction.chains is None else self.correction.chains.n_chains,
        )

    @cached_property
    def walks(self) -> SampleSet | None:
        """Independent walks down, with their weights; None if the run's method drew none."""
        if self.correction.method == "is":
            return self.corrected
        if self.correction.method != "imh":
            return None
        weights = load_arrays(self.run.file("walks.npz"))["log_weight"]
        return SampleSet("walks down", weights, self._parts("is"), self.generator.coordinates)

    @cached_property
    def rounds(self) -> list[SampleSet]:
        """Walks or populations of earlier rounds of training, each from a ladder of its own."""
        found = []
        for index in range(1, self.run.config.rounds.n_rounds + 1):
            earlier = EarlierRound.load(self.run, index)
            before = BoltzmannGenerator.load(self.run.trained_generator(index - 1), self.run.system)
            parts = Parts([file for file, _ in round_files(self.run, index)], round_kind(self.run))
            weights, family = earlier.log_weight, earlier.family
            found.append(SampleSet(f"round {index}", weights, parts, before.coordinates, family=family))
        return found

    def up(self, frames: int | None, progress: Progress) -> UpWalks:
        """The held-out frames that the run walked up, and more up to ``frames`` of them if there are so many.

        More are walked in chunks that are kept in the run, so that this can be interrupted.
        """
        stored = load_held_out(self.run)
        parts = [(stored["log_weight"], stored["index"], stored["chain"])]
        have, wanted = len(stored["log_weight"]), frames or 0
        held_out = self.run.data.held_out_frames(self.run.config.training.held_out, self.run.config.seed)
        own = self.run.data.frames_at(self.run.system.temperature)  # others are none of the target's
        rest = np.setdiff1d((held_out & own).nonzero()[:, 0].numpy(), stored["index"])
        # in an order that does not depend on how many are asked for, so that chunks are reused
        order = np.random.default_rng(derive_seed(self.run.config.seed, "held-out", "more")).permutation(rest)
        n_chunks = -(-min(max(wanted - have, 0), len(order)) // _CHUNK)
        for chunk in range(n_chunks):
            rows = order[chunk * _CHUNK : (chunk + 1) * _CHUNK]
            parts.append((*self._walked(chunk, n_chunks, rows, progress), self._chain(rows)))
        return UpWalks(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def _walked(
        self, chunk: int, n_chunks: int, rows: NDArray[np.int64], progress: Progress
    ) -> tuple[Array, NDArray[np.int64]]:
        file = self.run.file(FOLDER) / f"up-{chunk:05d}.npz"
        if file.is_file():
            try:
                stored = load_arrays(file)
                if np.array_equal(stored["index"], rows):
                    return stored["log_weight"], rows
            except CheckpointError:
                pass  # a damaged chunk is made again

        def report(k: int, of: int, text: str = "") -> None:
            progress(chunk * of + k, n_chunks * of, text)

        generator, config = self.generator, self.run.config
        device = generator.ladder.sigma.device
        z, _ = generator.coordinates.to_z(self.run.data.x[torch.from_numpy(rows)])
        stream = generator_for(config.seed, "held-out", "more", chunk, device=device)
        log_ratio = generator.ladder.walk_up(z.to(device), stream, report).log_ratio.cpu()
        log_weight = LatentTarget(self.run.system.target, generator.coordinates).log_density(z) + log_ratio
        make_directory(file.parent)
        with atomic_path(file) as temporary:
            np.savez(temporary, allow_pickle=False, log_weight=log_weight.numpy(), index=rows)
        return log_weight.numpy(), rows

    def _chain(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.asarray(self.run.data.chain[torch.from_numpy(rows)].numpy())

    def _parts(self, method: "Method") -> Parts:
        files = [file for file, _ in self.run.chunks(method)]
        if method in ("is", "smc"):
            return Parts(files, "walks" if method == "is" else "population")
        plan = ChainPlan.of(self.run.config, method)
        kept = []
        for index in range(len(files)):
            rounds, width = plan.kept(index), plan.chains
            kept.append(slice(rounds.start * width, rounds.stop * width))
        return Parts(files, "chains", kept)

    def describe(self) -> dict[str, Any]:
        """What there is, for the record."""
        return {"method": self.correction.method, "rounds": len(self.rounds)}
