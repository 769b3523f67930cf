"""A run: a directory that remembers what was asked and how far the work has come.

Every stage can be started by itself, stops at any moment without harm, and goes on where it stopped.
Files are complete or absent; a stage is done when its last file is there.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bgdiff
from bgdiff.config import Method, RunConfig, make_config, named_method, parse_config
from bgdiff.environment import package_versions
from bgdiff.errors import CheckpointError, RunDirectoryError
from bgdiff.io import make_directory, read_json, write_json
from bgdiff.progress import Progress, silent
from bgdiff.systems import System, load_system

if TYPE_CHECKING:
    from bgdiff.data.dataset import Dataset
    from bgdiff.generator import BoltzmannGenerator

__all__ = [
    "Run",
    "resume_run",
    "run_all",
    "stage_report",
    "stage_reweight",
    "stage_sample",
    "stage_train",
    "start_run",
]

_LOG = logging.getLogger(__name__)
_FORMAT = 1
_MANIFEST = "run.json"

Stages = Callable[[str], AbstractContextManager[Progress]]


def _unseen(name: str) -> AbstractContextManager[Progress]:
    return nullcontext(silent)


class Run:
    """An existing run directory.

    Raises:
        RunDirectoryError: the directory holds no run.
        CheckpointError: its manifest is damaged or of another version.
        SystemDefinitionError: its system is gone.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not (self.path / _MANIFEST).is_file():
            raise RunDirectoryError(
                f"{self.path}: holds no run ({_MANIFEST} is missing); start one with: bgdiff run"
            )
        self.manifest = read_json(self.path / _MANIFEST)
        if not isinstance(self.manifest, dict) or self.manifest.get("format") != _FORMAT:
            raise CheckpointError(f"{self.path / _MANIFEST}: was written by another version of bgdiff")
        self.config: RunConfig = parse_config(self.manifest["config"])

    @cached_property
    def system(self) -> System:
        """The system, checked to have the density the run was started with; its basins may have changed."""
        system = load_system(self.manifest["system_path"])
        if system.ensemble_digest != self.manifest["system_digest"]:
            raise RunDirectoryError(
                f"{self.path}: the potential or temperature in {system.path} has changed since this run was "
                "started; start a new run, or restore the definition"
            )
        return system

    @cached_property
    def data(self) -> "Dataset":
        """The run's data set, checked to be the one the run was started with, as the model gets to see it.

        That is with equal hydrogens relabelled at random (``training.relabel_hydrogens``).
        """
        from bgdiff.data.rotors import relabelled

        data = self.system.load_data(self.manifest["data_paths"])
        digest = _digest(data)
        if digest != self.manifest["data_digest"]:
            raise RunDirectoryError(
                f"{self.path}: the data set has changed since this run was started; start a new run"
            )
        if self.config.training.relabel_hydrogens:
            return relabelled(self.system, data, self.config.seed)
        return data

    def file(self, name: str) -> Path:
        """Path of one of the run's files."""
        return self.path / name

    def training_folder(self, index: int = 0) -> Path:
        """Folder of one training: 0 the first, on the data; then one per round."""
        return self.path / (f"rounds/{index:02d}" if index else "train")

    def checkpoint(self, index: int = 0) -> Path:
        return self.training_folder(index) / "checkpoint.safetensors"

    def trained_generator(self, index: int = 0) -> Path:
        return self.training_folder(index) / "generator.safetensors"

    @property
    def generator_file(self) -> Path:
        """The generator that the final samples come from."""
        return self.trained_generator(self.config.rounds.n_rounds)

    def generator(self) -> "BoltzmannGenerator":
        """The trained generator.

        Raises:
            RunDirectoryError: training has not finished.
        """
        from bgdiff.generator import BoltzmannGenerator

        if not self.generator_file.is_file():
            raise RunDirectoryError(f"{self.path}: is not trained yet; run: bgdiff train {self.path}")
        return BoltzmannGenerator.load(self.generator_file, self.system, device=self.config.device)

    def chunks(self, method: Method = "is") -> list[tuple[Path, int]]:
        """File and number of samples of every chunk: of walks (``is``), populations (``smc``) or chains."""
        if method not in ("is", "smc"):
            from bgdiff.chains import ChainPlan

            plan = ChainPlan.of(self.config, method)
            return [
                (self.path / f"samples-{method}" / f"chunk-{index:05d}.safetensors", rounds * plan.chains)
                for index, (_, rounds) in enumerate(plan.stretches)
            ]
        sampling = self.config.sampling
        folder = self.path / ("samples" if method == "is" else f"samples-{method}")
        starts = range(0, sampling.n_samples, sampling.chunk)
        return [
            (
                folder / f"chunk-{index:05d}.safetensors",
                min(sampling.chunk, sampling.n_samples - start),
            )
            for index, start in enumerate(starts)
        ]

    @property
    def timings(self) -> dict[str, float]:
        """Wall-clock seconds spent in each stage so far."""
        path = self.path / "timings.json"
        return dict(read_json(path)) if path.is_file() else {}

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time of the block to the stage's, also when the block is interrupted."""
        started = time.monotonic()
        try:
            yield
        finally:
            timings = self.timings
            timings[stage] = timings.get(stage, 0.0) + time.monotonic() - started
            write_json(self.path / "timings.json", timings)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from working in the directory at the same time.

        Raises:
            RunDirectoryError: another process does.
        """
        try:
            import fcntl
        except ImportError:  # no advisory locks on this platform
            yield
            return
        handle = os.open(self.path / "lock", os.O_CREAT | os.O_RDWR)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RunDirectoryError(f"{self.path}: another process is working on this run") from error
            yield
        finally:
            os.close(handle)


def start_run(
    system: str | Path | System,
    out: Path | str,
    *,
    preset: str = "standard",
    seed: int = 0,
    device: str = "cpu",
    overrides: dict[str, Any] | None = None,
    data: Path | str | Sequence[Path | str] | None = None,
) -> Path:
    """Make a run directory; nothing is computed yet.

    Args:
        system: its name or the folder that defines it.
        data: trajectories to use instead of the shipped data set.

    Returns:
        The directory.

    Raises:
        RunDirectoryError: the directory exists and is not empty.
        ConfigError, SystemDefinitionError, DataError: what was asked for makes no sense.
    """
    if not isinstance(system, System):
        system = load_system(system)
    recommended = system.spec.settings
    config = make_config(preset, seed=seed, device=device, recommended=recommended, overrides=overrides)
    out = Path(out)
    if (out / _MANIFEST).exists():
        raise RunDirectoryError(
            f"{out}: already holds a run; continue it with: bgdiff run --resume {out}, "
            "or choose another --out"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunDirectoryError(f"{out}: exists and is not an empty directory; choose another --out")
    if isinstance(data, str | Path):
        data = [data]
    paths = None if data is None else [str(Path(path).resolve()) for path in data]
    dataset = system.load_data(paths)
    make_directory(out)
    manifest = {
        "format": _FORMAT,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "system": system.name,
        "system_path": str(system.path.resolve()),
        "system_digest": system.ensemble_digest,
        "data_paths": paths,
        "data_digest": _digest(dataset),
        "data_provenance": dataset.provenance,
        "data_n_dropped": dataset.n_dropped,
        "config": config.model_dump(mode="json"),
        "overrides": overrides or {},
        "versions": _versions(system),
    }
    write_json(out / _MANIFEST, manifest)
    return out


def resume_run(path: Path | str) -> Run:
    """Check that a run can be continued, and return it.

    Raises:
        RunDirectoryError: there is no run, or its system or data have changed.
        CheckpointError: its manifest is damaged.
    """
    run = Run(path)
    _ = run.system
    return run


def run_all(path: Path | str, progress: Stages = _unseen) -> Run:
    """Do what is left of a run, to the report."""
    from bgdiff.rounds import train_rounds

    run = Run(path)
    with run.locked():
        if not run.generator_file.is_file():
            train_rounds(run, progress)
        _sample(run, progress)
        if not run.file("results.json").is_file():
            _reweight(run, progress)
        _report(run, progress)
    return run


def stage_train(path: Path | str, progress: Stages = _unseen) -> Run:
    """Train, or go on training, with all rounds; a finished training is left as it is."""
    from bgdiff.rounds import train_rounds

    run = Run(path)
    with run.locked():
        if run.generator_file.is_file():
            _LOG.warning("%s: is trained already", run.path)
        else:
            train_rounds(run, progress)
    return run


def stage_sample(path: Path | str, progress: Stages = _unseen) -> Run:
    """Draw the samples that are still missing."""
    run = Run(path)
    with run.locked():
        _sample(run, progress)
    return run


def stage_reweight(path: Path | str, progress: Stages = _unseen, method: str | None = None) -> Run:
    """Weight the samples with the true energy and write the results (again).

    Args:
        method: of correction: is, smc, imh or replica-exchange. If given, samples it still lacks are drawn;
            the default is the run's own, with the samples it has.

    Raises:
        ConfigError: there is no such method, or too few samples for it.
        CorrectionError: the method cannot go on; what was drawn is kept.
    """
    chosen = None if method is None else named_method(method)
    run = Run(path)
    with run.locked():
        if chosen is not None:
            _sample(run, progress, chosen)
        _reweight(run, progress, chosen)
    return run


def stage_report(path: Path | str, progress: Stages = _unseen) -> Run:
    """Draw the figures and write the report (again)."""
    run = Run(path)
    with run.locked():
        _report(run, progress)
    return run


def _sample(run: Run, stages: Stages, method: Method | None = None) -> None:
    from bgdiff.chunks import draw_samples
    from bgdiff.outputs import save_held_out

    draw_samples(run, stages, method or run.config.correction.method)
    held_out = run.file("held_out.npz")
    if not held_out.is_file():
        with run.timed("sample"), stages("walk held-out data up") as progress:
            save_held_out(held_out, run, run.generator(), progress)


def _reweight(run: Run, stages: Stages, method: Method | None = None) -> None:
    from bgdiff.outputs import timing_key, write_ensemble

    method = method or run.config.correction.method
    with run.timed(timing_key(run.config, "reweight", method)), stages("reweight") as progress:
        files = run.chunks(method)
        lost = [file for file, _ in files if not file.is_file()]
        if lost:
            raise RunDirectoryError(
                f"{lost[0]}: is missing ({len(lost)} of {len(files)} chunks of samples are); "
                f"run: bgdiff sample {run.path}"
            )
        write_ensemble(run, run.generator(), method, progress)
    _write_results(run, stages)


def _write_results(run: Run, stages: Stages) -> None:
    from bgdiff.analysis.results import write_results
    from bgdiff.normaliser_check import check_run
    from bgdiff.outputs import summarise_run
    from bgdiff.sample_check import check_samples

    with run.timed("check"), stages("check the learned normalisers") as progress:
        normalisers = check_run(run, run.generator(), progress)
    with run.timed("check"), stages("check the samples") as progress:
        checked = check_samples(run, progress)
    results = summarise_run(run, bgdiff.__version__, _versions(run.system))
    found = {
        "normalisers": normalisers,
        "virial": checked.virial,
        "comparison": checked.comparison,
        "comparison_missing": checked.missing,
    }
    write_results(run.file("results.json"), results.model_copy(update=found))


def _report(run: Run, stages: Stages) -> None:
    from bgdiff.analysis.exact import exact_profiles
    from bgdiff.analysis.report import build_report

    if not run.file("results.json").is_file():
        raise RunDirectoryError(f"{run.path}: has no results yet; run: bgdiff reweight {run.path}")
    with stages("report"):
        build_report(run.path, exact_profiles(run.system))


def _digest(data: "Dataset") -> str:
    """SHA-256 of the conformations, and of their temperatures if these are not the system's."""
    import hashlib

    digest = hashlib.sha256(data.x.contiguous().numpy().tobytes())
    if data.temperature is not None:
        digest.update(data.temperature.numpy().tobytes())
    return digest.hexdigest()


def _versions(system: System) -> dict[str, str]:
    """Packages, and what evaluates the energies: both can change the last digits."""
    from bgdiff.targets.choose import describe_target

    return {**package_versions(), "energies": describe_target(system.target)}
