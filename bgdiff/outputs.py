"""The files of a run that others read: arrays, conformations, the results."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from bgdiff.analysis.cluster_record import ClusterRecord, distance_bins, distances_of_data
from bgdiff.analysis.weights import normalised_weights
from bgdiff.conformations import conformation_writer, save_structure, topology_of
from bgdiff.errors import CheckpointError, CorrectionError
from bgdiff.free_energy.estimate import ZeroWeightsError
from bgdiff.generator import BoltzmannGenerator
from bgdiff.io import atomic_path, read_json, write_json
from bgdiff.progress import Progress, silent
from bgdiff.random import derive_seed, generator_for
from bgdiff.sources import Columns, Correction, open_source

if TYPE_CHECKING:
    from bgdiff.analysis.results import Results
    from bgdiff.config import Method, RunConfig
    from bgdiff.run import Run

__all__ = [
    "load_arrays",
    "load_held_out",
    "save_held_out",
    "summarise_run",
    "timing_key",
    "write_ensemble",
]


def timing_key(config: "RunConfig", stage: str, method: "Method") -> str:
    """What the time of a stage is booked under: other methods than the run's own are kept apart."""
    return stage if method == config.correction.method else f"{stage}-{method}"


def save_held_out(path: Path, run: "Run", generator: BoltzmannGenerator, progress: Progress = silent) -> None:
    """Walk held-out frames up the ladder and keep their path weights, for the forward ESS.

    Writes what :func:`load_held_out` returns.
    """
    from bgdiff.coordinates import LatentTarget

    config = run.config
    rows = _held_out_rows(run)
    wanted = len(rows)
    if wanted == 0:
        _save_arrays(path, {"log_weight": np.zeros(0), **_frames(run, rows)})
        return
    z, _ = generator.coordinates.to_z(run.data.x[rows])
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
    _save_arrays(path, {"log_weight": log_weight, **_frames(run, rows)})


def load_held_out(run: "Run") -> dict[str, NDArray[Any]]:
    """The held-out frames of a run, as arrays ``(m,)``.

    - ``log_weight``: path weight of the frame's walk up the ladder, log W,
    - ``index``: the frame's row in the data set of the run,
    - ``chain``: the independent simulation it comes from,
    - ``obs_<name>``: the observables that the system has now. They are computed anew from the frames,
      since the system may have got others after they were walked up.

    Raises:
        CheckpointError: the file is missing or damaged, or is not about these frames.
    """
    path = run.file("held_out.npz")
    stored = load_arrays(path)
    # files of earlier versions do not say which frames they are about; settings and data do
    rows = torch.from_numpy(stored["index"]) if "index" in stored else _held_out_rows(run)
    log_weight = stored.get("log_weight", np.zeros(0))
    if log_weight.shape != rows.shape or (len(rows) and not 0 <= rows.min() <= rows.max() < len(run.data)):
        raise CheckpointError(
            f"{path}: its {log_weight.size} weights do not belong to {len(rows)} held-out frames; "
            f"delete it and run: bgdiff sample {run.path}"
        )
    return {"log_weight": log_weight, **_frames(run, rows)}


def _held_out_rows(run: "Run") -> torch.Tensor:
    """Rows ``(m,)`` of the data set: as many held-out frames as are wanted, evenly spaced.

    Frames of other temperatures are none of the target's and do not count.
    """
    config = run.config
    chosen = run.data.held_out_frames(config.training.held_out, config.seed)
    rows = (chosen & run.data.frames_at(run.system.temperature)).nonzero()[:, 0]
    wanted = min(config.sampling.n_held_out, len(rows))
    return rows[torch.linspace(0, max(0, len(rows) - 1), wanted, dtype=torch.float64).round().long()]


def _frames(run: "Run", rows: torch.Tensor) -> dict[str, NDArray[Any]]:
    observables = run.system.observables(run.data.x[rows])
    return {"index": rows.numpy(), "chain": run.data.chain[rows].numpy(), **_prefixed(observables)}


def write_ensemble(
    run: "Run", generator: BoltzmannGenerator, method: "Method", progress: Progress = silent
) -> None:
    """Correct the samples that were drawn and write everything a reader of the run needs.

    Samples are read, weighted and written chunk by chunk; only what is one number per sample stays in memory.

    Raises:
        CheckpointError: a chunk is missing or damaged.
        CorrectionError: all samples have weight zero; what was written before is kept.
    """
    system, folder = run.system, run.path
    source = open_source(run, generator, method)
    n, columns = source.n_samples, Columns()
    heaviest, structure = -np.inf, None
    topology, cluster = topology_of(system), _cluster_record(run)
    with conformation_writer(
        folder, topology, n, system.target.event_shape, array=system.topology is None
    ) as append:
        for ensemble in source:
            append(ensemble.x)
            if cluster is not None:
                cluster.add(ensemble.x, ensemble.energy, ensemble.log_weight)
            columns.add(
                {
                    "log_weight": ensemble.log_weight,
                    "energy": ensemble.energy,
                    **_prefixed(ensemble.observables),
                }
            )
            best = int(np.argmax(np.nan_to_num(ensemble.log_weight, nan=-np.inf)))
            if structure is None or ensemble.log_weight[best] > heaviest:
                heaviest, structure = float(ensemble.log_weight[best]), ensemble.x[best].copy()
            progress(len(columns), n)
        arrays = columns.joined()
        weights = _weights(arrays["log_weight"])  # if there are none, nothing is replaced
        correction, extra = source.finish()
        extra["held_out"] = load_held_out(run)  # with the observables that the system has now
        data = run.data
        if cluster is not None:
            pairs = distances_of_data(data.x.numpy(), data.chain.numpy(), cluster.edges)
            extra["cluster"] = cluster.arrays(pairs, weighted=correction.chains is None)
        energy = torch.cat([system.target.energy(part) for part in data.x.split(4096)])
        found = {"energy": energy.numpy(), **_prefixed(system.observables(data.x))}
        _save_arrays(run.file("proposal.npz"), {**arrays, **extra.pop("proposal", {})})
        for name, content in {"data": found, **extra}.items():
            _save_arrays(run.file(f"{name}.npz"), content)
        write_json(run.file("correction.json"), asdict(correction))
        with atomic_path(run.file("weights.npy")) as temporary:
            np.save(temporary, weights)
        if topology is not None and structure is not None:
            # the heaviest sample: a structure worth looking at, and certainly a possible one
            save_structure(run.file("topology.pdb"), structure, topology)


