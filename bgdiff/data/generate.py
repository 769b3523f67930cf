"""Data sets made by bgdiff: plain, deliberately short simulations, with their provenance beside them."""

import hashlib
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import bgdiff
from bgdiff.data.chains import concatenate, discard_chunks, run_chains
from bgdiff.data.mala import mala_chains
from bgdiff.data.md import Dynamics, MDTask, Molecule
from bgdiff.errors import ConfigError, StorageError, SystemDefinitionError
from bgdiff.io import atomic_path, make_directory, write_json
from bgdiff.progress import Progress, silent
from bgdiff.random import generator_for
from bgdiff.system_spec import ChainsSpec, MDSpec
from bgdiff.systems import System

__all__ = ["generate_data", "molecule_of", "provenance_path"]


def generate_data(
    system: System,
    out: Path | str | None = None,
    seed: int = 0,
    processes: int | None = None,
    progress: Progress = silent,
) -> Path:
    """Simulate the system as its ``generate`` section says; write a data set and its provenance (JSON).

    An interrupted generation leaves its finished chunks in ``<out>.parts``; called again with the same
    settings it continues from them, to the same result. The result does not depend on ``processes``.
    With more than one, a script must call this under ``if __name__ == "__main__":``: they are spawned.

    Args:
        system: the system to simulate.
        out: trajectory file to write, any format mdtraj writes (DCD advised); ``.npz`` for a toy density.
            By default it is named after the system, in the current directory.
        seed: of all random numbers.
        processes: how many to use; by default one per core, at most one per chain.
        progress: called after each chunk.

    Returns:
        The file written.

    Raises:
        ConfigError: ``out`` exists, or its directory of chunks belongs to other settings.
        DataError: the simulation is unstable.
        StorageError: ``out`` cannot be written, or not in this format.
        SystemDefinitionError: the system has no ``generate`` section.
    """
    settings = system.spec.generate
    if settings is None:
        raise SystemDefinitionError(
            f"{system.path}/system.yaml: has no 'generate' section, which says how long to run"
        )
    molecular = isinstance(settings, MDSpec)
    out = Path(f"{system.name}{'.dcd' if molecular else '.npz'}") if out is None else Path(out)
    for path in (out, provenance_path(out)):
        if path.exists():
            raise ConfigError(f"{path}: exists already; remove it or choose another file with --out")
    make_directory(out.parent)
    if out.suffix == ".json":
        raise ConfigError(f"{out}: the .json beside the data is for their provenance; choose another --out")
    if isinstance(settings, MDSpec):
        record = _run_md(system, settings, out, seed, processes or os.cpu_count() or 1, progress)
    else:
        record = _run_mala(system, settings, out, seed, progress)
    record |= {
        "schema_version": 1,
        "system": system.name,
        "ensemble_digest": system.ensemble_digest,
        "temperature": system.temperature,
        "seed": seed,
        "command": f"bgdiff data generate {system.name} --seed {seed}",
        "file": out.name,
        "sha256": hashlib.sha256(out.read_bytes()).hexdigest(),
    }
    write_json(provenance_path(out), dict(sorted(record.items())))
    discard_chunks(_parts(out))
    return out


def provenance_path(data: Path) -> Path:
    """Where the provenance of a data file lies: beside it, ``.json``."""
    return data.with_suffix(".json")


def molecule_of(system: System, starts: list[dict[str, float]]) -> Molecule:
    """Collect what simulations need; ``starts`` are torsions in degrees by observable name."""
    topology = system.topology
    if topology is None:
        raise SystemDefinitionError(f"system {system.name} is not a molecule")
    import openmm

    observables = system.spec.observables
    return Molecule(
        system_xml=openmm.XmlSerializer.serialize(system.target.system),  # type: ignore[attr-defined]
        structure=system.structure,
        bonds=tuple((first.index, second.index) for first, second in topology.bonds),
        starts=tuple(
            {observables[name].particles: float(np.radians(angle)) for name, angle in start.items()}
            for start in starts
        ),
    )


def _run_md(
    system: System, settings: MDSpec, out: Path, seed: int, processes: int, progress: Progress
) -> dict[str, Any]:
    with TemporaryDirectory() as folder:  # better now than after hours
        _write_trajectory(Path(folder) / out.name, system.structure[None], system)
    task = MDTask(
        molecule=molecule_of(system, settings.starts),
        dynamics=Dynamics(settings.step_fs, settings.friction_per_ps),
        temperature=system.temperature,
        length_ns=settings.length_ns,
        spacing_ps=settings.spacing_ps,
        equilibration_ps=settings.equilibration_ps,
        starts_deg=tuple(settings.starts),
        seed=seed,
        definition=system.ensemble_digest,
    )
    chains = [concatenate(records, "x") for records in run_chains(task, _parts(out), processes, progress)]
    _write_trajectory(out, np.concatenate(chains), system)
    import mdtraj
    import openmm

    return {
        "method": "molecular dynamics: OpenMM LangevinMiddleIntegrator, Reference platform",
        "settings": settings.model_dump(mode="json"),
        "chain_lengths": [len(chain) for chain in chains],
        "spacing_ps": settings.spacing_ps,
        "total_ns": len(chains) * settings.length_ns,
        "versions": {
            "bgdiff": bgdiff.__version__,
            "openmm": openmm.__version__,
            "mdtraj": mdtraj.__version__,
        },
    }


def _write_trajectory(out: Path, x: NDArray[Any], system: System) -> None:
    import mdtraj

    with atomic_path(out) as temporary:
        try:
            mdtraj.Trajectory(x, system.topology).save(str(temporary))
        except (OSError, KeyError, ValueError) as error:
            raise StorageError(f"{out.name}: mdtraj cannot write it ({error})") from error


def _run_mala(
    system: System, settings: ChainsSpec, out: Path, seed: int, progress: Progress
) -> dict[str, Any]:
    particles, dimensions = system.target.event_shape
    starts = torch.tensor(settings.starts, dtype=torch.float64)
    if starts.shape[1:] != (particles * dimensions,):
        raise SystemDefinitionError(
            f"{system.path}/system.yaml: generate.starts: each start needs {particles * dimensions} numbers"
        )
    starts = starts.repeat_interleave(settings.chains_per_start, dim=0).reshape(-1, particles, dimensions)
    frames, acceptance = mala_chains(
        system.target,
        starts,
        step=settings.step,
        frames=settings.frames,
        spacing=settings.spacing,
        equilibration=settings.equilibration,
        generator=generator_for(seed, "mala"),
        progress=progress,
    )
    with atomic_path(out) as temporary, open(temporary, "wb") as stream:
        np.savez_compressed(stream, x=frames.flatten(0, 1).numpy().astype(np.float32))
    return {
        "method": "Metropolis-adjusted Langevin chains",
        "settings": settings.model_dump(mode="json"),
        "acceptance": acceptance,
        "chain_lengths": [settings.frames] * len(starts),
        "versions": {"bgdiff": bgdiff.__version__, "torch": torch.__version__, "numpy": np.__version__},
    }


def _parts(out: Path) -> Path:
    return out.with_name(out.name + ".parts")
