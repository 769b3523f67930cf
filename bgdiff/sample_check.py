"""Every run's samples beside what is known without them: the virial identity, held-out equilibrium data."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from bgdiff.analysis.chains import chain_average
from bgdiff.analysis.comparison import compare
from bgdiff.analysis.results import ReferenceComparison, VirialCheck
from bgdiff.analysis.virial import (
    VirialAverage,
    average_over_blocks,
    compared,
    degrees_of_freedom,
    feels_centroid,
    virial,
    virial_terms,
)
from bgdiff.analysis.weights import normalised_weights
from bgdiff.errors import CheckpointError, DataError
from bgdiff.io import read_json
from bgdiff.outputs import load_arrays
from bgdiff.progress import Progress, silent
from bgdiff.random import derive_seed
from bgdiff.sources import Correction

if TYPE_CHECKING:
    from bgdiff.data.dataset import Dataset
    from bgdiff.run import Run
    from bgdiff.systems import System

__all__ = ["SampleCheck", "check_samples", "read_conformations"]

_LOG = logging.getLogger(__name__)

_MOST = 20_000  # samples, and frames of the data, whose forces are computed
_FEWEST_ROUNDS = 4  # of chains
_CHUNK = 4096  # conformations read at a time

Rows = NDArray[np.intp]


@dataclass(frozen=True)
class SampleCheck:
    """What the samples of a run are compared with.

    Attributes:
        virial: of the samples and of the data set; one that cannot be computed is left out.
        comparison: with held-out equilibrium data; None if there are none.
        missing: why there is no comparison.
    """

    virial: list[VirialCheck]
    comparison: ReferenceComparison | None
    missing: str | None


def check_samples(run: "Run", progress: Progress = silent) -> SampleCheck:
    """Check the corrected samples that the run holds, and its data set.

    Both checks use up to 20 000 samples, chosen by the run's seed. A force for each of them, and for as many
    frames of the data, is all that is computed of the target.

    Raises:
        CheckpointError: a file of the run is missing or damaged.
    """
    proposal = load_arrays(run.file("proposal.npz"))
    chains = Correction.from_json(read_json(run.file("correction.json"))).chains
    n = len(proposal["log_weight"])
    rows = _rounds(n, chains.n_chains) if chains else _chosen(n, run.config.seed)
    x = read_conformations(run, rows)
    log_weight = proposal["log_weight"][rows]
    found: list[VirialCheck] = []

    def keep(of: Literal["samples", "data"], average: VirialAverage, n_all: int) -> None:
        found.append(VirialCheck(of=of, n_all=n_all, **average.to_dict()))

    try:
        if chains:
            terms = virial_terms(run.system.target, x, centred=not feels_centroid(run.system))
            average = chain_average(terms, chains.n_chains)
            keep("samples", compared(average, degrees_of_freedom(run.system), len(x)), n)
        else:
            family = proposal["family"][rows] if "family" in proposal else None
            keep("samples", virial(run.system, x, log_weight=log_weight, family=family), n)
    except DataError as problem:
        _LOG.warning("the virial of the samples could not be computed: %s", problem)
    data = run.data
    some = torch.linspace(0, len(data) - 1, min(_MOST, len(data)), dtype=torch.float64).round().long()
    try:
        keep("data", _virial_of(run.system, data, some), len(data))
    except DataError as problem:
        _LOG.warning("the virial of the data set could not be computed: %s", problem)
    missing = _no_reference(run)
    if missing is not None:
        return SampleCheck(found, None, missing)
    weights = None if chains else _shares(log_weight)
    held_out = data.held_out_frames(run.config.training.held_out, run.config.seed)
    try:
        comparison = compare(
            run.system, x, data.x[held_out], weights,
            reference_chain=data.chain[held_out].numpy(),
            energy=proposal["energy"][rows],
            reference_energy=load_arrays(run.file("data.npz"))["energy"][held_out.numpy()],
            seed=run.config.seed, progress=progress,
        )  # fmt: skip
    except DataError as problem:
        return SampleCheck(found, None, str(problem))
    return SampleCheck(found, ReferenceComparison.model_validate(comparison.to_dict()), None)


def read_conformations(run: "Run", rows: Rows) -> torch.Tensor:
    """Conformations ``(k, N, D)`` float64 of a run's samples, by their numbers in increasing order.

    Only a few thousand are in memory besides those asked for. Molecules are stored in single precision.

    Raises:
        CheckpointError: the file is missing, damaged, or holds too few.
    """
    topology = run.system.topology
    path = run.file("samples.npz" if topology is None else "samples.dcd")
    found = np.empty((len(rows), *run.system.target.event_shape))
    first = taken = 0
    try:
        for part in _parts_of_array(path) if topology is None else _parts_of_dcd(path):
            stop = int(np.searchsorted(rows, first + len(part)))
            found[taken:stop] = part[rows[taken:stop] - first]
            first, taken = first + len(part), stop
            if taken == len(rows):
                break
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise _damaged(run, path, str(error)) from error
    if taken < len(rows):
        raise _damaged(run, path, f"it holds {first} conformations, too few for proposal.npz")
    return torch.from_numpy(found)


def _parts_of_array(path: Path) -> Iterator[NDArray[np.float64]]:
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive, archive.open("x.npy") as stream:
            np.lib.format.read_magic(stream)
            shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
            each = int(np.prod(shape[1:])) * dtype.itemsize
            for start in range(0, shape[0], _CHUNK):
                size = min(_CHUNK, shape[0] - start)
                content = stream.read(size * each)
                yield np.frombuffer(content, dtype=dtype).reshape(size, *shape[1:])
    except zipfile.BadZipFile as error:
        raise OSError(str(error)) from error


def _parts_of_dcd(path: Path) -> Iterator[NDArray[np.float64]]:
    from mdtraj.formats import DCDTrajectoryFile

    from bgdiff.data.trajectories import quiet_stdout

    with quiet_stdout():
        stream = DCDTrajectoryFile(str(path))
    with stream:
        while True:
            part = stream.read(n_frames=_CHUNK)[0]
            if not len(part):
                return
            yield part.astype(np.float64) / 10  # DCD is in Å


def _damaged(run: "Run", path: Path, problem: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: is missing or damaged ({problem}); write it anew with: bgdiff reweight {run.path}"
    )


def _chosen(n: int, seed: int) -> Rows:
    """Numbers of the samples that are checked, in increasing order."""
    if n <= _MOST:
        return np.arange(n)
    random = np.random.default_rng(derive_seed(seed, "sample check"))
    return np.sort(random.permutation(n)[:_MOST])


def _rounds(n: int, n_chains: int) -> Rows:
    """All chains' draws of evenly spaced rounds, so that they stay chains."""
    rounds = n // n_chains
    kept = min(rounds, max(_FEWEST_ROUNDS, _MOST // n_chains))
    chosen = np.linspace(0, rounds - 1, kept).round().astype(np.intp)
    return (chosen[:, None] * n_chains + np.arange(n_chains)).ravel()


def _shares(log_weight: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.zeros(len(log_weight)) if not np.isfinite(log_weight).any() else normalised_weights(log_weight)


def _virial_of(system: "System", data: "Dataset", rows: torch.Tensor) -> VirialAverage:
    """The virial of frames of a data set, each at the temperature it was drawn at."""
    x, chain = data.x[rows], data.chain[rows].numpy()
    if data.temperature is None:
        return virial(system, x, chain=chain)
    scale = (system.temperature / data.temperature[rows]).numpy()
    terms = scale * virial_terms(system.target, x, centred=not feels_centroid(system))
    return compared(average_over_blocks(terms, chain), degrees_of_freedom(system), len(rows))


def _no_reference(run: "Run") -> str | None:
    """Why held-out frames are no reference; None if they are one."""
    system, data = run.system, run.data
    for provenance in _files(data):
        if not str(provenance.get("method", "")).startswith("parallel tempering"):
            return (
                "samples are compared only with data that are known to be in equilibrium, and these are not; "
                "to make such data: "
                f"bgdiff data generate {system.name} --method parallel-tempering"
            )
        if provenance.get("ensemble_digest") != system.ensemble_digest:
            return "the data set was made with another potential or temperature"
    return None


def _files(data: "Dataset") -> Iterable[dict[str, Any]]:
    return data.provenance.get("files", [data.provenance])
