"""Data sets made by bgdiff, with their provenance beside them: short plain simulations, or equilibrium."""

import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bgdiff.data.chains import concatenate, discard_chunks, run_chains
from bgdiff.data.frames import write_trajectory
from bgdiff.data.output import choose_output, data_versions, provenance_path, sha256_of, system_of_data
from bgdiff.data.start_files import StartFiles, read_starts
from bgdiff.errors import ConfigError, SystemDefinitionError
from bgdiff.io import write_json
from bgdiff.progress import Progress, silent
from bgdiff.system_spec import MDSpec, OpenMMSpec
from bgdiff.systems import System

if TYPE_CHECKING:
    from bgdiff.targets.choose import Engine

__all__ = ["METHODS", "Method", "generate_data"]

Method = Literal["md", "parallel-tempering", "mala"]
METHODS: tuple[Method, ...] = ("md", "parallel-tempering", "mala")
"""Plain molecular dynamics for molecules, MALA chains for toy densities, parallel tempering for both."""

_FRAMES = 50_000


def generate_data(
    system: System,
    out: Path | str | None = None,
    seed: int = 0,
    processes: int | None = None,
    progress: Progress = silent,
    *,
    method: Method | None = None,
    frames: int | None = None,
    engine: "Engine" = "auto",
    starts: Sequence[Path] = (),
    top: Path | None = None,
    temperature: float | None = None,
) -> Path:
    """Simulate the system as its ``system.yaml`` says; write a data set and its provenance (JSON).

    - ``md``: plain molecular dynamics as the ``generate`` section says, deliberately short.
    - ``parallel-tempering``: frames of the equilibrium at the system's temperature, 1 ps apart in each of
      many ladders (for a toy density as far as it says), as the ``replica_exchange`` section says. The
      provenance of a toy density says whether they pass the checks of
      :func:`~bgdiff.data.validation.validate`.
    - ``mala``: the chains on a toy density that its ``generate`` section asks for.

    Molecules run on the batched engine where it covers them, else on OpenMM. An interrupted generation
    leaves its finished chunks in ``<out>.parts``; called again with the same settings it continues from them,
    to the same result. The result does not depend on ``processes``. With more than one, a script must call
    this under ``if __name__ == "__main__":``: they are spawned.

    Args:
        system: the system to simulate.
        out: trajectory file to write, any format mdtraj writes (DCD advised) or ``.npz``, which is smaller
            if the section says ``stored_bits``; always ``.npz`` for a toy density. By default it is named
            after the system, in the current directory.
        seed: of all random numbers.
        processes: how many to use; by default one per core, at most one per batch of walkers.
        progress: called after each chunk.
        method: by default ``md`` for a molecule and ``mala`` for a toy density.
        frames: of parallel tempering, at least; 50 000 by default. ``generate`` says how many others make.
        engine: what evaluates a molecule, see :func:`~bgdiff.targets.choose.molecular_target`.
        starts: files whose frames molecular dynamics starts from, ``chains_per_start`` chains each, instead
            of the torsions in ``generate``; ``top`` names their atoms if they do not.
        temperature: K, of the simulation, if not the system's. The provenance says so, and training takes
            the frames for what they are.

    Returns:
        The file written.

    Raises:
        ConfigError: ``out`` exists, its directory of chunks belongs to other settings, or the method or an
            option is not one for this system.
        DataError: the simulation is unstable, or a start cannot be used.
        StorageError: ``out`` cannot be written, or not in this format.
        SystemDefinitionError: the system has no section that says how long to run.
        UnsupportedSystem: ``engine`` insists on an engine that does not cover the system.
    """
    molecular = isinstance(system.spec, OpenMMSpec)
    method = method or ("md" if molecular else "mala")
    if method == ("mala" if molecular else "md"):
        kind = "a molecule" if molecular else "a toy density"
        raise ConfigError(f"method {method}: is not one for {kind} such as {system.name}")
    if frames is not None and (method != "parallel-tempering" or frames < 1):
        raise ConfigError("frames: a positive number, and only for parallel tempering")
    if starts and method != "md":
        raise ConfigError("--start: is for molecular dynamics (--method md) of molecules")
    if top is not None and not starts:
        raise ConfigError("--top: names the atoms of --start files; there are none")
    out = choose_output(system, out)
    own, system = system, system_of_data(system, out, temperature)
    processes = processes or os.cpu_count() or 1
    if not molecular:
        from bgdiff.data.toy_generate import generate_chains, generate_equilibrium

        if method == "mala":
            record = generate_chains(system, out, seed, progress)
        else:
            frames_wanted = frames or _FRAMES
            record = generate_equilibrium(system, out, _parts(out), seed, processes, frames_wanted, progress)
    else:
        with TemporaryDirectory() as folder:  # better now than after hours
            write_trajectory(Path(folder) / out.name, system.structure[None], system.topology)
        if method == "md":
            files = read_starts(system, starts, top) if starts else None
            record = _run_md(system, out, seed, processes, engine, progress, files)
        else:
            record = _run_tempering(system, out, seed, processes, engine, frames or _FRAMES, progress)
    options = {
        "method": method if method == "parallel-tempering" else None,
        "frames": frames,
        "engine": None if engine == "auto" else engine,
        "temperature": None if system.temperature == own.temperature else f"{system.temperature:g}",
        "top": None if top is None else top.name,
    }
    given = "".join(f" --{name} {value}" for name, value in options.items() if value is not None)
    given += "".join(f" --start {path.name}" for path in starts)
    record |= {
        "schema_version": 1,
        "system": system.name,
        "ensemble_digest": system.ensemble_digest,
        "temperature": system.temperature,
        "seed": seed,
        "command": f"bgdiff data generate {system.name} --seed {seed}{given}",
        "file": out.name,
        "sha256": sha256_of(out),
    }
    write_json(provenance_path(out, own), dict(sorted(record.items())))
    discard_chunks(_parts(out))
    return out


