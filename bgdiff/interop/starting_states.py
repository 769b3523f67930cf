"""Corrected samples as starting states of molecular dynamics: files that OpenMM reads."""

import logging
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import openmm
from numpy.typing import NDArray
from openmm import unit

import bgdiff
from bgdiff.analysis.weights import normalised_weights
from bgdiff.conformations import save_structure
from bgdiff.errors import ConfigError, CorrectionError, DataError, RunDirectoryError, StorageError
from bgdiff.io import atomic_path, make_directory, read_json, write_json, write_text
from bgdiff.progress import Progress, silent
from bgdiff.random import derive_seed, generator_for
from bgdiff.targets.openmm import GAS_CONSTANT

if TYPE_CHECKING:
    from bgdiff.generator import Ensemble
    from bgdiff.run import Run
    from bgdiff.systems import System

__all__ = ["choose_starts", "export_run", "export_starts"]

_LOG = logging.getLogger(__name__)
_AGREEMENT = 0.1  # kT between OpenMM and the run: rounding of files and single precision stay far below it


def choose_starts(log_weight: NDArray[np.float64], n: int, *, seed: int = 0) -> NDArray[np.int64]:
    """Rows ``(n,)`` of weighted samples that make an unweighted sample: systematic resampling, shuffled.

    A sample with share W of the weights is taken ⌊nW⌋ or ⌈nW⌉ times, nW times on average (Douc, Cappé &
    Moulines, arXiv:cs/0507025). The order is random, so that any few of the rows are a fair choice, too.

    Args:
        log_weight: ``(N,)``; N need not be n.

    Raises:
        ConfigError: n is not positive.
        CorrectionError: all weights are zero.
    """
    import torch

    from bgdiff.ladder.resampling import shares

    if n < 1:
        raise ConfigError(f"the number of starting states must be positive, not {n}")
    if not np.isfinite(log_weight).any():
        raise CorrectionError(
            f"all {len(log_weight)} samples have weight zero: there is nothing to start from"
        )
    generator = generator_for(seed, "starting states")
    share = shares(torch.as_tensor(log_weight))
    place = (torch.arange(n) + torch.rand(1, generator=generator, dtype=torch.float64)) / n
    row = torch.searchsorted(share.cumsum(0), place, right=True)
    row = row.clamp_max(int(share.nonzero()[-1]))  # the sum can round to less than the last place
    chosen: NDArray[np.int64] = row[torch.randperm(n, generator=generator)].numpy()
    return chosen