def _cluster_record(run: "Run") -> ClusterRecord | None:
    """What gathers pair distances and structures of a cluster; None for other systems."""
    types = run.system.particle_types
    if run.system.topology is not None or types is None:
        return None
    random = np.random.default_rng(derive_seed(run.config.seed, "structures"))
    return ClusterRecord(distance_bins(run.data.x.numpy()), random, types.numpy())


def _weights(log_weight: NDArray[np.float64]) -> NDArray[np.float64]:
    try:
        return normalised_weights(log_weight)
    except ZeroWeightsError as error:
        raise CorrectionError(
            f"rung 0 (the target): all {len(log_weight)} samples have weight zero, because their geometries "
            "are impossible or their energies not finite; train longer, or check that the data and the energy"
            " belong to the same system"
        ) from error


def summarise_run(run: "Run", program_version: str, versions: dict[str, str]) -> "Results":
    """Results from the arrays that :func:`write_ensemble` and :func:`save_held_out` wrote."""
    from bgdiff.analysis.summarise import summarise
    from bgdiff.round_samples import earlier_rounds

    proposal, data = load_arrays(run.file("proposal.npz")), load_arrays(run.file("data.npz"))
    held_out = load_held_out(run)
    has_held_out = held_out["log_weight"].size > 0
    dropped = int(run.manifest["data_n_dropped"])
    warnings = [f"{dropped} damaged frames of the data set were left out"] if dropped else []
    if run.data.temperature is not None:
        others = sorted(set(run.data.temperature.tolist()) - {run.system.temperature})
        warnings.append(
            f"data of {', '.join(f'{kelvin:g} K' for kelvin in others)} are no measure of the samples: they "
            "are left out of forward effective sample sizes"
        )
    # runs of earlier versions lack the file; theirs were independent walks
    facts = run.file("correction.json")
    correction = Correction.from_json(read_json(facts)) if facts.is_file() else Correction()
    weighted = 0 if correction.chains is not None else len(proposal["log_weight"])
    walks = load_arrays(run.file("walks.npz")) if correction.method == "imh" else {}
    rounds = earlier_rounds(run)
    spent = correction.target_evaluations + sum(one.target_evaluations for one in rounds)
    if rounds and rounds[-1].power < 1:
        warnings.append(
            f"the last round of training had weights too poor to be used in full (power "
            f"{rounds[-1].power:.2g}); the model has not settled: add rounds"
        )
    return summarise(
        run.system,
        proposal["log_weight"],
        _observables(proposal),
        _observables(data),
        preset=run.config.preset,
        seed=run.config.seed,
        bgdiff_version=program_version,
        target_evaluations=weighted + len(data["energy"]) + spent,
        method=correction.method,
        family=proposal.get("family"),
        n_resamplings=correction.n_resamplings,
        n_populations=correction.n_populations,
        chains=correction.chains,
        energy=proposal["energy"],
        walk_log_weight=walks.get("log_weight"),
        timings=run.timings,
        earlier=[(one.log_weight, one.observables, one.family) for one in rounds],
        seconds=_seconds(run, correction.method),
        versions=versions,
        held_out=_observables(held_out) if has_held_out else None,
        held_out_log_weight=held_out["log_weight"] if has_held_out else None,
        warnings=[*warnings, *correction.notes],
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


def _seconds(run: "Run", method: "Method") -> float:
    """Time that the samples took: all but checks, and the drawing and weighting of other methods."""
    stages = ("sample", "reweight")
    ours = {timing_key(run.config, stage, method) for stage in stages}
    if method == "imh":  # its proposals are the walks
        ours.add(timing_key(run.config, "sample", "is"))
    return sum(
        seconds
        for name, seconds in run.timings.items()
        if name in ours
        or not any(name == stage or name.startswith(f"{stage}-") for stage in (*stages, "check"))
    )


def _save_arrays(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    with atomic_path(path) as temporary:
        np.savez(temporary, allow_pickle=False, **arrays)


def _prefixed(observables: dict[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    return {f"obs_{name}": values for name, values in observables.items()}


def _observables(arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[np.float64]]:
    return {name.removeprefix("obs_"): values for name, values in arrays.items() if name.startswith("obs_")}