def _run_md(
    system: System,
    out: Path,
    seed: int,
    processes: int,
    engine: "Engine",
    progress: Progress,
    files: StartFiles | None = None,
) -> dict[str, Any]:
    from bgdiff.data.md import MDTask
    from bgdiff.data.simulator import simulator_of

    settings = system.spec.generate
    if not isinstance(settings, MDSpec):
        raise _nothing_said(system)
    task = MDTask(
        simulator=simulator_of(
            system,
            settings.starts,
            settings.step_fs,
            settings.friction_per_ps,
            engine,
            None if files is None else files.x,
        ),
        length_ns=settings.length_ns,
        spacing_ps=settings.spacing_ps,
        equilibration_ps=settings.equilibration_ps,
        chains_per_start=settings.chains_per_start,
        starts=tuple(settings.starts) if files is None else files.origins,
        seed=seed,
        definition=system.ensemble_digest,
    )
    batches = [concatenate(records, "x") for records in run_chains(task, _parts(out), processes, progress)]
    chains = [batch[:, walker] for batch in batches for walker in range(batch.shape[1])]
    write_trajectory(out, np.concatenate(chains), system.topology, settings.stored_bits)
    return {
        "method": "molecular dynamics: Langevin middle scheme",
        "evaluator": task.simulator.describe(),
        "settings": settings.model_dump(mode="json"),
        "start_files": None if files is None else list(files.files),
        "chain_lengths": [len(chain) for chain in chains],
        "spacing_ps": settings.spacing_ps,
        "total_ns": len(chains) * settings.length_ns,
        "versions": data_versions(),
    }


def _run_tempering(
    system: System, out: Path, seed: int, processes: int, engine: "Engine", frames: int, progress: Progress
) -> dict[str, Any]:
    from bgdiff.data.ladder_analysis import convergence, mixing
    from bgdiff.data.parallel_tempering import ladder_task

    task = ladder_task(system, seed, engine, frames)
    groups = [
        {key: concatenate(records, key) for key in records[0]}
        for records in run_chains(task, _parts(out), processes, progress)
    ]
    x = np.concatenate([group["x"].swapaxes(0, 1) for group in groups])  # (ladders, n, N, 3)
    write_trajectory(out, x.reshape(-1, *x.shape[2:]), system.topology)
    draws = {
        name: np.concatenate([group["observables"][:, :, 0, column].T for group in groups])
        for column, name in enumerate(task.observables)
    }
    draws["energy"] = np.concatenate([group["energy"][:, :, 0].T for group in groups])
    settings = system.spec.replica_exchange
    assert settings is not None
    return {
        "method": "parallel tempering, frames of the lowest temperature",
        "evaluator": task.simulator.describe(),
        "settings": settings.model_dump(mode="json"),
        "temperatures": task.temperatures,
        "chain_lengths": [x.shape[1]] * len(x),
        "spacing_ps": task.sample_ps,
        **mixing(groups),
        "convergence": convergence(draws, [name for name, spec in task.observables.items() if spec.periodic]),
        "versions": data_versions(),
    }


def _nothing_said(system: System) -> SystemDefinitionError:
    return SystemDefinitionError(
        f"{system.path}/system.yaml: has no 'generate' section, which says how long to run"
    )


def _parts(out: Path) -> Path:
    return out.with_name(out.name + ".parts")