@dataclass(frozen=True)
class _Chosen:
    """Starting states before they are written, with where they come from."""

    system: "System"
    row: NDArray[np.int64]
    x: NDArray[np.float64]
    """``(n, N, 3)``, nm"""
    energy: NDArray[np.float64]
    """``(n,)``, kT"""
    weight: NDArray[np.float64]
    """``(n,)``: of the samples they come from, as shares of the weight of all"""
    facts: dict[str, Any]

    def copies(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Which copy of its conformation each is, from 1, and of how many. Chains repeat rows, too."""
        flat = np.ascontiguousarray(self.x).reshape(len(self.x), -1)
        _, kind, count = np.unique(flat, axis=0, return_inverse=True, return_counts=True)
        kind = kind.reshape(-1)
        seen = np.zeros(len(count), dtype=np.int64)
        which = np.zeros(len(kind), dtype=np.int64)
        for k, one in enumerate(kind):
            seen[one] += 1
            which[k] = seen[one]
        return which, count[kind]


def export_starts(
    ensemble: "Ensemble",
    out: Path | str,
    *,
    n: int = 100,
    seed: int = 0,
    velocities: bool = True,
    progress: Progress = silent,
) -> Path:
    """Write n starting states drawn from weighted samples; see :func:`export_run` for the files.

    Raises:
        ConfigError: n is not positive, or the system is no molecule.
        CorrectionError: all weights are zero.
        DataError: OpenMM's energies are others than the samples'.
        StorageError: ``out`` is there already, or cannot be written.
    """
    row = choose_starts(ensemble.log_weight, n, seed=seed)
    facts = {"run": None, "method": None, "n_samples": len(ensemble), "seed": seed}
    x, energy, weight = ensemble.x[row], ensemble.energy[row], ensemble.weights[row]
    chosen = _Chosen(ensemble.system, row, x, energy, weight, facts)
    return _write(chosen, Path(out), velocities=velocities, progress=progress)


def export_run(
    run: "Run | Path | str",
    out: Path | str,
    *,
    n: int = 100,
    seed: int = 0,
    velocities: bool = True,
    progress: Progress = silent,
) -> Path:
    """Write n starting states drawn from the corrected samples of a run.

    ==================  ====================================================================================
    ``states/*.xml``    one State each, for ``Simulation.loadState`` or ``Context.setState``: positions,
                        velocities (if wanted), the energy
    ``system.xml``      the System, as the run's system defines it
    ``topology.pdb``    topology, with the first start's positions
    ``starts.dcd``      all positions, to look at or to analyse
    ``starts.json``     which sample each start is, its weight, copies, energies; temperature and seed
    ``simulate.py``     a script that needs this folder and OpenMM only
    ==================  ====================================================================================

    Starts are an unweighted sample of the Boltzmann distribution, as far as the weights are good. One that
    stands for more than 1/n of all weight is taken several times: ``copies`` says so for each start, and a
    warning for all. Velocities are drawn anew for each, so that copies part soon.

    Args:
        out: a folder that is not there yet; it appears when it is complete.
        velocities: whether to draw velocities at the system's temperature.

    Returns:
        The folder.

    Raises:
        RunDirectoryError: the run has no corrected samples yet.
        ConfigError, CorrectionError, DataError, StorageError: as :func:`export_starts` says.
    """
    from bgdiff.outputs import load_arrays
    from bgdiff.run import Run

    run = run if isinstance(run, Run) else Run(run)
    _check_molecule(run.system)
    files = run.file("proposal.npz"), run.file("samples.dcd")
    if not all(file.is_file() for file in files):
        raise RunDirectoryError(
            f"{run.path}: has no corrected samples yet; run: bgdiff run --resume {run.path}"
        )
    arrays = load_arrays(files[0])
    row = choose_starts(arrays["log_weight"], n, seed=seed)
    x = _frames(files[1], row, len(arrays["log_weight"]))
    weight = normalised_weights(arrays["log_weight"])[row]
    facts = {
        "run": str(run.path),
        "method": _method(run),
        "n_samples": len(arrays["log_weight"]),
        "seed": seed,
    }
    chosen = _Chosen(run.system, row, x, arrays["energy"][row], weight, facts)
    return _write(chosen, Path(out), velocities=velocities, progress=progress)


def _method(run: "Run") -> str:
    """How the samples that are there were corrected; runs of early versions do not say."""
    file = run.file("correction.json")
    return str(read_json(file)["method"]) if file.is_file() else "is"


def _frames(path: Path, row: NDArray[np.int64], n: int) -> NDArray[np.float64]:
    """Frames of a trajectory ``(len(row), N, 3)`` in nm, of which there must be n."""
    from mdtraj.formats import DCDTrajectoryFile

    from bgdiff.data.trajectories import quiet_stdout

    found = {}
    with quiet_stdout():
        stream = DCDTrajectoryFile(str(path))
    with stream:
        if len(stream) != n:
            raise RunDirectoryError(
                f"{path}: has {len(stream)} frames for {n} weights; run: bgdiff reweight {path.parent}"
            )
        for index in np.unique(row):
            stream.seek(int(index))
            found[index] = stream.read(1)[0][0].astype(np.float64) / 10  # Å
    return np.stack([found[index] for index in row])


def _check_molecule(system: "System") -> None:
    if system.topology is None:
        raise ConfigError(
            f"system {system.name} is in reduced units: OpenMM has no System for it to start from"
        )


def _write(chosen: _Chosen, out: Path, *, velocities: bool, progress: Progress) -> Path:
    _check_molecule(chosen.system)
    if out.exists():
        raise StorageError(f"{out}: is there already; choose another folder with --out")
    make_directory(out.parent)
    try:
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise StorageError(f"{out}: cannot be written ({error.strerror}); choose another folder") from error
    try:
        _fill(temporary, chosen, velocities, progress)
        temporary.chmod(0o755)  # mkdtemp makes 0700
        temporary.replace(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out


def _fill(folder: Path, chosen: _Chosen, velocities: bool, progress: Progress) -> None:
    import mdtraj

    system, n = chosen.system, len(chosen.row)
    kT = GAS_CONSTANT * system.temperature
    context = openmm.Context(
        system.openmm_system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    make_directory(folder / "states")
    which, copies = chosen.copies()
    starts, potential = [], np.zeros(n)
    for k in range(n):
        context.setPositions(chosen.x[k])
        if velocities:
            # OpenMM's seeds are 31 bits, and 0 means any
            seed = derive_seed(chosen.facts["seed"], "velocities", k) % (2**31 - 1) + 1
            context.setVelocitiesToTemperature(system.temperature * unit.kelvin, seed)
        state = context.getState(positions=True, velocities=velocities, energy=True)
        potential[k] = state.getPotentialEnergy().value_in_unit(unit.kilojoules_per_mole)
        _check_energy(potential[k] / kT, chosen, k)
        file = f"states/{k:05d}.xml"
        write_text(folder / file, openmm.XmlSerializer.serialize(state))
        starts.append(
            {
                "file": file,
                "sample": chosen.row[k],
                "weight": chosen.weight[k],
                "copy": which[k],
                "copies": copies[k],
                "energy_kT": chosen.energy[k],
                "energy_kJ_per_mol": potential[k],
            }
        )
        progress(k + 1, n)
    topology = system.topology
    assert topology is not None
    write_text(folder / "system.xml", openmm.XmlSerializer.serialize(system.openmm_system))
    save_structure(folder / "topology.pdb", chosen.x[0], topology)
    with atomic_path(folder / "starts.dcd") as temporary:
        mdtraj.Trajectory(chosen.x.astype(np.float32), topology).save_dcd(str(temporary))
    shutil.copyfile(Path(__file__).with_name("simulate_starts.py"), folder / "simulate.py")
    distinct = int((which == 1).sum())
    facts = {
        "system": system.name,
        "temperature": system.temperature,
        **chosen.facts,
        "n_distinct": distinct,
        "velocities": velocities,
        "largest_energy_deviation_kT": float(np.abs(potential / kT - chosen.energy).max()),
        "versions": {"bgdiff": bgdiff.__version__, "openmm": openmm.__version__},
        "starts": starts,
    }
    write_json(folder / "starts.json", facts)
    if distinct < n:
        _warn_of_copies(n, distinct, int(copies.max()), velocities)


def _warn_of_copies(n: int, distinct: int, most: int, velocities: bool) -> None:
    _LOG.warning(
        "%d starting states hold %d different conformations, one of them %d times: what stands for more than "
        "1/%d of all weight is taken more often (starts.json says which). %s More samples in the run, or "
        "fewer starts, make fewer copies",
        n,
        distinct,
        most,
        n,
        "Copies have different velocities." if velocities else "Copies are equal until they get velocities.",
    )


def _check_energy(found: float, chosen: _Chosen, k: int) -> None:
    """The samples, the file and OpenMM must speak of the same potential."""
    if not abs(found - chosen.energy[k]) < _AGREEMENT:
        raise DataError(
            f"sample {chosen.row[k]}: has an energy of {chosen.energy[k]:.3f} kT in the run, but "
            f"{found:.3f} kT in OpenMM with {chosen.system.path}; the run's files do not belong together: "
            "repeat bgdiff reweight"
        )
