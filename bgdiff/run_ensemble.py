"""Runs from Python and notebooks: one call makes a run or finds it finished, one reads its samples."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bgdiff.config import RunConfig, make_config
from bgdiff.errors import CheckpointError, RunDirectoryError
from bgdiff.run import Run, Stages, run_all, start_run
from bgdiff.systems import System, load_system

if TYPE_CHECKING:
    from bgdiff.generator import Ensemble

__all__ = ["finished_run", "load_ensemble"]

_LOG = logging.getLogger(__name__)


def finished_run(
    system: str | Path | System,
    out: Path | str,
    *,
    preset: str = "standard",
    seed: int = 0,
    device: str = "cpu",
    overrides: dict[str, Any] | None = None,
    data: Path | str | Sequence[Path | str] | None = None,
    progress: Stages | None = None,
) -> Run:
    """A run with these settings, complete: made if it is not there, continued if it was interrupted.

    Arguments are those of :func:`bgdiff.run.start_run`; ``progress`` opens a stage by its name.

    Raises:
        RunDirectoryError: ``out`` holds a run of another system, on other data or with other settings.
        ConfigError, SystemDefinitionError, DataError: what was asked for makes no sense.
    """
    system = system if isinstance(system, System) else load_system(system)
    out = Path(out)
    paths = [data] if isinstance(data, str | Path) else data
    if not out.exists() or not any(out.iterdir()):
        start_run(
            system, out, preset=preset, seed=seed, device=device, overrides=overrides, data=paths
        )  # fmt: skip
    run = Run(out)
    recommended = system.spec.settings
    wanted = make_config(preset, seed=seed, device=device, recommended=recommended, overrides=overrides)
    _check_same(run, system, wanted, paths)
    if run.file("report.html").is_file():
        _LOG.info("%s: is complete", out)
        return run
    return run_all(out) if progress is None else run_all(out, progress)


def load_ensemble(run: Run | Path | str) -> "Ensemble":
    """The corrected samples of a finished run, with their weights.

    Conformations of molecules have the precision of the trajectory they are kept in, 1e-5 nm or so.

    Raises:
        RunDirectoryError: the run has no samples yet.
        CheckpointError: a file is damaged, or two do not belong together.
    """
    from bgdiff.generator import Ensemble
    from bgdiff.outputs import load_arrays

    run = run if isinstance(run, Run) else Run(run)
    molecule = run.system.topology is not None
    arrays, conformations = run.file("proposal.npz"), run.file("samples.dcd" if molecule else "samples.npz")
    for file in (arrays, conformations):
        if not file.is_file():
            raise RunDirectoryError(
                f"{file}: is missing, there are no corrected samples; run: bgdiff run --resume {run.path}"
            )
    stored = load_arrays(arrays)
    x = _trajectory(conformations) if molecule else load_arrays(conformations)["x"]
    if len(x) != len(stored["log_weight"]):
        raise CheckpointError(
            f"{conformations}: has {len(x)} conformations for {len(stored['log_weight'])} weights; "
            f"run: bgdiff reweight {run.path}"
        )
    family = stored.get("family")
    return Ensemble(
        run.system,
        x,
        stored["energy"],
        stored["log_weight"],
        None if family is None else family.astype(np.int64),
    )


def _trajectory(path: Path) -> "np.ndarray[Any, np.dtype[np.float64]]":
    from mdtraj.formats import DCDTrajectoryFile

    from bgdiff.data.trajectories import quiet_stdout

    try:
        with quiet_stdout(), DCDTrajectoryFile(str(path)) as stream:
            return np.asarray(stream.read()[0], dtype=np.float64) / 10  # Å
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: is damaged ({error}); write it anew with: bgdiff reweight {path.parent}"
        ) from error


def _check_same(run: Run, system: System, wanted: RunConfig, data: Sequence[Path | str] | None) -> None:
    """Refuse to show one run when another was asked for."""
    manifest = run.manifest
    other = []
    if manifest["system_digest"] != system.ensemble_digest:
        other.append(f"its system is {manifest['system']}, as it was then")
    if manifest["data_paths"] != (None if data is None else [str(Path(path).resolve()) for path in data]):
        other.append("its data are others")
    stored, asked = run.config.model_dump(), wanted.model_dump()
    other += [f"{name} was {before!r}, not {now!r}" for name, before, now in _differences(stored, asked)]
    if other:
        raise RunDirectoryError(
            f"{run.path}: holds a run that was started differently ({'; '.join(other)}); remove it or "
            "choose another directory"
        )


def _differences(stored: dict[str, Any], asked: dict[str, Any], path: str = "") -> list[tuple[str, Any, Any]]:
    found = []
    for name, value in asked.items():
        before = stored.get(name)
        if isinstance(value, dict) and isinstance(before, dict):
            found += _differences(before, value, f"{path}{name}.")
        elif before != value:
            found.append((f"{path}{name}", before, value))
    return found
