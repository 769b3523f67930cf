"""The files of a run that others read: chunks of walks, arrays, the trajectory, the results."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from bgdiff.correction import stage_notes
from bgdiff.errors import CheckpointError
from bgdiff.generator import BoltzmannGenerator, Ensemble, Proposal, join_paths
from bgdiff.io import atomic_path, load_tensors, read_json, save_tensors, write_json
from bgdiff.ladder.paths import Paths
from bgdiff.ladder.smc import Arrivals, StageRecord
from bgdiff.progress import Progress, silent
from bgdiff.random import generator_for

if TYPE_CHECKING:
    from bgdiff.analysis.results import Results
    from bgdiff.run import Run

__all__ = [
    "PILOT",
    "Correction",
    "chunk_is_good",
    "load_arrays",
    "load_chunks",
    "load_populations",
    "save_chunk",
    "save_held_out",
    "save_population",
    "summarise_run",
    "write_ensemble",
]

PILOT = "pilot.json"
"""What the pilots of sequential Monte Carlo found, beside the populations."""
_FIELDS = ("z", "log_ratio", "z_low", "log_weight_low")


def save_chunk(path: Path, paths: Paths) -> None:
    """Write the walks of one chunk, atomically."""
    save_tensors(path, {field: getattr(paths, field) for field in _FIELDS}, {"kind": "walks"})


def save_population(path: Path, arrivals: Arrivals) -> None:
    """Write the particles of one population with their ancestors and history, atomically."""
    tensors = {field: getattr(arrivals.paths, field) for field in _FIELDS}
    tensors["family"] = arrivals.genealogy.ancestors()
    metadata = {
        "kind": "population",
        "n_resamplings": len(arrivals.genealogy),
        "target_evaluations": arrivals.target_evaluations,
        "records": [asdict(record) for record in arrivals.records],
    }
    save_tensors(path, tensors, metadata)


def chunk_is_good(path: Path, n: int, kind: str = "walks") -> bool:
    """Whether the file holds ``n`` walks, or particles of a population; a damaged file counts as missing."""
    if not path.is_file():
        return False
    try:
        tensors, metadata = load_tensors(path)
    except CheckpointError:
        return False
    return metadata.get("kind") == kind and len(tensors["z"]) == n


def load_chunks(files: list[Path]) -> Paths:
    """All walks of a run, in order.

    Raises:
        CheckpointError: a file is damaged.
    """
    parts = []
    for file in files:
        tensors, _ = load_tensors(file)
        parts.append(Paths(*(tensors[field] for field in _FIELDS)))
    return join_paths(parts)


def load_populations(files: list[Path]) -> tuple[Paths, "Correction"]:
    """The particles of all populations, in order, and what is known about them together.

    Raises:
        CheckpointError: a file is damaged.
    """
    families, records, start, resamplings = [], [], 0, 0
    evaluations = int(read_json(files[0].parent / PILOT)["target_evaluations"])
    for file in files:
        tensors, metadata = load_tensors(file)
        families.append(tensors["family"] + start)
        start += len(tensors["family"])
        resamplings += metadata["n_resamplings"]
        evaluations += metadata["target_evaluations"]
        records.append([StageRecord(**record) for record in metadata["records"]])
    correction = Correction(
        "smc", torch.cat(families).numpy(), resamplings, len(files), evaluations, tuple(stage_notes(records))
    )
    return load_chunks(files), correction


@dataclass(frozen=True)
class Correction:
    """How the samples of an ensemble were corrected, as far as their weights do not say it."""

    method: Literal["is", "smc"] = "is"
    family: NDArray[np.int64] | None = None
    """First ancestor of each sample ``(n,)``, unless all are independent."""
    n_resamplings: int = 0
    n_populations: int = 0
    target_evaluations: int = 0
    """Spent before the final weights."""
    notes: tuple[str, ...] = ()


def save_held_out(path: Path, run: "Run", generator: BoltzmannGenerator, progress: Progress = silent) -> None:
    """Walk held-out frames up the ladder and keep their path weights, for the forward ESS.

    Writes ``log_weight`` ``(m,)`` and the observables of the same frames.
    """
    from bgdiff.coordinates import LatentTarget

    config = run.config
    _, held_out = run.data.split(config.training.held_out, config.seed)
    wanted = min(config.sampling.n_held_out, len(held_out.x))
    if wanted == 0:
        _save_arrays(path, {"log_weight": np.zeros(0)})
        return
    index = torch.linspace(0, len(held_out.x) - 1, wanted, dtype=torch.float64).round().long()
    x = held_out.x[index]
    z, _ = generator.coordinates.to_z(x)
    device = generator.ladder.sigma.device
    parts = []
    for chunk, part in enumerate(z.split(config.sampling.chunk)):
        start = chunk * config.sampling.chunk

        def report(k: int, of: int, text: str = "", *, start: int = start, n: int = len(part)) -> None:
            progress(start * of + k * n, wanted * of)

        stream = generator_for(config.seed, "held-out", chunk, device=device)
        parts.append(generator.ladder.walk_up(part.to(device), stream, report).log_ratio.cpu())
    log_density = LatentTarget(run.system.target, generator.coordinates).log_density(z)
    log_weight = (log_density + torch.cat(parts)).numpy()
    _save_arrays(path, {"log_weight": log_weight, **_prefixed(run.system.observables(x))})


def write_ensemble(
    run: "Run",
    generator: BoltzmannGenerator,
    paths: Paths,
    progress: Progress = silent,
    correction: Correction = Correction(),
) -> Ensemble:
    """Weight the walks with the target and write everything a reader of the run needs."""
    system, size = run.system, run.config.sampling.chunk
    parts = []
    n = len(paths.z)
    for start in range(0, n, size):
        part = Paths(*(getattr(paths, field)[start : start + size] for field in _FIELDS))
        parts.append(Proposal(system, generator.coordinates, part).reweight())
        progress(min(start + size, n), n)
    ensemble = Ensemble(
        system,
        *(
            np.concatenate([getattr(part, field) for part in parts])
            for field in ("x", "energy", "log_weight")
        ),
    )
    _save_arrays(
        run.file("proposal.npz"),
        {
            "log_weight": ensemble.log_weight,
            "energy": ensemble.energy,
            **({} if correction.family is None else {"family": correction.family}),
            **_prefixed(ensemble.observables),
        },
    )
    facts = asdict(correction)
    del facts["family"]
    write_json(run.file("correction.json"), facts)
    low, _ = generator.coordinates.to_x(paths.z_low)
    _save_arrays(
        run.file("model.npz"),
        {"log_weight": paths.log_weight_low.numpy(), **_prefixed(system.observables(low))},
    )
    data = run.data
    energy = torch.cat([system.target.energy(part) for part in data.x.split(4096)])
    _save_arrays(run.file("data.npz"), {"energy": energy.numpy(), **_prefixed(system.observables(data.x))})
    _save_conformations(run, ensemble)
    return ensemble


def summarise_run(run: "Run", program_version: str, versions: dict[str, str]) -> "Results":
    """Results from the arrays that :func:`write_ensemble` and :func:`save_held_out` wrote."""
    from bgdiff.analysis.summarise import summarise

    proposal, data = load_arrays(run.file("proposal.npz")), load_arrays(run.file("data.npz"))
    held_out = load_arrays(run.file("held_out.npz"))
    has_held_out = held_out["log_weight"].size > 0
    dropped = int(run.manifest["data_n_dropped"])
    warnings = [f"{dropped} damaged frames of the data set were left out"] if dropped else []
    # runs of earlier versions lack the file; theirs were independent walks
    facts_file = run.file("correction.json")
    facts = asdict(Correction()) | (read_json(facts_file) if facts_file.is_file() else {})
    warnings += facts["notes"]
    return summarise(
        run.system,
        proposal["log_weight"],
        _observables(proposal),
        _observables(data),
        preset=run.config.preset,
        seed=run.config.seed,
        bgdiff_version=program_version,
        target_evaluations=len(proposal["log_weight"]) + len(data["energy"]) + facts["target_evaluations"],
        method=facts["method"],
        family=proposal.get("family"),
        n_resamplings=facts["n_resamplings"],
        n_populations=facts["n_populations"],
        timings=run.timings,
        versions=versions,
        held_out=_observables(held_out) if has_held_out else None,
        held_out_log_weight=held_out["log_weight"] if has_held_out else None,
        warnings=warnings,
    )


def load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Arrays of an npz file of a run.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    import zipfile

    try:
        with np.load(path, allow_pickle=False) as content:
            return {name: content[name] for name in content.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"{path}: is missing or damaged ({error}); delete it and run this stage again"
        ) from error


def _save_conformations(run: "Run", ensemble: Ensemble) -> None:
    with atomic_path(run.file("weights.npy")) as temporary:
        np.save(temporary, ensemble.weights)
    if run.system.topology is None:
        _save_arrays(run.file("samples.npz"), {"x": ensemble.x})
        return
    trajectory = ensemble.trajectory()
    with atomic_path(run.file("samples.dcd")) as temporary:
        trajectory.save_dcd(str(temporary))
    with atomic_path(run.file("topology.pdb")) as temporary:
        # the heaviest sample: a structure worth looking at, and certainly a possible one
        trajectory[int(np.argmax(ensemble.weights))].save_pdb(str(temporary))


def _save_arrays(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    with atomic_path(path) as temporary:
        np.savez(temporary, allow_pickle=False, **arrays)


def _prefixed(observables: dict[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    return {f"obs_{name}": values for name, values in observables.items()}


def _observables(arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[np.float64]]:
    return {name.removeprefix("obs_"): values for name, values in arrays.items() if name.startswith("obs_")}
